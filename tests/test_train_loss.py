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
from reclap.errors import FormatError
from reclap.io import manifest
from reclap.training import loop
from reclap.training.pieces import Whole
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


@pytest.fixture(scope="module")
def teacher(sounds, small_folder, tmp_path_factory):
    """Return a model that knows the sounds a little, and is wider than the student."""
    model = {"dim": 28}
    recipe = training.recipe(sounds, small_folder, model=model, run={"steps": 30})
    return loop.train(recipe, tmp_path_factory.mktemp("teacher")).folder


def test_a_student_comes_closer_to_its_teacher(plan, teacher, tmp_path):
    known = reclap.load(teacher, threads=1)
    files = [row.path for row in manifest.read(plan().data.manifest)]
    texts = ["the horn low", "the bell high", "wind low told again"]

    def apart(folder):
        model = reclap.load(folder, threads=1)
        logits = [10 * m.embed_audio(files) @ m.embed_text(texts).T for m in (model, known)]
        p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in logits)
        return np.abs(p - q).mean()

    loss = {"teacher": str(teacher), "distillation": 5.0}
    run = {"steps": 40, "save_first": True, "keep": 50, "save_every": 40}
    loop.train(plan(loss=loss, run=run, eval={"every": 20, "captions": True}), tmp_path)
    assert apart(tmp_path / "last") < apart(tmp_path / "step-0000000000")
    assert {"teacher-sounds.store", "teacher-texts.store"} <= {p.name for p in tmp_path.iterdir()}


def test_a_run_with_a_teacher_resumes_bit_for_bit(plan, teacher, tmp_path, monkeypatch):
    recipe = plan(loss={"teacher": str(teacher)}, data={"negatives": 1}, run={"piece": 2})
    loop.train(recipe, tmp_path / "whole")
    run_until(recipe, tmp_path / "killed", 7, monkeypatch)
    loop.train(recipe, tmp_path / "killed", resume=True)
    assert read_run(tmp_path / "whole") == read_run(tmp_path / "killed")


def test_pieces_give_the_loss_of_the_whole_batch_with_a_teacher(plan, teacher, tmp_path):
    losses = []
    for piece in (0, 2):
        recipe = plan(
            loss={"teacher": str(teacher)},
            data={"negatives": 1, "modules": 1},
            run={"steps": 1, "piece": piece},
        )
        loop.train(recipe, tmp_path / str(piece))
        losses.append(steps(tmp_path / str(piece))[0])
    assert losses[0]["loss"] == pytest.approx(losses[1]["loss"], rel=1e-5)
    assert losses[0]["grad_norm"] == pytest.approx(losses[1]["grad_norm"], rel=1e-4)


def test_a_teachers_texts_keep_to_their_texts(rng):
    owner, role = np.array([0, 1, 1, 0], np.int32), np.arange(4, dtype=np.int32) % 3
    texts = rng.standard_normal((4, 3)).astype(np.float32)
    sounds = rng.standard_normal((2, 5)).astype(np.float32)
    batch = Whole(np.zeros((2, 1, 1), np.float32), texts, owner, role, None, (sounds, texts + 1))
    ordered = batch.ordered()
    np.testing.assert_array_equal(ordered.owner, [0, 0, 1, 1])
    np.testing.assert_array_equal(ordered.role, [0, 0, 1, 2])
    np.testing.assert_array_equal(ordered.teacher[1], ordered.features + 1)
    np.testing.assert_array_equal(ordered.teacher[0], sounds)


def test_weight_of_the_teacher_counts(plan, teacher, tmp_path):
    found = []
    for weight in (0.5, 1.0, 1.5):
        loss = {"teacher": str(teacher), "distillation": weight}
        loop.train(plan(loss=loss, run={"steps": 1}), tmp_path / str(weight))
        found.append(steps(tmp_path / str(weight))[0]["loss"])
    loop.train(plan(run={"steps": 1}), tmp_path / "alone")
    alone = steps(tmp_path / "alone")[0]["loss"]
    assert found == pytest.approx([alone + w * (found[1] - alone) for w in (0.5, 1, 1.5)], rel=1e-4)
    assert found[1] > alone


def test_mixtures_with_a_teacher_are_refused(plan, teacher, tmp_path):
    with pytest.raises(FormatError, match=r"loss\.teacher: data\.mixtures is 2"):
        loop.train(plan(loss={"teacher": str(teacher)}, data={"mixtures": 2}), tmp_path)


def test_another_teacher_is_another_run(plan, teacher, small_folder, tmp_path):
    loop.train(plan(loss={"teacher": str(teacher)}, run={"steps": 1}), tmp_path)
    other = plan(loss={"teacher": str(small_folder)}, run={"steps": 1})
    with pytest.raises(FormatError, match=r"a run of another recipe.*loss\.teacher"):
        loop.train(other, tmp_path, resume=True)


def test_first_scale():
    assert Loss().initial_scale == pytest.approx(1 / 0.07)
    assert Loss(scale=20.0).initial_scale == Loss("sigmoid", scale=20.0).initial_scale == 20
