"""Asking until there are enough texts that pass, or it has been tried often enough."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reclap.checks import Finding
from reclap.llm import instructions, replies
from reclap.llm.instructions import Step
from reclap.llm.request import Request, RequestError
from reclap.llm.session import Session

__all__ = ["Accepted", "Gathered", "Rejected", "Sampling", "gather"]

_LONGEST = 200  # characters of a small model's text, which may not find its end
_SMALL_TOKENS = 96
_TOKENS = (128, 64)  # of a reply: for any, and for each text

Judge = Callable[[str], Sequence[Finding]]


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a model is asked.

    Attributes
    ----------
    temperature : float
        See `Request`.
    seed : int
        See `Request`.
    attempts : int
        How often each thing is asked at most, the first time included.
    """

    temperature: float = 0.7
    seed: int = 0
    attempts: int = 4


@dataclasses.dataclass(frozen=True)
class Accepted:
    """A text that passed.

    Attributes
    ----------
    text : str
        One line.
    flags : tuple of str
        Doubts that a person should look at, as ``check: reason``.
    origin : mapping
        Digest of the request, attempt, date.
    """

    text: str
    flags: tuple[str, ...]
    origin: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Rejected:
    """A text that did not pass, and why."""

    text: str
    reasons: tuple[str, ...]


@dataclasses.dataclass
class Gathered:
    """Texts of one purpose.

    Attributes
    ----------
    wanted : int
        Texts asked for.
    accepted : list of Accepted
        At most `wanted`.
    rejected : list of Rejected
        In the order of their replies.
    failure : str
        Why a request got no answer; empty if all did.
    """

    wanted: int = 0
    accepted: list[Accepted] = dataclasses.field(default_factory=list)
    rejected: list[Rejected] = dataclasses.field(default_factory=list)
    failure: str = ""

    @property
    def missing(self) -> int:
        """Texts that were asked for and are not there."""
        return self.wanted - len(self.accepted)


def gather(
    llm: Session,
    steps: Sequence[Step],
    judge: Judge,
    sampling: Sampling,
    taken: Sequence[str] = (),
) -> Gathered:
    """Ask for texts step by step.

    Parameters
    ----------
    llm : Session
        Whom to ask; faults of its replies are counted there.
    steps : sequence of Step
        What to ask.
    judge : callable
        Findings about a text; a fatal one rejects it.
    sampling : Sampling
        How to ask, and how often.
    taken : sequence of str
        Texts that must not come again.

    Returns
    -------
    Gathered
        Fewer texts than wanted if attempts ran out or a request failed.

    Raises
    ------
    StoppedError
        If nothing more can be asked.
    """
    result = Gathered(wanted=sum(step.count for step in steps))
    seen = {_plain(text) for text in taken}
    repeated = 0  # the same step again must not give the same text again
    for place, step in enumerate(steps):
        repeated = repeated + 1 if place and step == steps[place - 1] else 0
        try:
            _fill(llm, step, judge, sampling, seen, result, repeated * sampling.attempts)
        except RequestError as error:
            result.failure = f"{error.kind}: {error}"
    return result


def _fill(
    llm: Session,
    step: Step,
    judge: Judge,
    sampling: Sampling,
    seen: set[str],
    result: Gathered,
    first: int,
) -> None:
    """Ask for the texts of one step."""
    before = len(result.accepted)
    for attempt in range(first, first + sampling.attempts):
        missing = step.count - (len(result.accepted) - before)
        if missing == 0:
            return
        present = [a.text for a in result.accepted]
        request = _request(llm, step.messages(missing, present), missing, sampling, attempt)
        reply = llm.complete(request)
        origin = {"request": request.digest(llm.name), "attempt": attempt - first}
        for text in _read(llm, reply.text, reply.complete, missing):
            reasons, flags = _verdict(text, judge, seen)
            if reasons:
                result.rejected.append(Rejected(text, reasons))
                for reason in reasons:
                    llm.faults.add(reason.partition(":")[0])
            elif missing:
                missing -= 1
                seen.add(_plain(text))
                result.accepted.append(Accepted(text, flags, {**origin, "date": reply.date}))


def _request(
    llm: Session,
    messages: instructions.Messages,
    count: int,
    sampling: Sampling,
    attempt: int,
) -> Request:
    return Request(
        messages,
        instructions.schema(count, _LONGEST if llm.small else None),
        temperature=sampling.temperature,
        seed=sampling.seed,
        max_tokens=_SMALL_TOKENS if llm.small else _TOKENS[0] + _TOKENS[1] * count,
        attempt=attempt,
    )


def _read(llm: Session, reply: str, complete: bool, count: int) -> list[str]:
    """Return the texts of a reply; none, and a fault counted, if it is of no use."""
    try:
        texts = replies.read_texts(reply)
    except replies.ReplyError as error:
        llm.faults.add(error.kind if complete else "truncated reply")
        return []
    if len(texts) != count:
        llm.faults.add("wrong count")
    return texts


def _verdict(
    text: str, judge: Judge, seen: set[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return why a text is rejected, and what to flag if it is not."""
    findings = judge(text)
    fatal = [f"{f.check}: {f.reason}" for f in findings if f.fatal]
    if _plain(text) in seen:
        fatal.append("duplicate: there is one with the same words")
    return tuple(fatal), tuple(f"{f.check}: {f.reason}" for f in findings if not f.fatal)


def _plain(text: str) -> str:
    """Return the words of a text, for comparison."""
    return " ".join(re.findall(r"\w+", text.casefold()))
