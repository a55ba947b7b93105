"""Linear layers over chunks of rows: plain, packed, with tails, on one and on two threads."""

import subprocess
import sys

import numpy as np
import pytest
from closeness import assert_close, f32
from needs import kernels

import reclap

SIZES = [(1, 1, 1), (7, 5, 3), (64, 96, 384), (65, 96, 97), (200, 1025, 17), (129, 7, 288)]


def double(*arrays):
    return tuple(a.astype(np.float64) for a in arrays)


@pytest.mark.parametrize("packed", [None, "float32"])
@pytest.mark.parametrize(("n", "k", "out"), SIZES)
def test_linear_forward_matches_formula(rng, n, k, out, packed):
    x, w, b = f32(rng, n, k), f32(rng, out, k), f32(rng, out)
    x64, w64, b64 = double(x, w, b)
    assert_close(kernels.linear_forward(x, w, b, packed=packed), x64 @ w64.T + b64, terms=k)
    assert_close(kernels.linear_forward(x, w, None, packed=packed), x64 @ w64.T, terms=k)


@pytest.mark.parametrize(("n", "k", "out"), SIZES)
def test_linear_backward_matches_formula(rng, n, k, out):
    dy, x, w = f32(rng, n, out), f32(rng, n, k), f32(rng, out, k)
    dx, dw, db = kernels.linear_backward(dy, x, w)
    dy64, x64, w64 = double(dy, x, w)
    assert_close(dx, dy64 @ w64, terms=out)
    assert_close(dw, dy64.T @ x64, terms=n)
    assert_close(db, dy64.sum(0), terms=n, magnitude=4)


# Tiles of a weight gradient along outputs and inputs, groups of rows, stretches of 512 with tails.
@pytest.mark.parametrize(
    ("n", "k", "out"),
    [(5000, 20, 30), (1100, 600, 40), (700, 1100, 530), (513, 17, 1300), (4097, 16, 16)],
)
def test_weight_gradients_are_whole_in_tiles_and_groups(rng, n, k, out):
    dy, x, w = f32(rng, n, out), f32(rng, n, k), f32(rng, out, k)
    dx, dw, db = kernels.linear_backward(dy, x, w, threads=2)
    dy64, x64 = double(dy, x)
    assert_close(dw, dy64.T @ x64, terms=n)
    assert_close(db, dy64.sum(0), terms=n, magnitude=4 + np.sqrt(n))
    for again, first in zip(kernels.linear_backward(dy, x, w), (dx, dw, db), strict=True):
        np.testing.assert_array_equal(again, first)


@pytest.mark.parametrize("rows", [1, 16, 64, 128, 1000])
@pytest.mark.parametrize("n", [1, 63, 64, 65, 128, 200])
def test_linear_does_not_depend_on_the_chunk(rng, n, rows):
    x, w, b, dy = f32(rng, n, 48), f32(rng, 37, 48), f32(rng, 37), f32(rng, n, 37)
    x64, w64, b64, dy64 = double(x, w, b, dy)
    for packed in (None, "float32"):
        y = kernels.linear_forward(x, w, b, rows=rows, packed=packed)
        assert_close(y, x64 @ w64.T + b64, terms=48)
    dx, dw, db = kernels.linear_backward(dy, x, w, rows=rows)
    assert_close(dx, dy64 @ w64, terms=37)
    assert_close(dw, dy64.T @ x64, terms=n)
    assert_close(db, dy64.sum(0), terms=n, magnitude=4)


@pytest.mark.parametrize(("n", "k", "out"), [(1, 7, 5), (65, 96, 97), (200, 130, 384)])
def test_linear_is_bitwise_equal_on_one_and_two_threads(rng, n, k, out):
    x, w, b, dy = f32(rng, n, k), f32(rng, out, k), f32(rng, out), f32(rng, n, out)
    for packed in (None, "float32"):
        one, two = (kernels.linear_forward(x, w, b, threads=t, packed=packed) for t in (1, 2))
        np.testing.assert_array_equal(one, two)
    for one, two in zip(
        *(kernels.linear_backward(dy, x, w, threads=t) for t in (1, 2)), strict=True
    ):
        np.testing.assert_array_equal(one, two)


def bfloat16(x):
    bits = x.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16
    return rounded.astype(np.uint32).view(np.float32).astype(np.float64)


def int8(x, level=127):
    scale = np.abs(x).max(1, keepdims=True).astype(np.float64) / level
    return np.round(x / np.where(scale > 0, scale, 1)) * scale


def product(x, w, b, dtype, **how):
    """Return the packed product, or skip the test where this processor has none."""
    try:
        return kernels.linear_forward(x, w, b, packed=dtype, **how)
    except reclap.BackendError as error:
        pytest.skip(f"no {dtype} product on this processor: {error}")


@pytest.mark.parametrize(("dtype", "rounded"), [("bfloat16", bfloat16), ("int8", int8)])
@pytest.mark.parametrize(("n", "k", "out"), [(7, 64, 48), (64, 96, 384), (65, 100, 97), (1, 33, 5)])
def test_narrow_products_are_those_of_rounded_factors(rng, dtype, rounded, n, k, out):
    x, w, b = f32(rng, n, k), f32(rng, out, k), f32(rng, out)
    got = product(x, w, b, dtype)
    level = kernels.int8_weight()  # 63 without VNNI
    weight = int8(w, level) if dtype == "int8" else rounded(w)
    assert_close(got, rounded(x) @ weight.T + b, terms=k)
    plain = x.astype(np.float64) @ w.astype(np.float64).T + b
    assert np.abs(got - plain).max() < 0.06 * 127 / level * np.sqrt(k)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_narrow_rows_do_not_depend_on_each_other(rng, dtype):
    x, w, b = f32(rng, 65, 96), f32(rng, 97, 96), f32(rng, 97)
    x[3] *= 1000
    whole = product(x, w, b, dtype, threads=2, rows=16)
    for i in (0, 3, 64):
        alone = kernels.linear_forward(x[i : i + 1], w, b, packed=dtype)
        np.testing.assert_allclose(alone[0], whole[i], rtol=1e-5, atol=1e-5 * np.abs(x[i]).max())
    x[5] = 0
    np.testing.assert_allclose(kernels.linear_forward(x, w, b, packed=dtype)[5], b, atol=1e-6)


@pytest.mark.parametrize(
    ("n", "k", "out"),
    [
        (1, 512, 512),
        (77, 256, 2816),  # shares cannot be equal
        (33, 1024, 320),  # fewer shares than usual
        (512, 512, 512),
        (513, 512, 512),  # too many rows: one thread does it all
        (8, 500, 600),  # does not fit the steps
        (0, 512, 512),
    ],
)
@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16", "int8", "bfloat16x1", "float32x3"])
def test_threads_may_share_the_outputs(rng, n, k, out, dtype):
    x, w, b = f32(rng, n, k), f32(rng, out, k), f32(rng, out)
    want = product(x, w, b, dtype, rows=1000)
    one, *more = (kernels.linear_forward(x, w, b, t, rows=0, packed=dtype) for t in (1, 2, 3))
    for other in more:
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(one, want, rtol=1e-5, atol=1e-6 * k**0.5 * 10)


def test_unknown_types_are_refused(rng):
    with pytest.raises(ValueError, match="dtype: unknown type of products 'int4'"):
        kernels.linear_forward(f32(rng, 2, 3), f32(rng, 4, 3), None, packed="int4")


def test_linear_of_no_rows_is_empty(rng):
    w = f32(rng, 5, 3)
    assert kernels.linear_forward(np.zeros((0, 3)), w, None).shape == (0, 5)
    dx, dw, db = kernels.linear_backward(np.zeros((0, 5)), np.zeros((0, 3)), w)
    assert dx.shape == (0, 3)
    assert not dw.any()
    assert not db.any()


def test_linear_rejects_what_does_not_fit(rng):
    x, w = f32(rng, 4, 3), f32(rng, 5, 3)
    with pytest.raises(ValueError, match=r"w: expected shape \(\*, 3\), got \(5, 2\)"):
        kernels.linear_forward(x, f32(rng, 5, 2), None)
    with pytest.raises(ValueError, match=r"b: expected shape \(5,\)"):
        kernels.linear_forward(x, w, f32(rng, 4))
    with pytest.raises(ValueError, match="rows: expected at least 0, got -1"):
        kernels.linear_forward(x, w, None, rows=-1)
    with pytest.raises(ValueError, match="rows: expected at least 1"):
        kernels.linear_backward(f32(rng, 4, 5), x, w, rows=-1)
    with pytest.raises(ValueError, match="threads: expected 1 to 1024, got 0"):
        kernels.linear_forward(x, w, None, threads=0)
    with pytest.raises(ValueError, match="w: needs at least one row and one column"):
        kernels.linear_forward(x, f32(rng, 0, 3), None)
    with pytest.raises(ValueError, match="w: needs at least one row and one column"):
        kernels.linear_backward(f32(rng, 4, 5), f32(rng, 4, 0), f32(rng, 5, 0))


_STORM = """
import signal
import numpy as np
from reclap.runtime import libraries
kernels = libraries.load_kernels()
rng = np.random.default_rng(0)
dy, x = (rng.standard_normal((4000, n)).astype(np.float32) for n in (32, 48))
w = rng.standard_normal((32, 48)).astype(np.float32)
def work():
    return kernels.linear_forward(x, w, None), *kernels.linear_backward(dy, x, w)
want, came = work(), []
signal.signal(signal.SIGALRM, lambda *_: came.append(1))
signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
while len(came) < 100:
    for found, right in zip(work(), want):
        np.testing.assert_array_equal(found, right)
signal.setitimer(signal.ITIMER_REAL, 0)
"""


def test_signals_during_products_leave_the_heap_as_it_is():
    """Kernels of oneDNN may keep their stack in the heap; a signal's frame would land there."""
    subprocess.run([sys.executable, "-c", _STORM], check=True, timeout=500)  # noqa: S603
