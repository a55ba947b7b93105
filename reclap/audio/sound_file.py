"""Sound files: their content, regular or not, and the decoder for it."""

import contextlib
import errno
import io
import logging
import os
import select
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, TypeAlias, TypeGuard

from reclap._types import Samples
from reclap.audio import headers
from reclap.audio.arrays import refuse_non_finite
from reclap.audio.excerpt_reader import Decoder, ExcerptReader
from reclap.audio.media import MediaReader
from reclap.errors import BadSound, BadSoundType, FormatError
from reclap.io.excerpts import Excerpt
from reclap.io.files import StrPath
from reclap.runtime.libraries import sndfile
from reclap.runtime.prefetch import check_wanted

__all__ = ["Content", "Decoder", "SoundFile", "Source", "is_file"]

Content: TypeAlias = bytes | bytearray | memoryview
Source: TypeAlias = StrPath | Content | IO[bytes] | Excerpt

CHUNK = 1 << 20  # bytes per read from a source that is no regular file
WAIT = 100  # ms between checks whether the content of a silent pipe is still wanted
HEAD = 1 << 24  # bytes after which it must have begun as a sound does; covers pictures in tags
LARGEST = 1 << 31  # bytes that it may hold

_log = logging.getLogger(__name__)


class SoundFile:
    """Content of a sound file, which can be decoded any number of times.

    Parameters
    ----------
    source : path, bytes-like, binary file object or Excerpt
        A regular file stays on disk and is read piece by piece; of a pipe or a file object the
        whole content is taken at once, `LARGEST` bytes at most. The path ``"-"`` is standard input.
        Of an excerpt, decoders give its frames only.
    prefix : str, optional
        Text before the name of a source that is no path, such as its index in a list.

    Attributes
    ----------
    name : str
        Name in messages.

    Raises
    ------
    OSError
        If it cannot be opened.
    FormatError
        If its content is endless, or no sound.
    TypeError
        If it is none of these.
    """

    def __init__(self, source: Source, prefix: str | None = None) -> None:
        self._path: Path | None = None
        self._data: Content = b""
        self._excerpt, self._rate = (source if isinstance(source, Excerpt) else None), 1
        if isinstance(source, Excerpt):
            source = source.path
        if isinstance(source, str) and source == "-":
            if sys.stdin is None:
                raise BadSound("standard input is closed")
            self.name, self._data = "standard input", _all_of(sys.stdin.buffer, "standard input")
        elif isinstance(source, (str, os.PathLike)):
            self.name = os.fspath(source)
            if "\0" in self.name:
                raise BadSound(f"{self.name!r}: expected a path, which holds no null character")
            if "://" in self.name and not Path(source).exists():
                why = "a URL: download the sound and give its path"
                raise FileNotFoundError(errno.ENOENT, why, self.name)
            with _open(source) as file:
                if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    self._path = Path(source)
                else:
                    self._data = _all_of(file, self.name)
        else:
            name, self._data = _content(source)
            self.name = name if prefix is None else f"{prefix}: {name}"
        if self._excerpt is not None:
            self.name = str(self._excerpt)
        with self._bytes() as (read_at, size):
            self._head = read_at(0, 64)
            self._missing = headers.missing(read_at, size)
            if found := headers.unsized_wav(read_at, size):
                self._give_size(*found, size)

    @contextlib.contextmanager
    def _bytes(self) -> Iterator[tuple[headers.ReadAt, int]]:
        """Give access to any of the bytes, and their number."""
        if self._path is None:
            view = memoryview(self._data).cast("B")
            yield (lambda at, count: bytes(view[at : at + count])), len(view)
            return
        with self._path.open("rb", buffering=0) as file:
            descriptor = file.fileno()
            yield (
                lambda at, count: os.pread(descriptor, count, at),
                os.fstat(descriptor).st_size,
            )

    def _give_size(self, at: int, there: int, size: int) -> None:
        """Read a streamed WAV file into memory, and correct the sizes in its header."""
        if size > LARGEST:
            raise FormatError(
                f"{self.name}: a WAV file that claims 0 bytes of samples and holds more than "
                f"{LARGEST >> 20} MB; write its header anew"
            )
        data = bytearray(self._data if self._path is None else self._path.read_bytes())
        data[at : at + 4] = min(there, 0xFFFFFFFF).to_bytes(4, "little")
        data[4:8] = min(len(data) - 8, 0xFFFFFFFF).to_bytes(4, "little")
        self._path, self._data = None, data

    def open(self) -> Decoder:
        """Return a decoder of the file or excerpt, at its beginning; FormatError if no sound."""
        with self._named():
            reader = self._decoder()
            if self._excerpt is None:
                return reader
            self._rate = reader.rate
            return ExcerptReader(reader, self._excerpt)

    def _decoder(self) -> Decoder:
        kind = headers.kind_of(self._head)
        if kind in headers.MEDIA:
            return MediaReader(self._path or self._data, kind)
        if kind is not None:
            raise FormatError(f"{kind}, no sound file")
        if self._path is None:
            return sndfile().open(self._data)
        with self._path.open("rb") as file:
            return sndfile().open_file(file.fileno(), os.fstat(file.fileno()).st_size)

    def lacks(self, frames: int) -> str | None:
        """Return what a truncated file or excerpt lacks, given the number of decoded frames."""
        if self._excerpt is not None:
            return self._excerpt.lacks(frames, self._rate)
        if (promised := headers.flac_frames(self._head)) > frames:
            share = (promised - frames) / promised
            return f"{promised - frames:,} of {promised:,} frames ({share:.0%})"
        return self._missing

    def report(self, frames: int) -> None:
        """Log a warning if the file was truncated, given the number of decoded frames."""
        if (lost := self.lacks(frames)) is not None:
            _log.warning("%s: the file was cut off, it lacks %s", self.name, lost)

    def read(self, reader: Decoder, frames: int = -1, at: int = 0) -> Samples:
        """Decode the next frames, or all remaining ones.

        Parameters
        ----------
        reader : Decoder
            Decoder from `open`.
        frames : int
            Number of frames; at the end of the file there are fewer, and then none.
        at : int
            Number of frames read before, for messages.

        Returns
        -------
        ndarray of float32, shape (frames, channels)
            Amplitudes.

        Raises
        ------
        FormatError
            If the file holds no frame, or more than fit into one array.
        ValueError
            If a sample is NaN or infinite.
        """
        with self._named():
            samples = reader.read(frames)
        refuse_non_finite(samples, self.name, at)
        return samples

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except FormatError as error:
            raise FormatError(f"{self.name}: {error}") from None


def is_file(source: object) -> TypeGuard[Source]:
    """Tell files, and their content as bytes, from arrays."""
    named = (str, os.PathLike, bytes, bytearray, memoryview, Excerpt)
    return isinstance(source, named) or hasattr(source, "read")


def _content(source: bytes | bytearray | memoryview | IO[bytes]) -> tuple[str, Content]:
    """Return a name for messages, and the bytes."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"<{len(source)} bytes>", source
    if callable(getattr(source, "read", None)):
        name = str(getattr(source, "name", "<file object>"))
        if getattr(source, "closed", False):
            raise BadSound(f"{name}: expected an open file, this one is closed")
        return name, _all_of(source, name)
    raise BadSoundType(
        "audio source: expected a path, bytes, a file object or an array, got "
        f"{'None' if source is None else type(source).__name__}"
    )


def _all_of(file: IO[bytes], name: str) -> Content:
    """Read a source that is no regular file to its end, which may never come.

    Raises
    ------
    FormatError
        If it does not begin like a sound, or holds more than `LARGEST` bytes.
    TypeError
        If it was opened as text.
    """
    parts: list[bytes] = []
    have, looked = 0, False
    for chunk in _chunks(file):
        if not isinstance(chunk, (bytes, bytearray, memoryview)):
            raise BadSoundType(f"{name}: expected a file opened in binary mode, read() gave a str")
        parts.append(bytes(chunk))
        have += len(chunk)
        if have >= HEAD and not looked:
            looked = True
            _refuse_no_sound(b"".join(parts), name)
        if have > LARGEST:
            raise FormatError(
                f"{name}: more than {LARGEST >> 20} MB in what is no regular file, and maybe "
                "endless; write it to a file first"
            )
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _chunks(file: IO[bytes]) -> Iterator[Any]:
    """Yield the content of a file piece by piece, for as long as anybody wants it.

    A pipe may stay silent for ever. To wait for it in a read would keep a thread that nothing can
    end, and the lock of standard input, which Python needs when it exits.
    """
    raw = getattr(file, "raw", file)
    if type(file) not in (io.FileIO, io.BufferedReader) or not isinstance(raw, io.FileIO):
        while chunk := file.read(CHUNK):  # whatever that is, it may end before its descriptor does
            yield chunk
        return
    read = file.read1 if isinstance(file, io.BufferedReader) else file.read
    poll = select.poll()
    poll.register(raw.fileno(), select.POLLIN)
    while True:
        while not poll.poll(WAIT):
            check_wanted()
        chunk = read(CHUNK)
        if not chunk:
            return
        yield chunk


def _open(path: StrPath) -> IO[bytes]:
    """Open a file; a named pipe that nobody writes to yet, too."""

    def opener(path: str, flags: int) -> int:
        descriptor = os.open(path, flags | os.O_NONBLOCK)
        os.set_blocking(descriptor, True)
        return descriptor

    return open(path, "rb", buffering=0, opener=opener)


def _refuse_no_sound(head: bytes, name: str) -> None:
    if headers.kind_of(head) in headers.MEDIA:
        return
    try:
        sndfile().open(head)
    except FormatError as error:
        raise FormatError(f"{name}: {error}; nor did it end after {len(head)} bytes") from None
