"""Training both towers, or parts of them, by recipes."""

import logging

import numpy as np
import pytest
import training
from test_train import run_until
from training import read_log, read_run

import reclap
from reclap.checkpoints import model_folder
from reclap.errors import FormatError
from reclap.training import loop
from reclap.training.rates import depths, rates
from reclap.training.sections import Train


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Return a manifest of ten tones in five groups."""
    return training.write_set(tmp_path_factory.mktemp("sounds"))


@pytest.fixture
def plan(sounds, small_folder):
    """Return a function that makes recipes of twelve steps, which train the text tower, too."""

    def make(train=None, **changes):
        part = {"text": "trained", "text_dropout": 0.1} | (train or {})
        return training.recipe(sounds, small_folder, train=part, **changes)

    return make


def tensors(folder):
    return {
        name: np.asarray(x)
        for file in (model_folder.MODEL, model_folder.TEXT)
        for name, x in model_folder.read_tensors(folder / file).items()
    }


def test_both_towers_learn_and_the_checkpoint_is_a_model(plan, small_folder, tmp_path):
    result = loop.train(plan(eval={"every": 6, "captions": True, "label": "group"}), tmp_path)
    before, after = tensors(small_folder), tensors(result.folder)
    changed = [
        n for n in after if n.startswith("text_") and not np.array_equal(after[n], before[n])
    ]
    assert {n for n in after if n.startswith("text_branch")} <= set(changed)
    assert not (tmp_path / "captions.store").exists()
    model = reclap.load(result.folder, threads=1)
    found = [line["eval"] for line in read_log(tmp_path) if "eval" in line]
    assert [set(x) for x in found] == [{"accuracy", "labels", "loss", "retrieval", "clips"}] * 3
    assert model.embed_text(["a horn"]).shape == (1, 20)


def test_one_batch_is_learnt_by_the_text_tower_alone(plan, tmp_path):
    quiet = {"shift": False, "tilt_db": 0.0, "gain_db": 0.0, "noise": 0.0}
    still = training.AUDIO | {"drop_path": 0.0, "time_stripes": 0, "freq_stripes": 0}
    steps = {"steps": 150, "save_every": 150}
    loop.train(
        plan(
            {"text_dropout": 0.0, "freeze": ["audio_branch", "audio_projection", "logit_scale"]},
            model={"audio": still},
            data={"batch": 10, "original": 1.0},
            augment=quiet,
            optim={"lr": 1e-2},
            run=steps,
        ),
        tmp_path,
    )
    losses = [line["loss"] for line in read_log(tmp_path)]
    assert losses[0] > 2 * losses[-1]


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_resumed_run_equals_uninterrupted_run(plan, tmp_path, monkeypatch, ema):
    some = {"freeze": ["audio_branch.layers.0", "text_branch.token.weight"], "layer_decay": 0.8}
    averaged = plan(some, optim={"ema": ema})
    loop.train(averaged, tmp_path / "whole")
    run_until(averaged, tmp_path / "out", 7, monkeypatch)
    loop.train(averaged, tmp_path / "out", resume=True)
    assert read_run(tmp_path / "out") == read_run(tmp_path / "whole")
    names = {n.split(":")[1] for n in read_run(tmp_path / "out")}
    assert "m.text_branch.layers.0.mlp.fc1.weight" in names
    assert not names & {
        "m.text_branch.token.weight",
        "m.audio_branch.layers.0.blocks.0.mlp.fc1.bias",
    }


def test_frozen_parts_stay_as_they_were(plan, small_folder, tmp_path):
    part = {"freeze": ["text_branch.layers.0", "*.norm*"]}
    result = loop.train(plan(part), tmp_path)
    before, after = tensors(small_folder), tensors(result.folder)
    text = [n for n in after if n.startswith("text_branch")]
    frozen = [n for n in text if n.startswith("text_branch.layers.0.") or ".norm" in n]
    assert frozen
    for name in text:
        assert np.array_equal(before[name], after[name]) == (name in frozen), name


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"freeze": ["text_branch.layer.0"]}, r"train\.freeze: 'text_branch\.layer\.0' matches no"),
        (
            {"rates": {"audio_tower": 0.1}},
            r"train\.rates: 'audio_tower' matches no parameter; near",
        ),
        ({"freeze": ["*"]}, "all parameters are frozen"),
        ({"text": "frozen", "text_dropout": 0.1}, "text_dropout: the text tower is frozen"),
        ({"layer_decay": 0}, "layer_decay"),
        ({"rates": {"audio_branch": -1}}, "rates"),
        (
            {"text": "frozen", "text_dropout": 0.0, "freeze": ["text_branch"]},
            "matches no parameter",
        ),
    ],
)
def test_parts_that_do_not_fit_are_named(plan, tmp_path, train, message):
    with pytest.raises(FormatError, match=message):
        loop.train(plan(train), tmp_path)


def test_what_is_trained_belongs_to_the_run(plan, tmp_path):
    loop.train(plan(), tmp_path)
    for change in ({"freeze": ["text_branch.token"]}, {"text": "frozen", "text_dropout": 0.0}):
        with pytest.raises(FormatError, match=r"a run of another recipe\. train\."):
            loop.train(plan(change, run={"steps": 20}), tmp_path, resume=True)


def test_layers_below_learn_more_slowly():
    names = [
        "audio_branch.bn0.weight",
        "audio_branch.patch_embed.proj.weight",
        "audio_branch.layers.0.blocks.0.attn.qkv.weight",
        "audio_branch.layers.0.blocks.1.attn.qkv.weight",
        "audio_branch.layers.0.downsample.reduction.weight",
        "audio_branch.layers.1.blocks.0.mlp.fc1.weight",
        "audio_branch.norm.weight",
        "audio_projection.0.weight",
        "text_branch.token.weight",
        "text_branch.norm.weight",
        "text_branch.layers.0.mlp.fc1.weight",
        "text_branch.layers.1.mlp.fc1.weight",
        "text_branch.final_norm.weight",
        "text_branch.pooler.weight",
        "logit_scale",
    ]
    assert depths(names) == [5, 5, 4, 3, 2, 1, 0, 0, 3, 3, 2, 1, 0, 0, 0]
    part = Train(text="trained", layer_decay=0.5, rates={"text_branch": 0.1, "*.token.*": 10.0})
    rate, decay = rates(names, part)
    want = [0.5**d for d in (5, 5, 4, 3, 2, 1, 0, 0)]
    want += [0.125, 0.0125, 0.025, 0.05, 0.1, 0.1, 1.0]
    np.testing.assert_allclose(rate, want, rtol=1e-6)
    assert (decay == 1).all()


def test_matrices_without_a_gradient_are_told(plan, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(loop.Learner, "untouched", lambda _: ["text_branch.token.weight"])
    with caplog.at_level(logging.WARNING):
        loop.train(plan(run={"steps": 2}), tmp_path)
    assert caplog.text.count("no gradient reached text_branch.token.weight") == 1
