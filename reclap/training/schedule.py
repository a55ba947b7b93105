"""Learning-rate schedules: linear warm-up, then half a cosine, a line, or a constant."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from reclap.training.sections import Optim

__all__ = ["learning_rate"]

# Share of the peak rate, by the share of the steps after the warm-up that are done.
_DECAY: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {
        "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
        "linear": lambda done: 1 - done,
        "constant": lambda done: 1.0,
    }
)


def learning_rate(step: int, steps: int, optim: Optim) -> float:
    """Return the learning rate of a step, counted from 0.

    Parameters
    ----------
    step, steps : int
        Step, and number of steps of the schedule.
    optim : Optim
        Peak rate, warm-up and kind of schedule.

    Returns
    -------
    float
        ``lr (step + 1) / warmup`` during the warm-up, then `lr` times what the schedule leaves.

    Examples
    --------
    >>> [learning_rate(s, 4, Optim(lr=1.0, warmup=2)) for s in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    >>> [learning_rate(s, 4, Optim(lr=1.0, schedule="linear")) for s in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    """
    if step < optim.warmup:
        return optim.lr * (step + 1) / optim.warmup
    done = (step - optim.warmup) / max(1, steps - optim.warmup)
    return optim.lr * _DECAY[optim.schedule](done)
