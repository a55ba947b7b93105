"""Batches in pieces and batch norms: the input norm sees the batch, deeper ones a piece."""

import numpy as np
import pytest
from models import AUDIO, CNN14, STATISTIC, decibels, new_model
from test_fusion import FUSED, views
from test_towers import DROPS

from reclap.runtime.libraries import core
from reclap.training.pieces import Whole, gradients

LONGER = np.array([True, False, True, False, True, True, False])
B, SEED, STEP = len(LONGER), 5, 9
TOWERS = {
    "htsat": AUDIO | DROPS["all"],
    "fusion": FUSED | DROPS["all"],
    "cnn14": CNN14 | {"dropout": 0.2, "fc_dropout": 0.5},
}


def batch_of(rng, config):
    fused = config.get("fusion")
    mel = views(rng, B, 60) if fused else decibels(rng, B, 60)
    text = rng.standard_normal((B, 24)).astype(np.float32)
    return Whole(mel, text, longer=LONGER if fused else None)


def of_deep_norm(name):
    return "running_" in name and ".bn0." not in name


def trainer_of(config, *, deep):
    """Return trainer and names; without `deep` the statistics of deeper norms are frozen."""
    model, _ = new_model(np.random.default_rng(3), config)
    names = [name for name, _, _ in model.parameters()]
    rates = [float(deep or not of_deep_norm(name)) for name in names]
    return core.Trainer(model, 2, np.array(rates, np.float32)), names, model


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("tower", TOWERS)
def test_gradients_of_pieces_are_those_of_the_batch(rng, tower, size):
    """With all draws on; norms that see a piece only have frozen statistics here."""
    config = TOWERS[tower]
    whole = batch_of(rng, config)
    direct, names, _ = trainer_of(config, deep=False)
    want = direct.step(whole.mel, whole.features, SEED, STEP, lr=0.0, longer=whole.longer)
    cut, _, _ = trainer_of(config, deep=False)
    loss = gradients(cut, whole, size, SEED, STEP)
    assert loss == pytest.approx(want["loss"], rel=1e-6)
    for name, a, b in zip(names, direct.buffers(1), cut.buffers(1), strict=True):
        if a is not None:
            assert np.linalg.norm(a - b) <= 2e-5 * np.linalg.norm(a) + 1e-9 * want["grad_norm"], (
                name
            )
    cut.update(STEP, lr=0.0)
    for name, a, b in zip(names, direct.buffers(0), cut.buffers(0), strict=True):
        np.testing.assert_array_equal(a, b, name)  # running statistics, too


@pytest.mark.parametrize("tower", ["fusion", "cnn14"])
def test_deep_norms_see_a_piece_and_keep_the_last_one(rng, tower):
    config = TOWERS[tower]
    whole = batch_of(rng, config)
    cut, names, model = trainer_of(config, deep=True)
    start = [x.copy() for x in cut.buffers(0)]
    gradients(cut, whole, 4, SEED, STEP)
    cut.update(STEP, lr=0.0)
    found = [x.copy() for x in cut.buffers(0)]
    # The last piece alone, whose draws know that four clips come before it.
    other, _, _ = trainer_of(config, deep=True)
    flags = None if whole.longer is None else whole.longer[4:]
    other.moments(whole.mel, whole.longer, first=True)
    other.embed(whole.mel[4:], whole.features[4:], SEED, STEP, clip=4, longer=flags)
    rows = np.zeros((B - 4, 20), np.float32)
    other.loss(rows, rows)
    other.backward(rows, rows, whole.mel[4:], whole.features[4:], SEED, STEP, clip=4, longer=flags)
    other.update(STEP, lr=0.0)
    moved = 0
    for (name, _, kind), a, b, before in zip(
        model.parameters(), found, other.buffers(0), start, strict=True
    ):
        np.testing.assert_array_equal(a, b, name)
        assert kind == STATISTIC or np.array_equal(a, before), name
        moved += of_deep_norm(name) and not np.array_equal(a, before)
    assert moved == sum(map(of_deep_norm, names))
