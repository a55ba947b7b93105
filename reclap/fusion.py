"""Feature fusion: a clip of any length as one input, the whole of it and three cuts."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from reclap import audio
from reclap.audio import AudioConfig

__all__ = ["Pictures", "fused_features", "pictures"]

Floats = npt.NDArray[np.float32]

VIEWS = 4  # the whole clip, its front, middle and back


class Pictures(NamedTuple):
    """What the audio tower takes of one clip.

    Attributes
    ----------
    mel : ndarray of float32, shape (n, frames, mels), or with fusion (1, 4, frames, mels)
        Decibels.
    longer : bool
        Whether the clip exceeds the window, so that a model with fusion looks at its cuts.
    """

    mel: Floats
    longer: bool


def pictures(samples: npt.ArrayLike, config: AudioConfig) -> Pictures:
    """Turn a clip into what the model takes, as ``config.truncation`` says.

    Parameters
    ----------
    samples : array_like, shape (T,)
        Mono clip at ``config.rate``.
    config : AudioConfig
        The front end.

    Raises
    ------
    ValueError
        If `samples` is empty, not one-dimensional, or holds NaN or infinity.
    """
    if config.truncation == "fusion":
        mel, longer = fused_features(samples, config)
        return Pictures(mel[np.newaxis], longer)
    return Pictures(audio.window_features(samples, config), False)


def fused_features(samples: npt.ArrayLike, config: AudioConfig) -> tuple[Floats, bool]:
    """Compute the four log-mel pictures that a model with feature fusion takes.

    Parameters
    ----------
    samples : array_like, shape (T,)
        Mono clip at ``config.rate``, of any length.
    config : AudioConfig
        The front end; ``fusion_resize`` says how the whole clip is shrunk.

    Returns
    -------
    mel : ndarray of float32, shape (4, config.frames, config.mels)
        Decibels: the whole clip, shrunk in time, then cuts from its front, middle and back.
        Four times the same picture where the clip fits into one.
    longer : bool
        Whether it does not fit.

    Raises
    ------
    ValueError
        If `samples` is empty, not one-dimensional, or holds NaN or infinity.

    Notes
    -----
    A clip shorter than the window is padded as ``config.padding`` says. One that is longer, but by
    less than a hop, has as many frames as the window and is taken as it is, not flagged.

    Otherwise the places where a cut of ``config.frames`` frames can start are divided into three
    consecutive parts of equal size, the first ones longer by one where they do not divide evenly.
    The reference draws one start from each part at random (``_random_mel_fusion`` of transformers'
    ClapFeatureExtractor; ``training/data.py``, get_audio_features, of LAION-AI/CLAP). Here it is
    the middle of the part (of an even number the earlier one), so that equal clips give equal
    pictures. A part without places, in a clip only one frame too long, starts at 0 as there.

    A short clip is never flagged. (ClapFeatureExtractor flags one clip of a call at random where
    none is longer, which makes an embedding depend on its company; LAION's evaluation does not.)

    Examples
    --------
    >>> config = AudioConfig(truncation="fusion", mel_scale="htk", mel_norm="none")
    >>> mel, longer = fused_features(np.zeros(48000 * 25, np.float32), config)
    >>> mel.shape, longer
    ((4, 1001, 64), True)
    """
    clip = audio.prepare(samples, config)
    mel = audio.log_mel(audio.pad(clip, config), config)
    if config.level_db is not None:
        mel = audio.set_level(mel, config.level_db)
    if len(mel) == config.frames:
        return np.stack([mel] * VIEWS), False
    shrink = shrink_antialiased if config.fusion_resize == "antialias" else shrink_bilinear
    cuts = [mel[start : start + config.frames] for start in cut_starts(len(mel), config.frames)]
    return np.stack([shrink(mel, config.frames), *cuts]), True


def cut_starts(frames: int, size: int) -> list[int]:
    """Return where the cuts of `size` frames start: the middle of each third of the places."""
    parts = np.array_split(np.arange(frames - size + 1), VIEWS - 1)
    return [int(part[(len(part) - 1) // 2]) if len(part) else 0 for part in parts]


def shrink_bilinear(mel: Floats, frames: int) -> Floats:
    """Shrink along time to `frames`, as torch's interpolate with align_corners False.

    Each result mixes two neighbours, whatever the factor: frames in between are skipped. The
    coordinate is computed in float32, here and below, as torch does; it tells in long clips.
    """
    step = np.float32(len(mel)) / np.float32(frames)
    at = np.float64(step) * (np.arange(frames) + 0.5) - 0.5  # rounded once: torch's is fused
    at = np.maximum(at.astype(np.float32), 0)
    first = at.astype(np.int64)
    second = np.minimum(first + 1, len(mel) - 1)
    share = (at - first).astype(np.float32)[:, np.newaxis]
    mixed: Floats = mel[first] * (1 - share) + mel[second] * share
    return mixed


def shrink_antialiased(mel: Floats, frames: int) -> Floats:
    """Shrink along time to `frames` by triangles as wide as the step between results.

    As torch's interpolate with antialias, which torchvision's Resize does since 0.17: what LAION's
    code gives on an installation of today. Released models were trained before.
    """
    step, half = np.float32(len(mel)) / np.float32(frames), np.float32(0.5)
    rows = np.empty((frames, mel.shape[1]), np.float32)
    for i, centre in enumerate(step * (np.arange(frames, dtype=np.float32) + half)):
        first, last = max(int(centre - step + half), 0), min(int(centre + step + half), len(mel))
        distance = np.abs(np.arange(first, last, dtype=np.float32) - centre + half)
        weights = np.maximum(1 - distance / step, 0)
        rows[i] = weights / weights.sum() @ mel[first:last]
    return rows
