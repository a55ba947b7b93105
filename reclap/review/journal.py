"""Journal of a review's decisions, written beside the reviewed file.

A SQLite file (`reclap.io.records`) of two tables: ``steps``, each ``{"do": [[index, {old fields},
{new fields}], ...]}``, ``{"undo": true}`` or ``{"redo": true}``; and ``marks`` around each writing
of the reviewed file: it has this digest once the first n steps are in it. The rest have to be
applied once more.
"""

import contextlib
import hashlib
import json
import sqlite3
from pathlib import Path
from typing import Any

from reclap.errors import FormatError, ReclapError
from reclap.io.files import parse_json
from reclap.io.records import Kind, Records

__all__ = ["Journal", "digest"]

OLD_FORMAT = "reclap-review-1"  # of lines of JSON, of the same content
_STEPS = ("do", "undo", "redo")
_KIND = Kind(
    "journal of a review",
    0x72636C72,  # "rclr"
    1,
    (
        "CREATE TABLE steps (number INTEGER PRIMARY KEY, content TEXT NOT NULL)",
        "CREATE TABLE marks (number INTEGER PRIMARY KEY, kind TEXT NOT NULL,"
        " digest TEXT NOT NULL, steps INTEGER NOT NULL)",
        "CREATE TABLE earlier (digest TEXT NOT NULL)",  # of a journal of lines that was taken over
    ),
    durable=True,
    alone=True,
)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


class Journal:
    """Journal of one file, open in one process at a time.

    Parameters
    ----------
    reviewed : Path
        The file under review; the journal is called as it is, with ``.review`` behind. A journal of
        an earlier version, with ``.journal`` behind, is taken over.
    state : str
        Digest of the file as the caller has read it.

    Attributes
    ----------
    past : list of dict
        Steps whose effect is in the reviewed file.
    pending : list of dict
        Steps whose effect has yet to come into it.

    Raises
    ------
    ReclapError
        If another process reviews the file; if it has changed since the caller read it; if it
        was changed by something else while decisions were pending.
    FormatError
        If the journal is damaged or another file.
    """

    def __init__(self, reviewed: Path, state: str) -> None:
        self.path = reviewed.with_name(f"{reviewed.name}.review")
        try:
            self._records = Records(self.path, _KIND)
        except ReclapError as error:
            if "another process" in str(error):
                raise ReclapError(f"{reviewed}: another review of this file is open") from error
            raise
        try:
            self._take_over(reviewed.with_name(f"{reviewed.name}.journal"))
            self.past, self.pending = self._resume(reviewed, state)
        except BaseException:
            self._records.close()
            raise

    def _resume(
        self, reviewed: Path, state: str
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        if digest(reviewed) != state:
            raise ReclapError(f"{reviewed}: changed while it was opened; start again")
        with self._records.reading() as connection:
            rows = connection.execute("SELECT number, content FROM steps ORDER BY number")
            steps = [_step(f"{self.path}: step {number}", text) for number, text in rows]
            # Marks before the last "saved" are gone: an older state means that somebody has put a
            # former file back.
            (done,) = connection.execute(
                "SELECT max(steps) FROM marks WHERE digest = ?", (state,)
            ).fetchone()
            (saved,) = connection.execute(
                "SELECT coalesce(max(steps), 0) FROM marks WHERE kind = 'saved'"
            ).fetchone()
        if done is not None:
            if done > saved:  # a process ended between the file's writing and its mark
                self.mark_saved(state, done)
            return steps[:done], steps[done:]
        if len(steps) > saved:
            raise ReclapError(
                f"{reviewed}: changed by something else, while decisions in {self.path} were not "
                "in it yet; put the former file back, or delete the journal to give them up"
            )
        with self._records.writing() as connection:
            connection.execute("DELETE FROM steps")
            _save(connection, state, 0)
        return [], []

    def append(self, step: dict[str, Any]) -> None:
        """Write a step.

        Raises
        ------
        OSError
            If that fails; the journal is as it was.
        """
        with self._records.writing() as connection:
            _insert(connection, step)

    def mark_saving(self, state: str, steps: int) -> None:
        """Record the digest that the file will have, with so many steps in it."""
        with self._records.writing() as connection:
            _mark(connection, "saving", state, steps)

    def mark_saved(self, state: str, steps: int) -> None:
        """Record the digest of the file."""
        with self._records.writing() as connection:
            _save(connection, state, steps)

    def close(self) -> None:
        """Close the file, which lets other processes open it."""
        self._records.close()

    def _take_over(self, old: Path) -> None:
        """Import the journal of an earlier version, and remove it."""
        if not old.is_file():
            return
        with self._records.reading() as connection:
            taken = connection.execute("SELECT digest FROM earlier").fetchone()
            (marks,) = connection.execute("SELECT count(*) FROM marks").fetchone()
        state = digest(old)
        if taken is None and not marks:
            lines = _old_lines(old)
            with self._records.writing() as connection:
                for line in lines:
                    _take_line(connection, line)
                connection.execute("INSERT INTO earlier VALUES (?)", (state,))
        elif taken != (state,):
            raise ReclapError(f"{old}: another journal of this file beside {self.path}; delete one")
        with contextlib.suppress(OSError):
            old.unlink()


def _insert(connection: sqlite3.Connection, step: dict[str, Any]) -> None:
    text = json.dumps(step, ensure_ascii=False)
    connection.execute("INSERT INTO steps (content) VALUES (?)", (text,))


def _mark(connection: sqlite3.Connection, kind: str, state: str, steps: int) -> None:
    values = (kind, state, steps)
    connection.execute("INSERT INTO marks (kind, digest, steps) VALUES (?, ?, ?)", values)


def _save(connection: sqlite3.Connection, state: str, steps: int) -> None:
    connection.execute("DELETE FROM marks")
    _mark(connection, "saved", state, steps)


def _step(where: str, text: str) -> dict[str, Any]:
    step = parse_json(where, text)
    if not isinstance(step, dict) or not any(kind in step for kind in _STEPS):
        raise FormatError(f"{where}: expected an object with one of {', '.join(_STEPS)}")
    return step


def _old_lines(path: Path) -> list[dict[str, Any]]:
    """Read a journal of lines, without an incomplete last one."""
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1].split(b"\n")[:-1]
    lines = [_old_line(f"{path}:{n}", text) for n, text in enumerate(whole, 1)]
    if lines and lines[0].get("format") != OLD_FORMAT:
        got = lines[0].get("format")
        raise FormatError(f'{path}:1: format is {got!r}, expected "{OLD_FORMAT}"')
    return lines


def _old_line(where: str, text: bytes) -> dict[str, Any]:
    line = parse_json(where, text)
    kinds = (*_STEPS, "saving", "saved")
    if not isinstance(line, dict) or not any(kind in line for kind in kinds):
        raise FormatError(f"{where}: expected an object with one of {', '.join(kinds)}")
    if ("saved" in line or "saving" in line) and type(line.get("steps")) is not int:
        raise FormatError(f"{where}: steps is {line.get('steps')!r}, expected a number")
    return line


def _take_line(connection: sqlite3.Connection, line: dict[str, Any]) -> None:
    if "saved" in line:
        _save(connection, str(line["saved"]), line["steps"])
    elif "saving" in line:
        _mark(connection, "saving", str(line["saving"]), line["steps"])
    else:
        _insert(connection, line)
