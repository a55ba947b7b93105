"""Rows of splits, read one by one, and where each stands."""

import dataclasses
import functools
import hashlib
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from reclap.datasets.splits import Split
from reclap.errors import FormatError
from reclap.io import manifest

__all__ = ["Place", "SplitRows", "digest64"]

_FOLDERS = 1 << 12  # whose true paths are kept

Digests: TypeAlias = npt.NDArray[np.uint64]


def digest64(text: str) -> int:
    """Return a digest of a text of 64 bits."""
    content = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a row stands.

    Attributes
    ----------
    at : str
        File and line.
    name : str
        The sound file as the row names it; empty where it names none.
    path : Path or None
        The same below its folder; None where there is none.
    file : str
        Its absolute path, the same however the folder is written, links included; empty for none.
    splits : tuple of int
        Numbers of the splits that the row is in, at least one; see `SplitRows`.
    repeated : dict of int to int
        How often the list of a split has the row's id, of splits where that is more than once.
    captions : SharedCaptions
        Captions kept once for many rows.
    """

    at: str
    name: str
    path: Path | None
    file: str
    splits: tuple[int, ...]
    repeated: Mapping[int, int]
    captions: manifest.SharedCaptions

    @property
    def where(self) -> str:
        """File, line and sound."""
        return f"{self.at}: {self.name}" if self.name else self.at


class SplitRows:
    """Rows of splits, read one by one; each row comes once, with all splits that it is in.

    Parameters
    ----------
    splits : sequence of Split
        See `find_splits`.
    by : str
        Column whose values divide each split further; empty: none.

    Attributes
    ----------
    names : list of str
        Names of the splits by number; grows while rows are read if a column divides them.
    """

    def __init__(self, splits: Sequence[Split], by: str = "") -> None:
        self.names: list[str] = []
        self._families: list[tuple[str, str]] = []  # collection and family
        self._numbers: dict[str, int] = {}
        self._by, self._is_one = by, len(splits) == 1
        self._members = [_Member(split) for split in splits]
        if not by:
            for split in splits:
                self._number(split.name, split)

    def _number(self, name: str, split: Split) -> int:
        if name not in self._numbers:
            self._numbers[name] = len(self.names)
            self.names.append(name)
            self._families.append((split.collection, split.family))
        return self._numbers[name]

    def are_compared(self, a: int, b: int) -> bool:
        """Tell whether two splits should share nothing."""
        (first, one), (second, other) = self._families[a], self._families[b]
        return first != second or one == other or not (one and other)

    def apart(self) -> list[tuple[str, ...]]:
        """Return the families of each collection that are not compared with each other."""
        found: dict[str, dict[str, None]] = {}
        for collection, family in self._families:
            if family:
                found.setdefault(collection, {})[family] = None
        return [tuple(families) for families in found.values() if len(families) > 1]

    def __iter__(self) -> Iterator[tuple[Place, dict[str, Any]]]:
        """Yield place and columns of each row, in the order of the manifests.

        Raises
        ------
        OSError
            If a manifest or a list cannot be read.
        FormatError
            If a manifest is none; a row has no column to divide by; a split has no row, or lists an
            id that no row has.
        """
        real = functools.lru_cache(maxsize=_FOLDERS)(_real)
        files: dict[tuple[str, str], list[_Member]] = {}
        for member in self._members:
            member.start()
            whole = Path(member.split.manifest)
            key = (real(whole), real(Path(member.split.root or whole.parent)))
            files.setdefault(key, []).append(member)
        for members in files.values():
            table, root = Path(members[0].split.manifest), members[0].split.root
            folder = table.parent
            captions = manifest.SharedCaptions(folder)
            for line, item in manifest.items(table):
                at = f"{table}:{line}"
                inside = {self._inside(at, item, m): n for m in members if (n := m.count(item))}
                if inside:
                    sound = item.get("path", item.get("audio"))
                    name = sound if isinstance(sound, str) and sound.strip() else ""
                    path = Path(root or folder) / name if name else None
                    file = f"{real(path.parent).rstrip(os.sep)}/{path.name}" if path else ""
                    repeated = {split: n for split, n in inside.items() if n > 1}
                    yield Place(at, name, path, file, tuple(inside), repeated, captions), item
        for member in self._members:
            member.end()

    def require(self, *columns: str | None) -> None:
        """Refuse columns that no row has; rows are read until each column was seen.

        Parameters
        ----------
        columns : str or None
            Names that somebody gave; None is passed over.

        Raises
        ------
        FormatError
            Naming the columns that there are.
        """
        absent = [column for column in columns if column is not None]
        there: dict[str, None] = {}
        for _, item in self if absent else ():
            absent = [column for column in absent if column not in item]
            if not absent:
                return
            there |= dict.fromkeys(item)
        if absent:
            files = dict.fromkeys(os.fspath(member.split.manifest) for member in self._members)
            named = f"{', '.join(files)}: no column {', '.join(absent)}"
            raise FormatError(f"{named}, but {', '.join(there)}")

    def _inside(self, at: str, item: Mapping[str, Any], member: "_Member") -> int:
        split = member.split
        if not self._by:
            return self._numbers[split.name]
        if self._by not in item:
            raise FormatError(f"{at}: no column {self._by} to divide by, but {', '.join(item)}")
        value = str(item[self._by])
        name = f"{self._by} {value}" if self._is_one else f"{split.name}, {self._by} {value}"
        return self._number(name, split)


def _real(path: Path) -> str:
    """Return an absolute path without links, also of what does not exist."""
    try:
        return os.path.realpath(path)
    except ValueError:  # no file has such a name
        return str(path.absolute())


class _Member:
    """Test whether a row belongs to a split."""

    def __init__(self, split: Split) -> None:
        self.split = split
        self._allowed = {column: {str(v) for v in vs} for column, vs in split.where.items()}
        self._ids: Digests | None = None
        self._listed = np.zeros(0, np.int64)
        self._seen: npt.NDArray[np.bool_] = np.zeros(0, bool)
        self._rows = 0

    def start(self) -> None:
        """Forget what was seen, and read the list of ids once."""
        self._rows = 0
        if self.split.ids is not None and self._ids is None:
            digests = array("Q", (digest64(i) for i in _lines(Path(self.split.ids))))
            found = np.frombuffer(digests, np.uint64)
            self._ids, self._listed = np.unique(found, return_counts=True)
        if self._ids is not None:
            self._seen = np.zeros(len(self._ids), bool)

    def count(self, item: Mapping[str, Any]) -> int:
        """Return how often a row is in the split, or in its list of ids, and remember it."""
        if any(str(item.get(column, "")) not in values for column, values in self._allowed.items()):
            return 0
        times = 1
        if self._ids is not None:
            value = np.uint64(digest64(str(item.get("id", ""))))
            at = int(np.searchsorted(self._ids, value))
            if at == len(self._ids) or self._ids[at] != value:
                return 0
            self._seen[at] = True
            times = int(self._listed[at])
        self._rows += 1
        return times

    def end(self) -> None:
        """Refuse a split without rows, and ids that no row has."""
        split = self.split
        if self._ids is not None and not self._seen.all():
            unseen = {int(d) for d in self._ids[~self._seen]}
            first = next(i for i in _lines(Path(split.ids or "")) if digest64(i) in unseen)
            more = f" and {len(unseen) - 1} more" if len(unseen) > 1 else ""
            raise FormatError(f"{split.ids}: {first!r}{more}: no such id in {split.manifest}")
        if not self._rows:
            kept = f" where {dict(split.where)}" if split.where else ""
            raise FormatError(f"{split.manifest}: no row{kept} for the split {split.name!r}")


def _lines(path: Path) -> Iterator[str]:
    """Yield the ids of a list."""
    try:
        with path.open(encoding="utf-8-sig") as f:
            yield from (line.strip() for line in f if line.strip())
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: not UTF-8: {error}") from error
