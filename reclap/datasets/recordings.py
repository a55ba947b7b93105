"""Checks of the recordings of a manifest: what would stop or bias a run."""

import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reclap._types import Samples
from reclap.audio.decode import Clip, SoundFile, convert
from reclap.audio.fingerprint import RATE, Fingerprint, fingerprint, matches
from reclap.datasets.prints import decoded
from reclap.datasets.rows import Place, SplitRows
from reclap.datasets.shared import regular, span_of
from reclap.datasets.splits import Source, find_splits
from reclap.errors import FormatError, counted, one_line
from reclap.io import manifest
from reclap.io.excerpts import Excerpt, sound_of
from reclap.io.files import StrPath

__all__ = ["FAULTS", "Fault", "RecordingsReport", "check_recordings"]

FAULTS = {
    "missing": "the sound file does not exist",
    "unreadable": "the sound file cannot be decoded",
    "row": "the row has no path, or no caption",
    "silent": "no sample is louder than -80 dB",
    "truncated": "the file was cut off, or is shorter than the excerpt",
    "rate": "the file's sample rate is below the wanted one",
    "duplicate": "the same file, or the same samples, as another row; an id that a list has twice",
    "copy": "the same recording as another row, changed",
    "caption": "rows of different files have the same caption of their own",
    "source": "all recordings of a kind are of one source",
}
_FATAL = ("missing", "unreadable", "row", "silent")
_SILENCE = 1e-4  # largest amplitude
_SHOWN = 20  # faults of one sort in the readable text


@dataclasses.dataclass(frozen=True)
class Fault:
    """A fault of a row, or of several.

    Parameters
    ----------
    check : str
        Which check found it: a key of `FAULTS`.
    where : str
        File and line of the row and the sound, or the kind.
    reason : str
        Description, for a person.

    Examples
    --------
    >>> fault = Fault("silent", "a.jsonl:3: a.wav", "no sample is louder than -80 dB")
    >>> fault.is_fatal, str(fault)
    (True, 'a.jsonl:3: a.wav: silent: no sample is louder than -80 dB')
    """

    check: str
    where: str
    reason: str

    @property
    def is_fatal(self) -> bool:
        """Whether it would stop a run, or teach nothing."""
        return self.check in _FATAL

    def __str__(self) -> str:
        """Return one line for a person."""
        return f"{self.where}: {self.check}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class RecordingsReport:
    """Report on the recordings of a manifest.

    Parameters
    ----------
    name : str
        The manifest.
    rows : int
        Number of rows that were checked.
    faults : tuple of Fault
        In the order of the rows; those of several rows come last.

    Examples
    --------
    >>> report = RecordingsReport("a.jsonl", 1, (Fault("rate", "a.jsonl:1: a.wav", "8000 Hz"),))
    >>> report.by_check, report.fatal
    ({'rate': 1}, ())
    >>> report.to_json()["faults"][0]["check"]
    'rate'
    """

    name: str
    rows: int
    faults: tuple[Fault, ...]

    @property
    def fatal(self) -> tuple[Fault, ...]:
        """Faults that would stop a run, or teach nothing."""
        return tuple(fault for fault in self.faults if fault.is_fatal)

    @property
    def by_check(self) -> dict[str, int]:
        """Number of faults that each check found, most first."""
        return dict(Counter(fault.check for fault in self.faults).most_common())

    def to_json(self) -> dict[str, Any]:
        """Return the report as a JSON object.

        Returns
        -------
        dict
            Counts, and every fault under ``faults``.
        """
        return {
            "name": self.name,
            "rows": self.rows,
            "fatal": len(self.fatal),
            "checks": self.by_check,
            "faults": [dataclasses.asdict(fault) for fault in self.faults],
        }

    def __str__(self) -> str:
        """Return a few lines for a person: counts, then the first faults of each sort."""
        faults = counted(len(self.faults), "fault")
        lines = [f"{self.name}: {counted(self.rows, 'row')}, {faults}"]
        for check, count in self.by_check.items():
            lines.append(f"{check}: {count} ({FAULTS[check]})")
            found = [fault for fault in self.faults if fault.check == check]
            lines += [f"  {fault.where}: {fault.reason}" for fault in found[:_SHOWN]]
            lines += [f"  and {count - _SHOWN} more"] if count > _SHOWN else []
        return "\n".join(lines)


def check_recordings(
    path: Source | Iterable[Source],
    root: StrPath | None = None,
    *,
    rate: int = 0,
    kind: str | None = None,
    source: str | None = None,
    copies: bool = False,
) -> RecordingsReport:
    """Check the recordings of manifests; a file whose rows are together is decoded once.

    Parameters
    ----------
    path : str, path, Split, or iterable of them
        The manifest: CSV, JSON lines or Parquet; or what `find_splits` takes, all of whose rows
        are checked as one data set.
    root : path, optional
        Folder that relative sound paths start from; the manifest's own by default.
    rate : int
        Sample rate in Hz that files should have at least; 0: any.
    kind, source : str, optional
        Columns of the kind and of the source of a recording, ``kind`` and ``source`` by default;
        rows without them do not count.
    copies : bool
        Compare fingerprints of all recordings, which are kept in memory (about 7 kB a second).

    Returns
    -------
    RecordingsReport
        All faults that were found.

    Raises
    ------
    OSError
        If a manifest cannot be read.
    FormatError
        If it is not a manifest, or has no row, or none with a column that is given.

    Examples
    --------
    >>> _ = Path("lost.jsonl").write_text('{"path": "lost.wav", "caption": "Rain falls"}')
    >>> [fault.check for fault in check_recordings("lost.jsonl").faults]
    ['missing']
    """
    splits = find_splits(path, root=root)
    found = SplitRows(splits)
    found.require(kind, source)
    check = _Check(rate, copies)
    rows = 0
    for place, item in found:
        rows += 1
        for split, times in place.repeated.items():
            check.repeated(place.where, found.names[split], times)
        check.row(place, item, kind or "kind", source or "source")
    names = dict.fromkeys(os.fspath(split.manifest) for split in splits)
    return RecordingsReport(", ".join(names), rows, (*check.faults, *check.of_several()))


class _Check:
    """What is known of the rows so far."""

    def __init__(self, rate: int, copies: bool) -> None:
        self.faults: list[Fault] = []
        self._rate, self._copies = rate, copies
        self._files: set[str] = set()
        self._faulty: set[Path] = set()  # nothing to be said about parts of them
        self._last: tuple[Path, Clip] | None = None  # rows of one file mostly follow each other
        self._spans: dict[str, str] = {}
        self._contents: dict[bytes, str] = {}
        self._captions: dict[str, list[tuple[str, str]]] = {}  # files and rows
        self._sources: dict[str, set[str]] = {}
        self._prints: list[tuple[str, Path, Fingerprint]] = []

    def repeated(self, where: str, split: str, times: int) -> None:
        """Tell a row that a list has several times."""
        self.faults.append(Fault("duplicate", where, f"its id comes {times} times in {split}"))

    def row(self, place: Place, item: Mapping[str, Any], kind: str, source: str) -> None:
        """Check a row, and its file unless it was checked before."""
        at, where = place.at, place.where
        if kind in item and source in item:
            self._sources.setdefault(str(item[kind]), set()).add(str(item[source]))
        if place.path is None:
            self.faults.append(Fault("row", at, _no_path(item)))
            return
        columns = dict(item)
        try:
            captions = manifest.take_captions(at, columns, place.captions)
        except FormatError as error:
            self.faults.append(Fault("row", where, one_line(error).removeprefix(f"{at}: ")))
            captions = ()
        is_new = place.file not in self._files
        self._files.add(place.file)
        first = self._spans.setdefault(span_of(place, columns), at)
        if first != at:
            self.faults.append(Fault("duplicate", where, f"the same file as at {first}"))
        try:
            sound = sound_of(at, place.path, columns)
        except FormatError as error:
            self.faults.append(Fault("row", where, one_line(error).removeprefix(f"{at}: ")))
            return
        if not isinstance(item.get("captions"), str):  # what many rows share repeats by design
            for text in {caption.text.casefold() for caption in captions}:
                self._captions.setdefault(text, []).append((place.file, where))
        if is_new:
            self._file(where, place.path)
        if isinstance(sound, Excerpt) and first == at:
            self._excerpt(where, sound)

    def _excerpt(self, where: str, excerpt: Excerpt) -> None:
        """Check a part of a file that `_file` has checked; of a file that it faulted, nothing."""
        if excerpt.path in self._faulty:
            return
        if self._last is None or self._last[0] != excerpt.path:
            self._last = excerpt.path, _decoded(excerpt.path)[1]
        clip = self._last[1]
        first, stop = excerpt.frames(clip.rate)
        samples = clip.samples[first:stop]
        if not len(samples):
            reason = f"starts behind the end of the file, at {len(clip.samples) / clip.rate:g} s"
            self.faults.append(Fault("unreadable", where, f"{excerpt}: {reason}"))
        elif (lost := excerpt.lacks(len(samples), clip.rate)) is not None:
            self.faults.append(Fault("truncated", where, f"{excerpt}: it lacks {lost}"))
        if len(samples) and np.abs(samples).max() < _SILENCE:
            self.faults.append(Fault("silent", where, f"{excerpt}: {FAULTS['silent']}"))

    def _file(self, where: str, path: Path) -> None:
        """Decode a file and check its samples."""
        try:
            file, clip = _decoded(path)
        except FileNotFoundError:
            self._faulty.add(path)
            self.faults.append(Fault("missing", where, "no such file"))
            return
        except (OSError, ValueError) as error:
            self._faulty.add(path)
            self.faults.append(Fault("unreadable", where, one_line(error)))
            return
        self._last = path, clip
        if (lost := file.lacks(len(clip.samples))) is not None:
            self.faults.append(Fault("truncated", where, f"it lacks {lost}"))
        if clip.rate < self._rate:
            self.faults.append(Fault("rate", where, f"{clip.rate} Hz, expected {self._rate}"))
        if np.abs(clip.samples).max(initial=0) < _SILENCE:
            self._faulty.add(path)
            self.faults.append(Fault("silent", where, FAULTS["silent"]))
            return
        first = self._contents.setdefault(_digest(clip), where)
        if first != where:
            self.faults.append(Fault("duplicate", where, f"the same samples as {first}"))
        elif self._copies:
            samples = convert(clip, RATE, "mean", "soxr", where)
            self._prints.append((where, path, fingerprint(samples)))

    def of_several(self) -> list[Fault]:
        """Return the faults that only all rows together show."""
        found = []
        prints = [print_ for _, _, print_ in self._prints]
        for match in matches(prints, self._load):
            first, second = (self._prints[i][0] for i in (match.first, match.second))
            found.append(Fault("copy", second, f"coherence {match.coherence:.2f} with {first}"))
        for text, rows in self._captions.items():
            if len({file for file, _ in rows}) > 1:
                reason = f"{text!r} in {len(rows)} rows, the last {rows[-1][1]}"
                found.append(Fault("caption", rows[0][1], reason))
        for kind, sources in self._sources.items():
            if len(sources) == 1:
                found.append(Fault("source", kind, f"all of {next(iter(sources))}"))
        return found

    def _load(self, i: int) -> Samples:
        return decoded(self._prints[i][1], warn=False)


def _no_path(item: Mapping[str, Any]) -> str:
    """Return why a row names no file."""
    for name in ("path", "audio"):
        if name in item:
            value = item[name]
            is_text = isinstance(value, str)
            return f"{name} is empty" if is_text else f"{name}: expected a text, got {value!r}"
    return f"no column path; has {', '.join(item)}"


def _decoded(path: Path) -> tuple[SoundFile, Clip]:
    """Return a file that was read to its end, and all of its samples."""
    regular(path)
    file = SoundFile(path)
    reader = file.open()
    return file, Clip(file.read(reader), reader.rate)


def _digest(clip: Clip) -> bytes:
    head = f"{clip.rate} {clip.samples.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(clip.samples).tobytes()).digest()[:16]
