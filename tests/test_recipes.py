"""Recipes of the repository: complete, of the sizes they say, run on the sounds of the clone."""

from pathlib import Path

import numpy as np
import pytest
from needs import needs
from training import read_log

import reclap
from reclap.checkpoints import model_folder
from reclap.config import TextConfig
from reclap.runtime.libraries import core
from reclap.training import loop, recipe

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "recipes"
SOUNDS = ROOT / "examples" / "sounds"

# A second of sound, a tower of one block a stage, two steps.
SMALL = [
    "model.front.rate=16000",
    "model.front.samples=15750",
    "model.front.hop=250",
    "model.front.fmax=8000.0",
    "model.audio.spec_size=64",
    "model.audio.embed=16",
    "model.audio.depths=[1, 1]",
    "model.audio.heads=[1, 2]",
    "model.dim=32",
]
DATA = [
    f"data.manifest={RECIPES / 'smoke' / 'manifest.csv'}",
    f"data.root={SOUNDS}",
    "data.batch=6",
    f"eval.manifest={RECIPES / 'smoke' / 'manifest.csv'}",
]
BOTH = ["train.text=trained", "train.rates.text_branch=0.1"]  # a comment of smoke.toml
STEPS = ["run.steps=2", "run.threads=1", "run.save_first=true", "eval.every=2"]

OF_THE_CLONE = ("smoke", "siglip", "finetune", "lora")
PUBLISHED = {  # text tower; parameters of the audio tower, as upstream counts them
    "reclap": ("flan-t5-large", 72_448_151),
    "frozen-text": ("roberta-base", 31_339_783),
}
UNUSED = 1_083_456  # of upstream's count: the fixed front end
TAGGING = 527 * 527 + 527  # and layers that only tag sounds


def run(name, out, *settings):
    return loop.train(recipe.load(RECIPES / f"{name}.toml", [*STEPS, *settings]), out)


def losses(out):
    return [line["loss"] for line in read_log(out) if "loss" in line]


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda p: p.stem)
def test_recipe_is_read(path):
    plan = recipe.load(path)
    assert plan.run.steps > 0
    assert plan.model.source or plan.model.text


@pytest.mark.parametrize("name", PUBLISHED)
def test_models_have_the_published_sizes(name):
    preset, parameters = PUBLISHED[name]
    plan = recipe.load(RECIPES / f"{name}.toml")
    assert plan.model.text.startswith("hf:")
    assert plan.model.text.endswith(preset)
    config = plan.model.completed().config(TextConfig.preset(preset))
    model = core.Model(**config.core_arguments(with_text=False))
    sizes = [
        int(np.prod(shape))
        for parameter, shape, _ in model.parameters()
        if parameter.startswith("audio_branch.") and ".running_" not in parameter
    ]
    width = config.audio.embed * 8
    tagging = TAGGING + 527 * width * 6 + 527
    assert sum(sizes) + UNUSED + tagging == parameters


def test_recipe_of_reclap_is_the_published_one():
    plan = recipe.load(RECIPES / "reclap.toml")
    optim = plan.optim
    assert (optim.algorithm, optim.lr, optim.warmup, optim.schedule) == (
        "adam",
        5e-4,
        3200,
        "cosine",
    )
    assert (optim.beta1, optim.beta2, optim.eps) == (0.9, 0.999, 1e-8)
    assert (optim.weight_decay, optim.clip, optim.ema) == (0, 0, 0)
    assert (plan.data.batch, plan.data.original) == (512, 0.4)
    assert plan.run.steps == 30 * (2_300_000 // 512)
    assert plan.train.text == "trained"
    assert not plan.train.freeze
    assert plan.loss.initial_scale == 1 / 0.07


@pytest.mark.parametrize("name", OF_THE_CLONE)
def test_recipes_of_the_clone_run_as_they_stand(name, tmp_path):
    run(name, tmp_path)
    assert len(losses(tmp_path)) == 2
    assert read_log(tmp_path)[0]["eval"]["accuracy"] >= 0


def test_smoke_recipe_trains_both_towers(tmp_path):
    run("smoke", tmp_path, *BOTH, "data.batch=3")
    first, last = (
        model_folder.read_tensors(tmp_path / at / model_folder.TEXT)
        for at in ("step-0000000000", "last")
    )
    comment = (RECIPES / "smoke.toml").read_text().splitlines()[3]
    assert all(f"--set {setting}" in comment for setting in BOTH)
    changed = [n for n, x in first.items() if not np.array_equal(x, last[n])]
    assert any("layers.0." in n for n in changed)


def test_recipe_with_a_frozen_text_tower_runs_reduced(tmp_path):
    run("frozen-text", tmp_path, *SMALL, *DATA, "model.text=mini")
    assert np.isfinite(losses(tmp_path)).all()
    assert (tmp_path / "captions.store").exists()
    first, last = (reclap.load(tmp_path / at, threads=1) for at in ("step-0000000000", "last"))
    assert first.config.audio.fusion
    assert last.embed_audio(SOUNDS / "rain.ogg").shape == (1, 32)
    texts = [
        model_folder.read_tensors(m / model_folder.TEXT) for m in sorted(tmp_path.glob("step-*"))
    ]
    assert all(np.array_equal(x, texts[1][n]) for n, x in texts[0].items())


@pytest.mark.oracle
def test_recipe_of_reclap_runs_reduced(tmp_path):
    """With a small T5 and clips longer than the window, which feature fusion is for."""
    needs("torch", "oracle")
    needs("transformers", "oracle")
    from test_initial import text_model

    text_model(tmp_path / "t5", "t5")
    out = tmp_path / "out"
    run("reclap", out, *SMALL, *DATA, f"model.text={tmp_path / 't5'}")
    model = reclap.load(out / "last", threads=1)
    assert model.config.audio.fusion
    assert model.config.text.pool == "mean_padded"
    first = model_folder.read_tensors(out / "step-0000000000" / model_folder.MODEL)
    last = model_folder.read_tensors(out / "last" / model_folder.MODEL)
    local = "audio_branch.patch_embed.mel_conv2d.weight"
    assert not np.array_equal(first[local], last[local])
    assert {"loss", "retrieval"} <= set(read_log(out)[0]["eval"])
