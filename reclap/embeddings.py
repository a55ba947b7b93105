"""Files of embeddings, which know what made them, and comparisons that heed it."""

import dataclasses
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from reclap._libraries import core
from reclap.batches import default_threads
from reclap.errors import FormatError, ReclapError
from reclap.files import atomic

__all__ = ["Embeddings", "Nearest", "nearest"]

Floats = npt.NDArray[np.float32]

KINDS = ("audio", "text")


@dataclasses.dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings and where they come from.

    Parameters
    ----------
    rows : ndarray of float32, shape (n, dim)
        Unit rows.
    items : tuple of str
        The file or text of each row.
    kind : {"audio", "text"}
        What the items are.
    model : str
        Name of the model.
    digest : str
        `Model.digest` of the model: weights and preprocessing.
    """

    rows: Floats
    items: tuple[str, ...]
    kind: str
    model: str
    digest: str

    def save(self, path: Path) -> None:
        """Write an ``.npz`` file, atomically.

        Its arrays are embeddings (n, dim), items, kind, model and digest.
        """
        with atomic(path) as f:
            np.savez(
                f,
                embeddings=self.rows,
                items=np.array(self.items, np.str_),
                kind=np.array(self.kind),
                model=np.array(self.model),
                digest=np.array(self.digest),
            )

    @classmethod
    def load(cls, path: Path) -> "Embeddings":
        """Read a file that `save` wrote.

        Raises
        ------
        OSError
            If it cannot be read.
        FormatError
            If it is another file, or damaged.
        """
        try:
            with path.open("rb") as f, np.load(f, allow_pickle=False) as found:
                rows, items = found["embeddings"], found["items"]
                kind, model, digest = (str(found[name]) for name in ("kind", "model", "digest"))
        except (ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise FormatError(f"{path}: no file of embeddings: {error}") from error
        fits = rows.ndim == 2 and rows.dtype == np.float32 and items.shape == rows.shape[:1]
        if not fits or items.dtype.kind != "U" or kind not in KINDS:
            raise FormatError(
                f"{path}: no file of embeddings: {kind} with {rows.dtype} {rows.shape} "
                f"for items {items.dtype} {items.shape}"
            )
        return cls(rows, tuple(map(str, items)), kind, model, digest)


class Nearest(NamedTuple):
    """The most similar items to each query, best first.

    Attributes
    ----------
    order : ndarray of int32, shape (queries, k)
        Places among the items.
    cosines : ndarray of float32, shape (queries, k)
        Their similarities.
    """

    order: npt.NDArray[np.int32]
    cosines: Floats


def nearest(
    queries: Embeddings, among: Embeddings, top_k: int = 5, threads: int | None = None
) -> Nearest:
    """Find the items most similar to each query.

    Parameters
    ----------
    queries, among : Embeddings
        Of sounds or texts, made by one model.
    top_k : int
        How many for each query; at most all.
    threads : int, optional
        Most threads; the processors of this process by default.

    Raises
    ------
    ReclapError
        If the two were made by different weights or preprocessing: their cosines mean nothing.
    ValueError
        If there is nothing to find, or `top_k` is not positive.
    """
    if queries.digest != among.digest:
        raise ReclapError(
            f"embeddings of different models cannot be compared: {queries.model} with digest "
            f"{queries.digest[:16]}…, {among.model} with digest {among.digest[:16]}…"
        )
    if top_k < 1:
        raise ValueError(f"top_k is {top_k}, expected at least 1")
    if not among.items:
        raise ValueError("among: no item")
    context = core.Context(default_threads() if threads is None else threads)
    k = min(top_k, len(among.items))
    _, cosines, order = core.scores(context, queries.rows, among.rows, k, all=False)
    return Nearest(order, cosines)
