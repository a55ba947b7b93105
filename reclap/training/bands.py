"""Band limits of training: what a recording of a low sampling rate, or of a telephone, leaves."""

import functools

import numpy as np
import numpy.typing as npt

from reclap._types import Floats
from reclap.audio.features import mel_filters
from reclap.audio.front import AudioConfig

__all__ = ["response"]

RISE, FALL = (1.0, 1.25), (0.92, 0.98)  # slopes, as shares of the lower and of the upper edge
POINTS, REACH = 8, 24  # grid points a bin of the transform, and bins that its window leaks


@functools.lru_cache(maxsize=1024)
def response(front: AudioConfig, band: tuple[float, float], speed: float = 1.0) -> Floats:
    """Return the gain of mel power per mel band that a band limit has.

    Parameters
    ----------
    front : AudioConfig
        The front end.
    band : tuple of float
        Lower and upper edge in Hz. Amplitudes rise from 1 to 1.25 times the lower edge, and fall
        from 0.92 to 0.98 times the upper one, with raised cosines; the fall is that of soxr to a
        sampling rate of twice the edge and back.
    speed : float
        Factor by which the clip plays faster after the limit, which moves the edges with it.

    Returns
    -------
    ndarray of float32, shape (mels,)
        Exact for a sound whose spectrum is flat about the edges, with what leaks from inside the
        band through the Hann window; otherwise an average over the width of a mel band.

    Examples
    --------
    >>> gain = response(AudioConfig(rate=16000, fmax=8000.0), (0.0, 4000.0))
    >>> gain[0].round(3), gain[-1] < 1e-9
    (np.float32(1.0), np.True_)
    """
    low, high = (edge * speed for edge in band)
    bins = front.n_fft // 2 + 1
    grid = np.arange(-REACH * POINTS, (bins + REACH) * POINTS) / POINTS
    hertz = np.abs(grid) * front.rate / front.n_fft
    rise, fall = (_rise(hertz, edge, slope) for edge, slope in ((low, RISE), (high, FALL)))
    passed = rise * (1 - fall)
    leaked = np.convolve(passed**2, _leakage(), "same")
    at_bins = leaked[REACH * POINTS :: POINTS][:bins]
    filters = mel_filters(front).astype(np.float64)
    gain = filters @ at_bins / np.maximum(filters.sum(axis=1), np.finfo(np.float32).tiny)
    limited: Floats = np.minimum(gain, 1).astype(np.float32)
    return limited


def _rise(
    hertz: npt.NDArray[np.float64], edge: float, slope: tuple[float, float]
) -> npt.NDArray[np.float64]:
    """Return a raised cosine that rises from 0 to 1 along a slope."""
    start, full = slope[0] * edge, slope[1] * edge
    share = np.clip((hertz - start) / max(full - start, 1e-9), 0, 1)
    return 0.5 - 0.5 * np.cos(np.pi * share)


def _leakage() -> npt.NDArray[np.float64]:
    """Return the power spectrum of a Hann window around a frequency, of sum 1."""
    x = np.arange(-REACH * POINTS, REACH * POINTS + 1) / POINTS
    with np.errstate(divide="ignore", invalid="ignore"):
        amplitude = np.where(np.abs(x) == 1, 0.5, np.sinc(x) / (1 - x**2))
    power = amplitude**2
    kernel: npt.NDArray[np.float64] = power / power.sum()
    return kernel
