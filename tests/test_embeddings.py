"""Files of embeddings, and comparisons of those of one model."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from closeness import f32

import reclap
from reclap import Embeddings, nearest
from reclap.errors import FormatError, ReclapError


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def sounds(rng):
    items = tuple(f"{i}.wav" for i in range(7))
    return Embeddings(unit(f32(rng, 7, 20)), items, "audio", "small", "a" * 64)


def test_a_file_brings_back_what_was_saved(sounds, tmp_path):
    sounds.save(tmp_path / "a.npz")
    found = Embeddings.load(tmp_path / "a.npz")
    np.testing.assert_array_equal(found.rows, sounds.rows)
    assert dataclasses.replace(found, rows=None) != sounds  # rows make equality ambiguous
    for field in ("items", "kind", "model", "digest"):
        assert getattr(found, field) == getattr(sounds, field)


def test_nearest_are_those_of_the_full_product(sounds, rng):
    texts = dataclasses.replace(sounds, rows=unit(f32(rng, 3, 20)), items=tuple("abc"), kind="text")
    found = nearest(texts, sounds, top_k=2)
    cosines = texts.rows.astype(np.float64) @ sounds.rows.T
    np.testing.assert_array_equal(found.order, np.argsort(-cosines)[:, :2])
    np.testing.assert_allclose(found.cosines, -np.sort(-cosines)[:, :2], atol=1e-6)
    assert nearest(texts, sounds, top_k=99).order.shape == (3, 7)


def test_embeddings_of_different_models_are_not_compared(sounds):
    other = dataclasses.replace(sounds, digest="b" * 64)
    with pytest.raises(ReclapError, match=r"different models .*digest aaaa.*, small .*digest bbbb"):
        nearest(sounds, other)


def test_the_way_sounds_are_prepared_is_part_of_the_digest(small_folder, tmp_path):
    folder = shutil.copytree(small_folder, tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    config["front"]["quantize"] = True
    (folder / "config.json").write_text(json.dumps(config))
    assert reclap.load(folder).digest != reclap.load(small_folder).digest


def test_requests_that_make_no_sense(sounds):
    with pytest.raises(ValueError, match="top_k is 0"):
        nearest(sounds, sounds, top_k=0)
    none = dataclasses.replace(sounds, rows=sounds.rows[:0], items=())
    with pytest.raises(ValueError, match="no item"):
        nearest(sounds, none)
    assert nearest(none, sounds).order.shape == (0, 5)


def faulty(sounds, tmp_path, fault):
    path = tmp_path / "x.npz"
    good = {"embeddings": sounds.rows, "items": np.array(sounds.items), "kind": "audio"}
    good |= {"model": "small", "digest": sounds.digest}
    if fault == "text":
        path.write_text("no archive")
    elif fault == "cut":
        np.savez(path, **good)
        path.write_bytes(path.read_bytes()[:-200])
    elif fault == "missing":
        np.savez(path, **{k: v for k, v in good.items() if k != "digest"})
    elif fault == "objects":
        np.savez(path, **good | {"items": np.array([{}] * 7, object)})
    elif fault == "count":
        np.savez(path, **good | {"items": good["items"][1:]})
    elif fault == "kind":
        np.savez(path, **good | {"kind": "smell"})
    else:
        np.save(path.with_suffix(".npy"), sounds.rows)
        path.with_suffix(".npy").rename(path)
    return path


@pytest.mark.parametrize(
    "fault", ["text", "cut", "missing", "objects", "count", "kind", "single array"]
)
def test_other_files_are_refused_by_name(sounds, tmp_path, fault):
    with pytest.raises(FormatError, match=r"x\.npz: no file of embeddings"):
        Embeddings.load(faulty(sounds, tmp_path, fault))
