"""Embedder: the towers of a model, which embed sounds and texts."""

import contextlib
import hashlib
import itertools
import os
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from reclap._types import Floats
from reclap.audio import inputs
from reclap.audio.fusion import LogMel
from reclap.audio.sound_file import is_file
from reclap.config.model import ClapConfig
from reclap.errors import Errors, FormatError, ReclapError, SkippedWarning, one_line, shown_name
from reclap.model.batching import TEXT_BATCH, batch_of, batches
from reclap.model.results import Embedding
from reclap.model.weights import Weights
from reclap.runtime.libraries import core
from reclap.runtime.progress import bar as progress_bar
from reclap.runtime.threads import default_threads
from reclap.text.tokenizer import Tokenizer, check_texts

__all__ = ["Embedder", "pool", "require_errors"]

T = TypeVar("T")


_living: "weakref.WeakSet[Embedder]" = weakref.WeakSet()


def _unlock() -> None:
    """Replace locks in the child of a fork, where their holders do not exist."""
    for embedder in _living:
        embedder._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)


class Embedder:
    """A model that embeds sounds and texts; `reclap.Model` adds zero-shot classification."""

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
        _living.add(self)

    def embed_audio(
        self,
        source: inputs.Sounds,
        *,
        rate: int | None = None,
        channels_first: bool = False,
        window_hop: float | None = None,
        errors: Errors = "raise",
        progress: bool = False,
    ) -> Floats:
        """Embed sounds.

        Parameters
        ----------
        source : path, bytes, file object, array of shape (T,) or (T, channels), or a list of them
            Files of any format that libsndfile reads, with the extra ``media`` also M4A, AAC, WebM
            and WMA; the path ``"-"`` is standard input. Arrays need `rate`, unless they come as
            ``(samples, rate)`` or ``{"array": samples, "sampling_rate": rate}``. Tensors of PyTorch
            are taken as arrays. Channels are averaged.
        rate : int, optional
            Sample rate of arrays in Hz.
        channels_first : bool
            Whether arrays of two axes are (channels, T).
        window_hop : float, optional
            Step between the windows of a long clip as a fraction of the window, in place of the
            model's own (``config.front.window_hop``, which the digest covers).
        errors : {"raise", "skip"}
            Effect of a bad item: an exception, or an embedding of NaN and a `SkippedWarning`.
        progress : bool
            Show a progress bar on standard error.

        Returns
        -------
        ndarray of float32, shape (n, dim)
            Unit-length embeddings, also for a single sound.

        Raises
        ------
        OSError, FormatError, ValueError, TypeError
            As `reclap.audio.load`, the message naming the file or the index in the list.
        ReclapError
            If the embedding of a sound is not finite, which it names.

        Notes
        -----
        A clip longer than the model's window is covered by windows (`reclap.audio.windows`) whose
        embeddings are pooled: averaged and normalised. A model with feature fusion takes any clip
        as one input (`reclap.audio.fusion.fused_features`). Nothing is cropped at random, and no
        embedding depends on the other sounds. Files are prefetched (`reclap.runtime.prefetch`).

        Examples
        --------
        >>> import reclap
        >>> model = reclap.load("mini")
        >>> model.embed_audio([np.zeros(8000), np.zeros((44100, 2))], rate=44100).shape
        (2, 384)
        """
        items = inputs.as_list(source)
        embeddings = np.full((len(items), self.config.dim), np.nan, np.float32)
        faults: dict[int, str] = {}
        reading = inputs.Reading(rate, channels_first, window_hop)
        for found in itertools.chain.from_iterable(self._groups(items, reading, errors, progress)):
            embeddings[found.index] = found.row
            if found.error is not None:
                faults[found.index] = found.error
        if faults:
            warnings.warn(SkippedWarning(faults), stacklevel=2)
        return embeddings

    def iter_embed(
        self,
        source: inputs.Sounds,
        *,
        rate: int | None = None,
        channels_first: bool = False,
        window_hop: float | None = None,
        errors: Errors = "raise",
        progress: bool = False,
    ) -> Generator[Embedding, None, None]:
        """Embed sounds one after the other, in memory that does not grow with their number.

        Parameters
        ----------
        source : path, bytes, file object, array, or an iterable of them
            As in `embed_audio`. An iterator is consumed while results are asked for.
        rate : int, optional
            Sample rate of arrays in Hz.
        channels_first : bool
            Whether arrays of two axes are (channels, T).
        window_hop : float, optional
            Step between the windows of a long clip, as in `embed_audio`.
        errors : {"raise", "skip"}
            Effect of a bad item: an exception, or an `Embedding` with its `error` set.
        progress : bool
            Show a progress bar on standard error.

        Yields
        ------
        Embedding
            One for each sound, in order; as `embed_audio` computes it.

        Raises
        ------
        OSError, FormatError, ValueError, TypeError, ReclapError
            As `embed_audio`; results before the bad item come first.

        Notes
        -----
        Sounds are prefetched (`reclap.runtime.prefetch`); closing the generator ends that.

        Examples
        --------
        >>> import reclap
        >>> model = reclap.load("mini")
        >>> sounds = (np.zeros(16000) for _ in range(3))
        >>> [found.index for found in model.iter_embed(sounds, rate=16000)]
        [0, 1, 2]
        """
        reading = inputs.Reading(rate, channels_first, window_hop)
        for group in self._groups(source, reading, errors, progress):
            yield from group

    def embed_text(self, texts: Sequence[str]) -> Floats:
        """Embed texts.

        Parameters
        ----------
        texts : list of str
            Texts longer than the tower takes are truncated, which is logged.

        Returns
        -------
        ndarray of float32, shape (n, dim)
            Unit-length embeddings.

        Raises
        ------
        TypeError, ValueError
            If `texts` is no list, a single string, or holds an empty text.
        FormatError
            If the model came without a tokenizer.
        ReclapError
            If the embedding of a text is not finite, which it names.

        Examples
        --------
        >>> import reclap
        >>> text = reclap.load("mini").embed_text(["rain on a tin roof", "a dog barks"])
        >>> text.shape, bool(np.allclose(np.linalg.norm(text, axis=1), 1))
        ((2, 384), True)
        """
        items, tokenizer = check_texts(texts, least=0), self._tokenizer
        if tokenizer is None:
            raise FormatError(
                f"{self._source}: no tokenizer.json beside it; load it with tokenizer=, the "
                "tokenizer.json of its text model"
            )
        parts = [np.empty((0, self.config.dim), np.float32)]
        for part in batches(items, TEXT_BATCH):
            ids, first = tokenizer.encode(part)
            with self._lock:
                parts.append(self._core.text(self._context, ids, first))
        embeddings = np.concatenate(parts)
        self._require_finite(embeddings, [partial(shown_name, repr(text)) for text in items])
        return embeddings

    def _groups(
        self, source: inputs.Sounds, reading: inputs.Reading, errors: Errors, progress: bool
    ) -> Generator[list[Embedding], None, None]:
        """Yield embeddings in order, those together that are complete together."""
        require_errors(errors)
        is_stream = isinstance(source, Iterator) and not is_file(source)
        items: Any = source if is_stream else inputs.as_list(source)
        if not isinstance(items, Iterator):
            inputs.require_rate(items, reading.rate)
        total = None if isinstance(items, Iterator) else len(items)
        pending = _Pending(self.config.dim)
        watched = pending.watch(items, reading.rate)
        front = reading.front(self.config.front)
        found = inputs.features(watched, reading, front, self.threads)
        bar = progress_bar(total, "clip", shown=progress)
        batch: list[tuple[int, LogMel]] = []
        fault: Exception | None = None
        with bar, contextlib.closing(found):
            for i, result in found:
                if not isinstance(result, Exception):
                    batch.append((i, result))
                elif errors == "skip":
                    pending.faults[i] = one_line(result)
                else:
                    fault, stop = result, i
                    break
                if len(batch) == self._batch:
                    pending.add(self._embed_log_mels(batch, pending.name))
                    batch.clear()
                complete = pending.take(batch[0][0] if batch else i + (i in pending.faults))
                if complete:
                    bar.update(len(complete))
                    yield complete
            pending.add(self._embed_log_mels(batch, pending.name))
            yield pending.take(stop if fault else pending.count)
        if fault is not None:
            raise fault

    def _embed_log_mels(
        self, mels: Iterable[tuple[T, LogMel]], name: Callable[[T], object]
    ) -> Iterator[tuple[T, Floats]]:
        """Yield the embedding of each log-mel with its key, which `name` spells out in errors."""
        for batch in batches(mels, self._batch):
            mel = np.stack([one.mel for _, one in batch])
            longer = np.array([one.longer for _, one in batch])
            with self._lock:
                embeddings = self._core.audio(
                    self._context, mel, longer=longer if self.config.audio.fusion else None
                )
            keys = [key for key, _ in batch]
            self._require_finite(embeddings, [partial(name, key) for key in keys])
            yield from zip(keys, embeddings, strict=True)

    def _require_finite(self, embeddings: Floats, names: Sequence[Callable[[], object]]) -> None:
        """Raise a ReclapError that names the first embedding that is not finite."""
        if core.all_finite(embeddings):
            return
        culprit = names[int(np.argmin(np.isfinite(embeddings).all(axis=1)))]()
        raise ReclapError(
            f"{self._source}: the embedding of {culprit} is not finite; the model's weights are "
            f"too large for {self._weights.dtype}"
        )

    @property
    def digest(self) -> str:
        """SHA-256 over weights and preprocessing; equal digests give equal embeddings."""
        return self._weights.digest

    def preparation(self, kind: str, window_hop: float | None = None) -> str:
        """Return the provenance of embeddings beside `digest`, for callers who keep them.

        Parameters
        ----------
        kind : {"audio", "text"}
            Kind of the items.
        window_hop : float, optional
            As in `embed_audio`.

        Returns
        -------
        str
            For texts, the digest of the tokenizer; for sounds, a window hop that is not the model's
            own; otherwise empty.

        Raises
        ------
        ValueError
            If `kind` is another, or `window_hop` is out of range.

        Examples
        --------
        >>> import reclap
        >>> model = reclap.load("mini")
        >>> model.preparation("audio"), model.preparation("audio", window_hop=0.25)
        ('', 'window_hop 0.25')
        """
        if kind not in ("audio", "text"):
            raise ValueError(f"kind is {kind!r}, expected audio or text")
        if kind == "text":
            return f"tokenizer {self._tokenizer.digest}" if self._tokenizer else ""
        hop = inputs.Reading(window_hop=window_hop).front(self.config.front).window_hop
        return "" if hop == self.config.front.window_hop else f"window_hop {float(hop)!r}"

    @property
    def text_digest(self) -> str:
        """SHA-256 over `digest` and tokenizer; equal ones give equal embeddings of texts."""
        tokenizer = self._tokenizer.digest if self._tokenizer else ""
        return hashlib.sha256(f"{self.digest} {tokenizer}".encode()).hexdigest()


def require_errors(errors: Errors) -> None:
    """Refuse another value of the argument `errors` than "raise" and "skip"."""
    if errors not in ("raise", "skip"):
        raise ValueError(f'errors is {errors!r}, expected "raise" or "skip"')


def pool(embeddings: Floats) -> Floats:
    """Pool unit-length embeddings: their normalised mean; a single one as it is."""
    count = len(embeddings)
    return embeddings if count == 1 else core.class_vectors(embeddings, [0, count])


class _Pending:
    """Sounds in flight: names, embeddings of their windows, faults."""

    def __init__(self, dim: int) -> None:
        self._nothing = np.full(dim, np.nan, np.float32)
        self._names: deque[str] = deque()
        self._parts: dict[int, list[Floats]] = {}
        self._next = self.count = 0
        self.faults: dict[int, str] = {}

    def watch(self, items: Iterable[Any], rate: int | None) -> Iterator[Any]:
        """Yield the items, and remember their names."""
        for i, item in enumerate(items):
            inputs.require_rate([item], rate, first=i)
            self._names.append(inputs.name_of(item, i))
            self.count += 1
            yield item

    def name(self, i: int) -> str:
        """Return the name of a sound in flight."""
        return shown_name(self._names[i - self._next])

    def add(self, embeddings: Iterable[tuple[int, Floats]]) -> None:
        """Add embeddings of windows, each with the index of its sound."""
        for i, embedding in embeddings:
            self._parts.setdefault(i, []).append(embedding)

    def take(self, stop: int) -> list[Embedding]:
        """Return the results of the sounds before index `stop` that were not taken yet."""
        complete = []
        for i in range(self._next, stop):
            parts, error = self._parts.pop(i, []), self.faults.pop(i, None)
            good = error is None  # a file may turn out to be bad after some windows
            embedding = pool(np.stack(parts))[0] if good else self._nothing.copy()
            complete.append(Embedding(i, self._names.popleft(), embedding, error))
        self._next = max(self._next, stop)
        return complete
