"""Products of bfloat16 parts: every kind of kernel against float64, at odd sizes."""

import os
import subprocess
import sys

import numpy as np
import pytest
from closeness import f32
from needs import kernels

from reclap.runtime.libraries import core

KINDS = ("plain", "avx512", "amx")
PARTS = {"bfloat16x1": 1, "float32x3": 2, "float32x6": 3}
# The most that rounding and the products left out change, relative to the sum of magnitudes.
LEFT_OUT = {1: 2.0**-7, 2: 3 * 2.0**-16, 3: 2.0**-23}


@pytest.fixture(params=KINDS)
def kind(request):
    before = kernels.split_kind()
    if KINDS.index(request.param) > KINDS.index(before):
        pytest.skip(f"this processor has no {request.param}")
    yield kernels.split_kind(request.param)
    kernels.split_kind(before)


def parts_of(x, parts):
    """Return the parts as float64, each the nearest bfloat16 to what is left."""
    left, found = x.copy(), []
    for _ in range(parts):
        bits = left.view(np.uint32).astype(np.uint64)
        rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32)
        part = rounded.view(np.float32)
        left = left - part
        found.append(part.astype(np.float64))
    return found


def split_product(x, w, parts):
    """Return the sum of the products that are not left out, in float64."""
    a, b = parts_of(x, parts), parts_of(w, parts)
    return sum(a[i] @ b[j].T for i in range(parts) for j in range(parts) if i + j < parts)


@pytest.mark.parametrize("dtype", PARTS)
@pytest.mark.parametrize(
    ("n", "k", "out"), [(1, 1, 1), (16, 32, 32), (7, 33, 5), (33, 64, 48), (50, 700, 97)]
)
def test_split_products_are_those_of_the_parts(rng, kind, dtype, n, k, out):
    x, w, b = f32(rng, n, k), f32(rng, out, k), f32(rng, out)
    got = kernels.linear_forward(x, w, b, packed=dtype)
    size = np.abs(x) @ np.abs(w).T + np.abs(b)  # what rounding is relative to
    assert np.abs(got - split_product(x, w, PARTS[dtype]) - b).max() <= 4e-7 * size.max()
    exact = x.astype(np.float64) @ w.astype(np.float64).T + b
    assert np.abs((got - exact) / size).max() < LEFT_OUT[PARTS[dtype]] + 4e-7


@pytest.mark.parametrize("dtype", PARTS)
def test_rows_depend_neither_on_each_other_nor_on_threads(rng, kind, dtype):
    x, w, b = f32(rng, 83, 96), f32(rng, 97, 96), f32(rng, 97)
    whole = kernels.linear_forward(x, w, b, packed=dtype, rows=83)
    shared = kernels.linear_forward(x, w, b, packed=dtype, threads=2, rows=16)
    np.testing.assert_array_equal(shared, whole)
    x[7] = np.inf
    other = kernels.linear_forward(x, w, b, packed=dtype, rows=83)
    keep = np.arange(83) != 7
    np.testing.assert_array_equal(other[keep], whole[keep])


def test_kinds_agree(rng):
    x, w = f32(rng, 40, 160), f32(rng, 50, 160)
    before, found = kernels.split_kind(), []
    for name in KINDS[: KINDS.index(before) + 1]:
        kernels.split_kind(name)
        found.append(kernels.linear_forward(x, w, None, packed="float32x6"))
    kernels.split_kind(before)
    size = np.abs(x) @ np.abs(w).T
    for y in found:
        np.testing.assert_array_less(np.abs(y - found[0]) / size, 1e-6)


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="split_kind: unknown kind 'tpu'"):
        kernels.split_kind("tpu")


def test_each_module_has_a_choice_of_its_own():
    before = core.split_kind()
    assert kernels.split_kind() == before
    assert kernels.split_kind("plain") == "plain"
    assert core.split_kind() == before
    kernels.split_kind(before)


def test_the_environment_rules_out_amx():
    code = (
        "from reclap.runtime.libraries import core, kernels\n"
        "print(core.split_kind(), kernels.split_kind())"
    )
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code],
        env=os.environ | {"RECLAP_AMX": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = done.stdout.split()
    assert first == second
    assert first in ("plain", "avx512")
