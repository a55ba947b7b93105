"""Levels of a sound: silence at its ends, cancelling channels, amplitudes beyond full scale."""

import logging

import numpy as np

from reclap._types import Samples

__all__ = ["Levels", "sounding"]


LOUDEST = 8.0  # 18 dB above full scale; integers that were not scaled reach 128 at least
CANCELLED = 0.02  # of the power that independent channels leave in their mean, 17 dB below it

QUIET = 1e-4  # -80 dB: above the dither of 16 bits, below any recorded room
_PART = 1 << 14  # frames looked at together

_log = logging.getLogger(__name__)


def sounding(samples: Samples) -> tuple[int, int]:
    """Return the range of frames from the first to the last that is louder than `QUIET`.

    Parameters
    ----------
    samples : ndarray, shape (T,) or (T, channels)
        Amplitudes.

    Returns
    -------
    first, stop : int
        Both 0 where all is silence.
    """
    first = _first_loud(samples)
    return (0, 0) if first is None else (first, len(samples) - (_first_loud(samples[::-1]) or 0))


def _first_loud(samples: Samples) -> int | None:
    for at in range(0, len(samples), _PART):
        loud = np.abs(samples[at : at + _PART]) > QUIET
        if loud.any():
            return at + int(np.argmax(loud if loud.ndim == 1 else loud.any(axis=1)))
    return None


class Levels:
    """Peak and powers, collected over the blocks of a sound."""

    def __init__(self) -> None:
        self._peak = self._mixed = self._independent = 0.0

    def add(self, samples: Samples, mix: Samples | None = None) -> None:
        """Add the next block.

        Parameters
        ----------
        samples : ndarray, shape (T, channels)
            Amplitudes.
        mix : ndarray, shape (T,), optional
            The mean of the channels.
        """
        if samples.size:
            self._peak = max(self._peak, float(samples.max()), -float(samples.min()))
        if mix is not None and samples.shape[1] > 1:
            x = samples.reshape(-1)
            self._independent += float(np.dot(x, x)) / samples.shape[1] ** 2
            self._mixed += float(np.dot(mix, mix))

    def report(self, name: str) -> None:
        """Log a warning for each fault of a sound; `name` is the sound's."""
        if self._peak > LOUDEST:
            _log.warning(
                "%s: samples reach %.3g, expected -1 to 1; integers are scaled only while they "
                "are of an integer type",
                name,
                self._peak,
            )
        if self._mixed < CANCELLED * self._independent:
            _log.warning(
                "%s: its channels cancel each other in their mean, which holds %.2g of the power "
                "of independent channels; pass one channel, or invert one",
                name,
                self._mixed / self._independent,
            )
