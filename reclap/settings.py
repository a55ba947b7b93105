"""Settings from files: a dataclass from a mapping, with every type checked."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from reclap.errors import FormatError

__all__ = ["from_mapping"]

T = TypeVar("T")


def from_mapping(cls: type[T], data: Any, where: str) -> T:
    """Build a dataclass from a mapping, naming unknown, missing and ill-typed keys.

    Parameters
    ----------
    cls : type
        A dataclass whose fields are numbers, strings, booleans, tuples of integers, or one of these
        or None.
    data : mapping
        Field names to values; fields with a default may be absent.
    where : str
        How messages call this mapping.

    Raises
    ------
    FormatError
        If `data` does not fit `cls`.
    """
    if not isinstance(data, Mapping):
        raise FormatError(f"{where}: expected a table of settings, got {type(data).__name__}")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise FormatError(f"{where}: unknown {', '.join(unknown)}; known are {', '.join(fields)}")
    required = [n for n, f in fields.items() if _is_required(f) and n not in data]
    if required:
        raise FormatError(f"{where}: {', '.join(required)} missing")
    hints = typing.get_type_hints(cls)
    values = {n: _convert(v, hints[n], f"{where}.{n}") for n, v in data.items()}
    return cls(**values)


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _convert(value: Any, kind: Any, where: str) -> Any:
    if isinstance(kind, types.UnionType):  # a kind or None
        if value is None:
            return None
        kind = typing.get_args(kind)[0]
    if kind is float and type(value) in (int, float):
        return float(value)
    if kind in (int, str, bool, dict) and type(value) is kind:
        return value
    if typing.get_origin(kind) in (list, dict) and isinstance(value, typing.get_origin(kind)):
        return value
    if typing.get_origin(kind) is tuple and isinstance(value, list | tuple):
        inner = typing.get_args(kind)[0]
        return tuple(_convert(v, inner, f"{where}[{i}]") for i, v in enumerate(value))
    expected = getattr(kind, "__name__", str(kind))
    raise FormatError(f"{where}: expected {expected}, got {value!r}")
