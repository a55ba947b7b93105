"""Token ids of texts, for a text tower that is trained."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from reclap.checkpoints import model_folder
from reclap.config.text_tower import TextConfig
from reclap.text.tokenizer import Tokenizer, check_texts

__all__ = ["Tokeniser", "Tokens"]


class Tokens(NamedTuple):
    """Token ids of several texts, one after the other, as the core takes them.

    Attributes
    ----------
    ids : ndarray of int32
        All ids.
    first : ndarray of int32, shape (n + 1,)
        Where each text begins, and the number of ids.
    """

    ids: npt.NDArray[np.int32]
    first: npt.NDArray[np.int32]

    def take(self, order: npt.NDArray[np.intp]) -> "Tokens":
        """Return texts in another order."""
        parts = [self.ids[self.first[i] : self.first[i + 1]] for i in order]
        lengths = np.diff(self.first)[order]
        first = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return Tokens(np.concatenate(parts), first)

    def part(self, start: int, stop: int) -> "Tokens":
        """Return the texts from `start` to before `stop`."""
        first = self.first[start : stop + 1]
        return Tokens(self.ids[first[0] : first[-1]], first - first[0])

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.first) - 1


class Tokeniser:
    """Texts as a text tower in training takes them, in place of features of a frozen one.

    Parameters
    ----------
    folder : Path
        Model folder with ``tokenizer.json``.
    config : TextConfig
        The text tower.
    """

    def __init__(self, folder: Path, config: TextConfig) -> None:
        self._tokenizer = Tokenizer(folder / model_folder.TOKENIZER, config)

    def features(self, texts: Sequence[str]) -> Tokens:
        """Return the token ids of texts; as `TextEncoder.features`, which returns features."""
        ids, first = self._tokenizer.encode(check_texts(texts))
        return Tokens(np.asarray(ids, np.int32), np.asarray(first, np.int32))

    __call__ = features
