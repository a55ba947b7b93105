"""Training of low-rank adapters by recipes."""

import logging
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import training
from folders import write_folder
from test_train import run_until
from training import read_run

import reclap
from reclap.checkpoints import adapter as adapters
from reclap.checkpoints import model_folder
from reclap.errors import FormatError
from reclap.training import loop
from reclap.training.lora import ADAPTER
from reclap.training.rates import matching
from reclap.training.recipe import load

ROOT = Path(__file__).resolve().parents[1]
QKV = "audio_branch.layers.*.attn.qkv"


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Return a manifest of ten tones in five groups."""
    return training.write_set(tmp_path_factory.mktemp("sounds"))


@pytest.fixture
def plan(sounds, small_folder):
    """Return a function that makes recipes of twelve steps, which train adapters."""

    def make(lora=None, **changes):
        sections = training.settings(sounds, small_folder, **changes)
        del sections["model"]
        stripes = {k: v for k, v in training.AUDIO.items() if k.startswith(("time_", "freq_"))}
        model = {"from": str(small_folder), "audio": stripes} | changes.get("model", {})
        part = {"targets": [QKV, "audio_projection"], "rank": 2, "alpha": 4.0} | (lora or {})
        return loop.Recipe.from_mapping(sections | {"model": model, "lora": part})

    return make


def tensors(folder):
    return {
        name: np.asarray(x)
        for file in (model_folder.MODEL, model_folder.TEXT)
        for name, x in model_folder.read_tensors(folder / file).items()
    }


def is_target(name):
    return name.endswith(("attn.qkv.weight", "audio_projection.0.weight", "_projection.2.weight"))


def test_adapters_learn_alone_and_checkpoints_hold_them(plan, small_folder, tmp_path, tones):
    result = loop.train(plan(), tmp_path)
    before, after = tensors(small_folder), tensors(result.folder)
    changed = {n for n in after if not np.array_equal(after[n], before[n])}
    assert changed
    assert changed <= {n for n in after if n.startswith("audio_") and is_target(n)}
    path = result.folder / ADAPTER
    adapter = adapters.load(path)
    base = reclap.load(small_folder)
    assert adapter.config == adapters.AdapterConfig(
        base.digest, "small", 2, 4.0, (QKV, "audio_projection")
    )
    names = {n for name in changed for n in adapters.names_of(name)}
    assert set(adapter.tensors) == names
    beside, merged = reclap.load(small_folder, adapter=path), reclap.load(result.folder)
    assert beside.digest == merged.digest
    np.testing.assert_allclose(beside.embed_audio(tones), merged.embed_audio(tones), atol=1e-5)
    assert path.stat().st_size < (result.folder / model_folder.MODEL).stat().st_size
    state = model_folder.read_tensors(result.folder / "state.safetensors")
    assert set(state) == {f"{kind}.{name}" for kind in ("values", "m", "v") for name in names}


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("text", ["frozen", "trained"])
def test_resumed_run_equals_uninterrupted_run(plan, tmp_path, monkeypatch, ema, text):
    lora = {"train": ["logit_scale"]}
    if text == "trained":
        lora["targets"] = [QKV, "text_branch.layers.1"]
    recipe = plan(lora, optim={"ema": ema}, train={"text": text})
    loop.train(recipe, tmp_path / "whole")
    run_until(recipe, tmp_path / "out", 7, monkeypatch)
    loop.train(recipe, tmp_path / "out", resume=True)
    assert read_run(tmp_path / "out") == read_run(tmp_path / "whole")
    assert read_adapter(tmp_path / "out") == read_adapter(tmp_path / "whole")
    learnt = adapters.load(tmp_path / "out/last" / ADAPTER).tensors
    assert any(n.startswith("text_branch.layers.1.") for n in learnt) == (text == "trained")
    assert "logit_scale" in learnt


def read_adapter(out):
    return {
        n: np.asarray(x).tobytes() for n, x in adapters.load(out / "last" / ADAPTER).tensors.items()
    }


def test_evaluation_is_that_of_the_saved_model(plan, tmp_path):
    recipe = plan(run={"steps": 2}, eval={"every": 2, "captions": True})
    loop.train(recipe, tmp_path / "a")
    merged = plan(model={"from": str(tmp_path / "a/last")}, run={"steps": 1, "save_first": True},
                  eval={"every": 1, "captions": True})  # fmt: skip
    loop.train(merged, tmp_path / "b")
    first, second = (
        [line["eval"] for line in training.read_log(tmp_path / out) if "eval" in line]
        for out in "ab"
    )
    assert first[-1]["loss"] == pytest.approx(second[0]["loss"], rel=1e-5)


def test_model_with_feature_fusion_learns_adapters(plan, fused_folder, tmp_path, tones):
    recipe = plan({"targets": ["*"], "rank": 1}, model={"from": str(fused_folder)})
    result = loop.train(recipe, tmp_path)
    before, after = tensors(fused_folder), tensors(result.folder)
    changed = {n for n in after if not np.array_equal(after[n], before[n])}
    adapter = adapters.load(result.folder / ADAPTER)
    assert changed == {n for n in after if adapters.names_of(n)[0] in adapter.tensors}
    beside = reclap.load(fused_folder, adapter=result.folder / ADAPTER)
    want = reclap.load(result.folder)
    np.testing.assert_array_equal(beside.embed_audio(tones), want.embed_audio(tones))


def test_pieces_and_checkpointing_change_nothing(plan, tmp_path):
    drops = {"text": "trained", "text_dropout": 0.1}
    targets = {"targets": [QKV, "text_branch.layers.*.mlp"]}
    found = {}
    for name, run in (
        ("whole", {}),
        ("pieces", {"piece": 2}),
        ("checkpointing", {"checkpointing": True}),
    ):
        out = tmp_path / name
        loop.train(plan(targets, train=drops, run=run | {"steps": 4}), out)
        found[name] = adapters.load(out / "last" / ADAPTER).tensors
    for name, x in found["whole"].items():
        np.testing.assert_allclose(found["pieces"][name], x, rtol=1e-3, atol=2e-5, err_msg=name)
        np.testing.assert_array_equal(found["checkpointing"][name], x, name)


def test_first_step_does_not_warn_of_adapters(plan, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        loop.train(plan(run={"steps": 1}), tmp_path)
    assert "no gradient" not in caplog.text


def test_running_statistics_stay(plan, small_folder, tmp_path):
    before = tensors(small_folder)
    result = loop.train(plan({"targets": ["*"]}, train={"text": "trained"}), tmp_path)
    after = tensors(result.folder)
    for name in before:
        assert not name.split(".")[-1].startswith("running") or np.array_equal(
            before[name], after[name]
        ), name
    learnt = adapters.load(result.folder / ADAPTER).tensors
    assert all(".lora_" in name for name in learnt)


@pytest.mark.parametrize(
    ("lora", "changes", "message"),
    [
        (
            {"targets": ["audio_branch.layer.*.qkv"]},
            {},
            r"lora\.targets: '.*' matches no linear layer; near",
        ),
        ({"targets": ["audio_branch.norm"]}, {}, r"lora\.targets: 'audio_branch\.norm' matches no"),
        ({"targets": ["text_branch.layers.0"]}, {}, "adapters in it need train.text = 'trained'"),
        ({"train": ["logit"]}, {}, r"lora\.train: 'logit' matches no parameter; near: logit_scale"),
        ({"targets": [], "train": ["logit_scale"]}, {}, "train: needs targets"),
        ({"rank": 17}, {}, r"lora: adapter of .*: rank: expected 1 to 16, got 17"),
        ({"rank": 0}, {}, r"rank"),
        ({"alpha": 0}, {}, r"alpha"),
        ({}, {"model": {"audio_head": "linear"}}, r"changes its sizes, heads or front end"),
    ],
)
def test_wrong_settings_are_named(plan, tmp_path, lora, changes, message):
    with pytest.raises(FormatError, match=message):
        loop.train(plan(lora, **changes), tmp_path)


def test_patterns_are_of_names_or_their_beginnings():
    names = ["a.0.mlp.fc1", "a.0.mlp.fc2", "a.0.mlp2", "a.1.attn.qkv"]
    for pattern, want in (
        ("a.*.mlp", [0, 1]),
        ("a.0", [0, 1, 2]),
        ("*.qkv", [3]),
        ("a.0.mlp*", [0, 1, 2]),
        ("a.0.mlp2", [2]),
    ):
        assert matching(names, pattern, "x") == want


def test_adapters_need_a_whole_model(sounds, small_folder, tmp_path):
    part = {"targets": [QKV], "rank": 2}
    with pytest.raises(FormatError, match=r"adapters belong to a model; \[model\] needs from"):
        loop.train(training.recipe(sounds, small_folder, lora=part), tmp_path / "a")


def test_text_of_another_model_is_refused(plan, tmp_path):
    other = write_folder(tmp_path / "other", seed=3)
    with pytest.raises(FormatError, match=r"needs from, and no other text"):
        loop.train(plan(model={"text": str(other)}), tmp_path / "out")


def test_example_recipe_trains(tmp_path):
    recipe = load(ROOT / "recipes/lora.toml", ["run.steps=1", "eval.every=0"])
    result = loop.train(recipe, tmp_path)
    learnt = adapters.load(result.folder / ADAPTER)
    assert learnt.config.base == reclap.load().digest
    assert len(learnt.tensors) % 2 == 1  # with the temperature


def test_adapters_belong_to_the_run(plan, tmp_path):
    loop.train(plan(), tmp_path)
    with pytest.raises(FormatError, match=r"a run of another recipe\. lora\.rank: 2, now 1"):
        loop.train(plan({"rank": 1}, run={"steps": 20}), tmp_path, resume=True)


KILLS = 10


@pytest.mark.slow
def test_run_killed_at_random_equals_the_uninterrupted_one(plan, tmp_path, rng):
    recipe = plan(
        {"targets": [QKV, "text_branch.layers.*.mlp"], "train": ["logit_scale"]},
        run={"steps": 40 * KILLS, "save_every": 5},
        optim={"ema": 0.9},
        train={"text": "trained", "text_dropout": 0.1},
    )
    recipe.save(tmp_path / "recipe.json")
    out = tmp_path / "out"
    words = ["-m", "reclap", "train", str(tmp_path / "recipe.json"), "--out", str(out), "--resume"]
    log_file, seen = out / "log.jsonl", []
    for _ in range(KILLS):
        until = lines_of(log_file) + int(rng.integers(1, 30))
        with subprocess.Popen([sys.executable, *words]) as process:  # noqa: S603
            while process.poll() is None and lines_of(log_file) < until:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.02))
            process.kill()
        for path in out.glob("last"):
            reclap.load(path, threads=1)
            seen.append(path.readlink().name)
    assert len(set(seen)) > KILLS // 2
    subprocess.run([sys.executable, *words], check=True)  # noqa: S603
    loop.train(recipe, tmp_path / "whole")
    assert read_run(out) == read_run(tmp_path / "whole")
    assert read_adapter(out) == read_adapter(tmp_path / "whole")


def lines_of(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0
