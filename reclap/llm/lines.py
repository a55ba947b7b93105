"""A file of lines that grows under a temporary name and survives being killed."""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from reclap.errors import FormatError, ReclapError
from reclap.files import parse_json, sync, write_text

__all__ = ["PartialLines"]

_BLOCK = 256  # lines after which what is written is put on disk
_SECONDS = 1.0  # or the time after which it is


class PartialLines:
    """``PATH.partial``, which becomes PATH when it is complete.

    Beside it, ``PATH.partial.json`` says what it is made with. If both are there the file is
    continued: a last line that was cut off is removed.

    Parameters
    ----------
    path : Path
        The file in the end.
    made : mapping
        What decides the content, as JSON.
    force : bool
        Replace what is there instead of continuing or refusing.

    Raises
    ------
    FileExistsError
        If PATH exists.
    ReclapError
        If the file was begun with other settings, or another process writes it.
    """

    def __init__(self, path: Path, made: Mapping[str, Any], *, force: bool = False) -> None:
        if path.exists() and not force:
            raise FileExistsError(f"{path}: exists; --force replaces it")
        self._path = path
        self._partial = path.with_name(path.name + ".partial")
        self._state = path.with_name(path.name + ".partial.json")
        self._file = self._partial.open("a+b")
        try:
            self._lock()
            self._check(json.loads(json.dumps(made)), force)
            self._repair()
        except BaseException:
            self._file.close()
            raise
        self._unsynced, self._synced = 0, time.monotonic()

    def written(self) -> Iterator[tuple[int, Any]]:
        """Yield the number and the JSON of each line that is there."""
        self._file.seek(0)
        for number, line in enumerate(self._file, 1):
            yield number, parse_json(f"{self._partial}:{number}", line)

    def append(self, item: Any) -> None:
        """Write a JSON value as a line; it is on disk a second, or a block of lines, later."""
        text = json.dumps(item, ensure_ascii=False, default=str)
        self._file.write(text.encode() + b"\n")
        self._unsynced += 1
        if self._unsynced == _BLOCK or time.monotonic() - self._synced > _SECONDS:
            self._sync()

    def finish(self) -> None:
        """Give the file its name."""
        self._sync()
        self._partial.replace(self._path)
        self._state.unlink(missing_ok=True)
        sync(self._path.parent)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put on disk what is written, and close."""
        try:
            self._sync()
        finally:
            self._file.close()

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._unsynced, self._synced = 0, time.monotonic()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ReclapError(f"{self._partial}: another process is writing it") from error

    def _check(self, made: dict[str, Any], force: bool) -> None:
        """Compare with what the file was begun with, or begin it."""
        begun = self._partial.stat().st_size and not force
        if begun and self._state.exists():
            before = parse_json(str(self._state), self._state.read_bytes())
            if before != made:
                raise ReclapError(
                    f"{self._partial}: begun with {_difference(before, made)}; --force starts anew"
                )
            return
        if begun:
            raise FormatError(f"{self._partial}: no {self._state.name} beside it")
        self._file.truncate(0)
        write_text(self._state, json.dumps(made, indent=1) + "\n")

    def _repair(self) -> None:
        """Remove what stands after the last end of a line."""
        position = size = self._file.seek(0, os.SEEK_END)
        while position:
            start = max(0, position - (1 << 16))
            self._file.seek(start)
            end = self._file.read(position - start).rfind(b"\n")
            if end >= 0:
                position = start + end + 1
                break
            position = start
        if position < size:
            self._file.truncate(position)
        self._file.seek(0, os.SEEK_END)


def _difference(before: Any, made: dict[str, Any]) -> str:
    if not isinstance(before, dict):
        return f"{before!r}"
    names = [name for name in {**before, **made} if before.get(name) != made.get(name)]
    return ", ".join(f"{name} {before.get(name)!r}, now {made.get(name)!r}" for name in names)
