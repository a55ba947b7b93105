"""Cache of replies on disk, by the digest of their request."""

import dataclasses
from pathlib import Path

from reclap.io.files import StrPath
from reclap.io.records import Kind, Records
from reclap.llm.request import Reply

__all__ = ["Cache"]

_TABLE = """
CREATE TABLE replies (
    digest BLOB PRIMARY KEY,
    text TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    complete INTEGER NOT NULL,
    date TEXT NOT NULL
) WITHOUT ROWID
"""
_KIND = Kind("cache of replies", 0x72636C70, 1, (_TABLE,))  # "rclp"
_COLUMNS = "text, prompt_tokens, completion_tokens, complete, date"


class Cache:
    """Cache file of replies; several threads and several processes may share it.

    A reply is in the file when `put` returns, also if the process is killed then. Memory does not
    grow with the file.

    Parameters
    ----------
    path : path
        SQLite file; created, with its folder, if it does not exist.
    must_exist : bool
        Refuse to create it; it will only be read, and may lie on a read-only file system.

    Raises
    ------
    FileNotFoundError, FormatError, ReclapError
        As for `Records`.

    Examples
    --------
    >>> from reclap.llm import Message, Request
    >>> cache = Cache("replies.sqlite")
    >>> digest = Request((Message("user", "How does rain sound?"),), {}).digest("some-model")
    >>> cache.get(digest) is None
    True
    >>> cache.put(digest, Reply("A steady hiss.", 9, 4, True, "2026-01-31T12:00:00Z")).text
    'A steady hiss.'
    >>> cache.get(digest).completion_tokens
    4
    >>> cache.close()
    """

    def __init__(self, path: StrPath, *, must_exist: bool = False) -> None:
        self._records = Records(Path(path), _KIND, must_exist=must_exist)

    def get(self, digest: str) -> Reply | None:
        """Return the cached reply to a request.

        Parameters
        ----------
        digest : str
            Digest of the request, see `Request.digest`.

        Returns
        -------
        Reply or None
            None if there is none.
        """
        with self._records.reading() as connection:
            found = connection.execute(
                f"SELECT {_COLUMNS} FROM replies WHERE digest = ?",  # noqa: S608 (our own names)
                (bytes.fromhex(digest),),
            ).fetchone()
        if found is None:
            return None
        text, prompt_tokens, completion_tokens, complete, date = found
        return Reply(text, prompt_tokens, completion_tokens, bool(complete), date)

    def put(self, digest: str, reply: Reply) -> Reply:
        """Add a reply; of two replies to one request the first stays.

        Parameters
        ----------
        digest : str
            Digest of the request.
        reply : Reply
            The reply.

        Returns
        -------
        Reply
            The cached reply.
        """
        text = reply.text.encode("utf-8", "replace").decode()  # a lone surrogate has no UTF-8
        reply = dataclasses.replace(reply, text=text)
        with self._records.writing() as connection:
            new = connection.execute(
                f"INSERT OR IGNORE INTO replies (digest, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",  # noqa: S608
                (bytes.fromhex(digest), *dataclasses.astuple(reply)),
            ).rowcount
        return reply if new else self.get(digest) or reply

    def close(self) -> None:
        """Close the file."""
        self._records.close()
