"""Fingerprints of recordings: which clips are of one recording, whatever was done to the file.

Two stages. Pairs of spectral peaks, hashed (A. Wang, "An industrial-strength audio search
algorithm", ISMIR 2003), name candidates out of many clips; the coherence of the waveforms, aligned
and whitened, tells a copy from another take of the same sound. Re-encoding, trimming, resampling,
gain and inverted polarity leave both; a change of speed or pitch does not.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from reclap._types import Samples
from reclap.audio.peaks import RATE, Ints, peaks
from reclap.audio.windowing import mono

__all__ = [
    "COHERENT",
    "INVERTED",
    "RATE",
    "Fingerprint",
    "Index",
    "Match",
    "coherence",
    "fingerprint",
    "hashed",
    "matches",
]

Reals: TypeAlias = npt.NDArray[np.floating[Any]]
Bins: TypeAlias = npt.NDArray[np.complexfloating[Any, Any]]

COHERENT = 0.62  # least coherence of two clips of one recording
INVERTED = 0.3  # what opposite polarity takes from it: two fit by chance more often than one

_CONTEXT = 16  # bits
_LATER, _AHEAD, _APART = 18, 63, 64  # partners of a peak: how many, in frames, in bins
_VOTES = 5  # hashes at one offset that make a candidate
_COMMON = 200  # occurrences of a hash beyond which only those in its context vote
_WORK = 1 << 22  # votes of a long clip
_SHARE = 0.01  # of the hashes of the smaller fingerprint, if that is more
_EDGES = np.geomspace(100, 3400, 19)  # Hz of the bands that coherence compares
_QUIET = 1e-6  # energy of a band that counts, of the loudest one's
_SPAN = 8  # seconds that coherence compares
_OVERLAP = 1.0  # seconds that two clips share at least, or half of the shorter one


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """Hashed pairs of spectral peaks of a clip.

    Attributes
    ----------
    hashes : ndarray of int64, shape (n,)
        Both frequencies and the distance in time of a pair; none for silence.
    frames : ndarray of int64, shape (n,)
        When the first peak of the pair sounds, in frames of 16 ms.
    contexts : ndarray of int64, shape (n,)
        Where the peak after the pair is, which divides hashes that are common; 15 bits.
    """

    hashes: Ints
    frames: Ints
    contexts: Ints

    @property
    def keys(self) -> Ints:
        """Hashes with their contexts, which sort as the hashes do."""
        return self.hashes << _CONTEXT | self.contexts


@dataclasses.dataclass(frozen=True)
class Match:
    """Two clips of one recording.

    Attributes
    ----------
    first, second : int
        Numbers of the clips, ``first < second``.
    coherence : float
        See `coherence`.
    """

    first: int
    second: int
    coherence: float


def fingerprint(samples: npt.ArrayLike) -> Fingerprint:
    """Compute the fingerprint of a clip.

    Parameters
    ----------
    samples : array_like, shape (T,)
        Mono clip at `RATE`.

    Returns
    -------
    Fingerprint
        About 300 hashes a second.

    Raises
    ------
    ValueError
        If `samples` is empty, not one-dimensional, or holds NaN or infinity.

    Examples
    --------
    >>> len(fingerprint(np.zeros(8000, np.float32)).hashes)
    0
    """
    return hashed(*peaks(samples))


def hashed(frames: Ints, bins: Ints) -> Fingerprint:
    """Compute the fingerprint of a clip from its peaks.

    Parameters
    ----------
    frames, bins : ndarray of int64, shape (n,)
        Peaks in order of time; see `peaks`.

    Returns
    -------
    Fingerprint
        Hashes of pairs of near peaks.
    """
    none = np.zeros(0, np.int64)
    hashes, starts, contexts = [none], [none], [none]
    # What follows a pair: none behind the last.
    gap = np.append(np.minimum(np.diff(frames), 255), 0)
    step = np.append(np.clip(np.diff(bins), -_APART, _APART - 1) + _APART, 0)
    after = step << 8 | gap
    for k in range(1, min(_LATER, len(frames))):
        later, apart = frames[k:] - frames[:-k], bins[k:] - bins[:-k]
        kept = (later >= 1) & (later <= _AHEAD) & (np.abs(apart) <= _APART)
        pair = bins[:-k] << 16 | (apart + _APART) << 8 | later
        hashes.append(pair[kept])
        starts.append(frames[:-k][kept])
        contexts.append(after[k:][kept])
    return Fingerprint(*map(np.concatenate, (hashes, starts, contexts)))


class Index:
    """Index of the hashes of many clips.

    Parameters
    ----------
    prints : sequence of Fingerprint
        Those of the clips, which are numbered from 0.

    Examples
    --------
    >>> noise = np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    >>> index = Index([fingerprint(noise[:8000]), fingerprint(noise[8000:])])
    >>> index.candidates(fingerprint(noise[9000:]))
    [1]
    """

    def __init__(self, prints: Sequence[Fingerprint]) -> None:
        keys = np.concatenate([np.zeros(0, np.int64), *(p.keys for p in prints)])
        frames = np.concatenate([np.zeros(0, np.int64), *(p.frames for p in prints)])
        order = np.argsort(keys, kind="stable")
        self._keys, self._frames = keys[order], frames[order]
        self._sizes = np.array([len(p.hashes) for p in prints], np.int64)
        self._clips = np.repeat(np.arange(len(prints)), self._sizes)[order]

    @classmethod
    def of(cls, keys: Ints, frames: Ints, clips: Ints, sizes: Ints) -> "Index":
        """Return an index of arrays that may be mapped into memory.

        Parameters
        ----------
        keys, frames, clips : ndarray of integers, shape (n,)
            `Fingerprint.keys` of all clips in ascending order, with the frame and the clip of each.
        sizes : ndarray of int64, shape (clips,)
            Number of hashes of each clip.

        Returns
        -------
        Index
            The index.
        """
        index = cls(())
        index._keys, index._frames, index._clips, index._sizes = keys, frames, clips, sizes
        return index

    def candidates(self, print_: Fingerprint) -> list[int]:
        """Return the clips that share several hashes at one offset in time.

        Parameters
        ----------
        print_ : Fingerprint
            Of a clip that is in the index, which is then found too, or of another.

        Returns
        -------
        list of int
            Numbers of clips, ascending. Few of them are of the same recording: see `coherence`.
        """
        first, count = self._found(print_)
        before = np.cumsum(count) - count
        found = np.arange(count.sum()) + np.repeat(first - before, count)
        offset = self._frames[found].astype(np.int64) - np.repeat(print_.frames, count)
        clips = self._clips[found].astype(np.int64)
        keys, votes = np.unique(clips << 32 | (offset + (1 << 31)) // 2, return_counts=True)
        if not len(keys):
            return []
        beside = np.append(np.where(np.diff(keys) == 1, votes[1:], 0), 0)
        clips = keys >> 32
        least = _SHARE * np.minimum(self._sizes[clips], len(print_.hashes))
        kept = votes + beside >= np.maximum(least, _VOTES)
        return [int(clip) for clip in np.unique(clips[kept])]

    def _found(self, print_: Fingerprint) -> tuple[Ints, Ints]:
        """Return where the occurrences of each hash begin that vote, and how many they are."""
        most = min(_COMMON, max(1, _WORK // max(1, len(print_.hashes))))
        whole = print_.hashes << _CONTEXT
        first = np.searchsorted(self._keys, whole)
        count = np.searchsorted(self._keys, whole + (1 << _CONTEXT)) - first
        common = np.flatnonzero(count > most)
        keys = print_.keys[common]
        first[common] = np.searchsorted(self._keys, keys)
        count[common] = np.searchsorted(self._keys, keys, "right") - first[common]
        return first, np.minimum(count, most)


def coherence(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Compute the coherence of two clips where they overlap best.

    Parameters
    ----------
    a, b : array_like, shape (T,)
        Mono clips at `RATE`.

    Returns
    -------
    float
        Correlation of the waveforms, averaged over 18 bands between 100 and 3400 Hz, at most 1:
        about 1 for copies, above `COHERENT` for nearly all bad copies, below for other recordings,
        even of the same note. Opposite polarity takes `INVERTED` from it. The loudest eight seconds
        of the shorter clip are compared; at least one second, or half of the shorter clip,
        overlaps. 0 for silence.

    Raises
    ------
    ValueError
        If a clip is empty, not one-dimensional, or holds NaN or infinity.

    Examples
    --------
    >>> noise = np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    >>> round(coherence(noise, 0.1 * noise[3000:12000]), 2)
    1.0
    """
    longer, shorter = sorted((mono(a), mono(b)), key=len, reverse=True)
    shorter = _loudest(shorter)
    same, opposite = _lags(longer, shorter)
    found = _coherence_at(longer, shorter, same)
    if found >= 1 - INVERTED:  # opposite polarity cannot have more
        return found
    return max(found, _coherence_at(longer, -shorter, opposite) - INVERTED)


def _coherence_at(longer: Samples, shorter: Samples, lag: int) -> float:
    """Return the coherence where the shorter clip begins at `lag` in the longer one."""
    start, stop = max(0, lag), min(len(longer), lag + len(shorter))
    size = _power_of_two(stop - start)
    hertz = np.fft.rfftfreq(size, 1 / RATE)
    x = np.fft.rfft(longer[start:stop], size)
    y = np.fft.rfft(shorter[start - lag : stop - lag], size)
    band = np.digitize(hertz, _EDGES)
    energies = [_per_band(band, np.abs(bins) ** 2) for bins in (x, y)]
    sounds = np.logical_and(*(e > max(_QUIET * e.max(), 1e-12) for e in energies))
    if not sounds.any():
        return 0.0
    u, v = _white(x, hertz), _white(y, hertz)
    cross = _per_band(band, _aligned(u * v.conj(), hertz))
    scale = np.sqrt(_per_band(band, np.abs(u) ** 2) * _per_band(band, np.abs(v) ** 2))
    return min(1.0, float((cross / np.maximum(scale, 1e-30))[sounds].mean()))


def _loudest(clip: Samples) -> Samples:
    """Return the loudest span of a clip that is long enough to compare."""
    span = _SPAN * RATE
    if len(clip) <= span:
        return clip
    starts = np.arange(0, len(clip) - span + 1, RATE // 10)
    start = starts[_energy(clip, starts, starts + span).argmax()]
    return clip[start : start + span]


def _per_band(band: Ints, values: Reals) -> Reals:
    """Return the sums over each band, without what lies outside all."""
    sums: Any = np.bincount(band, values, len(_EDGES) + 1)
    within: Reals = sums[1 : len(_EDGES)]
    return within


def _aligned(cross: Bins, hertz: Reals) -> Reals:
    """Return the real part of a cross-spectrum at the best shift by a fraction of a sample."""
    turn = np.exp(2j * np.pi / (8 * RATE) * hertz)
    turned, best = cross * turn.conj() ** 8, cross.real
    for _ in range(17):
        best = max(best, turned.real, key=np.sum)
        turned = turned * turn
    return best


def _lags(a: Samples, b: Samples) -> tuple[int, int]:
    """Return where in `a` the first sample of `b` fits best, and where that of `-b`."""
    size = _power_of_two(len(a) + len(b))
    x, y = (_whitened(clip) for clip in (a, b))
    product = np.fft.irfft(np.fft.rfft(x, size) * np.fft.rfft(y, size).conj(), size)
    lags = np.arange(1 - len(b), len(a))
    start, stop = np.maximum(lags, 0), np.minimum(len(a), lags + len(b))
    energy = _energy(x, start, stop) * _energy(y, start - lags, stop - lags)
    floor = 1e-6 * energy.max(initial=0) + 1e-30
    shared = min(int(_OVERLAP * RATE), (min(len(a), len(b)) + 1) // 2)
    valid = (stop - start >= shared) & (energy > floor)
    fit = np.where(valid, product[lags] / np.sqrt(np.maximum(energy, floor)), np.nan)
    if not valid.any():
        return 0, 0
    return int(lags[np.nanargmax(fit)]), int(lags[np.nanargmin(fit)])


def _energy(x: Samples, start: Ints, stop: Ints) -> Reals:
    total = np.zeros(len(x) + 1)
    np.cumsum(np.square(x, dtype=np.float64), out=total[1:])
    energy: Reals = np.maximum(total[stop] - total[start], 0)
    return energy


def _whitened(clip: Samples) -> Samples:
    size = _power_of_two(len(clip))
    bins = _white(np.fft.rfft(clip, size), np.fft.rfftfreq(size, 1 / RATE))
    return np.fft.irfft(bins, size)[: len(clip)].astype(np.float32)


def _white(bins: Bins, hertz: Reals) -> Bins:
    """Flatten a spectrum, whose amplitudes become their roots, within the bands."""
    size = np.abs(bins)
    floor = 1e-6 * size.max(initial=0) + 1e-20
    inside = (hertz >= _EDGES[0]) & (hertz < _EDGES[-1])
    white: Bins = np.where(inside, bins / np.sqrt(np.maximum(size, floor)), 0)
    return white


def _power_of_two(least: int) -> int:
    return 1 << max(0, least - 1).bit_length()


def matches(prints: Sequence[Fingerprint], load: Callable[[int], Samples]) -> Iterator[Match]:
    """Compare every clip with every other.

    Parameters
    ----------
    prints : sequence of Fingerprint
        One a clip.
    load : callable
        Returns the samples of a clip, mono at `RATE`, by its number; asked for candidates alone.

    Yields
    ------
    Match
        Pairs of one recording, by their second clip.

    Examples
    --------
    >>> noise = np.random.default_rng(0).standard_normal(24000).astype(np.float32)
    >>> clips = [noise[:9000], noise[9000:], noise[12000:20000]]
    >>> [(m.first, m.second) for m in matches([fingerprint(c) for c in clips], clips.__getitem__)]
    [(1, 2)]
    """
    index = Index(prints)
    held = functools.lru_cache(maxsize=256)(load)
    for second, own in enumerate(prints):
        for first in index.candidates(own):
            if first >= second:
                break
            value = coherence(held(first), held(second))
            if value >= COHERENT:
                yield Match(first, second, value)
