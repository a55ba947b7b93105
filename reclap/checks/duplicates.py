"""The same text again, or nearly: exactly, in its normal form, in its words, in its meaning."""

from collections.abc import Iterator, Sequence

from reclap.checks.finding import Finding
from reclap.checks.sense import Sense
from reclap.checks.words import content, key

__all__ = ["SAME_MEANING", "SAME_WORDS", "check_siblings"]

SAME_WORDS = 0.8  # shared words by all words of both, grammar left out
SAME_MEANING = 0.95  # cosine of sentence embeddings


def check_siblings(
    text: str, siblings: Sequence[str], sense: Sense | None = None
) -> Iterator[Finding]:
    """Compare a text with others of its label.

    Parameters
    ----------
    text : str
        The new one.
    siblings : sequence of str
        Those that are there.
    sense : Sense, optional
        Similarity of meaning.

    Yields
    ------
    Finding
        At most one, for the closest relation found.
    """
    if not siblings or not text.strip():
        return
    for other in siblings:
        how = _relation(text, other)
        if how:
            yield Finding("duplicate", f"{how} {other!r}")
            return
    if sense is not None:
        scores = sense.similarity([text], siblings)[0]
        best = int(scores.argmax())
        if scores[best] > SAME_MEANING:
            yield Finding("duplicate", f"means ({scores[best]:.2f}) {siblings[best]!r}")


def _relation(a: str, b: str) -> str:
    if a == b:
        return "equals"
    if key(a) == key(b):
        return "has the words of"
    left, right = set(content(a)), set(content(b))
    shared = len(left & right) / max(1, len(left | right))
    return f"shares {shared:.0%} of its words with" if shared >= SAME_WORDS else ""
