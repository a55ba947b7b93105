"""Checkpoints of LAION-CLAP's layout that we write: complete, and the same bits when read back."""

import dataclasses
import json

import numpy as np
import pytest
from closeness import f32
from needs import needs

import reclap
from reclap.audio import AudioConfig
from reclap.checkpoints import model_folder
from reclap.checkpoints.families import htsat_buffers, laion_export
from reclap.checkpoints.torch_file import write_state
from reclap.cli import main
from reclap.config import ClapConfig, Cnn14Config, HtsatConfig, TextConfig
from reclap.errors import FormatError
from reclap.pickles import read
from reclap.runtime.libraries import core

LAION = {"name": "m", "template": "This is a sound of {label}."}
FUSED = AudioConfig(mel_scale="htk", mel_norm="none", truncation="fusion")
SMALL = HtsatConfig(embed=16, depths=(2, 2), heads=(1, 2))
_SIZES = {"vocab": 120, "width": 128, "layers": 2, "heads": 2, "mlp": 64}
ROBERTA = dataclasses.replace(TextConfig.preset("roberta-base"), **_SIZES, positions=90)
BERT = dataclasses.replace(TextConfig.preset("bert-base"), **_SIZES, pool="pooler", max_tokens=77)
CLIP = dataclasses.replace(TextConfig.preset("clip-text"), **_SIZES)
T5 = dataclasses.replace(
    TextConfig.preset("flan-t5-large"),
    vocab=120,
    width=32,
    layers=2,
    heads=2,
    mlp=48,
    head_width=16,
)
T5_PLAIN = dataclasses.replace(T5, gated=False, activation="relu")
CNN14 = Cnn14Config(widths=(4, 4, 8, 8, 16, 16))
MODELS = {
    "roberta": (AudioConfig(), SMALL, ROBERTA),
    "bert": (AudioConfig(), SMALL, BERT),
    "clip": (AudioConfig(), SMALL, CLIP),
    "clip of laion": (AudioConfig(), SMALL, dataclasses.replace(CLIP, activation="gelu")),
    "reclap": (FUSED, dataclasses.replace(SMALL, fusion=True), T5),
    "t5 plain": (AudioConfig(), SMALL, T5_PLAIN),
    "cnn14": (AudioConfig(), CNN14, ROBERTA),
}


def model_of(rng, folder, parts, **heads):
    """Write and load a small model of random weights: front end and towers of `MODELS`."""
    front, audio, text = parts
    config = ClapConfig(front=front, audio=audio, text=text, dim=24, **LAION, **heads)
    shapes = core.Model(**config.core_arguments(with_text=True)).parameters()
    tensors = {
        name: f32(rng, *shape) ** 2 + 1 if name.endswith("running_var") else f32(rng, *shape) / 5
        for name, shape, _ in shapes
    }
    model_folder.save_all(folder, config, tensors, words())
    return reclap.load(folder, threads=1)


def words():
    """Return a tokenizer of whole words with RoBERTa's special tokens."""
    vocab = {w: i for i, w in enumerate(["<s>", "<pad>", "</s>", "<unk>", "rain", "dog"])}
    special = {"</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}
    special["<s>"] = {"id": "<s>", "ids": [0], "tokens": ["<s>"]}
    post = {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0]}
    post |= {"trim_offsets": True, "add_prefix_space": True}
    model = {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"}
    said = {"version": "1.0", "model": model, "pre_tokenizer": {"type": "Whitespace"}}
    return json.dumps(said | {"post_processor": post}).encode()


@pytest.mark.parametrize("kind", MODELS)
def test_our_reader_reads_back_every_bit(rng, tmp_path, kind):
    model = model_of(rng, tmp_path / "own", MODELS[kind])
    assert main(["convert", str(tmp_path / "own"), str(tmp_path / "out"), "--format=laion"]) == 0
    how = {"text_activation": "quick_gelu"} if kind == "clip" else {}
    again = reclap.load(tmp_path / "out" / "model.pt", threads=1, **how)
    have, want = (dict(m._weights.require_exact()) for m in (again, model))
    assert set(have) == set(want)
    for name, x in want.items():
        np.testing.assert_array_equal(np.asarray(have[name]), np.asarray(x), err_msg=name)
    assert again.config.audio == model.config.audio
    assert again.config.text == model.config.text
    assert np.array_equal(again.embed_text(["rain", "dog"]), model.embed_text(["rain", "dog"]))


@pytest.mark.oracle
@pytest.mark.parametrize("kind", ["reclap", "cnn14"])
def test_torch_loads_the_file(rng, tmp_path, kind):
    torch = needs("torch", "oracle")
    model = model_of(rng, tmp_path / "own", MODELS[kind])
    model.save(tmp_path / "out", format="laion")
    found = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    assert found["epoch"] == 0
    state = found["state_dict"]
    want = laion_export.state_dict(model.config, model._weights.require_exact())
    assert list(state) == list(want)
    for name, x in want.items():
        assert np.array_equal(state[name].numpy(), np.asarray(x)), name
    if kind == "reclap":
        tied = [state[f"text_branch.{n}.weight"] for n in ("shared", "encoder.embed_tokens")]
        assert tied[0].data_ptr() == tied[1].data_ptr()


def test_equal_models_are_equal_files(rng, tmp_path):
    model = model_of(rng, tmp_path / "own", MODELS["roberta"])
    for name in "ab":
        model.save(tmp_path / name, format="laion")
    a, b = ((tmp_path / name / "model.pt").read_bytes() for name in "ab")
    assert a == b


def test_state_keeps_types_and_shapes(tmp_path):
    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(2**40)}
    write_state(tmp_path / "x.pt", tensors, {"epoch": 2**40, "name": "é"})
    found = read(tmp_path / "x.pt")
    assert (found["epoch"], found["name"]) == (2**40, "é")
    for name, x in tensors.items():
        kept = found["state_dict"][name]
        assert kept.dtype == x.dtype
        np.testing.assert_array_equal(kept, x)
    with pytest.raises(TypeError, match=r"c: .* float64"):
        write_state(tmp_path / "y.pt", {"c": np.zeros(2)}, {})
    assert not (tmp_path / "y.pt").exists()


# What laion_clap's own models have; and positions, which its reader takes off RoBERTa's files.
PUBLISHED = {
    ("tiny", False, "roberta-base"): 417 + 1,
    ("tiny", True, "roberta-base"): 447 + 1,
    ("base", False, "roberta-base"): 504 + 1,
    ("base", True, "roberta-base"): 534 + 1,
    ("tiny", True, "flan-t5-large"): 468,
    ("base", True, "flan-t5-large"): 555,
    ("tiny", False, "clip-text"): 366,
    ("cnn14", False, "roberta-base"): 301 + 1,
}


@pytest.mark.parametrize(("audio", "fused", "text"), PUBLISHED)
def test_published_sizes_have_the_published_tensors(audio, fused, text):
    tower = Cnn14Config() if audio == "cnn14" else HtsatConfig.preset(audio)
    tower = dataclasses.replace(tower, fusion=True) if fused else tower
    front = FUSED if fused else AudioConfig()
    config = ClapConfig(front=front, audio=tower, text=TextConfig.preset(text), **LAION)
    shapes = core.Model(**config.core_arguments(with_text=True)).parameters()
    zeros = {name: np.broadcast_to(np.float32(0), shape) for name, shape, _ in shapes}
    state = laion_export.state_dict(config, zeros)
    assert len(state) == PUBLISHED[audio, fused, text]
    assert laion_export.misfits(config, state) == []


def test_fixed_transform_is_a_windowed_fourier_transform(rng):
    made = laion_export._transform(AudioConfig())
    frame = rng.standard_normal(1024)
    want = np.fft.rfft(frame * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1024) / 1024)))
    real, imaginary = (
        made[f"spectrogram_extractor.stft.conv_{x}.weight"][:, 0] @ frame for x in ("real", "imag")
    )
    np.testing.assert_allclose(real + 1j * imaginary, want, atol=2e-6)


@pytest.mark.oracle
def test_masks_are_those_of_transformers():
    transformers = needs("transformers", "oracle")
    torch = needs("torch", "oracle")
    from transformers.models.clap.modeling_clap import ClapAudioLayer

    config = transformers.ClapAudioConfig()
    layer = ClapAudioLayer(config, 96, (64, 64), 4, shift_size=4)
    for stage, side in enumerate((64, 32, 16)):
        want = layer.get_attn_mask(side, side, torch.float32, "cpu").numpy()
        np.testing.assert_array_equal(htsat_buffers.shift_mask(HtsatConfig(), stage), want)
    assert htsat_buffers.shift_mask(HtsatConfig(), 3) is None


def test_model_that_does_not_fit_is_refused_with_every_reason(mini, rng, tmp_path):
    with pytest.raises(FormatError, match="text_head is 'none', expected 'mlp'"):
        mini.save(tmp_path / "out", format="laion")
    config = model_of(rng, tmp_path / "own", MODELS["roberta"]).config
    front = dataclasses.replace(config.front, rate=32000, n_fft=512, level_db=1.0)
    other = dataclasses.replace(config, front=front, text=dataclasses.replace(ROBERTA, eps=0.5))
    tensors = model_folder.read_tensors(tmp_path / "own" / model_folder.MODEL)
    tensors = dict(tensors) | model_folder.read_tensors(tmp_path / "own" / model_folder.TEXT)
    with pytest.raises(FormatError) as caught:
        laion_export.write(tmp_path / "out", other, tensors, None)
    for reason in ("front.rate is 32000, expected 48000", "front.n_fft is 512", "text.eps is 0.5"):
        assert reason in str(caught.value)
    assert "front.level_db is 1.0, expected None" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_folder_of_something_else_is_left_alone(rng, tmp_path):
    model = model_of(rng, tmp_path / "own", MODELS["roberta"])
    with pytest.raises(FileExistsError, match=r"config\.json: is of something else"):
        model.save(tmp_path / "own", format="laion")
