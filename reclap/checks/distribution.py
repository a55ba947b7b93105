"""Distribution of words, phrases and places over texts: the bias of a language model."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from reclap.checks.lists import read_list
from reclap.checks.words import FUNCTION, content, split, stem

__all__ = ["Distribution", "measure_distribution"]

TOP = 15  # items of each list
OFTEN = 0.04  # share of all texts from which a quality, a place or an opening is overused
_FEW = 50  # texts below which shares say nothing
_OF_A_LABEL = 0.5  # share of a label's texts from which a word is worth a look

_Shares = tuple[tuple[str, float], ...]


@dataclasses.dataclass(frozen=True)
class Distribution:
    """Shares of texts that hold an item, most frequent first.

    Attributes
    ----------
    texts : int
        Number of texts.
    words, phrases, openings, qualities, places : tuple of (str, float)
        Content words; runs of three words; the first two words; words for how something sounds;
        places.
    overused : tuple of str
        Qualities, places and openings in more than 4 % of the texts.
    labels : mapping of str to tuple of (str, float)
        For each label the words in at least half of its texts, its own name left out.
    """

    texts: int
    words: _Shares
    phrases: _Shares
    openings: _Shares
    qualities: _Shares
    places: _Shares
    overused: tuple[str, ...]
    labels: Mapping[str, _Shares]


def measure_distribution(texts: Mapping[str, Sequence[str]]) -> Distribution:
    """Count the words, phrases and places of texts.

    Parameters
    ----------
    texts : mapping of str to list of str
        Texts by label.

    Returns
    -------
    Distribution

    Examples
    --------
    >>> texts = {"dog": ["a dog barks in a yard"], "hen": ["a hen clucks in a yard"]}
    >>> measure_distribution(texts).places
    (('yard', 1.0),)
    """
    everything = [text for group in texts.values() for text in group]
    qualities, places = (_list_of(name) for name in ("qualities", "places"))
    found = {
        "words": _shares(everything, content),
        "phrases": _shares(everything, _phrases),
        "openings": _shares(everything, lambda text: [" ".join(split(text)[:2])]),
        "qualities": _shares(
            everything, lambda text: filter(qualities.__contains__, content(text))
        ),
        "places": _shares(everything, lambda text: filter(places.__contains__, content(text))),
    }
    judged = [*found["qualities"], *found["places"], *found["openings"]]
    overused = tuple(name for name, share in judged if share > OFTEN)
    return Distribution(
        len(everything),
        **found,
        overused=overused if len(everything) >= _FEW else (),
        labels={label: _habits(label, group) for label, group in texts.items()},
    )


def _list_of(name: str) -> frozenset[str]:
    return frozenset(stem(word) for word in read_list(name))


def _shares(texts: Sequence[str], items: Callable[[str], Iterable[str]]) -> _Shares:
    """Return the most frequent items with the share of texts that hold them."""
    counts = Counter(item for text in texts for item in set(items(text)))
    top = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:TOP]
    return tuple((name, round(count / len(texts), 4)) for name, count in top if count > 1)


def _phrases(text: str) -> list[str]:
    words = split(text)
    runs = zip(words, words[1:], words[2:], strict=False)
    return [" ".join(run) for run in runs if len(FUNCTION.intersection(run)) < 2]


def _habits(label: str, texts: Sequence[str]) -> _Shares:
    own = set(content(label))
    shares = _shares(texts, content)
    return tuple((w, share) for w, share in shares if share >= _OF_A_LABEL and w not in own)
