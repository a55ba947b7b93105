"""What a run tells: to callbacks, on its progress line, and of a batch whose loss is no number."""

import json
import os

import numpy as np
import pytest
import training
from training import read_log, read_run

import reclap
from reclap.cli import main
from reclap.runtime.memory import resident
from reclap.training import Callback, loop, running
from reclap.training.data import Batches
from reclap.training.learner import Learner
from reclap.training.run_log import read_log as read_lines


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Return a manifest of ten tones in five groups."""
    return training.write_set(tmp_path_factory.mktemp("sounds"))


@pytest.fixture
def plan(sounds, small_folder):
    """Return a function that makes recipes of twelve steps."""
    return lambda **changes: training.recipe(sounds, small_folder, **changes)


class Told(Callback):
    """A callback that keeps what it is told, and fails where it is asked to."""

    def __init__(self, fails=()):
        self.calls, self._fails = [], fails

    def _note(self, *call):
        self.calls.append(call)
        if call[: len(self._fails)] == self._fails and self._fails:
            raise RuntimeError(f"failed at {call[0]}")

    def on_begin(self, recipe, folder, step):
        self._note("begin", step, recipe, folder)

    def on_step(self, line):
        self._note("step", line["step"], line)

    def on_eval(self, line):
        self._note("eval", line["step"], line)

    def on_save(self, step, folder):
        self._note("save", step, folder)

    def on_end(self, result):
        self._note("end", result)

    def order(self):
        return [call[:2] for call in self.calls]


def test_callback_is_told_all_in_order(plan, tmp_path):
    told = Told()
    result = loop.train(plan(run={"steps": 4, "save_every": 2}, eval={"every": 2}), tmp_path,
                        callbacks=[told])  # fmt: skip
    two = [("step", 1), ("step", 2), ("eval", 2), ("save", 2)]
    four = [("step", 3), ("step", 4), ("eval", 4), ("save", 4)]
    assert told.order() == [("begin", 0), ("eval", 0), *two, *four, ("end", result)]
    lines = [call[2] for call in told.calls if call[0] in ("step", "eval")]
    assert lines == read_log(tmp_path)
    folders = [call[2] for call in told.calls if call[0] == "save"]
    assert [f.name for f in folders] == ["step-0000000002", "step-0000000004"]
    assert told.calls[0][3] == tmp_path


def test_any_object_with_one_of_the_methods_is_a_callback(plan, tmp_path):
    class Losses:
        def __init__(self):
            self.seen = []

        def on_step(self, line):
            self.seen.append(line["loss"])

    losses, steps = Losses(), []

    class Steps:
        on_step = staticmethod(lambda line: steps.append(line["step"]))

    reclap.train(plan(run={"steps": 3}), tmp_path, callbacks=[losses, Steps()])
    assert losses.seen == [line["loss"] for line in read_log(tmp_path)]
    assert steps == [1, 2, 3]


@pytest.mark.parametrize("wrong", [print, Told, "on_step", object()])
def test_what_is_no_callback_is_refused_before_anything_is_made(plan, tmp_path, wrong):
    with pytest.raises(TypeError, match="callbacks: expected objects with some of on_begin, on_st"):
        loop.train(plan(), tmp_path / "out", callbacks=[wrong])
    with pytest.raises(TypeError, match="callbacks: expected "):
        loop.train(plan(), tmp_path / "out", callbacks=Told() if wrong is print else wrong)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("fails", "saved"),
    [(("step", 3), 3), (("eval", 6), 6), (("save", 4), 4), (("step", 4), 4)],
)
def test_failing_callback_ends_the_run_with_a_checkpoint(plan, tmp_path, fails, saved):
    recipe, told = plan(eval={"every": 3}), Told(fails)
    with pytest.raises(RuntimeError, match=f"failed at {fails[0]}"):
        loop.train(recipe, tmp_path / "out", callbacks=[told])
    assert told.order()[-1] == ("end", None)
    assert not list((tmp_path / "out").glob("*.aside*"))  # the checkpoint of a step is made once
    state = json.loads((tmp_path / "out" / "last" / "state.json").read_text())
    assert state["step"] == saved
    loop.train(recipe, tmp_path / "out", resume=True)
    loop.train(recipe, tmp_path / "whole")
    assert read_run(tmp_path / "out") == read_run(tmp_path / "whole")


def test_failing_callback_at_the_end_hides_neither_checkpoint_nor_others(plan, tmp_path, caplog):
    other = Told()
    with pytest.raises(RuntimeError, match="failed at end"):
        loop.train(plan(), tmp_path / "out", callbacks=[Told(("end",)), other])
    assert other.calls[-1][0] == "end"
    assert json.loads((tmp_path / "out" / "last" / "state.json").read_text())["step"] == 12
    with pytest.raises(RuntimeError, match="failed at step"):
        loop.train(plan(), tmp_path / "b", callbacks=[Told(("end",)), Told(("step", 2))])
    assert "a callback failed at the end of the run: failed at end" in caplog.text


# ---- Progress --------------------------------------------------------------------------------


def test_progress_line_says_loss_rate_speed_and_memory(plan, tmp_path, capsys):
    loop.train(plan(run={"steps": 2}), tmp_path, progress=True)
    shown = capsys.readouterr().err
    line = read_log(tmp_path)[-1]
    assert f"loss={line['loss']:.3f}, lr={line['lr']:.1e}, clips/s={line['clips_per_s']}" in shown
    assert f"memory={line['memory_mb']:.0f}MB" in shown
    assert "step" in shown.split("2/2")[1]


def test_command_says_what_a_run_needs_and_python_does_not(
    plan, sounds, small_folder, tmp_path, capfd
):
    path = tmp_path / "recipe.toml"
    path.write_text(training.to_toml(training.settings(sounds, small_folder, run={"steps": 1})))
    assert main(["train", str(path), "--out", str(tmp_path / "a")]) == 0
    said = capfd.readouterr().err
    assert said.count("memory: ") == 1
    assert "for weights, gradients and moments, " in said
    assert said.strip().endswith("for activations of a batch of 5")
    assert main(["train", str(path), "--out", str(tmp_path / "b"), "--resume"]) == 0
    assert f"nothing to resume in {tmp_path / 'b'}: starting a run" in capfd.readouterr().err
    loop.train(plan(run={"steps": 1}), tmp_path / "c")
    assert capfd.readouterr().err == ""


def test_memory_is_that_of_this_process(monkeypatch):
    before = resident()
    block = np.ones(64 << 20, np.uint8)
    assert resident() - before > 0.9 * block.nbytes
    assert 10 << 20 < before < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_system_that_does_not_tell_memory_leaves_it_out(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "resident", lambda: None)
    loop.train(plan(run={"steps": 1}), tmp_path)
    assert "memory_mb" not in read_log(tmp_path)[0]


def test_log_is_read_without_the_line_that_is_being_written(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "eval": {}}\n{"step": 3, "lo')
    assert [line["step"] for line in read_lines(path)] == [1, 2]


# ---- A loss that is no number ----------------------------------------------------------------


def test_loss_that_is_not_finite_names_the_clips(plan, sounds, tmp_path, monkeypatch):
    original = Batches._example

    def spoiled(self, step, item, rows):
        mel, *others = original(self, step, item, rows)
        return (mel * np.float32(np.nan) if (step, item) == (5, 3) else mel), *others

    recipe = plan()
    with monkeypatch.context() as patch:
        patch.setattr(Batches, "_example", spoiled)
        with pytest.raises(ValueError, match="not finite") as caught:
            loop.train(recipe, tmp_path)
    failed = read_log(tmp_path)[-1]
    assert (failed["step"], len(failed["batch"])) == (6, 5)
    assert "its log-mel is not finite" in failed["batch"][0]
    assert not any("not finite" in clip for clip in failed["batch"][1:])
    for clip in failed["batch"]:
        assert str(sounds) in clip
        assert clip in str(caught.value)
    assert "step-0000000004 is the last checkpoint" in str(caught.value)
    assert json.loads((tmp_path / "last" / "state.json").read_text())["step"] == 4
    loop.train(recipe, tmp_path, resume=True)  # without the fault
    assert [line["step"] for line in read_log(tmp_path)] == list(range(1, 13))


def test_loss_that_is_not_finite_leaves_no_bad_checkpoint(plan, tmp_path):
    with pytest.raises(ValueError, match=r"not finite; no update; .*; the batch"):
        loop.train(plan(optim={"lr": 1e30, "clip": 0.0}), tmp_path)
    assert all(np.isfinite(line["loss"]) for line in read_log(tmp_path)[:-1])


def test_long_batch_is_shown_in_part(plan, tmp_path, monkeypatch):
    def fails(self, *_):
        raise ValueError("loss nan is not finite")

    monkeypatch.setattr(Learner, "step", fails)
    with pytest.raises(ValueError, match="and 2 more") as caught:
        loop.train(plan(data={"batch": 10}), tmp_path)
    assert "no checkpoint yet" in str(caught.value)
    assert len(read_log(tmp_path)[-1]["batch"]) == 10
