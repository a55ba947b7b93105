"""What an audit found, for machines and people."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from reclap.errors import counted

__all__ = ["LEAKS", "AuditReport", "Leak"]

LEAKS = {
    "id": "rows with the same id, or one that a list has twice",
    "file": "rows of the same sound file",
    "bytes": "sound files with the same content",
    "copy": "sound files of the same recording, by fingerprint",
    "source": "rows of the same source",
    "caption": "rows of different files with the same caption of their own",
}
_SHOWN = 8  # of a kind, in the readable text
_PAIRS = 6  # pairs of splits of a kind, in the readable text


@dataclasses.dataclass(frozen=True)
class Leak:
    """What two splits share, or what comes twice in one.

    Parameters
    ----------
    check : str
        Which check found it: a key of `LEAKS`.
    splits : tuple of str
        Names of both splits; of one, twice, for a duplicate within it.
    first, second : str
        File and line of a row of each split, and its sound; the same for an id that a list has
        twice.
    what : str
        The id, source or caption; the coherence of copies; empty for files.
    rows : int
        Number of rows of both splits that share it; of copies and contents, of files; of an id
        that a list has twice, how often.

    Examples
    --------
    >>> leak = Leak("source", ("train", "test"), "a.csv:2: x.wav", "b.csv:9: y.wav", "s1", 5)
    >>> leak.is_between
    True
    >>> str(leak)
    "train and test: a.csv:2: x.wav and b.csv:9: y.wav: 's1', 5 in all"
    """

    check: str
    splits: tuple[str, str]
    first: str
    second: str
    what: str = ""
    rows: int = 2

    @property
    def is_between(self) -> bool:
        """Whether it is between two splits, not within one."""
        return self.splits[0] != self.splits[1]

    def __str__(self) -> str:
        """Return one line for a person."""
        what = self.what if self.check == "copy" else repr(self.what) if self.what else ""
        more = f"{self.rows} in all" if self.rows > 2 else ""
        if self.first == self.second:
            more = f"{self.rows} times in the list"
        tail = ", ".join(part for part in (what, more) if part)
        where = " and ".join(dict.fromkeys(self.splits))
        rows = " and ".join(dict.fromkeys((self.first, self.second)))
        return f"{where}: {rows}{': ' if tail else ''}{tail}"


@dataclasses.dataclass(frozen=True)
class AuditReport:
    """Report of an audit.

    Parameters
    ----------
    splits : dict of str to int
        Number of rows of each split.
    files : int
        Number of different sound files.
    counts : dict
        Number of findings by check and pair of splits.
    leaks : tuple of Leak
        The findings, at most a given number for each check, between splits and within one.
    unread : int
        Number of sound files that could not be read, and were not compared.
    unread_files : tuple of str
        The first of them, with reasons.
    apart : tuple of tuple of str
        Families of splits that were not compared with each other, by design: the folders of each
        folder of lists.

    Examples
    --------
    >>> report = AuditReport({"train": 9, "test": 3}, 12, {("id", "train", "test"): 1}, (), 0, ())
    >>> report.between, report.within, report.is_clean
    ({'id': 1}, {}, False)
    >>> report.to_json()["between"]
    {'id': 1}
    """

    splits: Mapping[str, int]
    files: int
    counts: Mapping[tuple[str, str, str], int]
    leaks: tuple[Leak, ...]
    unread: int
    unread_files: tuple[str, ...]
    apart: tuple[tuple[str, ...], ...] = ()

    @property
    def between(self) -> dict[str, int]:
        """Number of findings between splits that each check has."""
        return self._by_check(between=True)

    @property
    def within(self) -> dict[str, int]:
        """Number of findings within a split that each check has."""
        return self._by_check(between=False)

    @property
    def is_clean(self) -> bool:
        """Whether all files were read, and nothing was found."""
        return not self.counts and not self.unread

    def _by_check(self, *, between: bool) -> dict[str, int]:
        totals = {
            check: sum(
                count
                for (own, a, b), count in self.counts.items()
                if own == check and (a != b) == between
            )
            for check in LEAKS
        }
        return {check: count for check, count in totals.items() if count}

    def to_json(self) -> dict[str, Any]:
        """Return the report as a JSON object.

        Returns
        -------
        dict
            Counts, and the findings under ``leaks``.
        """
        return {
            "splits": dict(self.splits),
            "files": self.files,
            "clean": self.is_clean,
            "between": self.between,
            "within": self.within,
            "counts": [
                {"check": check, "splits": [a, b], "count": count}
                for (check, a, b), count in self.counts.items()
            ],
            "leaks": [dataclasses.asdict(leak) for leak in self.leaks],
            "unread": self.unread,
            "unread_files": list(self.unread_files),
            "apart": [list(families) for families in self.apart],
        }

    def __str__(self) -> str:
        """Return a page for a person: counts, then the first findings of each kind."""
        rows = ", ".join(f"{name} {count}" for name, count in self.splits.items())
        lines = [f"{counted(self.files, 'sound file')}; rows: {rows}"]
        lines += self._part("Between splits", self.between, between=True)
        lines += self._part("Within a split", self.within, between=False)
        if self.unread:
            lines.append(f"not compared: {counted(self.unread, 'file')} that cannot be read")
            lines += [f"  {text}" for text in self.unread_files[:_SHOWN]]
            lines += _rest(self.unread - _SHOWN)
        lines += ["nothing found"] if len(lines) == 1 else []
        lines += [f"not compared by design: {', '.join(families)}" for families in self.apart]
        return "\n".join(lines)

    def _part(self, title: str, found: Mapping[str, int], *, between: bool) -> Iterator[str]:
        if found:
            yield f"{title}:"
        for check, count in found.items():
            pairs = [
                (f"{a} and {b}" if between else a, n)
                for (own, a, b), n in self.counts.items()
                if own == check and (a != b) == between
            ]
            pairs.sort(key=lambda pair: -pair[1])
            shown = ", ".join(f"{name}: {n}" for name, n in pairs[:_PAIRS])
            more = ", ..." if len(pairs) > _PAIRS else ""
            yield f"{check}: {count}, {LEAKS[check]} ({shown}{more})"
            own = [x for x in self.leaks if x.check == check and x.is_between == between]
            for leak in own[:_SHOWN]:
                yield f"  {leak}"
            yield from _rest(count - _SHOWN)


def _rest(count: int) -> list[str]:
    return [f"  and {count} more"] if count > 0 else []
