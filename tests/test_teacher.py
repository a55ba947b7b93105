"""Embeddings of a teacher, kept in the folder of a run."""

import dataclasses
import math

import numpy as np
import pytest
import training

import reclap
from reclap.errors import FormatError
from reclap.io import manifest
from reclap.io.excerpts import Excerpt
from reclap.store import Store
from reclap.training.teacher import SOUNDS, TEXTS, Teacher


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return manifest.read(training.write_set(tmp_path_factory.mktemp("sounds")))


@pytest.fixture(scope="module")
def model(small_folder):
    return reclap.load(small_folder, threads=1)


def make(model, rows, folder, texts=("a horn", "a bell"), **options):
    return Teacher(model, rows, texts, folder, progress=False, **options)


def test_embeddings_are_those_of_the_model(model, rows, tmp_path):
    teacher = make(model, rows, tmp_path)
    audio, text = teacher([(3,), (0, 4), (3,)], ["a bell", "another text"])
    np.testing.assert_allclose(
        audio, model.embed_audio([rows[i].path for i in (3, 0, 3)]), atol=1e-5
    )
    np.testing.assert_allclose(text, model.embed_text(["a bell", "another text"]), atol=1e-5)
    assert teacher.width == audio.shape[1] == model.config.dim
    assert teacher.log_scale == pytest.approx(math.log(model.logit_scale))


def test_sounds_and_texts_are_embedded_once(model, rows, tmp_path, monkeypatch):
    first = make(model, rows, tmp_path)([(1,)], ["a horn"])
    monkeypatch.setattr(type(model), "embed_audio", None)
    monkeypatch.setattr(type(model), "embed_text", None)
    again = make(model, rows, tmp_path)([(1,)], ["a horn"])
    for x, y in zip(first, again, strict=True):
        np.testing.assert_array_equal(x, y)
    assert len(Store(tmp_path / SOUNDS)) == len(rows)
    assert list(Store(tmp_path / TEXTS).items) == ["a horn", "a bell"]


def test_rows_of_one_sound_share_it_and_excerpts_do_not(model, rows, tmp_path):
    path = rows[5].path
    part = dataclasses.replace(rows[5], excerpt=Excerpt(path, 0.25, 0.25))
    teacher = make(model, [rows[5], part, rows[5]], tmp_path)
    whole, excerpt, same = teacher([(0,), (1,), (2,)], ["a horn"])[0]
    assert len(Store(tmp_path / SOUNDS)) == 2
    np.testing.assert_array_equal(whole, same)
    assert not np.array_equal(whole, excerpt)


def test_an_unreadable_sound_is_named_or_left_out(model, rows, tmp_path):
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"no sound")
    some = [rows[0], dataclasses.replace(rows[1], path=bad)]
    with pytest.raises(FormatError, match=r"bad\.wav"):
        make(model, some, tmp_path)
    with pytest.warns(reclap.SkippedWarning, match=r"bad\.wav"):
        teacher = make(model, some, tmp_path, errors="skip")
    audio, _ = teacher([(0,)], ["a horn"])
    assert np.isfinite(audio).all()
    with pytest.raises(FormatError, match=r"manifest.*bad\.wav: the teacher could not read it"):
        teacher([(1,)], ["a horn"])
