"""The transformer block with all of its options, both ways, against PyTorch in float64."""

import itertools

import numpy as np
import pytest
from closeness import f32
from needs import kernels

C, HEADS, D, MLP, EPS = 22, 3, 5, 13, 1e-3
LENGTHS = (1, 7, 40, 2)
FIRST = np.cumsum([0, *LENGTHS]).astype(np.int32)
OPTIONS = list(itertools.product((False, True), repeat=4))  # rms, post, gated, biases and mask


def values_of(rng, rms, gated):
    """Return random parameters by name, in the core's order."""
    norm = ("weight",) if rms else ("weight", "bias")
    shapes = {f"norm1.{part}": (C,) for part in norm}
    layers = {"qkv": (3 * HEADS * D, C), "proj": (C, HEADS * D)}
    for name, (n, k) in layers.items():
        shapes |= {f"{name}.weight": (n, k), f"{name}.bias": (n,)}
    shapes |= {f"norm2.{part}": (C,) for part in norm}
    layers = {"fc1": (MLP, C)} | ({"gate": (MLP, C)} if gated else {}) | {"fc2": (C, MLP)}
    for name, (n, k) in layers.items():
        shapes |= {f"{name}.weight": (n, k), f"{name}.bias": (n,)}
    return {
        name: np.float32(1) + f32(rng, *s) / 5 if name.startswith("norm") else f32(rng, *s) / 3
        for name, s in shapes.items()
    }


def torch_block(p, x, bias, mask, rms, post, gated):
    """Return the block of float64 tensors, a sequence at a time."""
    import torch
    from torch.nn import functional as F

    def norm(name, y):
        if rms:
            return F.rms_norm(y, (C,), p[f"{name}.weight"], EPS)
        return F.layer_norm(y, (C,), p[f"{name}.weight"], p[f"{name}.bias"], EPS)

    def linear(name, y):
        return F.linear(y, p[f"{name}.weight"], p[f"{name}.bias"])

    def attend(y):
        q, k, v = linear("qkv", y).unflatten(-1, (3, HEADS, D)).permute(1, 2, 0, 3)
        scores = q @ k.mT
        t = len(y)
        if bias is not None:
            scores = scores + bias[:, :t, :t] + mask[:t, :t]
        return linear("proj", (scores.softmax(-1) @ v).permute(1, 0, 2).flatten(1))

    def mlp(y):
        h = F.gelu(linear("fc1", y))
        return linear("fc2", h * linear("gate", y) if gated else h)

    def one(y):
        if post:
            y = norm("norm1", y + attend(y))
            return norm("norm2", y + mlp(y))
        y = y + attend(norm("norm1", y))
        return y + mlp(norm("norm2", y))

    return torch.cat([one(y) for y in x.split(LENGTHS)])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("rms", "post", "gated", "biased"), OPTIONS)
def test_block_matches_autograd(rng, oracle, rms, post, gated, biased, threads):
    values = values_of(rng, rms, gated)
    x, dy = f32(rng, FIRST[-1], C), f32(rng, FIRST[-1], C)
    side = max(LENGTHS)
    bias = f32(rng, HEADS, side, side) if biased else None
    mask = np.where(np.tri(side, dtype=bool), 0, -1e30).astype(np.float32) if biased else None

    def answer():
        import torch

        p = {n: torch.tensor(v, dtype=torch.float64, requires_grad=True) for n, v in values.items()}
        stream = torch.tensor(x, dtype=torch.float64, requires_grad=True)
        table = (
            None if bias is None else torch.tensor(bias, dtype=torch.float64, requires_grad=True)
        )
        hidden = None if mask is None else torch.tensor(mask, dtype=torch.float64)
        y = torch_block(p, stream, table, hidden, rms, post, gated)
        (y * torch.tensor(dy)).sum().backward()
        found = {"y": y, "dx": stream.grad} | {n: v.grad for n, v in p.items()}
        if table is not None:
            found["dbias"] = table.grad
        return {n: v.detach().numpy() for n, v in found.items()}

    kinds = (rms, post, gated, biased)
    want = oracle.sketch("block/" + "".join("ny"[k] for k in kinds), answer)
    arguments = (x, FIRST, [*values.values()], HEADS, D, MLP, *kinds[:3], 0, EPS, bias, mask)
    got = {"y": kernels.block(*arguments, None, threads)}
    got["dx"], gradients, dbias = kernels.block(*arguments, dy, threads)
    got |= dict(zip(values, gradients, strict=True))
    if biased:
        got["dbias"] = dbias
    for name, found in got.items():
        distance = want.distance(name, found)
        assert distance <= 2e-5, f"{name}: {distance:.2e} apart"


def test_threads_change_no_bit(rng):
    values = values_of(rng, False, True)
    x, dy, bias = f32(rng, FIRST[-1], C), f32(rng, FIRST[-1], C), f32(rng, HEADS, 40, 40)
    arguments = (x, FIRST, [*values.values()], HEADS, D, MLP, False, True, True, 0, EPS, bias, None)
    found = [kernels.block(*arguments, dy, threads) for threads in (1, 2, 3)]
    for dx, gradients, dbias in found[1:]:
        np.testing.assert_array_equal(dx, found[0][0])
        np.testing.assert_array_equal(dbias, found[0][2])
        for a, b in zip(gradients, found[0][1], strict=True):
            np.testing.assert_array_equal(a, b)
