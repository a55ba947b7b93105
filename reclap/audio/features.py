"""Log-mel features of clips and of their windows."""

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from reclap._types import Samples
from reclap.audio.front import AudioConfig
from reclap.audio.streams import Stream, Whole, cut
from reclap.audio.windowing import each_window, mono, prepared
from reclap.runtime.libraries import core

if TYPE_CHECKING:
    from reclap._core import Mel

__all__ = [
    "each_frames",
    "each_log_mel",
    "log_mel",
    "mel_filters",
    "set_level",
    "window_features",
]


def log_mel(samples: npt.ArrayLike, config: AudioConfig | None = None) -> Samples:
    """Compute the log-mel spectrogram of one mono clip.

    Parameters
    ----------
    samples : array_like, shape (T,)
        Amplitudes at ``config.rate``, nominally in [-1, 1]; converted to float32.
    config : AudioConfig, optional
        Window, hop, mel bands and their range in Hz; neither padded nor cropped to its window.

    Returns
    -------
    ndarray of float32, shape (T // hop + 1, mels)
        Decibels, ``10 log10(max(power, 1e-10))``.

    Raises
    ------
    ValueError
        If `samples` is empty, not one-dimensional, or holds NaN or infinity.

    Notes
    -----
    Periodic Hann window, frames centred on multiples of the hop, edges reflected. Two banks are
    in use upstream, 22 dB apart: Slaney's scale with unit area (``clap_module/htsat.py`` of
    LAION-AI/CLAP, which models without fusion use) and HTK's with unit height
    (``training/data.py``, models with fusion). Agrees with transformers' ClapFeatureExtractor
    within 1e-4 dB.

    Examples
    --------
    >>> log_mel(np.zeros(48000, np.float32)).shape
    (101, 64)
    """
    mel: Samples = _mel(config or AudioConfig())(mono(samples))
    return mel


def window_features(samples: npt.ArrayLike, config: AudioConfig | None = None) -> Samples:
    """Compute the log-mel spectrogram of every window of a clip.

    Parameters
    ----------
    samples : array_like, shape (T,)
        Mono clip at ``config.rate``.
    config : AudioConfig, optional
        The front end.

    Returns
    -------
    ndarray of float32, shape (n, config.frames, config.mels)
        Decibels; the windows are those of `windows`.

    Raises
    ------
    ValueError
        If `samples` is empty, not one-dimensional, or holds NaN or infinity.

    Examples
    --------
    >>> window_features(np.zeros(480001, np.float32)).shape
    (2, 1001, 64)
    """
    mels = list(each_log_mel(Whole(mono(samples)), config or AudioConfig()))
    return mels[0][np.newaxis] if len(mels) == 1 else np.stack(mels)


def each_log_mel(stream: Stream, config: AudioConfig) -> Iterator[Samples]:
    """Yield the log-mels of `window_features` one by one."""
    transform = _mel(config)
    for window in each_window(stream, config):
        mel: Samples = transform(window)
        yield mel if config.level_db is None else set_level(mel, config.level_db)


def each_frames(stream: Stream, config: AudioConfig, count: int) -> Iterator[Samples]:
    """Yield the log-mel frames of a whole stream in order, about `count` at a time.

    Each part is computed from as many samples around it as its frames see, so together they equal
    those of `log_mel`.
    """
    mel, hop, total = _mel(config), config.hop, stream.length // config.hop + 1
    margin = config.n_fft // 2 // hop + 1  # frames on either side that share samples with a frame
    firsts = range(0, max(1, total - margin - 1), count)  # the last part takes the remainder
    spans = [(max(0, first - margin), first + count + margin) for first in firsts]
    spans[-1] = (spans[-1][0], total)
    pieces = cut(prepared(stream, config), ((a * hop, b * hop) for a, b in spans))
    for first, (start, stop), piece in zip(firsts, spans, pieces, strict=False):
        last = stop if stop == total else first + count
        yield mel(piece)[first - start : last - start]


def set_level(mel: Samples, level_db: float) -> Samples:
    """Shift a log-mel to a level; values at its floor stay there.

    Parameters
    ----------
    mel : ndarray of float32, shape (frames, mels)
        Decibels, at least -100.
    level_db : float
        Wanted mean power of the frames, each weighted by its power, in dB.

    Returns
    -------
    ndarray of float32, shape (frames, mels)
        Decibels, at least -100. Silence comes back unchanged.
    """
    floor = np.float32(-100)
    heard = mel > floor + np.float32(0.005)
    frames = np.where(heard, np.power(np.float32(10), mel * np.float32(0.1)), 0).sum(axis=1)
    if not frames.any():
        return mel
    present = 10 * np.log10(frames @ frames / frames.sum())
    return np.where(heard, np.maximum(mel + np.float32(level_db - present), floor), floor)


def mel_filters(config: AudioConfig) -> Samples:
    """Return the filter bank of a front end, float32 of shape (mels, n_fft // 2 + 1)."""
    return _mel(config).filters()


@functools.lru_cache(maxsize=16)
def _mel(config: AudioConfig) -> "Mel":
    """Return the transform's tables; they cost more than one clip."""
    mel: Mel = core.Mel(
        rate=config.bank_rate or config.rate,
        n_fft=config.n_fft,
        hop=config.hop,
        mels=config.mels,
        fmin=config.fmin,
        fmax=config.fmax,
        htk=config.mel_scale == "htk",
        area_norm=config.mel_norm == "slaney",
    )
    return mel
