"""Decisions of a review, appended to a file beside the reviewed one before they count.

One JSON object a line: a first line with the format and the digest of the reviewed file; then
``{"do": [[place, {old fields}, {new fields}], ...]}``, ``{"undo": true}``, ``{"redo": true}``, and
around each writing of the file ``{"saving": digest, "steps": n}`` and the same with ``saved``: the
file has this digest once the first n decisions are in it. The rest have to be applied once more.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reclap.errors import FormatError, ReclapError
from reclap.files import parse_json

__all__ = ["Journal", "digest"]

FORMAT = "reclap-review-1"
_KINDS = ("do", "undo", "redo", "saving", "saved")


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


class Journal:
    """The decisions on one file; open in one process at a time.

    Parameters
    ----------
    reviewed : Path
        The file under review; the journal is called as it is, with ``.journal`` behind.
    state : str
        Digest of the file as the caller has read it.

    Attributes
    ----------
    past : list of dict
        Lines whose effect is in the reviewed file.
    pending : list of dict
        Lines whose effect has yet to come into it.

    Raises
    ------
    ReclapError
        If another process reviews the file; if it has changed since the caller read it; if it
        was changed by something else while decisions were pending.
    FormatError
        If the journal is damaged elsewhere than in its last line, which an interrupted writing
        leaves incomplete and which is dropped.
    """

    def __init__(self, reviewed: Path, state: str) -> None:
        self.path = reviewed.with_name(f"{reviewed.name}.journal")
        self._file = self.path.open("a+b", buffering=0)  # nothing is left behind by a full disk
        try:
            self._lock(reviewed)
            self.past, self.pending = self._resume(reviewed, state)
        except BaseException:
            self._file.close()
            raise

    def _lock(self, reviewed: Path) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ReclapError(f"{reviewed}: another review of this file is open") from None

    def _resume(
        self, reviewed: Path, state: str
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        if digest(reviewed) != state:
            raise ReclapError(f"{reviewed}: changed while it was opened; start again")
        lines = self._read()
        marks = [line for line in lines if "steps" in line]
        steps = [line for line in lines if "steps" not in line]
        done = _find(marks, state)
        if done is not None:
            return steps[:done], steps[done:]
        if len(steps) > max((mark["steps"] for mark in marks if "saved" in mark), default=0):
            raise ReclapError(
                f"{reviewed}: changed by something else, while decisions in {self.path} were not "
                "in it yet; put the former file back, or delete the journal to give them up"
            )
        self._file.truncate(0)
        self.append({"format": FORMAT, "saved": state, "steps": 0})
        return [], []

    def _read(self) -> list[dict[str, Any]]:
        self._file.seek(0)
        data = self._file.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            self._file.truncate(whole)
        lines = [
            _checked(f"{self.path}:{n}", parse_json(f"{self.path}:{n}", text))
            for n, text in enumerate(data[:whole].splitlines(), 1)
        ]
        if lines and lines[0].get("format") != FORMAT:
            raise FormatError(
                f'{self.path}:1: format is {lines[0].get("format")!r}, expected "{FORMAT}"'
            )
        return lines

    def append(self, line: dict[str, Any]) -> None:
        """Put a line on disk.

        Raises
        ------
        OSError
            If that fails; the journal is as it was.
        """
        end = self._file.seek(0, os.SEEK_END)
        data = json.dumps(line, ensure_ascii=False).encode() + b"\n"
        try:
            if self._file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(end)
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def close(self) -> None:
        """Close the file, which lets other processes open it."""
        self._file.close()


def _checked(where: str, line: Any) -> dict[str, Any]:
    if not isinstance(line, dict) or not any(kind in line for kind in _KINDS):
        raise FormatError(f"{where}: expected an object with one of {', '.join(_KINDS)}")
    if ("saved" in line or "saving" in line) and type(line.get("steps")) is not int:
        raise FormatError(f"{where}: steps is {line.get('steps')!r}, expected a number")
    return line


def _find(marks: Sequence[dict[str, Any]], state: str) -> int | None:
    """Return how many decisions a file of this digest holds.

    Only the last ``saved`` counts, and each ``saving`` behind it, whose ``saved`` got lost: an
    older state means that somebody has put a former file back.
    """
    for mark in reversed(marks):
        if state in (mark.get("saving"), mark.get("saved")):
            return int(mark["steps"])
        if "saved" in mark:
            return None
    return None
