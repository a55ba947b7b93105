"""Model folders: round trips, foreign files, damaged files."""

import dataclasses
import json
import random
import re
import shutil
from pathlib import Path

import folders
import numpy as np
import pytest
import safetensors
import safetensors.numpy

import reclap
from reclap.checkpoints import model_folder
from reclap.config import ClapConfig, Cnn14Config, TextConfig
from reclap.errors import FormatError
from reclap.text import Tokenizer


@pytest.fixture
def folder(small_folder: Path, tmp_path: Path) -> Path:
    """Return a copy of the small model that a test may spoil."""
    return Path(shutil.copytree(small_folder, tmp_path / "model"))


# ---- Round trips ---------------------------------------------------------------------------------


def test_saved_model_is_the_same(small, tmp_path, tones):
    small.save(tmp_path / "a" / "copy")
    copy = reclap.load(tmp_path / "a" / "copy", threads=2)
    assert copy.config == small.config
    assert copy.digest == small.digest
    np.testing.assert_array_equal(copy.embed_audio(tones), small.embed_audio(tones))
    np.testing.assert_array_equal(copy.embed_text(["rain"]), small.embed_text(["rain"]))


def test_model_saves_onto_its_own_folder(folder, tones):
    model = reclap.load(folder)
    rows = model.embed_audio(tones)
    names = sorted(path.name for path in folder.iterdir())
    for _ in range(2):
        model.save(folder)
        assert sorted(path.name for path in folder.iterdir()) == names
    np.testing.assert_array_equal(model.embed_audio(tones), rows)
    assert reclap.load(folder).digest == model.digest


@pytest.mark.parametrize("change", ["gone", "another"])
def test_saved_model_is_what_was_loaded_not_what_the_folder_holds_now(folder, tmp_path, change):
    model = reclap.load(folder)
    for name in (
        model_folder.TEXT,
        model_folder.TOKENIZER,
        model_folder.MODEL,
        model_folder.CONFIG,
    ):
        (folder / name).unlink()
        if change == "another":
            (folder / name).write_bytes(b"something else")
    model.save(tmp_path / "saved")
    saved = reclap.load(tmp_path / "saved")
    assert (saved.digest, saved.text_digest) == (model.digest, model.text_digest)
    # The model says where texts are cut, not its tokenizer, which others read, too.
    assert (
        json.loads((tmp_path / "saved" / model_folder.TOKENIZER).read_text())["truncation"] is None
    )


def test_model_saves_over_another(small, tmp_path):
    other = folders.write_folder(tmp_path / "model", seed=5)
    assert reclap.load(other).digest != small.digest
    small.save(other)
    assert reclap.load(other).digest == small.digest


def test_linked_save_shares_the_text_tower(small, small_folder, tmp_path):
    own = dict(model_folder.read_tensors(small_folder / model_folder.MODEL))
    for _ in range(2):
        model_folder.save(tmp_path, small.config, own, small_folder, link=True)
    assert (tmp_path / model_folder.TEXT).samefile(small_folder / model_folder.TEXT)
    assert len(list(tmp_path.iterdir())) == 4
    assert reclap.load(tmp_path).digest == small.digest


def test_digest_knows_weights_and_preprocessing_but_nothing_else(folder, small):
    path = folder / model_folder.CONFIG
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"name": "other", "template": "hear {label}"}))
    assert reclap.load(folder).digest == small.digest
    of_training = {"drop_path": 0.5, "dropout": 0.1, "time_width": 3, "bn_momentum": 0.2}
    path.write_text(json.dumps(data | {"audio": data["audio"] | of_training}))
    assert reclap.load(folder).digest == small.digest
    path.write_text(json.dumps(data | {"front": data["front"] | {"padding": "pad"}}))
    assert reclap.load(folder).digest != small.digest


def test_digest_of_a_cnn14_does_not_know_how_it_is_trained():
    weights = [("a", np.zeros(3, np.float32))]
    tower = Cnn14Config(widths=(8, 16))
    how = {"dropout": 0.1, "fc_dropout": 0.3, "bn_momentum": 0.2}
    towers = (tower, dataclasses.replace(tower, **how))
    digests = {model_folder.digest(ClapConfig(audio=tower), weights) for tower in towers}
    assert len(digests) == 1


def test_digest_knows_the_names_of_the_weights(small):
    """Which kind of audio tower it is, only the names tell."""
    x, y = np.zeros(3, np.float32), np.ones(3, np.float32)
    digests = {
        model_folder.digest(small.config, pairs)
        for pairs in ([("a", x), ("b", y)], [("b", x), ("a", y)], [("a", x), ("c", y)])
    }
    assert len(digests) == 3


def test_config_survives_json(small):
    data = json.loads(json.dumps(small.config.to_json()))
    assert ClapConfig.from_json(data) == small.config


# ---- safetensors ---------------------------------------------------------------------------------

ARRAYS = {
    "f32": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
    "f16": np.linspace(-1, 1, 5, dtype=np.float16),
    "f64": np.array(np.pi),
    "i8": np.arange(-3, 3, dtype=np.int8).reshape(2, 3),
    "u8": np.arange(7, dtype=np.uint8),
    "i32": np.array([[-7]], np.int32),
    "i64": np.array([2**40]),
    "none": np.zeros((0, 3), np.float32),
}


def test_safetensors_package_reads_our_files(tmp_path):
    model_folder.write_tensors(tmp_path / "x", ARRAYS, {"who": "we"})
    found = safetensors.numpy.load_file(tmp_path / "x")
    assert list(map(str, found)) == list(map(str, ARRAYS)) or set(found) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    with safetensors.safe_open(tmp_path / "x", "np") as f:
        assert f.metadata() == {"format": "reclap-1", "who": "we"}


def test_we_read_files_of_the_safetensors_package(tmp_path):
    safetensors.numpy.save_file(ARRAYS, tmp_path / "x", {"format": "pt"})
    found = model_folder.read_tensors(tmp_path / "x")
    assert set(found) == set(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)


def test_data_starts_on_a_cache_line(tmp_path):
    model_folder.write_tensors(tmp_path / "x", ARRAYS)
    length = int.from_bytes((tmp_path / "x").read_bytes()[:8], "little")
    assert (8 + length) % 64 == 0


def test_writer_takes_views_and_foreign_byte_order(tmp_path):
    arrays = {"t": ARRAYS["f32"].T, "step": np.arange(9.0)[::3], "big": np.arange(4, dtype=">f4")}
    model_folder.write_tensors(tmp_path / "x", arrays)
    for name, array in model_folder.read_tensors(tmp_path / "x").items():
        np.testing.assert_array_equal(array, arrays[name])


def test_writer_refuses_other_types_and_writes_nothing(tmp_path):
    with pytest.raises(TypeError, match=r"odd: .*complex128"):
        model_folder.write_tensors(tmp_path / "x", {"odd": np.zeros(3, complex)})
    assert list(tmp_path.iterdir()) == []


def test_bfloat16_is_widened_exactly(tmp_path):
    values = np.array([1.0, -2.5, 3e38, 1e-30, 0.0], np.float32)
    bits = (values.view(np.uint32) >> 16).astype("<u2")
    header = {"x": {"dtype": "BF16", "shape": [5], "data_offsets": [0, 10]}}
    _write_raw(tmp_path / "x", json.dumps(header).encode(), bits.tobytes())
    found = model_folder.read_tensors(tmp_path / "x")["x"]
    np.testing.assert_array_equal(found, (bits.astype(np.uint32) << 16).view(np.float32))


@pytest.mark.parametrize("kind", ["F16", "I8"])
def test_compact_weights_load_as_float32(folder, small, tones, kind):
    path = folder / model_folder.MODEL
    tensors = {name: np.array(x) for name, x in model_folder.read_tensors(path).items()}
    for name, x in list(tensors.items()):
        if kind == "F16":
            tensors[name] = x.astype(np.float16)
        elif x.ndim == 2:
            scale = np.abs(x).max(axis=1) / 127 + 1e-9
            tensors[name] = np.round(x / scale[:, np.newaxis]).astype(np.int8)
            tensors[f"{name}.scale"] = scale.astype(np.float32)
    model_folder.write_tensors(path, tensors)
    close = reclap.load(folder).embed_audio(tones) - small.embed_audio(tones)
    assert 0 < np.abs(close).max() < 0.05


def test_int8_needs_its_scales(folder):
    name = _spoil(folder, lambda x: x.astype(np.int8))
    with pytest.raises(
        reclap.FormatError, match=re.escape(name) + ": int8 without one scale a row"
    ):
        reclap.load(folder)


def test_integer_weights_are_refused(folder):
    name = _spoil(folder, lambda x: x.astype(np.int32))
    with pytest.raises(reclap.FormatError, match=re.escape(name) + ": expected a floating-point"):
        reclap.load(folder)


def _spoil(folder: Path, change) -> str:
    """Change one tensor of the audio tower; return its name."""
    path = folder / model_folder.MODEL
    tensors = {name: np.array(x) for name, x in model_folder.read_tensors(path).items()}
    name = next(n for n, x in tensors.items() if x.ndim == 2)
    tensors[name] = change(tensors[name])
    model_folder.write_tensors(path, tensors)
    return name


def test_every_tensor_that_does_not_fit_is_named_at_once(folder):
    path = folder / model_folder.MODEL
    tensors = {name: np.array(x) for name, x in model_folder.read_tensors(path).items()}
    names = [name for name, x in tensors.items() if x.ndim == 2][:4]
    for name in names[:2]:
        del tensors[name]
    for name in names[2:]:
        tensors[name] = tensors[name][:, 1:]
    tensors |= {"extra": np.zeros(1), "other.scale": np.zeros(1)}
    model_folder.write_tensors(path, tensors)
    with pytest.raises(reclap.FormatError) as caught:
        reclap.load(folder)
    text = str(caught.value)
    assert str(folder) in text
    assert f"2 missing: {names[0]}; {names[1]}" in text
    assert "2 unexpected: extra; other.scale" in text
    assert f"2 misshapen: {names[2]} is " in text
    assert f"; {names[3]} is " in text


# ---- Damaged files -------------------------------------------------------------------------------


def _write_raw(path: Path, header: bytes, data: bytes = b"", length: int | None = None) -> None:
    size = len(header) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + header + data)


def _entry(**changes) -> bytes:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes
    return json.dumps({"x": entry}).encode()


@pytest.mark.parametrize(
    ("header", "text"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b"[]", "expected an object|list"),
        (b"[" * 100_000, "not JSON"),
        (b'{"x": 3}', "x: expected an object, got 3"),
        (_entry(dtype="F31"), "x: dtype is 'F31'"),
        (_entry(dtype=["F32"]), "x: dtype is"),
        (_entry(dtype=None), "x: dtype is None"),
        (_entry(shape=None), "x: shape is None"),
        (_entry(shape=[-2]), "x: shape is"),
        (_entry(shape=[2.0]), "x: shape is"),
        (_entry(shape=[True, 2]), "x: shape is"),
        (_entry(shape=[3]), "do not hold F32"),
        (_entry(shape=[2**61, 2**61]), "do not hold F32"),
        (_entry(shape=[2**63]), "x: shape is"),
        (_entry(shape=[1] * 99 + [2]), "x: shape is"),
        (_entry(data_offsets=[0]), "x: data_offsets is"),
        (_entry(data_offsets=[8, 0]), "do not hold"),
        (_entry(data_offsets=[-8, 0]), "x: data_offsets is"),
        (_entry(data_offsets=[4, 12]), "bytes 4 to 12 of 8"),
        (_entry(data_offsets=[0, 2**70]), "x: data_offsets is"),
        (_entry(data_offsets={"0": 8}), "x: data_offsets is"),
        (b'{"x": {"dtype": "F32", "shape": [1e999], "data_offsets": [0, 8]}}', "x: shape is"),
        (b'{"x": {"dtype": "F32", "shape": [' + b"9" * 5000 + b"]}}", "not JSON"),
    ],
)
def test_hostile_header(tmp_path, header, text):
    path = tmp_path / "bad.safetensors"
    _write_raw(path, header, bytes(8))
    with pytest.raises(reclap.FormatError, match=text) as caught:
        model_folder.read_tensors(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("size", [0, 1, 7])
def test_file_shorter_than_its_first_number(tmp_path, size):
    (tmp_path / "x").write_bytes(bytes(size))
    with pytest.raises(reclap.FormatError, match=f"no safetensors file: {size} bytes"):
        model_folder.read_tensors(tmp_path / "x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of git-lfs in its place"),
        (b"  <html><body>404</body></html>", "a web page in its place"),
        (b"PK\x03\x04" + bytes(100), "a zip file, as torch.save writes; call it .pt"),
    ],
)
def test_file_that_is_something_else_is_named(folder, content, message):
    (folder / model_folder.MODEL).write_bytes(content)
    with pytest.raises(reclap.FormatError, match=f"no safetensors file: {message}"):
        reclap.load(folder)
    if not content.startswith(b"PK"):
        for name in (model_folder.TOKENIZER, model_folder.CONFIG):
            (folder / name).write_bytes(content)
            with pytest.raises(reclap.FormatError, match=rf"{name}: .*{message}"):
                reclap.load(folder) if name == model_folder.CONFIG else Tokenizer(
                    folder / name, TextConfig(max_tokens=32)
                )


@pytest.mark.parametrize("length", [3, 2**31, 2**63, 2**64 - 1])
def test_header_that_is_longer_than_the_file(tmp_path, length):
    _write_raw(tmp_path / "x", b"{}", length=length)
    with pytest.raises(reclap.FormatError, match=f"header of {length}"):
        model_folder.read_tensors(tmp_path / "x")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"format": "reclap-99"}, 'expected a model configuration with "format"'),
        ({"odd": 1}, "unknown odd"),
        ({"dim": "20"}, "dim: expected int from 1 to 16384, got '20'"),
        ({"dim": 10**30}, r"config\.json\.dim: "),
        ({"dim": -1}, "dim"),
        ({"audio": []}, "audio: expected a table"),
        (
            {"audio": {"depths": [1], "heads": [1, 1]}},
            "audio: heads has 2 stages, depths has 1",
        ),
        ({"audio": {"depths": []}}, r"config\.json\.audio\.depths: expected .*, 1 to 8 of them"),
        ({"audio": {"depths": [10**9], "heads": [1]}}, "depths"),
        ({"audio": {"eps": "small"}}, "audio.eps: expected float"),
        ({"text": {"pool": "max"}}, r"text\.pool: expected one of mean, .*, got 'max'"),
        ({"text": {"width": 0}}, r"config\.json\.text\.width: "),
        ({"text": {"max_tokens": 4000}}, "text: max_tokens is 4000"),
        ({"front": {"rate": "fast"}}, "config.json.front.rate: expected int from .*, got 'fast'"),
        ({"front": {"samples": 10**12}}, r"front\.samples: "),
        ({"template": "no place"}, "template is 'no place'"),
        ({"audio_head": "deep"}, "audio_head: expected one of none, linear, mlp, ms, got 'deep'"),
    ],
)
def test_configuration_that_cannot_be(folder, change, text):
    path = folder / model_folder.CONFIG
    data = json.loads(path.read_text())
    for key, value in change.items():
        nested = isinstance(value, dict) and isinstance(data.get(key), dict)
        data[key] = data[key] | value if nested else value
    path.write_text(json.dumps(data))
    with pytest.raises(reclap.FormatError, match=text) as caught:
        reclap.load(folder)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xff", b"[" * 100_000])
@pytest.mark.parametrize("name", [model_folder.CONFIG, model_folder.TOKENIZER])
def test_damaged_json_file_is_named(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(reclap.FormatError, match=re.escape(str(folder / name))):
        reclap.load(folder)


def _mutate(data: bytes, draw: random.Random) -> bytes:
    """Change, drop, double or insert a few bytes."""
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8))):
        at = draw.randrange(len(out))
        other = draw.randrange(len(out))
        action = draw.randrange(5)
        if action == 0:
            out[at] = draw.randrange(256)
        elif action == 1:
            out[at] ^= 1 << draw.randrange(8)
        elif action == 2:
            del out[at : at + draw.choice((1, 4, 64))]
        elif action == 3:
            out[at:at] = out[other : other + draw.choice((1, 4, 64))]
        else:
            out[at:at] = draw.choice((b"9", b"-", b"null", b"[", b"1e400", b'"', b"99999999999"))
        out = out or bytearray(b"0")
    return bytes(out)


@pytest.mark.parametrize(
    ("name", "span", "rounds"),
    [
        (model_folder.CONFIG, None, 150),
        (model_folder.TOKENIZER, None, 80),
        (model_folder.MODEL, 3000, 200),
        (model_folder.TEXT, 1500, 100),
    ],
)
def test_mutated_file_loads_or_raises_cleanly(folder, name, span, rounds):
    draw = random.Random(7)  # noqa: S311
    path = folder / name
    intact = path.read_bytes()
    refused = 0
    for _ in range(rounds):
        path.unlink()
        path.write_bytes(_mutate(intact[:span], draw) + (intact[span:] if span else b""))
        try:
            model = reclap.load(folder, threads=1)
            model.embed_text(["rain"])
        except ValueError:  # FormatError is one
            refused += 1
    assert refused > rounds / 10


def test_config_in_utf_16_is_refused(folder):
    path = folder / model_folder.CONFIG
    path.write_text(path.read_text(), "utf-16")
    with pytest.raises(reclap.FormatError, match=r"config\.json: not JSON"):
        model_folder.read_config(folder)


def test_tokenizer_without_its_unknown_token_is_refused(folder):
    path = folder / model_folder.TOKENIZER
    path.write_text(path.read_text().replace('"unk_token": "[UNK]"', '"unk_token": "[ODD]"'))
    assert "[ODD]" in path.read_text()
    with pytest.raises(reclap.FormatError, match=r"tokenizer\.json: not a usable tokenizer"):
        Tokenizer(path, TextConfig(max_tokens=32)).encode(["été"])


FRONT = json.loads((model_folder.resolve("mini") / "config.json").read_bytes())["front"]


@pytest.mark.parametrize("name", sorted(FRONT))
def test_settings_of_the_front_end_have_to_be_there(tmp_path, name):
    data = json.loads((model_folder.resolve("mini") / "config.json").read_bytes())
    assert model_folder.read_config(model_folder.resolve("mini")).front.silence == "skip"  # later
    del data["front"][name]
    (tmp_path / "config.json").write_text(json.dumps(data))
    with pytest.raises(FormatError, match=rf"config\.json: front: {name} missing"):
        model_folder.read_config(tmp_path)
    del data["front"]
    (tmp_path / "config.json").write_text(json.dumps(data))
    with pytest.raises(FormatError, match=r"front: rate, samples, .*level_db missing"):
        model_folder.read_config(tmp_path)
