"""What a text tower says about the meaning of texts."""

import os
import threading
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["Floats", "Sense", "load_sense"]

Floats = npt.NDArray[np.float32]
Embed = Callable[[list[str]], Floats]


class Sense:
    """Similarity of texts by their embeddings, which are kept.

    May be used from several threads if `embed` may.

    Parameters
    ----------
    embed : callable
        Takes a list of texts, returns unit rows (n, d): `reclap.Model.embed_text`.
    limit : int
        Texts whose embeddings are kept; with more, all but those in use are forgotten.
    """

    def __init__(self, embed: Embed, limit: int = 1 << 16) -> None:
        self._embed, self._limit = embed, limit
        self._rows: dict[str, Floats] = {}
        self._lock = threading.Lock()

    def rows(self, texts: Sequence[str]) -> Floats:
        """Return the embeddings of texts, as (len(texts), d)."""
        with self._lock:
            new = list(dict.fromkeys(text for text in texts if text not in self._rows))
            if len(self._rows) + len(new) > self._limit:
                self._rows = {text: self._rows[text] for text in texts if text in self._rows}
            if new:
                self._rows.update(zip(new, self._embed(new), strict=True))
            return np.stack([self._rows[text] for text in texts])

    def similarity(self, a: Sequence[str], b: Sequence[str]) -> Floats:
        """Return the cosines between two lists of texts, as (len(a), len(b))."""
        return self.rows(a) @ self.rows(b).T


def load_sense(source: str | os.PathLike[str] = "mini", threads: int | None = None) -> Sense:
    """Return the sense of a model's text tower; see `reclap.load`.

    Examples
    --------
    >>> sense = load_sense()
    >>> near, far = sense.similarity(["a dog barks"], ["a hound woofs", "rain on a roof"])[0]
    >>> bool(near > far)
    True
    """
    from reclap.model.loading import load

    return Sense(load(source, threads=threads).embed_text)
