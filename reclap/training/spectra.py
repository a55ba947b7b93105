"""Cache of spectrograms for training: mel power of whole clips, and of noise."""

import collections
import dataclasses
import functools
import threading
from pathlib import Path
from typing import Any

import numpy as np

from reclap._types import Floats
from reclap.audio import features, windowing
from reclap.audio.front import AudioConfig, load_front
from reclap.io.excerpts import Excerpt
from reclap.training import augment
from reclap.training.rng import NOISE, generator

__all__ = ["Cache", "Spectrum", "load", "noises"]


@dataclasses.dataclass(frozen=True, eq=False)
class Spectrum:
    """A whole clip.

    Attributes
    ----------
    power : ndarray of float32, shape (frames, mels)
        Mel power; at least one window long unless it is to be wrapped around.
    level : float
        See `reclap.training.augment.level_of`.
    """

    power: Floats
    level: float


class Cache:
    """The spectra used last; for several threads.

    Parameters
    ----------
    size : int
        Bytes that they may take together.
    """

    def __init__(self, size: int) -> None:
        self._size, self._used = size, 0
        self._kept: collections.OrderedDict[Any, Spectrum] = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any) -> Spectrum | None:
        """Return what was put under a key, if it is still there."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: Any, spectrum: Spectrum) -> None:
        """Keep a spectrum, and drop those that were not used for longest."""
        with self._lock:
            if key in self._kept:  # another thread was faster
                return
            self._kept[key] = spectrum
            self._used += spectrum.power.nbytes
            while self._used > self._size:
                _, oldest = self._kept.popitem(last=False)
                self._used -= oldest.power.nbytes


def load(sound: Path | Excerpt, speed: float, front: AudioConfig, *, wrap: bool) -> Spectrum:
    """Decode a sound, played at a speed, and return its spectrum.

    Parameters
    ----------
    sound : Path or Excerpt
        Sound file, or the part of one.
    speed : float
        Resampled so that it plays faster and higher by this factor.
    front : AudioConfig
        Front end; its window is only the least length.
    wrap : bool
        One period of the clip's endless repetition; otherwise padded to a window as at inference.
    """
    return _of(load_front(sound, front, speed=speed), front, wrap=wrap)


def _of(samples: Floats, front: AudioConfig, *, wrap: bool) -> Spectrum:
    power = augment.from_db(_wrapped(samples, front) if wrap else _whole(samples, front))
    return Spectrum(power, augment.level_of(power))


def _whole(samples: Floats, front: AudioConfig) -> Floats:
    """Return the log-mel of a clip, padded and quantised as at inference, but not cut."""
    longer = dataclasses.replace(front, samples=max(len(samples), front.samples))
    return features.log_mel(windowing.windows(samples, longer)[0], front)


def _wrapped(samples: Floats, front: AudioConfig) -> Floats:
    """Return the spectrogram of an endless repetition, one period of whole hops."""
    frames = max(1, len(samples) // front.hop)
    period = np.resize(samples, frames * front.hop)
    margin = -(-front.n_fft // (2 * front.hop))  # in frames, more than half a transform
    padded = np.resize(np.roll(period, margin * front.hop), (frames + 2 * margin) * front.hop)
    exactly = dataclasses.replace(front, samples=len(padded))
    return features.log_mel(windowing.windows(padded, exactly)[0], front)[margin : margin + frames]


@functools.lru_cache(maxsize=2)
def noises(front: AudioConfig) -> list[Spectrum]:
    """Return stretches of six seconds of noise, four each of amplitude 1, f^-1/2 and f^-1."""
    made = []
    for k in range(12):
        rng = generator(0, NOISE, k)
        spectrum = np.fft.rfft(rng.standard_normal(6 * front.rate))
        f = np.fft.rfftfreq(6 * front.rate, 1 / front.rate)
        noise = np.fft.irfft(spectrum * np.maximum(f, 50.0) ** (-0.5 * (k // 4)))
        made.append(_of((noise * (0.1 / noise.std())).astype(np.float32), front, wrap=True))
    return made
