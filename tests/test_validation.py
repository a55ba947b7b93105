"""Evaluation by captions, the best checkpoint, early stopping."""

import json
import math
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import reference
import training
from closeness import f32
from training import read_log, read_run

import reclap
from reclap.checkpoints import model_folder
from reclap.errors import FormatError
from reclap.io import manifest
from reclap.runtime.libraries import core
from reclap.training import loop
from reclap.training.best import Best, measure
from reclap.training.evaluate import Evaluation
from reclap.training.learner import Learner
from reclap.training.ranking import retrieval, scores_of_ranks


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Return a manifest of ten tones in five groups."""
    return training.write_set(tmp_path_factory.mktemp("sounds"))


@pytest.fixture
def plan(sounds, small_folder):
    """Return a function that makes recipes of twelve steps."""
    return lambda **changes: training.recipe(sounds, small_folder, **changes)


# ---- Ranks -----------------------------------------------------------------------------------


def brute(queries, items, right):
    """Return the measures of retrieval, from sorted lists."""
    found = {"R@1": [], "R@5": [], "R@10": [], "mAP@10": []}
    for query, wanted in zip(queries, right, strict=True):
        order = sorted(range(len(items)), key=lambda i: (-float(query @ items[i]), i))
        hits = [i in wanted for i in order]
        for k in (1, 5, 10):
            found[f"R@{k}"].append(any(hits[:k]))
        precisions = [sum(hits[: k + 1]) / (k + 1) for k in range(10) if k < len(hits) and hits[k]]
        found["mAP@10"].append(sum(precisions) / min(10, len(wanted)))
    return {name: np.mean(values) for name, values in found.items()}


@pytest.mark.parametrize("texts", [13, 40])
def test_retrieval_agrees_with_sorted_lists(rng, texts):
    audio, text = f32(rng, 17, 6), f32(rng, texts, 6)
    several = [[0, 1, *range(2, 13)], [0], [1, 2]]  # more than ten right ones; shared texts
    captions = several + [[int(i)] for i in rng.integers(3, texts, 14)]
    used = sorted({i for texts in captions for i in texts})
    captions = [[used.index(i) for i in texts] for texts in captions]
    text = text[used]
    found = retrieval(core.Context(2), audio, text, captions)
    clips = [[i for i, texts in enumerate(captions) if t in texts] for t in range(len(text))]
    assert found["audio_to_text"] == pytest.approx(brute(audio, text, captions))
    assert found["text_to_audio"] == pytest.approx(brute(text, audio, clips))


def test_order_of_several_right_answers_does_not_count():
    """In the order of captions, precision would exceed one."""
    ranks = np.array([[5, 4, 3, 2, 1], [1, 2, 3, 4, 5]], np.int32)
    assert scores_of_ranks(ranks)["mAP@10"] == 1.0


# ---- Evaluation by captions --------------------------------------------------------------------


def captioned(sounds):
    """Return files and first captions of a manifest."""
    rows = manifest.read(sounds)
    return [row.path for row in rows], [row.captions[0].text for row in rows]


@pytest.mark.parametrize("text", ["frozen", "trained"])
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_loss_is_that_of_the_saved_model(plan, sounds, tmp_path, ema, text):
    part = plan(
        data={"batch": 10},
        optim={"ema": ema, "lr": 1e-2},
        train={"text": text},
        run={"save_first": True, "save_every": 6, "keep": 9},
        eval={"every": 6, "captions": True},
    )
    loop.train(part, tmp_path)
    files, texts = captioned(sounds)
    for line in (x for x in read_log(tmp_path) if "eval" in x):
        folder = tmp_path / f"step-{line['step']:010d}"
        model = reclap.load(folder, threads=1)
        audio, text = model.embed_audio(files), model.embed_text(texts)
        scale = model_folder.read_tensors(folder / model_folder.MODEL)["logit_scale"]
        expected = reference.contrastive(audio, text, float(scale))[0]
        assert line["eval"]["loss"] == pytest.approx(expected, rel=1e-5)
        right = [[i] for i in range(10)]
        wanted = brute(text, audio, right)
        assert line["eval"]["retrieval"]["text_to_audio"] == pytest.approx(wanted, abs=1e-4)
        assert line["eval"]["accuracy"] >= 0


def test_loss_is_the_mean_over_batches_of_the_recipe(plan, sounds, tmp_path):
    part = plan(data={"batch": 4}, eval={"every": 12, "captions": True, "label": ""})
    sizes, original = [], Learner.loss

    class Counting(Learner):
        def loss(self, audio, text):
            sizes.append(len(audio))
            return float(len(audio))

    patch = pytest.MonkeyPatch()
    with patch.context() as p:
        p.setattr(Learner, "loss", Counting.loss)
        result = loop.train(part, tmp_path)
    assert Learner.loss is original
    assert sizes == [4, 3, 3] * 2
    found = read_log(tmp_path)[-1]["eval"]
    assert found["loss"] == pytest.approx((4 * 4 + 3 * 3 + 3 * 3) / 10)
    assert result.accuracy is None
    assert found.keys() == {"loss", "retrieval", "clips"}


@pytest.mark.parametrize("text", ["frozen", "trained"])
def test_evaluation_by_captions_leaves_training_alone(plan, tmp_path, text):
    part = {"optim": {"ema": 0.9}, "train": {"text": text}}
    loop.train(plan(**part), tmp_path / "a")
    loop.train(plan(**part, eval={"every": 1, "captions": True}), tmp_path / "b")
    assert read_run(tmp_path / "a") == read_run(tmp_path / "b")


def test_sounds_that_are_skipped_leave_their_captions_out(small_folder, tmp_path):
    sounds = training.write_set(tmp_path / "sounds")
    part = training.recipe(
        sounds, small_folder, data={"errors": "skip"}, eval={"every": 12, "captions": True}
    )
    loop.train(part, tmp_path / "whole")
    (sounds.parent / "horn0.wav").write_bytes(b"RIFF")
    loop.train(part, tmp_path / "out")
    found = read_log(tmp_path / "out")[0]["eval"]
    assert found["clips"] == 9
    lines = sounds.read_text().splitlines()
    sounds.write_text("".join(f"{x}\n" for x in lines if "horn0" not in x))
    loop.train(part, tmp_path / "less")
    less = read_log(tmp_path / "less")[0]["eval"]
    assert found["retrieval"] == less["retrieval"]


def test_one_label_or_one_row_has_nothing_to_compare(plan, tmp_path):
    one = {"every": 1, "where": {"group": ["horn"]}}
    with pytest.raises(FormatError, match=r"eval\.label: .*'horn' is the only label"):
        loop.train(plan(eval=one), tmp_path / "a")
    with pytest.raises(FormatError, match=r"eval\.label: .*no column kind.*an empty label"):
        loop.train(plan(eval={"every": 1, "label": "kind"}), tmp_path / "b")
    row = {"every": 1, "label": "", "captions": True, "where": {"path": ["horn0.wav"]}}
    with pytest.raises(FormatError, match=r"eval\.captions: .*one row only"):
        loop.train(plan(eval=row), tmp_path / "c")


# ---- The best, and when to stop ----------------------------------------------------------------


def test_best_is_what_its_name_says():
    found = {
        "accuracy": 0.5,
        "loss": 2.0,
        "retrieval": {"a": {"mAP@10": 0.2, "R@1": 1}, "b": {"mAP@10": 0.4, "R@1": 1}},
    }
    assert measure("accuracy", found) == 0.5
    assert measure("loss", found) == -2.0
    assert measure("retrieval", found) == pytest.approx(0.3)


def test_nan_is_never_the_best():
    best = Best("loss").after(0, {"loss": math.nan})
    assert (best.step, best.waited) == (-1, 1)
    best = best.after(1, {"loss": 5.0}).after(2, {"loss": math.nan}).after(3, {"loss": 5.0})
    assert best == Best("loss", 1, -5.0, 2)


LOSSES = {0: 3.0, 1: 2.0, 2: 1.0, 3: 1.5, 4: 1.0, 5: 0.9, 6: 2.0, 7: 0.95, 8: 0.9, 9: 0.1}


@pytest.fixture
def told(monkeypatch):
    """Let evaluations find `LOSSES`, by steps done, and return the list of these steps."""
    steps = []

    def found(self, learner):
        steps.append(0 if learner is None else learner.done)
        return {"loss": LOSSES.get(steps[-1], 9.0), "clips": 10}

    original, begun = Learner.step, Learner.load

    def step(self, number, mel, features, *more):
        self.done = number + 1
        return original(self, number, mel, features, *more)

    def load(self, folder):
        self.done = int(folder.name[5:])
        begun(self, folder)

    monkeypatch.setattr(Learner, "done", 0, raising=False)
    monkeypatch.setattr(Evaluation, "__call__", found)
    monkeypatch.setattr(Learner, "step", step)
    monkeypatch.setattr(Learner, "load", load)
    return steps


def by_loss(plan, **more):
    part = {"every": 1, "captions": True, "label": "", "best": "loss"}
    return plan(run={"save_every": 4, "keep": 1}, eval=part | more)


def state_of(out, name="last"):
    return json.loads((out / name / "state.json").read_text())


def folders(out):
    return [int(p.name[5:]) for p in sorted(out.glob("step-*"))]


def test_best_checkpoint_is_kept_and_named(plan, told, tmp_path):
    result = loop.train(by_loss(plan), tmp_path)
    assert told == list(range(13))
    assert folders(tmp_path) == [9, 12]
    assert (tmp_path / "best").readlink().name == "step-0000000009"
    assert result.best == tmp_path / "best"
    assert not result.early
    assert state_of(tmp_path)["best"] == {"by": "loss", "step": 9, "value": -0.1, "waited": 3}
    reclap.load(tmp_path / "best", threads=1)


def test_run_stops_when_evaluations_get_no_better(plan, told, tmp_path):
    result = loop.train(by_loss(plan, patience=3), tmp_path)
    assert (result.step, result.early, result.interrupted) == (8, True, False)
    assert folders(tmp_path) == [5, 8]
    assert (tmp_path / "best").readlink().name == "step-0000000005"
    again = loop.train(by_loss(plan, patience=3), tmp_path, resume=True)
    assert (again.step, again.early, again.loss) == (8, True, None)
    assert told == list(range(9))
    longer = loop.train(by_loss(plan, patience=4), tmp_path, resume=True)
    assert (longer.step, longer.early, state_of(tmp_path)["best"]["step"]) == (12, False, 9)


@pytest.mark.parametrize("stop", [1, 3, 5, 6, 7])
def test_resumed_run_stops_where_the_uninterrupted_one_does(plan, told, tmp_path, stop):
    recipe = by_loss(plan, patience=3)
    whole, out = tmp_path / "whole", tmp_path / "out"
    loop.train(recipe, whole)

    class Kill:
        def on_step(self, line):
            if line["step"] == stop:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.train(recipe, out, callbacks=[Kill()])
    loop.train(recipe, out, resume=True)
    assert state_of(out)["best"] == state_of(whole)["best"]
    assert folders(out) == folders(whole)
    assert read_run(out) == read_run(whole)
    steps = [[x["step"] for x in read_log(path)] for path in (out, whole)]
    assert steps[0] == steps[1]


def test_run_killed_before_its_first_checkpoint_evaluates_anew(plan, tmp_path):
    recipe = plan(eval={"every": 6})

    class Kill:
        def on_step(self, line):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.train(recipe, tmp_path, callbacks=[Kill()])
    assert [line["step"] for line in read_log(tmp_path)] == [0, 1]
    loop.train(recipe, tmp_path, resume=True)
    assert [x["step"] for x in read_log(tmp_path)] == [0, *range(1, 7), 6, *range(7, 13), 12]


def test_links_are_mended_after_a_kill(plan, told, tmp_path):
    recipe = by_loss(plan)
    loop.train(recipe, tmp_path)
    for name in ("best", "last"):
        (tmp_path / name).unlink()
        (tmp_path / f".{name}.tmp").symlink_to("step-0000000009")
    (tmp_path / "best").symlink_to("step-0000000012")
    loop.train(recipe, tmp_path, resume=True)
    assert (tmp_path / "best").readlink().name == "step-0000000009"
    assert (tmp_path / "last").readlink().name == "step-0000000012"
    assert not list(tmp_path.glob(".*.tmp"))


def test_best_checkpoint_that_was_removed_is_told(plan, told, tmp_path, caplog):
    recipe = by_loss(plan)
    loop.train(recipe, tmp_path)
    shutil.rmtree(tmp_path / "step-0000000009")
    result = loop.train(recipe, tmp_path, resume=True)
    assert "best: the best checkpoint is not there any more" in caplog.text
    assert not (tmp_path / "best").is_symlink()
    assert result.best is None


def test_other_measure_begins_anew_and_none_keeps_the_best(plan, told, tmp_path, caplog):
    loop.train(by_loss(plan), tmp_path)
    longer = {"steps": 14, "save_every": 1, "keep": 1}
    off = {"every": 1, "captions": True, "label": ""}
    loop.train(plan(run=longer, eval=off), tmp_path, resume=True)
    assert state_of(tmp_path)["best"]["step"] == 9
    assert folders(tmp_path) == [9, 14]
    other = off | {"best": "retrieval"}

    def retrieved(self, learner):
        return {"retrieval": {"a": {"mAP@10": 0.5}}, "clips": 10}

    patch = pytest.MonkeyPatch()
    with patch.context() as p:
        p.setattr(Evaluation, "__call__", retrieved)
        recipe = plan(run=longer | {"steps": 16}, eval=other)
        loop.train(recipe, tmp_path, resume=True)
    assert "eval.best was loss, now retrieval: the best evaluation is found anew" in caplog.text
    assert state_of(tmp_path)["best"] == {"by": "retrieval", "step": 15, "value": 0.5, "waited": 1}


def test_state_of_the_best_that_is_none_is_refused(plan, told, tmp_path):
    loop.train(by_loss(plan), tmp_path)
    path = tmp_path / "last" / "state.json"
    path.write_text(json.dumps(state_of(tmp_path) | {"best": {"step": "first"}}))
    with pytest.raises(FormatError, match=r"step-0000000012: not the state of the best evaluation"):
        loop.train(by_loss(plan), tmp_path, resume=True)


def test_command_says_why_it_stopped_and_which_is_best(sounds, small_folder, tmp_path):
    stopping = {"every": 1, "captions": True, "best": "accuracy", "patience": 1}
    sections = training.settings(
        sounds, small_folder, optim={"lr": 0.0}, run={"steps": 5}, eval=stopping
    )
    (tmp_path / "recipe.toml").write_text(training.to_toml(sections))
    words = ["-m", "reclap", "train", str(tmp_path / "recipe.toml"), "--out", str(tmp_path / "o")]
    run = subprocess.run(  # noqa: S603
        [sys.executable, *words], capture_output=True, text=True, check=True
    )
    assert "last: 1 steps of 5, stopped early: accuracy got no better, loss " in run.stdout
    assert "best: step-0000000000, the best by accuracy" in run.stdout
    again = subprocess.run(  # noqa: S603
        [sys.executable, *words, "--resume"], capture_output=True, text=True, check=True
    )
    assert "1 steps, stopped early before; a larger eval.patience continues" in again.stdout


@pytest.mark.slow
def test_run_killed_at_random_keeps_its_best_and_stops_at_the_same_step(
    sounds, small_folder, tmp_path, rng
):
    exam = {"every": 2, "captions": True, "best": "loss", "patience": 12}
    how = {"steps": 600, "save_every": 7, "keep": 1}
    sections = training.settings(
        sounds, small_folder, optim={"lr": 0.02}, run=how, eval=exam, train={"text": "trained"}
    )
    (tmp_path / "recipe.toml").write_text(training.to_toml(sections))
    out = tmp_path / "out"
    words = ["-m", "reclap", "train", str(tmp_path / "recipe.toml"), "--out", str(out), "--resume"]
    log_file = out / "log.jsonl"
    for _ in range(10):
        before = log_file.read_bytes().count(b"\n") if log_file.exists() else 0
        with subprocess.Popen([sys.executable, *words]) as process:  # noqa: S603
            while process.poll() is None and (
                not log_file.exists() or log_file.read_bytes().count(b"\n") < before + 8
            ):
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.05))
            process.kill()
        for path in out.glob("best"):
            reclap.load(path, threads=1)
    subprocess.run([sys.executable, *words], check=True)  # noqa: S603
    whole = tmp_path / "whole"
    loop.train(training.recipe(sounds, small_folder, optim={"lr": 0.02}, run=how, eval=exam,
                               train={"text": "trained"}), whole)  # fmt: skip
    assert state_of(out)["best"] == state_of(whole)["best"]
    assert folders(out) == folders(whole)
    assert read_run(out) == read_run(whole)
    logs = [[(x["step"], x.get("loss"), x.get("eval")) for x in read_log(p)] for p in (out, whole)]
    assert logs[0] == logs[1]
