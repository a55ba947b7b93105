"""Zero-shot accuracy during training."""

import contextlib
import difflib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from reclap._types import Floats
from reclap.audio import inputs
from reclap.config.model import ClapConfig
from reclap.errors import Errors, FormatError
from reclap.io import manifest
from reclap.io.manifest import Row
from reclap.model.batching import batches
from reclap.runtime.libraries import core
from reclap.runtime.progress import bar as progress_bar
from reclap.text.tokenizer import prompt_of
from reclap.training.learner import Learner
from reclap.training.recipe import Recipe
from reclap.training.text_encoder import TextEncoder

__all__ = ["ZeroShot"]

log = logging.getLogger(__name__)

_BATCH = 16  # windows that are embedded at a time


class ZeroShot:
    """Zero-shot accuracy on sounds whose label is known.

    Features of prompts are cached in memory, and log-mels of sounds if they fit into the cache.

    Parameters
    ----------
    rows : sequence of Row
        Sounds with their labels; captions are not used.
    column : str
        Column of the true label.
    prompts : mapping of str to sequence of str
        One or more texts for each label that occurs.
    config : ClapConfig
        The model's front end.
    encoder : TextEncoder
        The model's text tower.
    threads : int
        Threads of the prefetcher.
    cache_bytes : int
        Size of the cache of log-mels; if they exceed it, sounds are decoded at each evaluation.
    errors : {"raise", "skip"}
        Effect of an unreadable sound: it ends the run, or is left out from then on, and reported
        once.
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
        encoder: TextEncoder,
        *,
        threads: int = 1,
        cache_bytes: int = 1 << 30,
        errors: Errors = "raise",
        progress: bool = False,
    ) -> None:
        self._rows, self._front, self._threads = rows, config.front, threads
        self._labels, self._errors, self._bad = list(prompts), errors, set[int]()
        index = {label: i for i, label in enumerate(self._labels)}
        self._truth = np.array([index[row.extra[column]] for row in rows])
        texts = [text for several in prompts.values() for text in several]
        self._features = encoder.features(texts)
        self._prompts = np.cumsum([0, *map(len, prompts.values())], dtype=np.int32)
        self._kept: list[tuple[int, Floats]] | None = []
        with progress_bar(len(rows), "clip", shown=progress) as bar:
            for item in self._decoded():  # all of them, so that a bad sound is found beforehand
                bar.update(item[0] + 1 - bar.n)
                cache_bytes -= item[1].nbytes
                if self._kept is not None and cache_bytes >= 0:
                    self._kept.append(item)
                else:
                    self._kept = None
            bar.update(len(rows) - bar.n)  # where the last ones were skipped

    def _decoded(self) -> Iterator[tuple[int, Floats]]:
        """Yield the log-mel of each window as inference computes it, with the index of its row."""
        good = [i for i in range(len(self._rows)) if i not in self._bad]
        sounds = [self._rows[i].sound for i in good]
        found = inputs.features(sounds, inputs.Reading(), self._front, self._threads)
        with contextlib.closing(found):
            for at, result in found:
                if isinstance(result, Exception):
                    self._fail(good[at], result)
                else:
                    yield good[at], result.mel

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
        encoder: TextEncoder,
        *,
        progress: bool = False,
    ) -> "ZeroShot":
        """Prepare what section ``[eval]`` of a recipe asks for; see the class."""
        part = recipe.eval
        path = part.manifest or recipe.data.manifest
        rows = manifest.read(path, recipe.data.root or None, part.where)
        if any(part.label not in row.extra for row in rows):
            raise FormatError(f"eval.label: {path}: no column {part.label} to evaluate by")
        labels = sorted({row.extra[part.label] for row in rows})
        _refuse_unknown(path, part.prompts, labels)
        prompts: dict[str, list[str]] = {}
        for label in labels:
            given = part.prompts.get(label, prompt_of(label, config.template))
            prompts[label] = [given] if isinstance(given, str) else given
        threads, cache_bytes = recipe.data.threads, recipe.data.cache_mb << 20
        return cls(
            rows,
            part.label,
            prompts,
            config,
            encoder,
            threads=threads,
            cache_bytes=cache_bytes,
            errors=recipe.data.errors,
            progress=progress,
        )

    def __call__(self, learner: Learner) -> dict[str, Any]:
        """Return accuracy, over all and by label."""
        classes = core.class_vectors(learner.embed_text(self._features), self._prompts)
        # Windows of a clip are summed: the mean's length changes no order of scores.
        sounds = np.zeros((len(self._rows), classes.shape[1]), np.float32)
        for part in batches(self._decoded() if self._kept is None else self._kept, _BATCH):
            np.add.at(sounds, [i for i, _ in part], learner.embed(np.stack([m for _, m in part])))
        heard = [i for i in range(len(self._rows)) if i not in self._bad]
        truth = self._truth[heard]
        right = (sounds[heard] @ classes.T).argmax(axis=1) == truth
        by_label = {
            label: round(float(right[truth == i].mean()), 4)
            for i, label in enumerate(self._labels)
            if (truth == i).any()
        }
        return {"accuracy": float(right.mean()), "clips": len(right), "labels": by_label}


def _refuse_unknown(path: str, prompts: Mapping[str, Any], labels: Sequence[str]) -> None:
    """Refuse prompts of labels that do not occur, which would silently be no prompts at all."""
    for label in prompts:
        if label not in labels:
            near = difflib.get_close_matches(label, labels, 1)
            meant = f"; did you mean {near[0]!r}?" if near else f", but {', '.join(labels[:10])}"
            raise FormatError(f"eval.prompts.{label}: no such label in {path}{meant}")
