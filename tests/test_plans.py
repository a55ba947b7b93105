"""Plans of a context: made once for each size, bounded, never used for parameters that moved."""

import numpy as np
import pytest
from models import AUDIO, TEXT, VIT, decibels, new_model

from reclap.runtime.libraries import core

PLANS = 16  # that a context keeps


def texts(rng, lengths):
    """Return ids of texts of so many tokens each, and where each begins."""
    first = np.cumsum([0, *lengths]).astype(np.int32)
    return rng.integers(0, 101, first[-1]).astype(np.int32), first


def test_a_size_that_was_seen_needs_no_look_up(rng):
    model, _ = new_model(rng, AUDIO, TEXT, 48)
    context, mel, batch = core.Context(2), decibels(rng, 3), texts(rng, (4, 9))
    model.audio(context, mel)
    model.text(context, *batch)
    before = context.stats()
    assert before["plans"] == 2
    for _ in range(3):
        model.audio(context, mel)
        model.text(context, *batch)
    assert context.stats() == before


@pytest.mark.parametrize("kind", ["audio", "text"])
def test_plans_and_products_are_bounded(rng, kind):
    """A year of calls of ever new sizes takes no more than sixteen of them."""
    model, _ = new_model(rng, VIT, TEXT, 48)
    context, alone = core.Context(1), 0
    for n in range(1, 60):
        batch, one = texts(rng, range(1, n + 1)), core.Context(1)
        for c in (context, one):
            if kind == "audio":
                model.audio(c, decibels(rng, n, 40))
            else:
                model.text(c, *batch)
        stats, alone = context.stats(), max(alone, one.stats()["products"])
        assert stats["plans"] == min(n, PLANS)
        assert stats["products"] <= PLANS * alone
    assert stats["misses"] > 1.5 * stats["products"]  # others were built, and are gone


def test_the_least_recently_used_plan_goes_first(rng):
    model, _ = new_model(rng)
    context = core.Context(1)

    def looks_up(n):
        before = context.stats()
        model.audio(context, decibels(rng, 1, n))
        after = context.stats()
        return any(after[k] != before[k] for k in ("hits", "misses"))

    sizes = range(100, 100 + PLANS)
    assert all(looks_up(n) for n in sizes)
    assert not looks_up(sizes[0])  # now the most recently used
    assert looks_up(200)  # takes the place of sizes[1]
    assert not looks_up(sizes[0])
    assert not any(looks_up(n) for n in sizes[2:])
    assert looks_up(sizes[1])


def test_a_plan_is_of_one_model(rng):
    """Models that come and go, some at the place of others, on one context."""
    context, mel = core.Context(1), decibels(rng, 2)
    for seed in range(40):
        model, values = new_model(np.random.default_rng(seed))
        got = model.audio(context, mel)
        again, _ = new_model(np.random.default_rng(seed))
        np.testing.assert_array_equal(got, again.audio(core.Context(1), mel))
        del model, values, again


def test_a_plan_is_of_parameters_as_they_lie(rng):
    """Packing, and training, which moves parameters to buffers of its own and back."""
    model, _ = new_model(rng)
    context, mel = core.Context(1), decibels(rng, 2)
    text = rng.standard_normal((2, 24)).astype(np.float32)
    want = model.audio(context, mel)
    trainer = core.Trainer(model, 1)
    trainer.step(mel, text, 0, 0, lr=0.1)
    stepped = model.audio(context, mel)
    assert np.abs(stepped - want).max() > 1e-3
    np.testing.assert_array_equal(stepped, model.audio(core.Context(1), mel))
    del trainer
    np.testing.assert_array_equal(stepped, model.audio(context, mel))
    model.pack(dtype="bfloat16")
    packed = model.audio(context, mel)
    assert not np.array_equal(packed, stepped)
    np.testing.assert_array_equal(packed, model.audio(core.Context(1), mel))


def test_scores_leave_no_products_behind(rng):
    context = core.Context(1)
    for n in range(2, 40):
        x = rng.standard_normal((n, 8)).astype(np.float32)
        core.scores(context, x, x, 1)
        core.ranks(context, x, x, np.arange(n, dtype=np.int32)[:, None])
    assert context.stats()["products"] == 0
