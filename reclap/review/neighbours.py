"""Nearest neighbours of reviewed texts, by a text tower, embedded in the background."""

import dataclasses
import logging
import threading
import time

import numpy as np
import numpy.typing as npt

from reclap._types import Floats
from reclap.checks.similarity import Embed
from reclap.errors import one_line
from reclap.review.session import Session

__all__ = ["Near", "Nearest", "Neighbours"]

log = logging.getLogger(__name__)


BATCH = 32  # texts per call of the text tower, so that `nearest` never waits long
PAUSE = 0.01  # s between batches, in which `nearest` can take the (unfair) lock


@dataclasses.dataclass(frozen=True)
class Near:
    """A near text: its index, and the cosine of both embeddings."""

    index: int
    similarity: float


@dataclasses.dataclass(frozen=True)
class Nearest:
    """Nearest neighbours of an item.

    Attributes
    ----------
    other, own : Near, optional
        The nearest text of another label and of its own, of the same kind and not rejected.
    share : float
        Share of all texts that have been embedded; 1 at the end.
    problem : str
        Why the rest will not be compared, or nothing.
    """

    other: Near | None
    own: Near | None
    share: float
    problem: str = ""


class Neighbours:
    """Embeddings of all texts of a review.

    Parameters
    ----------
    session : Session
        Session with the items, in their present state.
    embed : callable
        Takes a list of texts, returns unit-length embeddings (n, d); may be called from several
        threads.
    """

    def __init__(self, session: Session, embed: Embed) -> None:
        self._session, self._embed = session, embed
        self._embeddings: Floats = np.zeros((0, 0), np.float32)
        self._texts: list[str | None] = [None] * len(session.items)  # the text of each embedding
        labels: dict[str, int] = {}
        self._labels = np.array([labels.setdefault(x.label, len(labels)) for x in session.items])
        self._kinds = np.array([item.kind for item in session.items])
        self._lock = threading.Lock()
        self._problem = ""
        self._wanted = threading.Event()
        self._wanted.set()
        threading.Thread(target=self._work, name="reclap-nearest", daemon=True).start()

    def nearest(self, index: int) -> Nearest:
        """Return the nearest neighbours of an item among the texts embedded so far."""
        items = self._session.items
        if self._texts[index] != items[index].prompt.text and not self._try([index]):
            return Nearest(None, None, self._share(), self._problem)
        with self._lock:
            is_known = np.array([text is not None for text in self._texts])
            in_use = np.array([item.prompt.status != "rejected" for item in items])
            scores = self._embeddings @ self._embeddings[index]
            usable = is_known & in_use & (self._kinds == self._kinds[index])
            usable[index] = False
            is_own = self._labels == self._labels[index]
        self._wanted.set()
        other, own = _best(scores, usable & ~is_own), _best(scores, usable & is_own)
        return Nearest(other, own, self._share(), self._problem)

    def _share(self) -> float:
        with self._lock:
            return sum(text is not None for text in self._texts) / len(self._texts)

    def _work(self) -> None:
        while self._wanted.wait():
            self._wanted.clear()
            for part in self._stale():
                if not self._try(part):
                    break  # until somebody asks again
                time.sleep(PAUSE)

    def _try(self, indices: list[int]) -> bool:
        """Embed texts; store an exception as the problem, so that the thread goes on."""
        try:
            self._take(indices)
        except Exception as error:
            log.exception("texts could not be compared")
            self._problem = one_line(error)
            return False
        self._problem = ""
        return True

    def _stale(self) -> list[list[int]]:
        """Return the indices of texts not yet embedded, in the order of the review, in batches."""
        items = self._session.items
        indices = [i for i in self._session.queue() if self._texts[i] != items[i].prompt.text]
        return [indices[i : i + BATCH] for i in range(0, len(indices), BATCH)]

    def _take(self, indices: list[int]) -> None:
        texts = [self._session.items[i].prompt.text for i in indices]
        embeddings = self._embed(texts)
        with self._lock:
            if not self._embeddings.size:
                self._embeddings = np.zeros((len(self._texts), embeddings.shape[1]), np.float32)
            self._embeddings[indices] = embeddings
            for i, text in zip(indices, texts, strict=True):
                self._texts[i] = text


def _best(scores: Floats, usable: npt.NDArray[np.bool_]) -> Near | None:
    if not usable.any():
        return None
    index = int(np.where(usable, scores, -np.inf).argmax())
    return Near(index, float(scores[index]))
