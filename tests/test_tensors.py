"""Tensors that are made when needed, and mapped files whose memory is given back."""

from pathlib import Path

import numpy as np
import pytest

from reclap.checkpoints import model_folder
from reclap.checkpoints.lazy import joined, release
from reclap.errors import FormatError


def test_joined_parts_are_stacked_when_asked_for():
    parts = [np.full((2, 3), k, np.float32) for k in range(3)]
    whole = joined("qkv", parts)
    assert (whole.shape, whole.dtype, whole.ndim) == ((6, 3), np.float32, 2)
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    parts[0][:] = 7  # nothing was copied before
    assert np.asarray(whole)[0, 0] == 7
    assert np.asarray(whole, np.float64).dtype == np.float64


def test_joined_parts_may_be_transposed():
    parts = [np.arange(6, dtype=np.float32).reshape(2, 3)] * 2
    whole = joined("qkv", parts, transposed=True)
    assert whole.shape == (3, 4)
    np.testing.assert_array_equal(whole, np.concatenate(parts).T)
    assert np.asarray(whole).flags.c_contiguous


@pytest.mark.parametrize("other", [np.zeros((2, 4)), np.zeros((2, 3), np.int8), np.zeros(())])
def test_parts_that_do_not_fit_are_refused_by_name(other):
    with pytest.raises(FormatError, match="layer 3: its parts have shapes"):
        joined("layer 3", [np.zeros((2, 3)), other])


def resident(path):
    """Return the bytes of a mapped file that are in memory."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    found = 0
    for line in lines:
        if line.endswith(str(path)):
            found += next(int(x.split()[1]) << 10 for x in lines if x.startswith("Rss:"))
    return found


def test_released_tensors_leave_memory_and_come_back(tmp_path, rng):
    path = tmp_path / "model.safetensors"
    value = rng.standard_normal((1000, 1000)).astype(np.float32)
    model_folder.write_tensors(path, {"x": value})
    x = model_folder.read_tensors(path)["x"]
    assert x.sum() != 0
    assert resident(path) > x.nbytes // 2
    release(x)
    assert resident(path) < 65536
    np.testing.assert_array_equal(x, value)


def test_release_leaves_other_arrays_alone():
    x = np.arange(4.0)
    release(x[1:])
    assert x.sum() == 6
