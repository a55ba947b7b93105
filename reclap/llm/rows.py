"""Finished rows of an output file, kept until all are there so that a run can be resumed."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from reclap.errors import FormatError, ReclapError
from reclap.io.files import atomic, parse_json
from reclap.io.records import Kind, Records
from reclap.llm.collect import Rejected
from reclap.llm.report import Item

__all__ = ["Finished", "Rows"]

_KIND = Kind(
    "list of finished rows",
    0x72636C77,  # "rclw"
    1,
    (
        "CREATE TABLE made (content TEXT NOT NULL)",
        "CREATE TABLE rows (number INTEGER PRIMARY KEY, source TEXT NOT NULL, line TEXT NOT NULL,"
        " item TEXT NOT NULL, flagged INTEGER NOT NULL)",
    ),
    alone=True,
)


class Finished(NamedTuple):
    """A row that is done.

    Attributes
    ----------
    source : str
        Digest of the source row.
    row : mapping
        Output of the row, as JSON.
    item : Item
        Entry in the report.
    flagged : int
        Number of its texts with a doubt.
    """

    source: str
    row: Mapping[str, Any]
    item: Item
    flagged: int


class Rows:
    """``PATH.partial``, a SQLite file of rows, from which PATH is written when all are there.

    A row is kept when `append` returns, also if the process is killed then.

    Parameters
    ----------
    path : Path
        The file in the end: lines of JSON.
    made : mapping
        Provenance of the content, as JSON.
    force : bool
        Replace existing files instead of resuming or refusing.

    Raises
    ------
    FileExistsError
        If PATH exists.
    ReclapError
        If it was begun with other settings, or another process writes it.
    FormatError
        If ``PATH.partial`` is another file, or damaged.
    """

    def __init__(self, path: Path, made: Mapping[str, Any], *, force: bool = False) -> None:
        if path.exists() and not force:
            raise FileExistsError(f"{path}: exists; --force replaces it")
        self._path, self._partial = path, path.with_name(f"{path.name}.partial")
        self._records = self._open(force)
        try:
            self._begin(json.loads(json.dumps(made)), force)
        except BaseException:
            self._records.close()
            raise

    def finished(self) -> Iterator[Finished]:
        """Yield the finished rows, in order."""
        columns = "source, line, item, flagged"
        with self._records.reading() as connection:
            found = connection.execute(f"SELECT {columns} FROM rows ORDER BY number")  # noqa: S608
            for source, line, item, flagged in found:
                row, said = parse_json(str(self._partial), line), json.loads(item)
                said["rejected"] = tuple(
                    Rejected(x["text"], tuple(x["reasons"])) for x in said["rejected"]
                )
                yield Finished(source, row, Item(**said), flagged)

    def append(self, done: Finished) -> None:
        """Append a row."""
        line = json.dumps(done.row, ensure_ascii=False, default=str)
        item = json.dumps(dataclasses.asdict(done.item), ensure_ascii=False)
        with self._records.writing() as connection:
            connection.execute(
                "INSERT INTO rows (source, line, item, flagged) VALUES (?, ?, ?, ?)",
                (done.source, line, item, done.flagged),
            )

    def finish(self) -> None:
        """Write the file, and remove the rows."""
        with atomic(self._path) as f, self._records.reading() as connection:
            for (line,) in connection.execute("SELECT line FROM rows ORDER BY number"):
                f.write(line.encode() + b"\n")
        self._records.close()
        self._remove()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self._records.close()

    def _open(self, force: bool) -> Records:
        try:
            return Records(self._partial, _KIND)
        except FormatError as error:
            if not force:
                raise FormatError(f"{error}; --force starts anew") from error
        self._remove()
        return Records(self._partial, _KIND)

    def _begin(self, made: dict[str, Any], force: bool) -> None:
        """Compare the provenance with that of the existing file, or write it."""
        with self._records.writing() as connection:
            found = connection.execute("SELECT content FROM made").fetchone()
            if found is not None and not force:
                before = parse_json(str(self._partial), found[0])
                if before != made:
                    raise ReclapError(
                        f"{self._partial}: begun with {_difference(before, made)}; "
                        "--force starts anew"
                    )
                return
            connection.execute("DELETE FROM made")
            connection.execute("DELETE FROM rows")
            connection.execute("INSERT INTO made VALUES (?)", (json.dumps(made),))

    def _remove(self) -> None:
        for end in ("", "-wal", "-shm"):
            self._partial.with_name(self._partial.name + end).unlink(missing_ok=True)


def _difference(before: Any, made: dict[str, Any]) -> str:
    if not isinstance(before, dict):
        return f"{before!r}"
    names = [name for name in {**before, **made} if before.get(name) != made.get(name)]
    return ", ".join(f"{name} {before.get(name)!r}, now {made.get(name)!r}" for name in names)
