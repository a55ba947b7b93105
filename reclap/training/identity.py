"""Identity of a run: digests of its files, and the difference of two identities."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reclap.runtime.progress import byte_bar

__all__ = ["VERSION", "completed", "differences", "joined_sha256", "model_files", "sha256"]

VERSION = 2  # of `reclap.training.recipe.Recipe.identity`


def sha256(*paths: Path, progress: bool = False) -> str:
    """Return the digest of the digests of files, which are read piece by piece.

    Parameters
    ----------
    *paths : Path
        The files.
    progress : bool
        Show a progress bar where that takes longer than a second.
    """
    total = hashlib.sha256()
    with _bar(paths, progress) as bar:
        for path in paths:
            one = hashlib.sha256()
            _take(path, one, bar)
            total.update(one.digest())
    return total.hexdigest()


def joined_sha256(*paths: Path, progress: bool = False) -> str:
    """Return the digest of the content of files, one after the other: `sha256` of version 1."""
    total = hashlib.sha256()
    with _bar(paths, progress) as bar:
        for path in paths:
            _take(path, total, bar)
    return total.hexdigest()


def _bar(paths: Sequence[Path], progress: bool) -> Any:
    return byte_bar(sum(path.stat().st_size for path in paths), "digest", shown=progress)


def _take(path: Path, total: "hashlib._Hash", bar: Any) -> None:
    with path.open("rb") as f:
        while block := f.read(1 << 18):
            total.update(block)
            bar.update(len(block))


def model_files(path: Path) -> list[Path]:
    """Return what says which model a path is."""
    if path.is_file():
        return [path]
    return sorted(p for p in path.iterdir() if p.suffix in (".json", ".safetensors", ".bin"))


def completed(identity: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity with defaults for what it lacks: an older version had fewer settings."""
    found = {**defaults, **identity}
    for key, value in defaults.items():
        if isinstance(value, Mapping) and isinstance(found[key], Mapping):
            found[key] = completed(found[key], value)
    return found


def differences(old: Mapping[str, Any], new: Mapping[str, Any], at: str = "") -> list[str]:
    """Return where two identities differ, as ``section.key: old, now new``."""
    found = []
    for key in dict.fromkeys([*old, *new]):
        a, b, name = old.get(key), new.get(key), f"{at}{key}"
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{name}.")
        elif a != b:
            found.append(f"{name}: {a!r}, now {b!r}")
    return found
