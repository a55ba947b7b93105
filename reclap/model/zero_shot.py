"""Zero-shot classification of sounds and recordings by labels in words."""

import contextlib
import functools
import itertools
import math
from collections.abc import Generator, Sequence

import numpy as np

from reclap._types import Floats
from reclap.audio import inputs
from reclap.errors import Errors
from reclap.model.classes import Classes, prompts_of, warn_of_unknown
from reclap.model.embedder import Embedder, pool, require_errors
from reclap.model.prompt_cache import PromptEmbeddings
from reclap.model.results import Classification, Embedding, Timeline
from reclap.prompts.bank import PromptBank
from reclap.prompts.combine import Rule, rule_index
from reclap.prompts.strategies import Labels
from reclap.runtime.progress import bar as progress_bar

__all__ = ["ZeroShotClassifier"]


class ZeroShotClassifier(Embedder):
    """An embedder with zero-shot classification; the base of `reclap.Model`."""

    def class_vectors(
        self,
        labels: Labels,
        template: str | None = None,
        *,
        n_prompts: int | None = None,
        seed: int = 0,
        cache: bool = True,
    ) -> tuple[tuple[str, ...], Floats]:
        """Embed labels as classes.

        Parameters
        ----------
        labels : list of str, mapping of str to list of str, or PromptBank
            Labels for the template, or labels with their prompts.
        template : str, optional
            Prompt with ``{label}``; the model's own by default.
        n_prompts : int, optional
            Number of prompts of each label, drawn without replacement; all by default.
        seed : int
            Seed of the draw.
        cache : bool
            Whether embeddings of prompts are cached: of the last banks and lists in memory, of
            banks and long lists (256 prompts) in the cache folder (``RECLAP_CACHE``), by the
            digests of model and prompts.

        Returns
        -------
        labels : tuple of str
            The labels, in order.
        vectors : ndarray of float32, shape (labels, dim)
            The normalised mean of each label's normalised prompts.

        Raises
        ------
        TypeError, ValueError
            If there is no label, one is empty or occurs twice, or one has too few prompts.

        Examples
        --------
        >>> import reclap
        >>> labels, vectors = reclap.load("mini").class_vectors(["dog", "rain"], "a {label}")
        >>> labels, vectors.shape
        (('dog', 'rain'), (2, 384))
        """
        classes = self._classes(labels, template, n_prompts, seed, "mean_embedding", cache)
        return classes.labels, classes.vectors()

    @functools.cached_property
    def _prompts(self) -> PromptEmbeddings:
        return PromptEmbeddings()

    def _classes(
        self,
        labels: Labels,
        template: str | None,
        n_prompts: int | None,
        seed: int,
        rule: Rule,
        cache: bool,
        progress: bool = False,
    ) -> Classes:
        rule_index(rule)
        template = self.config.template if template is None else template
        prompts = prompts_of(labels, template, n_prompts, seed)
        texts = [text for group in prompts.values() for text in group]
        if self._tokenizer is not None:
            warn_of_unknown(self._tokenizer, labels, prompts)
        if not cache:
            return Classes(prompts, self.embed_text(texts), rule)
        bank = labels if isinstance(labels, PromptBank) else None
        return Classes(prompts, self._prompts.embed(self, texts, bank, progress=progress), rule)

    def classify(
        self,
        source: inputs.Sounds,
        labels: Labels,
        top_k: int = 5,
        *,
        rate: int | None = None,
        channels_first: bool = False,
        window_hop: float | None = None,
        template: str | None = None,
        combine: Rule = "mean_embedding",
        n_prompts: int | None = None,
        seed: int = 0,
        explain: bool = False,
        cache: bool = True,
        errors: Errors = "raise",
        progress: bool = False,
    ) -> list[Classification]:
        """Classify sounds zero-shot: by labels in words, without training on them.

        Parameters
        ----------
        source : path, bytes, file object, array, or a list of them
            Sounds, as in `embed_audio`.
        labels : list of str, mapping of str to list of str, or PromptBank
            Labels for the template, or labels with their prompts.
        top_k : int
            Number of labels in `Classification.top`; at most all.
        rate : int, optional
            Sample rate of arrays in Hz.
        channels_first : bool
            Whether arrays of two axes are (channels, T).
        window_hop : float, optional
            Step between the windows of a long clip, as in `embed_audio`.
        template : str, optional
            Prompt with ``{label}``; the model's own by default.
        combine : str
            Aggregation rule, which makes one score of the cosines with a label's prompts:
            "mean_embedding", "mean_logit", "max", "logsumexp", "entropy", "entropy_batch" or
            "relevance", see ``docs/prompts.md``. With "entropy_batch", and only then, the scores of
            a sound depend on the others.
        n_prompts : int, optional
            Number of prompts of each label, as in `class_vectors`.
        seed : int
            Seed of the draw of prompts.
        explain : bool
            Whether results carry an `attribution`, the contribution of each prompt.
        cache : bool
            Whether embeddings of prompts are cached, as in `class_vectors`.
        errors : {"raise", "skip"}
            Effect of a bad sound: an exception, or a result with its `error` set.
        progress : bool
            Show a progress bar on standard error.

        Returns
        -------
        list of Classification
            One for each sound, in order.

        Raises
        ------
        OSError, FormatError, ValueError, TypeError, ReclapError
            As `embed_audio` and `class_vectors`; ValueError also for an unknown rule or a `top_k`
            below 1.

        Examples
        --------
        >>> import numpy as np, reclap
        >>> model = reclap.load("mini")
        >>> [r] = model.classify(np.zeros(48000), ["dog bark", "rain"], rate=48000)
        >>> sorted(r.top) == ["dog bark", "rain"]
        True
        """
        _require_top_k(top_k)
        classes = self._classes(labels, template, n_prompts, seed, combine, cache, progress)
        reading = inputs.Reading(rate, channels_first, window_hop)
        found = itertools.chain.from_iterable(self._groups(source, reading, errors, progress))
        return self._classified(list(found), classes, top_k, explain=explain)

    def iter_classify(
        self,
        source: inputs.Sounds,
        labels: Labels,
        top_k: int = 5,
        *,
        rate: int | None = None,
        channels_first: bool = False,
        window_hop: float | None = None,
        template: str | None = None,
        combine: Rule = "mean_embedding",
        n_prompts: int | None = None,
        seed: int = 0,
        explain: bool = False,
        cache: bool = True,
        errors: Errors = "raise",
        progress: bool = False,
    ) -> Generator[Classification, None, None]:
        """Classify sounds one after the other, in memory that does not grow with their number.

        Parameters
        ----------
        source : path, bytes, file object, array, or an iterable of them
            Sounds, as in `iter_embed`.
        labels : list of str, mapping of str to list of str, or PromptBank
            Labels for the template, or labels with their prompts.
        top_k : int
            Number of labels in `Classification.top`; at most all.
        rate : int, optional
            Sample rate of arrays in Hz.
        channels_first : bool
            Whether arrays of two axes are (channels, T).
        window_hop : float, optional
            Step between the windows of a long clip, as in `embed_audio`.
        template : str, optional
            Prompt with ``{label}``; the model's own by default.
        combine : str
            Aggregation rule, as in `classify`; but not "entropy_batch", with which sounds depend on
            each other.
        n_prompts : int, optional
            Number of prompts of each label, as in `class_vectors`.
        seed : int
            Seed of the draw of prompts.
        explain : bool
            Whether results carry an `attribution`, the contribution of each prompt.
        cache : bool
            Whether embeddings of prompts are cached, as in `class_vectors`.
        errors : {"raise", "skip"}
            Effect of a bad sound: an exception, or a result with its `error` set.
        progress : bool
            Show a progress bar on standard error.

        Yields
        ------
        Classification
            One for each sound, in order; as `classify` gives it.

        Raises
        ------
        OSError, FormatError, ValueError, TypeError, ReclapError
            As `classify`; results before the bad item come first. ValueError for "entropy_batch".

        Examples
        --------
        >>> import numpy as np, reclap
        >>> sounds = (np.zeros(16000) for _ in range(3))
        >>> found = reclap.load("mini").iter_classify(sounds, ["dog", "rain"], rate=16000)
        >>> [result.file for result in found]
        ['audio[0]', 'audio[1]', 'audio[2]']
        """
        _require_top_k(top_k)
        if combine == "entropy_batch":
            raise ValueError('combine is "entropy_batch", which needs all sounds: use classify')
        classes = self._classes(labels, template, n_prompts, seed, combine, cache, progress)
        reading = inputs.Reading(rate, channels_first, window_hop)
        with contextlib.closing(self._groups(source, reading, errors, progress)) as groups:
            for group in groups:
                yield from self._classified(group, classes, top_k, explain=explain)

    def _classified(
        self, found: Sequence[Embedding], classes: Classes, top_k: int, *, explain: bool
    ) -> list[Classification]:
        """Classify embedded sounds; those without embedding keep their error."""
        k = min(top_k, len(classes.labels))
        good = [item for item in found if item.error is None]
        embeddings = np.array([item.row for item in good], np.float32).reshape(-1, self.config.dim)
        with self._lock:
            scored = classes.score(self._context, embeddings, self.logit_scale, k, explain=explain)
        scored_items = iter(zip(scored.scores, scored.order, scored.attributions, strict=True))
        results = []
        for item in found:
            if item.error is not None:
                results.append(Classification(item.file, classes.labels, error=item.error))
                continue
            scores, order, attribution = next(scored_items)
            results.append(
                Classification(
                    item.file,
                    classes.labels,
                    scores,
                    order,
                    logit_scale=self.logit_scale,
                    attribution=attribution,
                )
            )
        return results

    def timeline(
        self,
        source: inputs.Sounds,
        labels: Labels,
        window: float | None = None,
        hop: float | None = None,
        *,
        rate: int | None = None,
        channels_first: bool = False,
        template: str | None = None,
        combine: Rule = "mean_embedding",
        n_prompts: int | None = None,
        seed: int = 0,
        cache: bool = True,
        errors: Errors = "raise",
        progress: bool = False,
    ) -> Timeline:
        """Classify the windows of a recording zero-shot.

        Parameters
        ----------
        source : path, bytes, file object or array
            One sound, as in `embed_audio`.
        labels : list of str, mapping of str to list of str, or PromptBank
            Labels for the template, or labels with their prompts.
        window : float, optional
            Length of a window in seconds; the model's own by default. Longer ones are pooled.
        hop : float, optional
            Step between window starts in seconds; half a window by default.
        rate : int, optional
            Sample rate of an array in Hz.
        channels_first : bool
            Whether an array of two axes is (channels, T).
        template : str, optional
            Prompt with ``{label}``; the model's own by default.
        combine : str
            Aggregation rule, as in `classify`; the windows are one batch.
        n_prompts : int, optional
            Number of prompts of each label, as in `class_vectors`.
        seed : int
            Seed of the draw of prompts.
        cache : bool
            Whether embeddings of prompts are cached, as in `class_vectors`.
        errors : {"raise", "skip"}
            Effect of a bad sound: an exception, or a result without windows, with its `error` set.
        progress : bool
            Show a progress bar on standard error.

        Returns
        -------
        Timeline
            Scores (windows, labels) and each window's start and end in seconds.

        Raises
        ------
        OSError, FormatError, ValueError, TypeError
            As `classify`, or if `window` or `hop` is below one sample, there are more
            than 2^20 windows, or not one sound.

        Examples
        --------
        >>> import numpy as np, reclap
        >>> noise = np.random.default_rng(0).normal(0, 0.1, 160000)
        >>> found = reclap.load("mini").timeline(noise, ["dog", "rain"], window=5.0, rate=16000)
        >>> found.seconds.tolist()
        [[0.0, 5.0], [2.5, 7.5], [5.0, 10.0]]
        """
        front = self.config.front
        window = front.window_seconds if window is None else window
        hop = window / 2 if hop is None else hop
        if not (0 < window < math.inf and 0 < hop < math.inf):
            raise ValueError(f"window is {window} s and hop {hop} s, expected both above 0")
        require_errors(errors)
        items = inputs.as_list(source)
        if len(items) != 1:
            raise ValueError(f"timeline: expected one sound, got {len(items)}")
        inputs.require_rate(items, rate)
        classes = self._classes(labels, template, n_prompts, seed, combine, cache, progress)
        for what, length in (("window", window), ("hop", hop)):
            if length * front.rate < 1:
                raise ValueError(
                    f"{what} is {length:g} s, expected at least one sample at {front.rate} Hz"
                )
        size, step = round(window * front.rate), round(hop * front.rate)
        reading = inputs.Reading(rate, channels_first)
        found = inputs.pieces(items[0], reading, front, size, step)
        name, faults = inputs.name_of(items[0], 0), list[str]()
        if errors == "skip":
            found = inputs.without_fault(found, faults)
        bar = progress_bar(None, "window", shown=progress)
        spans: list[tuple[int, int]] = []
        parts: list[list[Floats]] = []
        with bar, contextlib.closing(found):
            mels = (((a, b), mel) for a, b, mel in found)
            for span, embedding in self._embed_log_mels(mels, lambda _: name):
                if spans[-1:] != [span]:
                    spans.append(span)
                    parts.append([])
                    bar.update()
                parts[-1].append(embedding)
        if faults:
            none = np.empty((0, 2)), np.empty((0, len(classes.labels)), np.float32)
            return Timeline(name, classes.labels, *none, self.logit_scale, faults[0])
        embeddings = np.concatenate([pool(np.stack(part)) for part in parts])
        with self._lock:
            scores = classes.score(self._context, embeddings, self.logit_scale, 1).scores
        seconds = np.array(spans, np.float64) / front.rate
        return Timeline(name, classes.labels, seconds, scores, self.logit_scale)


def _require_top_k(top_k: int) -> None:
    """Refuse a `top_k` below 1."""
    if top_k < 1:
        raise ValueError(f"top_k is {top_k}, expected at least 1")
