"""Class vectors from prompts, scores, and the best of each row."""

import numpy as np
import pytest
import reference
from closeness import assert_close, f32

from reclap.runtime.libraries import core


@pytest.fixture(scope="module")
def context():
    return core.Context(2)


@pytest.mark.parametrize(("counts", "c"), [([1], 1), ([1, 2, 3], 7), ([5, 1, 1, 9], 512)])
def test_class_vectors_match_formula(rng, counts, c):
    prompts, first = f32(rng, sum(counts), c), np.cumsum([0, *counts])
    got = core.class_vectors(prompts, first)
    assert_close(got, reference.class_vectors(prompts, first), terms=max(counts))


def test_class_vectors_do_not_depend_on_the_length_of_prompts(rng):
    prompts = f32(rng, 4, 33)
    longer = prompts * np.float32([[1], [100], [0.01], [3]])
    assert_close(core.class_vectors(longer, [0, 2, 4]), core.class_vectors(prompts, [0, 2, 4]))


def test_class_vector_of_silent_prompts_is_zero():
    assert not core.class_vectors(np.zeros((2, 5)), [0, 2]).any()


@pytest.mark.parametrize("first", [[0], [0, 2], [1, 3], [0, 2, 2, 3], [0, 2, 1, 3], [[0, 3]]])
def test_class_vectors_reject_bad_groups(rng, first):
    with pytest.raises(ValueError, match="first"):
        core.class_vectors(f32(rng, 3, 2), first)


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 200])
@pytest.mark.parametrize(("labels", "k"), [(1, 1), (10, 1), (50, 5), (50, 50)])
def test_scores_match_formula(rng, context, n, labels, k):
    x, classes = f32(rng, n, 37), f32(rng, labels, 37)
    scores, best, index = core.scores(context, x, classes, k)
    assert_close(scores, x.astype(np.float64) @ classes.T.astype(np.float64), terms=37)
    np.testing.assert_array_equal(index, reference.top_k(scores, k))
    np.testing.assert_array_equal(best, np.take_along_axis(scores, index, 1))
    none, best2, index2 = core.scores(context, x, classes, k, all=False)
    assert none is None
    np.testing.assert_array_equal(best2, best)
    np.testing.assert_array_equal(index2, index)


@pytest.mark.parametrize(("labels", "k"), [(511, 1), (513, 5), (1100, 70), (1100, 1100)])
def test_the_best_of_several_tiles_are_those_of_all_scores(rng, context, labels, k):
    x, classes = f32(rng, 67, 3), f32(rng, labels, 3)
    scores, best, index = core.scores(context, x, classes, k)
    np.testing.assert_array_equal(index, reference.top_k(scores, k))
    np.testing.assert_array_equal(best, np.take_along_axis(scores, index, 1))
    _, best2, index2 = core.scores(context, x, classes, k, all=False)
    np.testing.assert_array_equal(best2, best)
    np.testing.assert_array_equal(index2, index)


@pytest.mark.parametrize("k", [1, 7, 300, 1200])
def test_equal_scores_keep_their_order_across_tiles(rng, context, k):
    x = rng.integers(-1, 2, (70, 4)).astype(np.float32)  # products are whole numbers
    classes = rng.integers(-1, 2, (1200, 4)).astype(np.float32)
    _, best, index = core.scores(context, x, classes, k, all=False)
    want = x @ classes.T
    np.testing.assert_array_equal(index, reference.top_k(want, k))
    np.testing.assert_array_equal(best, np.take_along_axis(want, index, 1))


def test_equal_scores_keep_their_order(context):
    x = np.ones((2, 3), np.float32)
    classes = np.float32([[1, 0, 0], [2, 0, 0], [0, 1, 0], [0, 0, 2], [0, 1, 0]])
    _, best, index = core.scores(context, x, classes, 4)
    np.testing.assert_array_equal(index[0], [1, 3, 0, 2])
    np.testing.assert_array_equal(best[0], [2, 2, 1, 1])


def test_scores_are_the_same_on_any_thread_count(rng):
    x, classes = f32(rng, 200, 64), f32(rng, 50, 64)
    one, two = (core.scores(core.Context(t), x, classes, 5) for t in (1, 2))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


def test_scores_reject_what_does_not_fit(rng, context):
    x, classes = f32(rng, 2, 3), f32(rng, 4, 3)
    for k in (0, 5, -1):
        with pytest.raises(ValueError, match=f"expected 1 to 4, got {k}"):
            core.scores(context, x, classes, k)
    with pytest.raises(ValueError, match=r"classes: expected shape \(\*, 3\)"):
        core.scores(context, x, f32(rng, 4, 2), 1)
    with pytest.raises(ValueError, match="no columns"):
        core.scores(context, f32(rng, 2, 0), f32(rng, 4, 0), 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(rng, context, value):
    x, items = f32(rng, 5, 3), f32(rng, 4, 3)
    bad = x.copy()
    bad[3, 2] = value
    for call, name in [
        (lambda: core.scores(context, bad, items, 1), "x"),
        (lambda: core.scores(context, items, bad, 1), "classes"),
        (lambda: core.combine(context, items, bad, [0, 5], 0, 1.0, 1), "prompts"),
        (lambda: core.combine(context, bad, items, [0, 4], 0, 1.0, 1), "x"),
        (lambda: core.ranks(context, bad, items, np.zeros((5, 1), int)), "queries"),
        (lambda: core.ranks(context, items, bad, np.zeros((4, 1), int)), "items"),
    ]:
        with pytest.raises(ValueError, match=f"{name}: row 3 has a value that is not finite"):
            call()


@pytest.mark.parametrize("n", [0, 1, 65, 300])
@pytest.mark.parametrize(("items", "m"), [(1, 1), (513, 5), (1301, 2)])
def test_ranks_match_formula(rng, context, n, items, m):
    # Products of such numbers are exact in float32 as well, and many are equal.
    queries = rng.integers(-3, 4, (n, 7)).astype(np.float32)
    among = rng.integers(-3, 4, (items, 7)).astype(np.float32)
    pair = rng.integers(-1, items, (n, m))
    got = core.ranks(context, queries, among, pair)
    np.testing.assert_array_equal(got, reference.ranks(queries, among, pair))


def test_ranks_are_places_among_all_scores(rng):
    queries, items = f32(rng, 150, 512), f32(rng, 1000, 512)
    items[500:] = items[:500]  # every item twice: the earlier is better
    pair = rng.permutation(1000)[:150, None]
    one, two = (core.ranks(core.Context(t), queries, items, pair) for t in (1, 2))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, reference.ranks(queries, items, pair))
    twin = core.ranks(core.Context(1), queries, items, (pair + 500) % 1000)
    np.testing.assert_array_equal(twin - one, np.where(pair < 500, 1, -1))


def test_ranks_reject_what_does_not_fit(rng, context):
    x, items = f32(rng, 2, 3), f32(rng, 4, 3)
    for pair in ([[0], [4]], [[0], [-2]], np.empty((2, 0))):
        with pytest.raises(ValueError, match=r"pair: expected .* places among 4 items"):
            core.ranks(context, x, items, pair)
    with pytest.raises(ValueError, match=r"pair: expected shape \(2, \*\)"):
        core.ranks(context, x, items, [[0]])
    with pytest.raises(ValueError, match=r"items: expected shape \(\*, 3\)"):
        core.ranks(context, x, items[:, :2], [[0], [1]])
