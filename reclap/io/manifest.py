"""Manifests of sounds with captions: CSV, JSON lines or Parquet."""

import csv
import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reclap.errors import FormatError, needs, one_line
from reclap.io.captions import Caption, SharedCaptions, take_captions, text_of
from reclap.io.excerpts import Excerpt, sound_of
from reclap.io.files import StrPath, parse_json

__all__ = [
    "FLAGS",
    "SUFFIXES",
    "Caption",
    "Row",
    "SharedCaptions",
    "files",
    "items",
    "read",
    "take_captions",
]

FLAGS = "rewrite_flags"  # column of `reclap rewrite`: findings of the checks by text
_PATH = ("path", "audio")
_NEEDED = (*_PATH, "caption", "captions")  # empty where a row of CSV is too short for them
SUFFIXES = (".csv", ".jsonl", ".parquet")
_BATCH = 1024  # rows of Parquet read at once
_LISTED = 5  # missing files, or faulty rows, that a message names


@dataclasses.dataclass(frozen=True)
class Row:
    """One sound of a manifest.

    Attributes
    ----------
    path : Path
        The sound file.
    captions : tuple of Caption
        At least one; training draws one of them first, then its original or a rewrite.
    extra : dict of str to str
        All other columns.
    at : str
        File and line, for messages; not compared.
    excerpt : Excerpt, optional
        The part of the file that columns ``start`` and ``seconds`` name.
    """

    path: Path
    captions: tuple[Caption, ...]
    extra: Mapping[str, str] = dataclasses.field(default_factory=dict)
    at: str = dataclasses.field(default="", compare=False)
    excerpt: Excerpt | None = None

    @property
    def sound(self) -> Path | Excerpt:
        """What to decode: the excerpt, or the whole file."""
        return self.path if self.excerpt is None else self.excerpt

    def fault(self, error: Exception) -> str:
        """Return a message that names manifest line and sound."""
        text = one_line(error)
        named = text if str(self.path) in text else f"{self.path}: {text}"
        return f"{self.at}: {named}" if self.at else named


def read(
    path: StrPath,
    root: StrPath | None = None,
    where: Mapping[str, Sequence[Any]] | None = None,
    *,
    check_files: bool = True,
) -> list[Row]:
    """Read a manifest.

    Parameters
    ----------
    path : path
        ``.csv`` with a header line, ``.jsonl`` with one object a line, or ``.parquet`` (which
        needs the extra ``parquet``). Columns: ``path`` (or
        ``audio``); ``caption``, and optionally ``rewrites``, ``negatives`` and ``modules``, lists
        of strings (see `Caption`); or instead of these
        ``captions``, a list of ``{"caption": ..., "rewrites": ...}`` (in JSON lines) or
        ``file.json#key``, such a list kept once for many rows: the value of `key` in a JSON
        object beside the manifest.
        In CSV a list is a cell that holds a JSON list; ReCLAP's name ``rewritten_captions`` and
        the text of a Python list are read as well. With a column ``start``, the sound is an excerpt
        of the file, ``seconds`` long or up to its end; both in seconds. Other columns are kept as
        strings, these two as well.
    root : path, optional
        Folder that relative sound paths start from; the manifest's own by default.
    where : mapping of str to sequence, optional
        Keep the rows whose column has one of these values, compared as strings.
    check_files : bool
        Check that the sound files of these rows exist.

    Returns
    -------
    list of Row
        In the order of the file.

    Raises
    ------
    FileNotFoundError
        If the manifest, or a sound file, does not exist; all missing ones are counted.
    FormatError
        Naming file and line of every faulty row: a missing or empty column, a bad list, a URL where
        files are checked; or if no row is left.
    """
    path = Path(path)
    root = path.parent if root is None else Path(root)
    allowed = {column: {str(v) for v in values} for column, values in (where or {}).items()}
    shared = SharedCaptions(path.parent)
    rows, faults = [], []
    for line, item in items(path):
        try:
            if _keep(f"{path}:{line}", item, allowed):
                rows.append(_row(f"{path}:{line}", item, root, shared, check_files))
        except FormatError as error:
            faults.append(str(error))
    _refuse_faulty(path, faults)
    if not rows:
        kept = f" where {_show(allowed)}" if allowed else ""
        raise FormatError(f"{path}: no row{kept}")
    if check_files:
        _refuse_missing(path, rows)
    return rows


def files(path: StrPath) -> list[Path]:
    """Return the manifest and the files of captions that it refers to, each once."""
    path = Path(path)
    listed = (item.get("captions") for _, item in items(path))
    names = {text.partition("#")[0] for text in listed if isinstance(text, str)}
    return [path, *(path.parent / name for name in sorted(names))]


def _refuse_faulty(path: Path, faults: Sequence[str]) -> None:
    if len(faults) == 1:
        raise FormatError(faults[0])
    if faults:
        more = f"; and {len(faults) - _LISTED} more" if len(faults) > _LISTED else ""
        raise FormatError(f"{path}: {len(faults)} faulty rows: {'; '.join(faults[:_LISTED])}{more}")


def _show(allowed: Mapping[str, set[str]]) -> str:
    return " and ".join(f"{column} is {' or '.join(sorted(v))}" for column, v in allowed.items())


def items(path: StrPath) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read a manifest row by row, in bounded memory.

    Yields
    ------
    tuple of int and dict
        Number of the line (in Parquet, of the row), and the columns as they stand there.

    Raises
    ------
    FormatError
        Naming file and line: another kind of file, or one that cannot be read as its kind.
    MissingDependencyError
        If Parquet's library is missing.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise FormatError(f"{path}: expected a manifest called {' or '.join(SUFFIXES)}")
    if suffix == ".parquet":
        yield from _parquet(path)
        return
    with path.open(encoding="utf-8-sig", newline="") as f:
        try:
            yield from _csv(path, f) if suffix == ".csv" else _json_lines(path, f)
        except UnicodeDecodeError as error:
            raise FormatError(f"{path}: not UTF-8: {error}") from error


def _parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with needs("pyarrow", f"{path}: Parquet", "parquet"):
        import pyarrow
        import pyarrow.parquet
    row = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH):
                for item in batch.to_pylist():
                    row += 1
                    yield row, {k: v for k, v in item.items() if v is not None}
    except pyarrow.ArrowException as error:
        raise FormatError(f"{path}: not Parquet: {error}") from error


def _csv(path: Path, lines: Iterator[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(lines, restkey="", strict=True)
    line = 1
    try:
        twice = [name for name, n in Counter(reader.fieldnames or ()).items() if n > 1]
        if twice:
            raise FormatError(f"{path}:1: column {twice[0]!r} more than once")
        for item in reader:
            line = reader.line_num
            if "" in item:
                raise FormatError(f"{path}:{line}: more cells than the {len(item) - 1} columns")
            yield (
                line,
                {
                    column: value or ""
                    for column, value in item.items()
                    if value is not None or column in _NEEDED
                },
            )
    except csv.Error as error:
        raise FormatError(f"{path}:{reader.reader.line_num}: {error}") from error


def _json_lines(path: Path, lines: Iterator[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, text in enumerate(lines, 1):
        if not text.strip():
            continue
        item = parse_json(f"{path}:{line}", text, unique=True)
        if not isinstance(item, dict):
            raise FormatError(f"{path}:{line}: expected an object, got {type(item).__name__}")
        yield line, item


def _keep(at: str, item: dict[str, Any], allowed: Mapping[str, set[str]]) -> bool:
    """Tell whether the filter lets a row pass."""
    absent = [column for column in allowed if column not in item]
    if absent:
        raise FormatError(
            f"{at}: no column {', '.join(absent)} to filter by, but {', '.join(item)}"
        )
    return all(str(item[column]) in values for column, values in allowed.items())


def _row(
    at: str, item: dict[str, Any], root: Path, shared: SharedCaptions, check_files: bool
) -> Row:
    names = [name for name in _PATH if name in item]
    if not names:
        raise FormatError(f"{at}: no column path; has {', '.join(item)}")
    sound = text_of(at, names[0], item[names[0]])
    if check_files and "://" in sound and not (root / sound).is_file():
        raise FormatError(f"{at}: {names[0]} {sound} is a URL: download the sound, give its path")
    captions = take_captions(at, item, shared)
    del item[names[0]]
    found = sound_of(at, root / sound, item)
    extra = {k: _plain(v) for k, v in item.items()}
    return Row(root / sound, captions, extra, at, found if isinstance(found, Excerpt) else None)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _refuse_missing(path: Path, rows: Sequence[Row]) -> None:
    missing = [os.fspath(row.path) for row in rows if not row.path.is_file()]
    if missing:
        more = ", ..." if len(missing) > _LISTED else ""
        raise FileNotFoundError(
            f"{path}: {len(missing)} of {len(rows)} sound files are missing: "
            f"{', '.join(missing[:_LISTED])}{more}"
        )
