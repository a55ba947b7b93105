"""The symmetric contrastive loss and its gradients."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import reference
from closeness import EPSILON, assert_close, f32
from needs import kernels

import reclap

PARENT = Path(reclap.__file__).parents[1]  # of the package that is tested
SIZES = [
    (1, 3),
    (2, 1),
    (7, 64),
    (65, 512),
    (33, 17),
    (256, 24),
    (257, 9),
    (600, 40),
]  # tiles of 256
LOG_SCALES = [0.0, np.log(1 / 0.07), np.log(100)]


def unit_rows(rng, n, c):
    return reference.l2norm(f32(rng, n, c)).astype(np.float32)


@pytest.mark.parametrize("log_scale", LOG_SCALES)
@pytest.mark.parametrize(("n", "c"), SIZES)
def test_contrastive_matches_formula(rng, n, c, log_scale):
    a, t = unit_rows(rng, n, c), unit_rows(rng, n, c)
    loss, da, dt, ds = kernels.contrastive(a, t, log_scale)
    want, want_da, want_dt, want_ds = reference.contrastive(a, t, np.float64(np.float32(log_scale)))
    scale = np.exp(log_scale)  # a logit is rounded at this size, a probability relative to that
    assert_close(loss, want, magnitude=scale)
    assert_close(da, want_da, terms=n, magnitude=scale**2 / n)
    assert_close(dt, want_dt, terms=n, magnitude=scale**2 / n)
    assert_close(ds, want_ds, terms=n, magnitude=scale**2 / n)


@pytest.mark.oracle
def test_contrastive_matches_torch(rng):
    import torch

    a, t, s = unit_rows(rng, 9, 32), unit_rows(rng, 9, 32), 2.5
    ta, tt, ts = (torch.tensor(np.float64(x), requires_grad=True) for x in (a, t, s))
    logits = ts.exp() * ta @ tt.T
    target = torch.arange(9)
    cross = torch.nn.functional.cross_entropy
    want = (cross(logits, target) + cross(logits.T, target)) / 2
    want.backward()
    loss, da, dt, ds = kernels.contrastive(a, t, s)
    scale = np.exp(s)
    assert_close(loss, want.detach(), magnitude=scale)
    for got, at in ((da, ta), (dt, tt), (ds, ts)):
        assert_close(got, at.grad, terms=9, magnitude=scale**2 / 9)


@pytest.mark.parametrize("n", [33, 700])
def test_contrastive_is_the_same_on_any_number_of_threads(rng, n):
    a, t = unit_rows(rng, n, 64), unit_rows(rng, n, 64)
    one = kernels.contrastive(a, t, 2.0, 1)
    for threads in (2, 3):
        for x, y in zip(one, kernels.contrastive(a, t, 2.0, threads), strict=True):
            np.testing.assert_array_equal(x, y)


PROCESS = """
import os, resource, sys
import numpy as np
from reclap.runtime.libraries import kernels
x = np.eye(8, dtype=np.float32)[np.arange(6000) % 8]
def run(n):
    x_, owner = x[:n], np.arange(n)
    kernels.losses([(sys.argv[1], 1.0)], x_, x_, 1.0, 0.0, owner, owner * 0, x_, x_, 2.0, 1)
run(20)
threads, before = len(os.listdir("/proc/self/task")), resource.getrusage(resource.RUSAGE_SELF)
run(6000)
after = resource.getrusage(resource.RUSAGE_SELF)
print(len(os.listdir("/proc/self/task")) - threads, after.ru_maxrss - before.ru_maxrss)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux does")
@pytest.mark.parametrize("name", ["contrastive", "sigmoid", "distillation"])
def test_losses_start_no_threads_of_others_and_keep_no_logits(name):
    environment = {**os.environ, "OMP_NUM_THREADS": "3", "PYTHONPATH": str(PARENT)}
    command = [sys.executable, "-c", PROCESS, name]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)  # noqa: S603
    threads, kilobytes = map(int, out.stdout.split())
    assert threads == 0
    assert kilobytes < 30_000  # the logits would take 144,000


def test_contrastive_of_equal_pairs_is_log_n(rng):
    a = np.tile(unit_rows(rng, 1, 8), (16, 1))
    loss, da, _, ds = kernels.contrastive(a, a, 4.0)
    assert_close(loss, np.log(16), magnitude=np.exp(4))
    assert np.abs(da).max() < 16 * EPSILON * np.exp(4)
    assert abs(ds) < 16 * EPSILON * np.exp(8)


def test_contrastive_of_one_pair_is_zero(rng):
    loss, da, dt, ds = kernels.contrastive(unit_rows(rng, 1, 8), unit_rows(rng, 1, 8), 4.6)
    # exp(z - lse) is 1 only up to the rounding of a logit of size exp(4.6).
    assert abs(loss) < 4 * EPSILON * np.exp(4.6)
    assert np.abs([*da[0], *dt[0]]).max() < 4 * EPSILON * np.exp(9.2)
    assert abs(ds) < 4 * EPSILON * np.exp(9.2)


def test_contrastive_of_opposed_pairs_does_not_overflow(rng):
    a = unit_rows(rng, 5, 6)
    loss, da, dt, ds = kernels.contrastive(a, -a, np.log(100))
    assert_close(loss, reference.contrastive(a, -a, np.log(100))[0])
    assert np.isfinite([loss, ds, *da.ravel(), *dt.ravel()]).all()


def test_contrastive_rejects_what_does_not_fit(rng):
    with pytest.raises(ValueError, match="batch is empty"):
        kernels.contrastive(f32(rng, 0, 4), f32(rng, 0, 4), 1.0)
    with pytest.raises(ValueError, match=r"t: expected shape \(3, 4\), got \(2, 4\)"):
        kernels.contrastive(f32(rng, 3, 4), f32(rng, 2, 4), 1.0)
    with pytest.raises(ValueError, match="no columns"):
        kernels.contrastive(f32(rng, 3, 0), f32(rng, 3, 0), 1.0)
