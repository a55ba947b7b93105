"""Instructions to small models: one phrase about one property, after worked examples.

A model of a few hundred million weights cannot follow a page of rules, and copies what it should
reword. It can continue a pattern: from a source and a property to a phrase. The grammar holds the
phrase to its first word and its length, and the text is put together here, so that nothing that
must stay can get lost.
"""

import itertools
import json
import re
from collections.abc import Sequence

from reclap.llm.request import Message
from reclap.llm.step import Messages, Step

__all__ = ["caption_steps", "description_steps", "rewrite_steps"]

# The bound on words is wide: at its end a model glues together what it still wants to say.
_PHRASE = r"^(with|in)( a| an)?( [a-z-]+,?){1,12} [a-z]+$"
_PLACE = (
    r"^(in|inside|at|near|behind|under|outside|across|on|beside|along|above) (a|an|the)"
    r"( [a-z-]+){1,10}$"
)
_SHORT = tuple(  # taking turns, since a caption should not say "with a" twice
    rf"^{word}( [a-z-]+,?){{1,6}} [a-z]+$" for word in ("with a", "in")
)
_SHORT_WORDS = 5

_DESCRIBE = "You say how things sound: one short phrase about the property asked for, as JSON."
_DESCRIBED = (
    ("rain", "texture", ("with a fine, even hiss of countless soft drops",)),
    ("church bell", "pitch", ("with a deep tone and bright, ringing overtones",)),
    ("woodpecker", "rhythm", ("in quick, even bursts with long pauses between them",)),
    ("jet", "loudness", ("with a distant murmur that grows into a deafening roar",)),
    ("door slam", "attack and decay", ("with a sudden, heavy thud that dies away at once",)),
    ("trumpet", "timbre", ("with a bright, brassy and slightly nasal blare",)),
    ("cough", "distance and room", ("in a dry rattle that echoes through an empty hall",)),
)

_SITUATE = "You say where something can be heard: one short phrase, as JSON."
_SITUATED = (
    ("dog bark", "outdoors", ("behind a wooden fence at the end of a garden",)),
    ("rain", "indoors", ("on the window of a small, silent bedroom",)),
    ("church bell", "at night", ("above the dark roofs of a sleeping village",)),
    ("woodpecker", "far away", ("in a misty forest beyond the river",)),
    ("engine", "close by", ("inside a narrow garage with bare walls",)),
    ("laughter", "in public", ("at a crowded table in a busy restaurant",)),
)
_SITUATIONS = (
    "outdoors",
    "indoors",
    "in public",
    "far away",
    "close by",
    "at night",
    "in the morning",
    "in the city",
    "in the country",
    "in bad weather",
)

_REWRITE = "You say how events sound: for each one short phrase about the property, as JSON."
_REWRITTEN = (
    ("two men talk", "loudness", ("with a low, calm murmur",)),
    (
        "a kettle whistles | footsteps approach",
        "pitch",
        ("with a thin, rising tone", "in deep, hollow thuds"),
    ),
    ("a train horn blows", "timbre", ("with a harsh, brassy blast",)),
    (
        "rain falls | a dog barks | a car passes",
        "texture",
        ("with a soft patter", "in rough, hoarse bursts", "with a smooth rush"),
    ),
    ("a clock ticks", "rhythm", ("with a dry, regular pulse",)),
)
_MOST_EVENTS = 3
_MOST_WORDS = 29  # of a rewrite
_MOMENT = re.compile(r",? (?:and then|then|followed by|while|as|before|after)\b", re.IGNORECASE)


def _asked(
    system: str, examples: Sequence[tuple[str, str, Sequence[str]]], about: str, aspect: str
) -> Messages:
    turns = [Message("system", system)]
    for example, name, phrases in examples:
        answer = json.dumps({str(i): phrase for i, phrase in enumerate(phrases, 1)})
        turns += [Message("user", f"{example}; {name}"), Message("assistant", answer)]
    return (*turns, Message("user", f"{' '.join(about.split())}; {aspect}"))


def description_steps(label: str, definition: str, count: int) -> list[Step]:
    """Ask for one property of a label after the other; see `instructions.description_steps`."""
    named = f"{label} ({definition})" if definition else label
    return [
        _completed(
            label, _asked(_DESCRIBE, _DESCRIBED, named, _DESCRIBED[i % len(_DESCRIBED)][1]), _PHRASE
        )
        for i in range(count)
    ]


def caption_steps(description: str, count: int) -> list[Step]:
    """Ask for one place after the other; see `instructions.caption_steps`."""
    first = len(description)  # that not all descriptions of a label go to the same places
    return [
        _completed(
            description,
            _asked(_SITUATE, _SITUATED, description, _SITUATIONS[(first + i) % len(_SITUATIONS)]),
            _PLACE,
        )
        for i in range(count)
    ]


def rewrite_steps(caption: str, count: int) -> list[Step]:
    """Ask how the events of a caption sound; see `instructions.rewrite_steps`."""
    caption = caption.rstrip(" .")
    room = (_MOST_WORDS - len(caption.split())) // _SHORT_WORDS
    ends = [m.start() for m in _MOMENT.finditer(caption) if m.start()]
    ends = ends[: max(0, min(_MOST_EVENTS, room) - 1)]
    pieces = [caption[a:b] for a, b in itertools.pairwise([0, *ends, len(caption)])]
    events = " | ".join(_MOMENT.sub("", piece, count=1).strip(" ,").lower() for piece in pieces)
    aspects = [_REWRITTEN[i % len(_REWRITTEN)][1] for i in range(count)]
    return [_interleaved(pieces, _asked(_REWRITE, _REWRITTEN, events, name)) for name in aspects]


def _completed(begin: str, messages: Messages, pattern: str) -> Step:
    """Append the phrase to the text."""
    return Step(1, lambda _missing, _present: messages, (pattern,), lambda p: f"{begin} {p[0]}")


def _interleaved(pieces: Sequence[str], messages: Messages) -> Step:
    """Put a phrase after each piece of a caption."""

    def compose(phrases: Sequence[str]) -> str:
        return "".join(f"{a} {b}" for a, b in zip(pieces, phrases, strict=True))

    patterns = tuple(_SHORT[i % len(_SHORT)] for i in range(len(pieces)))
    return Step(1, lambda _missing, _present: messages, patterns, compose)
