"""Counts of a data set: rows, files, sources, lengths, captions."""

import contextlib
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from reclap.audio.sound_file import SoundFile
from reclap.checks.words import FUNCTION
from reclap.checks.words import split as words_of
from reclap.datasets.buckets import Buckets
from reclap.datasets.rows import Place, SplitRows, digest64
from reclap.datasets.shared import regular
from reclap.datasets.splits import Source, find_splits
from reclap.datasets.stats_report import Count, StatsReport, TextCount
from reclap.errors import FormatError, ReclapError
from reclap.io import manifest as manifests
from reclap.io.excerpts import Excerpt, number_of, sound_of
from reclap.io.files import StrPath, private_folder
from reclap.runtime.prefetch import prefetch_map
from reclap.runtime.progress import bar
from reclap.runtime.threads import default_threads

__all__ = ["stats"]

_BLOCK = 1 << 20  # frames that are decoded at a time where only the length is wanted
_AHEAD = 64  # rows of each thread
_COMMON = 12  # frequent words

Item: TypeAlias = dict[str, Any]
_Wanted: TypeAlias = tuple[Place, Item, bool, bool]


class Header(NamedTuple):
    """What was read of a sound file; rate 0: nothing that is new."""

    rate: int
    channels: int
    seconds: float | None
    is_bad: bool = False


def stats(
    sources: Source | Iterable[Source],
    *,
    root: StrPath | None = None,
    manifest: StrPath | None = None,
    split: str = "",
    kind: str | None = None,
    source: str | None = None,
    audio: bool = True,
    jobs: int | None = None,
    progress: bool = False,
) -> StatsReport:
    """Count what a data set holds.

    Rows are read once, one by one; about a hundred bytes of each different sound file are kept.

    Parameters
    ----------
    sources : str, path, Split, or iterable of them
        As for `audit`.
    root : path, optional
        Folder that relative sound paths start from; the manifest's own by default.
    manifest : path, optional
        Manifest whose ids the lists hold.
    split : str
        Column whose values divide the rows into splits; empty: none.
    kind, source : str, optional
        Columns of the kind and of the source of a recording; ``kind`` and ``source`` by default.
        Columns ``group`` and ``licence`` are
        counted as well; a row does not count under a column that it does not have.
    audio : bool
        Read headers of the sound files, once each, for their rates and channels; of rows that do
        not say ``seconds``, files are decoded for their length.
    jobs : int, optional
        Number of threads that read files; the processors of this process by default.
    progress : bool
        Show a bar of rows.

    Returns
    -------
    StatsReport
        All counts. A row that several splits have counts once in all, and in each of them.

    Raises
    ------
    OSError
        If a manifest or a list cannot be read, or the disk is full.
    FormatError
        If a source is none; a split has no row; a list has an id that no row has; no row has a
        column that is given.
    ValueError
        If `jobs` is below 1.

    Examples
    --------
    >>> text = '{"path": "a.wav", "kind": "rain", "seconds": 30, "caption": "Rain falls"}'
    >>> _ = Path("rain.jsonl").write_text(text)
    >>> report = stats("rain.jsonl", audio=False)
    >>> report.total.seconds, report.columns["kind"]["rain"].rows, report.texts.words
    (30.0, 1, {2: 1})
    """
    threads = default_threads() if jobs is None else jobs
    if threads < 1:
        raise ValueError(f"jobs is {threads}, expected at least 1")
    rows = SplitRows(find_splits(sources, root=root, manifest=manifest), split)
    rows.require(kind, source)
    columns = {"kind": kind or "kind", "group": "group", "licence": "licence"}
    with private_folder() as folder:
        cells, texts, files, repeated = _Cells(folder), _Texts(), _Files(audio), 0
        found = prefetch_map(files.read, files.wanted(rows), threads, _AHEAD * threads)
        with contextlib.closing(found), bar(None, "row", shown=progress) as shown:
            for place, item, header in found:
                shown.update()
                repeated += bool(place.repeated)
                names = [("split", rows.names[i]) for i in place.splits]
                names += [(k, str(item[c])) for k, c in columns.items() if item.get(c) is not None]
                cells.add(
                    names, place, item.get(source or "source"), files.seconds(place, item, header)
                )
                texts.add(place, item)
        return cells.report(files, texts.count(), repeated)


class _Files:
    """Headers of the sound files, each read once."""

    def __init__(self, audio: bool) -> None:
        self._audio = audio
        self._seconds: dict[int, float | None] = {}
        self._measured: set[int] = set()
        self._unread: set[int] = set()
        self.rates: Counter[int] = Counter()
        self.channels: Counter[int] = Counter()
        self.formats: Counter[str] = Counter()

    @property
    def unread(self) -> int:
        """Number of files that cannot be read."""
        return len(self._unread)

    def wanted(self, rows: SplitRows) -> Iterator[_Wanted]:
        """Yield the rows, whether the file of each is new, and whether it has to be measured."""
        for place, item in rows:
            key = digest64(place.file) if place.path else 0
            is_new = place.path is not None and key not in self._seconds
            measure = place.path is not None and _said_seconds(item) is None
            measure = measure and key not in self._measured
            if is_new:
                self._seconds[key] = None
                self.formats[Path(place.name).suffix.lower()] += 1
            if measure:
                self._measured.add(key)
            yield place, item, is_new, measure

    def read(self, wanted: _Wanted) -> tuple[Place, Item, Header | None]:
        """Read the header of a new file, and its length if a row needs it; on a thread."""
        place, item, is_new, measure = wanted
        if not (self._audio and place.path and (is_new or measure)):
            return place, item, None
        return place, item, _header(place.path, is_new=is_new, measure=measure)

    def seconds(self, place: Place, item: Item, header: Header | None) -> float | None:
        """Return the length of a row's sound, or None; count a header that was read."""
        key = digest64(place.file)
        if header is not None:
            if header.rate:
                self.rates[header.rate] += 1
                self.channels[header.channels] += 1
            if header.seconds is not None:
                self._seconds[key] = header.seconds
            if header.is_bad:
                self._unread.add(key)
        if place.path is None:
            return None
        said = _said_seconds(item)
        if said is not None:
            return said
        whole = self._seconds.get(key)
        try:
            sound = sound_of(place.at, place.path, item)
        except FormatError:  # `check_recordings` tells
            return None
        start = sound.start if isinstance(sound, Excerpt) else 0.0
        return None if whole is None else max(0.0, whole - start)


def _said_seconds(item: Mapping[str, Any]) -> float | None:
    """Return the length that a row says, if it is one."""
    try:
        return number_of("", "seconds", item.get("seconds"))
    except FormatError:
        return None


def _header(path: Path, *, is_new: bool, measure: bool) -> Header:
    """Return rate and channels of a new file, and the length where it is wanted."""
    rate, channels = 0, 0
    try:
        regular(path)
        file = SoundFile(path)
        reader = file.open()
        rate, channels = (reader.rate, reader.channels) if is_new else (0, 0)
        frames = 0
        while measure and (count := len(reader.read(_BLOCK))):
            frames += count
        return Header(rate, channels, frames / reader.rate if measure else None)
    except (OSError, ReclapError, ValueError):
        return Header(rate, channels, None, is_bad=True)


class _Cells:
    """Counts by column and value; different files and sources are told apart on disk."""

    def __init__(self, folder: Path) -> None:
        self._numbers: dict[tuple[str, str], int] = {("", ""): 0}
        self._rows: list[int] = [0]
        self._seconds: list[float] = [0.0]
        self._unknown = 0
        columns = {"value": "u8", "cell": "u8"}
        self._files = Buckets(folder / "files", columns)
        self._sources = Buckets(folder / "sources", columns)

    def add(
        self, names: list[tuple[str, str]], place: Place, source: Any, seconds: float | None
    ) -> None:
        """Count a row under columns and values."""
        self._unknown += seconds is None
        file = digest64(place.file) if place.path else None
        origin = None if source is None or source == "" else digest64(str(source))
        for name in (("", ""), *names):
            cell = self._numbers.setdefault(name, len(self._rows))
            if cell == len(self._rows):
                self._rows.append(0)
                self._seconds.append(0.0)
            self._rows[cell] += 1
            self._seconds[cell] += seconds or 0.0
            if file is not None:
                self._files.add(file, cell)
            if origin is not None:
                self._sources.add(origin, cell)

    def _different(self, buckets: Buckets) -> list[int]:
        total = np.zeros(len(self._rows), np.int64)
        for part in buckets.sorted():
            same = (part["value"][1:] == part["value"][:-1]) & (
                part["cell"][1:] == part["cell"][:-1]
            )
            cells = part["cell"][np.append(True, ~same)].astype(np.int64)
            total += np.bincount(cells, minlength=len(total))
        return [int(n) for n in total]

    def report(self, files: _Files, texts: TextCount, repeated: int) -> StatsReport:
        """Return the report."""
        files_of, sources_of = self._different(self._files), self._different(self._sources)
        counts = [
            Count(self._rows[i], files_of[i], sources_of[i], round(self._seconds[i], 3))
            for i in range(len(self._rows))
        ]
        columns: dict[str, dict[str, Count]] = {}
        for (column, value), cell in itertools.islice(self._numbers.items(), 1, None):
            columns.setdefault(column, {})[value] = counts[cell]
        return StatsReport(
            counts[0],
            columns,
            self._unknown,
            dict(sorted(files.rates.items())),
            dict(sorted(files.channels.items())),
            dict(files.formats.most_common()),
            files.unread,
            texts,
            repeated,
        )


class _Texts:
    """Captions and their words."""

    def __init__(self) -> None:
        self._per_clip: Counter[int] = Counter()
        self._words: Counter[int] = Counter()
        self._vocabulary: Counter[str] = Counter()
        self._shared: set[str] = set()
        self._captions = self._rewrites = 0

    def add(self, place: Place, item: Item) -> None:
        """Count the captions of a row; those of a list that rows share, once."""
        has = {"caption", "captions"} & item.keys()
        try:
            found = manifests.take_captions(place.at, dict(item), place.captions) if has else ()
        except FormatError:  # `check_recordings` tells
            found = ()
        self._per_clip[len(found)] += 1
        listed = item.get("captions")
        if isinstance(listed, str):
            key = f"{os.fspath(place.captions.folder)}\0{listed}"
            if key in self._shared:
                return
            self._shared.add(key)
        for caption in found:
            self._captions += 1
            self._rewrites += len(caption.rewrites)
            words = words_of(caption.text)
            self._words[len(words)] += 1
            self._vocabulary.update(words)
            for text in caption.rewrites:
                self._vocabulary.update(words_of(text))

    def count(self) -> TextCount:
        """Return the counts."""
        content = ((w, n) for w, n in self._vocabulary.most_common() if w not in FUNCTION)
        return TextCount(
            dict(sorted(self._per_clip.items())),
            self._captions,
            self._rewrites,
            dict(sorted(self._words.items())),
            len(self._vocabulary),
            dict(itertools.islice(content, _COMMON)),
        )
