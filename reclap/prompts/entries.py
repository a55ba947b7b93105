"""Entries of a prompt bank: labels with descriptions and prompts, as objects and as JSON."""

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
    """Prompt of a label: a caption with its review status.

    Parameters
    ----------
    text : str
        The caption.
    status : {"new", "accepted", "rejected"}
        Decision of a reviewer; a rejected prompt stays in the bank, but is not used.
    flags : tuple of str
        Findings of the checks, ``"name of the check: reason"``.
    origin : mapping
        Provenance: digest of the request, attempt, date, by, edited_from.

    Examples
    --------
    >>> prompt = Prompt.from_json({"text": "a dog barks", "status": "accepted"})
    >>> prompt.to_json()
    {'text': 'a dog barks', 'status': 'accepted'}
    """

    text: str
    status: Status = "new"
    flags: tuple[str, ...] = ()
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Any, where: str = "prompt") -> "Prompt":
        """Build a prompt from parsed JSON.

        Parameters
        ----------
        data : dict
            Field names to values, as `to_json` gives them.
        where : str
            Name of the object in messages.

        Returns
        -------
        Prompt
            The prompt.

        Raises
        ------
        FormatError
            Naming `where` and the field.
        """
        prompt = cls(**_review(where, "prompt", data))
        try:
            check_status(where, prompt.status)
        except ValueError as error:
            raise FormatError(str(error)) from error
        return prompt

    def to_json(self) -> dict[str, Any]:
        """Return the prompt as a JSON object.

        Returns
        -------
        dict
            Field names to values that `from_json` takes; fields at their default are left out.
        """
        return _reviewed(self)


@dataclasses.dataclass(frozen=True)
class Description:
    """Description of the sound of a label, with the captions written from it.

    Parameters
    ----------
    text : str
        The description; empty where prompts were given without any.
    prompts : tuple of Prompt
        Captions; those of a rejected description are not used.
    status : {"new", "accepted", "rejected"}
        Decision of a reviewer.
    flags : tuple of str
        Findings of the checks, as in `Prompt`.
    origin : mapping
        Provenance, as in `Prompt`.

    Examples
    --------
    >>> description = Description("short, rough bursts", (Prompt("a dog barks"),))
    >>> Description.from_json(description.to_json()) == description
    True
    """

    text: str
    prompts: tuple[Prompt, ...] = ()
    status: Status = "new"
    flags: tuple[str, ...] = ()
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Any, where: str = "description") -> "Description":
        """Build a description from parsed JSON.

        Parameters
        ----------
        data : dict
            Field names to values, as `to_json` gives them.
        where : str
            Name of the object in messages.

        Returns
        -------
        Description
            The description with its prompts.

        Raises
        ------
        FormatError
            Naming `where` and the field.
        """
        fields = fields_of(where, "description", data)
        prompts = tuple(
            Prompt.from_json(item, f"{where}.prompts[{i}]")
            for i, item in enumerate(fields.pop("prompts", ()))
        )
        return cls(prompts=prompts, **_review(where, "description", fields))

    def to_json(self) -> dict[str, Any]:
        """Return the description as a JSON object.

        Returns
        -------
        dict
            Field names to values that `from_json` takes; fields at their default are left out.
        """
        return {**_reviewed(self), "prompts": [p.to_json() for p in self.prompts]}


@dataclasses.dataclass(frozen=True)
class Entry:
    """Entry of a label in a bank: its definition and descriptions.

    Parameters
    ----------
    label : str
        The label.
    definition : str
        Short definition where the word alone is ambiguous.
    descriptions : tuple of Description
        Descriptions of its sound, with their captions.

    Examples
    --------
    >>> rejected = Prompt("a cat meows", "rejected")
    >>> entry = Entry("dog", "", (Description("", (Prompt("a dog barks"), rejected)),))
    >>> [prompt.text for prompt in entry.in_use]
    ['a dog barks']
    >>> Entry.from_json("dog", entry.to_json()) == entry
    True
    """

    label: str
    definition: str = ""
    descriptions: tuple[Description, ...] = ()

    @classmethod
    def from_json(cls, label: str, data: Any, where: str = "entry") -> "Entry":
        """Build the entry of a label from parsed JSON.

        Parameters
        ----------
        label : str
            The label.
        data : dict
            Field names to values, as `to_json` gives them.
        where : str
            Name of the object in messages.

        Returns
        -------
        Entry
            The entry with its descriptions.

        Raises
        ------
        FormatError
            Naming `where` and the field.
        """
        fields = fields_of(where, "entry", data)
        descriptions = tuple(
            Description.from_json(item, f"{where}.descriptions[{n}]")
            for n, item in enumerate(fields.get("descriptions", ()))
        )
        return cls(label, fields.get("definition", ""), descriptions)

    def to_json(self) -> dict[str, Any]:
        """Return the entry, without its label, as a JSON object.

        Returns
        -------
        dict
            Field names to values that `from_json` takes; fields at their default are left out.
        """
        definition = {"definition": self.definition} if self.definition else {}
        return {**definition, "descriptions": [d.to_json() for d in self.descriptions]}

    @property
    def in_use(self) -> tuple[Prompt, ...]:
        """The prompts in use: neither they nor their description are rejected."""
        kept = (d for d in self.descriptions if d.status != "rejected")
        return tuple(p for d in kept for p in d.prompts if p.status != "rejected")


# ---- JSON ---------------------------------------------------------------------------------------


def fields_of(where: str, kind: str, data: Any) -> dict[str, Any]:
    """Return an object's fields, after checking their names and types."""
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
    """Return a bad value for a message, truncated."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def check_status(where: str, status: str) -> None:
    """Refuse an unknown status with a ValueError that names `where`."""
    if status not in STATUSES:
        raise ValueError(f"{where}: status is {status!r}, expected one of {', '.join(STATUSES)}")


def _reviewed(item: Prompt | Description) -> dict[str, Any]:
    return {
        "text": item.text,
        **({"status": item.status} if item.status != "new" else {}),
        **({"flags": list(item.flags)} if item.flags else {}),
        **({"origin": dict(item.origin)} if item.origin else {}),
    }
