"""What naming sounds returns.

Cosine, logit and probability are three different things: a logit is the model's temperature times
a cosine, probabilities are the softmax of logits.
"""

import dataclasses
import functools
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Classification", "Timeline"]

Floats = npt.NDArray[np.float32]


def softmax(logits: Floats) -> Floats:
    """Return the softmax along the last axis."""
    e = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
    return np.asarray(e / e.sum(axis=-1, keepdims=True), np.float32)


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
        Cosine of the sound with each label, in the order given.
    order : ndarray of int32, shape (k,)
        Places of the best labels, best first.
    logit_scale : float
        Factor from cosines to logits.
    error : str or None
        Why there are no scores; then `scores` and `order` are empty.
    """

    file: str
    labels: tuple[str, ...]
    scores: Floats = dataclasses.field(default_factory=lambda: np.empty(0, np.float32))
    order: npt.NDArray[np.int32] = dataclasses.field(
        default_factory=lambda: np.empty(0, np.int32), repr=False
    )
    logit_scale: float = dataclasses.field(default=1.0, repr=False)
    error: str | None = None

    @property
    def label(self) -> str | None:
        """The best label; None where the sound could not be read."""
        return self.labels[self.order[0]] if len(self.order) else None

    @property
    def score(self) -> float:
        """Cosine of the best label; NaN where there is none."""
        return float(self.scores[self.order[0]]) if len(self.order) else float("nan")

    @property
    def top(self) -> dict[str, float]:
        """The best labels with their cosines, best first."""
        return {self.labels[i]: float(self.scores[i]) for i in self.order}

    @functools.cached_property
    def probabilities(self) -> Floats:
        """Softmax of the logits over all labels, in the order given."""
        return softmax(np.float32(self.logit_scale) * self.scores)

    def to_json(self) -> dict[str, Any]:
        """Return ``{"file", "labels": [{"label", "score", "probability"}, ...]}``, best first.

        The score is the cosine. A sound that could not be read has ``"error"`` for ``"labels"``.
        """
        if self.error is not None:
            return {"file": self.file, "error": self.error}
        best = [
            {
                "label": self.labels[i],
                "score": round(float(self.scores[i]), 6),
                "probability": round(float(self.probabilities[i]), 6),
            }
            for i in self.order
        ]
        return {"file": self.file, "labels": best}


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
        Cosines.
    logit_scale : float
        Factor from cosines to logits.
    """

    file: str
    labels: tuple[str, ...]
    seconds: npt.NDArray[np.float64]
    scores: Floats
    logit_scale: float = dataclasses.field(repr=False)

    @property
    def best(self) -> list[str]:
        """The best label of each window."""
        return [self.labels[i] for i in self.scores.argmax(axis=1)]

    @functools.cached_property
    def probabilities(self) -> Floats:
        """Softmax of the logits over the labels of each window."""
        return softmax(np.float32(self.logit_scale) * self.scores)

    def to_json(self) -> list[dict[str, Any]]:
        """Return one object for each window: start, end, and all scores by label."""
        return [
            {
                "file": self.file,
                "start": round(float(start), 3),
                "end": round(float(end), 3),
                "scores": {n: round(float(s), 6) for n, s in zip(self.labels, row, strict=True)},
            }
            for (start, end), row in zip(self.seconds, self.scores, strict=True)
        ]
