"""Result of a check, and the names of all checks."""

import dataclasses

__all__ = ["CHECKS", "Finding"]

CHECKS = {
    "structure": "no text, more than one line, control characters; counts that do not fit",
    "length": "too few or too many words",
    "language": "not English",
    "meta": "talk about the task or the clip instead of the scene",
    "markup": "markdown, JSON or HTML crumbs",
    "placeholder": "a gap that was never filled in",
    "injection": "instructions, roles or addresses instead of a caption",
    "offensive": "words that do not belong in a caption",
    "unfinished": "breaks off in the middle",
    "repetition": "says the same thing again within one text",
    "garbled": "words glued together or cut off",
    "duplicate": "the same as another text, or nearly",
    "label": "fits another label better than its own, or names another one",
    "unrelated": "says nothing of its label, or not how that sounds",
    "lost": "a source of the caption is missing in the rewrite",
    "invented": "a source of the rewrite is not in the caption",
    "agent": "somebody or something else makes the sound",
    "order": "what came first comes last, or at once",
    "count": "another number",
    "negation": "what was there is denied, or the other way round",
    "meaning": "the whole is about something else",
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """A fault that a check found in a text.

    Parameters
    ----------
    check : str
        Which check found it: a key of `CHECKS`.
    reason : str
        Description of the fault, for a person.
    fatal : bool
        Whether the text cannot be used; otherwise a person should look at it.

    Examples
    --------
    >>> str(Finding("length", "3 words, expected 4 to 60"))
    'length: 3 words, expected 4 to 60'
    """

    check: str
    reason: str
    fatal: bool = True

    def __str__(self) -> str:
        """Return the flag that a bank keeps."""
        return f"{self.check}: {self.reason}"
