"""Steps of a generation: the conversation and the JSON schema of a request."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from reclap.llm.request import Message, Request

__all__ = ["Messages", "Step", "prompt_tokens"]

Messages = tuple[Message, ...]


def _only(parts: Sequence[str]) -> str:
    return parts[0]


@dataclasses.dataclass(frozen=True)
class Step:
    """Step of a generation: texts to ask for, until there are enough.

    Attributes
    ----------
    count : int
        Texts wanted.
    messages : callable
        Maps the number of missing texts and the present texts to a conversation.
    patterns : tuple of str
        For each string of a reply that goes into a text, the regular expression that models whose
        output can be held to one are held to; may be empty.
    compose : callable
        Maps these strings to the text.
    """

    count: int
    messages: Callable[[int, Sequence[str]], Messages]
    patterns: tuple[str, ...] = ("",)
    compose: Callable[[Sequence[str]], str] = _only

    def schema(self, count: int) -> dict[str, Any]:
        """Return the JSON schema of the strings of so many texts, keyed by index from 1 on."""
        strings = [
            {"type": "string", **({"pattern": pattern} if pattern else {})}
            for pattern in self.patterns * count
        ]
        properties = {str(i): string for i, string in enumerate(strings, 1)}
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }


def prompt_tokens(steps: Sequence[Step]) -> int:
    """Estimate the tokens of the prompts of these steps, each asked once."""
    return sum(Request(s.messages(s.count, ()), {}).prompt_tokens for s in steps)
