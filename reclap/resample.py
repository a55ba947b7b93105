"""Other sampling rates, of whole clips and block by block."""

import functools
import math
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["RESAMPLERS", "Resampler", "resample", "resampled_length", "resampler_of"]

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


def resampled_length(length: int, source_rate: int, rate: int, resampler: str = "soxr") -> int:
    """Return how many samples `resample` makes of a clip of `length`, if it is one at least."""
    if resampler == "sinc":
        return -(-length * rate // source_rate)
    return (2 * length * rate + source_rate) // (2 * source_rate)  # rounded to the nearest


class Resampler(Protocol):
    """Resamples one channel block by block; all results together are those of `resample`."""

    def push(self, samples: Samples) -> Samples:
        """Take the next samples (T,), return what can be computed by now, (T',)."""

    def finish(self) -> Samples:
        """Return what is left once all samples were pushed."""


def resampler_of(source_rate: int, rate: int, resampler: str = "soxr") -> Resampler:
    """Return what resamples one channel; the arguments are those of `resample`."""
    if source_rate == rate:
        return _Same()
    return _Sinc(source_rate, rate) if resampler == "sinc" else _Soxr(source_rate, rate)


class _Same:
    def push(self, samples: Samples) -> Samples:
        return samples

    def finish(self) -> Samples:
        return np.empty(0, np.float32)


class _Soxr:
    def __init__(self, source_rate: int, rate: int) -> None:
        import soxr

        self._stream: Any = soxr.ResampleStream(source_rate, rate, 1, "float32", "HQ")

    def push(self, samples: Samples) -> Samples:
        out: Samples = self._stream.resample_chunk(samples)
        return out

    def finish(self) -> Samples:
        out: Samples = self._stream.resample_chunk(np.empty(0, np.float32), last=True)
        return out


class _Sinc:
    """Filters blocks of `old` samples into `new` ones, where old : new are the rates' ratio."""

    def __init__(self, source_rate: int, rate: int) -> None:
        common = math.gcd(source_rate, rate)
        self._old, self._new = source_rate // common, rate // common
        self._filters, self._reach = _filters(self._old, self._new)
        self._held = np.zeros(self._reach, np.float32)  # from where the next block's filters begin
        self._pushed = self._made = 0

    def push(self, samples: Samples) -> Samples:
        self._pushed += len(samples)
        return self._filter(np.concatenate([self._held, samples]))

    def finish(self) -> Samples:
        silence = np.zeros(self._reach + self._old, np.float32)
        length = -(-self._new * self._pushed // self._old)
        left = length - self._made
        return self._filter(np.concatenate([self._held, silence]))[:left]

    def _filter(self, samples: Samples) -> Samples:
        span = 2 * self._reach + self._old
        if len(samples) < span:
            self._held = samples
            return np.empty(0, np.float32)
        blocks = np.lib.stride_tricks.sliding_window_view(samples, span)[:: self._old]
        self._held = samples[len(blocks) * self._old :]
        out: Samples = (blocks @ self._filters).reshape(-1)
        self._made += len(out)
        return out


def _sinc(samples: Samples, source_rate: int, rate: int) -> Samples:
    length = resampled_length(len(samples), source_rate, rate, "sinc")
    channels = samples.reshape(len(samples), -1).T
    out = np.empty((len(channels), length), np.float32)
    for row, channel in zip(out, channels, strict=True):
        sinc = _Sinc(source_rate, rate)
        np.concatenate([sinc.push(channel), sinc.finish()], out=row)
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
