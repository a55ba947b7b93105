"""Levels of a sound that tell of a mistake: channels that cancel, amplitudes beyond full scale."""

import logging

import numpy as np
import numpy.typing as npt

__all__ = ["Levels"]

Samples = npt.NDArray[np.float32]

LOUDEST = 8.0  # 18 dB above full scale; integers that were not scaled reach 128 at least
CANCELLED = 0.02  # of the power that independent channels leave in their mean, 17 dB below it

_log = logging.getLogger(__name__)


class Levels:
    """Peak and powers, collected over the blocks of a sound."""

    def __init__(self) -> None:
        self._peak = self._mixed = self._independent = 0.0

    def add(self, samples: Samples, mix: Samples | None = None) -> None:
        """Take the next block.

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
        """Log a warning for each thing that is wrong with the sound of a name."""
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
                "of independent channels; give one channel, or turn one round",
                name,
                self._mixed / self._independent,
            )
