"""The exceptions that reclap raises besides Python's own."""

__all__ = ["BackendError", "FormatError", "ReclapError"]


class ReclapError(Exception):
    """Anything reclap refuses or cannot do; the message names the culprit."""


class FormatError(ReclapError, ValueError):
    """A file (audio, checkpoint, manifest, recipe) does not hold what it should."""


class BackendError(ReclapError, RuntimeError):
    """A library underneath (oneDNN, libsndfile) is missing or refused to work."""
