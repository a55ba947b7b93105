"""Words of a text: splitting, stems, normal forms."""

import functools
import re
import unicodedata

from reclap.checks.lists import read_list

__all__ = ["FUNCTION", "content", "key", "split", "stem"]

_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*|\d+")

FUNCTION = frozenset(read_list("function"))

_IRREGULAR = {
    "men": "man", "women": "woman", "children": "child", "mice": "mouse", "geese": "goose",
    "oxen": "ox", "wolves": "wolf", "leaves": "leaf", "knives": "knife", "calves": "calf",
    "hooves": "hoof", "spoke": "speak", "spoken": "speak", "sang": "sing", "sung": "sing",
    "rang": "ring", "rung": "ring", "blew": "blow", "blown": "blow", "flew": "fly",
    "flown": "fly", "drove": "drive", "driven": "drive", "rode": "ride", "ridden": "ride",
    "broke": "break", "broken": "break", "tore": "tear", "torn": "tear", "ran": "run",
    "wept": "weep", "shook": "shake", "shaken": "shake", "fell": "fall", "fallen": "fall",
    "struck": "strike", "said": "say", "told": "tell", "shot": "shoot", "swept": "sweep",
    "ground": "ground", "laughter": "laugh", "wooden": "wood", "metallic": "metal",
    "speech": "speak", "blowing": "blow", "during": "during", "ceiling": "ceiling",
    "morning": "morning", "evening": "evening", "wedding": "wedding", "building": "building",
    "gas": "gas", "bus": "bus", "buses": "bus", "canvas": "canvas", "glasses": "glass",
    "shelves": "shelf", "fluting": "fluting", "drumming": "drumming", "trumpeting": "trumpeting",
    "thundering": "thundering", "whipping": "whipping",
    "sawing": "sawing", "axes": "axe", "lying": "lie", "dying": "die", "tying": "tie",
}  # fmt: skip
_VOWEL = re.compile(r"[aeiouy]")
_SHORT = re.compile(r"[^aeiou]?[aeiouy][^aeiouwxy]|.dl")  # "tap" of taping; tapping has "tapp"
_DOUBLED = re.compile(r"([bdgmnprt])\1$")


def split(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation.

    Examples
    --------
    >>> split("A dog's bark, 2 times!")
    ['a', "dog's", 'bark', '2', 'times']
    """
    lower = text.lower()
    pattern = _WORD if lower.isascii() else _with_marks(lower)
    return [word.replace("\u2019", "'") for word in pattern.findall(lower)]


def _with_marks(text: str) -> re.Pattern[str]:
    """Return the pattern of words whose letters may have the marks of a text: vowels of Hindi."""
    marks = "".join(sorted({c for c in text if unicodedata.category(c).startswith("M")}))
    if not marks:
        return _WORD
    letters = rf"(?:[^\W\d_][{marks}]*)+"
    return re.compile(rf"{letters}(?:['\u2019]{letters})*|\d+")


@functools.lru_cache(1 << 16)
def stem(word: str) -> str:
    """Return the stem that the inflected forms of an English word share.

    A few rules for plurals, -ing and -ed, enough to compare captions; what comes out need not be
    a word.

    Examples
    --------
    >>> [stem(w) for w in ("bark", "barks", "barked", "rattle", "rattling", "humming", "idling")]
    ['bark', 'bark', 'bark', 'rattl', 'rattl', 'hum', 'idle']
    """
    word = word.removesuffix("'s").removesuffix("'")
    one = _IRREGULAR.get(word) or _singular(word)
    plain = _IRREGULAR.get(one) or _uninflected(one)
    return plain.removesuffix("e") if len(plain) > 4 else plain


def _uninflected(word: str) -> str:
    for suffix in ("ing", "ed"):
        base = word.removesuffix(suffix)
        if base != word and len(base) > 1 and _VOWEL.search(base) and not word.endswith("eed"):
            return base + "e" if _SHORT.fullmatch(base) else _DOUBLED.sub(r"\1", base)
    return word


def _singular(word: str) -> str:
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y" if len(word) > 4 else word[:-1]
    if word.endswith(("sses", "xes", "zes", "ches", "shes")):
        return word[:-2]
    return word[:-1]


def content(text: str) -> list[str]:
    """Return the stems of the words that are not grammar, in their order."""
    return [stem(word) for word in split(text) if word not in FUNCTION]


def key(text: str) -> str:
    """Return the normal form of a text: letters and digits only, lower case, no accents.

    A text without any, of emoji for instance, stays as it is but for case.
    """
    folded = text.casefold()
    plain = "".join(c for c in unicodedata.normalize("NFKD", folded) if not _is_accent(c))
    return " ".join(split(plain)) or " ".join(folded.split())


def _is_accent(character: str) -> bool:
    """Tell whether a mark only points a letter; vowels, tones and voicing are not dropped."""
    kind = unicodedata.combining(character)
    return kind == 1 or 10 <= kind <= 36 or kind >= 200  # overlays; Hebrew, Arabic; above, below
