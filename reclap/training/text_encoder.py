"""Text encoder: the text tower of a model on its own."""

import functools
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reclap._types import Floats
from reclap.checkpoints import model_folder
from reclap.config.model import ClapConfig
from reclap.errors import FormatError
from reclap.io.files import StrPath
from reclap.model.batching import TEXT_BATCH, batches
from reclap.model.weights import Weights
from reclap.runtime.libraries import core
from reclap.runtime.threads import default_threads
from reclap.text.tokenizer import Tokenizer, check_texts

__all__ = ["TextEncoder"]


class TextEncoder:
    """The text tower of a model folder on its own, as training uses it.

    Parameters
    ----------
    folder : path
        Model folder; its model.safetensors is not read and may be absent.
    threads : int, optional
        Most threads of one call; the processors of this process by default.
    progress : bool
        Show a progress bar where reading, and later the digest, takes longer than a second.

    Raises
    ------
    OSError
        If a file of the folder cannot be read.
    FormatError
        If a file of the folder is damaged.

    Notes
    -----
    It can be pickled and copied, as a `reclap.Model`: the pickle holds the folder and the digest,
    and unpickling reads the folder again.

    Examples
    --------
    >>> import reclap
    >>> encoder = TextEncoder(Path(reclap.__file__).parent / "models" / "mini")
    >>> encoder.features(["rain", "a dog barks"]).shape
    (2, 384)
    """

    def __init__(
        self, folder: StrPath, threads: int | None = None, *, progress: bool = False
    ) -> None:
        folder = self.folder = Path(folder)
        self._path, self._progress = folder.absolute(), progress
        self.threads = default_threads() if threads is None else threads
        self.config = model_folder.read_config(folder)
        width = self.config.text.width
        self._weights = Weights(
            self.config,
            folder / model_folder.CONFIG,
            functools.partial(_text_weights, folder),
            progress=progress,
            audio=None,
            text_head=0,
            dim=width,
        )
        self._core = self._weights.core
        self._context = core.Context(self.threads)
        self._tokenizer = Tokenizer(folder / model_folder.TOKENIZER, self.config.text)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the folder and the digest."""
        return _reopen, (self._path, self.threads, self.digest)

    @property
    def name(self) -> str:
        """Name of its model."""
        return self.config.name

    @property
    def width(self) -> int:
        """Width of the features."""
        return self.config.text.width

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over settings and weights of the tower, and its tokenizer.

        Equal digests give equal features.
        """
        weights = self._weights.values.items()
        tower = model_folder.digest(
            ClapConfig(text=self.config.text), weights, progress=self._progress
        )
        return hashlib.sha256(f"{tower} {self._tokenizer.digest}".encode()).hexdigest()

    def features(self, texts: Sequence[str]) -> Floats:
        """Embed texts with the tower alone, without the projection head.

        Parameters
        ----------
        texts : sequence of str
            At least one.

        Returns
        -------
        ndarray of float32, shape (n, width)
            Features that the head takes.

        Raises
        ------
        TypeError, ValueError
            If `texts` is no list of non-empty strings.
        """
        items = check_texts(texts)
        parts = [
            self._core.text(self._context, *self._tokenizer.encode(part), features=True)
            for part in batches(items, TEXT_BATCH)
        ]
        return np.concatenate(parts)


def _reopen(folder: Path, threads: int, digest: str) -> TextEncoder:
    """Read a pickled tower again; FormatError if it has changed."""
    encoder = TextEncoder(folder, threads)
    if encoder.digest != digest:
        raise FormatError(
            f"{folder}: the text tower has changed since it was pickled or copied: digest "
            f"{digest[:16]} then, {encoder.digest[:16]} now"
        )
    return encoder


def _text_weights(folder: Path, wanted: list[tuple[str, tuple[int, ...]]]) -> Iterator[Floats]:
    """Yield the text tower's weights, and a temperature that nobody uses."""
    yield from model_folder.read_parameters(folder, wanted[:-1])
    yield np.zeros((), np.float32)
