"""Training: it learns, and whatever ends a run, the run can go on as if nothing had."""

import errno
import hashlib
import json
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import training
from training import read_log, read_run

import reclap
from reclap.checkpoints import model_folder
from reclap.config import ClapConfig
from reclap.errors import FormatError
from reclap.io import manifest
from reclap.runtime import libraries
from reclap.runtime.libraries import core
from reclap.store import Store
from reclap.training import loop, recipe, running
from reclap.training.data import Batches
from reclap.training.learner import Learner, initial_values
from reclap.training.recipe import Optim
from reclap.training.schedule import learning_rate
from reclap.training.text_encoder import TextEncoder

KILLS = 20


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Return a manifest of ten tones in five groups."""
    return training.write_set(tmp_path_factory.mktemp("sounds"))


@pytest.fixture
def plan(sounds, small_folder):
    """Return a function that makes recipes of twelve steps."""
    return lambda **changes: training.recipe(sounds, small_folder, **changes)


@pytest.fixture(scope="module")
def whole(sounds, small_folder, tmp_path_factory):
    """Return the output of that recipe, run without interruption."""
    out = tmp_path_factory.mktemp("whole") / "out"
    loop.train(training.recipe(sounds, small_folder), out)
    return out


def run_until(plan, out, step, monkeypatch, *, resume=False):
    """Train and raise an exception instead of taking a step, counted from 0."""
    original = Learner.step

    def stopped(self, number, *batch, **more):
        if number == step:
            raise KeyboardInterrupt
        return original(self, number, *batch, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", stopped)
        with pytest.raises(KeyboardInterrupt):
            loop.train(plan, out, resume=resume)


# ---- Learning --------------------------------------------------------------------------------


def test_one_batch_is_learnt_by_heart(plan, tmp_path):
    still = training.AUDIO | {"drop_path": 0.0, "time_stripes": 0, "freq_stripes": 0}
    quiet = plan(
        model={"audio": still},
        data={"batch": 10, "original": 1.0},
        augment={"shift": False, "tilt_db": 0.0, "gain_db": 0.0, "noise": 0.0},
        optim={"lr": 3e-3},
        run={"steps": 150, "save_every": 150},
    )
    result = loop.train(quiet, tmp_path / "out")
    losses = [line["loss"] for line in read_log(tmp_path / "out")]
    assert losses[0] > 2  # ln 10 = 2.3
    assert result.loss < 0.2


def test_result_is_a_model_folder(whole):
    model = reclap.load(whole / "last", threads=1)
    assert model.embed_text(["a horn"]).shape == (1, 20)
    assert model.info()


def test_log_has_a_line_a_step(whole):
    lines = read_log(whole)
    assert [line["step"] for line in lines] == list(range(1, 13))
    keys = {
        "step",
        "epoch",
        "loss",
        "lr",
        "grad_norm",
        "logit_scale",
        "clips_per_s",
        "seconds",
        "memory_mb",
    }
    assert all(line.keys() == keys for line in lines)
    assert all(math.isfinite(x) for line in lines for x in line.values())
    assert lines[0]["logit_scale"] == pytest.approx(1 / 0.07)
    assert [line["epoch"] for line in lines] == [s // 2 for s in range(12)]


def test_old_checkpoints_are_removed(plan, tmp_path):
    loop.train(plan(run={"save_every": 2, "keep": 3}), tmp_path)
    kept = sorted(p.name for p in tmp_path.glob("step-*"))
    assert kept == [f"step-{s:010d}" for s in (8, 10, 12)]
    assert (tmp_path / "last").readlink().name == kept[-1]


@pytest.mark.parametrize(
    ("step", "rate"), [(0, 0.25), (3, 1.0), (4, 1.0), (8, 0.5), (10, 0.5 - 0.5 * 0.5**0.5)]
)
def test_learning_rate_rises_then_falls_as_a_cosine(step, rate):
    assert learning_rate(step, 12, Optim(lr=1.0, warmup=4)) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("cosine", [0.5, 1, 1, 0.75, 0.25]),
        ("linear", [0.5, 1, 1, 2 / 3, 1 / 3]),
        ("constant", [0.5, 1, 1, 1, 1]),
    ],
)
def test_schedule_is_chosen(plan, tmp_path, schedule, rates):
    optim = {"lr": 1e-3, "warmup": 2, "schedule": schedule}
    loop.train(plan(optim=optim, run={"steps": 5}), tmp_path)
    found = [line["lr"] for line in read_log(tmp_path)]
    assert found == pytest.approx([1e-3 * rate for rate in rates])


def test_adam_and_adamw_differ_by_their_decay_alone(plan, tmp_path):
    runs = {}
    for algorithm in ("adam", "adamw"):
        for decay in (0.0, 0.5):
            optim = {"algorithm": algorithm, "weight_decay": decay}
            out = tmp_path / f"{algorithm}{decay}"
            loop.train(plan(optim=optim, run={"steps": 2}), out)
            runs[algorithm, decay] = read_run(out)
    assert runs["adam", 0.0] == runs["adamw", 0.0]
    assert len({tuple(run.values()) for run in runs.values()}) == 3


def test_run_begun_before_the_optimizer_could_be_chosen_goes_on(plan, whole, tmp_path):
    out = shutil.copytree(whole, tmp_path / "out", symlinks=True)
    shutil.rmtree(out / "step-0000000012")
    for path in out.glob("step-*/state.json"):
        state = json.loads(path.read_text())
        del state["recipe"]["optim"]["algorithm"], state["recipe"]["optim"]["schedule"]
        path.write_text(json.dumps(state))
    for changed in ("algorithm", "schedule"):
        other = {"algorithm": "adam", "schedule": "linear"}[changed]
        with pytest.raises(FormatError, match=rf"optim\.{changed}: '\w+', now '{other}'"):
            loop.train(plan(optim={changed: other}), out, resume=True)
    loop.train(plan(), out, resume=True)
    assert read_run(out) == read_run(whole)


def test_initial_values_have_the_promised_spread():
    parameters = core.Model(**ClapConfig().core_arguments(with_text=False)).parameters()
    names = [name for name, _, _ in parameters]
    values = dict(zip(names, initial_values(parameters, 1, "xavier_uniform"), strict=True))
    qkv = values["audio_branch.layers.3.blocks.1.attn.qkv.weight"]
    bound = math.sqrt(6 / (768 + 3 * 768))
    assert np.abs(qkv).max() == pytest.approx(bound, rel=1e-3)
    patch = values["audio_branch.patch_embed.proj.weight"]
    assert 0.23 < np.abs(patch).max() <= 0.25  # 1 / sqrt(4 * 4)
    table = values["audio_branch.layers.0.blocks.0.attn.relative_position_bias_table"]
    assert table.std() == pytest.approx(0.02, rel=0.1)
    assert (values["audio_branch.bn0.running_var"] == 1).all()
    assert (values["audio_branch.bn0.running_mean"] == 0).all()
    assert (values["audio_branch.norm.weight"] == 1).all()
    assert values["logit_scale"] == pytest.approx(math.log(1 / 0.07))
    normal = dict(zip(values, initial_values(parameters, 1, "trunc_normal"), strict=True))
    assert normal["audio_projection.0.weight"].std() == pytest.approx(0.02, rel=0.01)


def test_fan_in_counts_all_that_a_value_sums():
    """Channels, too."""
    name = "audio_branch.patch_embed.proj."
    shapes = [(f"{name}weight", (64, 2, 4, 4), 0), (f"{name}bias", (64,), 0)]
    for values in initial_values(shapes, 1, "xavier_uniform"):
        assert 0.8 * 32**-0.5 < np.abs(values).max() <= 32**-0.5


def test_convolutions_begin_as_upstream():
    """Those of Cnn14 by all taps on both sides, those of fusion as torch's."""
    at = "audio_branch.patch_embed."
    shapes = [
        ("audio_branch.conv_block2.conv1.weight", (128, 3, 3, 64), 0),
        (f"{at}mel_conv2d.weight", (96, 1, 4, 12), 0),
        (f"{at}mel_conv2d.bias", (96,), 1),
        (f"{at}fusion_model.local_att.0.weight", (24, 96, 1, 1), 0),
        (f"{at}fusion_model.local_att.1.weight", (24,), 1),
        (f"{at}fusion_model.local_att.1.bias", (24,), 1),
        (f"{at}norm.bias", (96,), 1),
    ]
    cnn, wide, bias, squeeze, scale, *zeros = initial_values(shapes, 1, "xavier_uniform")
    assert np.abs(cnn).max() == pytest.approx(math.sqrt(6 / (9 * (128 + 64))), rel=1e-3)
    for values, fan in ((wide, 48), (bias, 48), (squeeze, 96)):
        assert 0.8 * fan**-0.5 < np.abs(values).max() <= fan**-0.5
    assert (scale == 1).all()
    assert not any(x.any() for x in zeros)


def test_evaluation_leaves_training_alone(plan, whole, tmp_path):
    result = loop.train(plan(eval={"every": 3}), tmp_path)
    assert read_run(tmp_path) == read_run(whole)
    found = [line for line in read_log(tmp_path) if "eval" in line]
    assert [line["step"] for line in found] == [0, 3, 6, 9, 12]
    assert found[-1]["eval"]["accuracy"] == result.accuracy
    assert found[-1]["eval"]["labels"].keys() == set(training.GROUPS)
    assert found[-1]["eval"]["clips"] == 10


def test_evaluation_agrees_with_the_saved_model(plan, tmp_path, sounds):
    prompts = {name: [f"the {name}", f"a {name} again"] for name in training.GROUPS}
    result = loop.train(plan(eval={"every": 12, "prompts": prompts}), tmp_path)
    model = reclap.load(tmp_path / "last", threads=1)
    files = sorted(sounds.parent.glob("*.wav"))
    named = model.classify(files, prompts)
    right = [found.label == path.name[:-5] for found, path in zip(named, files, strict=True)]
    assert result.accuracy == pytest.approx(np.mean(right))


def test_mean_of_the_weights_is_what_is_saved(plan, whole, tmp_path):
    loop.train(plan(optim={"ema": 0.9}), tmp_path)
    state = model_folder.read_tensors(tmp_path / "last" / "state.safetensors")
    plain = model_folder.read_tensors(whole / "last" / "state.safetensors")
    assert all(np.array_equal(state[name], plain[name]) for name in plain)
    mean = model_folder.read_tensors(tmp_path / "last" / model_folder.MODEL)
    name = "audio_projection.0.weight"
    assert not np.array_equal(mean[name], state[f"values.{name}"])
    assert np.abs(mean[name] - state[f"values.{name}"]).max() < 0.05


def test_running_mean_follows_its_formula(plan, tmp_path):
    """min(ema, (1 + step) / (10 + step)): the first steps count for more."""
    loop.train(plan(optim={"ema": 0.5}, run={"save_every": 1, "keep": 12}), tmp_path)
    name = "audio_projection.0.weight"
    folders = sorted(tmp_path.glob("step-*"))
    values = [
        model_folder.read_tensors(folder / "state.safetensors")[f"values.{name}"]
        for folder in folders
    ]
    means = [model_folder.read_tensors(folder / model_folder.MODEL)[name] for folder in folders]
    for step in range(1, 12):
        decay = min(0.5, (1 + step) / (10 + step))  # 0.5 from step 8 on
        expected = decay * means[step - 1] + (1 - decay) * values[step]
        np.testing.assert_allclose(means[step], expected, rtol=1e-5, atol=1e-7)


def test_checkpoint_before_the_first_step(plan, tmp_path):
    loop.train(plan(run={"save_first": True, "keep": 9}, eval={"every": 12}), tmp_path)
    assert [int(p.name[5:]) for p in sorted(tmp_path.glob("step-*"))] == [0, 4, 8, 12]
    state = model_folder.read_tensors(tmp_path / "step-0000000000" / "state.safetensors")
    assert all((x == 0).all() for name, x in state.items() if name.startswith(("m.", "v.")))
    lines = read_log(tmp_path)
    assert (lines[0]["step"], lines[0]["eval"]["clips"]) == (0, 10)
    for folder in sorted(tmp_path.glob("step-*"))[1:]:
        shutil.rmtree(folder)
    loop.train(plan(run={"save_first": True, "keep": 9}, eval={"every": 12}), tmp_path, resume=True)
    assert [line["step"] for line in read_log(tmp_path)] == [0, *range(1, 13), 12]


def test_captions_beyond_the_known_ones_are_embedded_when_they_come(plan, tmp_path, monkeypatch):
    mixed = {"batch": 6, "mixtures": 2, "per_group": 1}
    asked = []
    original = TextEncoder.features

    def features(encoder, texts):
        asked.append(len(texts))
        return original(encoder, texts)

    monkeypatch.setattr(TextEncoder, "features", features)
    loop.train(plan(data=mixed, run={"steps": 3}), tmp_path)
    assert asked[1:] == [2, 2, 2]  # those of a step together, after the known ones
    assert len(Store(tmp_path / "captions.store")) == 40


@pytest.mark.slow
def test_smoke_recipe_names_the_sounds_of_the_clone(tmp_path):
    root = Path(__file__).resolve().parents[1]
    result = loop.train(recipe.load(root / "recipes" / "smoke.toml"), tmp_path)
    assert result.accuracy >= 0.9
    model = reclap.load(result.folder, threads=1)
    (found,) = model.classify(root / "examples" / "sounds" / "rooster.ogg", ["rooster", "rain"])
    assert found.label == "rooster"


# ---- Going on --------------------------------------------------------------------------------


@pytest.mark.parametrize(("ema", "precision"), [(0, "float32"), (0.9, "float32"), (0, "bfloat16")])
def test_resumed_run_equals_uninterrupted_run(plan, tmp_path, monkeypatch, ema, precision):
    if precision != "float32" and "bf16" not in " ".join(libraries.describe()["cpu"]):
        pytest.skip("no bfloat16 products on this processor")
    averaged = plan(optim={"ema": ema}, run={"precision": precision})
    loop.train(averaged, tmp_path / "whole")
    run_until(averaged, tmp_path / "out", 7, monkeypatch)
    assert len(read_log(tmp_path / "out")) == 7
    result = loop.train(averaged, tmp_path / "out", resume=True)
    assert result.step == 12
    assert read_run(tmp_path / "out") == read_run(tmp_path / "whole")


def test_command_tells_a_finished_run_in_words(command, plan, tmp_path):
    for said in (r"12 steps, loss \d\.\d{4}\n", "12 steps, finished before; nothing to do\n"):
        with command(12, 12, stdout=subprocess.PIPE, text=True) as process:
            shown, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert re.fullmatch(rf".*last: {said}", shown)


def test_log_is_cut_to_the_resumed_step(plan, whole, tmp_path, monkeypatch):
    run_until(plan(), tmp_path, 7, monkeypatch)
    with (tmp_path / "log.jsonl").open("a") as f:
        f.write('{"step": 8, "lo')  # a kill in the middle of a line
    loop.train(plan(), tmp_path, resume=True)
    assert [line["step"] for line in read_log(tmp_path)] == list(range(1, 13))
    assert [x["loss"] for x in read_log(tmp_path)] == [x["loss"] for x in read_log(whole)]


def test_resuming_a_finished_run_does_nothing(plan, tmp_path):
    loop.train(plan(), tmp_path)
    before = read_run(tmp_path)
    result = loop.train(plan(), tmp_path, resume=True)
    assert (result.step, result.interrupted) == (12, False)
    assert (result.loss, result.accuracy) == (None, None)
    assert read_run(tmp_path) == before


def test_run_is_resumed_by_the_recipe_that_it_holds(plan, sounds, tmp_path, monkeypatch):
    monkeypatch.chdir(sounds.parent)
    recipes = plan(data={"manifest": "manifest.jsonl"}, eval={"prompts": {"horn": ["a", "b"]}})
    run_until(recipes, tmp_path / "out", 7, monkeypatch)
    monkeypatch.chdir(tmp_path)
    read = recipe.load("out/recipe.json")
    assert read.data.manifest == str(sounds)
    assert read.eval == recipes.eval
    assert loop.train(read, "out", resume=True).step == 12


def test_resume_without_a_checkpoint_begins(plan, whole, tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n')
    (tmp_path / ".step-0000000008.tmp").mkdir()
    loop.train(plan(), tmp_path, resume=True)
    assert read_run(tmp_path) == read_run(whole)
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim": {"lr": 5e-4}}, r"another recipe\. optim\.lr: 0\.001, now 0\.0005"),
        ({"run": {"seed": 9}}, r"run\.seed: 0, now 9"),
        ({"augment": {"tilt_db": 1.0}}, r"augment\.tilt_db"),
        ({"model": {"dim": 16}}, r"model\.dim: 20, now 16"),
    ],
)
def test_another_recipe_is_refused_by_its_differences(plan, whole, changes, message):
    with pytest.raises(FormatError, match=message):
        loop.train(plan(**changes), whole, resume=True)


def rates(out):
    return [line["lr"] for line in read_log(out)]


LONGER = {"run": {"steps": 18}, "optim": {"lr": 4e-4}}


def test_finished_run_is_extended_by_a_schedule_of_its_own(plan, whole, tmp_path, monkeypatch):
    once, twice = (shutil.copytree(whole, tmp_path / n, symlinks=True) for n in ("a", "b"))
    assert loop.train(plan(**LONGER), once, resume=True).step == 18
    optim = plan(**LONGER).optim
    assert rates(once) == rates(whole) + [learning_rate(k, 6, optim) for k in range(6)]
    run_until(plan(**LONGER), twice, 17, monkeypatch, resume=True)  # saved at step 16
    loop.train(plan(**LONGER), twice, resume=True)
    assert read_run(twice) == read_run(once)
    assert rates(twice) == rates(once)
    again = plan(run={"steps": 20}, optim={"lr": 1e-4, "warmup": 0, "ema": 0.9})
    loop.train(again, once, resume=True)
    assert rates(once)[18:] == pytest.approx([1e-4, 0.5e-4])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run": {"steps": 8}}, r"run\.steps: 12, now 8"),
        ({"run": {"steps": 18, "seed": 1}}, r"run\.seed: 0, now 1"),
        ({"run": {"steps": 18}, "augment": {"gain_db": 9.0}}, r"augment\.gain_db"),
    ],
)
def test_extension_changes_nothing_else(plan, whole, changes, message):
    with pytest.raises(FormatError, match=message):
        loop.train(plan(**changes), whole, resume=True)


def test_unfinished_run_is_not_extended(plan, tmp_path, monkeypatch):
    run_until(plan(), tmp_path, 7, monkeypatch)
    with pytest.raises(FormatError, match=r"Once a run has finished, run\.steps may grow"):
        loop.train(plan(run={"steps": 18}), tmp_path, resume=True)


def test_state_of_an_earlier_version_is_continued(plan, whole, tmp_path, sounds):
    """Its digests were those of contents one after the other, and its schedule began at 0."""
    out = shutil.copytree(whole, tmp_path / "out", symlinks=True)
    shutil.rmtree(out / "step-0000000012")
    for folder in out.glob("step-*"):
        state = json.loads((folder / "state.json").read_text())
        del state["start"], state["version"]
        tower = b"".join(
            (folder / n).read_bytes() for n in (model_folder.TEXT, model_folder.TOKENIZER)
        )
        state["recipe"]["model"]["text"] = hashlib.sha256(tower).hexdigest()
        manifest_digest = hashlib.sha256(sounds.read_bytes()).hexdigest()
        state["recipe"]["data"]["manifest"] = manifest_digest
        (folder / "state.json").write_text(json.dumps(state))
    loop.train(plan(), out, resume=True)
    assert read_run(out) == read_run(whole)


def test_another_manifest_is_refused(whole, small_folder, tmp_path):
    other = training.write_set(tmp_path)
    other.write_text(other.read_text().replace("The horn", "A horn", 1))
    with pytest.raises(FormatError, match=r"data\.manifest"):
        loop.train(training.recipe(other, small_folder), whole, resume=True)


def test_run_that_heard_whole_files_is_not_continued_on_excerpts(small_folder, tmp_path):
    """States of before starts counted do not say that there are excerpts."""
    sounds = training.write_set(tmp_path / "sounds")
    rows = [json.loads(line) for line in sounds.read_text().splitlines()]
    sounds.write_text("".join(f"{json.dumps(row | {'start': 0.1})}\n" for row in rows))
    plan, out = training.recipe(sounds, small_folder), tmp_path / "out"
    loop.train(plan, out)
    for path in out.glob("step-*/state.json"):
        state = json.loads(path.read_text())
        del state["recipe"]["data"]["excerpts"]
        path.write_text(json.dumps(state))
    with pytest.raises(FormatError, match=r"data\.excerpts"):
        loop.train(plan, out, resume=True)


def test_harmless_settings_may_change(plan, whole):
    free = {"data": {"threads": 1, "cache_mb": 1}, "run": {"keep": 9}, "eval": {"every": 1}}
    assert loop.train(plan(**free), whole, resume=True).step == 12


# ---- Refusals and failures -------------------------------------------------------------------


def test_unwritable_output_is_named(plan, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file"):
        loop.train(plan(), tmp_path / "file")
    with pytest.raises(OSError, match="out"):
        loop.train(plan(), tmp_path / "file" / "out")


def test_no_room_for_a_checkpoint_leaves_the_last_one(plan, whole, tmp_path, monkeypatch):
    original, calls = model_folder.write_tensors, []

    def full(path, tensors):
        calls.append(path)
        original(path, tensors)
        if len(calls) == 2:  # the states of steps 4 and 8
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(model_folder, "write_tensors", full)
        with pytest.raises(OSError, match="No space left"):
            loop.train(plan(), tmp_path)
    assert json.loads((tmp_path / "last" / "state.json").read_text())["step"] == 4
    assert not list(tmp_path.glob(".*.tmp"))
    reclap.load(tmp_path / "last", threads=1)
    loop.train(plan(), tmp_path, resume=True)
    assert read_run(tmp_path) == read_run(whole)


def test_loss_that_is_not_finite_ends_the_run(plan, tmp_path):
    with pytest.raises(ValueError, match="not finite"):
        loop.train(plan(optim={"lr": 1e30, "clip": 0.0}), tmp_path)


def test_missing_sounds_are_told_before_anything_is_written(small_folder, tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"path": "none.wav", "caption": "A", "group": "g"}\n')
    with pytest.raises(FileNotFoundError, match="1 of 1 sound files"):
        loop.train(training.recipe(path, small_folder), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"batch": 1}, r"data\.batch is 1: .* expected at least 2"),
        ({"batch": 14, "mixtures": 3}, r"data\.batch is 14, 11 of them unmixed, for 10 rows"),
    ],
)
def test_batch_without_true_wrong_pairs_is_refused(plan, tmp_path, data, message):
    with pytest.raises(FormatError, match=message):
        loop.train(plan(data=data), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"caption": "A bell.", "rewrites": []},
            r"jsonl: 'A bell\.' is the only caption of 10 rows",
        ),
        ({"group": "bell"}, r"data\.group: .*jsonl: 'bell' is the only group, whose sounds"),
    ],
)
def test_one_label_is_refused(small_folder, tmp_path, change, message):
    sounds = training.write_set(tmp_path / "sounds")
    rows = [json.loads(line) | change for line in sounds.read_text().splitlines()]
    sounds.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(FormatError, match=message):
        loop.train(training.recipe(sounds, small_folder), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unreadable_sound_names_its_line_and_leaves_the_steps_before(
    small_folder, tmp_path, monkeypatch
):
    path = training.write_set(tmp_path)
    good = (tmp_path / "horn0.wav").read_bytes()
    (tmp_path / "horn0.wav").write_bytes(good[:30])
    plan = training.recipe(path, small_folder, data={"batch": 2, "threads": 1})
    first = next(s for s in range(9) if 6 in _rows_of(plan, s))
    assert first > 0
    with pytest.raises(FormatError, match=r"manifest\.jsonl:7: .*horn0\.wav"):
        loop.train(plan, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "last" / "state.json").read_text())["step"] == first
    (tmp_path / "horn0.wav").write_bytes(good)
    loop.train(plan, tmp_path / "out", resume=True)
    loop.train(plan, tmp_path / "whole")
    assert read_run(tmp_path / "out") == read_run(tmp_path / "whole")


@pytest.mark.parametrize("done", [0, 6])
def test_signal_ends_the_wait_for_a_batch(plan, whole, tmp_path, monkeypatch, caplog, done):
    """With all steps done in a checkpoint, and without the step that the batch was for."""
    steps, made, example, step = [], [], Batches._example, Learner.step

    class Signals(running.Signals):
        def __init__(self):
            super().__init__()
            made.append(self)

    def signalling(self, number, item, rows):
        if number == done and item == 0:
            while len(steps) < done or not made[0]._is_waiting:
                time.sleep(0.001)
            os.kill(os.getpid(), signal.SIGINT)
            while not made[0].caught:
                time.sleep(0.001)
        return example(self, number, item, rows)

    with monkeypatch.context() as patch:
        patch.setattr(running, "Signals", Signals)
        patch.setattr(Batches, "_example", signalling)
        patch.setattr(Learner, "step", lambda *a: (step(*a), steps.append(1))[0])
        result = loop.train(plan(), tmp_path / "out")
    assert (result.step, result.interrupted, len(steps)) == (done, True, done)
    assert json.loads((result.folder / "state.json").read_text())["step"] == done
    assert f"stopped by SIGINT after step {done} of 12" in caplog.text
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    loop.train(plan(), tmp_path / "out", resume=True)
    assert read_run(tmp_path / "out") == read_run(whole)


def _rows_of(plan, step):
    rows = manifest.read(plan.data.manifest)
    front = plan.model.completed().config(ClapConfig().text).front
    batches = Batches(rows, plan.data, plan.augment, front, plan.run.seed)
    return [row for item in batches.plan(step) for row in item]


def test_evaluation_needs_its_column(plan, tmp_path):
    with pytest.raises(FormatError, match="no column label to evaluate by"):
        loop.train(plan(eval={"every": 1, "label": "label"}), tmp_path / "out")


# ---- Another process -------------------------------------------------------------------------


@pytest.fixture
def command(sounds, small_folder, tmp_path):
    """Return a function that starts ``reclap train --resume`` into an output folder."""

    def start(steps, save_every, **how):
        run = {"steps": steps, "save_every": save_every}
        sections = training.settings(sounds, small_folder, run=run)
        path = tmp_path / "recipe.toml"
        path.write_text(training.to_toml(sections))
        words = ["-m", "reclap", "train", str(path), "--out", str(tmp_path / "out"), "--resume"]
        return subprocess.Popen([sys.executable, *words], **how)  # noqa: S603

    return start


def wait_for_log(process, path, lines=1):
    """Wait until a log has so many lines, or its process has ended."""
    for _ in range(12_000):
        if process.poll() is not None or (
            path.exists() and path.read_bytes().count(b"\n") >= lines
        ):
            return
        time.sleep(0.01)
    raise AssertionError("no step in two minutes")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_leaves_a_checkpoint_of_the_last_step(command, plan, tmp_path, number):
    out = tmp_path / "out"
    with command(2000, 1999, stderr=subprocess.PIPE, text=True) as process:
        wait_for_log(process, out / "log.jsonl")
        process.send_signal(number)
        _, message = process.communicate(timeout=60)
    assert process.returncode == 130, message
    assert "stopped after step" in message
    step = json.loads((out / "last" / "state.json").read_text())["step"]
    assert step == read_log(out)[-1]["step"]
    assert 0 < step < 2000
    reclap.load(out / "last", threads=1)


def test_full_disk_is_one_line_and_no_checkpoint(command, tmp_path):
    def limit():  # in place of a full disk: no file may grow beyond this
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    with command(5, 5, stderr=subprocess.PIPE, text=True, preexec_fn=limit) as process:
        _, message = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "File too large" in message
    assert "Traceback" not in message
    assert not (tmp_path / "out" / "last").exists()


@pytest.mark.slow
def test_run_killed_twenty_times_equals_the_uninterrupted_one(command, plan, tmp_path, rng):
    steps, save_every, out = 500, 10, tmp_path / "out"
    seen = []
    for kill in range(KILLS):
        log = out / "log.jsonl"
        with command(steps, save_every) as process:
            if kill % 4:  # at any step up to the one after the next but one checkpoint
                wait_for_log(process, log, (seen or [0])[-1] + int(rng.integers(1, 25)))
                time.sleep(rng.uniform(0, 0.02))
            else:  # before the first step, as the case may be
                time.sleep(rng.uniform(0, 0.6))
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        if (out / "last").exists():
            reclap.load(out / "last", threads=1)
            seen.append(json.loads((out / "last" / "state.json").read_text())["step"])
    assert seen == sorted(seen)
    assert len(set(seen)) > 5
    with command(steps, save_every) as process:
        assert process.wait(600) == 0
    loop.train(plan(run={"steps": steps, "save_every": steps}), tmp_path / "whole")
    assert read_run(out) == read_run(tmp_path / "whole")
    assert [line["step"] for line in read_log(out)] == list(range(1, steps + 1))
    assert [x["loss"] for x in read_log(out)] == [x["loss"] for x in read_log(tmp_path / "whole")]


@pytest.mark.slow
def test_recipe_of_fine_tuning_begins_with_what_the_model_knows_and_ends_no_worse(tmp_path):
    root = Path(__file__).resolve().parents[1]
    plan = recipe.load(root / "recipes" / "finetune.toml", ["run.steps=40"])
    result = loop.train(plan, tmp_path)
    exams = [line["eval"] for line in read_log(tmp_path) if "eval" in line]
    assert exams[0]["accuracy"] == 1.0  # of its own ten kinds
    assert min(x["loss"] for x in exams[1:]) < exams[0]["loss"]
    assert result.best.readlink().name > "step-0000000000"
