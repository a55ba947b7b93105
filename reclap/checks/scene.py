"""What a caption says: which sources, how many, in which order, which of them denied."""

import dataclasses
import functools
import re

from reclap.checks.sources import EVIDENCE, SOFT, SOUND, THING, Meanings, lexicon
from reclap.checks.words import stem

__all__ = ["Clause", "Mention", "Scene", "read_scene"]

AT_ONCE, LATER, EARLIER, BESIDE = "=", ">", "<", "?"  # how a clause follows the one before it


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
        Place in the text, in words.
    clause : int
        Which clause it stands in.
    words : str
        As written.
    count : int or None
        How many; 0 for several; None where the text does not say.
    is_denied, is_figure : bool
        "no dog"; "like a dog", "a wave of applause".
    """

    source: str
    role: int
    at: int
    clause: int
    words: str
    count: int | None = None
    is_denied: bool = False
    is_figure: bool = False


@dataclasses.dataclass
class Clause:
    """A part of a caption between two connectives.

    Attributes
    ----------
    link : str
        How it follows the clause before it: one of `AT_ONCE`, `LATER`, `EARLIER`, `BESIDE`.
    phase : int
        Clauses of a greater phase come later.
    """

    link: str = BESIDE
    phase: int = 0


@dataclasses.dataclass
class Scene:
    """All that was read from one caption.

    Attributes
    ----------
    mentions : list of Mention
        In the order of the text.
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


# ---- Connectives ---------------------------------------------------------------------------------

# Phrases become one token each, "@" before what they mean.
_REWRITE = tuple(
    (re.compile(rf"\b(?:{pattern})\b"), token)
    for pattern, token in (
        (r"\w+-(?:like|style|sounding)|one after (?:another|the other)|time after time|"
         r"day after day|such as|as well as|as before|as \w+ as|at first|much as|again and again|"
         r"over and over|(?:never|not) far|not only|before long,?|the same as|after all|"
         r"even as|just as", " "),
        (r"(?:sound(?:s|ing)? |much |almost |just |rather )?like|as (?:if|though|from)|"
         r"reminiscent of|resembl\w+|similar to|akin to|mimic\w*|imitat\w+|the way|evok\w+|"
         r"suggest\w+|recall\w*", "@figure"),
        (r"followed(?: \w+){0,3}? by|(?:succeeded|replaced|proceeded) by|"
         r"(?:giv\w+|gave) way to|(?:lead|led)\w* (?:in)?to|fad\w+ (?:in)?to|"
         r"(?:end|culminat|conclud|clos|finish)\w* (?:with|in|on)|"
         r"yield\w* to|after which|after that|prior to|preced(?:es|ing)|until|till|and then|"
         r"before|mak\w+ room for|turn\w* into|at which point|ahead of", "@later"),
        (r"then|next|afterwards?|(?:(?:moments?|seconds|a (?:moment|while|second)|shortly) )?later|"
         r"subsequently|finally|eventually|thereafter|lastly", "@adverb"),
        (r"(?:soon|shortly|right|not long|just|moments) after", "@soon"),
        (r"after|preceded(?: \w+)? by|following|in the wake of", "@earlier"),
        (r"while|whilst|meanwhile|during|at the same time(?: as)?|simultaneously(?: with)?|amid|"
         r"amidst|alongside|accompanied(?: \w+)? by|all the while|throughout|as|beneath|"
         r"underneath|over (?=a\b|an\b|the\b)", "@once"),
        (r"and|with|but|where|when|plus|or", "@beside"),
    )
)  # fmt: skip
_MEANS = {"@later": LATER, "@adverb": LATER, "@earlier": EARLIER, "@once": AT_ONCE}
_FRONTED = {"@earlier": LATER, "@once": AT_ONCE, "before": EARLIER, "once": LATER}
_TOKEN = re.compile(r"@\w+|[^\W\d_]+(?:'[^\W\d_]+)*|\d+|[,;:.!?]")
_MARKS = frozenset(",;:.!?")


def _tokens(text: str) -> list[str]:
    text = text.lower().replace("\u2019", "'")
    text = re.sub(r"^\W*before\b", "@before ", text)
    text = re.sub(r"^\W*once (?=an?\b|the\b)", "@earlier ", text)
    for pattern, token in _REWRITE:
        text = pattern.sub(f" {token} ", text)
    return _TOKEN.findall(text.replace("-", " "))


# ---- Reading -------------------------------------------------------------------------------------

_DENIALS = frozenset(
    ("no", "not", "without", "never", "nor", "neither", "lacking", "absent", "silent", "devoid")
)
_NUMBERS = {
    "one": 1, "single": 1, "lone": 1, "solitary": 1, "sole": 1, "a": 1, "an": 1,
    "two": 2, "couple": 2, "pair": 2, "both": 2, "duo": 2, "three": 3, "trio": 3, "four": 4,
    "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "dozen": 12,
    "several": 0, "many": 0, "multiple": 0, "few": 0, "numerous": 0, "various": 0, "some": 0,
    "group": 0, "series": 0, "countless": 0, "scattered": 0,
}  # fmt: skip
_TIMES = {"once": 1, "twice": 2, "thrice": 3}
_MANY = frozenset(("people", "men", "women", "children", "geese", "mice", "wolves", "oxen"))
# Sources whose plural says nothing about how many there are.
_UNCOUNTED = frozenset(
    """footstep water wave leaf gravel applause clap static tire key coin cutlery dish glass wind
    rain gun explosion firework fire string xylophone door drawer typing person crowd food paper
    plastic speech laugh music drum thunder insect bee cricket mosquito wood rock metal alarm
    machine engine vehicle""".split()  # noqa: SIM905
)
_REACH = 4  # words between a number or a denial and what it belongs to


class _Reader:
    """Goes through the tokens of a caption once."""

    def __init__(self, text: str) -> None:
        self.mentions: list[Mention] = []
        self.evidence: set[str] = set()
        self.clauses = [Clause()]
        self._open: list[tuple[Mention, Meanings]] = []  # words with several meanings
        self._number: tuple[int, int] | None = None  # value, place
        self._denied = self._figure = -1  # up to which place
        self._fronted = ""  # how the main clause follows a clause that was put before it
        self._is_empty = True
        self._after_of = -1
        tokens = _tokens(text)
        at = 0
        while at < len(tokens):
            at += self._step(tokens, at)
        self._settle()

    def _step(self, tokens: list[str], at: int) -> int:
        """Take what begins at a place; return how many tokens that was."""
        token = tokens[at]
        if token[0] == "@" or token in _MARKS:
            self._connective(token, tokens, at)
            return 1
        if token in _DENIALS or token.endswith("n't"):
            self._denied = at + _REACH
        if token in _TIMES or tokens[at + 1 : at + 2] == ["times"]:
            return self._times(token)
        if token in _NUMBERS or token.isdigit():
            self._count(token, at)
        found, size = self._match(tokens, at)
        self._is_empty = False
        if found:
            self._mention(found, tokens, at, size)
        return size

    def _match(self, tokens: list[str], at: int) -> tuple[Meanings, int]:
        for stems, meanings in lexicon().phrases.get(stem(tokens[at]), ()):
            size = len(stems)
            if size == 1 or tuple(map(stem, tokens[at : at + size])) == stems:
                return meanings, size
        return (), 1

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
        mention.is_figure = at <= self._figure or self._is_of(tokens, at + size)
        mention.count = self._counted(tokens[at + size - 1], role, at)
        self.mentions.append(mention)
        if len(strong) > 1:
            self._open.append((mention, strong))

    @staticmethod
    def _is_of(tokens: list[str], after: int) -> bool:
        """Tell whether something is said to be of another source: "a wave of applause"."""
        if tokens[after : after + 1] != ["of"]:
            return False
        nearby = tokens[after + 1 : after + 4]
        known = (lexicon().phrases.get(stem(t), ()) for t in nearby if t[0] != "@")
        return any(role in (THING, SOUND) for group in known for s, m in group for _, role in m
                   if len(s) == 1)  # fmt: skip

    # ---- Numbers ----

    def _count(self, token: str, at: int) -> None:
        value = int(token) if token.isdigit() else _NUMBERS[token]
        is_article = token in ("a", "an")
        if not (is_article and self._number and at - self._number[1] < _REACH):
            self._number = (value, at)

    def _counted(self, word: str, role: int, at: int) -> int | None:
        number, self._number = self._number, None
        if number and at - number[1] <= _REACH:
            return number[0]
        is_plural = word in _MANY or (word.endswith("s") and stem(word) != word)
        return 0 if role == THING and is_plural else None

    def _times(self, token: str) -> int:
        """Count events: "twice", "three times"."""
        size = 1 if token in _TIMES else 2
        value = _TIMES.get(token, _NUMBERS.get(token, int(token) if token.isdigit() else None))
        here = [m for m in self.mentions if m.clause == len(self.clauses) - 1]
        events = [m for m in here if m.role != THING] or here
        if events and value is not None:
            events[-1].count, events[-1].role = value, max(events[-1].role, SOUND)
        return size

    # ---- Clauses ----

    def _connective(self, token: str, tokens: list[str], at: int) -> None:
        self._number, self._denied = None, -1
        if token == "@figure":
            self._figure = at + 2 * _REACH
            return
        if token in (".", "!", "?", ";", ",") or token in _MEANS:
            self._figure = -1
        if self._is_empty and len(self.clauses) == 1:
            self._fronted = _FRONTED.get(token.lstrip("@") if token == "@before" else token, "")
            return
        link = _MEANS.get(token, BESIDE)
        if token == "@soon":
            link = LATER if tokens[at - 1 : at] in (["@beside"], [","], [";"], ["."]) else EARLIER
        if self._fronted and token in _MARKS:
            link, self._fronted = self._fronted, ""
        is_last = at + 1 == len(tokens) or tokens[at + 1] in _MARKS
        if token == "@adverb" and is_last and not self._is_empty:
            self._relink(link)  # "..., a car passes afterwards"
        elif self._is_empty:
            if link != BESIDE:
                self._relink(link)
        else:
            self.clauses.append(Clause())
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
        What the lexicon and the list of connectives see in it; not to be changed.

    Examples
    --------
    >>> scene = read_scene("Two dogs bark before a car passes")
    >>> [(m.source, m.count, scene.clauses[m.clause].phase) for m in scene.mentions]
    [('dog', 2, 0), ('dog', None, 0), ('car', 1, 1)]
    """
    reader = _Reader(text)
    return Scene(reader.mentions, frozenset(reader.evidence), reader.clauses)
