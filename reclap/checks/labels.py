"""Whether a text about a label still means that label."""

from collections.abc import Iterator, Sequence

import numpy as np

from reclap.checks.finding import Finding
from reclap.checks.sense import Sense
from reclap.checks.words import content

__all__ = ["check_label", "phrase"]

# A description may fit another label a little better, since it names no source; a caption names
# its own. Cosines of sentence embeddings.
_MARGIN = {"description": 0.12, "prompt": 0.08}
_ALIKE = 0.55  # labels closer than this are not competitors: "Dog" and "Bark"


def phrase(label: str, definition: str = "") -> str:
    """Return a label as words: underscores become spaces, the definition is added.

    Examples
    --------
    >>> phrase("crane_bird", "a wading bird")
    'crane bird: a wading bird'
    """
    name = label.replace("_", " ")
    return f"{name}: {definition}" if definition else name


def check_label(
    text: str,
    label: str,
    kind: str,
    *,
    definition: str = "",
    others: Sequence[str] = (),
    sense: Sense | None = None,
) -> Iterator[Finding]:
    """Find out whether a text fits another label better than its own.

    Parameters
    ----------
    text, label, definition, others, sense
        See `check_description`.
    kind : {"description", "prompt"}
        How much better another label may fit.

    Yields
    ------
    Finding
        Names the label that fits better, and both similarities.
    """
    if sense is None or not others or _names(text, label) or not text.strip():
        return
    own = phrase(label, definition)
    rivals = [phrase(other) for other in others]
    near = sense.similarity([own], rivals)[0]
    scores = np.where(near < _ALIKE, sense.similarity([text], rivals)[0], -1)
    best, mine = int(scores.argmax()), float(sense.similarity([text], [own])[0, 0])
    if scores[best] > mine + _MARGIN[kind]:
        reason = f"fits {others[best]!r} ({scores[best]:.2f}) better than {label!r} ({mine:.2f})"
        yield Finding("label", reason, fatal=False)


def _names(text: str, label: str) -> bool:
    """Tell whether a text holds all words of one part of a label."""
    stems = set(content(text))
    parts = (set(content(part)) for part in label.replace("_", " ").replace("(", ",").split(","))
    return any(part and part <= stems for part in parts)
