"""Plots of training runs and similarity matrices, and the command that draws them."""

import json
import shutil

import numpy as np
import pytest
import training
from needs import needs
from training import read_log

import reclap
from reclap.cli import main
from reclap.io import manifest
from reclap.training import loop, run_similarity

plotting = needs("reclap.plotting", "plot")


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Return a manifest of ten tones in five groups."""
    return training.write_set(tmp_path_factory.mktemp("sounds"))


@pytest.fixture(scope="module")
def done(sounds, small_folder, tmp_path_factory):
    """Return the folder of a run with evaluations."""
    out = tmp_path_factory.mktemp("run") / "first"
    part = {"every": 4, "captions": True, "best": "loss"}
    loop.train(training.recipe(sounds, small_folder, run={"keep": 9}, eval=part), out)
    return out


@pytest.fixture
def run(done, tmp_path):
    """Return a copy of that folder."""
    return shutil.copytree(done, tmp_path / "copied", symlinks=True)


def drawn(axes, label):
    """Return x and y of the line with a label."""
    (line,) = [x for x in axes.lines if x.get_label() == label]
    return [list(x) for x in line.get_data()]


def write_log(folder, losses, cut=""):
    lines = [
        {"step": i + 1, "loss": x, "lr": 0.1 * i, "grad_norm": x * 2, "clips_per_s": 30 + i}
        for i, x in enumerate(losses)
    ]
    folder.mkdir(exist_ok=True)
    (folder / "log.jsonl").write_text("".join(f"{json.dumps(x)}\n" for x in lines) + cut)
    return lines


# ---- Curves ----------------------------------------------------------------------------------


def test_curves_show_what_the_log_says(done):
    lines = read_log(done)
    steps, exams = ([x for x in lines if key in x] for key in ("loss", "eval"))
    figure = plotting.curves(done)
    loss, measures, rate, speed = figure.axes
    assert [x.get_title(loc="left") for x in figure.axes] == [
        "loss",
        "evaluation",
        "learning rate",
        "clips per second",
    ]
    assert list(loss.lines[0].get_ydata()) == [x["loss"] for x in steps]
    assert drawn(loss, "evaluation") == [[0, 4, 8, 12], [x["eval"]["loss"] for x in exams]]
    assert drawn(measures, "accuracy")[1] == [x["eval"]["accuracy"] for x in exams]
    way = [x["eval"]["retrieval"]["audio_to_text"]["mAP@10"] for x in exams]
    assert drawn(measures, "mAP@10, audio to text")[1] == way
    assert list(rate.lines[0].get_ydata()) == [x["lr"] for x in steps]
    assert list(speed.lines[0].get_ydata()) == [x["clips_per_s"] for x in steps]
    best = int((done / "best").readlink().name[5:])
    assert set(drawn(loss, "best checkpoint")[0]) == {best}


def test_run_without_evaluations_shows_the_gradient(tmp_path):
    lines = write_log(tmp_path / "r", [3.0, 2.0, 1.0], '{"step": 4, "los')
    with (tmp_path / "r" / "log.jsonl").open("r+") as f:
        kept = f.read()
        f.seek(0)
        f.write('{"step": 3, "failed": "loss nan", "batch": ["a"]}\n' + kept)
    figure = plotting.curves(tmp_path / "r")
    assert figure.axes[1].get_title(loc="left") == "norm of the gradient"
    assert list(figure.axes[1].lines[0].get_ydata()) == [x["grad_norm"] for x in lines]
    assert not [x for x in figure.axes[0].lines if x.get_label() == "best checkpoint"]


def test_smooth_line_is_the_mean_about_its_step(tmp_path, rng):
    losses = list(rng.random(205))
    write_log(tmp_path, losses)
    steps, means = drawn(plotting.curves(tmp_path).axes[0], "training")
    assert (len(steps), steps[0], steps[-1]) == (202, 2, 203)
    for step, mean in zip(steps, means, strict=True):
        assert mean == pytest.approx(np.mean(losses[step - 2 : step + 2]))


def test_run_without_a_step_has_no_curves(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"log\.jsonl"):
        plotting.curves(tmp_path)
    write_log(tmp_path, [])
    with pytest.raises(ValueError, match=r"log\.jsonl: no step yet"):
        plotting.curves(tmp_path)


# ---- Similarity --------------------------------------------------------------------------------


def test_similarity_of_labels_is_the_mean_over_their_sounds(run, sounds):
    found = run_similarity(run, "step-0000000004", threads=1)
    model = reclap.load(run / "step-0000000004", threads=1)
    rows = manifest.read(sounds)
    text = model.embed_text([f"This is a sound of {name}." for name in training.GROUPS])
    assert found.rows == found.columns == training.GROUPS
    for name, values in zip(training.GROUPS, found.matrix, strict=True):
        audio = model.embed_audio([r.path for r in rows if r.extra["group"] == name])
        np.testing.assert_allclose(values, (audio @ text.T).mean(axis=0), atol=1e-5)
    assert found.checkpoint == "step-0000000004"


def test_similarity_is_of_the_best_checkpoint_or_else_of_the_last(run):
    best = (run / "best").readlink()
    assert run_similarity(run).checkpoint == best.name
    (run / "best").unlink()
    assert run_similarity(run).checkpoint == "step-0000000012"


def test_similarity_without_labels_is_that_of_captions(run, sounds):
    recipe = json.loads((run / "recipe.json").read_text())
    recipe["eval"]["label"] = "kind"
    (run / "recipe.json").write_text(json.dumps(recipe))
    found = run_similarity(run, "last", most=4)
    rows = [manifest.read(sounds)[i] for i in (0, 3, 6, 9)]
    model = reclap.load(run / "last")
    text = model.embed_text([row.captions[0].text for row in rows])
    audio = model.embed_audio([row.path for row in rows])
    np.testing.assert_allclose(found.matrix, audio @ text.T, atol=1e-6)
    assert found.rows == ("bell0", "drone1", "horn0", "wind1")
    assert found.columns[0] == "The bell low."


def test_similarity_names_what_is_not_there(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="step-9: no such checkpoint"):
        run_similarity(run, "step-9")
    with pytest.raises(FileNotFoundError, match=r"recipe\.json"):
        run_similarity(tmp_path)


@pytest.mark.parametrize("size", [3, 16])
def test_similarity_marks_the_greatest_of_each_row(rng, size):
    matrix = rng.standard_normal((size, size + 1))
    rows, columns = ([f"{c}{i}" for i in range(n)] for c, n in (("r", size), ("c", size + 1)))
    axes = plotting.similarity(matrix, rows, columns, "title").axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), matrix)
    assert [x.get_text() for x in axes.get_xticklabels()] == columns
    best = [(int(row.argmax()), i) for i, row in enumerate(matrix)]
    if size == 3:
        assert [x.get_position() for x in axes.texts if x.get_weight() == "bold"] == best
        assert axes.texts[4].get_text() == f"{matrix[1, 0]:.2f}"
    else:
        assert list(zip(*axes.lines[0].get_data(), strict=True)) == best
    assert axes.get_title(loc="left") == "title"


@pytest.mark.parametrize(
    ("matrix", "names"), [(np.ones((2, 3)), ["a", "b"]), (np.ones(2), ["a", "b"]), ([[]], [])]
)
def test_similarity_refuses_other_sizes(matrix, names):
    with pytest.raises(ValueError, match=r"matrix: expected shape \("):
        plotting.similarity(matrix, names)


def test_notebook_shows_a_plot():
    figure = plotting.similarity(np.eye(2), ["a", "b"])
    assert figure._repr_png_().startswith(b"\x89PNG")


# ---- The command -------------------------------------------------------------------------------


def test_command_writes_both_plots_into_the_run(run, capsys):
    assert main(["plot", str(run)]) == 0
    assert main(["plot", str(run), "--similarity", "--checkpoint", "last", "--threads", "1"]) == 0
    names = ["curves.png", "similarity.png"]
    assert capsys.readouterr().out.split() == [str(run / name) for name in names]
    for name in names:
        assert (run / name).read_bytes().startswith(b"\x89PNG")


def test_command_writes_the_format_of_the_suffix(run, tmp_path, capsys):
    assert main(["plot", str(run), "--out", str(tmp_path / "a.svg")]) == 0
    assert b"<svg" in (tmp_path / "a.svg").read_bytes()
    assert main(["plot", str(run), "--out", str(tmp_path / "a.xyz")]) == 2
    assert "expected a suffix of" in capsys.readouterr().err
    assert main(["plot", str(run), "--checkpoint", "last"]) == 2
    assert "--checkpoint: needs --similarity" in capsys.readouterr().err


def test_plots_in_a_run_folder_are_no_hindrance(sounds, small_folder, tmp_path):
    write_log(tmp_path, [1.0])
    plotting.save(plotting.curves(tmp_path), tmp_path / "curves.png")
    recipe = training.recipe(sounds, small_folder, run={"steps": 1})
    assert loop.train(recipe, tmp_path, resume=True).step == 1
    (tmp_path / "other.png").write_bytes(b"")
    shutil.rmtree(tmp_path / "step-0000000001")
    (tmp_path / "last").unlink()
    with pytest.raises(FileExistsError, match=r"other\.png"):
        loop.train(recipe, tmp_path, resume=True)
