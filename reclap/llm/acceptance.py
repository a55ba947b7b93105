"""Acceptance criteria for generated texts, one per task."""

from collections.abc import Callable, Sequence

from reclap.checks import Finding, Sense, check_description, check_prompt, check_rewrite
from reclap.checks.duplicates import check_siblings
from reclap.checks.words import key

__all__ = ["Criterion", "description_criterion", "prompt_criterion", "rewrite_criterion"]

# From a text and those of its purpose that are there to findings; a fatal one rejects the text.
Criterion = Callable[[str, Sequence[str]], Sequence[Finding]]


def description_criterion(
    label: str, definition: str, others: Sequence[str], sense: Sense | None
) -> Criterion:
    """Return the acceptance criterion for descriptions of a label; see `check_description`."""

    def criterion(text: str, siblings: Sequence[str]) -> list[Finding]:
        return check_description(
            text, label, definition=definition, others=others, siblings=siblings, sense=sense
        )

    return criterion


def prompt_criterion(
    label: str,
    definition: str,
    others: Sequence[str],
    sense: Sense | None,
    present: Sequence[str] = (),
) -> Criterion:
    """Return the acceptance criterion for captions of a label; see `check_prompt`."""

    def criterion(text: str, siblings: Sequence[str]) -> list[Finding]:
        beside = [*present, *siblings]
        return check_prompt(
            text, label, definition=definition, others=others, siblings=beside, sense=sense
        )

    return criterion


def rewrite_criterion(caption: str, sense: Sense | None) -> Criterion:
    """Return the acceptance criterion for rewrites of a caption; see `check_rewrite`."""

    def criterion(text: str, siblings: Sequence[str]) -> list[Finding]:
        found = check_rewrite(caption, text, sense=sense)
        if key(text) == key(caption):  # it keeps the words; what it adds may be few of them
            found.append(Finding("duplicate", "has the words of the caption"))
        return [*found, *check_siblings(text, siblings)]

    return criterion
