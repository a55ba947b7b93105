"""Atomic writing of files, reading of JSON, file locks."""

import contextlib
import errno
import json
import os
import shutil
import stat
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeAlias

from reclap.errors import BackendError, FormatError, ReclapError

__all__ = [
    "PRIVATE",
    "StrPath",
    "atomic",
    "disguise",
    "lock",
    "made",
    "parse_json",
    "private_folder",
    "read_json",
    "staged",
    "staged_folder",
    "sync",
    "write_text",
]

StrPath: TypeAlias = str | os.PathLike[str]

PRIVATE = ".reclap-"  # prefix of temporary folders, which lie beside their targets


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
        raise FormatError(f"{where}: not JSON: {disguise(text) or error}") from error


def disguise(content: bytes | str) -> str | None:
    """Describe what a failed download left in a file (git-lfs pointer, web page), or None."""
    head = content[:64].encode() if isinstance(content, str) else content[:64]
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of git-lfs in its place; git lfs pull fetches the file"
    if head.lstrip()[:1] == b"<":
        return "a web page in its place; the download went wrong"
    return None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    if twice:
        raise FormatError(f"{twice[0]!r} more than once in an object")
    return dict(pairs)


def read_json(path: Path) -> dict[str, Any]:
    """Read a file of one JSON object.

    Raises
    ------
    FormatError
        If it holds anything else.
    """
    data = parse_json(str(path), path.read_bytes())
    if not isinstance(data, dict):
        raise FormatError(f"{path}: expected a JSON object, got {type(data).__name__}")
    return data


@contextlib.contextmanager
def made(folder: Path) -> Iterator[None]:
    """Create a directory and its parents; if the block raises, remove it again if it is new."""
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
    """Yield temporary paths that replace `paths` when the block succeeds.

    Each lies in a new private folder beside what it replaces, so nobody else can guess, link or
    read it before its time. All content is on disk before the first name changes; on an exception,
    and so on a full disk, nothing changes and nothing remains. The renames are atomic one by one,
    not as a set: a kill between two of them leaves new files beside old ones. A link keeps pointing
    where it did, and its target is replaced; a replaced file keeps its mode; a device or a pipe is
    written to. System errors name the final path, not the temporary one.
    """
    targets = [path if _is_special(path) else Path(os.path.realpath(path)) for path in paths]
    named: dict[str, Path] = {}  # temporary paths, as errors may name them
    with contextlib.ExitStack() as cleanup, _naming(named, paths):
        temporary = []
        for path, target in zip(paths, targets, strict=True):
            named[str(target)] = path
            stage = _beside(target, cleanup) / target.name
            named |= {str(stage): path, str(stage.parent): path}
            temporary.append(stage)
        yield temporary
        for new, target in zip(temporary, targets, strict=True):
            _keep_mode(target, new)
            sync(new)
        for new, target in zip(temporary, targets, strict=True):
            if _is_special(target):
                with new.open("rb") as content, target.open("wb") as f:
                    shutil.copyfileobj(content, f)
            else:
                new.replace(target)
        for folder in {target.parent for target in targets}:
            with contextlib.suppress(OSError):  # not every file system can
                sync(folder)


@contextlib.contextmanager
def staged_folder(folder: Path, *names: str) -> Iterator[list[Path]]:
    """Yield temporary paths of files that become those of `folder` when the block succeeds.

    A folder that is absent or empty appears whole, by one rename, or not at all, whenever the
    process dies. In one that holds something the files are replaced as by `staged`.
    """
    target = Path(os.path.realpath(folder))
    if os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir())):
        with made(folder), staged(*(folder / name for name in names)) as new:
            yield new
        return
    if target.parent.exists() and not target.parent.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    named: dict[str, Path] = {}
    with made(target.parent), contextlib.ExitStack() as cleanup, _naming(named, [folder]):
        stage = _private(target.parent, target, cleanup) / target.name
        new = [stage / name for name in names]
        named |= {str(path): folder / path.name for path in new}
        named |= dict.fromkeys((str(stage), str(stage.parent), str(target)), folder)
        stage.mkdir()
        yield new
        if target.is_dir():
            stage.chmod(stat.S_IMODE(target.stat().st_mode))
        for path in new:
            sync(path)
        sync(stage)
        stage.rename(target)  # an empty folder makes way
        with contextlib.suppress(OSError):  # not every file system can
            sync(target.parent)


def _beside(target: Path, cleanup: contextlib.ExitStack) -> Path:
    """Create a private folder on the file system of a target; elsewhere for a device."""
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    parent = None if _is_special(target) else target.parent
    if parent is not None and not parent.is_dir():
        code = errno.ENOTDIR if parent.exists() else errno.ENOENT
        raise OSError(code, os.strerror(code), str(target))
    return _private(parent, target, cleanup)


def _private(parent: Path | None, target: Path, cleanup: contextlib.ExitStack) -> Path:
    """Create a private folder for the new `target`; remove those of dead processes."""
    if parent is not None:
        _remove_left(parent)
    while True:
        try:
            folder = Path(tempfile.mkdtemp(".tmp", PRIVATE, parent))
        except OSError as error:  # of a name nobody has heard of
            raise OSError(error.errno, error.strerror, str(target)) from error
        cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
        cleanup.enter_context(_held(folder))
        if folder.exists():  # nobody took it for a dead one's before it was held
            return folder


@contextlib.contextmanager
def private_folder(parent: Path | None = None) -> Iterator[Path]:
    """Yield a new folder for temporary files, which is removed at the end.

    Parameters
    ----------
    parent : Path, optional
        Where it is made, and where those of dead processes are removed first; by default among the
        system's temporary files.
    """
    with contextlib.ExitStack() as cleanup:
        yield _private(parent, parent or Path(), cleanup)


def _remove_left(parent: Path) -> None:
    """Remove the private folders of dead processes; running ones hold a lock."""
    with contextlib.suppress(OSError):  # a folder that cannot be listed may still be written to
        for left in parent.glob(f"{PRIVATE}*.tmp"):
            if left.is_dir() and not left.is_symlink():
                with contextlib.suppress(OSError, ReclapError), _held(left, wait=False):
                    shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def _held(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Lock a folder until the process ends.

    Raises
    ------
    ReclapError
        Without `wait`, where another process holds it or it cannot be told.
    """
    try:
        import fcntl  # here, because not every system has it

        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):  # then nobody removes what is left
        if not wait:
            raise ReclapError(f"{folder}: cannot be locked") from None
        yield
        return
    try:
        if wait:
            with contextlib.suppress(OSError):  # not every file system can
                fcntl.flock(handle, fcntl.LOCK_EX)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _keep_mode(old: Path, new: Path) -> None:
    if old.is_file():
        mode = stat.S_IMODE(old.stat().st_mode)
        if mode != stat.S_IMODE(new.stat().st_mode):  # not every file system has modes to change
            new.chmod(mode)


def _is_special(target: Path) -> bool:
    return target.exists() and not target.is_file()


@contextlib.contextmanager
def _naming(named: Mapping[str, Path], paths: Sequence[Path]) -> Iterator[None]:
    """Replace temporary paths in system errors of the block by the caller's."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        given = [str(name) for name in (error.filename, error.filename2) if name is not None]
        culprits = [named[name] for name in given if name in named]
        culprit = culprits[0] if culprits else error.filename or os.path.commonpath(paths)
        raise OSError(error.errno, error.strerror, str(culprit)) from error


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that replaces `path` when the block succeeds."""
    with staged(path) as [new], new.open("wb") as f:
        yield f


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a small file atomically, in UTF-8."""
    with atomic(path) as f:
        f.write(text.encode())


def lock(file: IO[Any], busy: str) -> None:
    """Lock an open file until it is closed or the process ends.

    Parameters
    ----------
    file : file object
        Open for writing.
    busy : str
        Message if another process holds the lock.

    Raises
    ------
    ReclapError
        If another process does.
    BackendError
        On systems without POSIX's locks.
    """
    try:
        import fcntl  # here, because not every system has it
    except ImportError as error:
        raise BackendError("locks of files need a POSIX system, such as Linux or macOS") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ReclapError(busy) from None
