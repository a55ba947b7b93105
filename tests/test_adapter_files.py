"""Adapter files: what merges is what was trained, and all else is refused by name."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from adapters import made_for, weights_of
from folders import CONFIG, fused_config, write_folder

import reclap
from reclap.checkpoints import adapter as adapters
from reclap.checkpoints import model_folder
from reclap.checkpoints.safetensors import read_metadata, read_tensors, write_tensors
from reclap.cli import main
from reclap.errors import FormatError
from reclap.runtime.libraries import core

TEXTS = ["a dog", "rain on a roof"]


@pytest.fixture
def made(small_folder, tmp_path):
    """Return an adapter of every linear weight of the small model, and its file."""
    adapter = made_for(small_folder, rank=2, alpha=3.0)
    adapters.save(tmp_path / "x.safetensors", adapter)
    return adapter, tmp_path / "x.safetensors"


def test_file_is_read_as_written(made):
    adapter, path = made
    found = adapters.load(path)
    assert found.config == adapter.config
    assert found.path == str(path)
    assert list(found.tensors) == list(adapter.tensors)
    for name, x in adapter.tensors.items():
        np.testing.assert_array_equal(found.tensors[name], x)


@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 5, 3), (300, 333, 4), (2, 70000, 1)])
def test_merged_is_the_formula(rng, shape):
    n, k, rank = shape
    w, a, b = (rng.standard_normal(s).astype(np.float32) for s in ((n, k), (rank, k), (n, rank)))
    got = adapters.merged(w, a, b, 0.75)
    want = w + 0.75 * b.astype(np.float64) @ a.astype(np.float64)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_merged_model_embeds_as_the_adapted_core(small_folder, made, tones):
    adapter, path = made
    plain, merged = reclap.load(small_folder), reclap.load(small_folder, adapter=path)
    assert adapter.config.base == plain.digest
    assert merged.digest != plain.digest
    assert (merged.info()["adapter"], plain.info()["adapter"]) == (str(path), None)

    config = model_folder.read_config(small_folder)
    trained = core.Model(**config.core_arguments(with_text=True))
    names = [name for name, _, _ in trained.parameters()]
    for name in weights_of(small_folder):
        trained.adapt(names.index(name), adapter.config.rank, adapter.config.alpha)
    shapes = [(n, s) for n, s, _ in trained.parameters()]
    base = model_folder.read_parameters(small_folder, shapes[: len(names)])
    trained.bind([*base, *(adapter.tensors[n] for n, _ in shapes[len(names) :])])
    weights = merged._weights
    weights.core, merged._core, before = trained, trained, merged.embed_audio(tones)
    np.testing.assert_allclose(merged.embed_audio(tones), before, atol=1e-5)
    assert np.abs(plain.embed_audio(tones) - before).max() > 1e-3
    other = reclap.load(small_folder, adapter=path).embed_text(TEXTS)
    np.testing.assert_allclose(merged.embed_text(TEXTS), other, atol=1e-5)


def test_whole_parameters_replace_those_of_the_base(small_folder, made, tmp_path):
    adapter, _ = made
    scale = {"logit_scale": np.array(1.5, np.float32)}
    adapters.save(tmp_path / "y", dataclasses.replace(adapter, tensors=scale))
    model = reclap.load(small_folder, adapter=tmp_path / "y")
    assert model.logit_scale == pytest.approx(np.exp(1.5))


def test_convert_writes_the_merged_model(small_folder, made, tmp_path, capsys):
    _, path = made
    out = tmp_path / "out"
    assert main(["convert", str(small_folder), str(out), "--adapter", str(path)]) == 0
    want = reclap.load(small_folder, adapter=path)
    assert reclap.load(out).digest == want.digest
    assert want.digest in capsys.readouterr().out
    assert main(["info", str(small_folder), "--adapter", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["adapter"] == str(path)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8", "float32x3"])
def test_merged_models_have_other_types(small_folder, made, dtype, tones):
    try:
        model = reclap.load(small_folder, adapter=made[1], dtype=dtype)
    except (ValueError, reclap.BackendError) as error:
        pytest.skip(str(error))
    want = reclap.load(small_folder, adapter=made[1]).embed_audio(tones)
    assert (model.embed_audio(tones) * want).sum(1).min() > 0.99


def test_pickled_model_keeps_its_adapter(small_folder, made):
    model = reclap.load(small_folder, adapter=made[1])
    options = model.__reduce__()[1][0].options
    assert options["adapter"] == str(made[1])
    assert model.__reduce__()[1][0].load().digest == model.digest


def test_adapter_of_another_model_is_refused(made, tmp_path):
    other = write_folder(tmp_path / "other", seed=5)
    base, digest = made[0].config.base[:12], reclap.load(other).digest[:12]
    message = rf"x\.safetensors: made for model {base}\.\.\. \(small\), this is {digest}\.\.\. \(sm"
    with pytest.raises(FormatError, match=message):
        reclap.load(other, adapter=made[1])
    sizes = CONFIG | {"audio": CONFIG["audio"] | {"embed": 8}}
    other = write_folder(tmp_path / "sizes", data=sizes)
    with pytest.raises(FormatError, match=rf"for model {base}\.\.\. \(small\), does not fit this"):
        reclap.load(other, adapter=made[1])


def test_base_with_another_front_end_is_refused(small_folder, made, tmp_path):
    other = shutil.copytree(small_folder, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["front"]["fmax"] = 7000.0
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(FormatError, match="made for model"):
        reclap.load(other, adapter=made[1])


def _without(tensors, name):
    return {n: x for n, x in tensors.items() if n != name}


WEIGHT = "audio_branch.layers.0.blocks.0.attn.qkv"
A, B = f"{WEIGHT}.lora_A.weight", f"{WEIGHT}.lora_B.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: _without(t, B), f"one of {A} and {B} is missing"),
        (lambda t: t | {A: t[A][:1]}, rf"{A} is \[1, 16\], expected \[2, 16\]"),
        (lambda t: t | {"x": t[A]}, r"x is \[2, 16\], expected no such tensor"),
        (lambda t: t | {A: np.full_like(t[A], np.nan)}, f"{A}: expected finite floating-point"),
        (lambda t: t | {A: t[A].astype(np.int32)}, f"{A}: expected finite floating-point"),
    ],
)
def test_wrong_tensors_are_named(small_folder, made, tmp_path, change, message):
    adapter, _ = made
    path = tmp_path / "bad.safetensors"
    adapters.save(path, dataclasses.replace(adapter, tensors=change(dict(adapter.tensors))))
    with pytest.raises(FormatError, match=message) as caught:
        reclap.load(small_folder, adapter=path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", 2, "version: expected 1, got 2"),
        ("rank", 0, r"rank: expected .*, got 0"),
        ("rank", 3, r"is \[2, 16\], expected \[3, 16\]"),
        ("alpha", -1.0, r"alpha: expected .*, got -1.0"),
        ("alpha", None, "alpha"),
        ("base", "0" * 63, "base: expected"),
        ("targets", "all", "targets"),
        ("more", 1, "unknown more"),
    ],
)
def test_wrong_headers_are_named(small_folder, made, tmp_path, key, value, message):
    path = tmp_path / "bad.safetensors"
    about = json.loads(read_metadata(made[1])["adapter"]) | {key: value}
    write_tensors(path, read_tensors(made[1]), {"adapter": json.dumps(about)})
    with pytest.raises(FormatError, match=message) as caught:
        reclap.load(small_folder, adapter=path)
    assert str(path) in str(caught.value)


def test_other_files_are_no_adapters(small_folder, tmp_path, capsys):
    with pytest.raises(FormatError, match=r"model\.safetensors: no adapter: the header has no"):
        reclap.load(small_folder, adapter=small_folder / "model.safetensors")
    with pytest.raises(FormatError, match=r"config\.json: no safetensors file"):
        reclap.load(small_folder, adapter=small_folder / "config.json")
    with pytest.raises(FileNotFoundError):
        reclap.load(small_folder, adapter=tmp_path / "absent")
    write_tensors(tmp_path / "list", {}, {"adapter": "[]"})
    with pytest.raises(FormatError, match="version: expected 1, got None"):
        reclap.load(small_folder, adapter=tmp_path / "list")
    args = ["embed", "--text", "a", "--model", str(small_folder), "--out", str(tmp_path / "o.npz")]
    assert main([*args, "--adapter", str(tmp_path / "absent")]) == 2
    assert "absent" in capsys.readouterr().err


def test_fusion_model_takes_an_adapter(tmp_path, tones):
    folder = write_folder(tmp_path / "fused", data=fused_config())
    adapters.save(tmp_path / "x", made_for(folder, rank=1, alpha=1.0))
    model = reclap.load(folder, adapter=tmp_path / "x")
    assert np.isfinite(model.embed_audio(tones[:2])).all()
