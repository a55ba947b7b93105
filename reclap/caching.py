"""Where files lie that can be made again."""

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """Return ``RECLAP_CACHE``, or the folder reclap in the user's cache folder; it need not exist.

    Raises
    ------
    RuntimeError
        If the user has no home folder.
    """
    given = os.environ.get("RECLAP_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reclap"
