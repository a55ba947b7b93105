"""Records on disk, sorted by a key without being in memory at once."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np

from reclap._types import Array

__all__ = ["Buckets", "Columns", "append"]

Columns: TypeAlias = Mapping[str, Array]

_HELD = 1 << 15  # records in memory before they are written, as tuples
_BLOCK = 1 << 20  # the same, as arrays


def append(path: Path, records: Array) -> None:
    """Append an array to a file; unlike `ndarray.tofile`, errors say why, and name the folder."""
    try:
        with path.open("ab") as file:
            file.write(records.tobytes())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path.parent)) from error


class Buckets:
    """Records of unsigned integers, sorted in pieces: a radix sort on disk.

    Records are dealt to files by the highest bits of the first column; each file fits into memory
    and is sorted when it is read.

    Parameters
    ----------
    folder : Path
        New folder for the files.
    columns : mapping of str to str
        Names of the columns, in the order of sorting, and their NumPy types.
    bits : int
        Size of the values in the first column.
    parts : int
        Number of files, a power of two; 1 % or less of the records is in memory at once where
        keys are spread evenly.
    """

    def __init__(
        self, folder: Path, columns: Mapping[str, str], *, bits: int = 64, parts: int = 128
    ) -> None:
        folder.mkdir(parents=True)
        self._type = np.dtype(list(columns.items()))
        self._files = [folder / f"{i:04}" for i in range(parts)]
        self._shift = np.uint64(bits - parts.bit_length() + 1)
        self._held: list[tuple[int, ...]] = []
        self._arrays: list[Array] = []
        self._key = next(iter(columns))

    def add(self, *record: int) -> None:
        """Add a record."""
        self._held.append(record)
        if len(self._held) >= _HELD:
            self._flush()

    def _flush(self) -> None:
        self._arrays.append(np.array(self._held, dtype=self._type))
        self._held.clear()
        records = np.concatenate(self._arrays)
        self._arrays.clear()
        self._write(records)

    def extend(self, **columns: Array) -> None:
        """Add many records."""
        records = np.empty(len(columns[self._key]), self._type)
        for name, values in columns.items():
            records[name] = values
        self._arrays.append(records)
        if sum(map(len, self._arrays)) >= _BLOCK:
            self._flush()

    def _write(self, records: Array) -> None:
        part = (records[self._key].astype(np.uint64) >> self._shift).astype(np.int64)
        order = np.argsort(part, kind="stable")
        ends = np.searchsorted(part[order], np.arange(len(self._files)), "right")
        start = 0
        for file, end in zip(self._files, ends, strict=True):
            if end > start:
                append(file, records[order[start:end]])
            start = end

    def sorted(self) -> Iterator[Array]:
        """Yield all records, sorted by all columns, in arrays none of which parts equal keys."""
        self._flush()
        for file in self._files:
            if file.exists():
                records = np.fromfile(file, self._type)
                names = self._type.names or ()
                yield records[np.lexsort([records[name] for name in reversed(names)])]
