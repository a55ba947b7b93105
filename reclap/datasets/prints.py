"""Fingerprints of many files on disk: a cache of them, and the search for copies."""

import errno
import functools
import hashlib
import os
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np

from reclap._types import Array, Samples
from reclap.audio.decode import Clip, SoundFile, convert, load
from reclap.audio.fingerprint import (
    COHERENT,
    RATE,
    Fingerprint,
    Index,
    Match,
    coherence,
    hashed,
)
from reclap.audio.peaks import peaks
from reclap.datasets.buckets import Buckets, append
from reclap.datasets.shared import regular
from reclap.errors import ReclapError, one_line
from reclap.io.records import Kind, Records
from reclap.runtime.prefetch import prefetch_map

__all__ = ["Prints", "Texts", "copies", "decoded"]

_TABLES = (
    """
    CREATE TABLE files (
        path BLOB PRIMARY KEY, size INTEGER NOT NULL, changed INTEGER NOT NULL,
        content BLOB NOT NULL
    ) WITHOUT ROWID
    """,
    "CREATE TABLE prints (content BLOB PRIMARY KEY, frames BLOB NOT NULL, bins BLOB NOT NULL)",
)
_KIND = Kind("file of fingerprints", 0x72637066, 1, _TABLES)  # "rcpf"
_KEY_BITS = 40  # of Fingerprint.keys
_HELD = 64  # clips in memory whose waveforms are compared


class Prints:
    """Cache of the fingerprints of files, which threads and processes may share.

    What was computed is in the file at once, also if the process is killed then. A file is known
    by path, size and time of change; its fingerprint by its content.

    Parameters
    ----------
    path : Path
        SQLite file; created if it does not exist.

    Raises
    ------
    FormatError, ReclapError
        As for `Records`.
    """

    def __init__(self, path: Path) -> None:
        self._records = Records(path, _KIND)

    def close(self) -> None:
        """Close the file."""
        self._records.close()

    def add(self, path: Path) -> bytes | str:
        """Return the digest of a file's content, 16 bytes, or why it cannot be read."""
        try:
            state = regular(path)
            known = self._known(path, state)
            return self._read(path, state) if known is None else known
        except FileNotFoundError:
            return "no such file"
        except (OSError, ReclapError, ValueError) as error:
            if getattr(error, "errno", None) == errno.ENOSPC:  # of the cache, not of the file
                raise
            return one_line(error)

    def _known(self, path: Path, state: os.stat_result) -> bytes | None:
        command = "SELECT content FROM files WHERE path = ? AND size = ? AND changed = ?"
        with self._records.reading() as connection:
            key = (os.fsencode(path), state.st_size, state.st_mtime_ns)
            row = connection.execute(command, key).fetchone()
        return None if row is None else bytes(row[0])

    def _read(self, path: Path, state: os.stat_result) -> bytes:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").digest()[:16]
        with self._records.reading() as connection:
            command = "SELECT 1 FROM prints WHERE content = ?"
            is_new = connection.execute(command, (content,)).fetchone() is None
        frames, bins = peaks(decoded(path)) if is_new else (np.zeros(0), np.zeros(0))
        with self._records.writing() as connection:
            if is_new:
                row = (content, frames.astype("<u4").tobytes(), bins.astype("<u1").tobytes())
                connection.execute("INSERT OR IGNORE INTO prints VALUES (?, ?, ?)", row)
            file_row = (os.fsencode(path), state.st_size, state.st_mtime_ns, content)
            connection.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", file_row)
        return content

    def get(self, content: bytes) -> Fingerprint:
        """Return the fingerprint of a content that was added."""
        with self._records.reading() as connection:
            command = "SELECT frames, bins FROM prints WHERE content = ?"
            frames, bins = connection.execute(command, (content,)).fetchone()
        return hashed(
            np.frombuffer(frames, "<u4").astype(np.int64), np.frombuffer(bins, "u1").astype(int)
        )


def decoded(path: Path, *, warn: bool = True) -> Samples:
    """Return a file as fingerprints want it; `warn`: log its faults, as `load` does."""
    if warn:
        return load(path, RATE)
    file = SoundFile(path)
    reader = file.open()
    return convert(Clip(file.read(reader), reader.rate), RATE, "mean", "soxr", None)


class Texts:
    """Texts on disk by number.

    Parameters
    ----------
    path : Path
        New file.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._ends = path, [0]
        self._file = path.open("wb")

    def add(self, text: str) -> None:
        """Add the next text."""
        content = text.encode("utf-8", "surrogatepass")
        self._file.write(content)
        self._ends.append(self._ends[-1] + len(content))

    def __getitem__(self, number: int) -> str:
        """Return a text."""
        self._file.flush()
        with self._path.open("rb") as file:
            file.seek(self._ends[number])
            content = file.read(self._ends[number + 1] - self._ends[number])
        return content.decode("utf-8", "surrogatepass")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def copies(
    folder: Path,
    contents: Array,
    prints: Prints,
    read: Callable[[int], Samples],
    jobs: int,
) -> Generator[list[Match], None, None]:
    """Yield the clips before each clip that are of the same recording.

    Memory does not grow with the number of hashes: they are sorted on disk, and mapped.

    Parameters
    ----------
    folder : Path
        Folder for temporary files.
    contents : ndarray of 16 bytes, shape (clips,)
        Digests of the clips, all different.
    prints : Prints
        Has their fingerprints.
    read : callable
        Returns the samples of a clip by its number, mono at `RATE`.
    jobs : int
        Number of threads.
    """
    index = _index(folder, contents, prints)
    held = functools.lru_cache(maxsize=_HELD)(read)

    def matched(second: int) -> list[Match]:
        found = []
        for first in index.candidates(prints.get(contents[second].tobytes())):
            if first >= second:
                break
            try:
                value = coherence(held(first), held(second))
            except (OSError, ReclapError, ValueError):  # it has changed meanwhile
                continue
            if value >= COHERENT:
                found.append(Match(first, second, value))
        return found

    yield from prefetch_map(matched, range(len(contents)), jobs, 4 * jobs)


def _index(folder: Path, contents: Array, prints: Prints) -> Index:
    """Return an index of the fingerprints, mapped from files that are written first."""
    columns = {"key": "u8", "clip": "u4", "frame": "u4"}
    postings = Buckets(folder / "postings", columns, bits=_KEY_BITS, parts=256)
    sizes = np.zeros(len(contents), np.int64)
    for clip, content in enumerate(contents):
        found = prints.get(content.tobytes())
        sizes[clip] = len(found.hashes)
        postings.extend(key=found.keys, clip=np.full(sizes[clip], clip), frame=found.frames)
    files = {name: folder / name for name in columns}
    types = {"key": "i8", "clip": "u4", "frame": "u4"}
    for records in postings.sorted():
        for name, path in files.items():
            append(path, records[name].astype(types[name]))
    keys, clips, frames = (_mapped(path, types[name]) for name, path in files.items())
    return Index.of(keys, frames, clips, sizes)


def _mapped(path: Path, kind: str) -> Array:
    """Map a file into memory, or return an empty array for none."""
    return np.memmap(path, kind, "r") if path.exists() else np.zeros(0, kind)
