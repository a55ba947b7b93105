"""Caption features of the frozen text tower, or of a teacher, cached on disk."""

import itertools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from reclap._types import Floats
from reclap.errors import FormatError
from reclap.model.batching import TEXT_BATCH
from reclap.runtime.progress import bar as progress_bar
from reclap.store import Header, Store, Writer

__all__ = ["Captions", "Encoder", "fill_blocks"]


class Encoder(Protocol):
    """What gives features of texts: a text tower, or a whole model."""

    @property
    def digest(self) -> str:
        """Which one it is."""
        ...

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def width(self) -> int:
        """Width of the features."""
        ...

    def features(self, texts: Sequence[str], /) -> Floats:
        """Return the features of texts, shape (n, width)."""
        ...


class Captions:
    """Features of captions: of all that are known beforehand from a store, of others on demand.

    Parameters
    ----------
    encoder : Encoder
        The text tower, or a teacher.
    texts : sequence of str
        Known captions, each once.
    path : Path
        Store of their features; created, resumed after a kill, or rebuilt where
        it is of another tower.
    progress : bool
        Show a progress bar.

    Notes
    -----
    Features of a text may differ in the last bit with the texts beside it. So known texts are
    always embedded in the same blocks, wherever a process was killed; the others of a step always
    together: what a step sees does not depend on the steps before.
    """

    def __init__(
        self,
        encoder: Encoder,
        texts: Sequence[str],
        path: Path,
        *,
        progress: bool,
    ) -> None:
        self._encoder = encoder
        header = Header(encoder.digest, encoder.width, "caption features", encoder.name)
        with progress_bar(len(texts), "text", shown=progress) as bar:
            fill_blocks(path, header, texts, TEXT_BATCH, encoder.features, bar)
        store = Store(path)
        self._features: Floats = store.rows
        self._index = dict(zip(store.items, itertools.count()))

    def __call__(self, texts: Sequence[str]) -> Floats:
        """Return the features of texts, shape (n, width)."""
        others = [text for text in dict.fromkeys(texts) if text not in self._index]
        made = dict(zip(others, self._encoder.features(others), strict=True)) if others else {}
        found = [made[t] if t in made else self._features[self._index[t]] for t in texts]
        features: Floats = np.stack(found)
        return features


def fill_blocks(
    path: Path,
    header: Header,
    items: Sequence[str],
    size: int,
    features: Callable[[Sequence[str]], Floats],
    bar: Any,
) -> None:
    """Fill a store with the features of items, computed in the same blocks wherever it begins.

    A store of another header is replaced.
    """
    if _is_other(path, header):
        shutil.rmtree(path)
    with Writer(path, header) as writer:
        known = set(writer.items)
        for start in range(0, len(items), size):
            block = items[start : start + size]
            missing = [i for i, item in enumerate(block) if item not in known]
            if missing:
                writer.append(features(block)[missing], [block[i] for i in missing])
            bar.update(len(block))


def _is_other(path: Path, header: Header) -> bool:
    """Tell whether a path holds a store of another tower, or none that can be read."""
    if not path.exists():
        return False
    try:
        return Store(path).header != header
    except (OSError, FormatError):
        return True
