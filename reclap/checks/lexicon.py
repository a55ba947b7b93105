"""Lexicon of sound sources, and the words that name them."""

import dataclasses
import functools
from collections.abc import Mapping

from reclap.checks.lists import read_lines
from reclap.checks.words import split, stem

__all__ = ["EVIDENCE", "SOFT", "SOUND", "THING", "Lexicon", "Source", "lexicon"]

THING, SOUND, SOFT, EVIDENCE = range(4)  # role of a word for a source: data/sources.txt

Meanings = tuple[tuple[str, int], ...]  # sources, with the word's role for each


@dataclasses.dataclass(frozen=True)
class Source:
    """A kind of sound source.

    Attributes
    ----------
    name : str
        Name in the list.
    wider : frozenset of str
        All sources that it is one of; not itself.
    is_kind : bool
        A kind of sound or a material, which counts only where no source is named beside it.
    """

    name: str
    wider: frozenset[str]
    is_kind: bool


@dataclasses.dataclass(frozen=True)
class Lexicon:
    """Sources by name, and phrases by their first stem, longest first."""

    sources: Mapping[str, Source]
    phrases: Mapping[str, tuple[tuple[tuple[str, ...], Meanings], ...]]

    def are_related(self, a: str, b: str) -> bool:
        """Tell whether two sources are the same, or one is a kind of the other."""
        return a == b or a in self.sources[b].wider or b in self.sources[a].wider

    def share_a_parent(self, a: str, b: str) -> bool:
        """Tell whether both make sounds of one kind: two animals, two vehicles, two people."""
        return bool(self.sources[a].wider & self.sources[b].wider - {"vocal"})


@functools.cache
def lexicon() -> Lexicon:
    """Read the list of sources, once."""
    parents: dict[str, frozenset[str]] = {}
    kinds: set[str] = set()
    words: dict[tuple[str, ...], dict[str, int]] = {}
    section = ""
    for line in read_lines("sources"):
        if line.startswith("["):
            section = line
            continue
        head, _, groups = line.partition(":")
        name, _, above = (part.strip() for part in head.partition("<"))
        parents[name] = frozenset(_wider_names(above, parents))
        if section == "[kinds]":
            kinds.add(name)
        for role, group in enumerate(groups.split(";")):
            for phrase in filter(str.strip, group.split(",")):
                meanings = words.setdefault(_stems(phrase.strip()), {})
                meanings.setdefault(name, role)
    sources = {n: Source(n, _all_wider(n, parents), n in kinds) for n in parents}
    return Lexicon(sources, _by_first(words))


def _stems(phrase: str) -> tuple[str, ...]:
    """Return the stems by which a phrase of the list is found; "=fired" is that form only."""
    return (phrase,) if phrase.startswith("=") else tuple(map(stem, split(phrase)))


def _wider_names(text: str, known: Mapping[str, frozenset[str]]) -> list[str]:
    """Split names that may hold a space, such as "power tool saw"."""
    names, rest = [], text.split()
    while rest:
        size = 2 if " ".join(rest[:2]) in known else 1
        names.append(" ".join(rest[:size]))
        rest = rest[size:]
    return names


def _all_wider(name: str, parents: Mapping[str, frozenset[str]]) -> frozenset[str]:
    above = parents.get(name, frozenset())
    return above.union(*(_all_wider(n, parents) for n in above)) if above else above


def _by_first(
    words: Mapping[tuple[str, ...], Mapping[str, int]],
) -> dict[str, tuple[tuple[tuple[str, ...], Meanings], ...]]:
    phrases: dict[str, list[tuple[tuple[str, ...], Meanings]]] = {}
    for stems, meanings in words.items():
        phrases.setdefault(stems[0], []).append((stems, tuple(meanings.items())))
    return {
        first: tuple(sorted(group, key=lambda item: -len(item[0])))
        for first, group in phrases.items()
    }
