"""Steps of the trainer by other losses than that of pairs, and with more texts than clips."""

import numpy as np
import pytest
from models import AUDIO, MLP, TEXT, decibels, draw_parameter, new_model
from needs import kernels

from reclap.runtime.libraries import core

DIM, WIDTH = 20, 24
OWNER, ROLE = [0, 1, 2, 1, 0, 2, 2], [0, 0, 0, 0, 1, 2, 2]
SUM = [("contrastive", 0.5), ("sigmoid", 1.5), ("distillation", 0.25)]
STILL = AUDIO | {"drop_path": 0.0, "dropout": 0.0, "time_stripes": 0, "freq_stripes": 0}


def with_bias(rng, audio=AUDIO):
    """Return a bound model with a bias of logits, and its parameters by name."""
    model = core.Model(audio, None, WIDTH, MLP, MLP, DIM, logit_bias=True)
    values = {name: draw_parameter(rng, name, shape) for name, shape, _ in model.parameters()}
    values["logit_bias"] = np.array(-3, np.float32)
    model.bind(list(values.values()))
    return model, values


def batch(rng, texts=7):
    return decibels(rng, 3), rng.standard_normal((texts, WIDTH)).astype(np.float32)


def goal_of(rng):
    teacher = (rng.standard_normal((n, 7)).astype(np.float32) for n in (3, len(OWNER)))
    names = ("teacher_a", "teacher_t")
    return {"losses": SUM, "owner": OWNER, "role": ROLE, "teacher_log_scale": 1.0} | dict(
        zip(names, teacher, strict=True)
    )


def test_loss_of_a_goal_is_that_of_its_kernel(rng):
    model, values = with_bias(rng)
    trainer, goal = core.Trainer(model, 2), goal_of(rng)
    audio, text = trainer.embed(*batch(rng), 1, 2)
    assert (audio.shape, text.shape) == ((3, DIM), (7, DIM))
    loss, da, dt = trainer.loss(audio, text, goal)
    scale, bias = float(values["logit_scale"]), float(values["logit_bias"])
    given = {k: x for k, x in goal.items() if k != "losses"}
    want = kernels.losses(goal["losses"], audio, text, scale, bias, **given)
    gradients = dict(zip(values, trainer.buffers(1), strict=True))
    got = loss, da, dt, gradients["logit_scale"], gradients["logit_bias"]
    for x, y in zip(got, want, strict=True):
        np.testing.assert_array_equal(x, np.asarray(y, np.asarray(x).dtype))


@pytest.mark.parametrize("config", [AUDIO, STILL], ids=["random", "still"])
def test_a_step_is_the_sum_of_its_calls(rng, config):
    model, _ = with_bias(rng, config)
    trainer, goal, (mel, text) = core.Trainer(model, 1), goal_of(rng), batch(rng)
    whole = trainer.gradients(mel, text, 1, 2, goal=goal)
    want = [x.copy() for x in trainer.buffers(1)]
    audio, texts = trainer.embed(mel, text, 1, 2)
    loss, da, dt = trainer.loss(audio, texts, goal)
    trainer.backward(da, dt, mel, text, 1, 2)
    assert loss == whole["loss"]
    for x, y in zip(trainer.buffers(1), want, strict=True):
        np.testing.assert_array_equal(x, y)


def test_texts_come_in_pieces_of_their_own(rng):
    """Draws of a text tower count texts, whatever clips are embedded beside them."""
    model = core.Model(AUDIO, TEXT | {"dropout": 0.3}, TEXT["width"], MLP, MLP, DIM)
    model.bind([draw_parameter(rng, name, shape) for name, shape, _ in model.parameters()])
    trainer, mel = core.Trainer(model, 1), decibels(rng, 3)
    ids = rng.integers(5, TEXT["vocab"], size=21).astype(np.int32)
    whole = trainer.embed(mel, (ids, [0, 3, 9, 14, 21]), 1, 2)[1]
    for before in (1, 0):
        piece = trainer.embed(mel[:2], (ids[3:], [0, 6, 11, 18]), 1, 2, 0, texts_before=before)[1]
        assert np.allclose(piece, whole[1:], atol=1e-5) == (before == 1)


def test_no_goal_is_the_loss_of_pairs(rng):
    model, _ = new_model(rng, dim=DIM)
    trainer, (mel, text) = core.Trainer(model, 1), batch(rng, 3)
    plain = trainer.gradients(mel, text, 1, 2)
    want = [x.copy() for x in trainer.buffers(1)]
    for goal in ({}, {"losses": [("contrastive", 1.0)]}, None):
        assert trainer.gradients(mel, text, 1, 2, goal=goal) == plain
        for x, y in zip(trainer.buffers(1), want, strict=True):
            np.testing.assert_array_equal(x, y)


def test_the_bias_of_logits_learns(rng):
    model, values = with_bias(rng)
    trainer, (mel, text) = core.Trainer(model, 1), batch(rng, 3)
    bias = dict(zip(values, trainer.buffers(0), strict=True))["logit_bias"]
    before = float(bias)
    goal = {"losses": [("sigmoid", 1.0)]}
    first = trainer.step(mel, text, 1, 0, lr=0.1, weight_decay=0.5, goal=goal)["loss"]
    assert abs(float(bias) - before) == pytest.approx(0.1, rel=1e-3)  # one step of Adam, no decay
    for step in range(1, 8):
        last = trainer.step(mel, text, 1, step, lr=0.01, goal=goal)["loss"]
    assert last < first


def test_plans_of_other_weights_are_the_same(rng):
    model, _ = with_bias(rng)
    trainer, (mel, text) = core.Trainer(model, 1), batch(rng, 3)
    one, two = (
        trainer.gradients(mel, text, 1, 2, goal={"losses": [("sigmoid", w)]})["loss"]
        for w in (1.0, 2.0)
    )
    assert two == pytest.approx(2 * one)


REFUSED = {
    "as many texts": ({}, ValueError, r"text: expected shape \(3, 24\), got \(7, 24\)"),
    "an owner too few": ({"owner": OWNER[1:]}, ValueError, r"owner: expected shape \(7,\)"),
    "an owner too large": ({"owner": [3, *OWNER[1:]]}, ValueError, r"owner\[0\]: expected a clip"),
    "an unknown role": ({"owner": OWNER, "role": [5] * 7}, ValueError, r"role\[0\]: expected"),
    "an unknown loss": ({"losses": [("hinge", 1)]}, ValueError, "unknown loss hinge"),
    "no pair": ({"losses": ["sigmoid"]}, TypeError, "pairs of name and weight"),
    "no list": ({"losses": "sigmoid"}, TypeError, "losses: expected a list, got str"),
    "no teacher": (
        {"owner": OWNER, "losses": [("distillation", 1)]},
        ValueError,
        "distillation needs the embeddings of a teacher",
    ),
    "an unknown key": ({"owners": OWNER}, TypeError, "owners"),
    "no dictionary": ([], TypeError, "goal: expected a dictionary, got list"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_goals_refused(rng, name):
    goal, error, message = REFUSED[name]
    trainer = core.Trainer(with_bias(rng)[0], 1)
    with pytest.raises(error, match=message):
        trainer.gradients(*batch(rng), 1, 2, goal=goal)
