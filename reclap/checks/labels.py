"""Whether a text about a label still means that label."""

from collections.abc import Iterator, Sequence

import numpy as np

from reclap.checks.compare import claimed
from reclap.checks.finding import Finding
from reclap.checks.scene import read_scene
from reclap.checks.sense import Sense
from reclap.checks.sources import lexicon
from reclap.checks.words import content

__all__ = ["check_label", "phrase"]

# A description may fit another label a little better, since it names no source; a caption names
# its own. Cosines of sentence embeddings.
_MARGIN = {"description": 0.25, "prompt": 0.15}
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
        Names the label that fits better, and both similarities; or a label whose source is in the
        text besides the own one.
    """
    if not text.strip() or not others:
        return
    own = phrase(label, definition)
    is_named = _names(text, label) or bool(_sources(text) & _sources(own))
    better = None if sense is None or is_named else _better(text, own, others, kind, sense)
    if better:
        yield Finding("label", better.format(label=label), fatal=False)
        return
    known = _sources(own)
    for other in others:
        strangers = _sources(phrase(other))
        is_there = _names(text, other) and strangers and strangers <= _sources(text)
        if is_there and not _are_kin(strangers, known):
            yield Finding("label", f"names {other!r}, another label", fatal=False)
            return


def _better(text: str, own: str, others: Sequence[str], kind: str, sense: Sense) -> str:
    """Return what to say if another label fits better, else nothing."""
    rivals = [phrase(other) for other in others]
    near = sense.similarity([own], rivals)[0]
    scores = np.where(near < _ALIKE, sense.similarity([text], rivals)[0], -1)
    best, mine = int(scores.argmax()), float(sense.similarity([text], [own])[0, 0])
    if scores[best] <= mine + _MARGIN[kind]:
        return ""
    return f"fits {others[best]!r} ({scores[best]:.2f}) better than {{label!r}} ({mine:.2f})"


def _names(text: str, label: str) -> bool:
    """Tell whether a text holds all words of one part of a label."""
    stems = set(content(text))
    parts = (set(content(part)) for part in label.replace("_", " ").replace("(", ",").split(","))
    return any(part and part <= stems for part in parts)


def _sources(text: str) -> frozenset[str]:
    """Return the sources that a text puts forward."""
    return frozenset(claimed(read_scene(text).named()))


def _are_kin(some: frozenset[str], others: frozenset[str]) -> bool:
    return not others or any(lexicon().are_related(a, b) for a in some for b in others)
