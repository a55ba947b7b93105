"""Class vectors from prompts, scores, and the best of each row."""

import numpy as np
import pytest
import reference
from closeness import assert_close, f32

from reclap._libraries import core


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
