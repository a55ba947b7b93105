"""Sound files and arrays to samples at a wanted rate."""

import contextlib
import dataclasses
import errno
import logging
import math
import operator
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal, Protocol, TypeAlias, TypeGuard, get_args

import numpy as np
import numpy.typing as npt

from reclap._types import Samples
from reclap.audio import headers
from reclap.audio.arrays import amplitudes, refuse_non_finite
from reclap.audio.levels import Levels
from reclap.audio.media import MediaReader
from reclap.audio.resample import LEAST_RATE, MOST_RATE, Kind, resample
from reclap.errors import BadSound, BadSoundType, FormatError, shown_name
from reclap.io.files import StrPath
from reclap.runtime.libraries import core, sndfile

__all__ = [
    "CHANNELS",
    "Channels",
    "Clip",
    "Decoder",
    "Samples",
    "SoundFile",
    "Source",
    "check_rate",
    "clip_of",
    "convert",
    "is_file",
    "load",
    "own_rate",
    "read",
]

Content: TypeAlias = bytes | bytearray | memoryview
Source: TypeAlias = StrPath | Content | IO[bytes]

Channels: TypeAlias = Literal["mean", "concatenate", "keep"]
CHANNELS: tuple[Channels, ...] = get_args(Channels)
CHUNK = 1 << 20  # bytes read at a time from what is no regular file
ARRAY = "audio array"  # what messages call one
HEAD = 1 << 24  # bytes after which it must have begun as a sound does; covers pictures in tags
LARGEST = 1 << 31  # bytes that it may hold

_log = logging.getLogger(__name__)


class Decoder(Protocol):
    """Decodes a file from its beginning: the core's ``Reader``, or `MediaReader`."""

    @property
    def rate(self) -> int:
        """Samples per second (Hz)."""

    @property
    def channels(self) -> int:
        """Channels."""

    def read(self, frames: int = -1, /) -> Samples:
        """Decode the next frames, or all that are left, as (frames, channels)."""


@dataclasses.dataclass(frozen=True)
class Clip:
    """Decoded audio: `samples` (T, channels) float32, nominally in [-1, 1]; `rate` in Hz."""

    samples: Samples
    rate: int


class SoundFile:
    """The content of a sound file, decoded as often as one likes.

    Parameters
    ----------
    source : path, bytes-like or binary file object
        A regular file stays on disk and is read piece by piece; of a pipe or a file object the
        whole content is taken at once, `LARGEST` bytes at most. The path ``"-"`` is standard input.
    place : str, optional
        What messages put before the name of what is no path: its place in a list.

    Attributes
    ----------
    name : str
        What messages call it.

    Raises
    ------
    OSError
        If it cannot be opened.
    FormatError
        If its content is endless, or no sound.
    TypeError
        If it is none of these.
    """

    def __init__(self, source: Source, place: str | None = None) -> None:
        self._path: Path | None = None
        self._data: Content = b""
        if isinstance(source, str) and source == "-":
            if sys.stdin is None:
                raise BadSound("standard input is closed")
            self.name, self._data = "standard input", _all_of(sys.stdin.buffer, "standard input")
        elif isinstance(source, (str, os.PathLike)):
            self.name = os.fspath(source)
            if "://" in self.name and not Path(source).exists():
                why = "a URL: download the sound and give its path"
                raise FileNotFoundError(errno.ENOENT, why, self.name)
            with Path(source).open("rb") as file:
                if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    self._path = Path(source)
                else:
                    self._data = _all_of(file, self.name)
        else:
            name, self._data = _content(source)
            self.name = name if place is None else f"{place}: {name}"
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
        """Take a streamed WAV file into memory, and let its header tell what is there."""
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
        """Return what decodes the file from its beginning; FormatError if it is no sound file."""
        with self._named():
            kind = headers.kind_of(self._head)
            if kind in headers.MEDIA:
                return MediaReader(self._path or self._data, kind)
            if kind is not None:
                raise FormatError(f"{kind}, no sound file")
            if self._path is None:
                return sndfile().open(self._data)
            with self._path.open("rb") as file:
                return sndfile().open_file(file.fileno(), os.fstat(file.fileno()).st_size)

    def report(self, frames: int) -> None:
        """Log a warning if the file was cut off, given how many frames could be decoded."""
        lost = self._missing
        if (promised := headers.flac_frames(self._head)) > frames:
            share = (promised - frames) / promised
            lost = f"{promised - frames:,} of {promised:,} frames ({share:.0%})"
        if lost is not None:
            _log.warning("%s: the file was cut off, it lacks %s", self.name, lost)

    def read(self, reader: Decoder, frames: int = -1, at: int = 0) -> Samples:
        """Decode the next frames, or all that are left, as (frames, channels).

        Parameters
        ----------
        reader : Decoder
            As `open` returns it.
        frames : int
            How many; at the end of the file there are fewer, and then none.
        at : int
            How many were read before, for messages.

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


def read(source: Source) -> Clip:
    """Decode a sound file: WAV, FLAC, OGG, MP3, AIFF and what else libsndfile knows.

    Parameters
    ----------
    source : path, bytes-like or binary file object
        The file, or its whole content.

    Returns
    -------
    Clip
        All channels at the file's own rate. A damaged file gives what can be decoded.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError
        As the operating system reports them.
    FormatError
        If the content is empty, no sound file, or holds no frame, or more than 2^30 samples.
    ValueError
        If a sample is NaN or infinite.
    """
    file = SoundFile(source)
    reader = file.open()
    clip = Clip(file.read(reader), reader.rate)
    file.report(len(clip.samples))
    return clip


def _content(source: bytes | bytearray | memoryview | IO[bytes]) -> tuple[str, Content]:
    """Return a name for messages, and the bytes."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"<{len(source)} bytes>", source
    if callable(getattr(source, "read", None)):
        name = str(getattr(source, "name", "<file object>"))
        return name, _all_of(source, name)
    raise BadSoundType(
        "audio source: expected a path, bytes, a file object or an array, got "
        f"{'None' if source is None else type(source).__name__}"
    )


def _all_of(file: IO[bytes], name: str) -> Content:
    """Read what is no regular file to its end, which may never come.

    Raises
    ------
    FormatError
        If it begins as no sound does, or holds more than `LARGEST` bytes.
    TypeError
        If it was opened as text.
    """
    parts: list[bytes] = []
    have, looked = 0, False
    while chunk := file.read(CHUNK):
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


def _refuse_no_sound(head: bytes, name: str) -> None:
    if headers.kind_of(head) in headers.MEDIA:
        return
    try:
        sndfile().open(head)
    except FormatError as error:
        raise FormatError(f"{name}: {error}; nor did it end after {len(head)} bytes") from None


def load(
    source: Source | npt.ArrayLike,
    target_rate: int = 48000,
    *,
    rate: int | None = None,
    channels: Channels = "mean",
    resampler: Kind = "soxr",
    channels_first: bool = False,
) -> Samples:
    """Load a clip from a file or an array at a given rate.

    Parameters
    ----------
    source : path, bytes-like, binary file object, or array of shape (T,) or (T, channels)
        Floating-point arrays hold amplitudes, nominally in [-1, 1]; integers of 8, 16 and 32
        bits are scaled from their full range (unsigned 8 bits around 128, as in WAV files).
    target_rate : int
        Wanted rate in Hz, 1000 to 4194304.
    rate : int, optional
        Rate in Hz of an array, 1000 to 4194304 as of files; required there, and refused for files,
        which say it themselves.
    channels : {"mean", "concatenate", "keep"}
        Average them, put one after the other in time (as MS-CLAP does), or keep them.
    resampler : {"soxr", "sinc", "librosa"}
        See `reclap.audio.resample.resample`.
    channels_first : bool
        An array of two axes is (channels, T), as torchaudio and transformers make them.

    Returns
    -------
    ndarray of float32, shape (T',) or, if channels are kept, (T', channels)
        May share memory with an array that needs no change.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError
        As the operating system reports them.
    FormatError
        If a file's content cannot be decoded.
    TypeError
        If an array's type is complex, boolean, text, or an integer of 64 bits.
    ValueError
        If the source is empty, has the wrong number of axes or channels first, or holds NaN,
        infinity or a sample beyond 1e10; if a rate is missing or not 1000 to 4194304 Hz; or if
        more than 2^31 - 1 samples would come of resampling.

    Notes
    -----
    Logged as a warning: a file that was cut off, with what is missing; channels that cancel in
    their mean; amplitudes beyond 8.

    Examples
    --------
    >>> load(np.zeros((44100, 2), np.int16), rate=44100).shape
    (48000,)
    """
    if channels not in CHANNELS:
        raise ValueError(f"channels is {channels!r}, expected one of {', '.join(CHANNELS)}")
    target_rate = check_rate("target_rate", target_rate)
    if is_file(source):
        if rate is not None:
            raise ValueError("rate: a file says its rate itself; pass it with arrays only")
        file = SoundFile(source)
        reader = file.open()
        clip = Clip(file.read(reader), reader.rate)
        file.report(len(clip.samples))
        return convert(clip, target_rate, channels, resampler, file.name)
    clip = clip_of(source, rate, channels_first=channels_first)
    return convert(clip, target_rate, channels, resampler, ARRAY)


def clip_of(source: Any, rate: int | None, *, channels_first: bool = False) -> Clip:
    """Return an array as a clip; see `load`."""
    samples = amplitudes(source, channels_first=channels_first)
    if rate is None:
        raise ValueError(f"{ARRAY}: its rate in Hz is needed")
    return Clip(samples, check_rate(f"{ARRAY}'s rate", rate))


def convert(clip: Clip, rate: int, channels: Channels, resampler: Kind, name: str) -> Samples:
    """Mix the channels of a clip and change its rate; see `load`; `name` is for warnings."""
    samples, clip_rate, levels = clip.samples, clip.rate, Levels()
    del clip  # an hour in stereo is more than a gigabyte
    mixed = None
    if channels != "keep" and samples.shape[1] == 1:
        mixed = samples[:, 0]
    elif channels == "mean":
        mixed = core.downmix(samples)
    levels.add(samples, mixed if channels == "mean" else None)
    levels.report(name)
    if mixed is not None:
        samples = mixed
    out = resample(samples, clip_rate, rate, resampler)
    return out.T.reshape(-1) if channels == "concatenate" else out


def is_file(source: object) -> TypeGuard[Source]:
    """Tell files and their content from arrays."""
    named = (str, os.PathLike, bytes, bytearray, memoryview)
    return isinstance(source, named) or hasattr(source, "read")


def check_rate(name: str, rate: Any) -> int:
    """Return a rate in Hz as an int; TypeError or ValueError if it is none, or out of range."""
    if isinstance(rate, float | np.floating) and math.isfinite(rate) and rate == int(rate):
        rate = int(rate)
    wrong = TypeError(f"{name}: expected a whole number of Hz, got {_shown(rate)}")
    if isinstance(rate, bool):
        raise wrong
    try:
        whole: int = operator.index(rate)
    except TypeError:
        raise wrong from None
    if not LEAST_RATE <= whole <= MOST_RATE:
        raise ValueError(f"{name}: expected {LEAST_RATE} to {MOST_RATE} Hz, got {_shown(whole)}")
    return whole


def _shown(rate: Any) -> str:
    is_large = isinstance(rate, int) and abs(rate) >= 1 << 64
    return "an integer too large to show" if is_large else shown_name(repr(rate))


def own_rate(rate: Any) -> int:
    """Return the rate that a sound brings; BadSound if it is none, as of files."""
    try:
        return check_rate("its rate", rate)
    except TypeError as error:
        raise BadSoundType(str(error)) from None
    except ValueError as error:
        raise BadSound(str(error)) from None
