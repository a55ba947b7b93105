"""SQLite files of records, for reviews, replies of language models and finished rows.

What was written is in the file when the block that wrote it ends, also if the process is killed
then; a killed block leaves nothing.
"""

import contextlib
import dataclasses
import errno
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from reclap.errors import FormatError, ReclapError

__all__ = ["Kind", "Records"]

_MOMENT, _LONG = 0.5, 60.0  # s, to wait for other processes
_SYSTEM = {"SQLITE_FULL": errno.ENOSPC, "SQLITE_IOERR": errno.EIO}


@dataclasses.dataclass(frozen=True)
class Kind:
    """A file format.

    Attributes
    ----------
    name : str
        Name of the kind in messages.
    application, version : int
        Stand in the file's header and tell it from others.
    tables : tuple of str
        Statements that make its tables.
    durable : bool
        Whether writes survive a loss of power, at the cost of waiting for the disk each
        time; there is one file then, and no second one beside it for longer than a moment.
    alone : bool
        One process at a time.
    """

    name: str
    application: int
    version: int
    tables: tuple[str, ...]
    durable: bool = False
    alone: bool = False


class Records:
    """An open file; several threads may share it.

    Parameters
    ----------
    path : Path
        Made, with its folder, if it does not exist.
    kind : Kind
        Kind of the file.
    must_exist : bool
        Refuse to make it; it will only be read, and may lie where nothing can be written.

    Raises
    ------
    FileNotFoundError
        If it must exist and does not.
    FormatError
        If it is another kind of file, damaged, or empty and must exist.
    ReclapError
        If it cannot be opened, or is another process's.
    """

    def __init__(self, path: Path, kind: Kind, *, must_exist: bool = False) -> None:
        if must_exist and not path.is_file():
            raise FileNotFoundError(f"{path}: no {kind.name}")
        if not must_exist:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._kind = path, kind
        self._lock = threading.RLock()
        self._connection = _connect(
            path, only_read=must_exist, wait=_MOMENT if kind.alone else _LONG
        )
        try:
            with self.reading() as connection:
                self._prepare(connection, must_exist)
        except BaseException:
            self._connection.close()
            raise

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Hold the connection for reading; errors name the file."""
        try:
            with self._lock:
                yield self._connection
        except sqlite3.Error as error:
            raise self._translated(error) from error

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Hold the connection for a transaction, which is written completely or not at all.

        Raises
        ------
        OSError
            If the disk is full or fails.
        ReclapError
            If the file cannot be written for another reason.
        """
        with self.reading() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # a full disk may have ended it
                    with contextlib.suppress(sqlite3.Error):
                        connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close the file, which lets other processes open it."""
        with self._lock:
            self._connection.close()

    def _prepare(self, connection: sqlite3.Connection, must_exist: bool) -> None:
        kind = self._kind
        is_empty = self._is_empty(connection)  # before anything changes in another's file
        if is_empty and must_exist:
            raise FormatError(f"{self._path}: no {kind.name}: it is empty")
        if kind.alone:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute(f"PRAGMA synchronous = {'EXTRA' if kind.durable else 'NORMAL'}")
        if is_empty and not kind.durable:
            connection.execute("PRAGMA journal_mode = WAL")
        if is_empty:
            with self.writing():
                if self._is_empty(connection):  # nobody was faster
                    connection.execute(f"PRAGMA application_id = {kind.application}")
                    connection.execute(f"PRAGMA user_version = {kind.version}")
                    for table in kind.tables:
                        connection.execute(table)
        elif kind.alone:
            with self.writing():  # takes the lock, which is kept until the end
                connection.execute(f"PRAGMA user_version = {kind.version}")

    def _is_empty(self, connection: sqlite3.Connection) -> bool:
        kind = self._kind
        application, version, tables = connection.execute(
            "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master)"
            " FROM pragma_application_id, pragma_user_version"
        ).fetchone()
        if tables and (application, version) != (kind.application, kind.version):
            raise FormatError(
                f"{self._path}: no {kind.name}, or one of another version: expected "
                f"{kind.application:#x} version {kind.version}, got {application:#x} {version}"
            )
        return not tables

    def _translated(self, error: sqlite3.Error) -> Exception:
        name = getattr(error, "sqlite_errorname", "")
        code = next((code for start, code in _SYSTEM.items() if name.startswith(start)), None)
        if code is not None:
            return OSError(code, os.strerror(code), str(self._path))
        if isinstance(error, sqlite3.ProgrammingError):
            return ReclapError(f"{self._path}: {error}")  # closed meanwhile
        if name.startswith("SQLITE_BUSY") and self._kind.alone:
            return ReclapError(f"{self._path}: another process has it open")
        if isinstance(error, sqlite3.OperationalError):  # locked for a minute, read-only
            return ReclapError(f"{self._path}: {error}")
        return FormatError(f"{self._path}: no {self._kind.name}: {error}")


def _connect(path: Path, *, only_read: bool, wait: float) -> sqlite3.Connection:
    """Open a file; SQLite wants to write beside it unless told that nobody can."""
    is_fixed = only_read and not os.access(path.parent, os.W_OK)
    try:
        return sqlite3.connect(
            path.absolute().as_uri() + ("?immutable=1" if is_fixed else ""),
            uri=True,
            timeout=wait,
            isolation_level=None,
            check_same_thread=False,
        )
    except sqlite3.OperationalError as error:  # a folder, no permission
        raise ReclapError(f"{path}: {error}") from error
