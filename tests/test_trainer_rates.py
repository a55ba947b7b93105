"""Rates of a trainer: what is frozen stays, what learns learns as before, at a rate of its own."""

import numpy as np
import pytest
from closeness import f32
from models import AUDIO, TEXT, VIT, decibels, new_model

from reclap.runtime.libraries import core

DRAWS = AUDIO | {"drop_path": 0.2, "dropout": 0.1, "time_stripes": 1, "time_width": 9}


def rates_of(model, learns):
    """Return 1 for each parameter whose name satisfies a condition, and for statistics if any of
    the audio tower does, else 0."""
    parameters = model.parameters()
    audio = any(
        learns(n) for n, _, kind in parameters if kind != 2 and n.startswith("audio_branch")
    )
    return np.array([audio if kind == 2 else learns(n) for n, _, kind in parameters], np.float32)


def batch(rng, frames=250):
    return decibels(rng, 3, frames), rng.standard_normal((3, 24)).astype(np.float32)


SOME = {
    "weights": lambda n: n.endswith("weight"),
    "biases": lambda n: n.endswith("bias"),
    "one block": lambda n: ".blocks.1." in n or ".1." in n,
    "heads": lambda n: "projection" in n,
    "audio": lambda n: n.startswith("audio_branch"),
    "scale": lambda n: n == "logit_scale",
    "all but the scale": lambda n: n != "logit_scale",
}


@pytest.mark.parametrize("config", [AUDIO, VIT])
@pytest.mark.parametrize("name", ["weights", "biases", "one block", "audio", "all but the scale"])
def test_gradients_of_what_learns_are_those_of_all(config, name):
    found = []
    for learns in (lambda _: True, SOME[name]):
        rng = np.random.default_rng(5)
        model, _ = new_model(rng, config)
        trainer = core.Trainer(model, 2, rates_of(model, learns))
        trainer.gradients(*batch(rng, 60), 7, 3)
        found.append(trainer.buffers(1))
    names = [n for n, _, kind in model.parameters() if kind != 2]
    found = [
        [x for x, (_, _, k) in zip(g, model.parameters(), strict=True) if k != 2] for g in found
    ]
    assert any(SOME[name](n) for n in names)
    for n, whole, part in zip(names, *found, strict=True):
        assert (part is None) == (not SOME[name](n)), n
        if part is not None:
            np.testing.assert_array_equal(part, whole, n)


@pytest.mark.parametrize("name", SOME)
def test_frozen_parameters_stay_bit_for_bit(rng, name):
    model, values = new_model(rng, DRAWS)
    trainer = core.Trainer(model, 2, rates_of(model, SOME[name]))
    for step in range(3):
        trainer.step(*batch(rng), 0, step, lr=0.1, weight_decay=0.1, clip=1.0)
    for (n, _, kind), before, now in zip(
        model.parameters(), values.values(), trainer.buffers(0), strict=True
    ):
        statistic = kind == 2 and name not in ("heads", "scale")
        stays = np.array_equal(np.float32(before), now)
        assert stays != (SOME[name](n) or statistic), n


def test_frozen_statistics_stay_and_are_worked_with(rng):
    model, values = new_model(rng, AUDIO)
    frozen = rates_of(model, lambda _: True)
    names = [n for n, _, _ in model.parameters()]
    statistics = [i for i, n in enumerate(names) if "running" in n]
    frozen[statistics] = 0
    trainer = core.Trainer(model, 2, frozen)
    mel, text = batch(rng)
    same = core.Model(AUDIO, None, 24, 2, 2, 20)
    same.bind(list(values.values()))
    audio, _ = trainer.embed(mel, text, 3, 1)
    np.testing.assert_allclose(audio, same.audio(core.Context(1), mel), atol=1e-6)
    trainer.step(mel, text, 0, 0, lr=0.1)
    for i in statistics:
        np.testing.assert_array_equal(trainer.buffers(0)[i], values[names[i]])


@pytest.mark.parametrize("longest", [3, 40])
def test_running_statistics_do_not_depend_on_the_text_tower(rng, longest):
    mel, found = decibels(rng, 4, 250), []
    first = np.arange(5, dtype=np.int32) * longest
    ids = rng.integers(3, 90, first[-1]).astype(np.int32)
    for text, given in ((None, f32(rng, 4, 48)), (TEXT, (ids, first))):
        model, _ = new_model(np.random.default_rng(1), AUDIO, text, 48)
        trainer = core.Trainer(model, 2)
        for step in range(2):
            trainer.step(mel, given, 0, step, lr=0.0)
        names = [n for n, _, _ in model.parameters()]
        values = dict(zip(names, trainer.buffers(0), strict=True))
        found.append(np.stack([x for n, x in values.items() if "running" in n]))
    np.testing.assert_array_equal(*found)


def test_frozen_tower_embeds_as_at_inference(rng):
    model, _ = new_model(np.random.default_rng(3), DRAWS)
    whole, _ = new_model(np.random.default_rng(3), DRAWS)
    trainer = core.Trainer(model, 1, rates_of(model, SOME["heads"]))
    mel, text = batch(rng)
    audio, _ = trainer.embed(mel, text, 3, 1)
    np.testing.assert_array_equal(audio, whole.audio(core.Context(1), mel))


def test_rate_is_a_factor_of_the_learning_rate_and_decay_one_of_the_decay(rng):
    start = 11
    found = {}
    for name, rate, decay, lr, wd in (
        ("half", 0.5, 4.0, 0.2, 0.1),
        ("plain", 1.0, 1.0, 0.1, 0.4),
    ):
        g = np.random.default_rng(start)
        model, _ = new_model(g)
        n = len(model.parameters())
        factors = np.full(n, rate, np.float32), np.full(n, decay, np.float32)
        trainer = core.Trainer(model, 1, *factors)
        trainer.step(*batch(g), 0, 0, lr=lr, weight_decay=wd)
        found[name] = [x.copy() for x in trainer.buffers(0)]
    for x, y in zip(*found.values(), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7)


def test_wrong_rates_are_named(rng):
    model, _ = new_model(rng)
    n = len(model.parameters())
    first = model.parameters()[0][0]
    for rates, message in (
        (np.ones(n - 1), r"rates: expected shape"),
        (np.full(n, -1.0), rf"rate of {first}: expected 0 to 1e6, got -1"),
        (np.full(n, np.nan), rf"rate of {first}: expected 0 to 1e6, got -?nan"),
        (np.zeros(n), "all parameters are frozen"),
    ):
        with pytest.raises(ValueError, match=message):
            core.Trainer(model, 1, rates)
    with pytest.raises(ValueError, match=rf"decay of {first}: expected 0"):
        core.Trainer(model, 1, None, np.full(n, -1.0))
    core.Trainer(model, 1).gradients(*batch(rng), 0, 0)
