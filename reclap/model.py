"""Models: embed sounds and texts, name sounds by text."""

import contextlib
import dataclasses
import functools
import hashlib
import math
import os
import threading
import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from reclap import checkpoint, naming, sources
from reclap._libraries import core
from reclap.batches import TEXT_BATCH, batch_of, batches, default_threads, without_faults
from reclap.config import ClapConfig
from reclap.errors import FormatError, ReclapError, SkippedWarning
from reclap.families import export
from reclap.families.parts import Found
from reclap.fusion import Picture
from reclap.progress import bar as progress_bar
from reclap.prompts.bank import PromptBank
from reclap.prompts.combine import place_of
from reclap.prompts.embeddings import PromptEmbeddings
from reclap.prompts.strategies import Labels
from reclap.results import Classification, Timeline
from reclap.text import Tokenizer, check_texts
from reclap.weights import Weights

__all__ = ["Model"]

Floats = npt.NDArray[np.float32]
T = TypeVar("T")


class Model:
    """A contrastive language-audio model; see `reclap.load`.

    Methods may be called from several threads; calls take turns.

    Attributes
    ----------
    config : ClapConfig
        Front end, towers, heads, prompt template.
    threads : int
        Most threads of one call.
    logit_scale : float
        Factor from cosines to logits.
    """

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
        self._prompts = PromptEmbeddings()
        self._batch = batch_of(config.front)

    @classmethod
    def from_folder(
        cls, folder: Path, threads: int | None = None, dtype: str = "float32"
    ) -> "Model":
        """Load a model folder; see `reclap.load`."""
        config = checkpoint.read_config(folder)
        read = functools.partial(checkpoint.read_parameters, folder)
        weights = Weights(config, folder / checkpoint.CONFIG, read, dtype)
        return cls(config, weights, folder / checkpoint.TOKENIZER, folder, threads)

    @classmethod
    def from_foreign(
        cls,
        found: Found,
        source: Path,
        threads: int | None = None,
        tokenizer: Path | None = None,
        dtype: str = "float32",
    ) -> "Model":
        """Make a model of another project's checkpoint, see `reclap.load`."""
        read = functools.partial(checkpoint.match, found.tensors, where=str(source))
        return cls(
            found.config,
            Weights(found.config, source, read, dtype),
            tokenizer or found.tokenizer,
            source,
            threads,
            family=found.family,
            ignored=found.ignored,
        )

    # ---- Embedding ---------------------------------------------------------------------------

    def embed_audio(
        self,
        source: Any,
        rate: int | None = None,
        *,
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
        return np.concatenate(parts)

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
                rows[i] = _pool(np.stack(parts))[0]
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
            yield from zip((key for key, _ in batch), rows, strict=True)

    # ---- Naming ------------------------------------------------------------------------------

    def class_vectors(
        self,
        labels: Labels,
        template: str | None = None,
        *,
        n_prompts: int | None = None,
        seed: int = 0,
        cache: bool = True,
    ) -> tuple[list[str], Floats]:
        """Embed labels as classes.

        Parameters
        ----------
        labels : list of str, mapping of str to list of str, or PromptBank
            Labels that go through the template, or labels with the prompts that stand for them.
        template : str, optional
            Contains ``{label}``; the model's own by default.
        n_prompts : int, optional
            How many prompts of each label are drawn without replacement; all by default.
        seed : int
            Of the draw.
        cache : bool
            Whether embeddings of prompts are kept: of the last banks and lists in memory, of banks
            and long lists (256 prompts) in the cache folder (``RECLAP_CACHE``), by the digests of
            model and prompts.

        Returns
        -------
        labels : list of str
        vectors : ndarray of float32, shape (labels, dim)
            The normalised mean of each label's normalised prompts.

        Raises
        ------
        TypeError, ValueError
            If there is no label, one is empty or occurs twice, or one has too few prompts.
        """
        classes = self._classes(labels, template, n_prompts, seed, "mean_embedding", cache)
        return list(classes.labels), classes.vectors()

    def _classes(
        self,
        labels: Labels,
        template: str | None,
        n_prompts: int | None,
        seed: int,
        rule: str,
        cache: bool,
    ) -> naming.Classes:
        place_of(rule)
        template = self.config.template if template is None else template
        prompts = naming.prompts_of(labels, template, n_prompts, seed)
        texts = [text for group in prompts.values() for text in group]
        if not cache:
            return naming.Classes(prompts, self.embed_text(texts), rule)
        bank = labels if isinstance(labels, PromptBank) else None
        return naming.Classes(prompts, self._prompts.rows(self, texts, bank), rule)

    def classify(
        self,
        source: Any,
        labels: Labels,
        top_k: int = 5,
        *,
        rate: int | None = None,
        template: str | None = None,
        combine: str = "mean_embedding",
        n_prompts: int | None = None,
        seed: int = 0,
        explain: bool = False,
        cache: bool = True,
        errors: str = "raise",
        progress: bool = False,
    ) -> list[Classification]:
        """Name sounds by text, without training on the labels.

        Parameters
        ----------
        source, rate, errors, progress
            As in `embed_audio`.
        labels, template, n_prompts, seed, cache
            As in `class_vectors`.
        top_k : int
            How many labels `Classification.top` holds; at most all.
        combine : str
            Rule that makes one score of the cosines with a label's prompts: "mean_embedding",
            "mean_logit", "max", "logsumexp", "entropy", "entropy_batch" or "relevance", see
            ``docs/prompts.md``. By "entropy_batch" alone sounds depend on each other.
        explain : bool
            Whether results carry an `attribution`: what each prompt contributed.

        Returns
        -------
        list of Classification
            One for each sound, in order. With ``errors="skip"`` a bad one has `error` set.

        Examples
        --------
        >>> import numpy as np, reclap
        >>> model = reclap.load("mini")
        >>> [r] = model.classify(np.zeros(48000), ["dog bark", "rain"], rate=48000)
        >>> sorted(r.top) == ["dog bark", "rain"]
        True
        """
        if top_k < 1:
            raise ValueError(f"top_k is {top_k}, expected at least 1")
        classes = self._classes(labels, template, n_prompts, seed, combine, cache)
        names = classes.labels
        items = sources.as_list(source)
        rows, faults = self._embed(items, rate, errors, progress)
        good = [i for i in range(len(items)) if i not in faults]
        k = min(top_k, len(names))
        with self._lock:
            scored = classes.score(self._context, rows[good], self.logit_scale, k, explain=explain)
        results = [
            Classification(sources.name_of(item, i), names, error=faults.get(i))
            for i, item in enumerate(items)
        ]
        for n, i in enumerate(good):
            results[i] = dataclasses.replace(
                results[i],
                scores=scored.scores[n],
                order=scored.order[n],
                logit_scale=self.logit_scale,
                attribution=scored.attributions[n],
            )
        return results

    def timeline(
        self,
        source: Any,
        labels: Labels,
        window: float | None = None,
        hop: float | None = None,
        *,
        rate: int | None = None,
        template: str | None = None,
        combine: str = "mean_embedding",
        n_prompts: int | None = None,
        seed: int = 0,
        cache: bool = True,
        progress: bool = False,
    ) -> Timeline:
        """Score labels along a recording.

        Parameters
        ----------
        source, rate, progress
            One sound, as in `embed_audio`.
        labels, template, combine, n_prompts, seed, cache
            As in `classify`; the windows are one batch.
        window : float, optional
            Seconds of one window; the model's own by default. Longer ones are pooled.
        hop : float, optional
            Seconds between window starts; half a window by default.

        Returns
        -------
        Timeline
            Scores (windows, labels) and each window's start and end in seconds.

        Raises
        ------
        OSError, FormatError, ValueError, TypeError
            As `classify`, or if `window` or `hop` is not positive, or there is not one sound.
        """
        front = self.config.front
        window = front.window_seconds if window is None else window
        hop = window / 2 if hop is None else hop
        if not (0 < window < math.inf and 0 < hop < math.inf):
            raise ValueError(f"window is {window} s and hop {hop} s, expected both above 0")
        items = sources.as_list(source)
        if len(items) != 1:
            raise ValueError(f"timeline: expected one sound, got {len(items)}")
        sources.require_rate(items, rate)
        classes = self._classes(labels, template, n_prompts, seed, combine, cache)
        size, step = max(1, round(window * front.rate)), max(1, round(hop * front.rate))
        found = sources.pieces(items[0], rate, front, size, step)
        bar = progress_bar(None, "window", shown=progress)
        spans: list[tuple[int, int]] = []
        parts: list[list[Floats]] = []
        with bar, contextlib.closing(found):
            for span, row in self._rows(((a, b), picture) for a, b, picture in found):
                if spans[-1:] != [span]:
                    spans.append(span)
                    parts.append([])
                    bar.update()
                parts[-1].append(row)
        rows = np.concatenate([_pool(np.stack(part)) for part in parts])
        with self._lock:
            scores = classes.score(self._context, rows, self.logit_scale, 1).scores
        seconds = np.array(spans, np.float64) / front.rate
        name = sources.name_of(items[0], 0)
        return Timeline(name, classes.labels, seconds, scores, self.logit_scale)

    # ---- About -------------------------------------------------------------------------------

    @property
    def digest(self) -> str:
        """SHA-256 over weights and preprocessing; equal digests give equal embeddings."""
        return self._weights.digest

    @property
    def text_digest(self) -> str:
        """SHA-256 over `digest` and tokenizer; equal ones give equal embeddings of texts."""
        tokenizer = self._tokenizer.digest if self._tokenizer else ""
        return hashlib.sha256(f"{self.digest} {tokenizer}".encode()).hexdigest()

    def info(self) -> dict[str, Any]:
        """Describe the model: source, towers, sizes, front end, tokenizer, threads, digest."""
        count = dict.fromkeys(("audio", "text", "audio_head", "text_head", "logit_scale"), 0)
        for name, shape in self._weights.shapes:
            part = name.split(".")[0].replace("_branch", "").replace("_projection", "_head")
            count[part] += math.prod(shape)
        front = self.config.front
        return {
            "name": self.config.name,
            "source": str(self._source),
            "family": self._family,
            "ignored": dict(self._ignored),
            "dim": self.config.dim,
            "parameters": count | {"total": sum(count.values())},
            "window_seconds": front.window_seconds,
            "rate": front.rate,
            "template": self.config.template,
            "tokenizer": self._tokenizer.describe() if self._tokenizer else None,
            "dtype": self._weights.dtype,
            "kernel": self._weights.kernel,
            "threads": self.threads,
            "logit_scale": self.logit_scale,
            "digest": self.digest,
            "config": self.config.to_json(),
        }

    def save(self, folder: str | os.PathLike[str], format: str = "reclap") -> None:
        """Write the model as a folder that `load` takes.

        Parameters
        ----------
        folder : path
            Made if absent; files of the same names are replaced.
        format : {"reclap", "hf"}
            Ours, or transformers' ClapModel, whose `from_pretrained` gives the same embeddings.

        Raises
        ------
        OSError
            If it cannot be written; what was there before remains.
        FormatError
            If the model is no ClapModel, with every reason.
        ReclapError
            If it was loaded in another type than float32, or without the tokenizer that a folder
            of ours holds.
        ValueError
            For another format.
        """
        if format not in ("reclap", "hf"):
            raise ValueError(f"format is {format!r}, expected reclap or hf")
        values = self._weights.require_exact()
        if format == "hf":
            tokenizer = self._tokenizer.path if self._tokenizer else None
            export.write(Path(folder), self.config, values, tokenizer)
        elif self._family != "reclap":
            if self._tokenizer is None:
                raise ReclapError(
                    f"{self._source}: a model folder holds a tokenizer, and there is none beside "
                    "it; load it with tokenizer= (--tokenizer), that of its text model"
                )
            content = self._tokenizer.to_json()
            checkpoint.save_all(Path(folder), self.config, values, content)
        else:
            own = {n: a for n, a in values.items() if not n.startswith("text_branch.")}
            checkpoint.save(Path(folder), self.config, own, self._source)


def _pool(rows: Floats) -> Floats:
    """Return the normalised mean of unit rows; a single row as it is."""
    return rows if len(rows) == 1 else core.class_vectors(rows, [0, len(rows)])
