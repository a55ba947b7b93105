"""Example sounds of each label."""

import difflib
import errno
import logging
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from reclap.errors import FormatError, shown_name, shown_names
from reclap.io import manifest
from reclap.review.documents import Item

__all__ = ["KINDS", "clips_of"]

log = logging.getLogger(__name__)

KINDS = {
    ".flac": "audio/flac",
    ".m4a": "audio/mp4",
    ".mp3": "audio/mpeg",
    ".oga": "audio/ogg",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".wav": "audio/wav",
}  # formats that browsers play
_SHOWN = 5  # names that a warning lists
MOST = 20  # clips of one label


def clips_of(items: Iterable[Item], source: Path | None) -> dict[str, list[Path]]:
    """Find the clips of labels.

    Parameters
    ----------
    items : iterable of Item
        Their labels are looked for; a rewrite brings its own sound.
    source : Path, optional
        A folder with a folder for each label, or a manifest whose column ``label``, or else whose
        captions, name labels. Names match whatever their case, ``_``, ``-`` and spaces.

    Returns
    -------
    dict of str to list of Path
        At most `MOST` files for each label that has any, of the kinds that browsers play. A file of
        which a manifest has several excerpts is offered once, and whole.

    Raises
    ------
    FileNotFoundError, FormatError
        If there is no such folder or manifest, or it has no clip of any label.
    """
    items = list(items)
    found: dict[str, list[Path]] = {}
    for item in items:
        if item.sound is not None and item.sound not in found.get(item.label, ()):
            found.setdefault(item.label, []).append(item.sound)
    if source is not None:
        if not source.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source))
        named = _of_folder(source) if source.is_dir() else _of_manifest(source)
        labels = dict.fromkeys(item.label for item in items)
        given = {label: named[_key(label)] for label in labels if _key(label) in named}
        if not given:
            raise FormatError(f"{source}: no clip of any label of the review")
        _report_strangers(source, named, labels)
        found |= given
    return _playable(found)


def _report_strangers(source: Path, named: Iterable[str], labels: Iterable[str]) -> None:
    """Log the names that are no label of the review, with the likeliest label."""
    keys = {_key(label): label for label in labels}
    strangers = sorted(set(named) - set(keys))
    if strangers:
        shown = [f"{shown_name(name)!r}{_guess(name, keys)}" for name in strangers]
        log.warning(
            "%s: clips under %d names are not offered, since no label of the review is called so: "
            "%s", source, len(strangers), shown_names(shown, _SHOWN, ", "),
        )  # fmt: skip


def _guess(name: str, keys: Mapping[str, str]) -> str:
    words = set(name.split())
    near = difflib.get_close_matches(name, keys, 1, 0.75)
    near += [key for key in keys if words & set(key.split())]
    return f" (for {keys[near[0]]!r}?)" if near else ""


def _key(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _of_folder(folder: Path) -> dict[str, list[Path]]:
    return {
        _key(inner.name): sorted(inner.iterdir()) for inner in folder.iterdir() if inner.is_dir()
    }


def _of_manifest(path: Path) -> dict[str, list[Path]]:
    named: dict[str, list[Path]] = {}
    for row in manifest.read(path, check_files=False):
        names = [row.extra["label"]] if "label" in row.extra else [c.text for c in row.captions]
        for name in names:
            named.setdefault(_key(name), []).append(row.path)
    return named


def _playable(found: Mapping[str, list[Path]]) -> dict[str, list[Path]]:
    kept = {
        label: [p for p in dict.fromkeys(paths) if p.suffix.lower() in KINDS and p.is_file()][:MOST]
        for label, paths in found.items()
    }
    return {label: paths for label, paths in kept.items() if paths}
