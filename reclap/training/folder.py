"""Run folder: lock, checkpoints, recovery after a kill."""

import contextlib
import dataclasses
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from reclap.checkpoints import model_folder
from reclap.errors import FormatError, ReclapError
from reclap.io import files
from reclap.training.identity import VERSION
from reclap.training.initial import TEXT
from reclap.training.learner import STATE

__all__ = [
    "BEST",
    "CAPTIONS",
    "EVENTS",
    "LAST",
    "LOG",
    "PLOTS",
    "RECIPE",
    "STATE_INFO",
    "Checkpoint",
    "RunFolder",
]

log = logging.getLogger(__name__)

LAST, BEST, LOG, CAPTIONS, LOCK = "last", "best", "log.jsonl", "captions.store", ".lock"
STATE_INFO, RECIPE = "state.json", "recipe.json"
EVENTS = "tensorboard"  # folder of its events
PLOTS = ("curves.", "similarity.")  # images of `reclap plot`
# The last one is of earlier versions.
_OURS = (LAST, BEST, LOG, CAPTIONS, LOCK, RECIPE, EVENTS, "captions.safetensors")
_STEP = re.compile(r"step-\d{10}")
# Left by a process that was killed.
_LEFT = re.compile(r"\.(step-.*|last|best|(reclap-)?[a-z0-9_]{8})\.tmp")
_FILES = (model_folder.CONFIG, model_folder.MODEL, model_folder.TEXT, model_folder.TOKENIZER, STATE)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint.

    Attributes
    ----------
    folder : Path
        Model folder, with the state of training beside the model.
    step : int
        Steps done.
    threads : int
        Threads of the core that they were done with.
    recipe : dict
        See `reclap.training.recipe.Recipe.identity`.
    start : int
        Step at which the schedule of the learning rate began: 0, or where a finished run was
        extended.
    version : int
        Format of `recipe`.
    best : dict, optional
        The best evaluation until then, `reclap.training.best.Best`; None for none.
    piece : int
        Clips that went through the towers at a time; 0: all of a batch, or not known.
    """

    folder: Path
    step: int
    threads: int
    recipe: Mapping[str, Any]
    start: int
    version: int = VERSION
    best: Mapping[str, Any] | None = None
    piece: int = 0


class RunFolder:
    """Checkpoints of one run on disk; created by `opened`.

    Parameters
    ----------
    path : Path
        The folder.
    checkpoints : list of Checkpoint
        Complete ones, oldest first.
    lock : file
        The locked file, open.
    """

    def __init__(self, path: Path, checkpoints: list[Checkpoint], lock: IO[str]) -> None:
        self.path = path
        self._checkpoints, self._lock = checkpoints, lock

    @property
    def newest(self) -> Checkpoint | None:
        """The newest complete checkpoint."""
        return self._checkpoints[-1] if self._checkpoints else None

    @classmethod
    @contextlib.contextmanager
    def opened(cls, path: Path, *, resume: bool) -> Iterator["RunFolder"]:
        """Make or open the folder of a run, and keep other processes out of it meanwhile.

        Parameters
        ----------
        path : Path
            The folder.
        resume : bool
            Resume the run; otherwise only a folder without a run is accepted.

        Raises
        ------
        FileExistsError
            If there is something without `resume`; or with it something, but no run to continue:
            the message names what was found.
        NotADirectoryError
            If it is a file.
        ReclapError
            If another process holds the folder.

        Notes
        -----
        Everything that is read of the folder is read under the lock, so that a process that is
        just ending cannot move a checkpoint away in between.
        """
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(f"{path}: expected a folder for checkpoints, there is a file")
        refuse_begun(path, resume=resume)  # also before anything is made
        path.mkdir(parents=True, exist_ok=True)
        with _alone(path) as lock:
            refuse_begun(path, resume=resume)
            folder = cls(path, _find(path) if resume else [], lock)
            folder._tidy()
            yield folder

    def save(self, step: int, keep: int, write: Callable[[Path], None]) -> Path:
        """Add a checkpoint, let `LAST` name it and `BEST` the best, then remove the oldest ones.

        Parameters
        ----------
        step : int
            Steps done.
        keep : int
            Complete checkpoints that stay; the best one stays in any case.
        write : callable
            Writes all files into the folder that it is given.

        Raises
        ------
        ReclapError
            If the lock was removed, and another process has taken the folder since.
        """
        lock = self.path / LOCK
        if lock.exists() and not os.path.samestat(lock.stat(), os.fstat(self._lock.fileno())):
            raise ReclapError(f"{self.path}: another process is training into this folder")
        folder = self.path / _name(step)
        temporary = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            write(temporary)
            made = _read(temporary)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _set_aside(folder)  # an incomplete one of this name
        temporary.rename(folder)
        files.sync(self.path)
        self._checkpoints.append(dataclasses.replace(made, folder=folder))
        self.point()
        best = self.best
        for old in self._checkpoints[:-keep]:
            if old is not best:
                self._checkpoints.remove(old)
                _remove(old.folder)
        return folder

    @property
    def best(self) -> Checkpoint | None:
        """The complete checkpoint of the best evaluation, by what the newest one says."""
        step = (self.newest.best or {}).get("step") if self.newest else None
        return next((c for c in self._checkpoints if c.step == step), None)

    def point(self) -> None:
        """Let the link `LAST` name the newest checkpoint, and `BEST` the best, atomically."""
        if self.newest:
            self._point(LAST, self.newest)
        if self.best:
            self._point(BEST, self.best)
        elif self.newest and (self.path / BEST).is_symlink():
            log.warning("%s: the best checkpoint is not there any more", self.path / BEST)
            (self.path / BEST).unlink()

    def _point(self, name: str, checkpoint: Checkpoint) -> None:
        link, wanted = self.path / name, checkpoint.folder.name
        if link.is_symlink() and str(link.readlink()) == wanted:
            return
        if link.is_dir() and not link.is_symlink():
            _set_aside(link)
        temporary = link.with_name(f".{link.name}.tmp")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(wanted)
        temporary.replace(link)
        files.sync(self.path)

    def _tidy(self) -> None:
        """Remove what a killed process left half-written, and mend the links."""
        for path in self.path.iterdir():
            if not _LEFT.fullmatch(path.name):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        self.point()


def refuse_begun(path: Path, *, resume: bool) -> None:
    """Refuse a folder that holds anything of a run, without `resume`; see `RunFolder.opened`."""
    if resume or not path.is_dir():
        return
    if any(p.name != LOCK and not p.name.startswith(TEXT) for p in path.iterdir()):
        raise FileExistsError(f"{path}: not empty; continue its run with resume, or choose another")


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[IO[str]]:
    """Refuse a second process in the same folder; the system lets go when a process dies."""
    with (path / LOCK).open("w") as f:
        files.lock(f, f"{path}: another process is training into this folder")
        yield f


# ---- Complete and incomplete checkpoints -----------------------------------------------------


def _find(path: Path) -> list[Checkpoint]:
    """Return the complete checkpoints of a folder, oldest first; refuse where none can be right."""
    foreign = sorted(p.name for p in path.iterdir() if not _is_ours(p.name))
    there = sorted(p for p in path.iterdir() if _STEP.fullmatch(p.name))
    last = path / LAST
    if last.is_dir() and not last.is_symlink():  # a copy that followed the link
        there.append(last)
    complete: dict[int, Checkpoint] = {}
    faults = []
    for folder in there:
        try:
            found = _read(folder)
        except (OSError, FormatError) as error:
            faults.append(f"{folder.name} ({error})")
        else:
            complete.setdefault(found.step, found)
    if last.is_symlink() and not complete:
        faults.append(f"{LAST} (names {last.readlink()}, which is no complete checkpoint here)")
    if faults and not complete:
        raise FileExistsError(f"{path}: no complete checkpoint to resume: {'; '.join(faults)}")
    if foreign and not complete:
        raise FileExistsError(f"{path}: no run to resume, but {', '.join(foreign[:5])}")
    for fault in faults:
        log.warning("%s: passed over %s", path, fault)
    return [_named(complete[step]) for step in sorted(complete)]


def _read(folder: Path) -> Checkpoint:
    """Read the state of a checkpoint, after a look at whether all of it is there.

    Raises
    ------
    FormatError
        Naming files that are missing or cut, or the state if it is none.
    """
    missing = [name for name in (*_FILES, STATE_INFO) if not (folder / name).is_file()]
    if missing:
        raise FormatError(f"no {', '.join(missing)}")
    model_folder.read_config(folder)
    for name in (model_folder.MODEL, model_folder.TEXT, STATE):
        model_folder.read_tensors(folder / name)  # only the header, which tells the length
    files.read_json(folder / model_folder.TOKENIZER)
    path = folder / STATE_INFO
    state = files.read_json(path)
    try:
        step, threads, was = int(state["step"]), int(state["threads"]), dict(state["recipe"])
        start, version = int(state.get("start", 0)), int(state.get("version", 1))
        best = None if state.get("best") is None else dict(state["best"])
        piece = int(state.get("piece", 0))
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path}: not the state of a run: {error!r}") from error
    if _STEP.fullmatch(folder.name) and folder.name != _name(step):
        raise FormatError(f"{path}: the state of step {step}")
    return Checkpoint(folder, step, threads, was, start, version, best, piece)


def _named(found: Checkpoint) -> Checkpoint:
    """Give a checkpoint the name of its step, if it has another."""
    folder = found.folder.with_name(_name(found.step))
    if folder == found.folder:
        return found
    _set_aside(folder)
    found.folder.rename(folder)
    return dataclasses.replace(found, folder=folder)


def _set_aside(folder: Path) -> None:
    """Give a folder in the way another name; nothing of it is lost."""
    if not os.path.lexists(folder):
        return
    for k in range(1, 1000):
        other = folder.with_name(f"{folder.name}.aside{k}")
        if not os.path.lexists(other):
            folder.rename(other)
            log.warning("%s was in the way and is now %s", folder, other.name)
            return
    raise FileExistsError(f"{folder}: in the way, and so are all names to give it")


def _remove(folder: Path) -> None:
    """Remove a checkpoint so that a kill leaves no half of it under its name."""
    temporary = folder.with_name(f".{folder.name}.old.tmp")
    with contextlib.suppress(OSError):
        folder.rename(temporary)
        shutil.rmtree(temporary)


def _is_ours(name: str) -> bool:
    return (
        name in _OURS
        or name.startswith(("step-", f"{LAST}.", f"{BEST}.", TEXT, *PLOTS))
        or name.endswith(".tmp")
    )


def _name(step: int) -> str:
    """Return the folder name of a checkpoint; names sort as steps do."""
    return f"step-{step:010d}"


def write_state(made: Checkpoint) -> None:
    """Write what a `Checkpoint` says beside its tensors."""
    names = ("step", "threads", "start", "version", "best", "piece", "recipe")
    state = {name: getattr(made, name) for name in names}
    files.write_text(made.folder / STATE_INFO, json.dumps(state, indent=1) + "\n")
