"""Scene of a caption: its sources, their number, order and negation."""

import dataclasses
import functools
import itertools

from reclap.checks.connectives import (
    AT_ONCE,
    BESIDE,
    EARLIER,
    FRONTED,
    LATER,
    MARKS,
    MEANS,
    tokens_of,
)
from reclap.checks.lexicon import EVIDENCE, SOUND, THING, Meanings, lexicon
from reclap.checks.lists import read_lines, read_list
from reclap.checks.words import stem

__all__ = ["Clause", "Mention", "Scene", "kingdom", "read_scene"]


@dataclasses.dataclass
class Mention:
    """A word or phrase that names a source.

    Attributes
    ----------
    source : str
        Name in the lexicon.
    role : int
        `THING`, `SOUND` or `SOFT`.
    at : int
        Position in the text, in words.
    clause : int
        Index of its clause.
    words : str
        Words as written.
    count : int or None
        Number of sources; 0 for several; None where the text does not say.
    is_denied : bool
        "no dog".
    is_figure : bool
        "like a dog", "a wave of applause", "an engine purrs".
    is_place : bool
        Whether it is a location rather than a source: "in a pan".
    """

    source: str
    role: int
    at: int
    clause: int
    words: str
    count: int | None = None
    is_denied: bool = False
    is_figure: bool = False
    is_place: bool = False


@dataclasses.dataclass
class Clause:
    """A part of a caption between two connectives.

    Attributes
    ----------
    link : str
        Relation to the clause before it: one of `AT_ONCE`, `LATER`, `EARLIER`, `BESIDE`.
    phase : int
        Clauses of a greater phase come later.
    start : int
        Index of its first word.
    """

    link: str = BESIDE
    phase: int = 0
    start: int = 0


@dataclasses.dataclass
class Scene:
    """Scene of one caption: its mentions and clauses.

    Attributes
    ----------
    mentions : list of Mention
        Mentions, in the order of the text.
    evidence : frozenset of str
        Sources that words point to without naming them.
    clauses : list of Clause
    """

    mentions: list[Mention]
    evidence: frozenset[str]
    clauses: list[Clause]

    def named(self) -> dict[str, list[Mention]]:
        """Return the mentions that count, by source: neither denied nor a figure of speech."""
        found: dict[str, list[Mention]] = {}
        for m in self.mentions:
            if not m.is_denied and not m.is_figure:
                found.setdefault(m.source, []).append(m)
        return found

    def relation(self, a: Mention, b: Mention) -> str:
        """Return how `b` stands to `a` in time: `LATER`, `EARLIER`, `AT_ONCE`, or `BESIDE`."""
        one, two = self.clauses[a.clause], self.clauses[b.clause]
        if one.phase != two.phase:
            return LATER if two.phase > one.phase else EARLIER
        first, last = sorted((a.clause, b.clause))
        links = {clause.link for clause in self.clauses[first + 1 : last + 1]}
        return AT_ONCE if AT_ONCE in links and links <= {AT_ONCE, BESIDE} else BESIDE


# ---- Reading -------------------------------------------------------------------------------------

_DENIALS = frozenset(
    ("no", "not", "without", "never", "nor", "neither", "lacking", "absent", "silent", "devoid")
)
_NUMBERS = {
    "one": 1, "single": 1, "lone": 1, "solitary": 1, "sole": 1, "a": 1, "an": 1,
    "two": 2, "couple": 2, "pair": 2, "both": 2, "duo": 2, "three": 3, "trio": 3, "four": 4,
    "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "dozen": 12,
    "several": 0, "many": 0, "multiple": 0, "few": 0, "numerous": 0, "various": 0, "some": 0,
    "series": 0, "countless": 0, "scattered": 0, "handful": 0,
}  # fmt: skip
_GROUPS = frozenset(
    ("group", "flock", "swarm", "herd", "pack", "chorus", "bunch", "cluster", "colony", "crowd")
)
_NUMBERS.update(dict.fromkeys(_GROUPS, 0))
# Singular words for several: "an audience", "a band".
_COLLECTIVES = _GROUPS | set(
    ("audience", "throng", "mob", "congregation", "choir", "orchestra", "band", "ensemble",
     "cattle", "livestock", "poultry", "traffic", "machinery")
)  # fmt: skip
_TIMES = {"once": 1, "twice": 2, "thrice": 3}
_MANY = frozenset(("people", "men", "women", "children", "geese", "mice", "wolves", "oxen"))
_UNCOUNTED = frozenset(read_lines("uncounted"))
_VERBS, _PARTICLES = frozenset(read_list("verbs")), frozenset(read_list("particles"))
_PREPOSITIONS = frozenset(read_list("prepositions"))
_REACH = 4  # maximum distance in words from a number or a negation to its noun


# Sources that are heard at any position: "in the rain", "at a dog".
_HEARD = frozenset(
    ("person", "animal", "vocal", "vehicle", "alarm", "music", "rain", "wind", "thunder", "storm",
     "fire", "gun", "explosion", "firework", "static", "wave", "stream")
)  # fmt: skip
# Whose voice it is, and beside what the word only describes.
_OWN = {"animal": {"animal"}, "vocal": {"person"}}
_OTHER = {"animal": {"thing"}, "vocal": {"thing", "animal"}}


@functools.cache
def kingdom(source: str) -> str:
    """Return the broad category of a source: person, animal, vocal or thing."""
    wider = {source, *lexicon().sources[source].wider}
    return next((name for name in ("person", "animal", "vocal") if name in wider), "thing")


def _is_heard(source: str) -> bool:
    return bool({source, *lexicon().sources[source].wider} & _HEARD)


def _number(word: str) -> int | None:
    """Return the value of a number, in words or digits."""
    if word.isdecimal() and len(word) < 4:
        return int(word)
    return _NUMBERS.get(word)


class _Reader:
    """Parser of a caption, in one pass over its tokens."""

    def __init__(self, text: str) -> None:
        self.mentions: list[Mention] = []
        self.evidence: set[str] = set()
        self.clauses = [Clause()]
        self._open: list[tuple[Mention, Meanings]] = []  # words with several meanings
        self._number: tuple[int, int, bool] | None = None  # value, position, is an article
        self._denied = self._figure = self._place = -1  # up to which word each reaches
        self._fronted = ""  # how the main clause follows a clause that was put before it
        self._is_empty = True  # the last clause, so far
        tokens = tokens_of(text)
        at = 0
        while at < len(tokens):
            at += self._step(tokens, at)
        self._settle()

    def _step(self, tokens: list[str], at: int) -> int:
        """Read the phrase at a position; return its number of tokens."""
        word = tokens[at]
        if word[0] == "@" or word in MARKS:
            self._connective(word, tokens, at)
            return 1
        if word in _DENIALS or word.endswith("n't"):
            self._denied = at + _REACH
        if word in _TIMES or tokens[at + 1 : at + 2] == ["times"]:
            return self._times(word)
        if _number(word) is not None:
            self._count(word, at)
        if word == "of" and self._number and self._number[2]:
            self._number = None  # "a burst of gunfire" is not one gun
        if word in _PREPOSITIONS:
            self._place = at + _REACH
        found, size = self._match(tokens, at)
        self._is_empty = False
        if found:
            self._mention(found, tokens, at, size)
        return size

    def _match(self, tokens: list[str], at: int) -> tuple[Meanings, int]:
        exact = lexicon().phrases.get(f"={tokens[at]}")
        for stems, meanings in exact or lexicon().phrases.get(stem(tokens[at]), ()):
            size = len(stems)
            if size == 1 or tuple(map(stem, tokens[at : at + size])) == stems:
                return (*meanings, *self._hints(stems)), size
        return (), 1

    @staticmethod
    def _hints(stems: tuple[str, ...]) -> Meanings:
        """Return the sources that the words of a phrase hint at."""
        if len(stems) == 1:
            return ()
        alone = (lexicon().phrases.get(s, ()) for s in stems)
        single = (m for group in alone for words, m in group if len(words) == 1)
        return tuple(pair for meanings in single for pair in meanings if pair[1] == EVIDENCE)

    def _mention(self, found: Meanings, tokens: list[str], at: int, size: int) -> None:
        strong = tuple((name, role) for name, role in found if role != EVIDENCE)
        is_denied = at <= self._denied
        if not is_denied:
            self.evidence.update(name for name, role in found if role == EVIDENCE)
        if not strong:
            return
        name, role = strong[0]
        words = " ".join(tokens[at : at + size])
        mention = Mention(name, role, at, len(self.clauses) - 1, words, is_denied=is_denied)
        mention.is_figure = (
            at <= self._figure or self._is_of(tokens, at + size) or self._is_verb(tokens, at)
        )
        mention.is_place = role == THING and at <= self._place and not _is_heard(name)
        self._place = -1
        mention.count = self._counted(mention, tokens[at + size - 1 : at + size + 1])
        self.mentions.append(mention)
        if len(strong) > 1:
            self._open.append((mention, strong))

    @staticmethod
    def _is_of(tokens: list[str], after: int) -> bool:
        """Tell whether something is said to be of another source: "a wave of applause"."""
        if tokens[after : after + 1] != ["of"]:
            return False
        nearby = itertools.takewhile(lambda t: t[0] != "@", tokens[after + 1 : after + 6])
        known = (lexicon().phrases.get(stem(t), ()) for t in nearby)
        return any(role in (THING, SOUND) for group in known for s, m in group for _, role in m
                   if len(s) == 1)  # fmt: skip

    @staticmethod
    def _is_verb(tokens: list[str], at: int) -> bool:
        """Tell whether a word that names a thing says what another one does: "drums on"."""
        word, before = tokens[at], tokens[at - 1] if at else ""
        if word not in _VERBS or not _PARTICLES.intersection(tokens[at + 1 : at + 2]):
            return False
        return stem(word) != word or before.endswith("s") or bool(lexicon().phrases.get(before))

    # ---- Numbers ----

    def _count(self, word: str, at: int) -> None:
        is_article = word in ("a", "an")
        if not (is_article and self._number and at - self._number[1] < _REACH):
            self._number = (_number(word) or 0, at, is_article)

    def _counted(self, mention: Mention, words: list[str]) -> int | None:
        """Return how many a mention counts, from what stands before it and its own form."""
        number, self._number = self._number, None
        is_group = bool(_GROUPS.intersection(words[1:]))  # "an insect swarm"
        if number and mention.at - number[1] <= _REACH:
            is_one = number[0] == 1 and words[0] in _COLLECTIVES  # "an audience"
            return 0 if is_group or is_one else number[0]
        if mention.role != THING or mention.source in _UNCOUNTED:
            return None
        is_noun = not words[0].endswith("'s")  # "the dog's bark"
        is_plural = words[0].endswith("s") and is_noun and stem(words[0]) != words[0]
        return 0 if is_plural or is_group or words[0] in _MANY else None

    def _times(self, word: str) -> int:
        """Count events: "twice", "three times"."""
        size = 1 if word in _TIMES else 2
        value = _TIMES.get(word, _number(word))
        here = [m for m in self.mentions if m.clause == len(self.clauses) - 1]
        events = [m for m in here if m.role != THING] or here
        if events and value is not None:
            events[-1].count, events[-1].role = value, max(events[-1].role, SOUND)
        return size

    # ---- Clauses ----

    def _connective(self, word: str, tokens: list[str], at: int) -> None:
        self._number, self._denied, self._place = None, -1, -1
        if word == "@figure":
            self._figure = at + 2 * _REACH
            return
        if word in (".", "!", "?", ";", ",") or word in MEANS:
            self._figure = -1
        if self._is_empty and len(self.clauses) == 1:
            self._fronted = FRONTED.get(word, "")
            return
        link = MEANS.get(word, BESIDE)
        if word == "@soon":
            link = LATER if tokens[at - 1 : at] in (["@beside"], [","], [";"], ["."]) else EARLIER
        if self._fronted and word in MARKS:
            link, self._fronted = self._fronted, ""
        is_last = at + 1 == len(tokens) or tokens[at + 1] in MARKS
        if word == "@adverb" and is_last and not self._is_empty:
            self._relink(link)  # "..., a car passes afterwards"
        elif self._is_empty:
            if link != BESIDE:
                self._relink(link)
        else:
            self.clauses.append(Clause(start=at + 1))
            self._relink(link)
            self._is_empty = True

    def _relink(self, link: str) -> None:
        """Set how the last clause follows the one before it."""
        if len(self.clauses) < 2:
            return
        before, last = self.clauses[-2:]
        last.link = link
        last.phase = before.phase + {LATER: 1, EARLIER: -1}.get(link, 0)

    def _settle(self) -> None:
        """Choose meanings by what else is named: in "the rooster crows" no crow."""
        unclear = {id(mention) for mention, _ in self._open}
        clear = {m.source for m in self.mentions if id(m) not in unclear}
        for mention, meanings in self._open:
            for name, role in meanings:
                if name in clear:
                    mention.source, mention.role = name, role
                    break
            else:
                self.evidence.update(name for name, _ in meanings[1:])
        for clause in range(len(self.clauses)):
            self._find_figures(clause)

    def _find_figures(self, clause: int) -> None:
        """Mark voices that are said of a thing: an engine purrs, the wind moans, a bird sings."""
        beside = self._things(clause)
        for m in self.mentions:
            kind = kingdom(m.source)
            if m.clause != clause or m.role == THING or kind not in _OWN:
                continue
            this = self.clauses[clause]
            is_verb = m.at == this.start and m.words.endswith(("s", "ed"))
            goes_on = not beside and is_verb and this.link == BESIDE  # "it snarls and screams"
            around = self._things(clause - 1) if goes_on else beside
            m.is_figure |= bool(around & _OTHER[kind]) and not around & _OWN[kind]

    def _things(self, clause: int) -> set[str]:
        these = (m for m in self.mentions if m.clause == clause and not m.is_figure)
        return {kingdom(m.source) for m in these if m.role == THING}


@functools.lru_cache(4096)
def read_scene(text: str) -> Scene:
    """Read a caption.

    Parameters
    ----------
    text : str
        An English caption.

    Returns
    -------
    Scene
        Scene by the lexicon and the list of connectives; not to be changed.

    Examples
    --------
    >>> scene = read_scene("Two dogs bark before a car passes")
    >>> [(m.source, m.count, scene.clauses[m.clause].phase) for m in scene.mentions]
    [('dog', 2, 0), ('dog', None, 0), ('car', 1, 1)]
    """
    reader = _Reader(text)
    return Scene(reader.mentions, frozenset(reader.evidence), reader.clauses)
