"""The symmetric contrastive loss and its gradients."""

import numpy as np
import pytest
import reference
from closeness import EPSILON, assert_close, f32

from reclap._libraries import core

SIZES = [(1, 3), (2, 1), (7, 64), (65, 512), (33, 17)]
LOG_SCALES = [0.0, np.log(1 / 0.07), np.log(100)]


def unit_rows(rng, n, c):
    return reference.l2norm(f32(rng, n, c)).astype(np.float32)


@pytest.mark.parametrize("log_scale", LOG_SCALES)
@pytest.mark.parametrize(("n", "c"), SIZES)
def test_contrastive_matches_formula(rng, n, c, log_scale):
    a, t = unit_rows(rng, n, c), unit_rows(rng, n, c)
    loss, da, dt, ds = core.contrastive(a, t, log_scale)
    want, want_da, want_dt, want_ds = reference.contrastive(a, t, np.float64(np.float32(log_scale)))
    scale = np.exp(log_scale)  # a logit is rounded at this size, a probability relative to that
    assert_close(loss, want, magnitude=scale)
    assert_close(da, want_da, terms=n, magnitude=scale**2 / n)
    assert_close(dt, want_dt, terms=n, magnitude=scale**2 / n)
    assert_close(ds, want_ds, terms=n, magnitude=scale**2 / n)


@pytest.mark.torch
def test_contrastive_matches_torch(rng):
    torch = pytest.importorskip("torch")
    a, t, s = unit_rows(rng, 9, 32), unit_rows(rng, 9, 32), 2.5
    ta, tt, ts = (torch.tensor(np.float64(x), requires_grad=True) for x in (a, t, s))
    logits = ts.exp() * ta @ tt.T
    target = torch.arange(9)
    cross = torch.nn.functional.cross_entropy
    want = (cross(logits, target) + cross(logits.T, target)) / 2
    want.backward()
    loss, da, dt, ds = core.contrastive(a, t, s)
    scale = np.exp(s)
    assert_close(loss, want.detach(), magnitude=scale)
    for got, at in ((da, ta), (dt, tt), (ds, ts)):
        assert_close(got, at.grad, terms=9, magnitude=scale**2 / 9)


def test_contrastive_is_the_same_on_two_threads(rng):
    a, t = unit_rows(rng, 33, 64), unit_rows(rng, 33, 64)
    for one, two in zip(*(core.contrastive(a, t, 2.0, k) for k in (1, 2)), strict=True):
        np.testing.assert_array_equal(one, two)


def test_contrastive_of_equal_pairs_is_log_n(rng):
    a = np.tile(unit_rows(rng, 1, 8), (16, 1))
    loss, da, _, ds = core.contrastive(a, a, 4.0)
    assert_close(loss, np.log(16), magnitude=np.exp(4))
    assert np.abs(da).max() < 16 * EPSILON * np.exp(4)
    assert abs(ds) < 16 * EPSILON * np.exp(8)


def test_contrastive_of_one_pair_is_zero(rng):
    loss, da, dt, ds = core.contrastive(unit_rows(rng, 1, 8), unit_rows(rng, 1, 8), 4.6)
    # exp(z - lse) is 1 only up to the rounding of a logit of size exp(4.6).
    assert abs(loss) < 4 * EPSILON * np.exp(4.6)
    assert np.abs([*da[0], *dt[0]]).max() < 4 * EPSILON * np.exp(9.2)
    assert abs(ds) < 4 * EPSILON * np.exp(9.2)


def test_contrastive_of_opposed_pairs_does_not_overflow(rng):
    a = unit_rows(rng, 5, 6)
    loss, da, dt, ds = core.contrastive(a, -a, np.log(100))
    assert_close(loss, reference.contrastive(a, -a, np.log(100))[0])
    assert np.isfinite([loss, ds, *da.ravel(), *dt.ravel()]).all()


def test_contrastive_rejects_what_does_not_fit(rng):
    with pytest.raises(ValueError, match="batch is empty"):
        core.contrastive(f32(rng, 0, 4), f32(rng, 0, 4), 1.0)
    with pytest.raises(ValueError, match=r"t: expected shape \(3, 4\), got \(2, 4\)"):
        core.contrastive(f32(rng, 3, 4), f32(rng, 2, 4), 1.0)
    with pytest.raises(ValueError, match="no columns"):
        core.contrastive(f32(rng, 3, 0), f32(rng, 3, 0), 1.0)
