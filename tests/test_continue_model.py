"""Training that goes on with a whole model."""

import json
import shutil

import numpy as np
import pytest
import training
from training import read_log

import reclap
from reclap.checkpoints import model_folder
from reclap.errors import FormatError
from reclap.training import loop
from reclap.training.recipe import Recipe

SHORT = {"steps": 2, "save_every": 2, "save_first": True, "keep": 9, "threads": 1}


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    return training.write_set(tmp_path_factory.mktemp("sounds"))


@pytest.fixture(scope="module")
def source_folder(small_folder, tmp_path_factory):
    """Return a model whose temperature is not the one that training begins with."""
    folder = shutil.copytree(small_folder, tmp_path_factory.mktemp("source") / "model")
    tensors = {
        n: np.array(x) for n, x in model_folder.read_tensors(folder / model_folder.MODEL).items()
    }
    tensors["logit_scale"] = np.array(3.0, np.float32)
    model_folder.write_tensors(folder / model_folder.MODEL, tensors)
    return folder


def recipe_of(manifest, source, run=SHORT, **model):
    return Recipe.from_mapping(
        {
            "model": {"from": str(source)} | model,
            "data": {"manifest": str(manifest), "batch": 5, "group": "group"},
            "run": run,
            "eval": {"every": 2, "label": "group"},
        }
    )


def first(out):
    return out / "step-0000000000"


def test_first_checkpoint_is_the_model_itself(sounds, source_folder, tmp_path):
    loop.train(recipe_of(sounds, source_folder), tmp_path)
    source = reclap.load(source_folder, threads=1)
    begun = reclap.load(first(tmp_path), threads=1)
    assert begun.digest == source.digest
    assert begun.config.template == source.config.template
    assert np.array_equal(begun.embed_text(["a horn"]), source.embed_text(["a horn"]))
    files = sorted(sounds.parent.glob("*.wav"))
    labels = list(training.GROUPS)
    right = [
        r.label == p.name[:-5] for r, p in zip(source.classify(files, labels), files, strict=True)
    ]
    assert read_log(tmp_path)[0]["eval"]["accuracy"] == pytest.approx(np.mean(right))
    assert reclap.load(tmp_path / "last", threads=1).digest != source.digest


def test_mean_of_the_weights_begins_with_the_model_too(sounds, source_folder, tmp_path):
    plan = recipe_of(sounds, source_folder)
    sections = plan.to_json()
    sections["optim"]["ema"] = 0.9
    loop.train(Recipe.from_mapping(sections), tmp_path)
    assert reclap.load(first(tmp_path), threads=1).digest == reclap.load(source_folder).digest


@pytest.mark.parametrize(
    ("changes", "random"),
    [
        ({}, set()),
        ({"audio_head": "linear"}, {"audio_projection."}),
        ({"dim": 12}, {"audio_projection.", "text_projection."}),
        ({"text": "other"}, {"text_projection."}),
    ],
)
def test_heads_of_other_sizes_begin_at_random(sounds, source_folder, tmp_path, changes, random):
    if "text" in changes:
        changes = {"text": str(copied(source_folder, tmp_path / "other"))}
    loop.train(recipe_of(sounds, source_folder, **changes), tmp_path / "out")
    have = model_folder.read_tensors(first(tmp_path / "out") / model_folder.MODEL)
    was = model_folder.read_tensors(source_folder / model_folder.MODEL)
    for name, x in have.items():
        same = name in was and np.array_equal(x, was[name])
        trivial = x.ndim < 2 and name.endswith("bias") and not np.any(x)
        assert same or trivial or any(name.startswith(part) for part in random), name
        if name.endswith("weight") and any(name.startswith(part) for part in random):
            assert not same


@pytest.mark.parametrize("text", ["hf", "hf/config.json", "hf/empty"])
def test_text_tower_is_of_a_model_folder_or_a_plain_model(sounds, source_folder, tmp_path, text):
    (tmp_path / "hf" / "empty").mkdir(parents=True)
    (tmp_path / "hf" / "config.json").write_text('{"model_type": "clap"}')
    with pytest.raises(FormatError, match=rf"{text}: neither a model folder, .* reclap convert"):
        loop.train(recipe_of(sounds, source_folder, text=str(tmp_path / text)), tmp_path / "out")


def copied(source, folder):
    reclap.load(source, threads=1).save(folder)
    return folder


def test_run_with_a_model_continues_and_is_tied_to_it(sounds, source_folder, tmp_path):
    other = copied(source_folder, tmp_path / "other")
    plan = recipe_of(sounds, other)
    loop.train(plan, tmp_path / "out")
    assert loop.train(plan, tmp_path / "out", resume=True).loss is None
    with (other / "config.json").open("a") as f:
        f.write("\n")
    with pytest.raises(FormatError, match=r"model\.from: .*, now"):
        loop.train(plan, tmp_path / "out", resume=True)


NEWER = {
    "front": ["silence", "resampler"],
    "audio": ["activation", "qkv_bias", "patch_norm", "fusion_ratio", "block_eps"],
}


def test_run_of_a_version_that_had_fewer_settings_continues(sounds, source_folder, tmp_path):
    plan, out = recipe_of(sounds, source_folder), tmp_path / "out"
    loop.train(plan, out)
    path = out / "step-0000000002" / "state.json"
    state = json.loads(path.read_text())
    for part, names in NEWER.items():
        for name in names:
            del state["recipe"]["model"][part][name]
    del state["recipe"]["optim"]["ema"]
    path.write_text(json.dumps(state))
    assert loop.train(plan, out, resume=True).loss is None
    sections = plan.to_json()
    sections["model"]["audio"] = {"activation": "relu"}
    with pytest.raises(
        FormatError, match=r"model\.audio\.activation is 'relu', the model has 'gelu'"
    ):
        loop.train(Recipe.from_mapping(sections), out, resume=True)


def test_other_sizes_of_the_tower_are_refused(sounds, source_folder, tmp_path):
    plan = recipe_of(sounds, source_folder, audio={"depths": [1, 2]})
    with pytest.raises(FormatError, match=r"model\.audio\.depths is \(1, 2\), the model has"):
        loop.train(plan, tmp_path / "a")
    plan = recipe_of(sounds, source_folder, audio={"embd": 3})
    with pytest.raises(FormatError, match=r"model.*unknown embd"):
        loop.train(plan, tmp_path / "b")


def test_front_end_of_another_model_is_refused_before_the_first_step(
    sounds, source_folder, tmp_path
):
    plan = recipe_of(sounds, source_folder, front={"rate": 8000})
    with pytest.raises(FormatError, match="another front end: rate was 16000, now 8000"):
        loop.train(plan, tmp_path)
