"""Whether a text about a label still means that label."""

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from reclap.checks.compare import claimed
from reclap.checks.finding import Finding
from reclap.checks.scene import read_scene
from reclap.checks.sense import Sense
from reclap.checks.sources import lexicon
from reclap.checks.words import content

__all__ = ["check_labels", "phrase"]

# How much better another label may fit, in cosines of sentence embeddings. A description names no
# source and is near to many labels; a caption names its own.
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


def check_labels(
    texts: Sequence[str],
    label: str,
    kind: str,
    *,
    definition: str = "",
    others: Sequence[str] = (),
    sense: Sense | None = None,
) -> list[list[Finding]]:
    """Find out whether texts fit another label better than their own, or name one besides.

    Parameters
    ----------
    texts : sequence of str
        Written about one label.
    label, definition, others, sense
        See `check_description`.
    kind : {"description", "prompt"}
        How much better another label may fit.

    Returns
    -------
    list of list of Finding
        For each text: the label that fits better, with both similarities, or the other label whose
        source is in the text.
    """
    own = phrase(label, definition)
    rivals = tuple(other for other in others if other != label)
    better = _better(texts, own, rivals, kind, sense) if sense else {}
    found: list[list[Finding]] = []
    for i, text in enumerate(texts):
        is_named = _names(text, label) or bool(_sources(text) & _sources(own))
        if i in better and not is_named:
            reason = better[i].format(label=label)
        else:
            named = _named_besides(text, own, rivals)
            reason = f"names {named!r}, another label" if named else ""
        found.append([Finding("label", reason, fatal=False)] if reason else [])
    return found


def _better(
    texts: Sequence[str], own: str, rivals: Sequence[str], kind: str, sense: Sense
) -> dict[int, str]:
    """Return what to say of the texts that another label fits better."""
    asked = [i for i, text in enumerate(texts) if text.strip()]
    if not asked or not rivals:
        return {}
    phrases = [phrase(rival) for rival in rivals]
    scores = sense.similarity([texts[i] for i in asked], [own, *phrases])
    is_alike = sense.similarity([own], phrases)[0] >= _ALIKE
    scores[:, 1:][:, is_alike] = -1
    best = scores[:, 1:].argmax(axis=1)
    return {
        i: f"fits {rivals[k]!r} ({row[1 + k]:.2f}) better than {{label!r}} ({row[0]:.2f})"
        for i, row, k in zip(asked, scores, best, strict=True)
        if row[1 + k] > row[0] + np.float32(_MARGIN[kind])
    }


def _named_besides(text: str, own: str, rivals: tuple[str, ...]) -> str:
    """Return another label whose words and source are in a text, or nothing."""
    stems = set(content(text))
    parts = _parts(rivals)
    for stem in sorted(stems):
        for rival, part in parts.get(stem, ()):
            theirs, ours = _sources(phrase(rival)), _sources(own)
            is_there = part <= stems and theirs and theirs <= _sources(text)
            if is_there and ours and not _are_kin(theirs, ours):
                return rival
    return ""


@functools.lru_cache(64)
def _parts(labels: tuple[str, ...]) -> Mapping[str, list[tuple[str, frozenset[str]]]]:
    """Return labels and the stems of their parts, by the first of these stems."""
    found: dict[str, list[tuple[str, frozenset[str]]]] = {}
    for label in labels:
        for part in _label_parts(label):
            found.setdefault(min(part), []).append((label, part))
    return found


@functools.lru_cache(4096)
def _label_parts(label: str) -> tuple[frozenset[str], ...]:
    """Return the stems of each part of a label: "Gull, seagull" has two."""
    names = label.replace("_", " ").replace("(", ",").split(",")
    return tuple(part for part in (frozenset(content(name)) for name in names) if part)


def _names(text: str, label: str) -> bool:
    """Tell whether a text holds all words of one part of a label."""
    stems = set(content(text))
    return any(part <= stems for part in _label_parts(label))


@functools.lru_cache(4096)
def _sources(text: str) -> frozenset[str]:
    """Return the sources that a text puts forward."""
    return frozenset(claimed(read_scene(text).named()))


def _are_kin(some: frozenset[str], others: frozenset[str]) -> bool:
    return any(lexicon().are_related(a, b) for a in some for b in others)
