"""Entries of a prompt bank: labels, their descriptions, their prompts; as objects and as JSON."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args

from reclap.errors import FormatError

__all__ = [
    "STATUSES",
    "Description",
    "Entry",
    "Prompt",
    "Status",
    "check_status",
    "fields_of",
    "shown",
]

Status: TypeAlias = Literal["new", "accepted", "rejected"]
STATUSES: tuple[Status, ...] = get_args(Status)

_REVIEWED: dict[str, Any] = {"text": str, "status": str, "flags": list, "origin": dict}
_FIELDS: dict[str, dict[str, Any]] = {
    "bank": {"format": str, "name": str, "made": dict, "labels": dict},
    "entry": {"definition": str, "descriptions": list},
    "description": {**_REVIEWED, "prompts": list},
    "prompt": _REVIEWED,
}
_KINDS: dict[Any, str] = {str: "a text", list: "a list", dict: "an object"}
_SHOWN = 60  # characters of a bad value in a message


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A caption that stands for a label.

    Attributes
    ----------
    text : str
        The caption.
    status : {"new", "accepted", "rejected"}
        What a person decided; a rejected prompt stays in the bank, but is not used.
    flags : tuple of str
        What the checks found, ``"name of the check: reason"``.
    origin : mapping
        Where it comes from: digest of the request, attempt, date, by, edited_from.
    """

    text: str
    status: Status = "new"
    flags: tuple[str, ...] = ()
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Any, where: str = "prompt") -> "Prompt":
        """Make a prompt of parsed JSON; FormatError naming `where` and the field."""
        prompt = cls(**_review(where, "prompt", data))
        try:
            check_status(where, prompt.status)
        except ValueError as error:
            raise FormatError(str(error)) from error
        return prompt

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` takes; fields at their default are left out."""
        return _reviewed(self)


@dataclasses.dataclass(frozen=True)
class Description:
    """How a label may sound, and the captions written from that.

    Attributes
    ----------
    text : str
        The description; empty where prompts were given without any.
    prompts : tuple of Prompt
    status, flags, origin
        As in `Prompt`. The prompts of a rejected description are not used.
    """

    text: str
    prompts: tuple[Prompt, ...] = ()
    status: Status = "new"
    flags: tuple[str, ...] = ()
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Any, where: str = "description") -> "Description":
        """Make a description of parsed JSON; FormatError naming `where` and the field."""
        fields = fields_of(where, "description", data)
        prompts = tuple(
            Prompt.from_json(item, f"{where}.prompts[{i}]")
            for i, item in enumerate(fields.pop("prompts", ()))
        )
        return cls(prompts=prompts, **_review(where, "description", fields))

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` takes; fields at their default are left out."""
        return {**_reviewed(self), "prompts": [p.to_json() for p in self.prompts]}


@dataclasses.dataclass(frozen=True)
class Entry:
    """A label, a short definition where the word alone is ambiguous, and its descriptions."""

    label: str
    definition: str = ""
    descriptions: tuple[Description, ...] = ()

    @classmethod
    def from_json(cls, label: str, data: Any, where: str = "entry") -> "Entry":
        """Make the entry of a label of parsed JSON; FormatError naming `where` and the field."""
        fields = fields_of(where, "entry", data)
        descriptions = tuple(
            Description.from_json(item, f"{where}.descriptions[{n}]")
            for n, item in enumerate(fields.get("descriptions", ()))
        )
        return cls(label, fields.get("definition", ""), descriptions)

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` takes but the label; fields at their default are left out."""
        definition = {"definition": self.definition} if self.definition else {}
        return {**definition, "descriptions": [d.to_json() for d in self.descriptions]}

    @property
    def live(self) -> tuple[Prompt, ...]:
        """The prompts in use: neither they nor their description are rejected."""
        kept = (d for d in self.descriptions if d.status != "rejected")
        return tuple(p for d in kept for p in d.prompts if p.status != "rejected")


# ---- JSON ---------------------------------------------------------------------------------------


def fields_of(where: str, kind: str, data: Any) -> dict[str, Any]:
    """Return an object's fields, after a look at their names and types."""
    wanted = _FIELDS[kind]
    if not isinstance(data, dict):
        raise FormatError(f"{where}: expected an object, got {shown(data)}")
    for name, value in data.items():
        if name not in wanted:
            raise FormatError(f"{where}: unknown field {name!r}, known are {', '.join(wanted)}")
        if not isinstance(value, wanted[name]):
            kind = _KINDS[wanted[name]]
            raise FormatError(f"{where}.{name}: expected {kind}, got {shown(value)}")
    return dict(data)


def _review(where: str, kind: str, data: Any) -> dict[str, Any]:
    fields = fields_of(where, kind, data)
    flags = fields.get("flags", [])
    if not all(isinstance(flag, str) for flag in flags):
        raise FormatError(f"{where}.flags: expected texts, got {shown(flags)}")
    return {"text": "", **fields, "flags": tuple(flags)}


def shown(value: Any) -> str:
    """Return a bad value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def check_status(where: str, status: str) -> None:
    """Refuse what is no status; ValueError naming `where`."""
    if status not in STATUSES:
        raise ValueError(f"{where}: status is {status!r}, expected one of {', '.join(STATUSES)}")


def _reviewed(item: Prompt | Description) -> dict[str, Any]:
    return {
        "text": item.text,
        **({"status": item.status} if item.status != "new" else {}),
        **({"flags": list(item.flags)} if item.flags else {}),
        **({"origin": dict(item.origin)} if item.origin else {}),
    }
