"""Exceptions and warnings, and how names from files are shown in messages."""

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Literal, TypeAlias

__all__ = [
    "BackendError",
    "Errors",
    "FormatError",
    "MissingDependencyError",
    "ReclapError",
    "SkippedWarning",
    "counted",
    "needs",
    "one_line",
    "printable",
    "shown_name",
    "shown_names",
]

Errors: TypeAlias = Literal["raise", "skip"]  # effect of a bad item among several

_SHOWN = 5  # faults that a warning spells out
_LONGEST_MESSAGE = 20_000  # characters
_LONGEST_NAME = 200
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


class ReclapError(Exception):
    """Base of reclap's exceptions; the message names the file or argument at fault."""


class FormatError(ReclapError, ValueError):
    """Error in the content of a file (audio, checkpoint, manifest, recipe).

    Messages quote the file, so they are bounded in length, and control characters are escaped.

    Parameters
    ----------
    message : str
        The file, what was expected and what was found.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(_CONTROL.sub(_escaped, _cut(message, _LONGEST_MESSAGE)))


class BadSound(ReclapError, ValueError):
    """Error of a sound that cannot be used, which ``errors="skip"`` skips.

    Not public: callers see the ValueError, or the TypeError, that it is.
    """


class BadSoundType(BadSound, TypeError):
    """Error of a sound of an unsupported type."""


class BackendError(ReclapError, RuntimeError):
    """Error of a library underneath (oneDNN, libsndfile), or its absence."""


class MissingDependencyError(BackendError, ImportError):
    """Absence of an optional package; the message names the command that installs it."""


@contextlib.contextmanager
def needs(package: str, purpose: str, extra: str | None = None) -> Iterator[None]:
    """Turn the ImportError of a package into a MissingDependencyError.

    Parameters
    ----------
    package : str
        Name for pip; also in a checkout, where the project's own extras have another name.
    purpose : str
        Task that needs it.
    extra : str, optional
        Extra of this project that brings it, too.
    """
    try:
        yield
    except ImportError as error:
        brought = f"extra {extra}; " if extra else ""
        raise MissingDependencyError(
            f"{purpose} needs {package}: pip install {package} ({brought}{one_line(error)})"
        ) from error


class SkippedWarning(UserWarning):
    """Warning that some items of a call could not be used and were skipped, as asked for.

    Parameters
    ----------
    faults : dict of int to str
        Index of each such item, and what is wrong with it.
    """

    def __init__(self, faults: dict[int, str]) -> None:
        more = "; ..." if len(faults) > _SHOWN else ""
        shown = "; ".join(list(faults.values())[:_SHOWN])
        super().__init__(f"skipped {len(faults)}: {shown}{more}")
        self.faults = faults

    def __reduce__(self) -> tuple[type, tuple[dict[int, str]]]:
        """Pickle by the faults."""
        return type(self), (self.faults,)


def one_line(error: Exception) -> str:
    """Return an exception's message on one line, without the number of a system error."""
    text = str(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{os.fsdecode(error.filename)}: {error.strerror}"
    return " ".join(text.split()) or type(error).__name__


def printable(text: str) -> str:
    """Return text with control characters, but for line feeds and tabs, spelled out."""
    return _CONTROL.sub(_escaped, text)


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, for messages."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def shown_name(name: str) -> str:
    """Return a name from a file as messages show it: not longer than 200 characters."""
    return _CONTROL.sub(_escaped, _cut(name, _LONGEST_NAME))


def shown_names(names: list[str], most: int = 50, separator: str = "; ") -> str:
    """Return the first of some names from a file for a message, and how many more there are."""
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return separator.join([*map(shown_name, names[:most]), *more])


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    return f"{text[: most // 2]} ... {text[len(text) - most // 2 :]}"


def _escaped(found: re.Match[str]) -> str:
    return ascii(found[0])[1:-1]
