"""TensorBoard events hold what the log holds, as TensorBoard reads them."""

import json
import subprocess
import sys

import pytest
import training
from needs import needs
from training import read_log

from reclap.errors import MissingDependencyError
from reclap.training import TensorBoard, loop


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Return a manifest of ten tones in five groups."""
    return training.write_set(tmp_path_factory.mktemp("sounds"))


@pytest.fixture
def plan(sounds, small_folder):
    """Return a function that makes recipes of twelve steps."""
    return lambda **changes: training.recipe(sounds, small_folder, **changes)


def read_events(folder):
    """Return (step, value) of each tag, by TensorBoard's own reader, which hides void events."""
    reader = needs(
        "tensorboard.backend.event_processing.event_accumulator", "tensorboard"
    ).EventAccumulator(str(folder), size_guidance={"scalars": 0})
    reader.Reload()
    return {
        tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]
    }


@pytest.mark.extra
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_events_are_those_of_the_log(plan, tmp_path):
    needs("tensorboard", "tensorboard")
    part = plan(run={"tensorboard": True, "steps": 4}, eval={"every": 2, "captions": True})
    loop.train(part, tmp_path)
    found, lines = read_events(tmp_path / "tensorboard"), read_log(tmp_path)
    steps = [line for line in lines if "loss" in line]
    for name in ("loss", "lr", "grad_norm", "clips_per_s", "memory_mb", "epoch"):
        values = [value for _, value in found[f"train/{name}"]]
        assert values == pytest.approx([line[name] for line in steps])
        assert [step for step, _ in found[f"train/{name}"]] == [1, 2, 3, 4]
    evals = [line for line in lines if "eval" in line]
    ranks = [line["eval"]["retrieval"]["text_to_audio"]["R@5"] for line in evals]
    assert found["eval/retrieval/text_to_audio/R@5"] == [
        (step, pytest.approx(value)) for step, value in zip((0, 2, 4), ranks, strict=True)
    ]
    assert "eval/labels/horn" in found
    assert "train/step" not in found


@pytest.mark.extra
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_resumed_run_hides_the_steps_that_it_does_again(plan, tmp_path):
    needs("tensorboard", "tensorboard")

    class Kill:
        def on_step(self, line):
            if line["step"] == 7:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.train(plan(), tmp_path, callbacks=[TensorBoard(), Kill()])
    state = json.loads((tmp_path / "last" / "state.json").read_text())
    assert state["step"] == 4
    loop.train(plan(run={"tensorboard": True}), tmp_path, resume=True)
    found = read_events(tmp_path / "tensorboard")
    assert [step for step, _ in found["train/loss"]] == list(range(1, 13))
    losses = [line["loss"] for line in read_log(tmp_path)]
    assert [value for _, value in found["train/loss"]] == pytest.approx(losses)


def test_missing_package_is_told_before_anything_is_made(plan, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingDependencyError, match=r"pip install tensorboard \(extra tensorboar"):
        loop.train(plan(run={"tensorboard": True}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.extra
def test_command_writes_events(sounds, small_folder, tmp_path):
    needs("tensorboard", "tensorboard")
    sections = training.settings(sounds, small_folder, run={"steps": 1})
    (tmp_path / "recipe.toml").write_text(training.to_toml(sections))
    words = ["-m", "reclap", "train", str(tmp_path / "recipe.toml"), "--out", str(tmp_path / "o")]
    subprocess.run([sys.executable, *words, "--tensorboard"], check=True)  # noqa: S603
    assert list((tmp_path / "o" / "tensorboard").glob("events.out.tfevents.*"))


@pytest.mark.extra
def test_torch_is_not_needed(tmp_path):
    needs("tensorboard", "tensorboard")
    code = "import sys; from reclap.training import TensorBoard; TensorBoard(); "
    code += "assert not {'torch', 'tensorflow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603
