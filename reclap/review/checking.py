"""Checks of one text in a review."""

from collections.abc import Sequence

from reclap.checks import Finding, Sense, check_description, check_prompt, check_rewrite
from reclap.review.documents import Item

__all__ = ["Checker"]


class Checker:
    """Check of a text that is to replace an item's.

    Parameters
    ----------
    labels : sequence of str
        All labels of the review.
    sense : Sense
        Similarity of meaning.
    """

    def __init__(self, labels: Sequence[str], sense: Sense) -> None:
        self._labels, self._sense = labels, sense

    def findings(self, item: Item, text: str, siblings: Sequence[str]) -> list[Finding]:
        """Return the faults of a text, given the other texts of its label."""
        if item.kind == "rewrite":
            return check_rewrite(item.label, text, sense=self._sense)
        check = check_description if item.kind == "description" else check_prompt
        return check(
            text,
            item.label,
            definition=item.definition,
            others=[label for label in self._labels if label != item.label],
            siblings=siblings,
            sense=self._sense,
        )

    def flags(self, item: Item, text: str, siblings: Sequence[str]) -> tuple[str, ...]:
        """Return the faults as flags of a bank."""
        return tuple(map(str, self.findings(item, text, siblings)))
