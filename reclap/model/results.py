"""What naming sounds returns.

Cosine, logit and probability are three different things: a logit is the model's temperature times
a cosine, probabilities are the softmax of logits. Where several prompts stand for a label, a rule
makes one score of their cosines (``docs/prompts.md``), in the same scale.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Attribution", "Classification", "Embedding", "PromptScore", "Timeline"]

Floats = npt.NDArray[np.float32]


def softmax(logits: Floats) -> Floats:
    """Return the softmax along the last axis."""
    e = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
    return np.asarray(e / e.sum(axis=-1, keepdims=True), np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class Embedding:
    """Embedding of one sound.

    Attributes
    ----------
    index : int
        Its index among the sounds of the call.
    file : str
        Its path, or ``audio[index]``.
    row : ndarray of float32, shape (dim,)
        Unit row; NaN where there is none.
    error : str or None
        Why there is none.
    """

    index: int
    file: str
    row: Floats
    error: str | None = None


class PromptScore(NamedTuple):
    """What a prompt contributed to the score of its label."""

    prompt: str
    cosine: float
    weight: float

    @property
    def contribution(self) -> float:
        """Weight times cosine."""
        return self.weight * self.cosine


@dataclasses.dataclass(frozen=True, eq=False)
class Attribution:
    """Which prompts decided about one sound.

    The contributions of a label's prompts add up to its score; by the rule "logsumexp" they do
    not, and the weights say how the score follows each cosine.

    Attributes
    ----------
    prompts : mapping of str to list of str
        The prompts used, by label.
    cosines : ndarray of float32, shape (prompts,)
        Of the sound with each prompt, label after label.
    weights : ndarray of float32, shape (prompts,)
        Of each prompt in the score of its label.
    """

    prompts: Mapping[str, Sequence[str]]
    cosines: Floats
    weights: Floats

    def of(self, label: str) -> list[PromptScore]:
        """Return what each prompt of a label contributed, most first, those without weight last.

        Parameters
        ----------
        label : str
            One of those scored; KeyError with another.
        """
        first = np.cumsum([0, *map(len, self.prompts.values())])
        begin, end = dict(zip(self.prompts, pairwise(first), strict=True))[label]
        numbers = zip(self.cosines[begin:end], self.weights[begin:end], strict=True)
        items = [
            PromptScore(prompt, float(cosine), float(weight))
            for prompt, (cosine, weight) in zip(self.prompts[label], numbers, strict=True)
        ]
        return sorted(items, key=lambda item: (item.weight == 0, -item.contribution))


@dataclasses.dataclass(frozen=True, eq=False)
class Classification:
    """Labels of one sound.

    Attributes
    ----------
    file : str
        Its path, or its place in the list.
    labels : tuple of str
        All labels, in the order given.
    scores : ndarray of float32, shape (labels,)
        Score of each label in the order given: its cosine with the sound, or what a rule makes of
        the cosines with several prompts.
    order : ndarray of int32, shape (k,)
        Places of the best labels, best first.
    logit_scale : float
        Factor from cosines to logits.
    error : str or None
        Why there are no scores; then `scores` and `order` are empty.
    attribution : Attribution or None
        What each prompt contributed, where asked for.
    """

    file: str
    labels: tuple[str, ...]
    scores: Floats = dataclasses.field(default_factory=lambda: np.empty(0, np.float32))
    order: npt.NDArray[np.int32] = dataclasses.field(
        default_factory=lambda: np.empty(0, np.int32), repr=False
    )
    logit_scale: float = dataclasses.field(default=1.0, repr=False)
    error: str | None = None
    attribution: Attribution | None = dataclasses.field(default=None, repr=False)

    @property
    def label(self) -> str | None:
        """The best label; None where the sound could not be read."""
        return self.labels[self.order[0]] if len(self.order) else None

    @property
    def score(self) -> float:
        """Score of the best label, in the scale of cosines; NaN where there is none."""
        return float(self.scores[self.order[0]]) if len(self.order) else float("nan")

    @property
    def top(self) -> dict[str, float]:
        """The best labels with their scores, best first."""
        return {self.labels[i]: float(self.scores[i]) for i in self.order}

    @functools.cached_property
    def probabilities(self) -> Floats:
        """Softmax of the logits over all labels, in the order given."""
        return softmax(np.float32(self.logit_scale) * self.scores)

    def to_json(self) -> dict[str, Any]:
        """Return ``{"file", "labels": [{"label", "score", "probability"}, ...]}``, best first.

        The score is in the scale of cosines. A sound that could not be read has ``"error"`` for
        ``"labels"``. With an attribution each label has ``"prompts": [{"prompt", "cosine",
        "weight"}, ...]`` too, the largest contribution first.
        """
        if self.error is not None:
            return {"file": self.file, "error": self.error}
        best = [
            {
                "label": self.labels[i],
                "score": round(float(self.scores[i]), 6),
                "probability": round(float(self.probabilities[i]), 6),
                **self._prompts_to_json(self.labels[i]),
            }
            for i in self.order
        ]
        return {"file": self.file, "labels": best}

    def _prompts_to_json(self, label: str) -> dict[str, Any]:
        if self.attribution is None:
            return {}
        items = [
            {"prompt": p.prompt, "cosine": round(p.cosine, 6), "weight": round(p.weight, 6)}
            for p in self.attribution.of(label)
        ]
        return {"prompts": items}


@dataclasses.dataclass(frozen=True, eq=False)
class Timeline:
    """Labels along a recording.

    Attributes
    ----------
    file : str
        Its path.
    labels : tuple of str
        All labels, in the order given.
    seconds : ndarray of float64, shape (windows, 2)
        Start and end of each window.
    scores : ndarray of float32, shape (windows, labels)
        As of `Classification`.
    logit_scale : float
        Factor from cosines to logits.
    error : str or None
        Why there are no scores; then `seconds` and `scores` have no windows.
    """

    file: str
    labels: tuple[str, ...]
    seconds: npt.NDArray[np.float64]
    scores: Floats
    logit_scale: float = dataclasses.field(repr=False)
    error: str | None = None

    @property
    def best(self) -> list[str]:
        """The best label of each window."""
        return [self.labels[i] for i in self.scores.argmax(axis=1)]

    @functools.cached_property
    def probabilities(self) -> Floats:
        """Softmax of the logits over the labels of each window."""
        return softmax(np.float32(self.logit_scale) * self.scores)

    def to_json(self) -> list[dict[str, Any]]:
        """Return one object for each window: start, end, and all scores by label.

        A recording that could not be read gives one with ``"error"`` instead.
        """
        if self.error is not None:
            return [{"file": self.file, "error": self.error}]
        return [
            {
                "file": self.file,
                "start": round(float(start), 3),
                "end": round(float(end), 3),
                "scores": {n: round(float(s), 6) for n, s in zip(self.labels, row, strict=True)},
            }
            for (start, end), row in zip(self.seconds, self.scores, strict=True)
        ]
