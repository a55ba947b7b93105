"""Reader of stores: one of them, or several of one model merged."""

import bisect
import functools
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from reclap.errors import FormatError
from reclap.store.layout import HEADER, Part, Rows

__all__ = ["Store", "is_store"]


def is_store(path: str | os.PathLike[str]) -> bool:
    """Tell whether a path is a store or a folder of stores."""
    return bool(_parts_of(Path(path)))


def _parts_of(path: Path) -> list[Path]:
    if (path / HEADER).is_file():
        return [path]
    return sorted(found.parent for found in path.glob(f"*/{HEADER}")) if path.is_dir() else []


class Store:
    """A store, or several of one model merged, mapped into memory.

    Parameters
    ----------
    *paths : path
        Each a store, or a folder of stores, which are taken in the order of their names.

    Raises
    ------
    OSError
        If a file cannot be read.
    FormatError
        If a path is no store, or they differ in digest, dimension, kind, type or preparation.

    Notes
    -----
    What a writer appends later is not seen. Rows that a killed writer left incomplete are not
    counted.
    """

    def __init__(self, *paths: str | os.PathLike[str]) -> None:
        folders = [part for path in paths for part in _folders(Path(path))]
        self._parts = [Part(folder) for folder in folders]
        if not self._parts:
            raise ValueError("no store was given")
        self.header = self._parts[0].header
        for part in self._parts[1:]:
            if part.header != self.header:
                raise FormatError(
                    f"{part.folder}: {part.header.describe()}; {self._parts[0].folder}: "
                    f"{self.header.describe()}: these cannot be merged"
                )
        self._first = [0, *itertools.accumulate(len(part.index) for part in self._parts)]

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._first[-1]

    @functools.cached_property
    def rows(self) -> Rows:
        """All rows, shape (n, dim): mapped for one store, a copy for several."""
        rows = [part.rows for part in self._parts]
        return rows[0] if len(rows) == 1 else np.concatenate(rows)

    @functools.cached_property
    def items(self) -> tuple[str, ...]:
        """The item of each row: a path, a text."""
        return tuple(i for part in self._parts for i in part.items(0, len(part.index)))

    def blocks(self, size: int = 65536) -> Iterator[tuple[Rows, list[str]]]:
        """Yield mapped rows (up to `size`, dim) with their items, store after store."""
        for part in self._parts:
            for start in range(0, len(part.index), size):
                stop = min(start + size, len(part.index))
                yield part.rows[start:stop], part.items(start, stop)

    def metadata(self, i: int) -> Any:
        """Return what was appended with row `i`; None if nothing was."""
        if not 0 <= i < len(self):
            raise IndexError(f"row {i} of a store of {len(self)}")
        n = bisect.bisect_right(self._first, i) - 1
        return self._parts[n].metadata(i - self._first[n])

    def verify(self) -> None:
        """Compare all rows with their checksums; FormatError names the first that differs."""
        for part in self._parts:
            good = part.count_intact(0, len(part.index))
            if good < len(part.index):
                raise FormatError(f"{part.folder}: row {good} is damaged")


def _folders(path: Path) -> list[Path]:
    found = _parts_of(path)
    if not found:
        path.stat()  # raises where there is nothing
        raise FormatError(f"{path}: no store of embeddings: no {HEADER} in it")
    return found
