"""Index moves of the audio tower: windows, fold, patches, stretch."""

import numpy as np
import pytest
import reference
from closeness import assert_close, f32
from needs import kernels

GRIDS = [(8, 8, 0), (16, 8, 0), (16, 8, 4), (64, 8, 4), (6, 3, 1), (4, 1, 0), (1, 1, 0), (15, 5, 2)]


@pytest.mark.parametrize(("side", "window", "shift"), GRIDS)
def test_window_index_is_roll_and_partition(side, window, shift):
    want = reference.window_index(side, window, shift)
    np.testing.assert_array_equal(kernels.window_index(side, window, shift), want)


@pytest.mark.parametrize(("side", "window", "shift"), GRIDS)
def test_window_mask_is_swins(side, window, shift):
    want = reference.window_mask(side, window, shift)
    np.testing.assert_array_equal(kernels.window_mask(side, window, shift), want)


@pytest.mark.parametrize(
    ("spec_size", "mels", "patch"), [(256, 64, 4), (64, 16, 4), (64, 64, 2), (12, 4, 3), (5, 1, 1)]
)
def test_patch_index_is_laions_fold(spec_size, mels, patch):
    want = reference.patch_index(spec_size, mels, patch)
    np.testing.assert_array_equal(kernels.patch_index(spec_size, mels, patch), want)


def test_wide_patches_leave_out_the_columns_that_do_not_fill_one():
    picture = kernels.patch_index(64, 16, 1).reshape(64, 64)
    got = kernels.patch_index(64, 16, 4, 12).reshape(16, 5, 4, 12)
    want = picture[:, :60].reshape(16, 4, 5, 12).swapaxes(1, 2)
    np.testing.assert_array_equal(got, want)
    with pytest.raises(ValueError, match="columns: expected 1 to 64, got 65"):
        kernels.patch_index(64, 16, 4, 65)


def test_fold_puts_later_quarters_below_and_low_mels_first():
    index = kernels.patch_index(256, 64, 1).reshape(256, 256)
    for row, column in ((0, 0), (70, 3), (255, 255)):
        frame, mel = row // 64 * 256 + column, row % 64
        assert index[row, column] == frame * 64 + mel


@pytest.mark.parametrize("call", ["window_index", "window_mask", "patch_index"])
@pytest.mark.parametrize(
    "sizes", [(0, 0, 0), (8, 0, 0), (4, 8, 0), (8, -2, 0), (-8, 2, 0), (9, 2, 5)]
)
def test_tables_reject_sizes_that_do_not_divide(call, sizes):
    with pytest.raises(ValueError, match="expected"):
        getattr(kernels, call)(*sizes)


@pytest.mark.parametrize(("n", "c"), [(0, 3), (1, 1), (7, 1), (64, 96), (13, 1025)])
def test_scatter_undoes_gather(rng, n, c):
    x, index = f32(rng, n, c), rng.permutation(n).astype(np.int32)
    y = kernels.gather_rows(x, index)
    np.testing.assert_array_equal(y, x[index])
    np.testing.assert_array_equal(kernels.scatter_rows(y, index, n), x)


def test_scatter_leaves_untouched_rows_zero(rng):
    dy = f32(rng, 2, 5)
    dx = kernels.scatter_rows(dy, [3, 0], 4)
    np.testing.assert_array_equal(dx, np.stack([dy[1], 0 * dy[0], 0 * dy[0], dy[0]]))


@pytest.mark.parametrize("index", [[-1], [3], [0, 1, 3]])
def test_moves_reject_indices_outside(rng, index):
    with pytest.raises(ValueError, match="index: out of range"):
        kernels.gather_rows(f32(rng, 3, 2), index)
    with pytest.raises(ValueError, match="index: out of range"):
        kernels.scatter_rows(f32(rng, len(index), 2), index, 3)


STRETCHES = [(1, 1), (1, 9), (2, 7), (5, 5), (7, 1025), (965, 1024), (1001, 1024), (64, 61), (9, 1)]


@pytest.mark.parametrize(("old", "new"), STRETCHES)
def test_stretch_matches_formula(rng, old, new):
    x, dy = f32(rng, old, 7), f32(rng, new, 7)
    w = reference.stretch_matrix(old, new)
    # Four taps, whose weights are sums of terms up to six times their size.
    assert_close(kernels.stretch_forward(x, new), w @ x, terms=4 * 6)
    assert_close(kernels.stretch_backward(dy, old), w.T @ dy, terms=24 * max(1, new // old))


@pytest.mark.oracle
@pytest.mark.parametrize(("old", "new"), STRETCHES)
def test_stretch_matches_torch(rng, old, new):
    import torch

    x, dy = f32(rng, old, 7), f32(rng, new, 7)
    t = torch.from_numpy(x)[None, None].requires_grad_()
    y = torch.nn.functional.interpolate(t, (new, 7), mode="bicubic", align_corners=True)
    y.backward(torch.from_numpy(dy)[None, None])
    assert_close(kernels.stretch_forward(x, new), y.detach()[0, 0], terms=16)
    assert_close(kernels.stretch_backward(dy, old), t.grad[0, 0], terms=max(16, 16 * new // old))


def test_stretch_rejects_nothing_to_stretch(rng):
    for x, to in ((f32(rng, 0, 3), 4), (f32(rng, 4, 3), 0), (f32(rng, 4, 3), -1)):
        with pytest.raises(ValueError, match="expected 1 to 16777216 frames"):
            kernels.stretch_forward(x, to)
