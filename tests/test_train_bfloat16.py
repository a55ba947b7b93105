"""Training with bfloat16 products: close to float32, equal on any number of threads."""

import numpy as np
import pytest
from closeness import assert_close, f32
from models import AUDIO, MLP, VIT, decibels, draw_parameter, new_model, unit
from needs import kernels
from test_text_gradients import TINY
from test_text_gradients import backward as gradients_of_texts
from test_text_towers import KINDS_OF_TOWERS, texts

from reclap.errors import BackendError
from reclap.runtime.libraries import core

HOW = {"lr": 1e-3, "beta2": 0.98, "weight_decay": 0.05, "clip": 1.0}
WIDE = AUDIO | {"embed": 32, "heads": [2, 4, 8]}
TOWERS = {
    "htsat": WIDE,
    "dropping": WIDE | {"drop_path": 0.2, "dropout": 0.1},
    "vit": VIT | {"width": 64, "mlp": 256},
}


def trainer(rng, config, dtype="bfloat16", threads=2, **more):
    """Return a trainer of a random model, or skip where this processor has no such products."""
    model, _ = new_model(rng, config, None, 24, (MLP, MLP), 20)
    try:
        return core.Trainer(model, threads, dtype=dtype, **more)
    except BackendError as error:
        pytest.skip(f"no {dtype} product on this processor: {error}")


def batch(rng, b=12):
    frames = 64
    return decibels(rng, b, frames), unit(f32(rng, b, 24))


def same(config, *kinds, seed=6):
    """Return a trainer of the same model for each kind."""
    return [trainer(np.random.default_rng(seed), config, **kind) for kind in kinds]


def cosine(a, b):
    a, b = (np.asarray(x, np.float64).ravel() for x in (a, b))
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-300))


def rounded(x):
    bits = x.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)


# ---- One layer ---------------------------------------------------------------------------------


def backward(*factors, **how):
    try:
        return kernels.linear_backward(*factors, dtype="bfloat16", **how)
    except BackendError as error:
        pytest.skip(f"no bfloat16 product on this processor: {error}")


SIZES = [
    (1, 1, 1),
    (7, 5, 3),
    (64, 96, 384),
    (65, 96, 97),
    (513, 33, 17),
    (1030, 48, 144),
    (700, 1100, 40),
]


@pytest.mark.parametrize(("n", "k", "out"), SIZES)
def test_gradients_of_a_layer_are_those_of_rounded_factors(rng, n, k, out):
    dy, x, w = f32(rng, n, out), f32(rng, n, k), f32(rng, out, k)
    dx, dw, db = backward(dy, x, w)
    dy64, x64, w64 = (rounded(a).astype(np.float64) for a in (dy, x, w))
    assert_close(dx, dy64 @ w64, terms=out)
    assert_close(dw, dy64.T @ x64, terms=n)
    assert_close(db, dy.sum(0, dtype=np.float64), terms=n, magnitude=4 + np.sqrt(n))  # no product
    if n > 60:
        assert np.abs(dw - dy.T @ x).max() > 1e-3  # they are rounded


def test_gradients_of_a_layer_are_bitwise_equal_on_one_and_two_threads(rng):
    dy, x, w = f32(rng, 700, 100), f32(rng, 700, 60), f32(rng, 100, 60)
    for one, two in zip(*(backward(dy, x, w, threads=t) for t in (1, 2)), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_gradient_that_is_no_number_stays_none(rng):
    dy, x, w = f32(rng, 600, 20), f32(rng, 600, 12), f32(rng, 20, 12)
    dy[550, 3] = np.nan
    x[7, 5] = np.inf
    dx, dw, _ = backward(dy, x, w)
    assert np.isnan(dx[550]).all()
    assert np.isnan(dw[3]).all()
    assert not np.isfinite(dw[:, 5]).any()
    assert np.isfinite(dx[:550]).all()


# ---- Towers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", TOWERS.values(), ids=list(TOWERS))
def test_gradients_are_near_those_of_float32(config):
    narrow, wide = same(config, {"dtype": "bfloat16"}, {"dtype": "float32"})
    pairs = batch(np.random.default_rng(1))
    losses = [t.gradients(*pairs, 3, 0)["loss"] for t in (narrow, wide)]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    assert losses[0] != losses[1]
    for a, b in zip(narrow.buffers(1), wide.buffers(1), strict=True):
        if np.linalg.norm(b) > 1e-6:
            assert cosine(a, b) > 0.99
    whole = [np.concatenate([x.ravel() for x in t.buffers(1)]) for t in (narrow, wide)]
    assert cosine(*whole) >= 0.999


def test_losses_follow_those_of_float32():
    narrow, wide = same(WIDE, {"dtype": "bfloat16"}, {"dtype": "float32"})
    pairs = batch(np.random.default_rng(2))
    steps = [[t.step(*pairs, 3, i, **HOW)["loss"] for i in range(10)] for t in (narrow, wide)]
    assert steps[0][-1] < 0.9 * steps[0][0]
    np.testing.assert_allclose(steps[0], steps[1], rtol=0.02)


@pytest.mark.parametrize("config", TOWERS.values(), ids=list(TOWERS))
def test_steps_are_bitwise_equal_on_any_number_of_threads(config):
    pairs = batch(np.random.default_rng(3))
    runs = same(config, *({"threads": n} for n in (1, 2, 3)))
    for t in runs:
        for i in range(2):
            t.step(*pairs, 3, i, **HOW)
    for other in runs[1:]:
        for a, b in zip(runs[0].buffers(0), other.buffers(0), strict=True):
            np.testing.assert_array_equal(a, b)


def test_products_take_the_values_of_the_last_update():
    first, second = same(WIDE, {}, {})
    pairs = batch(np.random.default_rng(4))
    for i in range(2):
        first.step(*pairs, 3, i, **HOW)
    for mine, theirs in zip(second.buffers(0), first.buffers(0), strict=True):
        mine[...] = theirs
    stale = second.gradients(*pairs, 3, 2)["loss"]
    second.refresh()
    assert second.gradients(*pairs, 3, 2)["loss"] == first.gradients(*pairs, 3, 2)["loss"] != stale


def test_measured_memory_holds_the_copies_of_weights():
    narrow, wide = same(WIDE, {"dtype": "bfloat16"}, {"dtype": "float32"})
    size = {"clips": 12, "frames": 64, "texts": 12, "tokens": 0, "longest": 0, "na": 12, "nt": 12}
    scratch, buffers = zip(*(t.measure(**size) for t in (narrow, wide)), strict=True)
    weights = sum(x.nbytes for x in narrow.buffers(0) if x.ndim == 2)
    assert 0.8 * weights < buffers[0] - buffers[1] <= weights
    assert scratch[0] > scratch[1]  # factors that are kept rounded


def test_masters_stay_float32():
    """An update far below bfloat16's spacing is kept."""
    (t,) = same(WIDE, {})
    pairs = batch(np.random.default_rng(5))
    before = [x.copy() for x in t.buffers(0)]
    t.step(*pairs, 3, 0, lr=1e-6)
    for a, b, gradient in zip(t.buffers(0), before, t.buffers(1), strict=True):
        if gradient.any():  # not a running statistic
            assert 0 < np.abs(a - b).max() < 2e-6


def test_inference_of_the_model_in_training_is_float32(rng):
    model, _ = new_model(rng, WIDE, None, 24, (MLP, MLP), 20)
    mel, _ = batch(rng)
    before = model.audio(core.Context(1), mel)
    try:
        t = core.Trainer(model, 1, dtype="bfloat16")
    except BackendError as error:
        pytest.skip(str(error))
    np.testing.assert_array_equal(model.audio(core.Context(1), mel), before)
    del t
    np.testing.assert_array_equal(model.audio(core.Context(1), mel), before)


def test_a_frozen_tower_runs_on_narrow_products(rng):
    names = [n for n, _, _ in new_model(rng, WIDE, None, 24, (MLP, MLP), 20)[0].parameters()]
    rates = np.array([not n.startswith("audio_branch.") for n in names], np.float32)
    pairs = batch(rng)
    narrow, wide = same(
        WIDE, {"rates": rates, "threads": 1}, {"rates": rates, "dtype": "float32", "threads": 3}
    )
    losses = [[t.step(*pairs, 3, i, **HOW)["loss"] for i in range(3)] for t in (narrow, wide)]
    assert losses[0] != losses[1]
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.02)


def test_other_types_are_refused(rng):
    model, _ = new_model(rng)
    with pytest.raises(ValueError, match="float32 or bfloat16"):
        core.Trainer(model, 1, dtype="int8")
    with pytest.raises(ValueError, match="unknown type of products 'half'"):
        core.Trainer(model, 1, dtype="half")
    core.Trainer(model, 1)  # the model is as before


# ---- Text towers and adapters ------------------------------------------------------------------


def text_trainer(kind, dtype, adapt=False):
    rng = np.random.default_rng(8)
    width = kind.config.width
    model = core.Model(TINY, kind.config.to_core(), width, 1, 0, width)
    if adapt:
        for place in linear_weights(model):
            model.adapt(place, 2, 4.0)
    model.bind([draw_parameter(rng, n, s) for n, s, _ in model.parameters()])
    names = [n for n, _, _ in model.parameters()]
    rates = np.array([not adapt or ".lora_" in n for n in names], np.float32)
    try:
        return model, core.Trainer(model, 2, rates, dtype=dtype)
    except BackendError as error:
        pytest.skip(f"no {dtype} product on this processor: {error}")


def linear_weights(model):
    return [
        i
        for i, (name, shape, _) in enumerate(model.parameters())
        if name.startswith("text_branch.layers") and len(shape) == 2 and name.endswith(".weight")
    ]


# Rounding the weights alone, in float32, brings as much; scores of T5 are large, and adapters have
# few gradients.
@pytest.mark.parametrize(
    ("kind", "adapt", "least"),
    [
        ("bert", False, 0.999),
        ("t5", False, 0.997),
        ("gpt2", False, 0.999),
        ("bert", True, 0.98),
        ("t5", True, 0.98),
        ("gpt2", True, 0.99),
    ],
)
def test_gradients_of_texts_are_near_those_of_float32(kind, adapt, least):
    kind = KINDS_OF_TOWERS[kind]
    rng = np.random.default_rng(9)
    _, packed, first = texts(rng, kind)
    n, dim = len(first) - 1, kind.config.width
    dtext = f32(rng, n, dim)  # linear in the embeddings: a contrastive loss cancels what they share
    found = []
    for dtype in ("bfloat16", "float32"):
        model, t = text_trainer(kind, dtype, adapt)
        _, by_name = gradients_of_texts(t, model, np.random.default_rng(4), packed, first, dtext)
        found.append(np.concatenate([x.ravel() for x in by_name.values() if x is not None]))
    assert (found[0] != found[1]).any()
    assert cosine(*found) >= least
