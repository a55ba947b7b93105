"""Table lookup, relative-position biases, mean pooling."""

import numpy as np
import pytest
import reference
from closeness import assert_close, f32
from needs import kernels


@pytest.mark.parametrize(("rows", "n", "c"), [(1, 1, 1), (7, 0, 3), (7, 64, 5), (101, 77, 384)])
def test_lookup_and_its_scatter_add_match_formula(rng, rows, n, c):
    table, dy = f32(rng, rows, c), f32(rng, n, c)
    ids = rng.integers(0, rows, n, dtype=np.int32)  # with repeats
    np.testing.assert_array_equal(kernels.lookup_forward(table, ids), table[ids])
    want = np.zeros((rows, c))
    np.add.at(want, ids, dy)
    assert_close(kernels.lookup_backward(dy, ids, rows), want, terms=max(1, n))


def test_lookup_rejects_ids_outside_the_table(rng):
    for ids in ([-1], [5]):
        with pytest.raises(ValueError, match="out of range"):
            kernels.lookup_forward(f32(rng, 5, 2), ids)
        with pytest.raises(ValueError, match="out of range"):
            kernels.lookup_backward(f32(rng, 1, 2), ids, 5)


@pytest.mark.parametrize(("window", "heads"), [(1, 1), (2, 3), (3, 1), (8, 4), (7, 5)])
def test_relpos_matches_formula(rng, window, heads):
    table, dbias = f32(rng, (2 * window - 1) ** 2, heads), f32(rng, heads, window**2, window**2)
    np.testing.assert_array_equal(
        kernels.relpos_forward(table, window), reference.relpos(table, window)
    )
    want = reference.relpos_backward(dbias, window)
    assert_close(kernels.relpos_backward(dbias, window), want, terms=window**2)


def test_relpos_index_is_swins():
    bias = kernels.relpos_forward(np.arange(225, dtype=np.float32)[:, None], 8)[0]
    assert [bias[0, 0], bias[0, 63], bias[63, 0], bias[0, 1], bias[1, 0]] == [112, 0, 224, 111, 113]


@pytest.mark.parametrize("window", [0, -1, -2])
def test_relpos_rejects_windows_without_a_place(rng, window):
    with pytest.raises(ValueError, match="window"):
        kernels.relpos_forward(f32(rng, (2 * window - 1) ** 2, 2), window)


@pytest.mark.parametrize(("t", "heads"), [(1, 1), (2, 3), (77, 16), (300, 2)])
def test_t5_bias_matches_formula(rng, t, heads):
    table, dbias = f32(rng, 32, heads), f32(rng, heads, t, t)
    np.testing.assert_array_equal(
        kernels.t5_bias_forward(table, t, 128), reference.t5_bias(table, t)
    )
    assert_close(
        kernels.t5_bias_backward(dbias, 32, 128), reference.t5_bias_backward(dbias), terms=t
    )


@pytest.mark.oracle
@pytest.mark.parametrize(("buckets", "distance"), [(32, 128), (16, 64), (64, 500), (4, 2)])
def test_t5_bias_has_the_buckets_of_transformers(buckets, distance):
    import torch
    from transformers.models.t5 import modeling_t5 as t5

    right = torch.arange(600)[None, :] - torch.arange(600)[:, None]
    want = t5.T5Attention._relative_position_bucket(
        right, bidirectional=True, num_buckets=buckets, max_distance=distance
    )
    table = np.arange(buckets, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(kernels.t5_bias_forward(table, 600, distance)[0], want.numpy())


@pytest.mark.parametrize("sizes", [(0, 128), (20, 8), (1 << 15, 128), (20, -1)])
def test_t5_bias_rejects_what_does_not_fit(rng, sizes):
    with pytest.raises(ValueError, match="t5_bias: "):
        kernels.t5_bias_forward(f32(rng, 32, 2), *sizes)
    with pytest.raises(ValueError, match="t5_bias: 5 positions, 30 buckets"):
        kernels.t5_bias_backward(f32(rng, 2, 5, 5), 30, 128)
    with pytest.raises(ValueError, match=r"dbias: expected shape \(2, 5, 5\)"):
        kernels.t5_bias_backward(f32(rng, 2, 5, 4), 32, 128)


@pytest.mark.parametrize(("t", "c"), [(1, 1), (64, 768), (77, 384), (1025, 7)])
def test_meanpool_matches_formula(rng, t, c):
    x, dy = f32(rng, t, c), f32(rng, 1, c)
    assert_close(kernels.meanpool_forward(x)[0], x.mean(0, dtype=np.float64), terms=t, magnitude=1)
    assert_close(kernels.meanpool_backward(dy, t)[0], np.tile(dy / t, (t, 1)))


def test_meanpool_backward_takes_one_row(rng):
    for rows in (0, 2):
        with pytest.raises(ValueError, match="argument 1"):
            kernels.meanpool_backward(f32(rng, rows, 3), 4)
