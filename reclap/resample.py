"""Other sampling rates."""

import functools
import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["RESAMPLERS", "resample"]

Samples: TypeAlias = npt.NDArray[np.float32]

RESAMPLERS = ("soxr", "sinc")
ZEROS, ROLLOFF = 6, 0.99  # of the sinc: zero crossings each side, cut-off as a share of Nyquist's


def resample(samples: Samples, source_rate: int, rate: int, resampler: str = "soxr") -> Samples:
    """Change the sampling rate.

    Parameters
    ----------
    samples : ndarray of float32, shape (T,) or (T, channels)
        Amplitudes.
    source_rate, rate : int
        Rate in Hz that they have, and the wanted one.
    resampler : {"soxr", "sinc"}
        The library soxr (quality HQ), as librosa; or a sinc under a Hann window with six zero
        crossings on each side, cut off at 0.99 of the lower Nyquist frequency, as torchaudio
        (``functional.resample`` with its defaults), which MS-CLAP uses.

    Returns
    -------
    ndarray of float32, shape (T',) or (T', channels)
        At least one frame. Contiguous.

    Raises
    ------
    ValueError
        For another resampler.
    """
    if resampler not in RESAMPLERS:
        raise ValueError(f"resampler is {resampler!r}, expected one of {', '.join(RESAMPLERS)}")
    if source_rate == rate:
        return np.ascontiguousarray(samples)
    if resampler == "sinc":
        return _sinc(samples, source_rate, rate)
    import soxr  # here, because importing reclap should stay cheap

    out: Samples = soxr.resample(samples, source_rate, rate, quality="HQ")
    if len(out) == 0:  # a clip shorter than one output sample
        return np.ascontiguousarray(samples[:1])
    return np.ascontiguousarray(out, np.float32)


def _sinc(samples: Samples, source_rate: int, rate: int) -> Samples:
    """Filter blocks of `old` samples into `new` ones, where old : new are the rates' ratio."""
    common = math.gcd(source_rate, rate)
    old, new = source_rate // common, rate // common
    filters, reach = _filters(old, new)
    length = -(-new * len(samples) // old)
    channels = samples.reshape(len(samples), -1).T
    out = np.empty((len(channels), length), np.float32)
    for row, channel in zip(out, channels, strict=True):
        padded = np.pad(channel, (reach, reach + old))
        blocks = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + old)[::old]
        row[:] = (blocks @ filters).reshape(-1)[:length]
    return np.ascontiguousarray(out.T.reshape(length, *samples.shape[1:]))


@functools.lru_cache(maxsize=8)
def _filters(old: int, new: int) -> tuple[Samples, int]:
    """Return one filter a column for each of `new` places in a block, and how far they reach.

    In float32 throughout, as torchaudio: its rounding of places tells at 2e-5.
    """
    cutoff = min(old, new) * ROLLOFF
    reach = math.ceil(ZEROS * old / cutoff)
    one = np.float32
    place = np.arange(-reach, reach + old, dtype=one)[:, np.newaxis] / one(old)
    t = place - np.arange(new, dtype=one) / one(new)
    t = np.clip(t * one(cutoff), -one(ZEROS), one(ZEROS))
    taps = np.cos(t * one(np.pi / ZEROS / 2)) ** 2 * one(cutoff / old)
    return taps * np.sinc(t).astype(one), reach
