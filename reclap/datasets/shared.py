"""What rows of splits share: ids, files, sources, captions, sorted on disk."""

import dataclasses
import os
import stat
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from reclap._types import Array
from reclap.checks.words import key
from reclap.datasets.buckets import Buckets
from reclap.datasets.rows import Place, SplitRows, digest64
from reclap.errors import FormatError
from reclap.io import manifest
from reclap.io.excerpts import Excerpt, sound_of

__all__ = ["Group", "RowKeys", "Uses", "pairs", "regular", "said", "span_of", "value_of"]

_MANY = 8  # splits of one value, of which not all pairs are findings

Compared: TypeAlias = Callable[[int, int], bool]


@dataclasses.dataclass(frozen=True)
class Group:
    """Two splits that share a value, or one that has it several times.

    Attributes
    ----------
    splits : tuple of int
        Numbers of both splits; twice the same within one.
    rows : tuple of int
        Numbers of the first row of each.
    count : int
        Number of rows in both.
    value : int
        Digest of the value.
    """

    splits: tuple[int, int]
    rows: tuple[int, int]
    count: int
    value: int = 0


def regular(path: Path) -> os.stat_result:
    """Return the state of a regular file: nothing waits for a pipe, or reads a device.

    Raises
    ------
    OSError, ValueError
        If there is none, or no file has such a name.
    FormatError
        If it is no regular file; the message has no name.
    """
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        raise FormatError("no regular file")
    return state


def span_of(place: Place, item: Mapping[str, Any]) -> str:
    """Return the file of a row and where in it the row starts, for comparison."""
    try:
        sound = sound_of(place.at, Path(place.file), item)
        start = f"{sound.start!r}" if isinstance(sound, Excerpt) else ""
    except FormatError:  # `check_recordings` tells
        start = str(item.get("start", ""))
    return f"{place.file}\0{start}"


def value_of(check: str, text: str) -> int:
    """Return the digest of an id, source or caption; 0 for other checks."""
    if check not in ("id", "source", "caption"):
        return 0
    return digest64(key(text) if check == "caption" else text)


def said(check: str, place: Place, item: Mapping[str, Any], source: str) -> Iterable[str]:
    """Return the id, the source or the captions of a row.

    Of captions only those that it has of its own: what many rows share repeats by design.
    """
    if check in ("id", "source"):
        value = item.get(source if check == "source" else check)
        return () if value is None or value == "" else (str(value),)
    if check != "caption" or isinstance(item.get("captions"), str):
        return ()
    if not {"caption", "captions"} & item.keys():
        return ()
    try:
        taken = manifest.take_captions(place.at, dict(item), place.captions)
    except FormatError:  # `check_recordings` tells
        return ()
    return dict.fromkeys(caption.text for caption in taken)


class RowKeys:
    """Keys of all rows, sorted on disk.

    Parameters
    ----------
    folder : Path
        Folder for temporary files.
    source : str
        Column of the source of a recording.

    Attributes
    ----------
    rows : list of int
        Number of rows of each split.
    """

    def __init__(self, folder: Path, source: str) -> None:
        self._source = source
        self._repeated: list[Group] = []
        self.rows: list[int] = []
        plain = {"value": "u8", "split": "u4", "row": "u8"}
        by_file = {"value": "u8", "split": "u4", "file": "u8", "row": "u8"}
        self._plain = {name: Buckets(folder / name, plain) for name in ("id", "source")}
        self._spans = Buckets(folder / "spans", plain)
        self._captions = Buckets(folder / "captions", by_file)
        self._files = Buckets(folder / "files", plain)

    def read(self, rows: SplitRows) -> None:
        """Add all rows."""
        for row, (place, item) in enumerate(rows):
            self.rows += [0] * (len(rows.names) - len(self.rows))
            for split in place.splits:
                self.rows[split] += 1
                self._add(row, split, place, item)
            for split, times in place.repeated.items():
                value = value_of("id", str(item["id"]))
                self._repeated.append(Group((split, split), (row, row), times, value))

    def _add(self, row: int, split: int, place: Place, item: Mapping[str, Any]) -> None:
        file = 0
        if path := place.file:
            file = digest64(path)
            self._files.add(file, split, row)
            self._spans.add(digest64(span_of(place, item)), split, row)
        for check in ("id", "source"):
            for text in said(check, place, item, self._source):
                self._plain[check].add(value_of(check, text), split, row)
        for text in said("caption", place, item, self._source):
            self._captions.add(value_of("caption", text), split, file or row, row)

    def groups(self, compared: Compared) -> Iterator[tuple[str, Group]]:
        """Yield what rows share but files, and ids that lists repeat, with the check that tells."""
        yield from (("id", group) for group in self._repeated)
        for check, buckets, inside in (
            ("id", self._plain["id"], "row"),
            ("file", self._spans, "row"),
            ("source", self._plain["source"], ""),
            ("caption", self._captions, "file"),
        ):
            for records in buckets.sorted():
                for group in _groups(records, inside, compared):
                    if check != "file":
                        yield check, group
                    elif group.splits[0] == group.splits[1]:  # between splits any part counts
                        yield check, dataclasses.replace(group, value=0)

    def uses(self) -> "Uses":
        """Return which splits use each file."""
        return Uses(self._files)


def _groups(records: Array, inside: str, compared: Compared) -> Iterator[Group]:
    """Yield the groups of sorted records; `inside`: column that differs within a split."""
    values, splits = records["value"], records["split"]
    starts = np.flatnonzero(np.append(True, values[1:] != values[:-1]))
    ends = np.append(starts[1:], len(values))
    wanted = splits[starts] != splits[ends - 1]
    if inside:
        same = (values[1:] == values[:-1]) & (splits[1:] == splits[:-1])
        twice = np.append(same & (records[inside][1:] != records[inside][:-1]), False)
        wanted |= np.logical_or.reduceat(twice, starts)
    for start, end in zip(starts[wanted], ends[wanted], strict=True):
        run = records[start:end]
        own, at = np.unique(run["split"], return_index=True)
        parts = dict(zip(map(int, own), np.split(run, at[1:]), strict=True))
        members = {split: _two(part, inside) for split, part in parts.items()}
        counts = {split: len(part) for split, part in parts.items()}
        yield from pairs(members, counts, compared, int(values[start]), apart=inside == "file")


def _two(records: Array, inside: str) -> list[tuple[int, int]]:
    """Return the first row and the first that differs from it, each with what differs."""
    rows, marks = records["row"], records[inside] if inside else np.zeros(len(records), int)
    first = int(rows.argmin())
    found = [first]
    if (others := np.flatnonzero(marks != marks[first])).size:
        found.append(int(others[rows[others].argmin()]))
    return [(int(rows[i]), int(marks[i])) for i in found]


def pairs(
    members: Mapping[int, list[tuple[int, int]]],
    counts: Mapping[int, int],
    compared: Compared,
    value: int = 0,
    *,
    apart: bool = False,
) -> Iterator[Group]:
    """Yield the groups of rows that share a value: a pair of splits each.

    Of more than eight splits, each with the first that it should not share it with: pairs would
    grow as the square.

    Parameters
    ----------
    members : mapping of int to list of tuple of int
        Rows by split, each with what differs between those that count as two within one split;
        the first row, and the first that differs from it, are enough.
    counts : mapping of int to int
        Number of rows by split.
    compared : callable
        Tells whether two splits should share nothing.
    value : int
        Digest of the value.
    apart : bool
        Between two splits, too, only rows count in which it differs.
    """
    names = sorted(members)
    for i, a in enumerate(names):
        if within := _apart(members[a], members[a]):
            yield Group((a, a), within, counts[a], value)
        for b in names[:i]:
            if not compared(b, a):
                continue
            rows: tuple[int, int] | None = (min(members[b])[0], min(members[a])[0])
            if apart:
                rows = _apart(members[b], members[a])
            if rows:
                yield Group((b, a), rows, counts[b] + counts[a], value)
                if len(names) > _MANY:
                    break


def _apart(a: list[tuple[int, int]], b: list[tuple[int, int]]) -> tuple[int, int] | None:
    """Return the first rows of both that differ in the second number, or None."""
    first, second = min(a), min(b)
    if first[1] != second[1]:
        return first[0], second[0]
    others = min((row for row in b if row[1] != first[1]), default=None)
    if others is not None:
        return first[0], others[0]
    others = min((row for row in a if row[1] != second[1]), default=None)
    return None if others is None else (others[0], second[0])


class Uses:
    """Which splits use each file; files are numbered in the order of their first rows.

    Parameters
    ----------
    records : Buckets
        Columns ``value``, the digest of the path, ``split`` and ``row``.

    Attributes
    ----------
    first : ndarray of uint64, shape (files,)
        Row that names each file first, ascending.
    """

    def __init__(self, records: Buckets) -> None:
        firsts, sizes, splits, rows = (array("Q") for _ in range(4))
        for part in records.sorted():
            kept = _firsts(part)
            values = kept["value"]
            starts = np.flatnonzero(np.append(True, values[1:] != values[:-1]))
            firsts.frombytes(np.minimum.reduceat(kept["row"], starts).tobytes())
            sizes.frombytes(np.diff(starts, append=len(values)).astype("u8").tobytes())
            splits.frombytes(kept["split"].astype("u8").tobytes())
            rows.frombytes(kept["row"].tobytes())
        unsorted = np.frombuffer(firsts, np.uint64)
        order = np.argsort(unsorted, kind="stable")
        self.first = unsorted[order]
        counts = np.frombuffer(sizes, np.uint64).astype(np.int64)
        self._start = (np.cumsum(counts) - counts)[order]
        self._count = counts[order]
        self._splits, self._rows = splits, rows

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.first)

    def of(self, file: int) -> list[tuple[int, int]]:
        """Return the splits that use a file, each with its first row."""
        span = range(int(self._start[file]), int(self._start[file] + self._count[file]))
        return [(self._splits[i], self._rows[i]) for i in span]

    def several(self) -> Iterator[int]:
        """Yield the files that several splits use."""
        yield from (int(i) for i in np.flatnonzero(self._count > 1))


def _firsts(part: Array) -> Array:
    """Return the first row of each file in each split, of sorted records."""
    same = (part["value"][1:] == part["value"][:-1]) & (part["split"][1:] == part["split"][:-1])
    first: Array = part[np.append(True, ~same)]
    return first
