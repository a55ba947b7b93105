"""Checks of a whole prompt bank."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from reclap.checks.distribution import measure_distribution
from reclap.checks.duplicates import find_duplicates
from reclap.checks.finding import CHECKS, Finding
from reclap.checks.form import check_form, is_readable
from reclap.checks.labels import check_labels
from reclap.checks.report import Flagged, Report
from reclap.checks.similarity import Sense
from reclap.prompts.bank import PromptBank
from reclap.prompts.entries import Description, Entry, Prompt

__all__ = ["check_bank"]

_Position = tuple[str, int, int]  # label, description, prompt; -1 for the description itself
_Found = dict[_Position, list[Finding]]


def check_bank(bank: PromptBank, sense: Sense | None = None) -> tuple[PromptBank, Report]:
    """Check all texts of a bank that are not rejected, by themselves and beside each other.

    Parameters
    ----------
    bank : PromptBank
        Tens of thousands of prompts are fine.
    sense : Sense, optional
        Similarity of meaning; without it only words are compared.

    Returns
    -------
    bank : PromptBank
        The bank with flags: those of these checks are replaced, others are kept.
    report : Report
        Findings, and how often words and phrases come back.

    Examples
    --------
    >>> bank = PromptBank.from_prompts({"dog": ["a dog barks in a", "a gruff dog barks"]})
    >>> checked, report = check_bank(bank)
    >>> [prompt.flags for prompt in checked.entries["dog"].in_use]
    [("unfinished: ends with 'a'",), ()]
    >>> report.by_check
    {'unfinished': 1}
    """
    texts = {
        position: text for label in bank.labels for position, text in _texts(bank.entries[label])
    }
    found: _Found = {
        position: check_form(text, _kind(position)) for position, text in texts.items()
    }
    readable = {position: text for position, text in texts.items() if is_readable(found[position])}
    if sense is not None and readable:
        sense.rows(list(readable.values()))  # in one go, which is faster
    for label in bank.labels:
        _add_labels(bank, label, readable, found, sense)
    _add_duplicates(readable, found, sense)
    checked = bank.replace(
        entries={label: _flagged(entry, found) for label, entry in bank.entries.items()}
    )
    return checked, _report(bank, texts, found)


def _kind(position: _Position) -> str:
    return "description" if position[2] < 0 else "prompt"


def _texts(entry: Entry) -> Iterator[tuple[_Position, str]]:
    """Yield the texts of a label that are in use."""
    for n, description in enumerate(entry.descriptions):
        if description.status == "rejected":
            continue
        if description.text:
            yield (entry.label, n, -1), description.text
        for i, prompt in enumerate(description.prompts):
            if prompt.status != "rejected":
                yield (entry.label, n, i), prompt.text


def _add_labels(
    bank: PromptBank, label: str, texts: Mapping[_Position, str], found: _Found, sense: Sense | None
) -> None:
    definition = bank.entries[label].definition
    for kind in ("description", "prompt"):
        own = (position for position, _ in _texts(bank.entries[label]) if position in texts)
        positions = [position for position in own if _kind(position) == kind]
        results = check_labels(
            [texts[position] for position in positions],
            label,
            kind,
            definition=definition,
            others=bank.labels,
            sense=sense,
        )
        for position, findings in zip(positions, results, strict=True):
            found[position] += findings


def _add_duplicates(texts: Mapping[_Position, str], found: _Found, sense: Sense | None) -> None:
    """Compare descriptions with descriptions and prompts with prompts, across all labels."""
    for kind in ("description", "prompt"):
        positions = [position for position in texts if _kind(position) == kind]
        repeats = find_duplicates([texts[position] for position in positions], sense)
        for i, (j, how) in repeats.items():
            first = positions[j]
            of = "" if first[0] == positions[i][0] else f" of {first[0]!r}"
            found[positions[i]].append(Finding("duplicate", f"{how} {texts[first]!r}{of}"))


def _flagged(entry: Entry, found: _Found) -> Entry:
    descriptions = []
    for n, description in enumerate(entry.descriptions):
        prompts = tuple(
            dataclasses.replace(prompt, flags=_flags(prompt, found.get((entry.label, n, i))))
            for i, prompt in enumerate(description.prompts)
        )
        flags = _flags(description, found.get((entry.label, n, -1)))
        descriptions.append(dataclasses.replace(description, prompts=prompts, flags=flags))
    return dataclasses.replace(entry, descriptions=tuple(descriptions))


def _flags(item: Prompt | Description, findings: Sequence[Finding] | None) -> tuple[str, ...]:
    if findings is None:  # not looked at
        return item.flags
    foreign = (flag for flag in item.flags if flag.partition(":")[0] not in CHECKS)
    return (*foreign, *map(str, findings))


def _report(bank: PromptBank, texts: Mapping[_Position, str], found: _Found) -> Report:
    flagged = [
        Flagged(position[0], _kind(position), texts[position], tuple(findings))
        for position, findings in found.items()
        if findings
    ]
    prompts = bank.prompts()
    uneven = (
        Flagged(label, "label", label, (finding,)) for label, finding in _uneven(prompts).items()
    )
    return Report(bank.name, len(texts), (*uneven, *flagged), measure_distribution(prompts))


def _uneven(prompts: Mapping[str, Sequence[str]]) -> dict[str, Finding]:
    """Find labels without prompts, or with fewer than most have."""
    counts = Counter(map(len, prompts.values()))
    usual = max(counts, key=lambda n: (counts[n], n))
    return {
        label: Finding("structure", f"{len(texts)} prompts, most labels have {usual}",
                       fatal=not texts)
        for label, texts in prompts.items()
        if not texts or len(texts) < usual
    }  # fmt: skip
