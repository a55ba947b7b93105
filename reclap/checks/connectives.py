"""Connectives between the clauses of a caption: then, while, before, like."""

import re

__all__ = ["AT_ONCE", "BESIDE", "EARLIER", "FRONTED", "LATER", "MARKS", "MEANS", "tokens_of"]

AT_ONCE, LATER, EARLIER, BESIDE = "=", ">", "<", "?"  # how a clause follows the one before it

# Meanings of phrases; where two fit, the first counts.
_PHRASES = {
    "nothing": (
        r"\w+-(?:like|style|sounding)|one after (?:another|the other)|time after time|"
        r"day after day|such as|as well as|as before|as \w+ as|at first|much as|again and again|"
        r"over and over|(?:never|not) far|not only|before long,?|the same as|after all|even as|"
        r"just as"
    ),
    "figure": (
        r"(?:sound(?:s|ing)? |much |almost |just |rather )?like|as (?:if|though|from)|"
        r"reminiscent of|resembl\w+|similar to|akin to|mimic\w*|imitat\w+|the way|evok\w+|"
        r"suggest\w+|recall\w*"
    ),
    "fronted": r"^before",
    "later": (
        r"followed(?: \w+){0,3}? by|(?:succeeded|replaced|proceeded) by|"
        r"(?:giv\w+|gave) way to|(?:lead|led)\w* (?:in)?to|fad\w+ (?:in)?to|"
        r"(?:end|culminat|conclud|clos|finish)\w* (?:with|in|on)|yield\w* to|after which|"
        r"after that|prior to|preced(?:es|ing)|until|till|and then|before|mak\w+ room for|"
        r"turn\w* into|at which point|ahead of"
    ),
    "adverb": (
        r"then|next|afterwards?|"
        r"(?:(?:moments?|seconds|a (?:moment|while|second)|shortly) )?later|subsequently|finally|"
        r"eventually|thereafter|lastly"
    ),
    "soon": r"(?:soon|shortly|right|not long|just|moments) after",
    "earlier": (
        r"after|preceded(?: \w+)? by|following|in the wake of|"
        r"^once (?=an?\b|the\b)"
    ),
    "once": (
        r"while|whilst|meanwhile|during|at the same time(?: as)?|"
        r"simultaneously(?: with)?|amid|amidst|alongside|accompanied(?: \w+)? by|all the while|"
        r"throughout|as|beneath|underneath|over (?=an?\b|the\b)"
    ),
    "beside": r"and|but|where|when|plus|or",
}
_PHRASE = re.compile("|".join(rf"\b(?P<{name}>{p})\b" for name, p in _PHRASES.items()))
_TOKEN = re.compile(r"@\w+|[^\W\d_]+(?:'[^\W\d_]+)*|\d+|[,;:.!?]")

MARKS = frozenset(",;:.!?")
MEANS = {"@later": LATER, "@adverb": LATER, "@earlier": EARLIER, "@once": AT_ONCE}
# How the main clause follows one that stands before it: "after a bark, a car passes".
FRONTED = {"@earlier": LATER, "@once": AT_ONCE, "@fronted": EARLIER}


def tokens_of(text: str) -> list[str]:
    """Split a caption into words, punctuation marks, and one token for each connective.

    Examples
    --------
    >>> tokens_of("A dog barks, followed by rain as soft as silk")
    ['a', 'dog', 'barks', ',', '@later', 'rain', 'silk']
    """
    plain = text.lower().replace("\u2019", "'").strip(" \"'.,")
    joined = _PHRASE.sub(_token_of, plain)
    return _TOKEN.findall(joined.replace("-", " "))


def _token_of(match: re.Match[str]) -> str:
    return " " if match.lastgroup == "nothing" else f" @{match.lastgroup} "
