"""Excerpts: rows of a manifest that name part of a file, in everything that decodes sounds."""

import json
import logging
from types import SimpleNamespace

import folders
import numpy as np
import pytest
from folders import RATE
from test_evaluate import CONFIG, Encoder, Learner

from reclap import audio
from reclap.audio import streams
from reclap.datasets import check_recordings
from reclap.errors import FormatError
from reclap.io import manifest
from reclap.io.excerpts import Excerpt
from reclap.review.example_sounds import clips_of
from reclap.training.augment import Augment
from reclap.training.data import Batches, Data
from reclap.training.evaluate import Evaluation
from reclap.training.identity import differences
from reclap.training.recipe import Recipe, Run

TONES = (300.0, 1200.0, 5000.0)  # one a second
LABELS = ("low", "middle", "high")


def hum(hz, seconds=1.0, rate=RATE):
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)).astype("f4")


@pytest.fixture
def tones(tmp_path):
    """Return a file of three seconds, each with a tone of its own."""
    return folders.write_wav(tmp_path / "tones.wav", np.concatenate([hum(hz) for hz in TONES]))


def write(folder, rows, name="m.jsonl"):
    path = folder / name
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


@pytest.fixture
def windows(tones):
    """Return a manifest of the windows of that file."""
    return write(
        tones.parent,
        [
            {
                "path": tones.name,
                "caption": f"A {label} tone",
                "label": label,
                "start": i,
                "seconds": 1,
            }
            for i, label in enumerate(LABELS)
        ],
    )


def loudest(samples, rate=RATE):
    return float(np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples))


# ---- Manifests -------------------------------------------------------------------------------


def test_row_with_a_start_is_an_excerpt(windows, tones):
    rows = manifest.read(windows)
    assert [row.sound for row in rows] == [Excerpt(tones, i, 1) for i in range(3)]
    assert {row.path for row in rows} == {tones}
    assert rows[1].extra == {"label": "middle", "start": "1", "seconds": "1"}


def test_length_alone_cuts_nothing_off(tones):
    rows = [
        {"path": tones.name, "caption": "a", "seconds": 0.1},
        {"path": tones.name, "caption": "a", "start": None, "seconds": 0.1},
        {"path": tones.name, "caption": "a", "start": 2},
    ]
    found = [row.sound for row in manifest.read(write(tones.parent, rows))]
    assert found == [tones, tones, Excerpt(tones, 2.0)]


def test_cells_of_csv_are_numbers(tones):
    path = tones.parent / "m.csv"
    path.write_text("path,caption,start,seconds\ntones.wav,a,1.5,0.25\ntones.wav,a,,3\n")
    assert [row.sound for row in manifest.read(path)] == [Excerpt(tones, 1.5, 0.25), tones]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"start": -1}, "start: expected seconds, got -1"),
        ({"start": "soon"}, "start: expected seconds, got 'soon'"),
        ({"start": True}, "start: expected seconds, got True"),
        ({"start": 1e300}, "start: expected seconds"),
        ({"start": [1]}, "start: expected seconds"),
        ({"start": 1, "seconds": "nan"}, "seconds: expected seconds, got 'nan'"),
        ({"start": 1, "seconds": 0}, "seconds: expected more than 0"),
    ],
)
def test_what_is_no_time_is_refused_with_its_line(tones, columns, says):
    path = write(tones.parent, [{"path": tones.name, "caption": "a", **columns}])
    with pytest.raises(FormatError, match=rf"m\.jsonl:1: {says}"):
        manifest.read(path)
    (fault,) = check_recordings(path).faults
    assert (fault.check, says in fault.reason) == ("row", True)


def test_excerpts_that_meet_in_seconds_meet_in_frames(tones):
    ends = [Excerpt(tones, i * 3.7 / 3, 3.7 / 3).frames(44100) for i in range(3)]
    assert [stop for _, stop in ends[:2]] == [first for first, _ in ends[1:]]
    assert Excerpt(tones, 1, 1e-9).frames(RATE) == (RATE, RATE + 1)


# ---- Decoding --------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [streams.WHOLE, 5000])  # in memory; block by block
@pytest.mark.parametrize("skip", [1 << 18, 700])
def test_excerpt_decodes_to_its_samples(tones, monkeypatch, whole, skip):
    monkeypatch.setattr(streams, "WHOLE", whole)
    monkeypatch.setattr("reclap.audio.excerpt_reader.SKIP", skip)
    everything = audio.load(tones, RATE)
    for start, seconds in ((0, 1), (1, 1), (0.7, 1.1), (2.5, None), (2.9, 0.05)):
        excerpt = Excerpt(tones, start, seconds)
        first, stop = excerpt.frames(RATE)
        front = audio.AudioConfig(rate=RATE)
        np.testing.assert_array_equal(audio.load_front(excerpt, front), everything[first:stop])
        np.testing.assert_array_equal(audio.load(excerpt, RATE), everything[first:stop])
        np.testing.assert_array_equal(audio.read(excerpt).samples[:, 0], everything[first:stop])


@pytest.mark.parametrize("kind", ["FLAC", "OGG"])
def test_coded_files_have_excerpts(tmp_path, kind):
    soundfile = pytest.importorskip("soundfile")
    path = tmp_path / f"tones.{kind.lower()}"
    soundfile.write(path, np.concatenate([hum(hz) for hz in TONES]), RATE, format=kind)
    heard = [loudest(audio.load(Excerpt(path, i, 1), RATE)) for i in range(3)]
    np.testing.assert_allclose(heard, TONES, atol=2)


def test_excerpt_behind_the_end_is_refused_by_name(tones):
    with pytest.raises(FormatError, match=r"tones\.wav from 3 s: .* the file ends at 3 s"):
        audio.load(Excerpt(tones, 3, 1), RATE)


def test_excerpt_that_reaches_beyond_the_end_is_told(tones, caplog):
    with caplog.at_level(logging.WARNING):
        assert len(audio.load(Excerpt(tones, 2.5, 0.505), RATE)) == RATE // 2  # rounded
        assert not caplog.records
        assert len(audio.load(Excerpt(tones, 2.5, 1), RATE)) == RATE // 2
    assert "tones.wav from 2.5 s: the file was cut off, it lacks 0.50 of 1 s" in caplog.text


# ---- Readers of manifests --------------------------------------------------------------------


def test_training_hears_the_excerpt(windows, monkeypatch):
    front = audio.AudioConfig.from_json(folders.CONFIG["front"])
    rows = manifest.read(windows)
    batches = Batches(rows, Data("", batch=3), Augment(), front, 0)
    for step in range(3):
        batch = batches.batch(step)
        for mel, caption in zip(batch.mel, batch.captions, strict=True):
            (i,) = (i for i, label in enumerate(LABELS) if label in caption)
            alone = Batches([rows[i]], Data("", batch=1), Augment(), front, 0).batch(0)
            hummed = audio.log_mel(hum(TONES[i]), front)
            assert mel.mean(axis=0).argmax() == hummed.mean(axis=0).argmax()
            np.testing.assert_array_equal(mel, alone.mel[0])


def test_a_run_that_heard_whole_files_is_another(windows, tmp_path):
    """Runs begun before starts counted have the same manifest, and no word of excerpts."""
    for name in ("text.safetensors", "tokenizer.json"):
        (tmp_path / name).write_text("")
    whole = write(tmp_path, [{"path": "tones.wav", "caption": "a", "seconds": 3}], "whole.jsonl")

    def identity(path):
        return Recipe(Data(str(path)), Run(1)).identity(tmp_path, rows=manifest.read(path))

    before = identity(windows)
    del before["data"]["excerpts"]
    assert differences(before, identity(windows)) == ["data.excerpts: None, now True"]
    assert "excerpts" not in identity(whole)["data"]


def test_training_names_line_and_excerpt_of_a_bad_one(tones):
    path = write(tones.parent, [{"path": tones.name, "caption": "a", "start": 9}])
    front = audio.AudioConfig.from_json(folders.CONFIG["front"])
    batches = Batches(manifest.read(path), Data("", batch=1), Augment(), front, 0)
    with pytest.raises(FormatError, match=r"m\.jsonl:1: .*tones\.wav from 9 s: it starts at"):
        batches.batch(0)


def test_evaluation_hears_the_excerpt(windows):
    prompts = {label: [f"a {label} tone"] for label in LABELS}
    exam = Evaluation(manifest.read(windows), "label", prompts, CONFIG, Encoder())
    assert exam(Learner({}))["accuracy"] == 1


def test_model_embeds_the_sounds_of_rows(windows, tones, small):
    rows = manifest.read(windows)
    parts = audio.load(tones, RATE).reshape(3, RATE)
    found = small.embed_audio([row.sound for row in rows])
    np.testing.assert_array_equal(found, small.embed_audio(list(parts), rate=RATE))
    assert small.classify(rows[1].sound, ["a"])[0].file == f"{tones} from 1 s"


def test_check_looks_at_each_excerpt(tmp_path):
    samples = np.concatenate([hum(300), np.zeros(RATE, "f4"), hum(1200)])
    folders.write_wav(tmp_path / "a.wav", samples)
    spans = [(0, 1), (1, 1), (2, 2), (7, 1)]
    rows = [
        {"path": "a.wav", "caption": f"text {i}", "start": start, "seconds": seconds}
        for i, (start, seconds) in enumerate(spans)
    ]
    found = check_recordings(write(tmp_path, rows)).faults
    assert [(f.check, f.where.split(":")[1]) for f in found] == [
        ("silent", "2"),
        ("truncated", "3"),
        ("unreadable", "4"),
    ]
    assert "from 2 s: it lacks 1.00 of 2 s" in found[1].reason


def test_check_says_once_what_is_wrong_with_the_file(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"no sound at all, but long enough to be looked at" * 9)
    rows = [
        {"path": name, "caption": name, "start": i} for name in ("a.wav", "b.wav") for i in range(3)
    ]
    found = check_recordings(write(tmp_path, rows)).faults
    assert [f.check for f in found] == ["unreadable", "missing"]


def test_review_offers_a_file_once(windows, tones):
    manifest_of_one = write(
        tones.parent,
        [{"path": tones.name, "caption": "a", "label": "dog", "start": i} for i in range(3)],
    )
    item = SimpleNamespace(label="dog", sound=None)
    assert clips_of([item], manifest_of_one) == {"dog": [tones]}
