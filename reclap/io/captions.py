"""Captions of a manifest's rows: their rewrites, hard negatives and modules."""

import ast
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from reclap.errors import FormatError, shown_names

__all__ = ["Caption", "SharedCaptions", "take_captions", "text_of"]

_REWRITES = ("rewrites", "rewritten_captions")
_FURTHER = ("negatives", "modules")
_LISTED = 5  # keys that a message names
# A printed Python list of texts. Nothing nests, so a cell of any length is read in
# bounded depth.
_LITERAL = r"""(?:'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")"""
_PYTHON_LIST = re.compile(rf"\[\s*(?:{_LITERAL}\s*(?:,\s*{_LITERAL}\s*)*(?:,\s*)?)?\]")


@dataclasses.dataclass(frozen=True)
class Caption:
    """A caption, its rewrites, and what else is said of its sound.

    Attributes
    ----------
    text : str
        The original, by a person.
    rewrites : tuple of str
        The same scene in other words; may be empty.
    negatives : tuple of str
        Texts that are wrong of this sound though they resemble the caption: hard negatives.
    modules : tuple of str
        Texts of parts of the scene: further positives of this sound alone.
    """

    text: str
    rewrites: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()

    def columns(self) -> dict[str, Any]:
        """Return the columns that hold it, those without content left out."""
        found = {"caption": self.text, "rewrites": list(self.rewrites)}
        further = {name: list(getattr(self, name)) for name in _FURTHER}
        return found | {name: texts for name, texts in further.items() if texts}


class SharedCaptions:
    """Captions kept once for many rows, read at their first use.

    Parameters
    ----------
    folder : Path
        Folder of the manifest, where the files of captions are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, Any] = {}
        self._lists: dict[str, tuple[Caption, ...]] = {}

    def __call__(self, at: str, reference: str) -> tuple[Caption, ...]:
        """Return the captions that ``file.json#key`` names."""
        if reference not in self._lists:
            name, _, key = reference.partition("#")
            if not name or not key:
                raise FormatError(f"{at}: captions: {reference!r} is no list; write file.json#key")
            found = self._file(at, name)
            if not isinstance(found, dict) or key not in found:
                keys = shown_names(list(found), _LISTED, ", ") if isinstance(found, dict) else ""
                there = f"has {keys}" if keys else "is no object of lists"
                raise FormatError(
                    f"{at}: captions: no {key!r} in {self.folder / name}, which {there}"
                )
            self._lists[reference] = _captions(f"{self.folder / name}: {key}", found[key])
        return self._lists[reference]

    def _file(self, at: str, name: str) -> Any:
        if name not in self._files:
            path = self.folder / name
            try:
                self._files[name] = json.loads(path.read_text("utf-8"))
            except (OSError, ValueError, RecursionError) as error:
                raise FormatError(f"{at}: captions: cannot read {path}: {error}") from error
        return self._files[name]


def take_captions(at: str, item: dict[str, Any], shared: SharedCaptions) -> tuple[Caption, ...]:
    """Take the captions, and the texts beside each, out of a row.

    Parameters
    ----------
    at : str
        File and line, for messages.
    item : dict
        The columns; those of captions are removed.
    shared : SharedCaptions
        Lists that are kept once for many rows.

    Raises
    ------
    FormatError
        If there is no caption, or something in its place.
    """
    listed = item.pop("captions", None)
    is_empty = isinstance(listed, str) and not listed.strip()
    if is_empty and "caption" not in item:
        raise FormatError(f"{at}: captions is empty")
    if listed is None or is_empty:
        return (_caption(at, item),)
    outside = [name for name in _FURTHER if name in item]
    if outside:
        raise FormatError(f"{at}: {outside[0]}: belongs to a caption; move it into captions")
    return shared(at, listed) if isinstance(listed, str) else _captions(at, listed)


def _captions(at: str, value: Any) -> tuple[Caption, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(v, dict) for v in value):
        raise FormatError(f"{at}: captions: expected a list of objects with a caption each")
    items = [dict(v) for v in value]
    captions = tuple(_caption(f"{at}: captions[{i}]", item) for i, item in enumerate(items))
    for i, rest in enumerate(items):
        if rest:
            raise FormatError(f"{at}: captions[{i}]: unknown {', '.join(rest)}")
    return captions


def _caption(at: str, item: dict[str, Any]) -> Caption:
    """Take a caption and the texts beside it out of a row."""
    if "caption" not in item:
        there = f"; has {', '.join(item)}" if item else ""
        raise FormatError(f"{at}: no column caption{there}")
    text = text_of(at, "caption", item.pop("caption"))
    names = [name for name in _REWRITES if name in item]
    rewrites = _texts(at, names[0], item.pop(names[0])) if names else ()
    negatives, modules = (_texts(at, name, item.pop(name, [])) for name in _FURTHER)
    right = {positive.casefold() for positive in (text, *rewrites, *modules)}
    for i, negative in enumerate(negatives):
        if negative.casefold() in right:
            raise FormatError(
                f"{at}: negatives[{i}]: {negative!r} is a caption, rewrite or module of this sound"
            )
    return Caption(text, rewrites, negatives, modules)


def text_of(at: str, name: str, value: Any) -> str:
    """Return the text of a column without white space around it; refuse anything else."""
    if not isinstance(value, str):
        raise FormatError(f"{at}: {name}: expected a text, got {value!r}")
    if not value.strip():
        raise FormatError(f"{at}: {name} is empty")
    return value.strip()


def _texts(at: str, name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = _parse_list(value) if value.strip() else []
    if not isinstance(value, list):
        raise FormatError(f"{at}: {name}: expected a list of texts")
    return tuple(text_of(at, f"{name}[{i}]", v) for i, v in enumerate(value))


def _parse_list(text: str) -> Any:
    """Read a JSON or a Python list; None for anything else."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    if not _PYTHON_LIST.fullmatch(text.strip()):
        return None
    try:
        return [ast.literal_eval(literal) for literal in re.findall(_LITERAL, text)]
    except (ValueError, SyntaxError):  # such as a broken escape
        return None
