"""Report of a run of `describe` or `rewrite`, for people and for programs."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from reclap.llm.collect import Rejected
from reclap.llm.session import Session

__all__ = ["Estimate", "Item", "Report"]

_LISTED = 1000  # items with something to say that a report holds
_SHOWN = 20  # of them in its text


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Cost of a run if every reply is good and none is cached.

    Attributes
    ----------
    items, texts : int
        Labels or rows; texts wanted.
    requests, prompt_tokens, completion_tokens : int
        Estimates.
    """

    items: int
    texts: int
    requests: int
    prompt_tokens: int
    completion_tokens: int

    def text(self) -> str:
        """Return the estimate as a line for people."""
        return (
            f"{self.texts} texts for {self.items} items: about {self.requests} requests, "
            f"{self.prompt_tokens} prompt tokens, {self.completion_tokens} completion tokens; "
            f"repeated requests come on top, cached replies cost nothing"
        )


@dataclasses.dataclass(frozen=True)
class Item:
    """A label or a row that is incomplete or lost texts.

    Attributes
    ----------
    name : str
        The label, or file and line.
    wanted, accepted : int
        Texts asked for and kept.
    rejected : tuple of Rejected
        Texts that were dropped, and why.
    failure : str
        Why a request got no answer; may be empty.
    """

    name: str
    wanted: int
    accepted: int
    rejected: tuple[Rejected, ...] = ()
    failure: str = ""


@dataclasses.dataclass
class Report:
    """Report of a run: counts, and the items that are incomplete or lost texts on the way.

    Parameters
    ----------
    made : mapping
        Provenance: model, settings, date.
    items, incomplete, wanted, accepted, rejected, flagged : int
        Labels or rows; those with texts missing; texts asked for, kept, dropped, and kept with
        a doubt.
    usage, faults : mapping of str to int
        See `Session`.
    listed : list of Item
        Items with missing or rejected texts, in order, at most a thousand.
    bank : mapping, optional
        Report of `reclap.checks.check_bank` for `describe`, with how often words, phrases and
        places come back.

    Examples
    --------
    >>> from reclap.llm.report import Item
    >>> report = Report({"model": "some-model"})
    >>> report.add(Item("rain", wanted=2, accepted=1))
    >>> print(report.text())
    1 of 2 texts for 1 items; 0 rejected, 0 flagged, 1 items incomplete
    usage: none
    faults: none
    rain: 1 of 2: no usable reply
    >>> report.to_json()["made"]
    {'model': 'some-model'}
    """

    made: Mapping[str, Any]
    items: int = 0
    incomplete: int = 0
    wanted: int = 0
    accepted: int = 0
    rejected: int = 0
    flagged: int = 0
    usage: Mapping[str, int] = dataclasses.field(default_factory=dict)
    faults: Mapping[str, int] = dataclasses.field(default_factory=dict)
    listed: list[Item] = dataclasses.field(default_factory=list)
    bank: Mapping[str, Any] | None = None

    def add(self, item: Item, flagged: int = 0) -> None:
        """Count an item.

        Parameters
        ----------
        item : Item
            A label or a row.
        flagged : int
            Number of its texts that are kept with a doubt.
        """
        self.items += 1
        self.incomplete += item.accepted < item.wanted
        self.wanted += item.wanted
        self.accepted += item.accepted
        self.rejected += len(item.rejected)
        self.flagged += flagged
        if (item.accepted < item.wanted or item.rejected) and len(self.listed) < _LISTED:
            self.listed.append(item)

    def close(self, llm: Session) -> None:
        """Take over the counts of a session.

        Parameters
        ----------
        llm : Session
            The session that was used.

        Examples
        --------
        >>> from reclap.llm import Cache, Session
        >>> report = Report({})
        >>> with Session(None, Cache("replies.sqlite"), name="some-model") as llm:
        ...     report.close(llm)
        >>> report.usage
        {}
        """
        self.usage, self.faults = llm.usage.counts(), llm.faults.counts()

    def to_json(self) -> dict[str, Any]:
        """Return the report as a JSON object.

        Returns
        -------
        dict
            Field names to values.
        """
        return dataclasses.asdict(self)

    def text(self) -> str:
        """Return a summary for people, with up to twenty incomplete items.

        Returns
        -------
        str
            Several lines.
        """
        lines = [
            f"{self.accepted} of {self.wanted} texts for {self.items} items; "
            f"{self.rejected} rejected, {self.flagged} flagged, {self.incomplete} items incomplete",
            f"usage: {_list(self.usage)}",
            f"faults: {_list(self.faults)}",
        ]
        short = [item for item in self.listed if item.accepted < item.wanted]
        for item in short[:_SHOWN]:
            why = item.failure or "; ".join(r for x in item.rejected[-2:] for r in x.reasons)
            lines.append(
                f"{item.name}: {item.accepted} of {item.wanted}: {why or 'no usable reply'}"
            )
        if self.incomplete > _SHOWN:
            lines.append(f"... and {self.incomplete - _SHOWN} more")
        return "\n".join(lines)


def _list(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
