"""Similarity of texts in meaning, by their embeddings."""

import threading
from collections.abc import Callable, Sequence

import numpy as np

from reclap._types import Floats
from reclap.io.files import StrPath

__all__ = ["Floats", "Sense", "load_sense"]

Embed = Callable[[list[str]], Floats]


class Sense:
    """Similarity of texts in meaning: cosines of their embeddings, which are cached.

    May be used from several threads if `embed` may.

    Parameters
    ----------
    embed : callable
        Takes a list of texts, returns unit-length embeddings (n, d): `reclap.Model.embed_text`.
    limit : int
        Size of the cache in texts; when it is full, all but those in use are dropped.

    Examples
    --------
    >>> import reclap
    >>> sense = Sense(reclap.load("mini").embed_text)
    >>> sense.rows(["a dog barks", "rain"]).shape
    (2, 384)
    >>> sense.similarity(["a dog barks"], ["a hound woofs", "rain on a roof"]).shape
    (1, 2)
    """

    def __init__(self, embed: Embed, limit: int = 1 << 16) -> None:
        self._embed, self._limit = embed, limit
        self._rows: dict[str, Floats] = {}
        self._lock = threading.Lock()

    def rows(self, texts: Sequence[str]) -> Floats:
        """Return the embeddings of texts.

        Parameters
        ----------
        texts : sequence of str
            At least one.

        Returns
        -------
        ndarray of float32, shape (len(texts), d)
            Unit-length embeddings.
        """
        with self._lock:
            new = list(dict.fromkeys(text for text in texts if text not in self._rows))
            if len(self._rows) + len(new) > self._limit:
                self._rows = {text: self._rows[text] for text in texts if text in self._rows}
            if new:
                self._rows.update(zip(new, self._embed(new), strict=True))
            return np.stack([self._rows[text] for text in texts])

    def similarity(self, a: Sequence[str], b: Sequence[str]) -> Floats:
        """Return the cosines between two lists of texts.

        Parameters
        ----------
        a, b : sequence of str
            At least one text each.

        Returns
        -------
        ndarray of float32, shape (len(a), len(b))
            Cosines.
        """
        return self.rows(a) @ self.rows(b).T


def load_sense(source: StrPath = "mini", threads: int | None = None) -> Sense:
    """Load the text tower of a model as a measure of similarity in meaning.

    Parameters
    ----------
    source : str or path
        The model, as `reclap.load` takes it.
    threads : int, optional
        Most threads of one call; the processors of this process by default.

    Returns
    -------
    Sense
        Compares texts by the model's text embeddings.

    Raises
    ------
    FileNotFoundError, FormatError, ReclapError
        As `reclap.load`.

    Examples
    --------
    >>> sense = load_sense()
    >>> near, far = sense.similarity(["a dog barks"], ["a hound woofs", "rain on a roof"])[0]
    >>> bool(near > far)
    True
    """
    from reclap.model.loading import load

    return Sense(load(source, threads=threads).embed_text)
