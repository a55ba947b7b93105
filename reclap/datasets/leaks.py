"""Audits: what the splits of a data set share, and what comes twice in one."""

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reclap._types import Array
from reclap.datasets.audit_report import LEAKS, AuditReport, Leak
from reclap.datasets.buckets import Buckets
from reclap.datasets.prints import Prints, Texts, copies, decoded
from reclap.datasets.rows import Place, SplitRows
from reclap.datasets.shared import Group, RowKeys, pairs, said, value_of
from reclap.datasets.splits import Source, find_splits
from reclap.io.files import StrPath, private_folder
from reclap.runtime.prefetch import prefetch_map
from reclap.runtime.progress import bar
from reclap.runtime.threads import default_threads

__all__ = ["audit"]

_DIGEST = 16  # bytes of a content's digest
_AHEAD = 8  # files of each thread
_UNREAD = 100  # unreadable files that a report names


def audit(
    sources: Source | Iterable[Source],
    *,
    root: StrPath | None = None,
    manifest: StrPath | None = None,
    split: str = "",
    source: str | None = None,
    audio: bool = True,
    index: StrPath | None = None,
    jobs: int | None = None,
    limit: int = 1000,
    progress: bool = False,
) -> AuditReport:
    """Find what the splits of a data set share, and what comes twice in one of them.

    Rows are read one by one, several times; what they share is sorted on disk. Each sound file is
    read once, however many rows name it.

    Parameters
    ----------
    sources : str, path, Split, or iterable of them
        The splits: manifests, lists of ids, folders of either; ``name=path`` names one.
        `reclap.training.recipe_splits` gives those of a recipe.
    root : path, optional
        Folder that relative sound paths start from; the manifest's own by default.
    manifest : path, optional
        Manifest whose ids the lists hold.
    split : str
        Column whose values divide the rows into splits; empty: none.
    source : str, optional
        Column of the source of a recording, which splits should not share; ``source`` by default.
        Rows without it do not count.
    audio : bool
        Read the sound files, to compare their content and their fingerprints.
    index : path, optional
        Folder that keeps the fingerprints, for an audit that goes on where another was ended; a
        temporary one by default.
    jobs : int, optional
        Number of threads that read files; the processors of this process by default.
    limit : int
        Largest number of findings that are told of each check, between splits and within one; all
        are counted.
    progress : bool
        Show bars of files.

    Returns
    -------
    AuditReport
        All findings counted, and the first told.

    Raises
    ------
    OSError
        If a manifest or a list cannot be read, or the disk is full.
    FormatError
        If a source is none; a split has no row; a list has an id that no row has; no row has the
        column `source` that is given.
    ValueError
        If `jobs` or `limit` is below 1.

    Examples
    --------
    >>> for name in ("train", "test"):
    ...     row = f'{{"path": "{name}.wav", "source": "tape 1"}}'
    ...     _ = Path(f"{name}.jsonl").write_text(row)
    >>> report = audit(["train.jsonl", "test.jsonl"], audio=False)
    >>> report.between, report.leaks[0].what
    ({'source': 1}, 'tape 1')
    """
    threads = default_threads() if jobs is None else jobs
    if min(threads, limit) < 1:
        raise ValueError(f"jobs is {threads} and limit {limit}, expected at least 1 of each")
    rows = SplitRows(find_splits(sources, root=root, manifest=manifest), split)
    rows.require(source)
    if index is not None:
        Path(index).mkdir(parents=True, exist_ok=True)
    with private_folder(None if index is None else Path(index)) as folder:
        job = _Audit(rows, folder, source or "source", limit, progress)
        job.rows()
        if audio:
            with contextlib.closing(Prints(Path(index or folder) / "prints.sqlite")) as prints:
                job.sounds(prints, threads)
        return job.report()


class _Audit:
    """What is known so far."""

    def __init__(
        self, rows: SplitRows, folder: Path, source: str, limit: int, progress: bool
    ) -> None:
        self._rows, self._folder, self._source = rows, folder, source
        self._limit, self._progress = limit, progress
        self._counts: Counter[tuple[str, int, int]] = Counter()
        self._told: Counter[tuple[str, bool]] = Counter()
        self._found: list[tuple[str, Group, str]] = []
        self._unread: list[tuple[int, str]] = []
        self._unread_count = 0
        self._keys = RowKeys(folder, source)

    def _add(self, check: str, group: Group, what: str = "") -> None:
        """Count a finding, and keep it if there are not too many."""
        a, b = group.splits
        self._counts[check, a, b] += 1
        kind = (check, a == b)
        self._told[kind] += 1
        if self._told[kind] <= self._limit:
            self._found.append((check, group, what))

    def rows(self) -> None:
        """Compare all that rows say."""
        self._keys.read(self._rows)
        for check, group in self._keys.groups(self._rows.are_compared):
            self._add(check, group)
        self._uses = self._keys.uses()
        for file in self._uses.several():
            members = {split: [(row, 0)] for split, row in self._uses.of(file)}
            counts = dict.fromkeys(members, 1)
            for group in pairs(members, counts, self._rows.are_compared):
                self._add("file", group)

    # ---- Sounds ----------------------------------------------------------------------------------

    def sounds(self, prints: Prints, jobs: int) -> None:
        """Compare contents and fingerprints of all files."""
        with contextlib.closing(Texts(self._folder / "paths")) as paths:
            contents, is_read = self._contents(prints, paths, jobs)
            several = _alike(self._folder / "contents", contents, is_read)
            for first, others in several.items():
                self._share("bytes", [[first], *([file] for file in others)])
            is_read[[file for others in several.values() for file in others]] = False
            alone = np.flatnonzero(is_read)  # one file of each content
            found = copies(
                self._folder,
                contents[alone],
                prints,
                lambda clip: decoded(Path(paths[alone[clip]]), warn=False),
                jobs,
            )
            with (
                contextlib.closing(found),
                bar(len(alone), "file", shown=self._progress, desc="compared") as shown,
            ):
                for matches in found:
                    shown.update()
                    for match in matches:
                        sides = [int(alone[match.first]), int(alone[match.second])]
                        files = [[file, *several.get(file, ())] for file in sides]
                        self._share("copy", files, f"coherence {match.coherence:.2f}")

    def _share(self, check: str, sides: Sequence[Sequence[int]], what: str = "") -> None:
        """Add what splits share whose files are alike; those of one side count as one file."""
        members: dict[int, list[tuple[int, int]]] = {}
        for number, files in enumerate(sides):
            uses = sorted(use for file in files for use in self._uses.of(file))
            for split, own in itertools.groupby(uses, lambda use: use[0]):
                members.setdefault(split, []).append((min(row for _, row in own), number))
        counts = {split: len(files) for split, files in members.items()}
        for group in pairs(members, counts, self._rows.are_compared, apart=True):
            self._add(check, group, what)

    def _contents(self, prints: Prints, paths: Texts, jobs: int) -> tuple[Array, Array]:
        """Return the digest of each file, and whether it could be read."""
        contents = np.zeros(len(self._uses), f"V{_DIGEST}")
        is_read = np.zeros(len(self._uses), bool)
        found = prefetch_map(prints.add, self._paths(paths), jobs, _AHEAD * jobs)
        with (
            contextlib.closing(found),
            bar(len(self._uses), "file", shown=self._progress, desc="read") as shown,
        ):
            for file, content in enumerate(found):
                shown.update()
                if isinstance(content, bytes):
                    contents[file], is_read[file] = content, True
                elif len(self._unread) < _UNREAD:
                    self._unread.append((int(self._uses.first[file]), content))
        self._unread_count = int((~is_read).sum())
        return contents, is_read

    def _paths(self, paths: Texts) -> Iterator[Path]:
        """Yield the path of each file."""
        wanted = iter(self._uses.first)
        row = next(wanted, None)
        for number, (place, _) in enumerate(self._rows):
            if number == row:
                paths.add(place.file)
                yield Path(place.file)
                row = next(wanted, None)
            if row is None:
                return

    # ---- Report ----------------------------------------------------------------------------------

    def report(self) -> AuditReport:
        """Return the report, for which rows are read again that it names."""
        asked: dict[int, set[str]] = {row: set() for row, _ in self._unread}
        for check, group, _ in self._found:
            for row in group.rows:
                asked.setdefault(row, set()).add(check)
        where: dict[int, str] = {}
        whats: dict[tuple[int, str, int], str] = {}
        for row, (place, item) in enumerate(self._rows):
            if len(where) == len(asked):
                break
            if row in asked:
                where[row] = place.where
                whats |= {(row, *key): text for key, text in self._said(place, item, asked[row])}
        names = self._rows.names
        leaks = [
            Leak(
                check,
                (names[group.splits[0]], names[group.splits[1]]),
                where[group.rows[0]],
                where[group.rows[1]],
                what or whats.get((group.rows[0], check, group.value), ""),
                group.count,
            )
            for check, group, what in sorted(self._found, key=_order)
        ]
        return AuditReport(
            dict(zip(names, self._keys.rows, strict=True)),
            len(self._uses),
            {(check, names[a], names[b]): n for (check, a, b), n in sorted(self._counts.items())},
            tuple(leaks),
            self._unread_count,
            tuple(f"{where[row]}: {why}" for row, why in self._unread),
            tuple(self._rows.apart()),
        )

    def _said(
        self, place: Place, item: Mapping[str, Any], checks: Iterable[str]
    ) -> Iterator[tuple[tuple[str, int], str]]:
        """Yield what a row shares, in words, by check and digest."""
        for check in checks:
            for text in said(check, place, item, self._source):
                yield (check, value_of(check, text)), text


def _alike(folder: Path, contents: Array, is_read: Array) -> dict[int, list[int]]:
    """Return the files of equal content behind the first of them."""
    heads = np.ascontiguousarray(contents).view(">u8").reshape(len(contents), 2)
    values = Buckets(folder, {"value": "u8", "file": "u8"})
    files = np.flatnonzero(is_read)
    values.extend(value=heads[files, 0], file=files)
    found: dict[int, list[int]] = {}
    for part in values.sorted():
        starts = np.flatnonzero(np.append(True, part["value"][1:] != part["value"][:-1]))
        ends = np.append(starts[1:], len(part))
        for start, end in zip(starts, ends, strict=True):
            if end - start > 1:
                first, *others = map(int, part["file"][start:end])
                found[first] = others
    return found


def _order(found: tuple[str, Group, str]) -> tuple[int, bool, tuple[int, int]]:
    check, group, _ = found
    return list(LEAKS).index(check), group.splits[0] == group.splits[1], group.rows
