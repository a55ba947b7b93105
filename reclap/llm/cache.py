"""Replies on disk, by the digest of their request: a rerun costs nothing, a recording replays."""

import contextlib
import dataclasses
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from reclap.errors import FormatError, ReclapError
from reclap.llm.request import Reply

__all__ = ["Cache"]

_APPLICATION = 0x72636C70  # "rclp"
_VERSION = 1
_TABLE = """
CREATE TABLE IF NOT EXISTS replies (
    digest BLOB PRIMARY KEY,
    text TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    complete INTEGER NOT NULL,
    date TEXT NOT NULL
) WITHOUT ROWID
"""
_COLUMNS = "text, prompt_tokens, completion_tokens, complete, date"


class Cache:
    """A SQLite file of replies; several threads and several processes may share it.

    A reply is in the file when `put` returns, also if the process is killed then. Memory does not
    grow with the file.

    Parameters
    ----------
    path : Path
        Made, with its folder, if it does not exist.
    must_exist : bool
        Refuse to make it; it will only be read, and may lie where nothing can be written.

    Raises
    ------
    FileNotFoundError
        If it must exist and does not.
    FormatError
        If it is another kind of file.
    ReclapError
        If it cannot be opened.
    """

    def __init__(self, path: Path, *, must_exist: bool = False) -> None:
        if must_exist and not path.is_file():
            raise FileNotFoundError(f"{path}: no recorded replies")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._lock = threading.Lock()
        self._connection = _connect(path, only_read=must_exist)
        try:
            with self._used() as connection:
                self._prepare(connection)
        except BaseException:
            self._connection.close()
            raise

    def get(self, digest: str) -> Reply | None:
        """Return the reply to the request of this digest, None if it was never asked."""
        with self._used() as connection:
            found = connection.execute(
                f"SELECT {_COLUMNS} FROM replies WHERE digest = ?",  # noqa: S608 (our own names)
                (bytes.fromhex(digest),),
            ).fetchone()
        if found is None:
            return None
        text, prompt_tokens, completion_tokens, complete, date = found
        return Reply(text, prompt_tokens, completion_tokens, bool(complete), date)

    def put(self, digest: str, reply: Reply) -> Reply:
        """Keep a reply and return what is kept: of two replies to one request, the first."""
        text = reply.text.encode("utf-8", "replace").decode()  # a lone surrogate has no UTF-8
        reply = dataclasses.replace(reply, text=text)
        with self._used() as connection:
            new = connection.execute(
                f"INSERT OR IGNORE INTO replies (digest, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",  # noqa: S608
                (bytes.fromhex(digest), *dataclasses.astuple(reply)),
            ).rowcount
        return reply if new else self.get(digest) or reply

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    @contextlib.contextmanager
    def _used(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection to one thread; say which file it is that fails."""
        try:
            with self._lock:
                yield self._connection
        except sqlite3.OperationalError as error:  # locked for a minute, disk full, read-only
            raise ReclapError(f"{self._path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise FormatError(f"{self._path}: no cache of replies: {error}") from error

    def _prepare(self, connection: sqlite3.Connection) -> None:
        application, version, tables = connection.execute(
            "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master)"
            " FROM pragma_application_id, pragma_user_version"
        ).fetchone()
        if tables and (application, version) != (_APPLICATION, _VERSION):
            raise FormatError(
                f"{self._path}: no cache of replies, or one of another version:"
                f" expected {_APPLICATION:#x} version {_VERSION}, got {application:#x} {version}"
            )
        if not tables:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.execute(f"PRAGMA user_version = {_VERSION}")
            connection.execute(_TABLE)
        connection.execute("PRAGMA synchronous = NORMAL")


def _connect(path: Path, *, only_read: bool) -> sqlite3.Connection:
    """Open a file; SQLite wants to write beside it unless told that nobody can."""
    is_fixed = only_read and not os.access(path.parent, os.W_OK)
    try:
        return sqlite3.connect(
            path.absolute().as_uri() + ("?immutable=1" if is_fixed else ""),
            uri=True,
            timeout=60,
            isolation_level=None,
            check_same_thread=False,
        )
    except sqlite3.OperationalError as error:  # a folder, no permission
        raise ReclapError(f"{path}: {error}") from error
