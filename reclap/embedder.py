"""Sounds and texts to embeddings: a model's towers at work."""

import contextlib
import hashlib
import threading
import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from reclap import sources
from reclap._libraries import core
from reclap.batches import TEXT_BATCH, batch_of, batches, default_threads, without_faults
from reclap.config import ClapConfig
from reclap.errors import FormatError, ReclapError, SkippedWarning
from reclap.fusion import Picture
from reclap.progress import bar as progress_bar
from reclap.text import Tokenizer, check_texts
from reclap.weights import Weights

__all__ = ["Embedder", "pool"]

Floats = npt.NDArray[np.float32]
T = TypeVar("T")


class Embedder:
    """What embeds sounds and texts; `reclap.Model` is one that names sounds, too."""

    def __init__(
        self,
        config: ClapConfig,
        weights: Weights,
        tokenizer: Path | None,
        source: Path,
        threads: int | None = None,
        *,
        family: str = "reclap",
        ignored: Mapping[str, str] | None = None,
    ) -> None:
        self.config = config
        self.threads = default_threads() if threads is None else threads
        self._source, self._family, self._ignored = source, family, dict(ignored or {})
        self._tokenizer = Tokenizer(tokenizer, config.text) if tokenizer else None
        self._weights = weights
        self._core, self._context = weights.core, core.Context(self.threads)
        self._lock = threading.Lock()
        self.logit_scale = weights.logit_scale
        self._batch = batch_of(config.front)

    def embed_audio(
        self,
        source: Any,
        *,
        rate: int | None = None,
        errors: str = "raise",
        progress: bool = False,
    ) -> Floats:
        """Embed sounds.

        Parameters
        ----------
        source : path, bytes, file object, array of shape (T,) or (T, channels), or a list of them
            Files of any format that libsndfile reads; arrays need `rate`. Channels are averaged.
        rate : int, optional
            Samples per second (Hz) of arrays.
        errors : {"raise", "skip"}
            What a bad item does: raise, or give a row of NaN and a `SkippedWarning`.
        progress : bool
            Show a progress bar on standard error.

        Returns
        -------
        ndarray of float32, shape (n, dim)
            Unit rows, also for a single sound.

        Raises
        ------
        OSError, FormatError, ValueError, TypeError
            As `reclap.audio.load`, the message naming the file or the place in the list.
        ReclapError
            If the embedding of a sound is not finite, which it names.

        Notes
        -----
        A clip longer than the model's window is covered by windows (`reclap.audio.windows`) whose
        unit embeddings are averaged and normalised. A model with feature fusion takes any clip as
        one input (`reclap.fusion.fused_features`). Nothing is cropped at random, and no row
        depends on the others.
        """
        rows, faults = self._embed(sources.as_list(source), rate, errors, progress)
        if faults:
            warnings.warn(SkippedWarning(faults), stacklevel=2)
        return rows

    def embed_text(self, texts: Sequence[str]) -> Floats:
        """Embed texts.

        Parameters
        ----------
        texts : list of str
            Texts longer than the tower takes are cut, which is logged.

        Returns
        -------
        ndarray of float32, shape (n, dim)
            Unit rows.

        Raises
        ------
        TypeError, ValueError
            If `texts` is empty, a single string, or holds an empty text.
        FormatError
            If the model came without a tokenizer.
        ReclapError
            If the embedding of a text is not finite, which it names.
        """
        items, tokenizer = check_texts(texts), self._tokenizer
        if tokenizer is None:
            raise FormatError(
                f"{self._source}: no tokenizer.json beside it; load it with tokenizer=, the "
                "tokenizer.json of its text model"
            )
        parts = []
        for part in batches(items, TEXT_BATCH):
            ids, first = tokenizer.encode(part)
            with self._lock:
                parts.append(self._core.text(self._context, ids, first))
        rows = np.concatenate(parts)
        self._require_finite(rows, "text", range(len(items)))
        return rows

    def _embed(
        self, items: list[Any], rate: int | None, errors: str, progress: bool
    ) -> tuple[Floats, dict[int, str]]:
        """Return a row for each item, NaN for those that are in the second result with a reason."""
        if errors not in ("raise", "skip"):
            raise ValueError(f'errors is {errors!r}, expected "raise" or "skip"')
        sources.require_rate(items, rate)
        faults: dict[int, str] = {}
        embedded: list[list[Floats]] = [[] for _ in items]
        with contextlib.closing(self._pictures(items, rate, progress)) as found:
            good = without_faults(found, None if errors == "raise" else faults)
            for i, row in self._rows(good):
                embedded[i].append(row)
        rows = np.full((len(items), self.config.dim), np.nan, np.float32)
        for i, parts in enumerate(embedded):
            if parts and i not in faults:  # a file may turn out to be bad further on
                rows[i] = pool(np.stack(parts))[0]
        return rows, faults

    def _pictures(
        self, items: list[Any], rate: int | None, progress: bool
    ) -> Generator[tuple[int, Picture | Exception], None, None]:
        """Yield each picture with the place of its sound, or what is wrong with the sound."""
        found = sources.features(items, rate, self.config.front, self.threads)
        bar = progress_bar(len(items), "clip", shown=progress)
        with bar, contextlib.closing(found):
            for i, result in found:
                bar.update(i - bar.n)
                yield i, result

    def _rows(self, pictures: Iterable[tuple[T, Picture]]) -> Iterator[tuple[T, Floats]]:
        """Yield the embedding of each picture with what came with it; several go in at once."""
        for batch in batches(pictures, self._batch):
            mel = np.stack([picture.mel for _, picture in batch])
            longer = np.array([picture.longer for _, picture in batch])
            with self._lock:
                rows = self._core.audio(
                    self._context, mel, longer=longer if self.config.audio.fusion else None
                )
            keys = [key for key, _ in batch]
            self._require_finite(rows, "clip", keys)
            yield from zip(keys, rows, strict=True)

    def _require_finite(self, rows: Floats, what: str, keys: Sequence[object]) -> None:
        """ReclapError names the first row that is not finite: weights are, but may be too large."""
        if core.all_finite(rows):
            return
        key = keys[int(np.argmin(np.isfinite(rows).all(axis=1)))]
        raise ReclapError(
            f"{self._source}: the embedding of {what} {key} is not finite; the model's weights are "
            f"too large for {self._weights.dtype}"
        )

    @property
    def digest(self) -> str:
        """SHA-256 over weights and preprocessing; equal digests give equal embeddings."""
        return self._weights.digest

    @property
    def text_digest(self) -> str:
        """SHA-256 over `digest` and tokenizer; equal ones give equal embeddings of texts."""
        tokenizer = self._tokenizer.digest if self._tokenizer else ""
        return hashlib.sha256(f"{self.digest} {tokenizer}".encode()).hexdigest()


def pool(rows: Floats) -> Floats:
    """Return the normalised mean of unit rows; a single row as it is."""
    return rows if len(rows) == 1 else core.class_vectors(rows, [0, len(rows)])
