"""Norms against their formulas and against PyTorch."""

import numpy as np
import pytest
import reference
from closeness import assert_close, f32
from needs import kernels

SIZES = [(1, 1), (1, 7), (3, 7), (64, 768), (5, 1025), (7, 97), (2, 16)]
EPS = 1e-5


@pytest.mark.parametrize(("n", "c"), SIZES)
def test_layernorm_forward_matches_formula(rng, n, c):
    x, w, b = f32(rng, n, c), f32(rng, c), f32(rng, c)
    y, mean, rstd = kernels.layernorm_forward(x, w, b, EPS)
    x64 = x.astype(np.float64)
    assert_close(mean, x64.mean(1), terms=c, magnitude=1)
    assert_close(rstd, 1 / np.sqrt(x64.var(1) + EPS), terms=c)
    # A mean that is off by epsilon is off by epsilon * rstd of what is normalised.
    size = max(1, np.abs(rstd).max()) * np.abs(w).max() + np.abs(b).max()
    assert_close(y, reference.layernorm(x, w, b, EPS), terms=c, magnitude=size)


@pytest.mark.parametrize(("n", "c"), SIZES)
def test_layernorm_backward_matches_formula(rng, n, c):
    x, dy, w = f32(rng, n, c), f32(rng, n, c), f32(rng, c)
    _, mean, rstd = kernels.layernorm_forward(x, w, w, EPS)
    dx, dw, db = kernels.layernorm_backward(dy, x, mean, rstd, w)
    want_dx, want_dw, want_db = reference.layernorm_backward(dy, x, w, EPS)
    size = np.abs(rstd).max() * np.abs(dy * w).max()
    assert_close(dx, want_dx, terms=c, magnitude=size)
    assert_close(dw, want_dw, terms=n, magnitude=max(4, np.abs(rstd).max()))
    assert_close(db, want_db, terms=n, magnitude=4)


def test_layernorm_of_shifted_rows_keeps_its_digits(rng):
    x = f32(rng, 4, 512) + np.float32(1000)  # a sum of squares would cancel here
    one, zero = np.ones(512, np.float32), np.zeros(512, np.float32)
    y, _, _ = kernels.layernorm_forward(x, one, zero, EPS)
    # The mean is rounded at 1000, not at 1: that error is the offset of the whole row.
    assert_close(y, reference.layernorm(x, one, zero, EPS), magnitude=1000)


def test_layernorm_of_constant_row_is_its_bias(rng):
    w, b = f32(rng, 33), f32(rng, 33)
    y, _, rstd = kernels.layernorm_forward(np.full((1, 33), 0.5, np.float32), w, b, EPS)
    np.testing.assert_array_equal(y[0], b)
    assert_close(rstd, [1 / np.sqrt(EPS)])


@pytest.mark.parametrize(("n", "c"), SIZES)
def test_rmsnorm_forward_matches_formula(rng, n, c):
    x, w = f32(rng, n, c), f32(rng, c)
    y, r = kernels.rmsnorm_forward(x, w, 1e-6)
    assert_close(y, reference.rmsnorm(x, w, 1e-6), terms=c)
    assert_close(r, 1 / np.sqrt((x.astype(np.float64) ** 2).mean(1) + 1e-6), terms=c)


@pytest.mark.parametrize(("n", "c"), SIZES)
def test_rmsnorm_backward_matches_formula(rng, n, c):
    x, dy, w = f32(rng, n, c), f32(rng, n, c), f32(rng, c)
    _, r = kernels.rmsnorm_forward(x, w, 1e-6)
    dx, dw = kernels.rmsnorm_backward(dy, x, r, w)
    want_dx, want_dw = reference.rmsnorm_backward(dy, x, w, 1e-6)
    size = np.abs(r).max() * np.abs(dy * w).max()
    assert_close(dx, want_dx, terms=c, magnitude=size)
    assert_close(dw, want_dw, terms=n, magnitude=max(4, np.abs(want_dw).max()))


@pytest.mark.parametrize(("n", "c"), [(1, 1), (7, 3), (1001, 64), (97, 65), (2, 130)])
def test_batchnorm_matches_formula(rng, n, c):
    x, dy, w, b = f32(rng, n, c) * 10 - 40, f32(rng, n, c), f32(rng, c), f32(rng, c)
    mean, var = kernels.batchnorm_stats(x)
    assert_close(mean, x.mean(0, dtype=np.float64))
    assert_close(var, x.astype(np.float64).var(0))
    (y,) = kernels.batchnorm_forward(x, mean, var, w, b, EPS)
    rstd = 1 / np.sqrt(var.min() + EPS)
    size = np.abs(x).max() * rstd * np.abs(w).max()  # the mean is rounded at the size of x
    assert_close(y, reference.batchnorm(x, w, b, EPS), magnitude=size)
    dx, dw, db = kernels.batchnorm_backward(dy, x, mean, var, w, EPS)
    want_dx, want_dw, want_db = reference.batchnorm_backward(dy, x, w, EPS)
    assert_close(dx, want_dx, magnitude=size * max(1, rstd))
    assert_close(dw, want_dw, terms=n, magnitude=max(4, np.abs(x).max() * rstd))
    assert_close(db, want_db, terms=n)


@pytest.mark.oracle
def test_batchnorm_of_running_statistics_matches_torch(rng):
    import torch

    x, mean, w, b = f32(rng, 101, 7), f32(rng, 7), f32(rng, 7), f32(rng, 7)
    var = np.abs(f32(rng, 7)) + 0.1
    (y,) = kernels.batchnorm_forward(x, mean, var, w, b, EPS)
    want = torch.nn.functional.batch_norm(*map(torch.from_numpy, (x, mean, var, w, b)), eps=EPS)
    assert_close(y, want)


@pytest.mark.parametrize(("n", "c"), SIZES)
def test_l2norm_matches_formula(rng, n, c):
    x, dy = f32(rng, n, c), f32(rng, n, c)
    y, length = kernels.l2norm_forward(x)
    assert_close(y, reference.l2norm(x))
    assert_close(length, np.linalg.norm(x.astype(np.float64), axis=1))
    (dx,) = kernels.l2norm_backward(dy, y, length)
    size = np.abs(dy).max() / length.min()
    assert_close(dx, reference.l2norm_backward(dy, x), terms=c, magnitude=size)


@pytest.mark.oracle
@pytest.mark.parametrize("scale", [0, 1e-30, 1e-13, 1e-12, 1, 1e15])
def test_l2norm_matches_torch_from_silence_to_noise(rng, scale):
    import torch

    x, dy = f32(rng, 3, 65) * np.float32(scale), f32(rng, 3, 65)
    x64 = torch.from_numpy(x.astype(np.float64)).requires_grad_()
    want = torch.nn.functional.normalize(x64, dim=1)
    want.backward(torch.from_numpy(dy.astype(np.float64)))
    y, length = kernels.l2norm_forward(x)
    assert_close(y, want.detach(), magnitude=max(1e-30, float(want.detach().abs().max())))
    if scale != 1e-30:  # torch squares in its own precision there; the floor decides either way
        (dx,) = kernels.l2norm_backward(dy, y, length)
        assert_close(dx, x64.grad, terms=65)


@pytest.mark.parametrize("c", [0, 1, 7])
def test_norms_of_no_rows_are_empty(c):
    x, w = np.zeros((0, c), np.float32), np.ones(c, np.float32)
    assert kernels.layernorm_forward(x, w, w, EPS)[0].shape == (0, c)
    assert kernels.rmsnorm_forward(x, w, EPS)[0].shape == (0, c)
    assert kernels.l2norm_forward(x)[0].shape == (0, c)
    dx, dw, _ = kernels.layernorm_backward(x, x, np.zeros(0), np.zeros(0), w)
    assert dx.shape == (0, c)
    assert not dw.any()


def test_norm_says_which_argument_does_not_fit(rng):
    with pytest.raises(ValueError, match=r"argument 2: expected shape \(7,\), got \(6,\)"):
        kernels.layernorm_forward(f32(rng, 3, 7), f32(rng, 6), f32(rng, 7), EPS)
    with pytest.raises(ValueError, match="expected 2 axes, got 1"):
        kernels.l2norm_forward(f32(rng, 3))
    with pytest.raises(TypeError, match="expected 4 arguments, got 2"):
        kernels.layernorm_forward(f32(rng, 3, 7), f32(rng, 7))
    with pytest.raises(TypeError, match="array of real numbers"):
        kernels.l2norm_forward(np.zeros((2, 2), complex))
