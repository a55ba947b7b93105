"""Writer of stores: appends rows, survives a kill, continues."""

import contextlib
import itertools
import json
import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt

from reclap.errors import ReclapError
from reclap.io.files import StrPath, sync, write_text
from reclap.io.files import lock as lock_file
from reclap.store.layout import (
    CHECKED,
    HEADER,
    INDEX,
    LOCK,
    MARK,
    RECORD,
    ROWS,
    TEXT,
    Header,
    Part,
    Rows,
    checksum,
)

__all__ = ["Writer", "fill"]

_UNSYNCED = 1024  # rows after which everything is put on disk


class Writer:
    """Writer of one store, which is created or continued; use it inside ``with``.

    Parameters
    ----------
    path : path
        Folder of the store; its parent folder must exist.
    header : Header
        Header of the rows that will be appended.
    force : bool
        Empty an existing store instead of continuing it.

    Raises
    ------
    OSError
        If it cannot be written, or `path` is a file or another folder.
    ReclapError
        If the store holds rows of another header, or another process is writing it.

    Notes
    -----
    A row is in the store when `append` returns, whatever happens to the process afterwards, and
    survives a crash of the machine after the next `checkpoint`: every 1,024 rows, and at the end.

    Examples
    --------
    >>> from reclap.store import Header
    >>> writer = Writer("rows.store", Header("0" * 64, 3, "text"))
    >>> writer.append(np.eye(3)[:2], ["rain", "a dog"])
    >>> writer.checkpoint()
    >>> writer.close()
    >>> with Writer("rows.store", Header("0" * 64, 3, "text")) as writer:
    ...     print(len(writer), writer.items)
    2 ['rain', 'a dog']
    """

    def __init__(self, path: StrPath, header: Header, *, force: bool = False) -> None:
        self.path, self.header = Path(path), header
        self._make_folder()
        with contextlib.ExitStack() as stack:
            lock = stack.enter_context(_open(self.path / LOCK))
            # Before anything is read or changed.
            lock_file(lock, f"{self.path}: another writer is at work on it")
            if force:  # new files, because readers may have mapped the old ones
                for name in (HEADER, MARK, INDEX, ROWS, TEXT):
                    (self.path / name).unlink(missing_ok=True)
            elif not (self.path / HEADER).is_file():
                self._refuse_headless()
            self._index, self._rows, self._text = (
                stack.enter_context(_open(self.path / name)) for name in (INDEX, ROWS, TEXT)
            )
            self._begin()
            self._files = stack.pop_all()

    def _make_folder(self) -> None:
        if not self.path.is_dir():
            self.path.mkdir()
            with contextlib.suppress(OSError):  # not every file system can
                sync(self.path.parent)
        elif not (self.path / HEADER).is_file():
            known = (HEADER, MARK, LOCK, ROWS, TEXT, INDEX)
            for found in self.path.iterdir():
                if found.name not in known and not found.name.startswith("."):
                    raise FileExistsError(f"{self.path}: a folder with {found.name}, no store")

    def _refuse_headless(self) -> None:
        """Refuse a store whose header is missing, since its rows would be truncated."""
        for name in (INDEX, ROWS, TEXT):
            path = self.path / name
            if path.is_file() and path.stat().st_size:
                raise ReclapError(
                    f"{self.path}: a store without its {HEADER}; put it back, or begin anew with "
                    "force (--force)"
                )

    def _begin(self) -> None:
        """Write or compare the header, and truncate incomplete rows."""
        part = Part(self.path) if (self.path / HEADER).is_file() else None
        if part is not None and len(part.index) and part.header != self.header:
            raise ReclapError(
                f"{self.path}: holds {part.header.describe()}; cannot append "
                f"{self.header.describe()}"
            )
        self._items = [] if part is None else part.items(0, len(part.index))
        count, self._end = len(self._items), 0
        if part is not None and count:
            self._end = int(part.index["end"][-1])
        del part  # its files are mapped, and are cut now
        self._marked = -1
        self._write_mark(count)
        self._cut()
        if not count:
            write_text(self.path / HEADER, json.dumps(self.header.to_json(), indent=1) + "\n")

    def _cut(self) -> None:
        """Let the files end with the last complete row, the index first."""
        count = len(self._items)
        sizes = (count * RECORD.itemsize, count * self.header.row_bytes, self._end)
        for file, size in zip((self._index, self._rows, self._text), sizes, strict=True):
            file.truncate(size)
            file.seek(size)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._items)

    @property
    def items(self) -> Sequence[str]:
        """The items of all rows so far, in order; not to be changed."""
        return self._items

    def append(
        self, rows: npt.ArrayLike, items: Sequence[str], metadata: Sequence[Any] | None = None
    ) -> None:
        """Append rows.

        Parameters
        ----------
        rows : array_like of float, shape (n, dim)
            Finite numbers, cast to the type of the store.
        items : sequence of str
            File or text of each row.
        metadata : sequence, optional
            For each row an object that `json.dumps` takes, or None.

        Raises
        ------
        OSError
            If it cannot be written; what is incomplete is cut off again.
        ValueError
            If shapes do not fit, or a row is not finite; names the item.
        """
        given = np.asarray(rows)
        notes = [None] * len(items) if metadata is None else metadata
        if given.shape != (len(items), self.header.dim) or len(notes) != len(items):
            raise ValueError(
                f"{self.path}: rows {given.shape} for {len(items)} items with {len(notes)} "
                f"metadata, expected ({len(items)}, {self.header.dim})"
            )
        with np.errstate(over="ignore"):
            cast = np.ascontiguousarray(given, self.header.dtype)
        finite = np.isfinite(cast).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"{items[int(finite.argmin())]}: its embedding is not finite as {self.header.type}"
            )
        texts = [
            (_encode(item), b"" if note is None else json.dumps(note).encode())
            for item, note in zip(items, notes, strict=True)
        ]
        try:
            self._write(cast, texts)
        finally:
            self._take(items, texts)
        if len(self) - self._marked >= _UNSYNCED:
            self.checkpoint()

    def _write(self, rows: Rows, texts: list[tuple[bytes, bytes]]) -> None:
        """Write rows and texts, then the records that make them count."""
        records = np.zeros(len(texts), RECORD)
        end = self._end
        for i, (item, note) in enumerate(texts):
            crc = checksum(rows[i].tobytes(), item + note)
            records[i] = (end + len(item), end + len(item) + len(note), crc, 0)
            records["check"][i] = zlib.crc32(records[i : i + 1].tobytes()[:CHECKED])
            end += len(item) + len(note)
        _write_all(self._rows, rows.tobytes(), self.path / ROWS)
        _write_all(self._text, b"".join(itertools.chain.from_iterable(texts)), self.path / TEXT)
        _write_all(self._index, records.tobytes(), self.path / INDEX)

    def _take(self, items: Sequence[str], texts: list[tuple[bytes, bytes]]) -> None:
        """Count the rows whose records were written, and truncate the others."""
        added = self._index.tell() // RECORD.itemsize - len(self)
        self._items.extend(items[:added])
        self._end += sum(len(item) + len(note) for item, note in texts[:added])
        if added < len(items):
            self._cut()

    def checkpoint(self) -> None:
        """Flush all rows to disk, and record how many there are.

        Raises
        ------
        OSError
            If they cannot be written.
        """
        for file in (self._rows, self._text, self._index):
            os.fsync(file.fileno())
        self._write_mark(len(self))

    def _write_mark(self, rows: int) -> None:
        if rows != self._marked:
            write_text(self.path / MARK, json.dumps({"rows": rows}) + "\n")
            self._marked = rows

    def close(self) -> None:
        """Flush all rows and let other processes write; may be called twice.

        Raises
        ------
        OSError
            If they cannot be written.
        """
        if not self._index.closed:
            with self._files:
                self.checkpoint()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it, also after an exception: what was appended stays."""
        self.close()


def _open(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)


def _write_all(file: IO[bytes], data: bytes, path: Path) -> None:
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _encode(item: str) -> bytes:
    """Return UTF-8, in which names of files that are none come back as they were."""
    try:
        return item.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise ValueError(f"{item!r}: cannot be written as UTF-8") from error


def fill(
    writer: Writer,
    texts: Iterable[str],
    embed: Callable[[list[str]], npt.ArrayLike],
    *,
    block: int = 1024,
    done: Callable[[int], object] | None = None,
) -> None:
    """Append the embeddings of the texts that a store lacks, block by block.

    Parameters
    ----------
    writer : Writer
        Writer of the store; what a killed call left there is not computed again.
    texts : iterable of str
        Texts to embed, each once.
    embed : callable
        Takes a list of texts, returns their embeddings (n, dim).
    block : int
        Number of texts in one call of `embed`, after which they are kept.
    done : callable, optional
        Called with the number of texts added, as a progress bar's `update`.

    Raises
    ------
    OSError, ValueError
        As for `Writer.append`.

    Examples
    --------
    >>> from reclap.store import Header
    >>> with Writer("texts.store", Header("0" * 64, 2, "text")) as writer:
    ...     fill(writer, ["rain", "a dog", "rain"], lambda texts: [[len(t), 0] for t in texts])
    ...     print(writer.items)
    ['rain', 'a dog']
    """
    known = set(writer.items)
    missing = [text for text in dict.fromkeys(texts) if text not in known]
    for start in range(0, len(missing), block):
        part = missing[start : start + block]
        writer.append(embed(part), part)
        if done is not None:
            done(len(part))
