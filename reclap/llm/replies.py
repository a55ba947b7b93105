"""Parsing of replies, which promise JSON and may hold anything; nothing is executed."""

import json
import re
from typing import Any

__all__ = ["ReplyError", "read_texts"]

_TRIES = 64  # positions where JSON may begin; more are noise
_DEPTH = 3  # of containers around the texts
_SURROGATE = re.compile(r"[\ud800-\udfff]")  # that JSON can spell and UTF-8 cannot
_TRAILING_COMMA = re.compile(r",(\s*[}\]])")


class ReplyError(ValueError):
    """Error of a reply that cannot be used.

    Parameters
    ----------
    kind : str
        Name of the fault, as reports count it.
    """

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


def read_texts(reply: str) -> list[str]:
    """Return the texts of a reply.

    Parameters
    ----------
    reply : str
        JSON: an object keyed by index, or a list, of texts. Words or a code fence around it,
        a comma too many, and one object around it (``{"captions": [...]}``) or around each
        text (``{"1": {"caption": ...}}``) are put up with.

    Returns
    -------
    list of str
        In the order of their indices, each on one line without space around it; at least one.

    Raises
    ------
    ReplyError
        If it is empty, holds no JSON, or the JSON holds anything but texts.
    """
    if not reply.strip():
        raise ReplyError("empty reply")
    items = _items(_parse(reply), _DEPTH)
    texts = [" ".join(item.split()) for item in items]
    if not any(texts):
        raise ReplyError("empty reply")
    if not all(texts):
        raise ReplyError("empty text")
    if any(_SURROGATE.search(text) for text in texts):
        raise ReplyError("not Unicode")
    return texts


def _parse(reply: str) -> Any:
    """Return the longest JSON object or list in a reply."""
    for text in (reply, _TRAILING_COMMA.sub(r"\1", reply)):
        found = _longest(text)
        if found is not None:
            return found
    raise ReplyError("invalid JSON")


def _longest(text: str) -> Any:
    decoder = json.JSONDecoder()
    best, longest, begin = None, 0, 0
    for start in [m.start() for m in re.finditer(r"[{\[]", text)][:_TRIES]:
        if start < begin:  # inside of one that was read
            continue
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if end - start > longest:
            best, longest = value, end - start
        begin = end
    return best


def _items(value: Any, depth: int) -> list[str]:
    """Return the texts inside, or raise."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = [value[key] for key in _ordered(value)]
    if not isinstance(value, list) or depth == 0:
        raise ReplyError("not a text")
    if len(value) == 1:
        return _items(value[0], depth - 1)
    items = [_items(v, depth - 1) for v in value]
    if any(len(item) != 1 for item in items):
        raise ReplyError("not a text")
    return [item[0] for item in items]


def _ordered(value: dict[str, Any]) -> list[str]:
    """Return the keys, by number where all are numbers."""
    return sorted(value, key=int) if all(_is_index(key) for key in value) else list(value)


def _is_index(key: str) -> bool:
    return key.isascii() and key.isdigit() and len(key) < 10
