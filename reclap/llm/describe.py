"""Description of labels by a language model: how each sounds, then captions in which it does.

ReCLAP, arXiv 2409.09213, section 3.2: t descriptions for each label, n captions for each of them.
"""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reclap.checks import Sense, check_bank
from reclap.checks.form import check_injection
from reclap.checks.labels import phrase
from reclap.checks.words import key
from reclap.errors import FormatError
from reclap.io.files import StrPath
from reclap.io.settings import Positive, Settings
from reclap.llm import instructions
from reclap.llm.acceptance import description_criterion, prompt_criterion
from reclap.llm.collect import Collected, Rejected, Sampling, collect
from reclap.llm.parallel import results_of
from reclap.llm.report import Estimate, Item, Report
from reclap.llm.session import Session
from reclap.llm.step import prompt_tokens
from reclap.prompts.bank import PromptBank
from reclap.prompts.entries import Description, Entry, Prompt
from reclap.runtime import progress as bars
from reclap.text.tokenizer import check_texts

__all__ = ["Plan", "describe", "estimate", "read_labels"]

_REPLY_TOKENS = 40  # of a text and its key, for the estimate


@dataclasses.dataclass(frozen=True)
class Plan(Settings):
    """Numbers of texts that `describe` asks for, and how it asks.

    Parameters
    ----------
    descriptions : int
        Descriptions of each label; t in ReCLAP, where it is 5.
    prompts : int
        Captions of each description; n in ReCLAP, where it is 10.
    sampling : Sampling
        Temperature, seed and attempts.
    workers : int
        Labels asked for concurrently; the result does not depend on it.

    Examples
    --------
    >>> Plan(descriptions=2, prompts=3).workers
    8
    """

    descriptions: Positive = 5
    prompts: Positive = 10
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    workers: Positive = 8


@dataclasses.dataclass(frozen=True)
class _Draft:
    """The texts of a label so far.

    Attributes
    ----------
    entry : Entry
        The accepted texts.
    item : Item
        The label in the report.
    turn : int
        Number of passes over the label before this one.
    gone : tuple of str
        Captions that were dropped and must not come again.
    """

    entry: Entry
    item: Item
    turn: int = 0
    gone: tuple[str, ...] = ()


def describe(
    labels: Sequence[str] | Mapping[str, str],
    llm: Session,
    plan: Plan | None = None,
    *,
    name: str = "described",
    sense: Sense | None = None,
    partial: dict[str, Entry] | None = None,
    progress: bool = False,
) -> tuple[PromptBank, Report]:
    """Make a bank of prompts for labels.

    A run that was stopped or killed is continued by calling this again: what was answered stands
    in the session's cache, and the result equals that of an uninterrupted run.

    Parameters
    ----------
    labels : sequence of str, or mapping of str to str
        Labels, or labels and what each means (``{"crane": "bird"}``; may be empty). Underscores
        are read as spaces.
    llm : Session
        Session with the language model; from `open_llm`.
    plan : Plan, optional
        How many texts, and how to ask.
    name : str
        Name of the bank.
    sense : Sense, optional
        Lets the checks compare meanings too; see `reclap.checks.load_sense`.
    partial : dict, optional
        Filled label by label, so that there is something to look at when the run is stopped.
    progress : bool
        Show a bar on standard error.

    Returns
    -------
    bank : PromptBank
        Labels in their order. Each text has as origin the digest of its request, the attempt and
        the date. A label for which attempts ran out has fewer texts than wanted.
    report : Report
        One item for each label with texts missing or rejected, and what `reclap.checks.check_bank`
        says of the whole bank.

    Raises
    ------
    TypeError, ValueError
        If there is no label; if one is empty, comes twice, or speaks to the language model.
    StoppedError
        If the budget is spent, the key refused, or the server gone.
    """
    plan = Plan() if plan is None else plan
    names = check_texts(list(labels) if isinstance(labels, Mapping) else labels, "labels")
    twice = sorted(label for label, count in Counter(names).items() if count > 1)
    if twice:
        raise ValueError(f"labels: {twice[0]!r} more than once")
    meanings = labels if isinstance(labels, Mapping) else dict.fromkeys(names, "")
    for label in names:
        _refuse_injection(label, meanings[label])
    entries = {} if partial is None else partial
    report = Report(_provenance(llm, plan))
    writer = _Writer(llm, plan, meanings, sense)
    wanted = plan.descriptions * (1 + plan.prompts)
    todo = [_Draft(Entry(label, meanings[label]), Item(label, wanted, 0)) for label in names]
    drafts = dict[str, _Draft]()
    with bars.bar(len(names), "label", shown=progress) as bar:
        for label, one in writer.complete_all(todo):
            drafts[label], entries[label] = one, one.entry
            bar.update()
    _replace_repeats(writer, drafts)
    for label, one in drafts.items():
        entries[label] = one.entry
        report.add(one.item)
    report.close(llm)
    bank = PromptBank(name, {**report.made, "date": _last_date(entries)}, entries)
    bank, checked = check_bank(bank, sense)  # now also across labels
    report.flagged, report.bank = len(checked.flagged), checked.to_json()
    return bank, report


def _refuse_injection(label: str, meaning: str) -> None:
    if doubts := check_injection(f"{label}\n{meaning}"):
        raise ValueError(f"labels: {label!r}: {doubts[0]}")


def _provenance(llm: Session, plan: Plan) -> dict[str, Any]:
    return {
        "by": "reclap describe",
        "model": llm.name,
        "instructions": instructions.VERSION,
        "settings": {
            "descriptions": plan.descriptions,
            "prompts": plan.prompts,
            "temperature": plan.sampling.temperature,
            "attempts": plan.sampling.attempts,
            "small": llm.small,
        },
        "seed": plan.sampling.seed,
    }


def _last_date(entries: Mapping[str, Entry]) -> str:
    """Return the date of the newest text, which a rerun does not change."""
    origins = [d.origin for entry in entries.values() for d in entry.descriptions]
    origins += [p.origin for entry in entries.values() for p in entry.in_use]
    return max((origin["date"] for origin in origins), default="")


@dataclasses.dataclass(frozen=True)
class _Writer:
    """Generator of the texts of one label."""

    llm: Session
    plan: Plan
    meanings: Mapping[str, str]
    sense: Sense | None

    def complete_all(self, todo: Sequence[_Draft]) -> Iterator[tuple[str, _Draft]]:
        """Yield labels, in order, with their completed drafts."""
        found = results_of(
            self._complete, todo, self.llm, self.plan.workers, lambda draft: draft.item.failure
        )
        with contextlib.closing(found):
            for draft in found:
                yield draft.entry.label, draft

    def _complete(self, draft: _Draft) -> _Draft:
        """Ask for the missing texts of a label: descriptions, then captions of each."""
        entry, sampling = draft.entry, self.plan.sampling
        seed = sampling.seed + draft.turn * sampling.attempts
        sampling = dataclasses.replace(sampling, seed=seed)
        part = self._descriptions(entry, sampling)
        rejected, failure = [*draft.item.rejected, *part.rejected], part.failure
        new = (Description(a.text, (), "new", a.flags, a.origin) for a in part.accepted)
        descriptions = [*entry.descriptions, *new]
        present = [*draft.gone, *(p.text for p in entry.in_use)]
        for n, found in enumerate(descriptions):
            if failure:
                break
            part = self._captions(entry, found, present, sampling)
            present += [a.text for a in part.accepted]
            prompts = (Prompt(a.text, "new", a.flags, a.origin) for a in part.accepted)
            descriptions[n] = dataclasses.replace(found, prompts=(*found.prompts, *prompts))
            rejected, failure = [*rejected, *part.rejected], part.failure
        entry = dataclasses.replace(entry, descriptions=tuple(descriptions))
        item = dataclasses.replace(
            draft.item, accepted=_count(entry), rejected=tuple(rejected), failure=failure
        )
        return dataclasses.replace(draft, entry=entry, item=item)

    def _descriptions(self, entry: Entry, sampling: Sampling) -> Collected:
        label, meaning = entry.label, entry.definition
        present = [d.text for d in entry.descriptions]
        missing = self.plan.descriptions - len(present)
        steps = instructions.description_steps(
            phrase(label), meaning, missing, small=self.llm.small
        )
        criterion = description_criterion(label, meaning, self._others(label), self.sense)
        return collect(self.llm, steps, criterion, sampling, present)

    def _captions(
        self, entry: Entry, found: Description, present: Sequence[str], sampling: Sampling
    ) -> Collected:
        """Ask for captions that differ from those present, which the model does not see."""
        label, meaning = entry.label, entry.definition
        missing = self.plan.prompts - len(found.prompts)
        steps = instructions.caption_steps(
            phrase(label), meaning, found.text, missing, small=self.llm.small
        )
        criterion = prompt_criterion(label, meaning, self._others(label), self.sense, present)
        return collect(self.llm, steps, criterion, sampling)

    def _others(self, label: str) -> list[str]:
        return [other for other in self.meanings if other != label]


def _count(entry: Entry) -> int:
    return sum(1 + len(description.prompts) for description in entry.descriptions)


# ---- Captions that two labels have ---------------------------------------------------------------


def _replace_repeats(writer: _Writer, drafts: dict[str, _Draft]) -> None:
    """Drop captions that have the words of an earlier label's, and ask for others.

    They show only when all labels are there. Asking ends with the attempts; what repeats then is
    missing.
    """
    attempts = writer.plan.sampling.attempts
    for turn in range(1, attempts + 1):
        repeats = _repeats([one.entry for one in drafts.values()])
        for label, reasons in repeats.items():
            drafts[label] = _without(drafts[label], reasons, turn)
            writer.llm.faults.add("duplicate", len(reasons))
        if turn < attempts:
            drafts.update(writer.complete_all([drafts[label] for label in repeats]))


def _repeats(entries: Sequence[Entry]) -> dict[str, dict[str, str]]:
    """Return, by label, the captions that have the words of an earlier label's, and the reasons."""
    first: dict[str, str] = {}
    found: dict[str, dict[str, str]] = {}
    for entry in entries:
        for prompt in entry.in_use:
            owner = first.setdefault(key(prompt.text), entry.label)
            if owner != entry.label:
                reason = f"duplicate: has the words of a caption of {owner!r}"
                found.setdefault(entry.label, {})[prompt.text] = reason
    return found


def _without(draft: _Draft, reasons: Mapping[str, str], turn: int) -> _Draft:
    """Return the draft of a label without some captions, which are reported."""
    descriptions = tuple(
        dataclasses.replace(d, prompts=tuple(p for p in d.prompts if p.text not in reasons))
        for d in draft.entry.descriptions
    )
    entry = dataclasses.replace(draft.entry, descriptions=descriptions)
    dropped = (Rejected(text, (reason,)) for text, reason in reasons.items())
    rejected = (*draft.item.rejected, *dropped)
    item = dataclasses.replace(draft.item, accepted=_count(entry), rejected=rejected)
    return _Draft(entry, item, turn, (*draft.gone, *reasons))


def estimate(labels: Mapping[str, str], plan: Plan, *, small: bool) -> Estimate:
    """Estimate the requests and tokens of `describe`."""
    typical = "a sentence of about twenty words that stands for one which is not there yet"
    requests = prompt = 0
    for label, definition in labels.items():
        words = phrase(label)
        first = instructions.description_steps(words, definition, plan.descriptions, small=small)
        second = instructions.caption_steps(words, definition, typical, plan.prompts, small=small)
        requests += len(first) + plan.descriptions * len(second)
        prompt += prompt_tokens(first)
        prompt += plan.descriptions * prompt_tokens(second)
    texts = len(labels) * plan.descriptions * (1 + plan.prompts)
    return Estimate(len(labels), texts, requests, prompt, texts * _REPLY_TOKENS)


def read_labels(name_or_path: StrPath) -> dict[str, str]:
    """Read labels and their definitions.

    Parameters
    ----------
    name_or_path : str or path
        Name of a bank that comes with the package, or a text file: one label a line; what it
        means may follow after a tab, or after a colon and a space (``crane: bird``).

    Raises
    ------
    FileNotFoundError
        If it is neither.
    FormatError
        Naming file and line: not UTF-8, no label, or one twice.
    """
    path = Path(name_or_path)
    if not path.is_file():
        bank = PromptBank.load(name_or_path)
        return {label: entry.definition for label, entry in bank.entries.items()}
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: not UTF-8: {error}") from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        label, _, meaning = line.strip().partition("\t" if "\t" in line else ": ")
        label = label.strip()
        if label in found:
            raise FormatError(f"{path}:{number}: {label!r} more than once")
        if label:
            found[label] = meaning.strip()
    if not found:
        raise FormatError(f"{path}: no label")
    return found
