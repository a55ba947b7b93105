"""Every forward/backward pair of the binding through one random-direction check.

The rule: backward receives a random dy and must give gradients whose product with a random
direction of the inputs equals the central difference of <dy, forward> along it. The difference is
taken of the formula in float64 (tests/reference.py), where it is exact to 1e-9; that the binding's
forward is that formula is checked here too, at the same inputs. So only the float32 rounding of
backward remains: epsilon * sqrt(terms) of each gradient, added up like a random walk.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import reference
from closeness import EPSILON, ROUNDINGS, assert_close, f32
from needs import kernels

EPS = 1e-5


@dataclass
class Pair:
    """One pair at one size.

    `formula` and `forward` map the inputs to y; `backward` maps dy and the inputs to gradients, in
    the inputs' order. `terms` is the longest sum on the way.
    """

    inputs: list[np.ndarray]
    formula: Callable[..., Any]
    forward: Callable[..., Any]
    backward: Callable[..., Any]
    terms: int
    size: float = 10.0  # of what forward and backward add up, where it is more than the result


def layernorm(rng, n, c):
    def backward(dy, x, w, b):
        _, mean, rstd = kernels.layernorm_forward(x, w, b, EPS)
        return kernels.layernorm_backward(dy, x, mean, rstd, w)

    return Pair(
        [f32(rng, n, c), f32(rng, c), f32(rng, c)],
        lambda x, w, b: reference.layernorm(x, w, b, EPS),
        lambda x, w, b: kernels.layernorm_forward(x, w, b, EPS)[0],
        backward,
        max(n, c),
    )


def rmsnorm(rng, n, c):
    return Pair(
        [f32(rng, n, c), f32(rng, c)],
        lambda x, w: reference.rmsnorm(x, w, EPS),
        lambda x, w: kernels.rmsnorm_forward(x, w, EPS)[0],
        lambda dy, x, w: kernels.rmsnorm_backward(dy, x, kernels.rmsnorm_forward(x, w, EPS)[1], w),
        max(n, c),
    )


def batchnorm(rng, n, c):
    return Pair(
        [f32(rng, n, c), f32(rng, c), f32(rng, c)],
        lambda x, w, b: reference.batchnorm(x, w, b, EPS),
        lambda x, w, b: kernels.batchnorm_forward(x, *kernels.batchnorm_stats(x), w, b, EPS)[0],
        lambda dy, x, w, b: kernels.batchnorm_backward(dy, x, *kernels.batchnorm_stats(x), w, EPS),
        n,
    )


def l2norm(rng, n, c):
    return Pair(
        [f32(rng, n, c)],
        reference.l2norm,
        lambda x: kernels.l2norm_forward(x)[0],
        lambda dy, x: kernels.l2norm_backward(dy, *kernels.l2norm_forward(x)),
        c,
    )


def activation(kind, formula):
    def pair(rng, n, c):
        def backward(dy, x):
            given = kernels.activation(kind, x) if kind in ("tanh", "sigmoid") else x
            return (kernels.activation_backward(kind, dy, given),)

        return Pair(
            [3 * f32(rng, n, c)], formula, lambda x: kernels.activation(kind, x), backward, 1
        )

    return pair


def dropout(rng, n, c):
    at = (0.3, 1, 2, 3, 0)
    kept = kernels.dropout(np.ones((n, c), np.float32), *at)
    return Pair(
        [f32(rng, n, c)],
        lambda x: x * np.float64(kept),
        lambda x: kernels.dropout(x, *at),
        lambda dy, x: (kernels.dropout(dy, *at),),
        1,
    )


def attention(masked):
    def pair(rng, t, d):
        heads, keys, scale = 2, max(1, t - 1), d**-0.5
        mask = (
            np.where(rng.random((t, t)) < 0.3, np.float32(-100), np.float32(0)) if masked else None
        )
        bias = f32(rng, heads, t, t)
        bias[..., keys:] = 0
        return Pair(
            [f32(rng, t, 3 * heads * d), bias],
            lambda x, b: reference.attention(x, heads, keys, scale, b, mask),
            lambda x, b: kernels.attention(x, heads, keys, scale, b, mask),
            lambda dy, x, b: kernels.attention(x, heads, keys, scale, b, mask, dy),
            t + d,
            100,
        )

    return pair


def gather(rng, n, c):
    index = rng.permutation(n)
    return Pair(
        [f32(rng, n, c)],
        lambda x: x[index],
        lambda x: kernels.gather_rows(x, index),
        lambda dy, x: (kernels.scatter_rows(dy, index, n),),
        1,
    )


def lookup(rng, n, c):
    ids = rng.integers(0, n, 3 * n)
    return Pair(
        [f32(rng, n, c)],
        lambda x: x[ids],
        lambda x: kernels.lookup_forward(x, ids),
        lambda dy, x: (kernels.lookup_backward(dy, ids, n),),
        3 * n,
    )


def stretch(rng, n, c):
    matrix = reference.stretch_matrix(n, n + c)
    return Pair(
        [f32(rng, n, c)],
        lambda x: matrix @ x,
        lambda x: kernels.stretch_forward(x, n + c),
        lambda dy, x: (kernels.stretch_backward(dy, n),),
        n + c,
    )


def relpos(rng, n, c):
    window = min(n, 8)
    return Pair(
        [f32(rng, (2 * window - 1) ** 2, c % 5 + 1)],
        lambda x: reference.relpos(x, window),
        lambda x: kernels.relpos_forward(x, window),
        lambda dy, x: (kernels.relpos_backward(dy, window),),
        window**2,
    )


def t5_bias(rng, n, c):
    heads = c % 5 + 1
    return Pair(
        [f32(rng, 32, heads)],
        lambda x: reference.t5_bias(x, n),
        lambda x: kernels.t5_bias_forward(x, n, 128),
        lambda dy, x: (kernels.t5_bias_backward(dy, 32, 128),),
        n**2,
    )


def gated(rng, n, c):
    return Pair(
        [f32(rng, n, c), f32(rng, n, c)],
        lambda a, b: a * b,
        lambda a, b: kernels.gated_forward(a, b)[0],
        kernels.gated_backward,
        1,
    )


def meanpool(rng, n, c):
    return Pair(
        [f32(rng, n, c)],
        lambda x: x.mean(0),
        lambda x: kernels.meanpool_forward(x)[0],
        lambda dy, x: kernels.meanpool_backward(dy[None], n),
        n,
    )


def linear(packed, threads):
    def pair(rng, n, c):
        out = c + 3
        return Pair(
            [f32(rng, n, c), f32(rng, out, c), f32(rng, out)],
            lambda x, w, b: x @ w.T + b,
            lambda x, w, b: kernels.linear_forward(
                x, w, b, threads=threads, rows=16, packed=packed
            ),
            lambda dy, x, w, b: kernels.linear_backward(dy, x, w, threads=threads, rows=16),
            n + c,
        )

    return pair


def adapter(threads):
    def pair(rng, n, c):
        w, scale, rank, out = f32(rng, c + 3, c), 0.75, 1 + n % 5, c + 3
        return Pair(
            [f32(rng, n, c), f32(rng, rank, c), f32(rng, out, rank)],
            lambda x, a, b: x @ w.T + scale * (x @ a.T) @ b.T,
            lambda x, a, b: kernels.adapter(x, w, a, b, scale, f32(rng, n, out), threads, 16)[0],
            lambda dy, x, a, b: kernels.adapter(x, w, a, b, scale, dy, threads, 16)[1:],
            n + c,
            100,
        )

    return pair


def contrastive(rng, n, c):
    """The loss is its own forward; dy scales it, as a scalar that is 1 where it matters."""
    scale = 2.0
    a, t = (reference.l2norm(f32(rng, n, c)).astype(np.float32) for _ in range(2))
    return Pair(
        [a, t, np.float32([scale])],
        lambda a, t, s: np.array(reference.contrastive(a, t, s[0])[0]),
        lambda a, t, s: np.array(kernels.contrastive(a, t, s[0])[0]),
        lambda dy, a, t, s: [dy * g for g in kernels.contrastive(a, t, s[0])[1:]],
        n,
        100,
    )


def loss(name):
    """A loss of two or three texts a clip, with an owner and a role each; dy scales it."""

    def pair(rng, n, c):
        texts, bias = 2 * n + 3, -1.5
        a, t, teacher_a, teacher_t = (
            reference.l2norm(f32(rng, rows, c)).astype(np.float32) for rows in (n, texts, n, texts)
        )
        owner = rng.permutation(np.arange(texts) % n)
        _, first = np.unique(owner, return_index=True)
        role = rng.integers(3, size=texts)
        role[first] = 0
        sees, positive = reference.sight(owner, role, n)

        def formula(a, t, s):
            z = np.exp(s[0]) * a @ t.T
            if name == "contrastive":
                return np.array(reference.contrastive_of_many(z, sees, positive))
            if name == "sigmoid":
                return np.array(reference.sigmoid_of_pairs(z + bias, sees, positive))
            return np.array(
                reference.distillation(z, 5 * reference.double(teacher_a)[0] @ teacher_t.T)
            )

        def run(a, t, s):
            return kernels.losses(
                [(name, 1.0)], a, t, s[0], bias, owner, role, teacher_a, teacher_t, np.log(5)
            )

        return Pair(
            [a, t, np.float32([2.0])],
            formula,
            lambda a, t, s: np.array(run(a, t, s)[0]),
            lambda dy, a, t, s: [dy * g for g in run(a, t, s)[1:4]],
            texts,
            100,
        )

    return pair


PAIRS = {
    "layernorm": layernorm,
    "rmsnorm": rmsnorm,
    "batchnorm": batchnorm,
    "l2norm": l2norm,
    "gelu": activation("gelu", reference.gelu),
    "gelu_tanh": activation("gelu_tanh", reference.gelu_tanh),
    "quick_gelu": activation("quick_gelu", reference.quick_gelu),
    "gated": gated,
    "relu": activation("relu", lambda x: np.maximum(x, 0)),
    "tanh": activation("tanh", np.tanh),
    "sigmoid": activation("sigmoid", lambda x: 1 / (1 + np.exp(-x))),
    "dropout": dropout,
    "attention": attention(False),
    "attention_masked": attention(True),
    "gather_scatter": gather,
    "lookup": lookup,
    "stretch": stretch,
    "relpos": relpos,
    "t5_bias": t5_bias,
    "meanpool": meanpool,
    "linear": linear(None, 1),
    "linear_packed_two_threads": linear("float32", 2),
    "adapter": adapter(1),
    "adapter_two_threads": adapter(2),
    "contrastive": contrastive,
    "contrastive_of_many": loss("contrastive"),
    "sigmoid_of_pairs": loss("sigmoid"),
    "distillation": loss("distillation"),
}


@pytest.mark.parametrize("size", [(7, 5), (64, 32), (77, 24), (13, 193)], ids=str)
@pytest.mark.parametrize("name", PAIRS)
def test_backward_is_the_slope_of_forward(rng, name, size):
    pair = PAIRS[name](rng, *size)
    start = [x.astype(np.float64) for x in pair.inputs]
    y = pair.formula(*start)
    assert_close(pair.forward(*pair.inputs), y, terms=pair.terms, magnitude=pair.size)

    dy = f32(rng, *y.shape)
    along = [rng.standard_normal(x.shape) for x in start]
    h = 1e-6  # its square is the truncation; 1e-16 / h the rounding

    def at(step):
        return (dy * pair.formula(*(x + step * d for x, d in zip(start, along, strict=True)))).sum()

    slope = (at(h) - at(-h)) / (2 * h)
    gradients = pair.backward(dy, *pair.inputs)
    products = [np.asarray(g) * d for g, d in zip(gradients, along, strict=True)]
    # Every gradient errs by epsilon sqrt(terms) size; random signs of the direction add the errors
    # up like sqrt(n).
    n = sum(x.size for x in products)
    size_of_one = max(max(np.abs(x).max() for x in products), 1)
    tolerance = ROUNDINGS * EPSILON * np.sqrt(pair.terms) * size_of_one * np.sqrt(n)
    numeric = 1e-9 * np.abs(dy).sum() * pair.size
    assert abs(sum(x.sum() for x in products) - slope) <= tolerance + numeric


def test_every_pair_of_the_binding_is_here():
    covered = " ".join([*PAIRS, "gelu activation gather_rows scatter_rows"])
    for name in dir(kernels):
        if name.endswith("_backward"):
            assert name.removesuffix("_backward") in covered
