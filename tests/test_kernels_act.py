"""Activations, dropout and the counter-based draws."""

import numpy as np
import pytest
import reference
from closeness import EPSILON, assert_close, f32
from needs import kernels

SIZES = [1, 7, 16, 1025, 4099]


def values(rng, n):
    """Both tails, the middle, and the points where a formula may break."""
    x = f32(rng, n) * rng.choice(np.float32([0.01, 1, 10, 50]), n)
    special = np.float32([0, -0.0, 50, -50, 1e-20, -1e-20, 0.0632, 0.0633, 5.5, -5.5, 87, -87])
    x[: min(n, len(special))] = special[:n]
    return x


FORWARD = {
    "gelu": reference.gelu,
    "gelu_tanh": reference.gelu_tanh,
    "quick_gelu": reference.quick_gelu,
    "relu": lambda x: np.maximum(x, 0),
    "tanh": lambda x: np.tanh(x.astype(np.float64)),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x.astype(np.float64))),
}
SLOPE = {
    "gelu": reference.gelu_slope,
    "gelu_tanh": reference.gelu_tanh_slope,
    "quick_gelu": reference.quick_gelu_slope,
    "relu": lambda x: (x > 0).astype(np.float64),
    "tanh": lambda x: 1 - np.tanh(x.astype(np.float64)) ** 2,
    "sigmoid": lambda x: FORWARD["sigmoid"](x) * FORWARD["sigmoid"](-x),
}
BOUNDED = ("tanh", "sigmoid")  # backward takes the output


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("kind", FORWARD)
def test_activation_matches_formula(rng, kind, n):
    x = values(rng, n)
    # Every value by itself: the error is epsilon of |x|, which is what Phi or tanh multiplies.
    size = 1 if kind in BOUNDED else np.maximum(np.abs(x), 1e-3)
    assert_close(kernels.activation(kind, x) / size, FORWARD[kind](x) / size, magnitude=1)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("kind", SLOPE)
def test_activation_backward_matches_formula(rng, kind, n):
    x, dy = values(rng, n), f32(rng, n)
    given = kernels.activation(kind, x) if kind in BOUNDED else x
    # 1 - t^2 has twice the error of t; x times a density adds |x| epsilon at the sides of the bell.
    assert_close(kernels.activation_backward(kind, dy, given), dy * SLOPE[kind](x), magnitude=8)


@pytest.mark.oracle
@pytest.mark.parametrize(("kind", "approximate"), [("gelu", "none"), ("gelu_tanh", "tanh")])
def test_gelu_matches_torch(rng, kind, approximate):
    import torch

    x, dy = values(rng, 2053), f32(rng, 2053)
    t = torch.from_numpy(x).requires_grad_()
    y = torch.nn.functional.gelu(t, approximate=approximate)
    y.backward(torch.from_numpy(dy))
    assert_close(kernels.activation(kind, x), y.detach(), magnitude=8)
    assert_close(kernels.activation_backward(kind, dy, x), t.grad, magnitude=8)


def test_gelu_saturates():
    x = np.float32([50, -50, 1e4, -1e4])
    for kind in ("gelu", "gelu_tanh"):
        np.testing.assert_allclose(kernels.activation(kind, x), [50, 0, 1e4, 0], atol=1e-30)
        slope = kernels.activation_backward(kind, np.ones(4, np.float32), x)
        np.testing.assert_allclose(slope, [1, 0, 1, 0], atol=1e-30)


@pytest.mark.parametrize("kind", [kind for kind in SLOPE if kind not in BOUNDED])
def test_huge_values_have_the_slope_of_a_line(kind):
    x = np.float32([1e4, 1e7, 1e13, 2e19, 1e30, 3e38])
    x = np.concatenate([x, -x])
    slope = kernels.activation_backward(kind, np.ones_like(x), x)
    np.testing.assert_allclose(slope, x > 0, rtol=0, atol=1e-30)


def test_sigmoid_is_accurate_in_its_lower_tail_and_saturates():
    x = np.linspace(-86, 20, 10_007, dtype=np.float32)
    want = FORWARD["sigmoid"](x)
    assert np.abs(kernels.activation("sigmoid", x) / want - 1).max() < 5e-7
    np.testing.assert_array_equal(
        kernels.activation("sigmoid", np.float32([1e4, 100, 0])), [1, 1, 0.5]
    )
    assert kernels.activation("sigmoid", np.float32([-1e4]))[0] < 1e-37
    assert np.isnan(kernels.activation("sigmoid", np.float32([np.nan]))).all()


def test_exp_keeps_its_promise():
    x = np.linspace(-87, 88, 100_003, dtype=np.float32)
    want = np.exp(x.astype(np.float64))
    assert np.abs(kernels.activation("exp", x) / want - 1).max() < 2e-7
    beyond = kernels.activation("exp", np.float32([-100, -1e30, -np.inf]))
    assert (beyond <= 2e-38).all()
    assert np.isnan(kernels.activation("exp", np.float32([np.nan]))).all()


def test_activation_keeps_the_shape(rng):
    x = f32(rng, 2, 3, 5)
    assert kernels.activation("relu", x).shape == (2, 3, 5)
    assert kernels.activation("gelu", np.zeros((0, 4))).shape == (0, 4)


def test_activation_rejects_what_it_cannot_do(rng):
    with pytest.raises(ValueError, match='unknown activation "swish"'):
        kernels.activation("swish", f32(rng, 3))
    with pytest.raises(ValueError, match="sizes differ, or no backward"):
        kernels.activation_backward("gelu", f32(rng, 3), f32(rng, 4))
    with pytest.raises(ValueError, match="sizes differ, or no backward"):
        kernels.activation_backward("exp", f32(rng, 3), f32(rng, 3))


# ---- Draws and dropout ---------------------------------------------------------------------------

N = 100_000


@pytest.mark.parametrize(("seed", "step", "site"), [(0, 0, 0), (1, 2, 3), (2**64 - 1, 10**9, 79)])
def test_uniform_draws_are_uniform(seed, step, site):
    u = kernels.draws("uniform", N, seed, step, site)
    assert (u >= 0).all()
    assert (u < 1).all()
    assert abs(u.mean() - 0.5) < 5 / np.sqrt(12 * N)  # five standard errors
    counts = np.histogram(u, bins=64, range=(0, 1))[0]
    chi2 = ((counts - N / 64) ** 2 / (N / 64)).sum()
    assert chi2 < 63 + 5 * np.sqrt(2 * 63)


def uniform(seed, step, site, index):
    """Return a draw by the formula, SplitMix64's finaliser over its coordinates, in Python."""
    most, golden = 2**64, 0x9E3779B97F4A7C15

    def mix(z):
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % most
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % most
        return z ^ (z >> 31)

    z = mix((seed + golden) % most)
    z = mix(z ^ (step + 1) * golden % most)
    z = mix(z ^ (site + 1) * 0xD1342543DE82EF95 % most)
    return (mix((z + (index + 1) * golden) % most) >> 40) / 2**24


@pytest.mark.parametrize("first", [0, 7, 2**32 - 3, 2**63 - 100])
def test_draws_follow_their_formula(first):
    """A run that goes on under another version draws what it would have drawn."""
    at = (2**63 - 1, 12345, 77)
    want = np.array([uniform(*at, first + i) for i in range(67)])
    if first == 0:
        np.testing.assert_array_equal(kernels.draws("uniform", 67, *at), want.astype(np.float32))
    x = np.arange(1, 68, dtype=np.float32)
    kept = want >= np.float32(0.4)
    got = kernels.dropout(x, 0.4, *at, first)
    np.testing.assert_array_equal(got, np.where(kept, x * (1 / (1 - np.float32(0.4))), 0))


def test_normal_draws_are_normal():
    z = kernels.draws("normal", N, 3, 1, 4)
    assert abs(z.mean()) < 5 / np.sqrt(N)
    assert abs(z.var() - 1) < 5 * np.sqrt(2 / N)
    assert abs((np.abs(z) < 1).mean() - 0.682689) < 5 * np.sqrt(0.25 / N)


@pytest.mark.parametrize("other", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_draws_at_other_coordinates_are_independent(other):
    a = kernels.draws("uniform", N, 0, 0, 0) - 0.5
    b = kernels.draws("uniform", N, *other) - 0.5
    assert abs(12 * (a * b).mean()) < 5 / np.sqrt(N)
    assert abs(12 * (a[1:] * b[:-1]).mean()) < 5 / np.sqrt(N)  # nor shifted by one


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
def test_dropout_keeps_the_expectation(p):
    y = kernels.dropout(np.ones(N, np.float32), p, 1, 2, 3, 0)
    assert set(np.unique(y)) <= {np.float32(0), np.float32(1 / np.float32(1 - np.float32(p)))}
    assert abs((y != 0).mean() - (1 - p)) < 5 * np.sqrt(0.25 / N)
    assert abs(y.mean() - 1) <= 5 * np.sqrt(p / (1 - p) / N) + EPSILON * N


def test_dropout_is_a_function_of_its_coordinates(rng):
    x = f32(rng, 1000)
    whole = kernels.dropout(x, 0.3, 5, 6, 7, 40)
    parts = [kernels.dropout(x[i : i + 100], 0.3, 5, 6, 7, 40 + i) for i in range(0, 1000, 100)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    kept = kernels.draws("uniform", 1040, 5, 6, 7)[40:] >= np.float32(0.3)
    np.testing.assert_array_equal(whole != 0, kept)


@pytest.mark.parametrize(("n", "c"), [(1, 1), (0, 3), (7, 1025)])
def test_gated_product_matches_formula(rng, n, c):
    a, b, dy = (f32(rng, n, c) for _ in range(3))
    np.testing.assert_array_equal(kernels.gated_forward(a, b)[0], a * b)
    da, db = kernels.gated_backward(dy, a, b)
    np.testing.assert_array_equal(da, dy * b)
    np.testing.assert_array_equal(db, dy * a)
    with pytest.raises(ValueError, match="argument 2"):
        kernels.gated_forward(a, f32(rng, n + 1, c))
