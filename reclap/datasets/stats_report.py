"""What a data set holds, for machines and people."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from reclap.errors import counted

__all__ = ["Count", "StatsReport", "TextCount"]

_SHOWN = 12  # values of a column, in the readable text
_TITLES = ("split", "group", "kind", "licence")


@dataclasses.dataclass(frozen=True)
class Count:
    """How much there is of one value of a column.

    Parameters
    ----------
    rows, files, sources : int
        Number of rows, of different sound files, of different sources.
    seconds : float
        Length of the rows' sounds, of those whose length is known.

    Examples
    --------
    >>> str(Count(3, 2, 1, 90.0))
    '3 rows, 2 files, 1 source, 1.5 minutes'
    """

    rows: int
    files: int
    sources: int
    seconds: float

    def __str__(self) -> str:
        """Return one line for a person."""
        named = {"row": self.rows, "file": self.files, "source": self.sources}
        parts = [counted(n, name) for name, n in named.items()]
        return f"{', '.join(parts)}, {self.seconds / 60:.1f} minutes"


@dataclasses.dataclass(frozen=True)
class TextCount:
    """Captions and their words; a list that many rows share counts once.

    Parameters
    ----------
    per_clip : dict of int to int
        Number of rows by their number of captions.
    captions, rewrites : int
        Number of texts.
    words : dict of int to int
        Number of captions by their number of words.
    vocabulary : int
        Number of different words in captions and rewrites.
    common : dict of str to int
        The most frequent words that are not grammar.

    Examples
    --------
    >>> texts = TextCount({1: 2}, 2, 0, {3: 1, 5: 1}, 7, {"rain": 2})
    >>> texts.mean_words
    4.0
    """

    per_clip: Mapping[int, int]
    captions: int
    rewrites: int
    words: Mapping[int, int]
    vocabulary: int
    common: Mapping[str, int]

    @property
    def mean_words(self) -> float:
        """Mean number of words of a caption; 0 without captions."""
        total = sum(self.words.values())
        return sum(size * count for size, count in self.words.items()) / total if total else 0.0


@dataclasses.dataclass(frozen=True)
class StatsReport:
    """Counts of a data set.

    Parameters
    ----------
    total : Count
        Of all rows.
    columns : dict of str to dict of str to Count
        By split, kind, group and licence, each by value.
    unknown : int
        Number of rows whose length is not known.
    rates, channel_counts, formats : dict
        Number of files by sample rate in Hz, by channels, by suffix.
    unread : int
        Number of files whose header cannot be read.
    texts : TextCount
        Captions.
    repeated : int
        Number of rows whose id a list has more than once; they count once.

    Examples
    --------
    >>> texts = TextCount({0: 1}, 0, 0, {}, 0, {})
    >>> one = Count(1, 1, 0, 5.0)
    >>> columns = {"split": {"a": one}}
    >>> report = StatsReport(one, columns, 0, {16000: 1}, {1: 1}, {".wav": 1}, 0, texts)
    >>> report.to_json()["columns"]["split"]["a"]["seconds"]
    5.0
    """

    total: Count
    columns: Mapping[str, Mapping[str, Count]]
    unknown: int
    rates: Mapping[int, int]
    channel_counts: Mapping[int, int]
    formats: Mapping[str, int]
    unread: int
    texts: TextCount
    repeated: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the report as a JSON object.

        Returns
        -------
        dict
            All counts; keys of numbers become texts in JSON.
        """
        return dataclasses.asdict(self) | {"mean_words": round(self.texts.mean_words, 2)}

    def __str__(self) -> str:
        """Return a page for a person."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        unknown = f" ({counted(self.unknown, 'row')} of unknown length)" if self.unknown else ""
        yield f"{self.total}{unknown}"
        for title, counts in (("rates", self.rates), ("channels", self.channel_counts)):
            if counts:
                shown = ", ".join(f"{value}: {n}" for value, n in sorted(counts.items()))
                yield f"{title} of files: {shown}"
        yield "formats of files: " + ", ".join(
            f"{k or 'none'}: {n}" for k, n in self.formats.items()
        )
        if self.repeated:
            yield f"ids that a list has more than once: {self.repeated}"
        if self.unread:
            yield f"files that cannot be read: {self.unread}"
        yield from self._captions()
        for title in _TITLES:
            values = self.columns.get(title, {})
            if not values:
                continue
            yield f"{title}: {len(values)}"
            most = sorted(values.items(), key=lambda pair: (-pair[1].rows, pair[0]))
            width = max(len(name) for name, _ in most[:_SHOWN])
            yield from (f"  {name:{width}}  {count}" for name, count in most[:_SHOWN])
            if len(most) > _SHOWN:
                yield f"  and {len(most) - _SHOWN} more, the least {most[-1][0]} with {most[-1][1]}"

    def _captions(self) -> Iterator[str]:
        texts = self.texts
        clips = ", ".join(f"{n}: {rows}" for n, rows in sorted(texts.per_clip.items())[:_SHOWN])
        yield f"captions: {texts.captions}, rewrites: {texts.rewrites}; rows by captions: {clips}"
        if texts.captions:
            least, most = min(texts.words), max(texts.words)
            yield (
                f"words of a caption: {texts.mean_words:.1f} in the mean, {least} to {most}; "
                f"vocabulary: {texts.vocabulary}"
            )
            yield "frequent: " + ", ".join(f"{word} {n}" for word, n in texts.common.items())
