"""Losses of a trainer: several texts a clip, hard negatives, sigmoid with a bias, distillation."""

import numpy as np
import pytest
from models import AUDIO, TEXT, decibels, draw_parameter, new_model

from reclap.runtime.libraries import core, kernels

CONTRASTIVE, SIGMOID, DISTILLATION = range(3)
OWNER = np.array([0, 0, 1, 1, 2, 2, 2], np.int32)
ROLE = np.array([0, 1, 0, 2, 0, 0, 2], np.int32)


def model_with_bias(rng, text=None):
    """Return a model with a learned bias of logits, bound to random weights."""
    width = 48 if text else 24
    model = core.Model(AUDIO, text, width, 2, 2, 20, logit_bias=True)
    values = [draw_parameter(rng, n, s) for n, s, _ in model.parameters()]
    model.bind([np.asarray(x, np.float32) for x in values])
    return model


def batch(rng):
    return decibels(rng, 3, 60), rng.standard_normal((len(OWNER), 24)).astype(np.float32)


def value(trainer, model, name):
    names = [n for n, _, _ in model.parameters()]
    return float(trainer.buffers(0)[names.index(name)])


def test_step_asks_the_loss_for_all_texts(rng):
    model = model_with_bias(rng)
    mel, text = batch(rng)
    for kind, name in ((CONTRASTIVE, "contrastive"), (SIGMOID, "sigmoid")):
        trainer = core.Trainer(model, 1, losses=[(kind, 1.0)])
        audio, texts = trainer.embed(mel, text, 0, 0, caption=0)
        scale, bias = (value(trainer, model, f"logit_{x}") for x in ("scale", "bias"))
        found = trainer.gradients(mel, text, 0, 0, owner=OWNER, role=ROLE)
        terms = [(name, 1.0)]
        want = kernels.losses(terms, audio, texts, scale, bias, owner=OWNER, role=ROLE)[0]
        assert found["loss"] == pytest.approx(want, rel=1e-5)
        del trainer


@pytest.mark.parametrize("kind", [CONTRASTIVE, SIGMOID])
@pytest.mark.parametrize("tower", [False, True])
def test_step_in_calls_equals_the_whole_step(rng, kind, tower):
    model = model_with_bias(rng, TEXT if tower else None)
    mel, text = batch(rng)
    if tower:
        first = np.array([0, 3, 4, 9, 11, 20, 21, 30], np.int32)
        text = rng.integers(0, 101, 30).astype(np.int32), first
    trainer = core.Trainer(model, 2, losses=[(kind, 1.0)])
    how = {"owner": OWNER, "role": ROLE}
    whole = trainer.gradients(mel, text, 5, 1, **how)
    want = [x.copy() for x in trainer.buffers(1)]
    audio, texts = trainer.embed(mel, text, 5, 1, caption=0)
    loss, da, dt = trainer.loss(audio, texts, **how)
    assert loss == pytest.approx(whole["loss"], rel=1e-6)
    trainer.backward(da, dt, mel, text, 5, 1, caption=0)
    for got, x in zip(trainer.buffers(1), want, strict=True):
        np.testing.assert_array_equal(got, x)


def test_bias_learns_by_its_gradient(rng):
    model = model_with_bias(rng)
    mel, text = batch(rng)
    trainer = core.Trainer(model, 1, losses=[(SIGMOID, 1.0)])
    trainer.gradients(mel, text, 0, 0, owner=OWNER)
    names = [n for n, _, _ in model.parameters()]
    at = names.index("logit_bias")
    slope, before = float(trainer.buffers(1)[at]), float(trainer.buffers(0)[at])
    found = []
    for step in (-1e-2, 1e-2):
        trainer.buffers(0)[at][...] = before + step
        found.append(trainer.gradients(mel, text, 0, 0, owner=OWNER)["loss"])
    assert (found[1] - found[0]) / 2e-2 == pytest.approx(slope, rel=1e-2)
    trainer.step(mel, text, 0, 0, owner=OWNER, lr=0.1)
    assert float(trainer.buffers(0)[at]) == pytest.approx(before + 1e-2 - 0.1 * np.sign(slope))


def test_losses_are_summed_by_weight(rng):
    model, _ = new_model(rng)
    mel, text = decibels(rng, 3, 60), rng.standard_normal((3, 24)).astype(np.float32)
    teacher = tuple(
        x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(2, 3, 7))
    )
    found = {}
    for name, losses in {
        "contrastive": [(CONTRASTIVE, 1.0)],
        "distillation": [(DISTILLATION, 1.0)],
        "sum": [(CONTRASTIVE, 0.5), (DISTILLATION, 2.0)],
    }.items():
        trainer = core.Trainer(model, 1, losses=losses, teacher=7, teacher_log_scale=2.0)
        loss = trainer.gradients(mel, text, 0, 0, teacher=teacher)["loss"]
        found[name] = np.concatenate([[loss], *[x.ravel() for x in trainer.buffers(1)]])
        del trainer
    want = 0.5 * found["contrastive"] + 2 * found["distillation"]
    np.testing.assert_allclose(found["sum"], want, rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_a_loss_is_named(rng):
    model = model_with_bias(rng)
    mel, text = batch(rng)
    for losses, message in (
        ([], "losses: expected 1 to 4, got 0"),
        ([(9, 1.0)], "losses: there is no kind 9"),
        ([(0, 0.0)], "losses: expected weights up to 1e6, got 0"),
        ([(0, float("nan"))], "losses: expected weights"),
        ([0], r"losses: expected pairs \(kind, weight\)"),
        (3, r"losses: expected pairs"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            core.Trainer(model, 1, losses=losses)
    with pytest.raises(ValueError, match="teacher: expected 0 to 16384, got -1"):
        core.Trainer(model, 1, teacher=-1)
    trainer = core.Trainer(model, 1, losses=[(DISTILLATION, 1.0)], teacher=7)
    good = np.ones((3, 7), np.float32), np.ones((7, 7), np.float32)
    for how, message in (
        ({}, r"text: expected shape \(3, 24\)"),
        ({"owner": OWNER}, "distillation needs the embeddings of a teacher"),
        ({"owner": OWNER[:3]}, r"owner: expected shape \(7,\)"),
        ({"owner": OWNER + 1, "teacher": good}, r"owner\[4\]: expected a clip from 0 to 2, got 3"),
        ({"owner": OWNER, "role": ROLE + 1, "teacher": good}, r"role\[3\]: expected 0 to 2, got 3"),
        ({"owner": OWNER * 0, "teacher": good}, "owner: clip 1 has no positive text"),
        ({"owner": OWNER, "teacher": good[::-1]}, r"teacher audio: expected shape \(3, 7\)"),
        ({"owner": OWNER, "teacher": good[0]}, r"teacher: expected a pair of arrays"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            trainer.gradients(mel, text, 0, 0, **how)
    trainer.step(mel, text, 0, 0, owner=OWNER, role=ROLE, teacher=good)


def test_memory_of_a_call_is_measured_without_taking_it(rng):
    model = model_with_bias(rng, TEXT)
    trainer = core.Trainer(model, 1)
    size = {"clips": 2, "frames": 60, "texts": 2, "tokens": 20, "longest": 12, "na": 2, "nt": 2}
    small, buffers = trainer.measure(**size)
    assert buffers >= 4 * 4 * sum(int(np.prod(s)) for _, s, _ in model.parameters())
    more = size | {"clips": 64, "texts": 64, "tokens": 640, "na": 64, "nt": 64}
    assert trainer.measure(**more)[0] > 8 * small
    frozen = [float("projection" in n) for n, _, _ in model.parameters()]
    del trainer
    tuned = core.Trainer(model, 1, frozen)
    assert tuned.measure(**more)[1] < buffers / 2
    for change, message in (
        ({"clips": -1}, "clips: expected 0"),
        ({"texts": 0}, "texts: expected 1"),
        ({"frames": 1000}, "frames: expected 1 to 256"),
        ({"longest": 78}, "longest: expected 1 to 77"),
        ({"tokens": 1}, "tokens: expected 2 to 24"),
        ({"na": 1 << 20}, "na: expected"),
        ({"nt": 0}, "nt: expected 1"),
    ):
        with pytest.raises(ValueError, match=message):
            tuned.measure(**size | change)


def test_a_loss_may_go_without_its_teacher(rng):
    """An evaluation has no embeddings of one."""
    model = model_with_bias(rng)
    audio, text = (rng.standard_normal((3, 20)).astype(np.float32) for _ in range(2))
    teacher = tuple(rng.standard_normal((3, 7)).astype(np.float32) for _ in range(2))
    trainer = core.Trainer(model, 1, losses=[(DISTILLATION, 1.0), (SIGMOID, 2.0)], teacher=7)
    both = trainer.loss(audio, text, teacher=teacher)[0]
    without, da, _ = trainer.loss(audio, text, teacher=())
    with pytest.raises(ValueError, match="needs the embeddings of a teacher"):
        trainer.loss(audio, text)
    del trainer
    alone, da_alone, _ = core.Trainer(model, 1, losses=[(SIGMOID, 2.0)]).loss(audio, text)
    assert without == alone != both
    np.testing.assert_array_equal(da, da_alone)
    nothing = core.Trainer(model, 1, losses=[(DISTILLATION, 1.0)], teacher=7)
    loss, da, dt = nothing.loss(audio, text, teacher=())
    assert not np.any([loss, *da.ravel(), *dt.ravel()])
