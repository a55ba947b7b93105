"""How close float32 results must come: one rule for all tests."""

import numpy as np

EPSILON = float(np.finfo(np.float32).eps)
ROUNDINGS = 4  # a term is rounded when it is read, scaled, multiplied and added


def assert_close(got, want, *, terms=1, magnitude=None):
    """Allow ROUNDINGS * epsilon * sqrt(terms) * magnitude.

    `terms` is how many numbers a result sums; their rounding errors add like a random walk.
    `magnitude` is the size of what is summed, by default of the largest result: a sum that
    cancels needs it stated.
    """
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    if want.size == 0:
        return
    size = np.abs(want).max() if magnitude is None else magnitude
    tolerance = ROUNDINGS * EPSILON * np.sqrt(terms) * size
    worst = np.abs(got - want).max()
    assert worst <= tolerance, f"{worst:.3e} apart, allowed {tolerance:.3e}"


def f32(rng, *shape):
    """Return standard normal numbers; both sides of a comparison see the same float32 inputs."""
    return rng.standard_normal(shape, dtype=np.float32)
