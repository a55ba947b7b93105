"""Models: embed sounds and texts, name sounds by text."""

import dataclasses
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reclap import audio, checkpoint
from reclap._libraries import core
from reclap.config import ClapConfig
from reclap.errors import ReclapError
from reclap.results import Classification, Timeline
from reclap.text import Tokenizer, check_texts

__all__ = ["Model", "TextEncoder", "load"]

Floats = npt.NDArray[np.float32]
Labels = Sequence[str] | Mapping[str, Sequence[str]]

BATCH = 8  # windows in one call of the audio tower
TEXT_BATCH = 128
_BAD_FILE = (OSError, ReclapError, ValueError, TypeError)


def default_threads() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0))


def load(
    source: str | os.PathLike[str] = "mini", *, dtype: str = "float32", threads: int | None = None
) -> "Model":
    """Load a model.

    Parameters
    ----------
    source : str or path
        ``"mini"``, the bundled model, or a model folder.
    dtype : {"float32", "auto"}
        Arithmetic of the towers.
    threads : int, optional
        Most threads of one call; the processors of this process by default.

    Returns
    -------
    Model

    Raises
    ------
    FileNotFoundError
        If there is no such model.
    FormatError
        If a file of it is damaged; every missing, unexpected and misshapen tensor is named.

    Examples
    --------
    >>> import reclap
    >>> reclap.load("mini").embed_text(["rain on a tin roof", "a dog barks"]).shape
    (2, 384)
    """
    if dtype not in ("float32", "auto"):
        raise ValueError(f"dtype is {dtype!r}, expected float32 or auto")
    return Model.from_folder(checkpoint.resolve(source), threads=threads)


class TextEncoder:
    """The text tower of a model folder on its own, as training uses it.

    Parameters
    ----------
    folder : Path
        Model folder; its model.safetensors is not read and may be absent.
    threads : int, optional
        Most threads of one call.
    """

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        self.folder = folder
        self.config = checkpoint.read_config(folder)
        arguments = self.config.core_arguments(with_text=True)
        arguments |= {"audio": None, "text_head": 0, "dim": self.config.text.width}
        self._core = core.Model(**arguments)
        wanted = [(n, s) for n, s, _ in self._core.parameters() if n != "logit_scale"]
        arrays = checkpoint.read_parameters(folder, wanted)
        self._core.bind([*arrays, np.zeros((), np.float32)])
        self._core.pack()
        self._context = core.Context(threads or default_threads())
        self._tokenizer = Tokenizer(folder / checkpoint.TOKENIZER, self.config.text.max_tokens)

    def features(self, texts: Sequence[str]) -> Floats:
        """Return what the text tower makes of texts, before the head, as (n, width)."""
        items = check_texts(texts)
        parts = [
            self._core.text(self._context, *self._tokenizer.encode(part), features=True)
            for part in _batches(items, TEXT_BATCH)
        ]
        return np.concatenate(parts)


class Model:
    """A contrastive language-audio model; see `load`.

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
        parameters: Sequence[Floats],
        tokenizer: Tokenizer,
        source: Path,
        threads: int | None = None,
    ) -> None:
        self.config = config
        self.threads = threads or default_threads()
        self._source = source
        self._tokenizer = tokenizer
        self._core = core.Model(**config.core_arguments(with_text=True))
        self._core.bind(parameters)
        self._core.pack()
        self._context = core.Context(self.threads)
        self._lock = threading.Lock()
        names = [name for name, _, _ in self._core.parameters()]
        self._parameters = dict(zip(names, parameters, strict=True))
        self.logit_scale = float(np.exp(self._parameters["logit_scale"]))
        self._digest: str | None = None

    @classmethod
    def from_folder(cls, folder: Path, threads: int | None = None) -> "Model":
        """Load a model folder; see `load`."""
        config = checkpoint.read_config(folder)
        shape = core.Model(**config.core_arguments(with_text=True))
        parameters = checkpoint.read_parameters(folder, [(n, s) for n, s, _ in shape.parameters()])
        tokenizer = Tokenizer(folder / checkpoint.TOKENIZER, config.text.max_tokens)
        return cls(config, parameters, tokenizer, folder, threads)

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
        unit embeddings are averaged and normalised. Nothing is cropped at random, and no row
        depends on the others.
        """
        rows, faults = self._embed(_as_list(source), rate, errors, progress)
        _warn_skipped(faults)
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
        """
        items = check_texts(texts)
        with self._lock:
            parts = [
                self._core.text(self._context, *self._tokenizer.encode(part))
                for part in _batches(items, TEXT_BATCH)
            ]
        return np.concatenate(parts)

    def _embed(
        self, items: list[Any], rate: int | None, errors: str, progress: bool
    ) -> tuple[Floats, dict[int, str]]:
        if errors not in ("raise", "skip"):
            raise ValueError(f'errors is {errors!r}, expected "raise" or "skip"')
        rows = np.full((len(items), self.config.dim), np.nan, np.float32)
        faults: dict[int, str] = {}
        waiting: list[tuple[int, Floats]] = []
        for i, mel in self._features(items, rate, progress):
            if isinstance(mel, Exception):
                if errors == "raise":
                    raise mel
                faults[i] = str(mel)
                continue
            waiting.append((i, mel))
            if sum(len(m) for _, m in waiting) >= BATCH:
                self._encode(waiting, rows)
                waiting.clear()
        self._encode(waiting, rows)
        return rows, faults

    def _features(
        self, items: list[Any], rate: int | None, progress: bool
    ) -> Iterator[tuple[int, Floats | Exception]]:
        """Decode and transform ahead of the tower, in order, in threads that release the lock."""
        from tqdm import tqdm

        bar = tqdm(total=len(items), unit="clip", disable=not progress, leave=False)
        with bar, ThreadPoolExecutor(self.threads, "reclap-audio") as pool:
            ahead = 2 * BATCH
            pending = [pool.submit(self._feature, i, items, rate) for i in range(min(ahead, len(items)))]
            for i in range(len(items)):
                result = pending.pop(0).result()
                if i + ahead < len(items):
                    pending.append(pool.submit(self._feature, i + ahead, items, rate))
                yield i, result
                bar.update()

    def _feature(self, i: int, items: list[Any], rate: int | None) -> Floats | Exception:
        try:
            clip = _load_item(items[i], rate, self.config.front.rate)
            return audio.window_features(clip, self.config.front)
        except _BAD_FILE as error:
            return _named(error, items[i], i)

    def _encode(self, waiting: list[tuple[int, Floats]], rows: Floats) -> None:
        if not waiting:
            return
        mels = np.concatenate([m for _, m in waiting])
        with self._lock:
            parts = [self._core.audio(self._context, part) for part in _batches(mels, BATCH)]
        embedded, at = np.concatenate(parts), 0
        for i, mel in waiting:
            rows[i] = _pool(embedded[at : at + len(mel)])
            at += len(mel)

    # ---- Naming ------------------------------------------------------------------------------

    def class_vectors(self, labels: Labels, template: str | None = None) -> tuple[list[str], Floats]:
        """Embed labels as classes.

        Parameters
        ----------
        labels : list of str, or mapping of str to list of str
            Labels that go through the template, or labels with the prompts that stand for them.
        template : str, optional
            Contains ``{label}``; the model's own by default.

        Returns
        -------
        labels : list of str
        vectors : ndarray of float32, shape (labels, dim)
            The normalised mean of each label's normalised prompts.

        Raises
        ------
        TypeError, ValueError
            If there is no label, one is empty or occurs twice, or one has no prompt.
        """
        prompts = _prompts(labels, template or self.config.template)
        first = np.cumsum([0, *(len(p) for p in prompts.values())], dtype=np.int32)
        embedded = self.embed_text([p for group in prompts.values() for p in group])
        return list(prompts), core.class_vectors(embedded, first)

    def classify(
        self,
        source: Any,
        labels: Labels,
        top_k: int = 5,
        *,
        rate: int | None = None,
        template: str | None = None,
        errors: str = "raise",
        progress: bool = False,
    ) -> list[Classification]:
        """Name sounds by text, without training on the labels.

        Parameters
        ----------
        source, rate, errors, progress
            As in `embed_audio`.
        labels, template
            As in `class_vectors`.
        top_k : int
            How many labels `Classification.top` holds; at most all.

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
        names, vectors = self.class_vectors(labels, template)
        if top_k < 1:
            raise ValueError(f"top_k is {top_k}, expected at least 1")
        items = _as_list(source)
        rows, faults = self._embed(items, rate, errors, progress)
        good = [i for i in range(len(items)) if i not in faults]
        with self._lock:
            scores, _, order = core.scores(
                self._context, rows[good], vectors, min(top_k, len(names))
            )
        results = [
            Classification(_item_name(item, i), tuple(names), error=faults.get(i))
            for i, item in enumerate(items)
        ]
        for k, i in enumerate(good):
            results[i] = dataclasses.replace(
                results[i], scores=scores[k], order=order[k], logit_scale=self.logit_scale
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
    ) -> Timeline:
        """Score labels along a recording.

        Parameters
        ----------
        source, rate
            One sound, as in `embed_audio`.
        labels, template
            As in `class_vectors`.
        window : float, optional
            Seconds of one window; the model's own by default. Longer ones are pooled.
        hop : float, optional
            Seconds between window starts; half a window by default.

        Returns
        -------
        Timeline
            Scores (windows, labels) and each window's start and end in seconds.
        """
        front = self.config.front
        window = front.window_seconds if window is None else window
        hop = window / 2 if hop is None else hop
        if not (window > 0 and hop > 0):
            raise ValueError(f"window is {window} s and hop {hop} s, expected both above 0")
        names, vectors = self.class_vectors(labels, template)
        clip = _load_item(source, rate, front.rate)
        size, step = max(1, round(window * front.rate)), max(1, round(hop * front.rate))
        starts = np.arange(0, max(1, len(clip) - size + step), step)
        pieces = [clip[s : s + size] for s in starts]
        rows = self.embed_audio(pieces, rate=front.rate)
        ends = np.minimum(starts + size, len(clip))
        with self._lock:
            scores, _, _ = core.scores(self._context, rows, vectors, 1)
        seconds = np.stack([starts, ends], axis=1) / front.rate
        return Timeline(_item_name(source, 0), tuple(names), seconds, scores, self.logit_scale)

    # ---- About -------------------------------------------------------------------------------

    @property
    def digest(self) -> str:
        """SHA-256 over weights and preprocessing; equal digests give equal embeddings."""
        if self._digest is None:
            self._digest = checkpoint.digest(self.config, self._parameters.items())
        return self._digest

    def info(self) -> dict[str, Any]:
        """Describe the model: source, towers, sizes, front end, threads, digest."""
        count = {"audio": 0, "text": 0, "heads": 0}
        for name, array in self._parameters.items():
            part = name.split("_")[0] if "_branch." in name else "heads"
            count[part] += array.size
        front = self.config.front
        return {
            "name": self.config.name,
            "source": str(self._source),
            "dim": self.config.dim,
            "parameters": count | {"total": sum(count.values())},
            "window_seconds": front.window_seconds,
            "rate": front.rate,
            "template": self.config.template,
            "dtype": "float32",
            "threads": self.threads,
            "logit_scale": self.logit_scale,
            "digest": self.digest,
            "config": self.config.to_json(),
        }

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the model as a folder that `load` takes.

        Raises
        ------
        OSError
            If it cannot be written; what was there before remains.
        """
        own = {n: a for n, a in self._parameters.items() if not n.startswith("text_branch.")}
        checkpoint.save(Path(folder), self.config, own, self._source)


# ---- Arguments ---------------------------------------------------------------------------------


def _batches(items: Any, size: int) -> Iterator[Any]:
    for i in range(0, len(items), size):
        yield items[i : i + size]


def _as_list(source: Any) -> list[Any]:
    """Return the sounds of an argument: a list or iterator of them, or one."""
    if isinstance(source, list | tuple):
        numbers = bool(source) and all(isinstance(x, int | float) for x in source)
        return [np.asarray(source, np.float32)] if numbers else list(source)
    return list(source) if isinstance(source, Iterator) else [source]


def _load_item(item: Any, rate: int | None, target: int) -> Floats:
    is_array = isinstance(item, np.ndarray | list | tuple) or hasattr(item, "__array__")
    return audio.load(item, rate=target, source_rate=rate if is_array else None)


def _item_name(item: Any, i: int) -> str:
    return os.fspath(item) if isinstance(item, str | os.PathLike) else f"audio[{i}]"


def _named(error: Exception, item: Any, i: int) -> Exception:
    """Return the error with the item's name in its message."""
    name = _item_name(item, i)
    if isinstance(error, OSError) or name in str(error):
        return error
    return type(error)(f"{name}: {error}")


def _pool(rows: Floats) -> Floats:
    if len(rows) == 1:
        return rows[0]
    mean: Floats = core.class_vectors(rows, [0, len(rows)])[0]
    return mean


def _prompts(labels: Labels, template: str) -> dict[str, list[str]]:
    if "{label}" not in template:
        raise ValueError(f"template is {template!r}, it must contain {{label}}")
    if isinstance(labels, Mapping):
        if not labels:
            raise ValueError("labels: expected at least one, got none")
        return {label: check_texts(p, f"labels[{label!r}]") for label, p in labels.items()}
    names = check_texts(labels, "labels")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"labels: {', '.join(map(repr, twice))} more than once")
    return {name: [template.replace("{label}", name.replace("_", " "))] for name in names}


def _warn_skipped(faults: Mapping[int, str]) -> None:
    if not faults:
        return
    import warnings

    from reclap.errors import SkippedWarning

    shown = "; ".join(list(faults.values())[:5])
    warnings.warn(f"skipped {len(faults)}: {shown}", SkippedWarning, stacklevel=3)
