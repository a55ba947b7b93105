"""Files of embeddings with the digest of their model, and nearest-neighbour search."""

import dataclasses
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from reclap._types import Floats
from reclap.errors import FormatError, ReclapError, shown_name
from reclap.io.files import StrPath, atomic
from reclap.runtime.libraries import core
from reclap.runtime.threads import default_threads
from reclap.store import SUFFIX, Header, Store, Writer

__all__ = [
    "Embeddings",
    "Nearest",
    "nearest",
    "require_comparable",
    "require_short",
    "require_suffix",
]


KINDS = ("audio", "text")

_FROM_UNIT = 1e-2  # float16 rounds embeddings to within a thousandth
_MOST_PADDED = 1 << 28  # bytes of items in an archive, from where on their padding matters
_DAMAGE = (  # exceptions of NumPy's and Python's readers for damaged archives
    ValueError,
    KeyError,
    EOFError,
    TypeError,
    SyntaxError,
    MemoryError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings with their items and provenance.

    Parameters
    ----------
    rows : ndarray of float32, shape (n, dim)
        Unit-length embeddings.
    items : tuple of str
        The file or text of each embedding.
    kind : {"audio", "text"}
        Kind of the items.
    model : str
        Name of the model.
    digest : str
        `Model.digest` of the model: weights and preprocessing.
    preparation : str
        Further provenance beside the model, such as the tokenizer of texts; see
        `reclap.model.embedder.Embedder.preparation`.

    Examples
    --------
    >>> import reclap
    >>> model = reclap.load("mini")
    >>> texts = ("rain", "a dog barks")
    >>> found = Embeddings(model.embed_text(texts), texts, "text", "mini", model.digest)
    >>> found.save("texts.npz")
    >>> Embeddings.load("texts.npz").items
    ('rain', 'a dog barks')
    """

    rows: Floats
    items: tuple[str, ...]
    kind: str
    model: str
    digest: str
    preparation: str = ""

    def save(self, path: StrPath) -> None:
        """Write an ``.npz`` file or a ``.store``, replacing an existing one.

        Parameters
        ----------
        path : path
            ``*.npz``, a NumPy archive with the arrays embeddings (n, dim), items, kind, model,
            digest and preparation; or ``*.store``, see ``docs/store.md``.

        Raises
        ------
        OSError
            If it cannot be written.
        ValueError
            If the name ends in neither, or if an archive would pad the items to a multiple of their
            size.
        """
        require_suffix(Path(path))
        if Path(path).suffix == SUFFIX:
            header = Header(
                self.digest,
                self.rows.shape[1],
                self.kind,
                self.model,
                preparation=self.preparation,
            )
            with Writer(path, header, force=True) as writer:
                writer.append(self.rows, self.items)
            return
        require_short(self.items)
        with atomic(Path(path)) as f:
            np.savez(
                f,
                embeddings=self.rows,
                items=np.array(self.items, np.str_),
                kind=np.array(self.kind),
                model=np.array(self.model),
                digest=np.array(self.digest),
                preparation=np.array(self.preparation),
            )

    @classmethod
    def load(cls, path: StrPath) -> "Embeddings":
        """Read a file that `save` or ``reclap embed`` wrote; a folder of stores as one.

        Parameters
        ----------
        path : path
            An ``.npz`` file, a store, or a folder of stores.

        Returns
        -------
        Embeddings
            All of them in memory.

        Raises
        ------
        OSError
            If it cannot be read.
        FormatError
            If it is another file, or damaged.
        """
        return _from_store(path) if Path(path).is_dir() else _from_archive(Path(path))


def require_suffix(path: Path) -> None:
    """Refuse a name whose suffix is no known format."""
    if path.suffix not in (".npz", SUFFIX):
        raise ValueError(f"{path}: expected a name that ends with .npz or {SUFFIX}")


def require_short(items: Sequence[str]) -> None:
    """Refuse items of very different lengths, which an archive would pad to the longest."""
    padded = 4 * len(items) * max(map(len, items), default=0)
    if padded > _MOST_PADDED and padded > 4 * sum(map(len, items)):
        raise ValueError(
            f"items of very different lengths would take {padded / 1e9:.1f} GB in an .npz; write "
            f"a {SUFFIX}"
        )


def _from_store(path: StrPath) -> Embeddings:
    found = Store(path)
    if found.header.kind not in KINDS:
        raise FormatError(
            f"{path}: a store of {shown_name(found.header.kind)}, not of sounds or texts"
        )
    rows, of = np.asarray(found.rows, np.float32), found.header
    return Embeddings(rows, found.items, of.kind, of.model, of.digest, of.preparation)


def _from_archive(path: Path) -> Embeddings:
    try:
        with path.open("rb") as f:
            if f.read(2) != b"PK":  # np.load would take it for something to run
                raise FormatError(f"{path}: no file of embeddings: neither an .npz nor a store")
            f.seek(0)
            with np.load(f, allow_pickle=False) as found:
                rows, items = found["embeddings"], found["items"]
                kind, model, digest = (str(found[name]) for name in ("kind", "model", "digest"))
                preparation = str(found["preparation"]) if "preparation" in found else ""
    except FormatError:
        raise
    except (OSError, *_DAMAGE) as error:
        if isinstance(error, OSError) and error.filename is not None:  # it cannot be opened
            raise
        raise FormatError(f"{path}: no file of embeddings: {error}") from error
    fits = rows.ndim == 2 and rows.dtype == np.float32 and items.shape == rows.shape[:1]
    if not fits or items.dtype.kind != "U" or kind not in KINDS:
        raise FormatError(
            f"{path}: no file of embeddings: {shown_name(kind)} with {rows.dtype} {rows.shape} "
            f"for items {items.dtype} {items.shape}"
        )
    return Embeddings(rows, tuple(map(str, items)), kind, model, digest, preparation)


def require_comparable(found: Embeddings, name: str) -> None:
    """Refuse empty files, and embeddings not of unit length, whose products are no cosines."""
    if not found.items:
        raise FormatError(f"{name}: no item")
    lengths = np.sqrt(np.einsum("ij,ij->i", found.rows, found.rows, dtype=np.float64))
    wrong = ~(np.abs(lengths - 1) <= _FROM_UNIT)
    if wrong.any():
        i = int(np.argmax(wrong))
        item = shown_name(found.items[i])
        raise FormatError(f"{name}: row {i} ({item}) has length {lengths[i]:.3g}, expected 1")


class Nearest(NamedTuple):
    """Nearest items of each query, best first.

    Parameters
    ----------
    order : ndarray of int32, shape (queries, k)
        Indices of the items.
    cosines : ndarray of float32, shape (queries, k)
        Their cosines with the query.

    Examples
    --------
    >>> order, cosines = Nearest(np.array([[1, 0]], np.int32), np.array([[0.9, 0.2]], np.float32))
    >>> order[0, 0]
    np.int32(1)
    """

    order: npt.NDArray[np.int32]
    cosines: Floats


def nearest(
    queries: Embeddings, among: Embeddings, top_k: int = 5, threads: int | None = None
) -> Nearest:
    """Find the items most similar to each query, by cosine.

    Parameters
    ----------
    queries, among : Embeddings
        Embeddings of sounds or texts by one model.
    top_k : int
        Number of items for each query; at most all.
    threads : int, optional
        Most threads; the processors of this process by default.

    Returns
    -------
    Nearest
        Indices and cosines, shape (queries, k) each.

    Raises
    ------
    ReclapError
        If the two come from different weights or preprocessing, or are texts of different
        tokenizers: their cosines mean nothing.
    ValueError
        If there is nothing to find, an embedding is not of unit length, or `top_k` is not positive.

    Examples
    --------
    >>> import reclap
    >>> model = reclap.load("mini")
    >>> def embed(*texts):
    ...     return Embeddings(model.embed_text(texts), texts, "text", "mini", model.digest)
    >>> items = embed("heavy rain", "a dog barks")
    >>> found = nearest(embed("a barking dog"), items, top_k=1)
    >>> items.items[found.order[0, 0]]
    'a dog barks'
    """
    if queries.digest != among.digest:
        raise ReclapError(
            f"embeddings of different models cannot be compared: {shown_name(queries.model)} with "
            f"digest {shown_name(queries.digest)}, {shown_name(among.model)} with digest "
            f"{shown_name(among.digest)}"
        )
    known = queries.preparation and among.preparation
    if queries.kind == among.kind == "text" and known and queries.preparation != among.preparation:
        raise ReclapError(
            "texts of different tokenizers cannot be compared: "
            f"{shown_name(queries.preparation)}, {shown_name(among.preparation)}"
        )
    if top_k < 1:
        raise ValueError(f"top_k is {top_k}, expected at least 1")
    require_comparable(among, "among")
    if queries.items:
        require_comparable(queries, "queries")
    context = core.Context(default_threads() if threads is None else threads)
    k = min(top_k, len(among.items))
    _, cosines, order = core.scores(context, queries.rows, among.rows, k, all=False)
    return Nearest(order, cosines)
