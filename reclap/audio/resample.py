"""Resampling, of whole clips and block by block."""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from reclap._types import Samples
from reclap.errors import BadSound, needs

__all__ = [
    "LEAST_RATE",
    "MOST_RATE",
    "RESAMPLERS",
    "Kind",
    "Resampler",
    "resample",
    "resampled_length",
    "resampler_of",
]


Kind: TypeAlias = Literal["soxr", "sinc", "librosa"]
RESAMPLERS: tuple[Kind, ...] = get_args(Kind)
ZEROS, ROLLOFF = 6, 0.99  # of the sinc: zero crossings each side, cut-off as a share of Nyquist's
LEAST_RATE, MOST_RATE = 1000, 4 << 20  # Hz, as of files: a lower one makes gigabytes of a few bytes
LONGEST = (1 << 31) - 1  # samples in one array; soxr counts in 32 bits
MATRIX = 1 << 20  # most coefficients in one matrix for all phases; odd ratios of rates have more
HELD = 256  # samples that may be cut off at the end; float32 counts 2^33 samples that well


def resample(samples: Samples, source_rate: int, rate: int, resampler: Kind = "soxr") -> Samples:
    """Change the sampling rate.

    Parameters
    ----------
    samples : ndarray of float32, shape (T,) or (T, channels)
        Amplitudes.
    source_rate, rate : int
        Rate in Hz that they have, and the wanted one.
    resampler : {"soxr", "sinc", "librosa"}
        The library soxr (quality HQ); or a sinc under a Hann window with six zero crossings on
        each side, cut off at 0.99 of the lower Nyquist frequency, as torchaudio
        (``transforms.Resample`` with its defaults), which MS-CLAP uses; or soxr with the length
        that librosa makes of it, which LAION-CLAP uses. See `resampled_length`.

    Returns
    -------
    ndarray of float32, shape (T',) or (T', channels)
        At least one frame. Contiguous.

    Raises
    ------
    ValueError
        For another resampler, or if more than `LONGEST` samples, over all channels, go in or come
        out.
    """
    if resampler not in RESAMPLERS:
        raise ValueError(f"resampler is {resampler!r}, expected one of {', '.join(RESAMPLERS)}")
    if source_rate == rate:
        return np.ascontiguousarray(samples)
    _refuse_longer(samples, source_rate, rate, resampler)
    if resampler == "sinc":
        return _sinc(samples, source_rate, rate)
    with needs("soxr", "another sampling rate"):
        import soxr  # here, because importing reclap should stay cheap

    out: Samples = soxr.resample(samples, source_rate, rate, quality="HQ")
    if resampler == "librosa":
        out = _fitted(out, resampled_length(len(samples), source_rate, rate, resampler))
    if len(out) == 0:  # a clip shorter than one output sample
        return np.ascontiguousarray(samples[:1])
    return np.ascontiguousarray(out, np.float32)


def _refuse_longer(samples: Samples, source_rate: int, rate: int, resampler: Kind) -> None:
    channels = samples.size // max(1, len(samples))
    made = channels * resampled_length(len(samples), source_rate, rate, resampler)
    if max(samples.size, made) > LONGEST:
        raise BadSound(
            f"{samples.size} samples at {source_rate} Hz, {made} at {rate} Hz: more than {LONGEST} "
            "in one array; pass it in parts, or as a file"
        )


def resampled_length(length: int, source_rate: int, rate: int, resampler: Kind = "soxr") -> int:
    """Return the length of `resample`'s result in samples, at least 1.

    Parameters
    ----------
    length : int
        Samples of the clip.
    source_rate, rate, resampler
        As in `resample`.

    Returns
    -------
    int
        With "soxr" the exact length, rounded to the nearest. With "librosa" ``ceil(length *
        (rate / source_rate))`` in float64, whose rounding adds a sample to many whole seconds
        (``librosa.resample``). With "sinc" ``ceil(length * rate / source_rate)``, the quotient
        rounded to float32, but no more than the filter's whole blocks (``torchaudio``).
    """
    if source_rate == rate:
        return length
    if resampler == "librosa":
        return math.ceil(length * (float(rate) / source_rate))
    if resampler == "sinc":
        common = math.gcd(source_rate, rate)
        old, new = source_rate // common, rate // common
        return min(math.ceil(np.float32(new * length / old)), new * (length // old + 1))
    return (2 * length * rate + source_rate) // (2 * source_rate)


def _fitted(samples: Samples, length: int) -> Samples:
    """Truncate or zero-pad to a length."""
    missing = length - len(samples)
    if missing <= 0:
        return samples[: max(0, length)]
    return np.pad(samples, ((0, missing), *((0, 0),) * (samples.ndim - 1)))


class Resampler(Protocol):
    """Streaming resampler of one channel; its blocks together equal the result of `resample`."""

    def push(self, samples: Samples) -> Samples:
        """Take the next samples (T,) and return those that can be computed by now, (T',)."""

    def finish(self) -> Samples:
        """Return the remaining samples once all were pushed."""


def resampler_of(source_rate: int, rate: int, resampler: Kind = "soxr") -> Resampler:
    """Return the streaming resampler of one channel; arguments as in `resample`."""
    if source_rate == rate:
        return _Same()
    if resampler == "soxr":
        return _Soxr(source_rate, rate)
    inner = _Sinc(source_rate, rate) if resampler == "sinc" else _Soxr(source_rate, rate)
    length = functools.partial(
        resampled_length, source_rate=source_rate, rate=rate, resampler=resampler
    )
    return _Fitted(inner, length)


class _Same:
    def push(self, samples: Samples) -> Samples:
        return samples

    def finish(self) -> Samples:
        return np.empty(0, np.float32)


class _Soxr:
    def __init__(self, source_rate: int, rate: int) -> None:
        with needs("soxr", "another sampling rate"):
            import soxr

        self._stream: Any = soxr.ResampleStream(source_rate, rate, 1, "float32", "HQ")

    def push(self, samples: Samples) -> Samples:
        out: Samples = self._stream.resample_chunk(samples)
        return out

    def finish(self) -> Samples:
        out: Samples = self._stream.resample_chunk(np.empty(0, np.float32), last=True)
        return out


class _Fitted:
    """Holds back the last samples until the length of the whole is known."""

    def __init__(self, inner: Resampler, length: Callable[[int], int]) -> None:
        self._inner, self._length = inner, length
        self._held = np.empty(0, np.float32)
        self._pushed = self._given = 0

    def push(self, samples: Samples) -> Samples:
        self._pushed += len(samples)
        made = np.concatenate([self._held, self._inner.push(samples)])
        ready = max(0, len(made) - HELD)
        self._held = made[ready:]
        self._given += ready
        return made[:ready]

    def finish(self) -> Samples:
        tail = np.concatenate([self._held, self._inner.finish()])
        return _fitted(tail, self._length(self._pushed) - self._given)


class _Sinc:
    """Filters blocks of `old` samples into `new` ones, where old : new are the rates' ratio."""

    def __init__(self, source_rate: int, rate: int) -> None:
        common = math.gcd(source_rate, rate)
        self._old, self._new = source_rate // common, rate // common
        self._reach = _reach(self._old, self._new)
        self._span = 2 * self._reach + self._old
        self._held = np.zeros(self._reach, np.float32)  # from where the next block's filters begin

    def push(self, samples: Samples) -> Samples:
        return self._filter(np.concatenate([self._held, samples]))

    def finish(self) -> Samples:
        """Return whole blocks, beyond the end of the clip."""
        silence = np.zeros(self._reach + self._old, np.float32)
        return self._filter(np.concatenate([self._held, silence]))

    def _filter(self, samples: Samples) -> Samples:
        if len(samples) < self._span:
            self._held = samples
            return np.empty(0, np.float32)
        blocks = np.lib.stride_tricks.sliding_window_view(samples, self._span)[:: self._old]
        self._held = samples[len(blocks) * self._old :]
        if self._span * self._new > MATRIX:
            return np.concatenate([self._gathered(block) for block in blocks])
        out: Samples = (blocks @ _matrix(self._old, self._new)).reshape(-1)
        return out

    def _gathered(self, block: Samples) -> Samples:
        """Filter one block; of each phase only the coefficients that are not zero."""
        width = 2 * self._reach + 1
        around = np.lib.stride_tricks.sliding_window_view(block, width)
        out = np.empty(self._new, np.float32)
        step = max(1, MATRIX // width)
        for first in range(0, self._new, step):
            phases = range(first, min(first + step, self._new))
            starts = np.fromiter((n * self._old // self._new for n in phases), np.int64)
            taps = _taps(self._old, self._new, phases)
            out[first : phases.stop] = np.einsum("ij,ij->i", around[starts], taps)
        return out


def _sinc(samples: Samples, source_rate: int, rate: int) -> Samples:
    length = resampled_length(len(samples), source_rate, rate, "sinc")
    channels = samples.reshape(len(samples), -1).T
    out = np.empty((len(channels), length), np.float32)
    for row, channel in zip(out, channels, strict=True):
        sinc = resampler_of(source_rate, rate, "sinc")
        np.concatenate([sinc.push(channel), sinc.finish()], out=row)
    return np.ascontiguousarray(out.T.reshape(length, *samples.shape[1:]))


def _reach(old: int, new: int) -> int:
    """Return the reach of a filter in samples on each side."""
    return math.ceil(ZEROS * old / (min(old, new) * ROLLOFF))


@functools.lru_cache(maxsize=8)
def _matrix(old: int, new: int) -> Samples:
    """Return one filter a column for each of `new` phases of a block."""
    reach = _reach(old, new)
    return _coefficients(np.arange(-reach, reach + old)[:, np.newaxis], np.arange(new), old, new)


@functools.lru_cache(maxsize=16)
def _taps(old: int, new: int, phases: range) -> Samples:
    """Return one filter a row for some phases, from as far before each as it reaches."""
    reach = _reach(old, new)
    n = np.arange(phases.start, phases.stop)[:, np.newaxis]
    return _coefficients(n * old // new + np.arange(-reach, reach + 1), n, old, new)


def _coefficients(
    index: npt.NDArray[np.int64], phase: npt.NDArray[np.int64], old: int, new: int
) -> Samples:
    """Return the filter coefficients of the samples at `index` for the output at a phase.

    In float64 but for the phase, as ``torchaudio.transforms.Resample``: the rounding of its float32
    tells at 1e-5 in sounds without high frequencies.
    """
    cutoff = min(old, new) * ROLLOFF
    t = index / old - np.float64(phase.astype(np.float32) / np.float32(new))
    t = np.clip(t * cutoff, -ZEROS, ZEROS)
    taps = np.cos(t * (np.pi / ZEROS / 2)) ** 2 * np.sinc(t) * (cutoff / old)
    return taps.astype(np.float32)
