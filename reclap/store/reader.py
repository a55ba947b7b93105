"""Reader of stores, one or several of one model merged."""

import bisect
import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from reclap.errors import FormatError
from reclap.io.files import StrPath
from reclap.store.layout import HEADER, Part, Rows

__all__ = ["Store", "is_store"]


def is_store(path: StrPath) -> bool:
    """Tell whether a path is a store or a folder of stores.

    Parameters
    ----------
    path : path
        May be absent.

    Returns
    -------
    bool
        True for a store.

    Examples
    --------
    >>> is_store("missing.store")
    False
    """
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

    Examples
    --------
    >>> from reclap.store import Header, Writer
    >>> with Writer("two.store", Header("0" * 64, 3, "text")) as writer:
    ...     writer.append(np.eye(3)[:2], ["rain", "a dog"], [{"from": "list"}, None])
    >>> found = Store("two.store")
    >>> len(found), found.items, found.rows.shape, found.metadata(0)
    (2, ('rain', 'a dog'), (2, 3), {'from': 'list'})
    >>> [items for rows, items in found.blocks(size=1)]
    [['rain'], ['a dog']]
    >>> found.verify()
    """

    def __init__(self, *paths: StrPath) -> None:
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
        """Yield mapped rows with their items, store after store.

        Parameters
        ----------
        size : int
            Most rows of a block.

        Yields
        ------
        rows : ndarray, shape (n, dim)
            Rows of a block, up to `size` of them.
        items : list of str
            Their items.
        """
        for part in self._parts:
            for start in range(0, len(part.index), size):
                stop = min(start + size, len(part.index))
                yield part.rows[start:stop], part.items(start, stop)

    def metadata(self, i: int) -> Any:
        """Return the metadata that was appended with a row.

        Parameters
        ----------
        i : int
            Index of the row.

        Returns
        -------
        object
            The parsed JSON; None if nothing was appended.

        Raises
        ------
        IndexError
            If there is no such row.
        """
        if not 0 <= i < len(self):
            raise IndexError(f"row {i} of a store of {len(self)}")
        n = bisect.bisect_right(self._first, i) - 1
        return self._parts[n].metadata(i - self._first[n])

    def verify(self) -> None:
        """Compare all rows with their checksums.

        Raises
        ------
        FormatError
            Naming the first row that differs.
        """
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
