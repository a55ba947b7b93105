"""Evaluation during training: zero-shot accuracy, retrieval by captions, loss."""

import contextlib
import difflib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from reclap._types import Floats
from reclap.audio import inputs
from reclap.audio.fusion import LogMel
from reclap.config.model import ClapConfig
from reclap.errors import Errors, FormatError
from reclap.io import manifest
from reclap.io.manifest import Row
from reclap.model.batching import batches
from reclap.runtime.libraries import core
from reclap.runtime.progress import bar as progress_bar
from reclap.text.tokenizer import prompt_of
from reclap.training.learner import Learner
from reclap.training.ranking import retrieval
from reclap.training.recipe import Recipe
from reclap.training.rng import EVAL, generator
from reclap.training.text_encoder import TextEncoder
from reclap.training.tokens import Tokeniser

__all__ = ["Evaluation", "prompts_of", "rows_of"]

log = logging.getLogger(__name__)

_BATCH = 16  # windows that are embedded at a time


class Evaluation:
    """Evaluation on held-out sounds: zero-shot accuracy, retrieval by captions, and loss.

    Features of texts are cached in memory, and log-mels of sounds if they fit into the cache.

    Parameters
    ----------
    rows : sequence of Row
        The sounds.
    column : str
        Column of the true label, for `prompts`.
    prompts : mapping of str to sequence of str
        One or more texts for each label that occurs; empty: no zero-shot accuracy.
    config : ClapConfig
        The model's front end.
    encoder : TextEncoder or Tokeniser
        The model's text tower, or its tokens where it is trained.
    threads : int
        Threads of the prefetcher.
    cache_bytes : int
        Size of the cache of log-mels; if they exceed it, sounds are decoded at each evaluation.
    errors : {"raise", "skip"}
        Effect of an unreadable sound: it ends the run, or is left out from then on, and reported
        once.
    batch : int
        Pairs in one batch of the loss; 0: neither loss nor retrieval.
    progress : bool
        Show a progress bar while they are decoded for the first time.

    Raises
    ------
    FormatError
        If a sound cannot be read; names its line of the manifest. With ``errors="skip"``, if none
        can be read.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        column: str,
        prompts: Mapping[str, Sequence[str]],
        config: ClapConfig,
        encoder: TextEncoder | Tokeniser,
        *,
        threads: int = 1,
        cache_bytes: int = 1 << 30,
        errors: Errors = "raise",
        batch: int = 0,
        progress: bool = False,
    ) -> None:
        self._rows, self._front, self._threads = rows, config.front, threads
        self._errors, self._bad, self._batch = errors, set[int](), batch
        self._labels = list(prompts)
        if prompts:
            index = {label: i for i, label in enumerate(self._labels)}
            self._truth = np.array([index[row.extra[column]] for row in rows])
            self._features = encoder.features([x for texts in prompts.values() for x in texts])
            self._prompts = np.cumsum([0, *map(len, prompts.values())], dtype=np.int32)
        if batch:
            self._context = core.Context(threads)
            texts = list(dict.fromkeys(c.text for row in rows for c in row.captions))
            self._texts = {text: i for i, text in enumerate(texts)}
            self._caption_features = encoder.features(texts)
        self._fusion = config.audio.fusion
        self._kept: list[tuple[int, LogMel]] | None = []
        with progress_bar(len(rows), "clip", shown=progress) as bar:
            for item in self._decoded():  # all of them, so that a bad sound is found beforehand
                bar.update(item[0] + 1 - bar.n)
                cache_bytes -= item[1].mel.nbytes
                if self._kept is not None and cache_bytes >= 0:
                    self._kept.append(item)
                else:
                    self._kept = None
            bar.update(len(rows) - bar.n)  # where the last ones were skipped

    def _decoded(self) -> Iterator[tuple[int, LogMel]]:
        """Yield the log-mel of each window as inference computes it, with the index of its row."""
        good = [i for i in range(len(self._rows)) if i not in self._bad]
        sounds = [self._rows[i].sound for i in good]
        found = inputs.features(sounds, inputs.Reading(), self._front, self._threads)
        with contextlib.closing(found):
            for at, result in found:
                if isinstance(result, Exception):
                    self._fail(good[at], result)
                else:
                    yield good[at], result

    def _fail(self, row: int, fault: Exception) -> None:
        """Refuse a sound that cannot be read, or leave it out."""
        error = FormatError(self._rows[row].fault(fault))
        if self._errors == "raise":
            raise error from fault
        log.warning("skipped in evaluation: %s", error)
        self._bad.add(row)
        if len(self._bad) == len(self._rows):
            raise error from fault  # nothing is left to evaluate

    @classmethod
    def from_recipe(
        cls,
        recipe: Recipe,
        config: ClapConfig,
        encoder: TextEncoder | Tokeniser,
        *,
        progress: bool = False,
    ) -> "Evaluation":
        """Prepare what section ``[eval]`` of a recipe asks for; see the class."""
        part, rows = recipe.eval, rows_of(recipe)
        if part.captions and len(rows) < 2:
            path = part.manifest or recipe.data.manifest
            raise FormatError(f"eval.captions: {path}: one row only, which has no wrong pair")
        return cls(
            rows,
            part.label,
            prompts_of(recipe, rows, config) if part.label else {},
            config,
            encoder,
            threads=recipe.data.threads,
            cache_bytes=recipe.data.cache_mb << 20,
            errors=recipe.data.errors,
            batch=recipe.data.batch if part.captions else 0,
            progress=progress,
        )

    def __call__(self, learner: Learner) -> dict[str, Any]:
        """Return ``accuracy`` and ``labels``, ``loss`` and ``retrieval``, as asked for; ``clips``.

        Windows of a clip are averaged, as for inference.
        """
        sounds = self._embedded(learner)
        heard = [i for i in range(len(self._rows)) if i not in self._bad]
        found: dict[str, Any] = {}
        if self._labels:
            found = self._accuracy(learner, sounds[heard], self._truth[heard])
        if self._batch:
            found |= self._by_captions(learner, sounds[heard], [self._rows[i] for i in heard])
        return found | {"clips": len(heard)}

    def _embedded(self, learner: Learner) -> Floats:
        """Return an embedding of unit length for each row; 0 for those that cannot be read."""
        sums: Floats | None = None
        for part in batches(self._decoded() if self._kept is None else self._kept, _BATCH):
            longer = np.array([one.longer for _, one in part]) if self._fusion else None
            windows = learner.embed(np.stack([one.mel for _, one in part]), longer)
            if sums is None:
                sums = np.zeros((len(self._rows), windows.shape[1]), np.float32)
            np.add.at(sums, [i for i, _ in part], windows)
        if sums is None:
            raise FormatError("evaluation: no sound is left to evaluate")
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        unit: Floats = sums / np.maximum(lengths, np.finfo(np.float32).tiny)
        return unit

    def _accuracy(self, learner: Learner, sounds: Floats, truth: Any) -> dict[str, Any]:
        classes = core.class_vectors(learner.embed_text(self._features), self._prompts)
        right = (sounds @ classes.T).argmax(axis=1) == truth
        by_label = {
            label: round(float(right[truth == i].mean()), 4)
            for i, label in enumerate(self._labels)
            if (truth == i).any()
        }
        return {"accuracy": float(right.mean()), "labels": by_label}

    def _by_captions(self, learner: Learner, sounds: Floats, rows: Sequence[Row]) -> dict[str, Any]:
        """Return the loss of sounds with their first captions, and retrieval by all of them."""
        text = learner.embed_text(self._caption_features)
        captions = [list({self._texts[c.text]: 0 for c in row.captions}) for row in rows]
        # In a fixed order of their own: neighbours in a manifest are often alike.
        order = generator(0, EVAL).permutation(len(rows))
        parts = np.array_split(order, -(-len(rows) // self._batch))
        first = np.array([texts[0] for texts in captions])
        losses = [learner.loss(sounds[part], text[first[part]]) * len(part) for part in parts]
        used = sorted({i for texts in captions for i in texts})  # not those of skipped sounds
        place = {old: new for new, old in enumerate(used)}
        places = [[place[i] for i in texts] for texts in captions]
        ranks = retrieval(self._context, sounds, text[used], places)
        rounded = {way: {k: round(x, 4) for k, x in part.items()} for way, part in ranks.items()}
        return {"loss": sum(losses) / len(rows), "retrieval": rounded}


def rows_of(recipe: Recipe) -> list[Row]:
    """Return the rows that section ``[eval]`` of a recipe evaluates with."""
    path = recipe.eval.manifest or recipe.data.manifest
    return manifest.read(path, recipe.data.root or None, recipe.eval.where)


def prompts_of(recipe: Recipe, rows: Sequence[Row], config: ClapConfig) -> dict[str, list[str]]:
    """Return the prompts of each label that occurs; refuse what is no set of labels."""
    part, path = recipe.eval, recipe.eval.manifest or recipe.data.manifest
    if any(part.label not in row.extra for row in rows):
        raise FormatError(
            f"eval.label: {path}: no column {part.label} to evaluate by (an empty label evaluates "
            "by captions alone)"
        )
    labels = sorted({row.extra[part.label] for row in rows})
    if len(labels) < 2:
        raise FormatError(
            f"eval.label: {path}: {labels[0]!r} is the only label, so every answer would be right; "
            "expected at least two"
        )
    _refuse_unknown(path, part.prompts, labels)
    prompts: dict[str, list[str]] = {}
    for label in labels:
        given = part.prompts.get(label, prompt_of(label, config.template))
        prompts[label] = [given] if isinstance(given, str) else given
    return prompts


def _refuse_unknown(path: str, prompts: Mapping[str, Any], labels: Sequence[str]) -> None:
    """Refuse prompts of labels that do not occur, which would silently be no prompts at all."""
    for label in prompts:
        if label not in labels:
            near = difflib.get_close_matches(label, labels, 1)
            meant = f"; did you mean {near[0]!r}?" if near else f", but {', '.join(labels[:10])}"
            raise FormatError(f"eval.prompts.{label}: no such label in {path}{meant}")
