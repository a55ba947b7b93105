"""What is asked of a language model, what it answers, and how asking can fail."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Protocol

from reclap.errors import ReclapError

__all__ = [
    "NO_CONNECTION",
    "LanguageModel",
    "Message",
    "Reply",
    "Request",
    "RequestError",
    "StoppedError",
]

FORMAT = 1  # of what a digest covers
FORMS = ("json_schema", "json_object", "text")  # of a reply, the strictest first
NO_CONNECTION = "no connection"  # the fault of a request that was not even sent
_MARK = re.compile(
    r"<[|\uff5c][^<>]{0,60}[|\uff5c]?>"  # <|im_end|>
    r"|</?(?:s|bos|eos|pad|unk|sep|cls|mask|think|tool_call|start_of_turn|end_of_turn)>"
    r"|<</?SYS>>|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]",
    re.IGNORECASE,
)
_CHARACTERS = 4  # that a token of English text has on average


@dataclasses.dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    Attributes
    ----------
    role : str
        ``system``, ``user`` or ``assistant``.
    content : str
        The text. Marks by which models tell turns apart are put in parentheses: captions and
        labels may hold them, and a model would take what follows for its user's words.
    """

    role: str
    content: str

    def __post_init__(self) -> None:
        """Take marks apart."""
        object.__setattr__(self, "content", _MARK.sub(_in_parentheses, self.content))


def _in_parentheses(mark: re.Match[str]) -> str:
    return "(" + mark.group().strip("<>|[]\uff5c") + ")"


@dataclasses.dataclass(frozen=True)
class Request:
    """Everything that decides what a model answers.

    Attributes
    ----------
    messages : tuple of Message
        The conversation so far.
    schema : mapping
        JSON schema of the reply.
    temperature : float
        Of sampling; 0 takes the likeliest token.
    seed : int
        Of sampling; a model gets `seed` + `attempt`.
    max_tokens : int
        Most tokens of the reply.
    attempt : int
        How often the same thing was asked before.
    form : str
        How strictly the reply's form can be asked for: ``json_schema``, ``json_object``, ``text``.
        A matter of the server, and therefore not part of the digest.
    """

    messages: tuple[Message, ...]
    schema: Mapping[str, Any]
    temperature: float = 0.7
    seed: int = 0
    max_tokens: int = 1024
    attempt: int = 0
    form: str = FORMS[0]

    def digest(self, model: str) -> str:
        """Return the SHA-256, in hexadecimal, of this request to a model of that name."""
        content = {"format": FORMAT, "model": model, **dataclasses.asdict(self)}
        del content["form"]
        text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def prompt_tokens(self) -> int:
        """An estimate of the tokens that the messages have."""
        return sum(4 + len(m.content) // _CHARACTERS for m in self.messages)


@dataclasses.dataclass(frozen=True)
class Reply:
    """What a model answered.

    Attributes
    ----------
    text : str
        As it came.
    prompt_tokens, completion_tokens : int
        As the server counted them, or estimates.
    complete : bool
        False if the model was cut off by `Request.max_tokens`.
    date : str
        When, as ``2026-01-31T12:00:00Z``.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    complete: bool
    date: str


class LanguageModel(Protocol):
    """Anything that answers requests; safe to be called from several threads.

    Attributes
    ----------
    name : str
        Stands for the weights: part of every digest and of every result's provenance.
    small : bool
        Wants examples and one property at a time instead of long instructions.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def small(self) -> bool: ...  # noqa: D102

    def complete(self, request: Request) -> Reply:
        """Answer; RequestError if this request, StoppedError if no request can be answered."""


class RequestError(ReclapError):
    """One request was not answered.

    Parameters
    ----------
    kind : str
        Name of the fault, as reports count it.
    message : str
        Names the server and says what it did.
    again : bool
        Sending it again may help.
    wait : float, optional
        Seconds that the server asks to wait before.
    """

    def __init__(
        self, kind: str, message: str, *, again: bool = False, wait: float | None = None
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.again = again
        self.wait = wait

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by all that it was made of."""
        return type(self), (self.kind, str(self)), vars(self)


class StoppedError(ReclapError):
    """No further request can be answered: key refused, budget spent, reply not recorded."""
