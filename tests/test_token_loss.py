"""Contrastive loss by late interaction: tokens of clips against tokens of texts."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import reference
from closeness import assert_close, f32
from needs import kernels

import reclap

# Pairs, tokens of a clip, tokens of a text: one, several and many of a tile of 256.
SIZES = [(1, 1, 1), (2, 3, 5), (9, 64, 17), (5, 300, 7), (4, 7, 300), (130, 3, 2), (17, 33, 77)]


def case(rng, n, la, lt, c=12):
    a, t = (
        reference.l2norm(f32(rng, n * tokens, c)).astype(np.float32).reshape(n, tokens, c)
        for tokens in (la, lt)
    )
    return a, t, rng.integers(1, la + 1, n), rng.integers(1, lt + 1, n)


def autograd(a, t, count_a, count_t, log_scale):
    """Return the loss and its gradients in float64: FILIP's equations 4 and 5, InfoNCE of both."""
    import torch

    a, t, s = (
        torch.tensor(np.float64(x), requires_grad=True) for x in (a, t, np.float32(log_scale))
    )
    here = torch.arange(a.shape[1]) < torch.tensor(count_a)[:, None]  # (n, la)
    there = torch.arange(t.shape[1]) < torch.tensor(count_t)[:, None]
    cosines = torch.einsum("ikc,jrc->ijkr", a, t)
    found = cosines.masked_fill(~there[None, :, None], -torch.inf).amax(3)
    to_text = (found * here[:, None]).sum(2) / here.sum(1)[:, None]
    found = cosines.masked_fill(~here[:, None, :, None], -torch.inf).amax(2)
    to_clip = (found * there).sum(2) / there.sum(1)
    target = torch.arange(len(a))
    cross = torch.nn.functional.cross_entropy
    loss = (cross(s.exp() * to_text, target) + cross((s.exp() * to_clip).T, target)) / 2
    loss.backward()
    return loss.item(), *(x.grad.numpy() for x in (a, t, s))


@pytest.mark.oracle
@pytest.mark.parametrize("log_scale", [0.0, np.log(1 / 0.07), np.log(100)], ids="{:.2f}".format)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_token_loss_matches_autograd(rng, size, log_scale):
    args = case(rng, *size)
    want = autograd(*args, log_scale)
    got = kernels.token_loss(*args, log_scale)
    scale, n = np.exp(log_scale), size[0]
    assert_close(got[0], want[0], magnitude=max(scale, want[0]))
    for x, y in zip(got[1:], want[1:], strict=True):
        assert_close(x, y, terms=n, magnitude=max(scale**2 / n, np.abs(y).max()))


def test_one_token_each_is_the_loss_of_pairs(rng):
    a, t, *counts = case(rng, 40, 1, 1)
    got = kernels.token_loss(a, t, *counts, 2.0)
    want = kernels.contrastive(a[:, 0], t[:, 0], 2.0)
    for x, y in zip(got, want, strict=True):
        assert_close(np.squeeze(x), y, terms=40, magnitude=np.exp(4) / 40)


@pytest.mark.parametrize("size", [(33, 7, 5), (40, 100, 30)], ids=str)
def test_token_loss_is_the_same_on_any_number_of_threads(rng, size):
    args = case(rng, *size)
    one = kernels.token_loss(*args, 2.0, 1)
    for threads in (2, 3):
        for x, y in zip(one, kernels.token_loss(*args, 2.0, threads), strict=True):
            np.testing.assert_array_equal(x, y)


PROCESS = """
import resource
import numpy as np
from reclap.runtime.libraries import kernels
def run(n, la, lt):
    a, t = (np.tile(np.eye(8, dtype=np.float32), (n, m // 8, 1)) for m in (la, lt))
    kernels.token_loss(a, t, [la] * n, [lt] * n, 1.0, 1)
run(2, 64, 16)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run(300, 64, 16)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_token_loss_keeps_no_logits():
    environment = {**os.environ, "PYTHONPATH": str(Path(reclap.__file__).parents[1])}
    command = [sys.executable, "-c", PROCESS]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)  # noqa: S603
    assert int(out.stdout) < 30_000  # kilobytes; the cosines of all tokens would take 360,000


def test_gradient_is_the_slope_along_a_direction(rng):
    """As long as each token finds the same other one, the loss is smooth."""
    a, t, count_a, count_t = case(rng, 6, 5, 4, c=40)
    _, da, dt, ds = kernels.token_loss(a, t, count_a, count_t, 1.0)
    da_, dt_, h = f32(rng, *a.shape), f32(rng, *t.shape), 1e-3
    at = [
        kernels.token_loss(a + s * da_, t + s * dt_, count_a, count_t, 1.0 + s)[0] for s in (h, -h)
    ]
    slope = (da * da_).sum() + (dt * dt_).sum() + ds
    assert (at[0] - at[1]) / (2 * h) == pytest.approx(slope, rel=0.02, abs=1e-3)


def test_padding_counts_for_nothing(rng):
    a, t, count_a, count_t = case(rng, 9, 6, 5)
    want = kernels.token_loss(a, t, count_a, count_t, 2.0)
    for x, count in ((a, count_a), (t, count_t)):
        for i, n in enumerate(count):
            x[i, n:] = 100.0
    got = kernels.token_loss(a, t, count_a, count_t, 2.0)
    for x, y in zip(got, want, strict=True):
        np.testing.assert_array_equal(x, y)
    for gradient, count in ((got[1], count_a), (got[2], count_t)):
        for i, n in enumerate(count):
            assert not gradient[i, n:].any()


@pytest.mark.parametrize("place", [0, 1])
def test_nan_passes_through(rng, place):
    args = case(rng, 5, 4, 3)
    args[2][:], args[3][:] = 4, 3
    args[place][2, 1, 1] = np.nan
    loss, da, dt, ds = kernels.token_loss(*args, 2.0)
    assert np.isnan([loss, ds]).all()
    assert np.isnan(da).any()
    assert np.isnan(dt).any()


def test_an_empty_clip_or_text_is_refused(rng):
    a, t, count_a, count_t = case(rng, 3, 4, 5)
    with pytest.raises(ValueError, match="count_a: expected 1 to 4, got 0"):
        kernels.token_loss(a, t, [1, 0, 1], count_t, 2.0)
    with pytest.raises(ValueError, match="count_t: expected 1 to 5, got 6"):
        kernels.token_loss(a, t, count_a, [5, 6, 1], 2.0)
    with pytest.raises(ValueError, match="pairs: expected 1"):
        kernels.token_loss(a[:0], t[:0], [], [], 2.0)
    with pytest.raises(ValueError, match=r"t: expected shape \(3, 5, 12\), got \(2, 5, 12\)"):
        kernels.token_loss(a, t[:2], count_a, count_t, 2.0)
