"""Training: what a run begins with, or goes on from; `reclap.training.running` goes through it.

An output folder holds ``recipe.json``, ``log.jsonl``, ``captions.store`` (features of the frozen
text tower for the captions) and folders like ``step-0000001000``: complete models, and beside these
``state.safetensors`` (weights, moments) and ``state.json`` (step, recipe). The link ``last`` names
the newest one, ``best`` the one of the best evaluation. A folder gets its name only when all of it
is on disk, so a run that is killed at any moment can be continued (`reclap.training.folder`).
"""

import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reclap.checkpoints import model_folder
from reclap.config.model import ClapConfig
from reclap.errors import FormatError, shown_name
from reclap.io import manifest
from reclap.io.files import StrPath
from reclap.io.manifest import Row
from reclap.model.loading import load, locate
from reclap.runtime.memory import available
from reclap.runtime.threads import default_threads
from reclap.training import initial, lora
from reclap.training.callbacks import Callbacks
from reclap.training.captions import Captions
from reclap.training.data import Batches
from reclap.training.evaluate import Evaluation
from reclap.training.folder import (
    CAPTIONS,
    Checkpoint,
    RunFolder,
    refuse_begun,
)
from reclap.training.identity import VERSION
from reclap.training.learner import Learner
from reclap.training.recipe import Recipe, changes
from reclap.training.running import Result, Running
from reclap.training.sections import Data
from reclap.training.teacher import Teacher
from reclap.training.tensorboard import TensorBoard
from reclap.training.text_encoder import TextEncoder
from reclap.training.tokens import Tokeniser

__all__ = ["Result", "train"]

log = logging.getLogger(__name__)


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
    teacher = _teacher(recipe, batches, out, threads, progress)
    learner = Learner(config, recipe, threads, start, made_for, teacher)
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
    run = Running(recipe, folder, text, identity, learner, exam, captions, teacher, callbacks)
    return run.go(batches, newest.step if newest else 0, progress=progress)


def _plan_memory(learner: Learner, data: Data, config: ClapConfig, out: Path) -> None:
    """Choose the pieces that batches come in, and say what the run needs."""
    texts = data.batch * (data.captions + data.negatives + data.modules)
    found = learner.plan(data.batch, config.front.frames, texts, available())
    log.info("%s: %s", out, found)


def _teacher(
    recipe: Recipe, batches: Batches, out: Path, threads: int, progress: bool
) -> Teacher | None:
    """Return the teacher of a recipe, if it has one, with its embeddings of all sounds."""
    if not recipe.loss.teacher:
        return None
    if recipe.data.mixtures:
        raise FormatError(
            f"loss.teacher: data.mixtures is {recipe.data.mixtures}, but a teacher knows sounds as "
            "they are; expected 0"
        )
    model = load(recipe.loss.teacher, threads=threads)
    return Teacher(
        model, batches.rows, batches.texts(), out, errors=recipe.data.errors, progress=progress
    )


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
