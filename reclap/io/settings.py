"""Settings whose values are checked by their types, from Python or from files."""

import dataclasses
import functools
import math
import os
import sys
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeAlias, TypeVar

import msgspec

from reclap.errors import FormatError

__all__ = ["Count", "Decibels", "Fraction", "Positive", "Probability", "Settings", "from_mapping"]


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, "dataclasses.Field[Any]"]]


T = TypeVar("T", bound=_Dataclass)

Positive: TypeAlias = Annotated[int, msgspec.Meta(ge=1)]
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
Probability: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1)]
Fraction: TypeAlias = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Decibels: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1000)]  # of a random change


class Settings:
    """Base of configurations: frozen dataclasses whose fields are checked when they are created.

    The types of the fields say what is allowed: ``Literal`` for choices, ``Annotated`` with
    `msgspec.Meta` for ranges. Numbers must be finite. What several fields decide together is
    checked by a subclass in its ``__post_init__``, after that of this class.
    """

    def __post_init__(self) -> None:
        """Check every field; ValueError names the class, the field, what is allowed and the value.

        Lists become tuples and integers floats, where the type says so; paths become strings.
        """
        values = _checked(type(self), vars(self), type(self).__name__)
        for name, value in values.items():
            object.__setattr__(self, name, value)


def from_mapping(cls: type[T], data: Any, where: str) -> T:
    """Build a dataclass from a mapping, naming unknown, missing and ill-typed keys.

    Parameters
    ----------
    cls : type
        A dataclass, see `Settings`. Tables inside it are passed as instances of their class.
    data : mapping
        Field names to values; fields with a default may be absent. A field whose name would be
        a word of Python's is called as its metadata say under ``key``.
    where : str
        Name of this mapping in messages.

    Raises
    ------
    FormatError
        If `data` does not fit `cls`.
    """
    if not isinstance(data, Mapping):
        raise FormatError(f"{where}: expected a table of settings, got {type(data).__name__}")
    fields = {f.metadata.get("key", f.name): f for f in dataclasses.fields(cls)}
    unknown = sorted(str(name) for name in data if name not in fields)
    if unknown:
        raise FormatError(f"{where}: unknown {', '.join(unknown)}; known are {', '.join(fields)}")
    required = [n for n, f in fields.items() if _is_required(f) and n not in data]
    if required:
        raise FormatError(f"{where}: {', '.join(required)} missing")
    keys = {field.name: key for key, field in fields.items()}
    data = {fields[key].name: value for key, value in data.items()}
    try:
        values = _checked(cls, data, where, keys)
    except ValueError as error:
        raise FormatError(str(error)) from None
    try:
        return cls(**values)
    except ValueError as error:  # of fields that do not fit together
        raise FormatError(f"{where}: {error}") from error


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    """Return the type of each field."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _checked(
    cls: Any, values: Mapping[str, Any], where: str, keys: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the values as the fields' types have them, in the order of the fields."""
    hints, called = _hints(cls), keys or {}
    return {
        n: _convert(values[n], hints[n], f"{where}.{called.get(n, n)}")
        for n in hints
        if n in values
    }


def _convert(value: Any, kind: Any, where: str) -> Any:
    numpy = sys.modules.get("numpy")  # not imported here: the command line's help needs none
    if numpy is not None and isinstance(value, numpy.generic):
        value = value.item()
    elif isinstance(value, os.PathLike):
        value = os.fspath(value)
    try:
        if _is_table(kind):
            if isinstance(value, kind):
                return value
        else:
            found = msgspec.convert(value, kind)
            if _is_finite(found):
                return found
    except (msgspec.ValidationError, RecursionError):
        pass
    raise ValueError(f"{where}: expected {_expected(kind)}, got {_shown(value)}")


def _is_table(kind: Any) -> bool:
    kinds = typing.get_args(kind) or (kind,)
    return all(isinstance(k, type) and issubclass(k, Settings) for k in kinds)


def _is_finite(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _shown(value: Any) -> str:
    """Return a value as messages show it, cut where it is long."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply; an integer of too many digits
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= 200 else f"{text[:200]}..."


def _expected(kind: Any) -> str:
    """Describe the values that a type allows."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin is Annotated:
        return f"{_expected(args[0])}{_bounds(args[1])}"
    if origin in (types.UnionType, typing.Union):
        return " or ".join(map(_expected, args))
    if origin is tuple:
        return f"a list of {_expected(args[0])}"
    if kind is types.NoneType:
        return "none"
    return str(getattr(kind, "__name__", kind))


def _bounds(meta: msgspec.Meta) -> str:
    if meta.max_length is not None:
        return f", {meta.min_length} to {meta.max_length} of them"
    least = meta.gt if meta.ge is None else meta.ge
    most = meta.lt if meta.le is None else meta.le
    below = "" if meta.lt is None else "below "
    return f" of at least {least}" if most is None else f" from {least} to {below}{most}"
