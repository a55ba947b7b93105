"""Limits on a tokenizer.json and on texts, so that neither can take memory or time without end.

The tokenizers library obeys whatever the file says: twenty nested replacements of a letter by ten
ask for 10^20 bytes, a template of ten million ids adds them to every text. So the parts that can
multiply a text are read here first and their growth is bounded.
"""

import binascii
import math
from pathlib import Path
from typing import Any

import msgspec
import tokenizers

from reclap.errors import FormatError
from reclap.io import files

__all__ = ["LARGEST_FILE", "check_file", "check_size", "longest_text"]

LARGEST_FILE = 1 << 26  # bytes; the largest published ones have 35 MB
_LONGEST_TEXT = 1_000_000  # characters
_LONGEST_WORD = 10_000  # of word pieces, which take the square of it; BERT's is 100
_LARGEST_PART = {"normalizer": 1 << 22, "pre_tokenizer": 1 << 17, "post_processor": 1 << 15}
_GROWING = ("normalizer", "pre_tokenizer")
_SEQUENCES = ("normalizers", "pretokenizers")
_MOST_STEPS = 64
_MOST_GROWTH = 10_000  # of a text's bytes; T5's file may make 132 of one
_NORMALIZED = 20_000_000  # bytes that one text may become
_UNICODE = 18  # bytes that NFKC and NFKD make of one, at most, however often
_KEEPING = {  # steps that make a text at most a little longer, however often
    "BertNormalizer",
    "BertPreTokenizer",
    "CharDelimiterSplit",
    "Digits",
    "FixedLength",
    "Lowercase",
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Nmt",
    "Punctuation",
    "Sequence",
    "Split",
    "Strip",
    "StripAccents",
    "UnicodeScripts",
    "Whitespace",
    "WhitespaceSplit",
}
_NOTHING = msgspec.Raw(b"null")


class _Sections(msgspec.Struct):
    """The parts of a tokenizer.json that are looked at; others are passed over."""

    model: msgspec.Raw = _NOTHING
    normalizer: msgspec.Raw = _NOTHING
    pre_tokenizer: msgspec.Raw = _NOTHING
    post_processor: msgspec.Raw = _NOTHING
    added_tokens: msgspec.Raw = _NOTHING


class _Model(msgspec.Struct):
    max_input_chars_per_word: int | None = None


class _Added(msgspec.Struct):
    content: str = ""


def check_size(path: Path) -> None:
    """Refuse a file of more than `LARGEST_FILE` bytes with a FormatError."""
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise _fault(path, f"expected at most {LARGEST_FILE} bytes, got {size}")


def check_file(path: Path, content: bytes) -> None:
    """Refuse a tokenizer.json that could take too much memory or time, before it is loaded.

    Raises
    ------
    FormatError
        If a part that every text passes is too large, or texts can become 10,000 times as long.
    """
    try:
        sections = msgspec.json.decode(content, type=_Sections)
        parts = {name: getattr(sections, name) for name in _LARGEST_PART}
        for name, raw in parts.items():
            if len(memoryview(raw)) > _LARGEST_PART[name]:
                raise _fault(
                    path,
                    f"{name} has {len(memoryview(raw))} bytes, "
                    f"expected at most {_LARGEST_PART[name]}",
                )
        growth = _growth(path, [msgspec.json.decode(parts[name]) for name in _GROWING])
        model = msgspec.json.decode(sections.model, type=_Model | None)
        added = msgspec.json.decode(sections.added_tokens, type=list[_Added] | None)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _fault(path, files.disguise(content) or str(error)) from error
    longest = (model.max_input_chars_per_word if model else None) or 0
    if longest > _LONGEST_WORD:
        raise _fault(
            path, f"max_input_chars_per_word is {longest}, expected at most {_LONGEST_WORD}"
        )
    size = sum(len(x.content) for x in added or [])
    if size * growth > _NORMALIZED:
        raise _fault(path, f"added tokens of {size} characters become {growth:g} times as long")


def longest_text(path: Path, tokenizer: tokenizers.Tokenizer) -> int:
    """Return the most characters of a text that a tokenizer may be given."""
    parts = [tokenizer.normalizer, tokenizer.pre_tokenizer]
    states = [msgspec.json.decode(x.__getstate__()) for x in parts if x is not None]
    return min(_LONGEST_TEXT, int(_NORMALIZED / _growth(path, states)))


def _fault(path: Path, message: str) -> FormatError:
    return FormatError(f"{path}: not a tokenizer: {message}")


def _growth(path: Path, parts: list[Any]) -> float:
    """Return by what factor the steps of some parts can make a text longer."""
    steps = [step for part in parts for step in _steps(part)]
    if len(steps) > _MOST_STEPS:
        raise _fault(path, f"expected at most {_MOST_STEPS} steps, got {len(steps)}")
    unicode = _UNICODE if any(step.get("type") in ("NFKC", "NFKD") for step in steps) else 1
    growth = unicode * math.prod(map(_factor, steps))
    if not growth <= _MOST_GROWTH:
        raise _fault(
            path,
            f"its steps can make texts {growth:.3g} times as long, "
            f"expected at most {_MOST_GROWTH} times",
        )
    return growth


def _steps(part: Any) -> list[dict[str, Any]]:
    """Return a part and the parts inside it, where it is a sequence."""
    if not isinstance(part, dict):
        return []
    lists = [part.get(name) for name in _SEQUENCES]
    inside = [step for x in lists if isinstance(x, list) for step in x]
    return [part] + [x for step in inside for x in _steps(step)]


def _factor(step: dict[str, Any]) -> float:
    """Return by what factor one step can make a text longer; names of types may be absent."""
    match step:
        case {"pattern": old, "content": str() as new}:
            old = old.get("String") if isinstance(old, dict) else old
            size = len(new.encode())
            if not isinstance(old, str) or not old:  # an expression may be met between all letters
                return 1 + size
            return max(1, size / len(old.encode()))
        case {"prepend": str() as new}:
            return 1 + len(new.encode())
        case {"precompiled_charsmap": str() as table}:
            return _longest_entry(table)
        case {"type": str() as kind} if kind in _KEEPING:
            return 1
    return 4 if step else 1  # ByteLevel, Metaspace: two or three bytes of one, and one before


def _longest_entry(table: str) -> int:
    """Return the most bytes that a compiled table of SentencePiece makes of one."""
    try:
        content = binascii.a2b_base64(table)
    except ValueError:  # which the library refuses as well
        return 1
    begin = 4 + int.from_bytes(content[:4], "little")  # behind the trie lie texts that end with 0
    return max(1, *map(len, content[begin:].split(b"\0")))
