"""Results of embedding and zero-shot classification.

Cosine, logit and probability are three different things: a logit is the model's temperature times
a cosine, probabilities are the softmax of logits. Where several prompts stand for a label, an
aggregation rule makes one score of their cosines (``docs/prompts.md``), in the same scale.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from reclap._types import Floats

__all__ = ["Attribution", "Classification", "Embedding", "PromptScore", "Timeline"]


def softmax(logits: Floats) -> Floats:
    """Return the softmax along the last axis."""
    e = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
    return np.asarray(e / e.sum(axis=-1, keepdims=True), np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class Embedding:
    """Embedding of one sound.

    Parameters
    ----------
    index : int
        Index of the sound among those of the call.
    file : str
        Path of the sound, or ``audio[index]``.
    row : ndarray of float32, shape (dim,)
        The embedding, of unit length; NaN where there is none.
    error : str or None
        Why there is none.

    Examples
    --------
    >>> import reclap
    >>> silence = np.zeros(16000)
    >>> for found in reclap.load("mini").iter_embed([silence, silence], rate=16000):
    ...     print(found.index, found.file, found.row.shape, found.error)
    0 audio[0] (384,) None
    1 audio[1] (384,) None
    """

    index: int
    file: str
    row: Floats
    error: str | None = None


class PromptScore(NamedTuple):
    """Contribution of one prompt to the score of its label."""

    prompt: str
    cosine: float
    weight: float

    @property
    def contribution(self) -> float:
        """Weight times cosine."""
        return self.weight * self.cosine


@dataclasses.dataclass(frozen=True, eq=False)
class Attribution:
    """Contributions of all prompts to the scores of one sound.

    The contributions of a label's prompts add up to its score; by the rule "logsumexp" they do
    not, and the weights say how the score follows each cosine.

    Parameters
    ----------
    prompts : mapping of str to list of str
        The prompts used, by label.
    cosines : ndarray of float32, shape (prompts,)
        Cosine of the sound with each prompt, label after label.
    weights : ndarray of float32, shape (prompts,)
        Weight of each prompt in the score of its label.
    """

    prompts: Mapping[str, Sequence[str]]
    cosines: Floats
    weights: Floats

    def of(self, label: str) -> list[PromptScore]:
        """Return the contributions of a label's prompts, the largest first.

        Parameters
        ----------
        label : str
            One of those scored.

        Returns
        -------
        list of PromptScore
            One for each prompt of the label, those without weight last.

        Raises
        ------
        KeyError
            If the label is another.
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
    """Zero-shot classification of one sound.

    Parameters
    ----------
    file : str
        Path of the sound, or ``audio[index]``.
    labels : tuple of str
        All labels, in the order given.
    scores : ndarray of float32, shape (labels,)
        Score of each label in the order given: its cosine with the sound, or the aggregate of
        the cosines with several prompts.
    order : ndarray of int32, shape (k,)
        Indices of the best labels, best first.
    logit_scale : float
        Factor from cosines to logits.
    error : str or None
        Why there are no scores; then `scores` and `order` are empty.
    attribution : Attribution or None
        Contribution of each prompt, where asked for.

    Examples
    --------
    >>> import reclap
    >>> (found,) = reclap.load("mini").classify(np.zeros(16000), ["dog", "rain"], rate=16000)
    >>> found.labels, found.scores.shape, float(found.probabilities.sum().round(3))
    (('dog', 'rain'), (2,), 1.0)
    >>> found.label in found.labels, list(found.top)[0] == found.label
    (True, True)
    >>> sorted(found.to_json())
    ['file', 'labels']
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
        """Return the best labels as a JSON object.

        Returns
        -------
        dict
            ``{"file", "labels": [{"label", "score", "probability"}, ...]}``, best first; the
            score is in the scale of cosines. A sound that could not be read has ``"error"`` for
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
    """Zero-shot classification of a recording, window by window.

    Parameters
    ----------
    file : str
        Path of the recording.
    labels : tuple of str
        All labels, in the order given.
    seconds : ndarray of float64, shape (windows, 2)
        Start and end of each window.
    scores : ndarray of float32, shape (windows, labels)
        Scores, as in `Classification`.
    logit_scale : float
        Factor from cosines to logits.
    error : str or None
        Why there are no scores; then `seconds` and `scores` have no windows.

    Examples
    --------
    >>> import reclap
    >>> found = reclap.load("mini").timeline(np.zeros(160000), ["dog", "rain"], rate=16000)
    >>> found.seconds.tolist(), found.scores.shape, len(found.best)
    ([[0.0, 5.1], [2.55, 7.65], [5.1, 10.0]], (3, 2), 3)
    >>> sorted(found.to_json()[0])
    ['end', 'file', 'scores', 'start']
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
        """Return one JSON object for each window.

        Returns
        -------
        list of dict
            ``{"file", "start", "end", "scores": {label: score}}`` for each window, times in
            seconds. A recording that could not be read gives one object with ``"error"`` instead.
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
