"""The exceptions that reclap raises besides Python's own."""

__all__ = ["BackendError", "FormatError", "ReclapError", "SkippedWarning"]


class ReclapError(Exception):
    """Anything reclap refuses or cannot do; the message names the culprit."""


class FormatError(ReclapError, ValueError):
    """A file (audio, checkpoint, manifest, recipe) does not hold what it should."""


class BackendError(ReclapError, RuntimeError):
    """A library underneath (oneDNN, libsndfile) is missing or refused to work."""


class SkippedWarning(UserWarning):
    """Some items of a call could not be used and were skipped, as asked for."""
