"""Report of what the checks found in many texts, for people and as JSON."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

from reclap.checks.distribution import Distribution
from reclap.checks.finding import Finding

__all__ = ["Flagged", "Report"]

_SHOWN = 5  # items of a list in the readable text


@dataclasses.dataclass(frozen=True)
class Flagged:
    """A text with the faults that were found in it.

    Parameters
    ----------
    where : str
        Label of the text, or the caption that it rewrites.
    kind : str
        Kind of the text: description, prompt or rewrite; label, for faults of a label as a whole.
    text : str
        The text.
    findings : tuple of Finding
        At least one.

    Examples
    --------
    >>> from reclap.checks import Finding
    >>> text = Flagged("dog", "prompt", "A bark.", (Finding("length", "2 words"),))
    >>> text.is_fatal, str(text)
    (True, "dog: 'A bark.': length: 2 words")
    """

    where: str
    kind: str
    text: str
    findings: tuple[Finding, ...]

    @property
    def is_fatal(self) -> bool:
        """Whether the text cannot be used."""
        return any(finding.fatal for finding in self.findings)

    def __str__(self) -> str:
        """Return one line for a person."""
        return f"{self.where}: {self.text!r}: {'; '.join(map(str, self.findings))}"


@dataclasses.dataclass(frozen=True)
class Report:
    """Report on a bank or a file of rewrites: texts checked, faults, and how words are distributed.

    Parameters
    ----------
    name : str
        Name of the bank or the file.
    texts : int
        Number of texts that were checked.
    flagged : tuple of Flagged
        Texts with findings.
    distribution : Distribution, optional
        How often words and phrases of a bank's prompts come back.

    Examples
    --------
    >>> from reclap import PromptBank
    >>> from reclap.checks import check_bank
    >>> _, report = check_bank(PromptBank.from_prompts({"dog": ["a dog barks in a"]}))
    >>> report.texts, report.by_check, len(report.fatal)
    (1, {'unfinished': 1}, 1)
    >>> report.to_json()["flagged"]
    1
    """

    name: str
    texts: int
    flagged: tuple[Flagged, ...]
    distribution: Distribution | None = None

    @property
    def fatal(self) -> tuple[Flagged, ...]:
        """Texts that cannot be used."""
        return tuple(item for item in self.flagged if item.is_fatal)

    @property
    def by_check(self) -> dict[str, int]:
        """Number of texts that each check flagged, most first."""
        names = Counter(name for item in self.flagged for name in {f.check for f in item.findings})
        return dict(names.most_common())

    def to_json(self) -> dict[str, Any]:
        """Return the report as a JSON object.

        Returns
        -------
        dict
            Counts, and under ``found`` the texts with findings by label or caption.
        """
        groups: dict[str, list[dict[str, Any]]] = {}
        for item in self.flagged:
            found = [dataclasses.asdict(finding) for finding in item.findings]
            entry = {"kind": item.kind, "text": item.text, "findings": found}
            groups.setdefault(item.where, []).append(entry)
        shares = None if self.distribution is None else dataclasses.asdict(self.distribution)
        return {
            "name": self.name,
            "texts": self.texts,
            "flagged": len(self.flagged),
            "fatal": len(self.fatal),
            "checks": self.by_check,
            "found": groups,
            "distribution": shares,
        }

    def __str__(self) -> str:
        """Return a few lines for a person, and one for each text with findings."""
        lines = [
            f"{self.name}: {self.texts} texts, {len(self.flagged)} flagged, "
            f"{len(self.fatal)} of them unfit",
            *(f"  {check}: {count}" for check, count in self.by_check.items()),
            *map(str, self.flagged),
        ]
        return "\n".join([*lines, *(_describe(self.distribution) if self.distribution else ())])


def _describe(found: Distribution) -> Sequence[str]:
    lists = ("words", "phrases", "openings", "qualities", "places")
    rows = ((name, getattr(found, name)[:_SHOWN]) for name in lists)
    lines = [
        f"most frequent {name}: " + ", ".join(f"{item} {share:.1%}" for item, share in shares)
        for name, shares in rows
        if shares
    ]
    return [*lines, f"overused: {', '.join(found.overused)}"] if found.overused else lines
