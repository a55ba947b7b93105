"""Batches in pieces, losses and several texts a clip, by recipes."""

import json
import logging

import numpy as np
import pytest
import training
from test_train import run_until
from training import read_log, read_run

import reclap
from reclap.checkpoints import model_folder
from reclap.errors import FormatError, ReclapError
from reclap.runtime import memory
from reclap.training import loop
from reclap.training.pieces import Memory, Whole
from reclap.training.tokens import Tokens

CASES = {
    "frozen text": {},
    "both towers": {"train": {"text": "trained", "text_dropout": 0.1}},
    "sigmoid": {"loss": {"kind": "sigmoid"}},
    "several texts": {
        "data": {"captions": 2, "negatives": 1},
        "train": {"text": "trained", "text_dropout": 0.1},
    },
}


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Return a manifest of ten tones in five groups, each with two captions and a negative."""
    path = training.write_set(tmp_path_factory.mktemp("sounds"))
    lines = []
    for line in path.read_text().splitlines():
        row = json.loads(line)
        caption = row.pop("caption")
        row["captions"] = [
            {"caption": caption, "rewrites": row.pop("rewrites"), "negatives": [f"No {caption}"]},
            {"caption": f"{caption[:-1]}, once more."},
        ]
        lines.append(json.dumps(row))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def plan(sounds, small_folder):
    """Return a function that makes recipes of a case."""

    def make(case, **changes):
        parts = {name: dict(part) for name, part in CASES[case].items()}
        for name, part in changes.items():
            parts[name] = parts.get(name, {}) | part
        return training.recipe(sounds, small_folder, **parts)

    return make


@pytest.mark.parametrize("case", CASES)
def test_run_in_pieces_follows_the_run_of_whole_batches(plan, tmp_path, case):
    losses = {}
    for piece in (0, 2):
        loop.train(plan(case, run={"piece": piece}), tmp_path / str(piece))
        losses[piece] = [line["loss"] for line in read_log(tmp_path / str(piece))]
    np.testing.assert_allclose(losses[2], losses[0], rtol=2e-3)
    assert losses[0][0] == pytest.approx(losses[2][0], rel=1e-6)
    state = json.loads((tmp_path / "2" / "last" / "state.json").read_text())
    assert state["piece"] == 2


@pytest.mark.parametrize("case", CASES)
def test_resumed_run_equals_uninterrupted_run(plan, tmp_path, monkeypatch, case):
    cut = plan(case, run={"piece": 2})
    loop.train(cut, tmp_path / "whole")
    run_until(cut, tmp_path / "out", 7, monkeypatch)
    loop.train(cut, tmp_path / "out", resume=True)
    assert read_run(tmp_path / "out") == read_run(tmp_path / "whole")


def test_run_goes_on_with_the_pieces_that_it_began_with(plan, tmp_path, monkeypatch):
    """The memory that is free may be another when a run goes on; its bits may not."""
    cut, open_ = plan("frozen text", run={"piece": 2}), plan("frozen text")
    loop.train(cut, tmp_path / "whole")
    run_until(cut, tmp_path / "out", 7, monkeypatch)
    loop.train(open_, tmp_path / "out", resume=True)
    assert read_run(tmp_path / "out") == read_run(tmp_path / "whole")


def test_pieces_follow_from_the_memory_that_is_free(plan, tmp_path, monkeypatch, caplog):
    needs = {}
    for free in (None, 1 << 40):
        monkeypatch.setattr(loop, "available", lambda free=free: free)
        with caplog.at_level(logging.INFO):
            loop.train(plan("both towers", run={"steps": 1}), tmp_path / f"{free}")
        said = caplog.messages[-1] if caplog.messages else ""
        needs[free] = said
    assert "memory: " in needs[None]
    assert "for activations of a batch of 5" in needs[None]
    learner = {}
    original = loop.Learner.plan

    def seen(self, *a):
        found = original(self, *a)
        learner["plan"] = found
        return found

    monkeypatch.setattr(loop.Learner, "plan", seen)
    monkeypatch.setattr(loop, "available", lambda: None)
    loop.train(plan("both towers", run={"steps": 1}), tmp_path / "all")
    whole = learner["plan"].scratch
    monkeypatch.setattr(loop, "available", lambda: int(0.6 * whole / 0.9))
    loop.train(plan("both towers", run={"steps": 1}), tmp_path / "some")
    assert 1 <= learner["plan"].piece < 5
    assert learner["plan"].scratch <= 0.6 * whole
    monkeypatch.setattr(loop, "available", lambda: 1 << 10)
    with pytest.raises(ReclapError, match=r"memory: .* in 5 pieces of at most 1, but .* are free"):
        loop.train(plan("both towers", run={"steps": 1}), tmp_path / "none")


def test_checkpointing_changes_no_bit(plan, tmp_path, monkeypatch):
    loop.train(plan("both towers"), tmp_path / "whole")
    run_until(plan("both towers"), tmp_path / "out", 7, monkeypatch)
    loop.train(plan("both towers", run={"checkpointing": True}), tmp_path / "out", resume=True)
    assert read_run(tmp_path / "out") == read_run(tmp_path / "whole")


def test_memory_is_told_in_words():
    assert str(Memory(64, 64, 3 << 30, 50 << 20)) == (
        "memory: 3.00 GiB for weights, gradients and moments, 50.0 MiB for activations of a batch "
        "of 64"
    )
    assert str(Memory(64, 24, 1 << 20, 1 << 30)).endswith("64 in 3 pieces of at most 24")


def test_free_memory_heeds_the_control_group(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    free = memory.available()
    assert free is None or free > 0
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("900000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 50000\n")
    assert memory.available() == 150000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available() == free or free is not None


def test_model_of_the_sigmoid_loss_keeps_its_bias(plan, tmp_path, small_folder):
    result = loop.train(plan("sigmoid", optim={"ema": 0.5}), tmp_path / "out")
    config = model_folder.read_config(result.folder)
    assert config.logit_bias is not None
    assert config.logit_bias != -10
    model = reclap.load(result.folder, threads=1)
    assert model.embed_text(["a horn"]).shape == (1, 20)
    lines = read_log(tmp_path / "out")
    assert lines[0]["logit_scale"] == pytest.approx(10)
    more = plan("sigmoid", model={"from": str(result.folder), "text": str(result.folder)})
    again = loop.train(more, tmp_path / "more")
    assert abs(model_folder.read_config(again.folder).logit_bias - config.logit_bias) < 0.1
    plain = loop.train(plan("frozen text"), tmp_path / "plain")
    assert model_folder.read_config(plain.folder).logit_bias is None


def test_texts_are_put_in_the_order_of_their_clips():
    owner = np.array([0, 1, 2, 0, 2, 2], np.int32)
    role = np.array([0, 0, 0, 1, 2, 1], np.int32)
    tokens = Tokens(np.arange(9, dtype=np.int32), np.array([0, 1, 3, 4, 6, 7, 9], np.int32))
    found = Whole(np.zeros((3, 2, 2), np.float32), tokens, owner, role).ordered()
    assert found.owner.tolist() == [0, 0, 1, 2, 2, 2]
    assert found.role.tolist() == [0, 1, 0, 0, 2, 1]
    assert found.features.ids.tolist() == [0, 4, 5, 1, 2, 3, 6, 7, 8]
    assert found.features.first.tolist() == [0, 1, 3, 5, 6, 7, 9]
    parts = found.pieces(2)
    assert [(p.clips, p.texts) for p in parts] == [
        (slice(0, 2), slice(0, 3)),
        (slice(2, 3), slice(3, 6)),
    ]
    assert parts[1].features.ids.tolist() == [3, 6, 7, 8]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"kind": "triplet"}, "kind"),
        ({"scale": 0.5}, "scale is 0.5, expected 1 to 100"),
        ({"scale": -1}, "scale"),
        ({"bias": 1e9}, "bias"),
    ],
)
def test_settings_of_the_loss_are_checked(plan, part, message):
    with pytest.raises(FormatError, match=message):
        plan("frozen text", loss=part)
