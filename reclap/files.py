"""Small files: JSON read with a name in every error; writing that leaves nothing half-done."""

import contextlib
import json
import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from reclap.errors import FormatError

__all__ = ["atomic", "made", "parse_json", "read_json", "staged", "sync", "write_text"]


def parse_json(where: str, text: str | bytes, *, unique: bool = False) -> Any:
    """Parse JSON, UTF-8 where it is bytes.

    Raises
    ------
    FormatError
        If it is none, or if `unique` is true and an object has a key twice; names `where`.
    """
    try:
        if isinstance(text, bytes):  # of which json would guess the encoding
            text = text.removeprefix(b"\xef\xbb\xbf").decode()
        return json.loads(text, object_pairs_hook=_unique if unique else None)
    except FormatError as error:
        raise FormatError(f"{where}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: not JSON: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    if twice:
        raise FormatError(f"{twice[0]!r} more than once in an object")
    return dict(pairs)


def read_json(path: Path) -> dict[str, Any]:
    """Read a file of one JSON object; anything else in it gives an empty one."""
    data = parse_json(str(path), path.read_bytes())
    return data if isinstance(data, dict) else {}


@contextlib.contextmanager
def made(folder: Path) -> Iterator[None]:
    """Make a folder, and its parents; if the block fails, one that was not there goes again."""
    there = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if not there:
            with contextlib.suppress(OSError):  # somebody else has written into it
                folder.rmdir()
        raise


@contextlib.contextmanager
def staged(*paths: Path) -> Iterator[list[Path]]:
    """Give temporary names, which take the place of `paths` together when the block ends well.

    All content is on disk before the first name changes; on an exception, and so on a full disk,
    nothing changes and nothing remains. System errors name the final path, not the temporary one.
    """
    mine = threading.get_native_id()
    temporary = [path.with_name(f".{path.name}.{mine}.tmp") for path in paths]
    try:
        yield temporary
        for new in temporary:
            sync(new)
        for new, path in zip(temporary, paths, strict=True):
            new.replace(path)
        for folder in {path.parent for path in paths}:
            with contextlib.suppress(OSError):  # not every file system can
                sync(folder)
    except OSError as error:
        if error.errno is None:
            raise
        named = dict(zip(map(str, temporary), paths, strict=True))
        given = {str(error.filename), str(error.filename2)} & set(named)
        culprit = named[given.pop()] if given else error.filename or os.path.commonpath(paths)
        raise OSError(error.errno, error.strerror, str(culprit)) from error
    finally:
        for new in temporary:
            new.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that takes the place of `path` when the block ends well."""
    with staged(path) as [new], new.open("wb") as f:
        yield f


def sync(path: Path) -> None:
    """Put a file, or the names in a folder, on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a small file atomically, in UTF-8."""
    with atomic(path) as f:
        f.write(text.encode())
