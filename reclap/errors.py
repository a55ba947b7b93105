"""The exceptions that reclap raises besides Python's own."""

import os

__all__ = ["BackendError", "FormatError", "ReclapError", "SkippedWarning", "one_line"]

_SHOWN = 5  # faults that a warning spells out


class ReclapError(Exception):
    """Anything reclap refuses or cannot do; the message names the culprit."""


class FormatError(ReclapError, ValueError):
    """A file (audio, checkpoint, manifest, recipe) does not hold what it should."""


class BackendError(ReclapError, RuntimeError):
    """A library underneath (oneDNN, libsndfile) is missing or refused to work."""


class SkippedWarning(UserWarning):
    """Some items of a call could not be used and were skipped, as asked for.

    Attributes
    ----------
    faults : dict of int to str
        Place of each such item, and what is wrong with it.
    """

    def __init__(self, faults: dict[int, str]) -> None:
        more = "; ..." if len(faults) > _SHOWN else ""
        shown = "; ".join(list(faults.values())[:_SHOWN])
        super().__init__(f"skipped {len(faults)}: {shown}{more}")
        self.faults = faults


def one_line(error: Exception) -> str:
    """Return an exception's message on one line, without the number of a system error."""
    text = str(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{os.fsdecode(error.filename)}: {error.strerror}"
    return " ".join(text.split()) or type(error).__name__
