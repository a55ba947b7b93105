"""Steps, evaluations and checkpoints of one run, from the first step to its end."""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reclap.checkpoints import adapter as adapters
from reclap.checkpoints import model_folder
from reclap.errors import FormatError, one_line, shown_names
from reclap.runtime.memory import resident
from reclap.runtime.progress import bar as progress_bar
from reclap.runtime.threads import default_threads
from reclap.training import lora
from reclap.training.best import Best
from reclap.training.callbacks import Callbacks
from reclap.training.captions import Captions
from reclap.training.data import Batch, Batches
from reclap.training.evaluate import Evaluation
from reclap.training.folder import (
    BEST,
    LAST,
    LOG,
    RECIPE,
    Checkpoint,
    RunFolder,
    write_state,
)
from reclap.training.learner import STATE, Learner
from reclap.training.recipe import Recipe
from reclap.training.run_log import RunLog
from reclap.training.signals import Signals
from reclap.training.teacher import Teacher
from reclap.training.tokens import Tokeniser

__all__ = ["Result", "Running"]

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


class Running:
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
        teacher: Teacher | None,
        callbacks: Callbacks,
    ) -> None:
        self._recipe, self._folder, self._identity = recipe, folder, identity
        self._text, self._link, self._saved = text, text.parent == folder.path, 0
        self._learner, self._exam, self._captions = learner, exam, captions
        self._callbacks, self._teacher = callbacks, teacher
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
        taught = {"teacher": self._teacher(batch.rows, batch.texts)} if self._teacher else {}
        try:
            made = self._learner.step(
                batch.step, batch.mel, texts, owner, role, batch.longer, **taught
            )
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
