"""Collecting texts: requests until enough of them pass, or attempts run out."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec

from reclap.checks import Finding
from reclap.io.settings import Positive, Settings
from reclap.llm import replies
from reclap.llm.acceptance import Criterion
from reclap.llm.request import Reply, Request, RequestError
from reclap.llm.session import Session
from reclap.llm.step import Messages, Step

__all__ = ["Accepted", "Collected", "Rejected", "Sampling", "collect"]

_TOKENS = (128, 64)  # of a reply: for any, and for each text
_SHOWN = 300  # characters of a rejected text that a report keeps


@dataclasses.dataclass(frozen=True)
class Sampling(Settings):
    """Sampling of a language model's replies.

    Parameters
    ----------
    temperature : float
        Sampling temperature; see `Request`.
    seed : int
        Seed of sampling; see `Request`.
    attempts : int
        Most attempts at each text, the first included.

    Examples
    --------
    >>> Sampling(temperature=0.5)
    Sampling(temperature=0.5, seed=0, attempts=4)
    """

    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] = 0.7
    seed: int = 0
    attempts: Positive = 4


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
    """A text that did not pass, or its first 300 characters, and why."""

    text: str
    reasons: tuple[str, ...]

    @classmethod
    def of(cls, text: str, findings: Sequence[Finding]) -> "Rejected":
        """Build the record of a rejected text."""
        return cls(text[:_SHOWN], tuple(map(str, findings)))


@dataclasses.dataclass
class Collected:
    """Texts collected for one purpose.

    Attributes
    ----------
    wanted : int
        Texts asked for.
    accepted : list of Accepted
        Accepted texts, at most `wanted`.
    rejected : list of Rejected
        Rejected texts, in the order of their replies.
    failure : str
        Why a request got no answer; empty if all did.
    """

    wanted: int = 0
    accepted: list[Accepted] = dataclasses.field(default_factory=list)
    rejected: list[Rejected] = dataclasses.field(default_factory=list)
    failure: str = ""

    @property
    def missing(self) -> int:
        """Number of texts that were wanted and not accepted."""
        return self.wanted - len(self.accepted)


def collect(
    llm: Session,
    steps: Sequence[Step],
    criterion: Criterion,
    sampling: Sampling,
    present: Sequence[str] = (),
) -> Collected:
    """Ask for texts step by step.

    Parameters
    ----------
    llm : Session
        Session with the language model; it counts the faults of replies.
    steps : sequence of Step
        Requests to make.
    criterion : callable
        Asked about each text.
    sampling : Sampling
        Temperature, seed and attempts.
    present : sequence of str
        Texts of the same purpose that are there already.

    Returns
    -------
    Collected
        Fewer texts than wanted if attempts ran out or a request failed.

    Raises
    ------
    StoppedError
        If nothing more can be asked.
    """
    result = Collected(wanted=sum(step.count for step in steps))
    asked = collections.Counter[Messages]()  # the same again must not bring the same text again
    for step in steps:
        messages = step.messages(step.count, ())
        first = asked[messages] * sampling.attempts
        asked[messages] += 1
        try:
            _fill(llm, step, criterion, sampling, present, result, first)
        except RequestError as error:
            result.failure = f"{error.kind}: {error}"
            break
    return result


def _fill(
    llm: Session,
    step: Step,
    criterion: Criterion,
    sampling: Sampling,
    present: Sequence[str],
    result: Collected,
    first: int,
) -> None:
    """Ask for the texts of one step."""
    before = len(result.accepted)
    for attempt in range(first, first + sampling.attempts):
        missing = step.count - (len(result.accepted) - before)
        if missing == 0:
            return
        texts = [*present, *(a.text for a in result.accepted)]
        request = _request(step, missing, texts, sampling, attempt)
        reply = llm.complete(request)
        origin = {"request": request.digest(llm.name), "attempt": attempt - first}
        for text in _read(llm, reply, step, missing):
            findings = criterion(text, [*present, *(a.text for a in result.accepted)])
            if any(finding.fatal for finding in findings):
                result.rejected.append(_reject(llm, text, findings))
            elif missing:
                missing -= 1
                flags = tuple(map(str, findings))
                result.accepted.append(Accepted(text, flags, {**origin, "date": reply.date}))


def _request(
    step: Step, missing: int, present: Sequence[str], sampling: Sampling, attempt: int
) -> Request:
    return Request(
        step.messages(missing, present),
        step.schema(missing),
        temperature=sampling.temperature,
        seed=sampling.seed,
        max_tokens=_TOKENS[0] + _TOKENS[1] * missing,
        attempt=attempt,
    )


def _read(llm: Session, reply: Reply, step: Step, missing: int) -> list[str]:
    """Return the texts of a reply; none, with a fault counted, if it cannot be used."""
    try:
        found = replies.read_texts(reply.text)
    except replies.ReplyError as error:
        llm.faults.add(error.kind if reply.complete else "truncated reply")
        return []
    size = len(step.patterns)
    if len(found) != missing * size:
        llm.faults.add("wrong count")
    ends = range(size, len(found) + 1, size)
    return [step.compose(found[end - size : end]) for end in ends]


def _reject(llm: Session, text: str, findings: Sequence[Finding]) -> Rejected:
    fatal = [finding for finding in findings if finding.fatal]
    for check in {finding.check for finding in fatal}:
        llm.faults.add(check)
    return Rejected.of(text, fatal)
