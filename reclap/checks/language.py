"""Language of a text: English or another."""

import functools
from collections.abc import Callable, Iterator, Mapping

from reclap.checks.finding import Finding
from reclap.checks.lists import read_list
from reclap.checks.words import FUNCTION

__all__ = ["check_language"]

_OTHER_SCRIPT_SHARE = 0.1
# Log-likelihood, in nats, by which another language must beat English. Of the 4,875 test captions
# of AudioCaps none reaches 8, a sentence of four foreign words exceeds 13.
_MARGIN = 10.0
_FOREIGN = frozenset(read_list("foreign"))

_Rank = Callable[[str], Mapping[str, float]]


def check_language(text: str, words: list[str]) -> Iterator[Finding]:
    """Find text in another language than English.

    Parameters
    ----------
    text : str
        The text.
    words : list of str
        Words of the text, from `reclap.checks.words.split`.

    Yields
    ------
    Finding
        At most one. Languages are told apart by py3langid; where that is not installed, by
        function words of eight languages.

    Examples
    --------
    >>> text = "Ein Hund bellt, und es regnet auf das Dach"
    >>> [f.check for f in check_language(text, text.lower().replace(",", "").split())]
    ['language']
    """
    letters = [c for c in text if c.isalpha()]
    other = sum(ord(c) > 0x24F and not 0x1E00 <= ord(c) < 0x1F00 for c in letters)  # not Latin
    if letters and other > _OTHER_SCRIPT_SHARE * len(letters):
        yield Finding("language", "letters of another script")
        return
    rank = _identifier()
    yield from _by_words(words) if rank is None else _by_likelihood(text, rank)


@functools.cache
def _identifier() -> _Rank | None:
    """Load the language identifier, once; None where it is not installed."""
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        return None
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=False)
    return lambda text: dict(identifier.rank(text))


def _by_likelihood(text: str, rank: _Rank) -> Iterator[Finding]:
    scores = rank(text)
    best = max(scores, key=scores.__getitem__)
    if scores[best] > scores["en"] + _MARGIN:
        yield Finding("language", f"looks like another language ({best})")


def _by_words(words: list[str]) -> Iterator[Finding]:
    foreign = [word for word in words if word in _FOREIGN]
    english = sum(word in FUNCTION for word in words)
    if len(set(foreign)) >= 2 and len(foreign) > english:
        yield Finding("language", f"words of another language: {', '.join(dict.fromkeys(foreign))}")
