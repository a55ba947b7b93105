"""Duplicates and near-duplicates: by text, normal form, words, or meaning."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from reclap.checks.finding import Finding
from reclap.checks.similarity import Sense
from reclap.checks.words import content, key

__all__ = ["SAME_MEANING", "SAME_WORDS", "check_siblings", "find_duplicates"]

SAME_WORDS = 0.8  # shared words by all words of both, grammar left out
SAME_MEANING = 0.95  # cosine of sentence embeddings
_BLOCK = 512  # rows of similarities in memory at once


def check_siblings(
    text: str, siblings: Sequence[str], sense: Sense | None = None
) -> Iterator[Finding]:
    """Compare a text with others of its label.

    Parameters
    ----------
    text : str
        The new one.
    siblings : sequence of str
        Texts of the label so far.
    sense : Sense, optional
        Similarity of meaning.

    Yields
    ------
    Finding
        At most one, for the first that is the same.
    """
    index = len(siblings)
    if siblings:
        found = find_duplicates([*siblings, text], sense).get(index)
        if found:
            yield Finding("duplicate", f"{found[1]} {siblings[found[0]]!r}")


def find_duplicates(texts: Sequence[str], sense: Sense | None = None) -> dict[int, tuple[int, str]]:
    """Find texts that repeat an earlier one.

    Parameters
    ----------
    texts : sequence of str
        Tens of thousands are fine.
    sense : Sense, optional
        Similarity of meaning; without it only words are compared.

    Returns
    -------
    dict of int to (int, str)
        For each text that repeats another: which one, and how the two are related.

    Examples
    --------
    >>> find_duplicates(["a dog barks", "rain falls", "A dog barks!", "falling rain"])
    {2: (0, 'has the words of'), 3: (1, 'shares 100% of its words with')}
    """
    found = _same_form(texts)
    for pairs in (_same_words(texts), _same_meaning(texts, sense) if sense and texts else ()):
        for i, j, how in pairs:
            found.setdefault(i, (j, how))
    return dict(sorted(found.items()))


def _same_form(texts: Sequence[str]) -> dict[int, tuple[int, str]]:
    first: dict[str, int] = {}
    found = {}
    for i, text in enumerate(texts):
        j = first.setdefault(key(text), i)
        if j < i:
            found[i] = (j, "equals" if texts[j] == text else "has the words of")
    return found


def _same_words(texts: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """Yield pairs that share most words, by an index of each text's rarest ones.

    Prefix filtering: sets whose overlap is a share s or more have one of their
    floor((1 - s) n) + 1 rarest words in common.
    """
    sets = [set(content(text)) for text in texts]
    often = Counter(word for words in sets for word in words)
    index: dict[str, list[int]] = defaultdict(list)
    for i, words in enumerate(sets):
        rare = sorted(words, key=lambda word: (often[word], word))
        near = rare[: len(rare) - math.ceil(SAME_WORDS * len(rare)) + 1]
        for j in sorted({j for word in near for j in index[word]}):
            shared = len(words & sets[j]) / len(words | sets[j])
            if shared >= SAME_WORDS:
                yield i, j, f"shares {shared:.0%} of its words with"
                break
        for word in near:
            index[word].append(i)


def _same_meaning(texts: Sequence[str], sense: Sense) -> Iterator[tuple[int, int, str]]:
    rows = sense.rows(texts)
    for at in range(0, len(texts), _BLOCK):
        scores = rows[at : at + _BLOCK] @ rows[: at + _BLOCK].T
        for k, row in enumerate(scores):
            before = row[: at + k]
            j = int(before.argmax()) if len(before) else 0
            if len(before) and before[j] > SAME_MEANING:
                yield at + k, j, f"means ({before[j]:.2f}) the same as"
