"""Changes of one attribute of a sound by known operations, each with its opposite."""

import dataclasses
from collections.abc import Callable

import numpy as np

from reclap._types import Samples
from reclap.audio.resample import resample

__all__ = ["ATTRIBUTES", "Change", "low_pass", "play"]

LOUD_DB = 8.0  # above and below
PITCH = 2 ** (4 / 12)  # of playback speed: four semitones above and below
FAR_HZ, FAR_DB = 1200, -12.0


@dataclasses.dataclass(frozen=True)
class Change:
    """One side of an attribute.

    Parameters
    ----------
    words : str
        What a caption of the changed sound says.
    apply : callable
        Takes samples, float32 of shape (T,), and their rate in Hz; returns the changed samples.
    level_db : float
        What is added to the level at which the sound is mixed.

    Examples
    --------
    >>> near, far = ATTRIBUTES["distance"]
    >>> far.words, far.level_db
    ('far away', -12.0)
    """

    words: str
    apply: Callable[[Samples, int], Samples]
    level_db: float = 0.0


def play(samples: Samples, rate: int, speed: float) -> Samples:
    """Play a sound faster and higher, or slower and lower.

    Parameters
    ----------
    samples : ndarray of float32, shape (T,)
        Amplitudes.
    rate : int
        Sample rate in Hz.
    speed : float
        Factor of all frequencies; durations are divided by it.

    Returns
    -------
    ndarray of float32, shape (T / speed,)
        Amplitudes at the same rate; what would be above its Nyquist frequency is gone.

    Examples
    --------
    >>> play(np.zeros(1000, np.float32), 16000, 2.0).shape
    (500,)
    """
    return resample(samples, round(rate * speed), rate)


def low_pass(samples: Samples, rate: int, hz: float) -> Samples:
    """Weaken what is above a frequency by 12 dB an octave, as distance and walls do.

    Parameters
    ----------
    samples : ndarray of float32, shape (T,)
        Amplitudes.
    rate : int
        Sample rate in Hz.
    hz : float
        Frequency at which it is 6 dB.

    Returns
    -------
    ndarray of float32, shape (T,)
        Amplitudes. The filter looks back only, so nothing sounds before it did.

    Notes
    -----
    Two equal filters of one pole after each other, whose impulse response is
    ``(1 - a)^2 (n + 1) a^n`` with ``a = exp(-2 pi hz / rate)``, cut off where it is below 1e-9.

    Examples
    --------
    >>> low_pass(np.ones(8000, np.float32), 16000, 1000)[-1].round(3)
    np.float32(1.0)
    """
    pole = np.exp(-2 * np.pi * hz / rate)
    n = np.arange(int(25 / (1 - pole)) + 1)
    out = np.convolve(samples, (1 - pole) ** 2 * (n + 1) * pole**n)[: len(samples)]
    return out.astype(np.float32)


def _same(samples: Samples, rate: int) -> Samples:
    return samples


ATTRIBUTES: dict[str, tuple[Change, Change]] = {
    "loudness": (Change("loudly", _same, LOUD_DB), Change("softly", _same, -LOUD_DB)),
    "pitch": (
        Change("at a high pitch", lambda samples, rate: play(samples, rate, PITCH)),
        Change("at a low pitch", lambda samples, rate: play(samples, rate, 1 / PITCH)),
    ),
    "distance": (
        Change("close by", _same),
        Change("far away", lambda samples, rate: low_pass(samples, rate, FAR_HZ), FAR_DB),
    ),
}
