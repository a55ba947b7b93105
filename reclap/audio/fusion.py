"""Inputs for feature fusion: the log-mel of a whole clip, shrunk, and three cuts of it."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from reclap._types import Floats
from reclap.audio import features, windowing
from reclap.audio.front import AudioConfig
from reclap.audio.streams import Stream, Whole
from reclap.errors import FormatError

__all__ = ["LogMel", "cut_ranges", "fused", "fused_features", "log_mels"]


VIEWS = 4  # the whole clip, its front, middle and back
PART = 4096  # frames of a long clip's log-mel at a time


class LogMel(NamedTuple):
    """Log-mel that is one input of the audio tower.

    Attributes
    ----------
    mel : ndarray of float32, shape (frames, mels), or with fusion (4, frames, mels)
        Decibels.
    longer : bool
        Whether the clip exceeds the window, so that a model with fusion looks at its cuts.
    """

    mel: Floats
    longer: bool


def log_mels(stream: Stream, config: AudioConfig) -> Iterator[LogMel]:
    """Yield the log-mels of a sound, one for each input of the tower.

    Parameters
    ----------
    stream : Stream
        The sound at ``config.rate``.
    config : AudioConfig
        The front end; its `truncation` chooses between windows and fusion.

    Yields
    ------
    LogMel
        One for each window, or a single one with fusion.

    Raises
    ------
    OSError, FormatError, ValueError
        If the stream cannot be read to its end, or holds NaN or infinity.
    """
    if config.truncation == "fusion":
        yield LogMel(*_fused(stream, config))
        return
    for mel in features.each_log_mel(stream, config):
        yield LogMel(mel, False)


def fused_features(samples: npt.ArrayLike, config: AudioConfig) -> tuple[Floats, bool]:
    """Compute the four log-mels that a model with feature fusion takes as one input.

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
        Four times the same where the clip fits into the window.
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

    Otherwise the frames at which a cut of ``config.frames`` frames can start are divided into three
    consecutive parts of equal size, the first ones longer by one where they do not divide evenly.
    The reference draws one start from each part at random (``_random_mel_fusion`` of transformers'
    ClapFeatureExtractor; ``training/data.py``, get_audio_features, of LAION-AI/CLAP). Here it is
    the middle of the part (of an even number the earlier one), so that equal clips give equal
    log-mels. An empty part, in a clip only one frame too long, starts at 0 as there.

    A short clip is never flagged. (ClapFeatureExtractor flags one clip of a call at random where
    none is longer, which makes an embedding depend on its company; LAION's evaluation does not.)

    Examples
    --------
    >>> config = AudioConfig(truncation="fusion", mel_scale="htk", mel_norm="none")
    >>> mel, longer = fused_features(np.zeros(48000 * 25, np.float32), config)
    >>> mel.shape, longer
    ((4, 1001, 64), True)
    """
    return _fused(Whole(windowing.mono(samples)), config)


def _fused(stream: Stream, config: AudioConfig) -> tuple[Floats, bool]:
    """Compute `fused_features` part by part; to set a level, the log-mel must be whole."""
    size, total, level = config.frames, stream.length // config.hop + 1, config.level_db
    if total <= size:
        clip = np.concatenate(list(windowing.prepared(stream, config)))
        if len(clip) < stream.length:
            raise FormatError("the file became shorter while it was read")
        mel = features.log_mel(windowing.pad(clip, config), config)
        return np.stack([mel if level is None else features.set_level(mel, level)] * VIEWS), False
    views, at = _views(total, cut_starts(total, size), config), 0
    for part in features.each_frames(stream, config, PART if level is None else total):
        mel = part if level is None else features.set_level(part, level)
        for view in views:
            view.add(mel, at)
        at += len(mel)
    if at < total:
        raise FormatError("the file became shorter while it was read")
    return np.stack([view.rows for view in views]), True


def fused(mel: Floats, starts: Sequence[int], config: AudioConfig) -> Floats:
    """Return the four log-mels of a clip longer than the window, given where its cuts start.

    Parameters
    ----------
    mel : ndarray of float32, shape (T, config.mels)
        Decibels of the whole clip, more than ``config.frames`` frames.
    starts : sequence of int
        First frames of the cuts: front, middle, back.
    config : AudioConfig
        The front end.

    Returns
    -------
    ndarray of float32, shape (4, config.frames, config.mels)
        The whole clip, shrunk in time, then the cuts.

    Examples
    --------
    >>> config = AudioConfig(truncation="fusion", mel_scale="htk", mel_norm="none")
    >>> fused(np.zeros((2501, 64), np.float32), [0, 700, 1500], config).shape
    (4, 1001, 64)
    """
    views = _views(len(mel), starts, config)
    for view in views:
        view.add(mel, 0)
    return np.stack([view.rows for view in views])


def _views(
    total: int, starts: Sequence[int], config: AudioConfig
) -> "tuple[Bilinear | Antialiased | _Cut, ...]":
    shrink = Antialiased if config.fusion_resize == "antialias" else Bilinear
    cuts = [_Cut(start, config.frames, config.mels) for start in starts]
    return shrink(total, config.frames, config.mels), *cuts


def cut_ranges(frames: int, size: int) -> list[range]:
    """Return where each of the cuts of `size` frames may start.

    Parameters
    ----------
    frames, size : int
        Frames of the clip and of a cut.

    Returns
    -------
    list of range
        Of the front, the middle and the back cut; 0 alone where a third of all starts is empty.

    Examples
    --------
    >>> cut_ranges(14, 10), cut_ranges(11, 10)
    ([range(0, 2), range(2, 4), range(4, 5)], [range(0, 1), range(1, 2), range(0, 1)])
    """
    parts = np.array_split(np.arange(frames - size + 1), VIEWS - 1)
    return [range(int(p[0]), int(p[-1]) + 1) if len(p) else range(1) for p in parts]


def cut_starts(frames: int, size: int) -> list[int]:
    """Return where the cuts of `size` frames start: the middle of each third of their range."""
    return [part[(len(part) - 1) // 2] for part in cut_ranges(frames, size)]


class _Cut:
    """Frames of a log-mel from `start` on."""

    def __init__(self, start: int, frames: int, mels: int) -> None:
        self.start, self.rows = start, np.empty((frames, mels), np.float32)

    def add(self, mel: Floats, at: int) -> None:
        """Add the next frames, which begin at `at`."""
        first = max(self.start, at)
        last = max(first, min(self.start + len(self.rows), at + len(mel)))
        self.rows[first - self.start : last - self.start] = mel[first - at : last - at]


class Bilinear:
    """Log-mel shrunk along time, as torch's interpolate with align_corners False.

    Each result mixes two neighbours, whatever the factor: frames in between are skipped. The
    coordinate is computed in float32, here and below, as torch does; it tells in long clips.
    """

    def __init__(self, total: int, frames: int, mels: int) -> None:
        step = np.float32(total) / np.float32(frames)
        at = np.float64(step) * (np.arange(frames) + 0.5) - 0.5  # rounded once: torch's is fused
        at = np.maximum(at.astype(np.float32), 0)
        first = at.astype(np.int64)
        share = (at - first).astype(np.float32)
        self._mixed = [(first, 1 - share), (np.minimum(first + 1, total - 1), share)]
        self.rows = np.zeros((frames, mels), np.float32)

    def add(self, mel: Floats, at: int) -> None:
        """Add the next frames, which begin at `at`."""
        for index, share in self._mixed:
            here = slice(*np.searchsorted(index, (at, at + len(mel))))
            self.rows[here] += mel[index[here] - at] * share[here, np.newaxis]


class Antialiased:
    """Log-mel shrunk along time by triangles as wide as the step between results.

    As torch's interpolate with antialias, which torchvision's Resize does since 0.17: what LAION's
    code gives on an installation of today. Released models were trained before.
    """

    def __init__(self, total: int, frames: int, mels: int) -> None:
        self._step, half = np.float32(total) / np.float32(frames), np.float32(0.5)
        self._centre = self._step * (np.arange(frames, dtype=np.float32) + half)
        self._first = np.maximum((self._centre - self._step + half).astype(np.int64), 0)
        self._last = np.minimum((self._centre + self._step + half).astype(np.int64), total)
        self.rows = np.zeros((frames, mels), np.float32)

    def add(self, mel: Floats, at: int) -> None:
        """Add the next frames, which begin at `at`."""
        for i in np.flatnonzero((self._first < at + len(mel)) & (self._last > at)):
            first, last = self._first[i], self._last[i]
            distance = np.abs(np.arange(first, last, dtype=np.float32) - self._centre[i] + 0.5)
            weights = np.maximum(1 - distance / self._step, 0)
            weights /= weights.sum()
            a, b = max(first, at), min(last, at + len(mel))
            self.rows[i] += weights[a - first : b - first] @ mel[a - at : b - at]
