"""Check that a text is related to its label."""

import functools
from collections.abc import Iterator

from reclap.checks.finding import Finding
from reclap.checks.lexicon import SOFT, SOUND, lexicon
from reclap.checks.lists import read_list
from reclap.checks.scene import read_scene
from reclap.checks.similarity import Sense
from reclap.checks.words import content, stem

__all__ = ["check_related"]

# Cosine of sentence embeddings below which a caption with some sound in it is not of the label. Of
# the prompts that come with the package none that names no word of its label is below 0.13.
_FAR = 0.12


def check_related(
    text: str, label: str, own: str, kind: str, sense: Sense | None
) -> Iterator[Finding]:
    """Find text that says nothing of its label, or not how that sounds.

    Parameters
    ----------
    text : str
        The text.
    label : str
        Label of the text.
    own : str
        The label with its definition, as words.
    kind : {"description", "prompt"}
        A description has to hold a word about sound, beside those of the label. A prompt has to
        share a word or a source with the label, or to hold a word about sound.
    sense : Sense, optional
        Asked about prompts that hold a word about sound only.

    Yields
    ------
    Finding
        At most one, not fatal.

    Examples
    --------
    >>> text = "crane with a delicate feather in its beak"
    >>> [str(f) for f in check_related(text, "crane", "crane: bird", "description", None)]
    ["unrelated: says nothing of how 'crane' sounds"]
    """
    words = content(text)
    if kind == "description":
        named = set(content(label))
        if not any(_is_acoustic(word) for word in words if word not in named):
            yield _finding(f"says nothing of how {label!r} sounds")
    elif not (set(words) & set(content(own)) or _share_a_source(text, own)):
        if not any(map(_is_acoustic, words)):
            yield _finding(f"says nothing of {label!r}")
        elif sense is not None and (score := float(sense.similarity([text], [own])[0, 0])) < _FAR:
            yield _finding(f"says nothing of {label!r} (similarity {score:.2f})")


def _finding(reason: str) -> Finding:
    return Finding("unrelated", reason, fatal=False)


@functools.cache
def _acoustic() -> frozenset[str]:
    return frozenset(map(stem, read_list("acoustic")))


@functools.lru_cache(1 << 14)
def _is_acoustic(word: str) -> bool:
    """Tell whether a stem speaks of sound, or of how sounds move in time."""
    if word in _acoustic():
        return True
    meanings = (m for words, m in lexicon().phrases.get(word, ()) if len(words) == 1)
    return any(role in (SOUND, SOFT) for group in meanings for _, role in group)


def _share_a_source(text: str, own: str) -> bool:
    """Tell whether a text names a source of its label, or hints at it."""
    theirs, ours = _sources(text), _sources(own)
    return any(lexicon().are_related(a, b) for a in theirs for b in ours)


@functools.lru_cache(4096)
def _sources(text: str) -> frozenset[str]:
    scene = read_scene(text)
    return scene.evidence.union(mention.source for mention in scene.mentions)
