"""Spectral peaks of a clip: what of its spectrogram survives most that is done to a file."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from reclap._types import Samples
from reclap.audio.windowing import mono

__all__ = ["RATE", "Ints", "peaks"]

Ints: TypeAlias = npt.NDArray[np.int64]

RATE = 8000  # Hz of the samples that all functions here take
_FRAME, _HOP = 512, 128
_LOWEST, _HIGHEST = 6, 232  # bins that peaks may have
_TALL, _WIDE = 4, 6  # frames and bins on either side that a peak exceeds
_RANGE = 11.5  # of peaks below the loudest, in units of log amplitude: 100 dB
_PER_SECOND = 50  # strongest peaks of a second


def peaks(samples: npt.ArrayLike) -> tuple[Ints, Ints]:
    """Compute the local maxima of the spectrogram of a clip.

    Parameters
    ----------
    samples : array_like, shape (T,)
        Mono clip at `RATE`.

    Returns
    -------
    frames, bins : ndarray of int64, shape (n,)
        Frame of 16 ms and bin, below 232, of each peak, in order of time; 50 a second at most.

    Raises
    ------
    ValueError
        If `samples` is empty, not one-dimensional, or holds NaN or infinity.
    """
    padded = np.pad(mono(samples), (_FRAME // 2, _FRAME))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _FRAME)[::_HOP]
    window = np.hanning(_FRAME + 1)[:-1].astype(np.float32)
    power = np.abs(np.fft.rfft(frames * window))[:, _LOWEST:_HIGHEST].astype(np.float32)
    level = np.log(power + np.float32(1e-7))
    highest = _running_max(_running_max(level, _TALL), _WIDE, axis=1)
    loud = (level > level.max() - _RANGE) & (power > 1e-6)
    at, bins = np.nonzero((level >= highest) & loud)
    second = at * _HOP // RATE
    order = np.lexsort((-level[at, bins], second))
    rank = np.arange(len(order)) - np.searchsorted(second[order], second[order])
    kept = np.sort(order[rank < _PER_SECOND])
    return at[kept], bins[kept]


def _running_max(values: Samples, reach: int, axis: int = 0) -> Samples:
    """Return the largest value within a reach along an axis."""
    values = values if axis == 0 else values.T
    out = values.copy()
    for k in range(1, min(reach, len(values) - 1) + 1):
        np.maximum(out[:-k], values[k:], out=out[:-k])
        np.maximum(out[k:], values[:-k], out=out[k:])
    return out if axis == 0 else out.T
