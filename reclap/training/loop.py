"""Training loop: initialisation, schedule, log, checkpoints, resuming.

An output folder holds ``recipe.json``, ``log.jsonl``, ``captions.store`` (features of the frozen
text tower for the captions) and folders like ``step-0000001000``: complete models, and beside these
``state.safetensors`` (weights, moments) and ``state.json`` (step, recipe). The link ``last`` names
the newest one, ``best`` the one of the best evaluation. A folder gets its name only when all of it
is on disk, so a run that is killed at any moment can be continued (`reclap.training.folder`).
"""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reclap.checkpoints import adapter as adapters
from reclap.checkpoints import model_folder
from reclap.config.model import ClapConfig
from reclap.errors import FormatError, one_line, shown_name, shown_names
from reclap.io import manifest
from reclap.io.files import StrPath
from reclap.io.manifest import Row
from reclap.model.loading import locate
from reclap.runtime.memory import available, resident
from reclap.runtime.progress import bar as progress_bar
from reclap.runtime.threads import default_threads
from reclap.training import initial, lora
from reclap.training.best import Best
from reclap.training.callbacks import Callbacks
from reclap.training.captions import Captions
from reclap.training.data import Batch, Batches
from reclap.training.evaluate import Evaluation
from reclap.training.folder import (
    BEST,
    CAPTIONS,
    LAST,
    LOG,
    RECIPE,
    Checkpoint,
    RunFolder,
    refuse_begun,
    write_state,
)
from reclap.training.identity import VERSION
from reclap.training.learner import STATE, Learner
from reclap.training.recipe import Recipe, changes
from reclap.training.run_log import RunLog
from reclap.training.sections import Data
from reclap.training.signals import Signals
from reclap.training.tensorboard import TensorBoard
from reclap.training.text_encoder import TextEncoder
from reclap.training.tokens import Tokeniser

__all__ = ["Result", "train"]

log = logging.getLogger(__name__)

_SHOWN = 8  # clips of a batch that a message names


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
    best : Path or None
        The checkpoint of the best evaluation; None without `eval.best`.
    early : bool
        Whether it ended before the last step because evaluations got no better, by
        `eval.patience`.

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
    best: Path | None = None
    early: bool = False


def train(
    recipe: Recipe,
    out: StrPath,
    *,
    resume: bool = False,
    progress: bool = False,
    callbacks: Iterable[object] = (),
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
    callbacks : iterable of object
        Objects that hear of steps, evaluations and checkpoints; see `Callback`.

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
    TypeError
        If `callbacks` has something else.
    MissingDependencyError
        If `run.tensorboard` asks for events, and the package is missing.
    ValueError
        If the loss is no longer finite; the message names the clips of the batch.
    ReclapError
        If another process is training into `out`.

    Examples
    --------
    >>> from reclap.training import load
    >>> result = train(load("recipes/smoke.toml"), "runs/smoke")  # doctest: +SKIP
    >>> result.step  # doctest: +SKIP
    300
    """
    more = [TensorBoard()] if recipe.run.tensorboard else []
    out, told = Path(out), Callbacks(callbacks, more)
    refuse_begun(out, resume=resume)
    rows = manifest.read(recipe.data.manifest, recipe.data.root or None, recipe.data.where)
    _refuse_false_negatives(recipe, rows)
    with RunFolder.opened(out, resume=resume) as folder:
        if resume and not folder.newest:
            log.warning("nothing to resume in %s: starting a run", out)
        return _train_into(folder, recipe, rows, told, progress=progress)


def _train_into(
    folder: RunFolder, recipe: Recipe, rows: Sequence[Row], callbacks: Callbacks, *, progress: bool
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
    config = recipe.model.config(model_folder.read_config(text).text)
    if known and recipe.loss.kind == "sigmoid":
        config = dataclasses.replace(config, logit_bias=_kept_bias(recipe, known))
    batches = Batches(rows, recipe.data, recipe.augment, config.front, recipe.run.seed)
    made_for = None
    if recipe.lora.targets:
        made_for = lora.base_of(recipe.lora, config, known, source, text)
    learner = Learner(config, recipe, threads, start, made_for)
    if made_for or not newest:  # checkpoints with adapters hold nothing of the base
        if source and known:
            _begin(learner, known, source, own_text=text == source)
        elif audio:
            tower = initial.audio_tower(audio, config.audio, config.front)
            learner.begin(tower, audio, ["audio_branch."])
        if learner.with_text:
            tensors = model_folder.read_tensors(text / model_folder.TEXT)
            learner.begin(tensors, text / model_folder.TEXT, ["text_branch."])
    if newest:
        learner.load(newest.folder)
    encoder: TextEncoder | Tokeniser
    captions: Captions | Tokeniser
    if learner.with_text:
        encoder = captions = Tokeniser(text, config.text)
    else:
        encoder = TextEncoder(text, threads, progress=progress)
        captions = Captions(encoder, batches.texts(), out / CAPTIONS, progress=progress)
    if newest:
        learner.piece = recipe.run.piece or newest.piece
    _plan_memory(learner, recipe.data, config, out)
    exam = None
    if recipe.eval.every:
        exam = Evaluation.from_recipe(recipe, config, encoder, progress=progress)
    run = _Loop(recipe, folder, text, identity, learner, exam, captions, callbacks)
    return run.go(batches, newest.step if newest else 0, progress=progress)


def _plan_memory(learner: Learner, data: Data, config: ClapConfig, out: Path) -> None:
    """Choose the pieces that batches come in, and say what the run needs."""
    texts = data.batch * (data.captions + data.negatives + data.modules)
    found = learner.plan(data.batch, config.front.frames, texts, available())
    log.info("%s: %s", out, found)


def _text_tower(recipe: Recipe, source: Path | None, out: Path, progress: bool) -> Path:
    """Return the model folder that gives the text tower, that of the whole model if it is one."""
    text = recipe.model.text
    if source and text == recipe.model.source:
        return source
    return initial.text_tower(text or "", out, progress=progress)


def _keeps_logits(recipe: Recipe, known: ClapConfig) -> bool:
    """Tell whether scale and bias go on from a model: of the same loss, if no scale is set."""
    is_sigmoid = recipe.loss.kind == "sigmoid"
    return is_sigmoid == (known.logit_bias is not None) and not recipe.loss.scale


def _kept_bias(recipe: Recipe, known: ClapConfig) -> float | None:
    return known.logit_bias if _keeps_logits(recipe, known) else None


def _begin(learner: Learner, known: ClapConfig, source: Path, *, own_text: bool) -> None:
    """Continue from a whole model; a head of other sizes is initialised at random."""
    config, parts = learner.config, ["audio_branch."]
    if _keeps_logits(learner.recipe, known):
        parts.append("logit_scale")
    if (config.audio_head, config.dim) == (known.audio_head, known.dim):
        parts.append("audio_projection.")
    if own_text and (config.text_head, config.dim) == (known.text_head, known.dim):
        parts.append("text_projection.")
    learner.begin(model_folder.read_tensors(source / model_folder.MODEL), source, parts)


def _refuse_false_negatives(recipe: Recipe, rows: Sequence[Row]) -> None:
    """Refuse batches whose examples have no wrong pair, or one that is in truth a right one."""
    data = recipe.data
    if data.batch < 2:
        raise FormatError(
            f"data.batch is {data.batch}: the loss compares each pair with the others of its "
            "batch, and is 0 without any; expected at least 2"
        )
    if data.batch - data.mixtures > len(rows):
        raise FormatError(
            f"data.batch is {data.batch}, {data.batch - data.mixtures} of them unmixed, for "
            f"{len(rows)} rows: a row would come twice, as its own wrong pair; expected at most as "
            "many as rows"
        )
    texts = {text for row in rows for c in row.captions for text in (c.text, *c.rewrites)}
    if len(texts) < 2:
        raise FormatError(
            f"data.manifest: {data.manifest}: {shown_name(texts.pop())!r} is the only caption of "
            f"{len(rows)} rows, so every wrong pair is a right one; expected at least two"
        )
    groups = {row.extra[data.group] for row in rows if data.group in row.extra}
    if len(groups) == 1:
        raise FormatError(
            f"data.group: {data.manifest}: {shown_name(groups.pop())!r} is the only "
            f"{data.group}, whose sounds are alike; expected at least two"
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
        exam: Evaluation | None,
        captions: Captions | Tokeniser,
        callbacks: Callbacks,
    ) -> None:
        self._recipe, self._folder, self._identity = recipe, folder, identity
        self._text, self._link, self._saved = text, text.parent == folder.path, 0
        self._learner, self._exam, self._captions = learner, exam, captions
        self._callbacks = callbacks
        newest = folder.newest
        state, where = (newest.best, str(newest.folder)) if newest else (None, "")
        self._best = Best.of_state(state, recipe.eval.best, where)
        self._loss: float | None = None
        self._accuracy: float | None = None

    def go(self, batches: Batches, first: int, *, progress: bool) -> Result:
        """Run from a step on; see `train`."""
        self._done = self._saved = first
        steps, result = self._recipe.run.steps, None
        is_new = not self._folder.newest
        with (
            RunLog(self._folder.path / LOG, -1 if is_new else first) as log_file,
            Signals() as signals,
            contextlib.closing(batches.prefetch(first, steps)) as found,
            progress_bar(steps, "step", shown=progress, initial=first, leave=True) as bar,
        ):
            self._log = log_file
            try:
                self._recipe.save(self._folder.path / RECIPE)
                self._callbacks.begin(self._recipe, self._folder.path, first)
                if is_new and (self._examine() or self._recipe.run.save_first):
                    self._save(0)
                if not self._is_over():
                    self._steps(batches, found, signals, bar)
                result = self._ended(signals.caught)
            except Exception as error:
                # A sound that cannot be read, or a callback: the steps before it are good.
                is_harmless = isinstance(error, FormatError) or error is self._callbacks.failed
                if is_harmless and self._done > self._saved:
                    self._save(self._done, tell=error is not self._callbacks.failed)
                raise
            finally:
                self._callbacks.end(result)
        return result

    def _steps(self, batches: Batches, found: Iterator[Batch], signals: Signals, bar: Any) -> None:
        """Take all steps, with evaluations and checkpoints where they are due."""
        run, every = self._recipe.run, self._recipe.eval.every
        started = time.monotonic()
        while (batch := signals.next(found)) is not None:
            made = self._step(batch, batches)
            self._done, now = batch.step + 1, time.monotonic()
            self._tell({**made, **_rates(len(batch.mel), now - started)}, bar)
            is_better = bool(every) and self._done % every == 0 and self._examine()
            is_last = self._done == run.steps or self._is_over()
            if is_better or is_last or self._done % run.save_every == 0:
                self._save(self._done)
            if is_last:
                return
            started = time.monotonic()
        if signals.caught and (self._done > self._saved or not self._folder.newest):
            self._save(self._done)

    def _step(self, batch: Batch, batches: Batches) -> dict[str, Any]:
        """Take a step; where its loss is not finite, say which clips it was of."""
        texts = self._captions(batch.texts)
        plain = len(batch.texts) == len(batch.mel)
        owner, role = (None, None) if plain else (batch.owner, batch.role)
        try:
            made = self._learner.step(batch.step, batch.mel, texts, owner, role, batch.longer)
        except ValueError as error:
            clips = _clips(batch, batches)
            self._log.write({"step": batch.step + 1, "failed": one_line(error), "batch": clips})
            newest = self._folder.newest
            left = f"{newest.folder} is the last checkpoint" if newest else "no checkpoint yet"
            shown = f"the batch (all of it in {LOG}): {shown_names(clips, _SHOWN)}"
            raise ValueError(f"{one_line(error)}; {left}; {shown}") from error
        self._loss = made["loss"]
        if batch.step == 0:
            untouched = self._learner.untouched()
            if untouched:
                log.warning("no gradient reached %s", shown_names(untouched, _SHOWN))
        return {"step": batch.step + 1, "epoch": batches.epoch(batch.step), **made}

    def _tell(self, line: dict[str, Any], bar: Any) -> None:
        """Log a step, and show it."""
        self._log.write(line)
        bar.update()
        shown = {"loss": f"{line['loss']:.3f}", "lr": f"{line['lr']:.1e}"}
        shown["clips/s"] = f"{line['clips_per_s']:.1f}"
        if "memory_mb" in line:
            shown["memory"] = f"{line['memory_mb']:.0f}MB"
        bar.set_postfix(shown, refresh=False)
        self._callbacks.step(line)

    def _examine(self) -> bool:
        """Evaluate, if the recipe says so; tell whether it is the best evaluation so far."""
        if not self._exam:
            return False
        found = self._exam(self._learner)
        self._accuracy = found.get("accuracy")
        if self._recipe.eval.best:
            self._best = self._best.after(self._done, found)
        line = {"step": self._done, "eval": found}
        self._log.write(line)
        self._callbacks.eval(line)
        return self._best.step == self._done

    def _is_over(self) -> bool:
        """Tell whether evaluations have been no better for too long."""
        patience = self._recipe.eval.patience
        return bool(patience) and self._best.waited >= patience

    def _ended(self, caught: str) -> Result:
        path, done, steps = self._folder.path, self._done, self._recipe.run.steps
        is_early = done < steps and self._is_over()
        if caught and done < steps:
            log.warning("stopped by %s after step %d of %d", caught, done, steps)
        return Result(
            path / LAST,
            done,
            done < steps and not is_early,
            self._loss,
            self._accuracy,
            path / BEST if self._folder.best else None,
            is_early,
        )

    def _save(self, step: int, *, tell: bool = True) -> None:
        """Add a checkpoint; the text tower is copied once, and linked in those that follow."""
        self._log.sync()

        def write(folder: Path) -> None:
            learner = self._learner
            if learner.with_text:
                tokenizer = (self._text / model_folder.TOKENIZER).read_bytes()
                model_folder.save_all(folder, learner.saved_config(), learner.tensors(), tokenizer)
            else:
                config, text = learner.saved_config(), self._text.resolve()
                model_folder.save(folder, config, learner.tensors(), text, link=self._link)
            model_folder.write_tensors(folder / STATE, learner.state())
            if adapter := learner.adapter():
                adapters.save(folder / lora.ADAPTER, adapter)
            threads = self._recipe.run.threads or default_threads()
            best = dataclasses.asdict(self._best) if self._best.by else None
            start, piece = learner.start, learner.piece
            made = Checkpoint(folder, step, threads, self._identity, start, best=best, piece=piece)
            write_state(made)

        self._text = self._folder.save(step, self._recipe.run.keep, write)
        self._link, self._saved = True, step
        if tell:
            self._callbacks.save(step, self._text)


def _rates(clips: int, seconds: float) -> dict[str, float]:
    """Return what the log says of the speed of a step, and of memory, where the system tells."""
    rates = {"clips_per_s": round(clips / max(seconds, 1e-9), 1), "seconds": round(seconds, 4)}
    memory = resident()
    return rates if memory is None else rates | {"memory_mb": round(memory / 2**20, 1)}


def _clips(batch: Batch, batches: Batches) -> list[str]:
    """Return the clips of a batch, as manifest line and path; those that are not finite first."""
    bad = [not np.isfinite(mel).all() for mel in batch.mel]
    found = []
    for index in sorted(range(len(bad)), key=lambda i: not bad[i]):
        rows = [batches.rows[i] for i in batch.rows[index]]
        name = " with ".join(f"{row.at}: {row.path}" if row.at else str(row.path) for row in rows)
        found.append(f"{name} (its log-mel is not finite)" if bad[index] else name)
    return found


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
