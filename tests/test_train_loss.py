"""Runs by the sigmoid loss, and with more texts than clips."""

import json
import math

import numpy as np
import pytest
import training
from test_train import run_until
from training import read_log, read_run

import reclap
from reclap.checkpoints import model_folder
from reclap.training import loop
from reclap.training.sections import Loss

SIGMOID = {"kind": "sigmoid"}


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Return a manifest of ten tones in five groups, with hard negatives and modules."""
    path = training.write_set(tmp_path_factory.mktemp("sounds"))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row |= {"negatives": [f"no {row['group']}", "silence"], "modules": [row["group"]]}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def plan(sounds, small_folder):
    """Return a function that makes recipes of twelve steps."""

    def make(**changes):
        return training.recipe(sounds, small_folder, **changes)

    return make


def steps(folder):
    return [line for line in read_log(folder) if "loss" in line]


def first_logits(folder):
    """Return scale and bias of the checkpoint from before the first step."""
    first = folder / "step-0000000000"
    have = model_folder.read_tensors(first / model_folder.MODEL)
    return [float(have["logit_scale"]), model_folder.read_config(first).logit_bias]


def test_sigmoid_loss_learns_and_its_checkpoint_is_a_model(plan, tmp_path):
    result = loop.train(plan(loss=SIGMOID, run={"save_first": True, "keep": 9}), tmp_path)
    lines = steps(tmp_path)
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[-1]["logit_bias"] != lines[0]["logit_bias"] == pytest.approx(-10, abs=0.01)
    assert first_logits(tmp_path) == [pytest.approx(math.log(10)), -10.0]
    model = reclap.load(result.folder, threads=1)
    assert model.embed_text(["a horn"]).shape == (1, 20)
    assert model.config.logit_bias == pytest.approx(lines[-1]["logit_bias"])
    model.save(tmp_path / "saved")
    assert reclap.load(tmp_path / "saved", threads=1).config == model.config


def test_a_run_by_the_sigmoid_loss_resumes_bit_for_bit(plan, tmp_path, monkeypatch):
    recipe = plan(
        loss=SIGMOID,
        data={"negatives": 1, "modules": 1},
        optim={"ema": 0.9, "lr": 0.1},
        eval={"every": 6, "captions": True},
    )
    loop.train(recipe, tmp_path / "whole")
    run_until(recipe, tmp_path / "killed", 7, monkeypatch)
    loop.train(recipe, tmp_path / "killed", resume=True)
    whole, resumed = (read_run(tmp_path / name) for name in ("whole", "killed"))
    assert whole.keys() == resumed.keys()
    for name, x in whole.items():
        np.testing.assert_array_equal(x, resumed[name], err_msg=name)
    exams = [
        [line["eval"] for line in read_log(tmp_path / name) if "eval" in line]
        for name in ("whole", "killed")
    ]
    assert exams[0] == exams[1]


@pytest.mark.parametrize(
    ("before", "after", "scale", "bias"),
    [
        ({}, {}, "kept", None),
        ({}, SIGMOID, 10.0, -10.0),
        (SIGMOID, SIGMOID, "kept", "kept"),
        (SIGMOID, {}, 1 / 0.07, None),
        (SIGMOID, SIGMOID | {"scale": 20.0, "bias": -3.0}, 20.0, -3.0),
    ],
)
def test_a_model_goes_on_by_another_loss(plan, tmp_path, before, after, scale, bias):
    source = loop.train(plan(loss=before), tmp_path / "before").folder
    known = model_folder.read_tensors(source / model_folder.MODEL)
    changes = {"from": str(source), "text": None, "front": {}, "audio": {}, "dim": None}
    run = {"save_first": True, "steps": 1, "keep": 3}
    loop.train(plan(loss=after, model=changes, run=run), tmp_path / "after")
    want_scale = float(known["logit_scale"]) if scale == "kept" else math.log(scale)
    want_bias = model_folder.read_config(source).logit_bias if bias == "kept" else bias
    assert first_logits(tmp_path / "after") == [pytest.approx(want_scale), want_bias]


def test_negatives_modules_and_captions_reach_the_loss(plan, tmp_path):
    """The same clips and captions, and a loss of more terms."""
    losses = {}
    for name, data in (
        ("plain", {}),
        ("negatives", {"negatives": 2}),
        ("modules", {"modules": 1}),
    ):
        loop.train(plan(data=data, run={"steps": 1}), tmp_path / name)
        losses[name] = steps(tmp_path / name)[0]["loss"]
    assert losses["negatives"] > losses["plain"]  # a clip has more to tell apart
    assert losses["modules"] != losses["plain"]


def test_a_trained_text_tower_hears_of_negatives(plan, tmp_path):
    recipe = plan(data={"negatives": 2, "modules": 1}, train={"text": "trained"})
    result = loop.train(recipe, tmp_path)
    assert np.isfinite(result.loss)


def test_first_scale():
    assert Loss().initial_scale == pytest.approx(1 / 0.07)
    assert Loss(scale=20.0).initial_scale == Loss("sigmoid", scale=20.0).initial_scale == 20
