"""How well a model does what it was not trained for: zero-shot accuracy during training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reclap import audio, manifest
from reclap._libraries import core
from reclap.config import ClapConfig
from reclap.errors import FormatError
from reclap.manifest import Row
from reclap.text import prompt_of
from reclap.text_encoder import TextEncoder
from reclap.training.learner import Learner
from reclap.training.recipe import Recipe

__all__ = ["ZeroShot"]

Floats = npt.NDArray[np.float32]


class ZeroShot:
    """Zero-shot accuracy on sounds whose label is known.

    Pictures and prompt features are computed once and stay in memory.

    Parameters
    ----------
    rows : sequence of Row
        Sounds; captions are not used.
    column : str
        Column of the truth.
    prompts : mapping of str to sequence of str
        One or more texts for each label that occurs.
    config : ClapConfig
        The model's front end.
    encoder : TextEncoder
        The model's text tower.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        column: str,
        prompts: Mapping[str, Sequence[str]],
        config: ClapConfig,
        encoder: TextEncoder,
    ) -> None:
        self._labels = list(prompts)
        self._truth = np.array([self._labels.index(row.extra[column]) for row in rows])
        pictures = [_pictures(row.path, config) for row in rows]
        self._first = np.cumsum([0, *map(len, pictures)])
        self._mel = np.concatenate(pictures)
        texts = [text for several in prompts.values() for text in several]
        self._features = encoder.features(texts)
        self._prompts = np.cumsum([0, *map(len, prompts.values())], dtype=np.int32)

    @classmethod
    def from_recipe(cls, recipe: Recipe, config: ClapConfig, encoder: TextEncoder) -> "ZeroShot":
        """Prepare what section ``[eval]`` of a recipe asks for."""
        part = recipe.eval
        path = part.manifest or recipe.data.manifest
        rows = manifest.read(path, recipe.data.root or None, part.where)
        if any(part.label not in row.extra for row in rows):
            raise FormatError(f"{path}: no column {part.label} to evaluate by")
        labels = sorted({row.extra[part.label] for row in rows})
        prompts: dict[str, list[str]] = {}
        for label in labels:
            given = part.prompts.get(label, prompt_of(label, config.template))
            prompts[label] = [given] if isinstance(given, str) else given
        return cls(rows, part.label, prompts, config, encoder)

    def __call__(self, learner: Learner) -> dict[str, Any]:
        """Return accuracy, over all and by label."""
        classes = core.class_vectors(learner.embed_text(self._features), self._prompts)
        # Windows of a clip are summed: the mean's length changes no order of scores.
        parts = [learner.embed(self._mel[i : i + 16]) for i in range(0, len(self._mel), 16)]
        sounds = np.add.reduceat(np.concatenate(parts), self._first[:-1])
        right = (sounds @ classes.T).argmax(axis=1) == self._truth
        by_label = {
            label: round(float(right[self._truth == i].mean()), 4)
            for i, label in enumerate(self._labels)
        }
        return {"accuracy": float(right.mean()), "clips": len(right), "labels": by_label}


def _pictures(path: Path, config: ClapConfig) -> Floats:
    return audio.window_features(audio.load_front(path, config.front), config.front)
