"""Location, size and bounds of the cache folder."""

import contextlib
import os
import shutil
from pathlib import Path

__all__ = ["PARTS", "cache_folder", "clear", "prune", "size_of", "sizes"]

# Parts of the cache folder, with their file names.
PARTS = {"prompts": "prompts", "replies": "llm.sqlite*"}


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


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder."""
    total = 0
    for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
        with contextlib.suppress(OSError):  # another process may just have removed it
            total += file.stat().st_size if file.is_file() else 0
    return total


def sizes(folder: Path) -> dict[str, int]:
    """Return the bytes of each part of the cache folder; OSError if it cannot be listed."""
    if os.path.lexists(folder):
        os.scandir(folder).close()  # glob would find nothing, and say nothing
    return {name: sum(map(size_of, folder.glob(pattern))) for name, pattern in PARTS.items()}


def clear(folder: Path, part: str) -> None:
    """Remove a part of the cache folder."""
    for path in list(folder.glob(PARTS[part])):
        _remove(path)


def prune(folder: Path, most: int) -> None:
    """Remove the least recently used entries of a folder until at most `most` bytes remain.

    An entry counts as used when it was last modified, or touched.
    """
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            found.append((path.stat().st_mtime, size_of(path), path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= most:
            break
        _remove(path)
        total -= size


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
