"""Rules that combine several prompts of a label, against their formulas in float64."""

from itertools import pairwise

import numpy as np
import pytest
import reference
from closeness import assert_close, f32

from reclap.prompts.combine import RULES, rule_index
from reclap.runtime.libraries import core

SHAPES = [  # rows, prompts of each label, width
    (1, [1], 1),
    (3, [1, 2, 3], 7),
    (64, [4, 4], 33),
    (65, [5, 1, 9], 37),
    (131, [2, 7, 1, 1, 3, 11, 2], 129),
    (66, [3, 2] * 110 + [600, 1, 5], 5),  # three tiles, one label more than a usual one
]


def unit(rng, n, c):
    return reference.l2norm(f32(rng, n, c)).astype(np.float32)


def problem(rng, n, counts, c):
    return unit(rng, n, c), unit(rng, sum(counts), c), np.cumsum([0, *counts])


def run(rule, x, prompts, first, *, scale=20.0, k=1, threads=2, explain=True):
    context = core.Context(threads)
    return core.combine(context, x, prompts, first, rule_index(rule), scale, k, explain)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("n", "counts", "c"), SHAPES)
def test_rules_match_their_formulas(rng, rule, n, counts, c):
    x, prompts, first = problem(rng, n, counts, c)
    score, _, _, cosine, weight = run(rule, x, prompts, first)
    assert_close(cosine, x.astype(np.float64) @ prompts.T.astype(np.float64), terms=c, magnitude=1)
    # From here on both sides start from the same float32 cosines, and ours computes in float64.
    want = reference.prompt_weights(cosine, prompts, first, rule, 20.0)
    assert_close(weight, want)
    assert_close(score, reference.combine(cosine, prompts, first, rule, 20.0), magnitude=1)


@pytest.mark.parametrize("rule", RULES)
def test_best_labels_are_those_of_the_scores(rng, rule):
    x, prompts, first = problem(rng, 70, [3, 1, 4, 2, 2], 16)
    score, best, index = run(rule, x, prompts, first, k=3, explain=False)
    np.testing.assert_array_equal(index, reference.top_k(score, 3))
    np.testing.assert_array_equal(best, np.take_along_axis(score, index, 1))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("counts", "k"), [([3, 1, 4, 2, 2], 3), ([2, 1, 3] * 250, 9)])
@pytest.mark.parametrize("scale", [2.0, 50.0])
def test_the_best_do_not_need_all_scores(rng, rule, counts, k, scale):
    x, prompts, first = problem(rng, 70, counts, 6)
    arguments = (x, prompts, first, rule_index(rule), scale, k)
    score, best, index = core.combine(core.Context(2), *arguments)
    none, best2, index2 = core.combine(core.Context(2), *arguments, all=False)
    assert none is None
    np.testing.assert_array_equal(index, reference.top_k(score, k))
    np.testing.assert_array_equal(index2, index)
    np.testing.assert_array_equal(best2, best)


@pytest.mark.parametrize("rule", RULES)
def test_scores_are_the_same_on_any_thread_count(rng, rule):
    x, prompts, first = problem(rng, 200, [3, 1, 4], 40)
    one, three = (run(rule, x, prompts, first, threads=t) for t in (1, 3))
    for a, b in zip(one, three, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("rule", [r for r in RULES if r != "entropy_batch"])
def test_a_sound_does_not_depend_on_its_neighbours(rng, rule):
    x, prompts, first = problem(rng, 70, [3, 1, 4], 40)
    together = run(rule, x, prompts, first)[0]
    np.testing.assert_array_equal(run(rule, x[::-1], prompts, first)[0], together[::-1])
    alone = np.concatenate([run(rule, row[None], prompts, first)[0] for row in x[:5]])
    assert_close(alone, together[:5], magnitude=1)  # a product of one row has another kernel


@pytest.mark.parametrize("rule", RULES)
def test_explaining_changes_no_score(rng, rule):
    x, prompts, first = problem(rng, 9, [2, 3], 12)
    plain, explained = (run(rule, x, prompts, first, explain=e) for e in (False, True))
    for a, b in zip(plain, explained[:3], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("rule", RULES)
def test_one_prompt_each_is_its_cosine_by_every_rule(rng, rule):
    x, prompts, first = problem(rng, 5, [1, 1, 1], 24)
    score, _, _, cosine, weight = run(rule, x, prompts, first)
    assert_close(score, cosine, magnitude=1)
    assert_close(weight, np.ones_like(weight))


@pytest.mark.parametrize("rule", RULES)
def test_equal_prompts_count_as_one(rng, rule):
    x, prompts, _ = problem(rng, 6, [1, 1], 24)
    score = run(rule, x, np.repeat(prompts, [4, 3], axis=0), [0, 4, 7])[0]
    assert_close(score, x.astype(np.float64) @ prompts.T, terms=24, magnitude=1)


def test_mean_embedding_agrees_with_class_vectors(rng):
    x, prompts, first = problem(rng, 66, [5, 2, 8], 48)
    want = x.astype(np.float64) @ core.class_vectors(prompts, first).T.astype(np.float64)
    assert_close(run("mean_embedding", x, prompts, first)[0], want, terms=48, magnitude=1)


def test_logsumexp_lies_between_mean_and_largest(rng):
    x, prompts, first = problem(rng, 20, [5, 3], 8)
    mean, largest = (run(rule, x, prompts, first)[0] for rule in ("mean_logit", "max"))
    for scale in (0.01, 1.0, 100.0):
        soft = run("logsumexp", x, prompts, first, scale=scale)[0]
        assert (mean - 1e-6 <= soft).all()
        assert (soft <= largest + 1e-6).all()
    assert_close(run("logsumexp", x, prompts, first, scale=1e-4)[0], mean, terms=1e4, magnitude=1)
    assert_close(run("logsumexp", x, prompts, first, scale=1e6)[0], largest, terms=1e4)


def confident_first(rng, n):
    """Return rows whose first set of prompts tells the labels apart; the second does not."""
    labels = np.eye(8, dtype=np.float32)[:4]
    vague = reference.l2norm(labels + labels.mean(0) * 12).astype(np.float32)
    prompts = np.stack([labels, vague], 1).reshape(8, 8)
    x = reference.l2norm(labels[rng.integers(0, 4, n)] + 0.1 * f32(rng, n, 8))
    return x.astype(np.float32), prompts, np.arange(0, 9, 2)


@pytest.mark.parametrize("rule", ["entropy", "entropy_batch", "relevance"])
def test_weighted_rules_prefer_the_certain_set(rng, rule):
    x, prompts, first = confident_first(rng, 30)
    weight = run(rule, x, prompts, first, scale=4.0)[4]
    assert (weight[:, ::2] > 1.2 * weight[:, 1::2]).all()


def objective(weights, cosine, table, scale):
    p = reference.softmax(scale * np.einsum("j,njk->nk", weights, cosine[:, table]))
    return reference.entropy(p).mean() + (weights * np.log(weights * len(weights))).sum()


def test_entropy_weights_lower_their_objective(rng):
    x, prompts, first = problem(rng, 40, [6] * 5, 24)
    cosine, table = x.astype(np.float64) @ prompts.T, reference.set_table(first)
    equal = np.full(6, 1 / 6)
    for row in cosine[:, None]:
        found = reference.entropy_weights(row, table, 20.0)
        assert objective(found, row, table, 20.0) < objective(equal, row, table, 20.0)
    shared = reference.entropy_weights(cosine, table, 20.0)
    assert objective(shared, cosine, table, 20.0) < objective(equal, cosine, table, 20.0)


def test_a_batch_of_one_is_a_clip(rng):
    x, prompts, first = problem(rng, 1, [4, 2, 3], 24)
    one, batch = (run(rule, x, prompts, first)[0] for rule in ("entropy", "entropy_batch"))
    np.testing.assert_array_equal(one, batch)


@pytest.mark.parametrize("rule", RULES)
def test_large_scales_give_numbers(rng, rule):
    x, prompts, first = problem(rng, 10, [4, 2, 3], 24)
    score, _, _, _, weight = run(rule, x, prompts, first, scale=1e5)
    assert np.isfinite(score).all()
    assert np.isfinite(weight).all()


def test_a_mean_of_no_length_scores_nothing():
    prompts = np.float32([[1, 0], [-1, 0], [0, 1]])
    score = run("mean_embedding", np.float32([[1, 0]]), prompts, [0, 2, 3])[0]
    np.testing.assert_array_equal(score, [[0, 0]])


@pytest.mark.parametrize("rule", RULES)
def test_no_rows_give_no_scores(rng, rule):
    _, prompts, first = problem(rng, 1, [2, 1], 5)
    score, best, index, cosine, weight = run(rule, np.empty((0, 5)), prompts, first)
    shapes = [a.shape for a in (score, best, index, cosine, weight)]
    assert shapes == [(0, 2), (0, 1), (0, 1), (0, 3), (0, 3)]


def test_wrong_input_is_refused(rng):
    x, prompts, first = problem(rng, 2, [2, 1], 5)
    context = core.Context(1)
    for bad in ([0], [0, 3, 3], [1, 3], [0, 2], [0, 2, 4]):
        with pytest.raises(ValueError, match="first"):
            core.combine(context, x, prompts, bad, 0, 1.0, 1)
    for rule, scale in [(-1, 1.0), (len(RULES), 1.0), (0, 0.0), (0, np.nan), (0, np.inf)]:
        with pytest.raises(ValueError, match="no rule"):
            core.combine(context, x, prompts, first, rule, scale, 1)
    for k in (0, 3):
        with pytest.raises(ValueError, match=f"expected 1 to 2, got {k}"):
            core.combine(context, x, prompts, first, 0, 1.0, k)
    with pytest.raises(ValueError, match=r"prompts: expected shape \(\*, 5\)"):
        core.combine(context, x, prompts[:, :4], first, 0, 1.0, 1)
    with pytest.raises(ValueError, match="no columns"):
        core.combine(context, x[:, :0], prompts[:, :0], first, 0, 1.0, 1)
    with pytest.raises(ValueError, match="expected one of mean_embedding, mean_logit"):
        rule_index("median")


def test_sets_start_again_where_a_label_has_fewer():
    table = reference.set_table([0, 1, 4])
    assert table.tolist() == [[0, 1], [0, 2], [0, 3]]
    assert [b - a for a, b in pairwise([0, 1, 4])] == [1, 3]
