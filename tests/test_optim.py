"""AdamW, Adam and the gradient norm."""

import numpy as np
import pytest
import reference
from closeness import assert_close, f32
from needs import kernels

HOW = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.1}


@pytest.mark.parametrize("n", [1, 7, 16, 1025])
@pytest.mark.parametrize("step", [1, 2, 1000])
@pytest.mark.parametrize("coupled", [False, True])
def test_step_matches_formula(rng, n, step, coupled):
    w, m, g = f32(rng, n), f32(rng, n), f32(rng, n)
    v = np.abs(f32(rng, n)) + 0.1
    want_w, want_m, want_v = reference.adamw(w, m, v, g, step, *HOW.values(), 0.5, coupled)
    before = w.copy()
    kernels.adamw_step(w, m, v, g, step, *HOW.values(), 0.5, coupled)
    assert_close(m, want_m)
    assert_close(v, want_v)
    assert_close(w, want_w)
    # The update itself, which rounding at the size of w would hide.
    assert_close(w - before, want_w - before, magnitude=np.abs(before).max())


@pytest.mark.oracle
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("beta2", [0.99, 0.999])
@pytest.mark.parametrize("algorithm", ["AdamW", "Adam"])
def test_step_follows_torch_over_many_steps(rng, weight_decay, beta2, algorithm):
    import torch

    w = f32(rng, 257)
    m, v = np.zeros_like(w), np.zeros_like(w)
    p = torch.nn.Parameter(torch.from_numpy(w.astype(np.float64)))
    optimizer = getattr(torch.optim, algorithm)(
        [p], lr=1e-2, betas=(0.9, beta2), weight_decay=weight_decay
    )
    for step in range(1, 201):
        g = f32(rng, 257) * rng.choice(np.float32([1e-4, 1, 100]))
        p.grad = torch.from_numpy(g.astype(np.float64))
        optimizer.step()
        how = (1e-2, 0.9, beta2, 1e-8, weight_decay, 1.0, algorithm == "Adam")
        kernels.adamw_step(w, m, v, g, step, *how)
    # Two hundred roundings of a weight add up like a random walk.
    assert_close(w, p.detach(), terms=200)


def test_adamw_with_no_gradient_only_decays(rng):
    w = f32(rng, 9)
    want = w * np.float32(1 - 1e-2 * 0.5)
    zero = np.zeros(9, np.float32)
    kernels.adamw_step(w, zero.copy(), zero.copy(), zero, 1, 1e-2, 0.9, 0.999, 1e-8, 0.5, 1.0)
    assert_close(w, want)


def test_adamw_rejects_what_it_cannot_write(rng):
    w, m, v, g = (f32(rng, 4) for _ in range(4))
    with pytest.raises(TypeError, match="writable C-contiguous float32"):
        kernels.adamw_step(w.astype(np.float64), m, v, g, 1, *HOW.values(), 1.0)
    with pytest.raises(TypeError, match="writable C-contiguous float32"):
        kernels.adamw_step(f32(rng, 8)[::2], m, v, g, 1, *HOW.values(), 1.0)
    w.flags.writeable = False
    with pytest.raises(TypeError, match="writable C-contiguous float32"):
        kernels.adamw_step(w, m, v, g, 1, *HOW.values(), 1.0)
    for step, size in ((0, 4), (1, 5)):
        with pytest.raises(ValueError, match="sizes differ, or step below 1"):
            kernels.adamw_step(m, v, f32(rng, 4), f32(rng, size), step, *HOW.values(), 1.0)


@pytest.mark.parametrize("n", [0, 1, 7, 65537])
def test_sum_squares_matches_formula(rng, n):
    x = f32(rng, n)
    assert kernels.sum_squares(x) == pytest.approx((x.astype(np.float64) ** 2).sum(), rel=1e-13)


def test_sum_squares_does_not_overflow():
    assert kernels.sum_squares(np.full(4, 1e30, np.float32)) == pytest.approx(4e60, rel=1e-6)
