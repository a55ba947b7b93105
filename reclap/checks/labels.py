"""Comparison of texts with their own label and the other ones."""

import functools
from collections.abc import Mapping, Sequence

from reclap._types import Floats
from reclap.checks.compare import claimed
from reclap.checks.finding import Finding
from reclap.checks.lexicon import lexicon
from reclap.checks.related import check_related
from reclap.checks.scene import read_scene
from reclap.checks.similarity import Sense
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
    """Find texts that fit another label better, name another one, or say nothing of theirs.

    Parameters
    ----------
    texts : sequence of str
        Written about one label.
    label, definition, others, sense
        See `check_description`.
    kind : {"description", "prompt"}
        Kind of the texts; sets the margin by which another label may fit better.

    Returns
    -------
    list of list of Finding
        For each text: the label that fits better, with both similarities; or another label whose
        source is in the text, where the own one is not, or where that label is nearer; or what
        `check_related` finds.
    """
    own = phrase(label, definition)
    rivals = [other for other in others if other != label]
    scores = _scores(texts, own, rivals, sense) if sense and rivals and texts else None
    found: list[list[Finding]] = []
    for i, text in enumerate(texts):
        is_named = _names(text, label) or bool(_sources(text) & _sources(own))
        named = _named_besides(text, label, own, tuple(others))
        reason = ""
        if scores is not None and not is_named:
            best = int(scores[i, 1:].argmax())
            reason = _fits(scores[i], best, rivals[best], label, _MARGIN[kind])
        if named and not reason:
            at = 1 + rivals.index(named)
            is_nearer = scores is not None and scores[i, at] > scores[i, 0]
            reason = f"names {named!r}, another label" if is_nearer or not is_named else ""
        if reason:
            found.append([Finding("label", reason, fatal=False)])
        else:
            found.append(list(check_related(text, label, own, kind, sense)))
    return found


def _scores(texts: Sequence[str], own: str, rivals: Sequence[str], sense: Sense) -> Floats:
    """Return the cosines of texts with their own label and with all others.

    Labels too close to the own one have -1.
    """
    phrases = [phrase(rival) for rival in rivals]
    scores = sense.similarity(texts, [own, *phrases])
    scores[:, 1:][:, sense.similarity([own], phrases)[0] >= _ALIKE] = -1
    return scores


def _fits(scores: Floats, best: int, rival: str, label: str, margin: float) -> str:
    """Return a finding if another label fits better by a margin."""
    mine, theirs = float(scores[0]), float(scores[1 + best])
    is_better = theirs > mine + margin
    return f"fits {rival!r} ({theirs:.2f}) better than {label!r} ({mine:.2f})" if is_better else ""


def _named_besides(text: str, label: str, own: str, others: tuple[str, ...]) -> str:
    """Return another label whose words and source are in a text, or nothing."""
    stems = set(content(text))
    parts = _parts(others)
    for stem in sorted(stems):
        for rival, part in parts.get(stem, ()):
            if rival == label or not part <= stems:
                continue
            theirs, ours = _sources(phrase(rival)), _sources(own)
            if theirs and ours and theirs <= _sources(text) and not _are_kin(theirs, ours):
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
    names = label.replace("(", ",").split(",")
    return tuple(part for part in (frozenset(content(name)) for name in names) if part)


def _names(text: str, label: str) -> bool:
    """Tell whether a text holds all words of one part of a label."""
    stems = set(content(text))
    return any(part <= stems for part in _label_parts(label))


@functools.lru_cache(4096)
def _sources(text: str) -> frozenset[str]:
    """Return the sources that a text names as its own."""
    return frozenset(claimed(read_scene(text).named()))


def _are_kin(some: frozenset[str], others: frozenset[str]) -> bool:
    return any(lexicon().are_related(a, b) for a in some for b in others)
