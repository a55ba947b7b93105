"""Memory of this process."""

import contextlib
import os
from pathlib import Path

__all__ = ["available", "resident"]

_GROUP = Path("/sys/fs/cgroup")


def resident() -> int | None:
    """Return the resident memory of this process in bytes; None where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = Path("/proc/self/statm").read_text("ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    return None


def available() -> int | None:
    """Return the memory in bytes that this process may still take; None where unknown.

    It is what the system has available (``MemAvailable``), or less where a control group (version
    2), such as that of a container, limits it.
    """
    found = [x for x in (_of_system(), _of_group()) if x is not None]
    return min(found) if found else None


def _of_system() -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return None


def _of_group() -> int | None:
    with contextlib.suppress(OSError, ValueError):
        limit = int((_GROUP / "memory.max").read_text("ascii"))
        used = int((_GROUP / "memory.current").read_text("ascii"))
        cached = 0  # pages of files, which go when they are in the way
        for line in (_GROUP / "memory.stat").read_text("ascii").splitlines():
            if line.startswith("inactive_file "):
                cached = int(line.split()[1])
        return max(0, limit - used + cached)
    return None
