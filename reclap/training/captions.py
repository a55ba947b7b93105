"""Caption features of the frozen text tower, cached on disk."""

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reclap._types import Floats
from reclap.errors import FormatError
from reclap.model.batching import TEXT_BATCH
from reclap.runtime.progress import bar as progress_bar
from reclap.store import Header, Store, Writer
from reclap.training.text_encoder import TextEncoder

__all__ = ["Captions"]


class Captions:
    """Features of captions: of all that are known beforehand from a store, of others on demand.

    Parameters
    ----------
    encoder : TextEncoder
        The text tower.
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
        encoder: TextEncoder,
        texts: Sequence[str],
        path: Path,
        *,
        progress: bool,
    ) -> None:
        self._encoder = encoder
        width, name = encoder.config.text.width, encoder.config.name
        header = Header(encoder.digest, width, "caption features", name)
        if _is_other(path, header):
            shutil.rmtree(path)
        with (
            Writer(path, header) as writer,
            progress_bar(len(texts), "text", shown=progress) as bar,
        ):
            known = set(writer.items)
            for start in range(0, len(texts), TEXT_BATCH):
                block = texts[start : start + TEXT_BATCH]
                missing = [i for i, text in enumerate(block) if text not in known]
                if missing:
                    features = encoder.features(block)
                    writer.append(features[missing], [block[i] for i in missing])
                bar.update(len(block))
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


def _is_other(path: Path, header: Header) -> bool:
    """Tell whether a path holds a store of another tower, or none that can be read."""
    if not path.exists():
        return False
    try:
        return Store(path).header != header
    except (OSError, FormatError):
        return True
