"""Zero-shot accuracy during training."""

import folders
import numpy as np
import pytest
import training

from reclap.config import ClapConfig
from reclap.errors import FormatError
from reclap.io.manifest import Caption, Row
from reclap.training import evaluate
from reclap.training.evaluate import Evaluation

CONFIG = ClapConfig.from_json(folders.CONFIG)
TONES = {"low": 300.0, "middle": 1200.0, "high": 5000.0}


class Encoder:
    """A text tower whose feature of a text is the place of its label among the tones."""

    def features(self, texts):
        return np.array([[next(i for i, t in enumerate(TONES) if t in x)] for x in texts], "f4")


class Learner:
    """A model that hears tones; those in `confused` it takes for others."""

    def __init__(self, confused):
        self.confused = confused

    def embed_text(self, features):
        return np.eye(3, dtype="f4")[features[:, 0].astype(int)]

    def embed(self, mel, longer=None):
        loudest = mel.mean(axis=1).argmax(axis=1)
        heard = np.digitize(loudest, [4, 9])
        return np.eye(3, dtype="f4")[[self.confused.get(int(h), int(h)) for h in heard]]


@pytest.fixture
def rows(tmp_path):
    """Return four sounds of three labels, in no order; the last one is longer than a window."""
    parts = [("middle", 0.5), ("low", 0.5), ("high", 0.5), ("low", 3.0)]
    return [
        Row(
            folders.write_wav(tmp_path / f"{i}.wav", folders.tone(TONES[label], seconds)),
            (Caption("?"),),
            {"label": label},
            f"m.csv:{i + 2}",
        )
        for i, (label, seconds) in enumerate(parts)
    ]


def exam(rows, labels=("high", "low", "middle")):
    prompts = {label: [f"a {label} tone", f"{label} hum"] for label in labels}
    return Evaluation(rows, "label", prompts, CONFIG, Encoder())


def test_perfect_model_names_all(rows):
    found = exam(rows)(Learner({}))
    assert found == {"accuracy": 1.0, "clips": 4, "labels": {"high": 1, "low": 1, "middle": 1}}


def test_accuracy_is_that_of_the_clips_and_of_each_label(rows):
    found = exam(rows)(Learner({0: 2}))  # low sounds are called high
    assert found == {"accuracy": 0.5, "clips": 4, "labels": {"high": 1, "low": 0, "middle": 1}}


def test_windows_of_a_clip_decide_together(rows, tmp_path):
    for most, first, share in (("low", "high", 1.0), ("high", "low", 0.5)):
        parts = [folders.tone(TONES[first]), *[folders.tone(TONES[most])] * 2]
        folders.write_wav(tmp_path / "3.wav", np.concatenate(parts))
        assert exam(rows)(Learner({}))["labels"]["low"] == share


def test_without_cache_sounds_are_decoded_each_time(rows):
    prompts = {label: [label] for label in TONES}
    window = CONFIG.front.frames * CONFIG.front.mels * 4  # bytes
    again = Evaluation(
        rows, "label", prompts, CONFIG, Encoder(), threads=3, cache_bytes=6 * window - 1
    )
    kept = Evaluation(rows, "label", prompts, CONFIG, Encoder(), cache_bytes=6 * window)
    for _ in range(2):
        assert again(Learner({0: 2}))["accuracy"] == kept(Learner({0: 2}))["accuracy"] == 0.5
    rows[1].path.unlink()
    assert kept(Learner({}))["accuracy"] == 1
    with pytest.raises(FormatError, match=r"m\.csv:3: .*No such file"):
        again(Learner({}))


def test_bad_sound_names_its_line(rows):
    rows[2].path.write_bytes(b"RIFF")
    with pytest.raises(FormatError, match=r"m\.csv:4: .*2\.wav"):
        exam(rows)


def test_skipped_sound_is_left_out_and_reported_once(rows, caplog):
    rows[2].path.write_bytes(b"RIFF")  # the only one of its label
    prompts = {label: [label] for label in TONES}
    for room in (0, 1 << 30):  # of log-mels
        caplog.clear()
        found = Evaluation(
            rows, "label", prompts, CONFIG, Encoder(), cache_bytes=room, errors="skip"
        )
        for confused, accuracy in (({}, 1.0), ({0: 2}, 1 / 3)):
            said = found(Learner(confused))
            assert said["accuracy"] == pytest.approx(accuracy)
            assert said["clips"] == 3
            assert set(said["labels"]) == {"low", "middle"}
        (record,) = caplog.records
        assert "m.csv:4: " in record.message
        assert "2.wav" in record.message


def test_nothing_left_to_evaluate_is_an_error(rows):
    for row in rows:
        row.path.write_bytes(b"RIFF")
    with pytest.raises(FormatError, match=r"m\.csv:\d: .*\.wav"):
        Evaluation(rows, "label", {x: [x] for x in TONES}, CONFIG, Encoder(), errors="skip")


def test_recipe_says_whether_bad_sounds_are_skipped(tmp_path, small_folder):
    manifest = training.write_set(tmp_path)
    (tmp_path / "wind0.wav").write_bytes(b"RIFF")
    clips = len(manifest.read_text().splitlines())
    for errors in ("skip", "raise"):
        plan = training.recipe(manifest, small_folder, eval={"every": 1}, data={"errors": errors})
        if errors == "skip":
            assert Evaluation.from_recipe(plan, CONFIG, Asked())(Learner({}))["clips"] == clips - 1
        else:
            with pytest.raises(FormatError, match=r"wind0\.wav"):
                Evaluation.from_recipe(plan, CONFIG, Asked())


def test_prompts_of_an_unknown_label_are_refused(tmp_path, small_folder):
    manifest = training.write_set(tmp_path)
    for name, message in (("Horn", "did you mean 'horn'"), ("x", "but bell, drone, flute, horn")):
        plan = training.recipe(manifest, small_folder, eval={"every": 1, "prompts": {name: "A"}})
        with pytest.raises(FormatError, match=rf"eval\.prompts\.{name}: no such label .*{message}"):
            Evaluation.from_recipe(plan, CONFIG, Encoder())


class Asked(Encoder):
    """A text tower that keeps what it was asked."""

    def features(self, texts):
        self.texts = texts
        return np.zeros((len(texts), 1), "f4")


def test_recipe_asks_by_its_prompts_or_else_by_the_template(tmp_path, small_folder):
    manifest = training.write_set(tmp_path)
    given = {"every": 1, "prompts": {"bell": "ding", "horn": ["toot", "honk"]}}
    where = {"group": ["bell", "horn", "wind"]}
    encoder, exams = Asked(), []
    for room in (0, 1):  # of log-mels, in MiB
        part = training.recipe(
            manifest, small_folder, eval=given | {"where": where}, data={"cache_mb": room}
        )
        exams.append(Evaluation.from_recipe(part, CONFIG, encoder))
        assert encoder.texts == ["ding", "toot", "honk", "a sound of wind"]
        found = exams[-1](Learner({}))
        assert (found["clips"], list(found["labels"])) == (6, ["bell", "horn", "wind"])
    (tmp_path / "wind0.wav").unlink()
    assert exams[1](Learner({}))["clips"] == 6
    with pytest.raises(FormatError, match=r"jsonl:9: .*wind0\.wav"):
        exams[0](Learner({}))


def test_evaluation_needs_the_column_of_its_label(tmp_path, small_folder):
    part = training.recipe(
        training.write_set(tmp_path), small_folder, eval={"every": 1, "label": "kind"}
    )
    with pytest.raises(FormatError, match=r"^eval\.label: .*no column kind to evaluate by"):
        Evaluation.from_recipe(part, CONFIG, Encoder())


def test_progress_counts_clips(rows, monkeypatch):
    """The last of which has three windows."""
    bars = training.watch_bars(monkeypatch, evaluate)
    prompts = {label: [label] for label in TONES}
    for options in ({}, {"progress": True}):
        Evaluation(rows, "label", prompts, CONFIG, Encoder(), **options)
    assert [(bar.told, bar.n) for bar in bars] == [
        ((4, "clip", False), 4),
        ((4, "clip", True), 4),
    ]
