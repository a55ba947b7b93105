"""Splits of a data set: which rows of which manifests belong to each."""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from reclap.errors import FormatError
from reclap.io.files import StrPath
from reclap.io.manifest import SUFFIXES

__all__ = [
    "Source",
    "Split",
    "find_splits",
    "named_source",
]

_LIST = ".txt"
_HELD = "splits"  # folder of lists within the folder of a data set
_OWN = tuple(f"manifest{suffix}" for suffix in SUFFIXES)


@dataclasses.dataclass(frozen=True)
class Split:
    """Split of a data set: a manifest, or some of its rows.

    Parameters
    ----------
    name : str
        Name in reports.
    manifest : path
        CSV, JSON lines or Parquet.
    root : path, optional
        Folder that relative sound paths start from; the manifest's own by default.
    where : mapping of str to sequence
        Only rows whose column has one of these values, compared as strings.
    ids : path, optional
        Only rows whose column ``id`` is listed in this text file, one id a line.
    family : str
        Splits of two families of one collection are not compared with each other: the folds of two
        experiments overlap by design. A split of none is compared with all.
    collection : str
        What has the families: the folder of folders of lists.

    Examples
    --------
    >>> Split("train", "clips.csv", where={"fold": [1, 2]}).family
    ''
    """

    name: str
    manifest: StrPath
    root: StrPath | None = None
    where: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    ids: StrPath | None = None
    family: str = ""
    collection: str = ""


Source: TypeAlias = StrPath | Split


# ---- Grammar -------------------------------------------------------------------------------------


def find_splits(
    sources: Source | Iterable[Source],
    *,
    root: StrPath | None = None,
    manifest: StrPath | None = None,
) -> list[Split]:
    """Return the splits that sources name.

    Parameters
    ----------
    sources : str, path, Split, or iterable of them
        Each a manifest; a text file of ids; a folder of manifests, or of these and ``splits/``,
        which has lists of their ids; a folder of lists of ids, or of folders of such lists, each a
        family of its own; or a `Split`. ``name=path`` names the split of a file.
    root : path, optional
        Folder that relative sound paths start from; the manifest's own by default.
    manifest : path, optional
        Manifest whose ids the lists hold; ``manifest.csv``, ``.jsonl`` or ``.parquet`` of a data
        set's folder by default.

    Returns
    -------
    list of Split
        At least one, with different names.

    Raises
    ------
    FileNotFoundError
        If a source does not exist.
    FormatError
        If there is no source, or one is none of these or empty, or two splits have one name.

    Examples
    --------
    >>> Path("a.csv").touch()
    >>> [split.name for split in find_splits(["train=a.csv", "a.csv"])]
    ['train', 'a']
    """
    found: list[Split] = []
    several = (sources,) if isinstance(sources, (str, os.PathLike, Split)) else sources
    for source in several:
        if isinstance(source, Split):
            found.append(source)
            continue
        name, path = named_source(os.fspath(source))
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such manifest, list of ids or folder")
        if path.is_dir():
            found += _of_folder(path, name, root, manifest)
        else:
            found.append(_of_file(path, name or path.stem, root, manifest))
    if not found:
        raise FormatError("expected at least one manifest, list of ids or folder")
    names = [split.name for split in found]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise FormatError(f"two splits are called {min(twice)!r}; name them: name=path")
    return found


def named_source(text: str) -> tuple[str, Path]:
    """Return the name that ``name=path`` gives, empty for a path alone, and the path.

    Raises
    ------
    FormatError
        If the path is empty, which would be the current folder.
    """
    name, equals, path = text.partition("=")
    if not equals or not name or os.sep in name or (text and Path(text).exists()):
        name, path = "", text
    if not path:
        raise FormatError(f"{text!r}: no path; expected a manifest, list of ids or folder")
    return name, Path(path)


def _of_file(path: Path, name: str, root: StrPath | None, whole: StrPath | None) -> Split:
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return Split(name, path, root)
    if suffix != _LIST:
        known = ", ".join((*SUFFIXES, _LIST))
        raise FormatError(f"{path}: expected a manifest or a list of ids, one of {known}")
    if whole is None:
        raise FormatError(f"{path}: a list of ids needs the manifest that has them: --manifest")
    return Split(name, whole, root, ids=path)


def _of_folder(folder: Path, name: str, root: StrPath | None, whole: StrPath | None) -> list[Split]:
    own = [folder / n for n in _OWN if (folder / n).is_file()]
    manifests = own or sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if (folder / _HELD).is_dir():
        found = _of_lists(folder / _HELD, name, root, own[0] if own and whole is None else whole)
    else:  # a text beside manifests is a licence rather than a list
        found = [] if manifests else _of_lists(folder, name, root, whole)
    if found:
        return found
    if not manifests:
        raise FormatError(f"{folder}: expected a folder of manifests, or of lists of ids (.txt)")
    return [_of_file(p, f"{name}/{p.stem}" if name else p.stem, root, whole) for p in manifests]


def _of_lists(lists: Path, name: str, root: StrPath | None, whole: StrPath | None) -> list[Split]:
    """Return the splits of a folder of lists, and of the folders in it."""
    found: list[Split] = []
    for family in [lists, *sorted(p for p in lists.iterdir() if p.is_dir())]:
        title = name or family.resolve().name
        if name and family != lists:
            title = f"{name}/{family.name}"
        for path in sorted(family.glob(f"*{_LIST}")):
            split = _of_file(path, f"{title}/{path.stem}", root, whole)
            found.append(dataclasses.replace(split, family=title, collection=str(lists)))
    is_one = len({split.family for split in found}) == 1
    return [dataclasses.replace(s, family="", collection="") for s in found] if is_one else found
