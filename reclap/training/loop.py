"""Training loop: initialisation, schedule, log, checkpoints, resuming.

An output folder holds ``log.jsonl``, ``captions.store`` (features of the frozen text tower for the
captions) and folders like ``step-0000001000``: complete models, and beside these
``state.safetensors`` (weights, moments) and ``state.json`` (step, recipe). The link ``last`` names
the newest one. A folder gets its name only when all of it is on disk, so a run that is killed at
any moment can be continued (`reclap.training.folder`).
"""

import contextlib
import dataclasses
import json
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from reclap.checkpoints import model_folder
from reclap.config.model import ClapConfig
from reclap.errors import FormatError
from reclap.io import files, manifest
from reclap.io.files import StrPath
from reclap.io.manifest import Row
from reclap.model.loading import locate
from reclap.runtime.progress import bar as progress_bar
from reclap.runtime.threads import default_threads
from reclap.training import initial
from reclap.training.captions import Captions
from reclap.training.data import Batch, Batches
from reclap.training.evaluate import ZeroShot
from reclap.training.folder import (
    CAPTIONS,
    LAST,
    LOG,
    Checkpoint,
    RunFolder,
    refuse_begun,
    write_state,
)
from reclap.training.identity import VERSION
from reclap.training.learner import STATE, Learner
from reclap.training.recipe import Recipe, changes
from reclap.training.text_encoder import TextEncoder

__all__ = ["Result", "train"]

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Result:
    """Result of a training run.

    Parameters
    ----------
    folder : Path
        The last checkpoint, a model folder.
    step : int
        Steps done, those before a continuation included.
    interrupted : bool
        Whether a signal ended it before the last step.
    loss : float or None
        Loss of the last step; None if none was done, because the run had finished before.
    accuracy : float or None
        Accuracy of the last evaluation; None if there was none.

    Examples
    --------
    >>> Result(Path("runs/first/step-0000000100"), 100, False, 1.25, None).step
    100
    """

    folder: Path
    step: int
    interrupted: bool
    loss: float | None
    accuracy: float | None


def train(
    recipe: Recipe,
    out: StrPath,
    *,
    resume: bool = False,
    progress: bool = False,
) -> Result:
    """Train a model.

    Parameters
    ----------
    recipe : Recipe
        See `reclap.training.recipe.load`.
    out : path
        Folder for checkpoints and log; created if absent.
    resume : bool
        Continue the run that `out` holds, bit for bit as if it had not been interrupted; start
        it if there is no checkpoint yet. Without it a folder that holds anything is refused.
    progress : bool
        Show progress bars on standard error.

    Returns
    -------
    Result
        SIGINT and SIGTERM end the run after the current step, with a checkpoint; at once where it
        waits for a batch.

    Raises
    ------
    FileExistsError
        If `out` is not empty, without `resume`.
    FormatError
        If the manifest, a sound or the recipe is at fault, or if `resume` meets a run of another
        recipe; the message names the settings that differ.
    OSError
        If `out` cannot be written. The last complete checkpoint stays usable.
    ValueError
        If the loss is no longer finite.
    ReclapError
        If another process is training into `out`.

    Examples
    --------
    >>> from reclap.training import load
    >>> result = train(load("recipes/smoke.toml"), "runs/smoke")  # doctest: +SKIP
    >>> result.step  # doctest: +SKIP
    300
    """
    out = Path(out)
    refuse_begun(out, resume=resume)
    rows = manifest.read(recipe.data.manifest, recipe.data.root or None, recipe.data.where)
    _refuse_false_negatives(recipe, len(rows))
    with RunFolder.opened(out, resume=resume) as folder:
        if resume and not folder.newest:
            log.warning("nothing to resume in %s: starting a run", out)
        return _train_into(folder, recipe, rows, progress=progress)


def _train_into(
    folder: RunFolder, recipe: Recipe, rows: Sequence[Row], *, progress: bool
) -> Result:
    """Make what a run needs, or read it back, and go through its steps."""
    out = folder.path
    given = recipe.model.source
    source = initial.whole_model(given, out, progress=progress) if given else None
    known = model_folder.read_config(source) if source else None
    recipe = dataclasses.replace(recipe, model=recipe.model.completed(known))
    text = _text_tower(recipe, source, out, progress)
    audio = locate(recipe.model.audio_from) if recipe.model.audio_from else None
    threads = recipe.run.threads or default_threads()
    identity = recipe.identity(text, audio, source, rows=rows, progress=progress)
    newest, start = folder.newest, 0
    if newest:
        version, same = newest.version, identity
        if version != VERSION:
            same = recipe.identity(
                text, audio, source, rows=rows, version=version, progress=progress
            )
        start = _schedule_start(newest, same, threads)
    encoder = TextEncoder(text, threads, progress=progress)
    config = recipe.model.config(encoder.config.text)
    batches = Batches(rows, recipe.data, recipe.augment, config.front, recipe.run.seed)
    learner = Learner(config, recipe, threads, start)
    if newest:
        learner.load(newest.folder)
    elif source and known:
        _begin(learner, known, source, own_text=text == source)
    elif audio:
        tower = initial.audio_tower(audio, config.audio, config.front)
        learner.begin(tower, audio, ["audio_branch."])
    exam = None
    if recipe.eval.every:
        exam = ZeroShot.from_recipe(recipe, config, encoder, progress=progress)
    captions = Captions(encoder, batches.texts(), out / CAPTIONS, progress=progress)
    run = _Loop(recipe, folder, text, identity, learner, exam, captions)
    return run.go(batches, newest.step if newest else 0, progress=progress)


def _text_tower(recipe: Recipe, source: Path | None, out: Path, progress: bool) -> Path:
    """Return the model folder that gives the text tower, that of the whole model if it is one."""
    text = recipe.model.text
    if source and text == recipe.model.source:
        return source
    return initial.text_tower(text or "", out, progress=progress)


def _begin(learner: Learner, known: ClapConfig, source: Path, *, own_text: bool) -> None:
    """Continue from a whole model; a head of other sizes is initialised at random."""
    config, parts = learner.config, ["audio_branch.", "logit_scale"]
    if (config.audio_head, config.dim) == (known.audio_head, known.dim):
        parts.append("audio_projection.")
    if own_text and (config.text_head, config.dim) == (known.text_head, known.dim):
        parts.append("text_projection.")
    learner.begin(model_folder.read_tensors(source / model_folder.MODEL), source, parts)


def _refuse_false_negatives(recipe: Recipe, rows: int) -> None:
    """Refuse batches whose examples have no wrong pair, or one that is in truth a right one."""
    data = recipe.data
    if data.batch < 2:
        raise FormatError(
            f"data.batch is {data.batch}: the loss compares each pair with the others of its "
            "batch, and is 0 without any; expected at least 2"
        )
    if data.batch - data.mixtures > rows:
        raise FormatError(
            f"data.batch is {data.batch}, {data.batch - data.mixtures} of them unmixed, for {rows} "
            "rows: a row would come twice, as its own wrong pair; expected at most as many as rows"
        )


# ---- The loop --------------------------------------------------------------------------------


class _Loop:
    """Steps, log lines, evaluations and checkpoints of one run."""

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        text: Path,
        identity: Mapping[str, Any],
        learner: Learner,
        exam: ZeroShot | None,
        captions: Captions,
    ) -> None:
        self._recipe, self._folder, self._identity = recipe, folder, identity
        self._text, self._link, self._saved = text, text.parent == folder.path, 0
        self._learner, self._exam, self._captions = learner, exam, captions
        self._loss: float | None = None
        self._accuracy: float | None = None

    def go(self, batches: Batches, first: int, *, progress: bool) -> Result:
        """Run from a step on; see `train`."""
        steps, done = self._recipe.run.steps, first
        self._saved = first
        log_path = self._folder.path / LOG
        _truncate_log(log_path, first)
        with (
            log_path.open("a", encoding="utf-8") as lines,
            _Signals() as signals,
            contextlib.closing(batches.prefetch(first, steps)) as found,
            progress_bar(steps, "step", shown=progress, initial=first, leave=True) as bar,
        ):
            if self._recipe.run.save_first and not self._folder.newest:
                if self._exam:
                    self._write(lines, {"step": 0, "eval": self._examine(self._exam)})
                self._save(0)
            started = time.monotonic()
            for batch in self._each(found, signals):
                line = self._step(batch, batches.epoch(batch.step))
                done, now = batch.step + 1, time.monotonic()
                line["clips_per_s"] = round(len(batch.mel) / max(now - started, 1e-9), 1)
                line["seconds"] = round(now - started, 4)
                self._write(lines, line)
                bar.update()
                bar.set_postfix(loss=f"{line['loss']:.3f}", refresh=False)
                if self._exam and done % self._recipe.eval.every == 0:
                    self._write(lines, {"step": done, "eval": self._examine(self._exam)})
                if done % self._recipe.run.save_every == 0 or done == steps:
                    os.fsync(lines.fileno())
                    self._save(done)
                started = time.monotonic()
            if signals.caught and (done > self._saved or not self._folder.newest):
                os.fsync(lines.fileno())
                self._save(done)
        interrupted = done < steps
        if interrupted:
            log.warning("stopped by %s after step %d of %d", signals.caught, done, steps)
        return Result(self._folder.path / LAST, done, interrupted, self._loss, self._accuracy)

    def _each(self, found: Iterator[Batch], signals: "_Signals") -> Iterator[Batch]:
        """Yield batches; before a sound that cannot be read ends the run, save the steps done."""
        done = self._saved
        try:
            while (batch := signals.next(found)) is not None:
                yield batch
                done = batch.step + 1
        except FormatError:
            if done > self._saved:
                self._save(done)
            raise

    def _step(self, batch: Batch, epoch: int) -> dict[str, Any]:
        made = self._learner.step(batch.step, batch.mel, self._captions(batch.captions))
        self._loss = made["loss"]
        return {"step": batch.step + 1, "epoch": epoch, **made}

    def _examine(self, exam: ZeroShot) -> dict[str, Any]:
        found = exam(self._learner)
        self._accuracy = found["accuracy"]
        return found

    @staticmethod
    def _write(lines: Any, line: Mapping[str, Any]) -> None:
        lines.write(json.dumps(line) + "\n")
        lines.flush()

    def _save(self, step: int) -> None:
        """Add a checkpoint; the text tower is copied once, and linked in those that follow."""

        def write(folder: Path) -> None:
            learner = self._learner
            model_folder.save(
                folder, learner.config, learner.tensors(), self._text.resolve(), link=self._link
            )
            model_folder.write_tensors(folder / STATE, learner.state())
            threads = self._recipe.run.threads or default_threads()
            write_state(Checkpoint(folder, step, threads, self._identity, learner.start))

        self._text = self._folder.save(step, self._recipe.run.keep, write)
        self._link, self._saved = True, step


class _Signals:
    """Catch SIGINT and SIGTERM; the second one interrupts at once, whatever is being done.

    Does nothing outside the main thread, where Python allows no handlers.
    """

    def __init__(self) -> None:
        self.caught = ""
        self._is_waiting = False
        self._before: dict[int, Any] = {}

    def next(self, found: Iterator[Batch]) -> Batch | None:
        """Return the next batch; None at the end, or where a signal comes before the batch does."""
        try:
            try:
                self._is_waiting = True
                return None if self.caught else next(found, None)
            finally:
                self._is_waiting = False
        except _StoppedError:
            return None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.caught:
            raise KeyboardInterrupt
        self.caught = signal.Signals(number).name
        if self._is_waiting:
            raise _StoppedError

    def __enter__(self) -> "_Signals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)


class _StoppedError(KeyboardInterrupt):
    """A signal came while a batch was awaited."""


# ---- Continuation ----------------------------------------------------------------------------


def _schedule_start(newest: Checkpoint, identity: Mapping[str, Any], threads: int) -> int:
    """Return the step at which the schedule begins, refusing to continue the run of another recipe.

    A finished run may be extended: with more steps, and whatever the optimizer should then do.
    """
    changed = changes(newest.recipe, identity)
    more = identity["run"]["steps"] > newest.step == newest.recipe["run"]["steps"]
    extended = more and all(c.startswith(("run.steps:", "optim.")) for c in changed)
    if changed and not extended:
        raise FormatError(
            f"{newest.folder}: a run of another recipe. {'; '.join(changed)}. (Once a run has "
            "finished, run.steps may grow, and [optim] change with it.)"
        )
    if newest.threads != threads:
        log.warning(
            "resumed with %d threads, begun with %d: last bits may differ", threads, newest.threads
        )
    return newest.step if changed else newest.start


def _truncate_log(path: Path, step: int) -> None:
    """Keep the lines up to a step."""
    if not path.exists():
        return
    kept = [line for line in path.read_text("utf-8").splitlines() if _step_of(line) <= step]
    files.write_text(path, "".join(f"{line}\n" for line in kept))


def _step_of(line: str) -> float:
    """Return the step of a log line, infinity for one that was cut."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return int(json.loads(line)["step"])
    return math.inf
