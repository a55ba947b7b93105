"""Random generators as a pure function of seed, purpose and index."""

import numpy as np

__all__ = [
    "BAND",
    "CUTS",
    "EVAL",
    "INIT",
    "ITEM",
    "NOISE",
    "ORDER",
    "PLAN",
    "POOL",
    "TEXTS",
    "generator",
]

# Purposes of generators; streams of different purposes never meet.
ITEM, ORDER, PLAN, POOL, NOISE, INIT, BAND, EVAL, TEXTS, CUTS = range(10)


def generator(seed: int, purpose: int, *index: int) -> np.random.Generator:
    """Return random numbers that depend on nothing but the arguments.

    Parameters
    ----------
    seed : int
        Seed of the run, 0 to 2**64 - 1.
    purpose : int
        One of the constants of this module.
    *index : int
        Up to three numbers: step, item and the like.
    """
    key = np.array([seed, purpose], np.uint64)  # a list with a large seed would become floats
    counter = [0, *reversed(index), *[0] * (3 - len(index))]
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
