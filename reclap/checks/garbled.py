"""Garbled words: glued together or cut off, as small language models write them."""

import functools
import json
import re
from collections.abc import Iterator
from importlib import resources

from reclap.checks.finding import Finding
from reclap.checks.lists import read_list
from reclap.checks.words import FUNCTION, split, stem

__all__ = ["check_garbled"]

_LISTS = (
    "acoustic", "function", "places", "prepositions", "qualities", "uncounted", "verbs", "whole"
)  # fmt: skip
_LEAST = 4  # letters of a part of a glued word that is in no list
_LONGEST = 40  # letters of a word that is looked into
_MISSING = 4  # letters that may be missing from a word that was cut off
_LEAST_CUT = 3  # letters that are left of it
# Function words that many whole words begin or end with: "others", "island", "hopeless".
_AFFIXES = frozenset(read_list("affixes"))
_FIRST = (FUNCTION - _AFFIXES) | {"to"}
_LAST = (FUNCTION - _AFFIXES) | {"over", "through"}
_ENDINGS = frozenset(("ing", "tion", "ness", "ment", "ly", "ed"))
_SUFFIXES = frozenset(("ally", "ness", "mate", "s"))  # tokens of the tower, and no words here
_CAMEL = re.compile(r"\b[A-Za-z]?[a-z]{2,}[A-Z][a-z]+")
_NO_SPACE = re.compile(r"\b[^\W\d_]{3,}[.,;:!?][^\W\d_]{2,}")


def check_garbled(text: str, words: list[str]) -> Iterator[Finding]:
    """Find words that are glued together ("withlondon") or cut off ("crackl").

    Parameters
    ----------
    text : str
        The text.
    words : list of str
        Words of the text, from `reclap.checks.words.split`.

    Yields
    ------
    Finding
        At most one. Words that the bundled text tower has a token for, and those of the lists, are
        whole words; any other that falls into two of them, one a function word or a quality or
        both the same, is glued; the beginning of one is cut off.

    Examples
    --------
    >>> text = "a low hum withlondon traffic"
    >>> [str(f) for f in check_garbled(text, text.split())]
    ["garbled: 'withlondon' is 'with' and 'london'"]
    """
    joint = _CAMEL.search(text) or _NO_SPACE.search(text)
    if joint:
        yield Finding("garbled", f"no space in {joint.group()!r}")
        return
    faults = [fault for word in dict.fromkeys(words) if (fault := _fault(word))[0]]
    if faults:
        reason, is_sure = max(faults, key=lambda fault: fault[1])
        yield Finding("garbled", reason, fatal=is_sure)


@functools.cache
def _listed() -> frozenset[str]:
    """Return the words of all lists."""
    sources = resources.files("reclap.checks").joinpath("data/sources.txt").read_text("utf-8")
    return frozenset((*(word for name in _LISTS for word in read_list(name)), *split(sources)))


@functools.cache
def _vocabulary() -> frozenset[str]:
    """Return the known whole words: the tokens of the bundled text tower, and all lists."""
    path = resources.files("reclap").joinpath("models/mini/tokenizer.json")
    tokens = json.loads(path.read_text("utf-8"))["model"]["vocab"]
    return frozenset(w for w in (*tokens, *_listed()) if w.isalpha() and w.isascii())


@functools.cache
def _stems() -> frozenset[str]:
    return frozenset(map(stem, _vocabulary()))


@functools.cache
def _beginnings() -> frozenset[str]:
    """Return the beginnings of known words."""
    return frozenset(
        word[:n]
        for word in _vocabulary()
        for n in range(max(_LEAST_CUT, len(word) - _MISSING), len(word))
    )


@functools.cache
def _qualities() -> frozenset[str]:
    return frozenset(read_list("qualities"))


def _is_whole(word: str) -> bool:
    known = _vocabulary()
    base = stem(word)
    return word in known or (base in _stems() and not (base == word and f"{word}e" in known))


def _is_part(word: str) -> bool:
    """Tell whether a word is whole beside another one that it is glued to."""
    return word in _listed() or (len(word) >= _LEAST and _is_whole(word))


def _is_compound(word: str) -> bool:
    return any(_is_part(word[:n]) and _is_part(word[n:]) for n in range(3, len(word) - 2))


@functools.lru_cache(1 << 14)
def _fault(word: str) -> tuple[str, bool]:
    """Return the fault of a word, or nothing, and whether it is certain."""
    if word in _ENDINGS:
        return f"{word!r} is the end of a word", True
    is_judged = word.isascii() and word.isalpha() and len(word) <= _LONGEST
    if not is_judged or _is_whole(word):
        return "", False
    for n in range(1, len(word)):
        first, last = word[:n], word[n:]
        is_sure = _is_glued(first, last)
        if is_sure or (first in _qualities() and last not in _SUFFIXES and _is_part(last)):
            return f"{word!r} is {first!r} and {last!r}", is_sure
    return (f"{word!r} is cut off", False) if word in _beginnings() else ("", False)


def _is_glued(first: str, last: str) -> bool:
    if first == last:
        return len(first) > 2
    if first == "a":
        return last in _qualities()
    if first in _FIRST or last in _LAST:
        return _is_part(last) and (_is_part(first) or (len(last) > 2 and _is_compound(first)))
    is_adverb = last.endswith("ly") and last[:-2] in _qualities()  # "cheersloudly"
    return is_adverb and _is_part(first)
