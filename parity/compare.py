"""The figures of one row: how far our numbers are from upstream's."""

import gc
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import inputs
import librosa
import numpy as np
import torch
import transformers

import reclap
from reclap import audio
from reclap.audio import fusion, windowing
from reclap.audio.streams import Whole


class Oracle(Protocol):
    """What `hub`, `laion` and `microsoft` give: an upstream model, and where its file lies.

    `first_norm` is the batch norm of the audio tower, which sees the log-mels. `suffix` is
    what upstream appends to texts, `longest` the most tokens. `compat` is the option of
    `reclap.load` that goes with it, `captions` how many are embedded in one call.
    """

    path: Path
    rate: int
    window: int
    fused: bool
    suffix: str
    longest: int
    scale: float
    compat: str | None
    captions: int
    model: torch.nn.Module
    first_norm: torch.nn.Module
    tokenizer: transformers.PreTrainedTokenizerBase

    def audio(self, clip: np.ndarray, start: int = 0) -> np.ndarray:
        """Return a row, of any length, of a clip that is cropped at `start` where it is cropped."""

    def files(self, paths: list[Path]) -> list[np.ndarray]:
        """Return rows of files."""

    def text(self, texts: list[str]) -> np.ndarray:
        """Return rows of texts."""


def figures(make: Callable[..., Oracle], *, reduced: bool) -> dict[str, Any]:
    """Compare a model with ours; return figures by name.

    Parameters
    ----------
    make : callable
        Makes the upstream model, given ``reduced``; it is gone when ours is loaded.
    reduced : bool
        Fewer layers, sounds and texts.

    Returns
    -------
    dict of str to number
        ``mel_db``, ``mel_all_db``, ``mel_exact_db``, ``theirs_exact_db``: see `_log_mels`;
        ``audio``, ``files``, ``resampled``, ``stereo``, ``whole``, ``text`` as lengths of
        differences of unit vectors; ``probability`` and ``logit_scale`` as differences, the latter
        relative;
        ``batch``, ``batch_text``, ``alone_text`` as largest differences of an element between
        calls with other company; ``apart`` as the median length of the difference between two
        sounds, against which to read the rest.
    """
    oracle = make(reduced=reduced)
    clips = inputs.clips(oracle.rate, oracle.window, few=reduced)
    seconds = oracle.window / oracle.rate
    files = inputs.files(oracle.path.parent, seconds, few=reduced)
    texts = inputs.texts(oracle.tokenizer, oracle.suffix, oracle.longest)
    labels = inputs.labels(8 if reduced else 50)
    theirs, mels = _theirs(oracle, clips)
    file_rows = {name: unit(np.stack(oracle.files(paths))) for name, paths in files.items()}
    text_rows = unit(oracle.text(texts))
    counts = {"tensors": len(oracle.model.state_dict())}
    counts["parameters"] = sum(p.numel() for p in oracle.model.parameters())
    counts["captions"] = 100 if reduced else oracle.captions
    model = reclap.load(oracle.path, compat=oracle.compat)
    prompts = [model.config.template.format(label=label.replace("_", " ")) for label in labels]
    prompt_rows = unit(oracle.text(prompts))
    chances = softmax(oracle.scale * theirs @ prompt_rows.T)
    scale = oracle.scale
    del oracle  # its weights are not needed any more
    gc.collect()
    return counts | {
        **_log_mels(model, clips, mels),
        **_rows(model, clips, theirs),
        **{n: apart(model.embed_audio(paths), file_rows[n]) for n, paths in files.items()},
        "text": apart(model.embed_text(texts), text_rows),
        "logit_scale": abs(model.logit_scale / scale - 1),
        "probability": _probabilities(model, clips, labels, chances),
        **_company(model, counts["captions"]),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def _theirs(
    oracle: Oracle, clips: dict[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return upstream's embeddings and the log-mels that its first norm saw, by clip.

    Where upstream crops a long clip at random, it is made to crop at our windows, and their unit
    rows are averaged.
    """
    seen: list[np.ndarray] = []

    def note(_: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        seen.append(given[0].transpose(1, 3).detach().numpy())

    rows, mels = [], {}
    with oracle.first_norm.register_forward_pre_hook(note):
        for name, clip in clips.items():
            seen.clear()
            starts = [0] if oracle.fused else _starts(clip, oracle)
            rows.append(unit(np.stack([oracle.audio(clip, s) for s in starts])).mean(axis=0))
            mels[name] = np.concatenate(seen)
    return unit(np.stack(rows)), mels


def _starts(clip: np.ndarray, oracle: Oracle) -> list[int]:
    """Return where the windows of a clip begin, as docs/front_end.md says."""
    if len(clip) <= oracle.window:
        return [0]
    front = audio.AudioConfig(
        rate=oracle.rate,
        samples=oracle.window,
        silence="skip" if oracle.compat is None else "keep",
    )
    return list(windowing.window_starts(Whole(clip), front))


def _log_mels(
    model: reclap.Model, clips: dict[str, np.ndarray], theirs: dict[str, np.ndarray]
) -> dict[str, float]:
    """Compare log-mels in dB.

    Upstream computes in float32, most of it. A band 100 dB below the loudest of its frame then
    holds the rounding errors of the window's coefficients, so ``mel_db`` looks at the bands within
    60 dB, ``mel_all_db`` at all. The formula in float64 is the judge where they differ:
    ``mel_exact_db`` is how far we are from it, ``theirs_exact_db`` how far upstream is.
    """
    front = model.config.front
    found = {"mel_db": 0.0, "mel_all_db": 0.0, "mel_exact_db": 0.0, "theirs_exact_db": 0.0}
    for name, clip in clips.items():
        want = theirs[name]
        ours = np.stack([x.mel for x in fusion.log_mels(Whole(clip), front)]).reshape(want.shape)
        difference = np.abs(ours - want)
        heard = want > want.max(axis=-1, keepdims=True) - 60
        pairs = {"mel_db": difference[heard], "mel_all_db": difference}
        if len(clip) <= front.samples:
            [prepared] = windowing.prepared(Whole(clip), front)
            exact = _exact(windowing.pad(prepared, front), front)
            pairs |= {"mel_exact_db": ours - exact, "theirs_exact_db": want - exact}
        for key, values in pairs.items():
            found[key] = max(found[key], float(np.abs(values).max()))
    return found


def _exact(clip: np.ndarray, front: audio.AudioConfig) -> np.ndarray:
    """Return the log-mel by NumPy's transform and librosa's bank in float64."""
    half = front.n_fft // 2
    padded = np.pad(clip.astype(np.float64), half, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, front.n_fft)[:: front.hop]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(front.n_fft) / front.n_fft)
    bank = librosa.filters.mel(
        sr=front.bank_rate or front.rate,
        n_fft=front.n_fft,
        n_mels=front.mels,
        fmin=front.fmin,
        fmax=front.fmax,
        htk=front.mel_scale == "htk",
        norm="slaney" if front.mel_norm == "slaney" else None,
        dtype=np.float64,
    )
    power = np.abs(np.fft.rfft(frames * window)) ** 2 @ bank.T
    return 10 * np.log10(np.maximum(power, 1e-10))


def _rows(
    model: reclap.Model, clips: dict[str, np.ndarray], theirs: np.ndarray
) -> dict[str, float]:
    """Compare sounds in one call with upstream's, and with ours of each alone."""
    together = model.embed_audio(list(clips.values()), rate=model.config.front.rate)
    alone = [model.embed_audio(clip, rate=model.config.front.rate)[0] for clip in clips.values()]
    between = np.linalg.norm(theirs[:, None] - theirs, axis=2)
    return {
        "audio": apart(together, theirs),
        "batch": float(np.abs(together - np.stack(alone)).max()),
        "apart": float(np.median(between[np.triu_indices(len(theirs), 1)])),
    }


def _probabilities(
    model: reclap.Model, clips: dict[str, np.ndarray], labels: list[str], theirs: np.ndarray
) -> float:
    found = model.classify(list(clips.values()), labels, rate=model.config.front.rate)
    return float(np.abs(np.stack([r.probabilities for r in found]) - theirs).max())


def _company(model: reclap.Model, count: int) -> dict[str, float]:
    """Embed captions in one call, in the file's order and sorted by length; some alone as well."""
    texts = inputs.captions(count)
    order = sorted(range(count), key=lambda i: len(texts[i]))
    rows = model.embed_text(texts)
    by_length = model.embed_text([texts[i] for i in order])
    few = range(0, count, count // 10)
    alone = np.concatenate([model.embed_text([texts[i]]) for i in few])
    return {
        "batch_text": float(np.abs(by_length - rows[order]).max()),
        "alone_text": float(np.abs(alone - rows[few]).max()),
    }


def unit(rows: np.ndarray) -> np.ndarray:
    """Return rows of length one."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def softmax(rows: np.ndarray) -> np.ndarray:
    """Return probabilities of rows of logits."""
    e = np.exp(rows - rows.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def apart(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the largest length of the difference of two rows."""
    return float(np.linalg.norm(ours - theirs, axis=1).max())
