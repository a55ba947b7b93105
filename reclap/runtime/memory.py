"""Memory of this process."""

import contextlib
import os
from pathlib import Path

__all__ = ["resident"]


def resident() -> int | None:
    """Return the resident memory of this process in bytes; None where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = Path("/proc/self/statm").read_text("ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    return None
