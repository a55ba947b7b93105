"""Sound files of the command line: as given, or all below a folder."""

import collections
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from reclap.errors import ReclapError

__all__ = ["SUFFIXES", "gather"]

_MEDIA = frozenset((".aac", ".m4a", ".mka", ".mp4", ".webm", ".wma"))  # by the extra media
_PLAIN = (".aif", ".aifc", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav")
SUFFIXES = _MEDIA.union(_PLAIN)  # of sound files
_SHOWN = 4  # suffixes that the summary spells out


def gather(
    given: Iterable[str], *, recursive: bool, unread: list[OSError] | None = None
) -> list[str]:
    """Return sound files; those left out of folders are counted by reason on standard error.

    Parameters
    ----------
    given : iterable of str
        Files, folders, or ``"-"`` for standard input.
    recursive : bool
        Whether folders are allowed, and stand for the sounds below them. Hidden files and folders
        (``._x.wav`` of macOS among them) are left out.
    unread : list, optional
        Takes what is wrong with folders that cannot be listed, which are left out then.

    Raises
    ------
    OSError
        If a folder cannot be listed, without `unread`.
    ReclapError
        If one is a folder and `recursive` is false, or holds no sound; if standard input is given
        more than once.
    """
    given = list(given)
    if given.count("-") > 1:
        raise ReclapError("- (standard input) can be read once only")
    found: list[str] = []
    for name in given:
        if not name:
            raise ReclapError("expected a sound file, got an empty name")
        folder = Path(name)
        if not folder.is_dir():
            found.append(name)
        elif recursive:
            found += _below(folder, unread)
        else:
            raise ReclapError(
                f"{name} is a folder; give its files, as {folder}/*.wav, or --recursive"
            )
    return found


def _below(folder: Path, unread: list[OSError] | None) -> list[str]:
    taken: list[str] = []
    left: dict[str, collections.Counter[str]] = {}
    has_media = importlib.util.find_spec("av") is not None
    for path in _files_below(folder, unread):
        reason = _reason(path, folder, has_media=has_media)
        if reason is None:
            taken.append(str(path))
        else:
            left.setdefault(reason, collections.Counter())[path.suffix.lower() or "none"] += 1
    said = "; ".join(f"{sum(n.values())} {why} ({_suffixes(n)})" for why, n in sorted(left.items()))
    if not taken:
        detail = f"; left out: {said}" if said else ""
        raise ReclapError(f"{folder}: no sound file below this folder{detail}")
    if said:
        print(f"reclap: {folder}: {len(taken)} taken; left out: {said}", file=sys.stderr)
    return sorted(taken)


def _files_below(folder: Path, unread: list[OSError] | None) -> Iterator[Path]:
    """Yield all files below a folder; links to folders are not followed."""

    def note(error: OSError) -> None:
        hidden = any(
            part.startswith(".") for part in Path(error.filename).relative_to(folder).parts
        )
        if hidden:  # and left out anyway
            return
        if unread is None:
            raise error
        unread.append(error)

    for parent, _, names in os.walk(folder, onerror=note):
        yield from (Path(parent, name) for name in names)


def _reason(path: Path, folder: Path, *, has_media: bool) -> str | None:
    """Return why a file is left out, or None."""
    suffix = path.suffix.lower()
    if any(part.startswith(".") for part in path.relative_to(folder).parts):
        return "hidden"
    if suffix in _MEDIA and not has_media:
        return "that need the extra media (pip install av)"
    if suffix not in SUFFIXES:
        return "of other kinds"
    return None if path.is_file() else "not regular files"


def _suffixes(counts: collections.Counter[str]) -> str:
    names = [name for name, _ in counts.most_common(_SHOWN)]
    return ", ".join(names) + (", ..." if len(counts) > _SHOWN else "")
