"""Attention over windows and sequences, with bias, mask and unseen keys."""

import numpy as np
import pytest
import reference
from closeness import assert_close, f32
from needs import kernels

T = [1, 5, 16, 17, 64, 77]
WIDTHS = [24, 32, 64, 7]

# Scores reach this size and are rounded at it; the exponential turns that into a relative error of
# the probabilities. (Masked ones reach -100, but weigh nothing where another key is seen.)
SCORE = 16


def inputs(rng, t, d, heads=2):
    bias = f32(rng, heads, t, t)
    mask = np.where(rng.random((t, t)) < 0.4, np.float32(-100), np.float32(0))
    return f32(rng, t, 3 * heads * d), bias, mask, f32(rng, t, heads * d)


@pytest.mark.parametrize("t", T)
@pytest.mark.parametrize("d", WIDTHS)
def test_attention_matches_formula(rng, t, d):
    qkv, bias, mask, dout = inputs(rng, t, d)
    scale = d**-0.5
    for b, m in ((None, None), (bias, None), (None, mask), (bias, mask)):
        got = kernels.attention(qkv, 2, t, scale, b, m)
        assert_close(got, reference.attention(qkv, 2, t, scale, b, m), magnitude=SCORE)
        dqkv, dbias = kernels.attention(qkv, 2, t, scale, b, m, dout)
        want, want_bias = reference.attention_backward(dout, qkv, 2, t, scale, b, m)
        assert_close(dqkv, want, terms=d, magnitude=SCORE)
        assert_close(dbias, want_bias, terms=d, magnitude=SCORE)


@pytest.mark.parametrize(("t", "keys"), [(5, 1), (5, 4), (64, 33), (77, 76), (77, 16)])
def test_attention_sees_only_the_first_keys(rng, t, keys):
    qkv, bias, _, dout = inputs(rng, t, 24)
    got = kernels.attention(qkv, 2, keys, 0.2, bias, None)
    assert_close(got, reference.attention(qkv, 2, keys, 0.2, bias, None), magnitude=SCORE)
    dqkv, dbias = kernels.attention(qkv, 2, keys, 0.2, bias, None, dout)
    want, want_bias = reference.attention_backward(dout, qkv, 2, keys, 0.2, bias, None)
    assert_close(dqkv, want, terms=t, magnitude=SCORE)
    assert_close(dbias, want_bias, terms=24, magnitude=SCORE)
    assert not dbias[:, :, keys:].any()
    spoiled = qkv.copy().reshape(t, 3, -1)
    spoiled[keys:, 1:] = 1e6  # keys and values beyond `keys` change nothing
    np.testing.assert_array_equal(
        kernels.attention(spoiled.reshape(t, -1), 2, keys, 0.2, bias, None), got
    )


@pytest.mark.oracle
@pytest.mark.parametrize("t", [1, 5, 64, 77])
@pytest.mark.parametrize("d", [24, 32, 64])
def test_attention_matches_torch(rng, t, d):
    import torch

    qkv, bias, mask, dout = inputs(rng, t, d)
    x = torch.from_numpy(qkv.astype(np.float64)).requires_grad_()
    add = torch.from_numpy(bias.astype(np.float64)).requires_grad_()
    q, k, v = x.reshape(t, 3, 2, d).permute(1, 2, 0, 3)
    o = torch.nn.functional.scaled_dot_product_attention(q, k, v, add + torch.from_numpy(mask))
    o = o.permute(1, 0, 2).reshape(t, -1)
    o.backward(torch.from_numpy(dout.astype(np.float64)))
    assert_close(kernels.attention(qkv, 2, t, d**-0.5, bias, mask), o.detach(), magnitude=SCORE)
    dqkv, dbias = kernels.attention(qkv, 2, t, d**-0.5, bias, mask, dout)
    assert_close(dqkv, x.grad, terms=d, magnitude=SCORE)
    assert_close(dbias, add.grad, terms=d, magnitude=SCORE)


def test_attention_ignores_masked_pairs(rng):
    qkv, _, _, _ = inputs(rng, 6, 8)
    mask = np.full((6, 6), -100, np.float32)
    np.fill_diagonal(mask, 0)
    values = qkv.reshape(6, 3, -1)[:, 2]
    assert_close(kernels.attention(qkv, 2, 6, 0.3, None, mask), values)


def test_attention_of_large_scores_does_not_overflow(rng):
    qkv = f32(rng, 8, 3 * 16) * 300
    got = kernels.attention(qkv, 1, 8, 1.0, None, None)
    # Scores of 1e6 are rounded at 0.1, but the best key is further ahead than that.
    assert_close(got, reference.attention(qkv, 1, 8, 1.0, None, None))


def test_attention_rejects_what_does_not_fit(rng):
    qkv = f32(rng, 4, 24)
    for heads, keys in ((0, 4), (5, 4), (2, 0), (2, 5)):
        with pytest.raises(ValueError, match="heads do not divide qkv, or keys out of range"):
            kernels.attention(qkv, heads, keys, 1.0, None, None)
    with pytest.raises(ValueError, match=r"bias: expected shape \(2, 4, 4\)"):
        kernels.attention(qkv, 2, 4, 1.0, f32(rng, 1, 4, 4), None)
    with pytest.raises(ValueError, match=r"dout: expected shape \(4, 8\)"):
        kernels.attention(qkv, 2, 4, 1.0, None, None, f32(rng, 4, 24))
