"""Files of embeddings, and comparisons of those of one model."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from closeness import f32

import reclap
from reclap import Embeddings, nearest
from reclap.errors import FormatError, ReclapError
from reclap.store import Header, Writer


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def sounds(rng):
    items = tuple(f"{i}.wav" for i in range(7))
    return Embeddings(unit(f32(rng, 7, 20)), items, "audio", "small", "a" * 64, "window_hop 0.5")


def test_a_file_brings_back_what_was_saved(sounds, tmp_path):
    sounds.save(tmp_path / "a.npz")
    found = Embeddings.load(tmp_path / "a.npz")
    np.testing.assert_array_equal(found.rows, sounds.rows)
    assert dataclasses.replace(found, rows=None) != sounds  # rows make equality ambiguous
    for field in ("items", "kind", "model", "digest", "preparation"):
        assert getattr(found, field) == getattr(sounds, field)


@pytest.mark.parametrize("name", ["a.npz", "a.store"])
@pytest.mark.parametrize("kind", [str, Path])
def test_paths_may_be_texts(sounds, tmp_path, name, kind):
    sounds.save(kind(tmp_path / name))
    sounds.save(kind(tmp_path / name))  # in its place
    found = Embeddings.load(kind(tmp_path / name))
    np.testing.assert_array_equal(found.rows, sounds.rows)
    told = (found.kind, found.model, found.digest, found.preparation)
    assert (found.items, told) == (
        sounds.items,
        ("audio", "small", sounds.digest, "window_hop 0.5"),
    )


def test_preparation_is_of_sounds_or_of_texts(small):
    assert small.preparation("audio") == ""
    assert small.preparation("audio", 0.5) == "window_hop 0.5"
    assert small.preparation("text").startswith("tokenizer ")
    with pytest.raises(ValueError, match="kind is 'texts', expected audio or text"):
        small.preparation("texts")


@pytest.mark.parametrize("name", ["a.npz", "a.store"])
def test_files_of_earlier_versions_are_read(sounds, tmp_path, name):
    """They do not tell the preparation."""
    if name == "a.npz":
        texts = {"kind": "text", "model": "small", "digest": sounds.digest}
        arrays = {key: np.array(value) for key, value in texts.items()}
        np.savez(tmp_path / name, embeddings=sounds.rows, items=np.array(sounds.items), **arrays)
    else:
        dataclasses.replace(sounds, kind="text", preparation="").save(tmp_path / name)
        assert "preparation" not in json.loads((tmp_path / name / "header.json").read_text())
    found = Embeddings.load(tmp_path / name)
    assert found.preparation == ""
    known = dataclasses.replace(found, preparation="tokenizer a")
    assert nearest(known, found).order.shape == (7, 5)
    with pytest.raises(ReclapError, match=r"different tokenizers .*: tokenizer a, tokenizer b"):
        nearest(known, dataclasses.replace(found, preparation="tokenizer b"))


@pytest.mark.parametrize("name", ["a.npy", "a", "a.npz.gz"])
def test_other_names_are_refused(sounds, tmp_path, name):
    with pytest.raises(ValueError, match=r"ends with \.npz or \.store"):
        sounds.save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_stores_is_read_as_one(sounds, tmp_path):
    half = [
        dataclasses.replace(sounds, rows=sounds.rows[part], items=sounds.items[part])
        for part in (slice(3), slice(3, None))
    ]
    for i, part in enumerate(half):
        part.save(tmp_path / f"{i}.store")
    found = Embeddings.load(tmp_path)
    np.testing.assert_array_equal(found.rows, sounds.rows)
    assert found.items == sounds.items


def test_stores_of_something_else_are_refused(tmp_path):
    with Writer(tmp_path / "a.store", Header("d", 3, "captions")):
        pass
    with pytest.raises(FormatError, match=r"a\.store: a store of captions"):
        Embeddings.load(tmp_path / "a.store")


def test_half_precision_is_widened(tmp_path):
    with Writer(tmp_path / "a.store", Header("d", 3, "text", type="float16")) as w:
        w.append(np.eye(3), ["a", "b", "c"])
    found = Embeddings.load(tmp_path / "a.store")
    assert found.rows.dtype == np.float32
    assert nearest(found, found, 1).order[:, 0].tolist() == [0, 1, 2]


def test_long_items_do_not_blow_up_an_archive(sounds, tmp_path):
    items = ("x" * 2_000_000, *"a" * 99)
    many = dataclasses.replace(sounds, rows=np.zeros((100, 20), np.float32), items=items)
    with pytest.raises(ValueError, match=r"0\.8 GB in an \.npz; write a \.store"):
        many.save(tmp_path / "a.npz")
    many.save(tmp_path / "a.store")
    assert Embeddings.load(tmp_path / "a.store").items == items


def test_digests_are_compared_in_full(sounds):
    other = dataclasses.replace(sounds, digest="a" * 63 + "b")
    with pytest.raises(ReclapError, match=f"{'a' * 63}b"):
        nearest(sounds, other)


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
    elif fault == "deflate":
        np.savez_compressed(path, **good)
        data = bytearray(path.read_bytes())
        data[60:90] = bytes(30)
        path.write_bytes(data)
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
    "fault", ["text", "cut", "deflate", "missing", "objects", "count", "kind", "single array"]
)
def test_other_files_are_refused_by_name(sounds, tmp_path, fault):
    with pytest.raises(FormatError, match=r"x\.npz: no file of embeddings"):
        Embeddings.load(faulty(sounds, tmp_path, fault))
