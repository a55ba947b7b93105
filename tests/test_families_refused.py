"""Checkpoints of other projects that contradict themselves, lack something, are other models."""

import json

import numpy as np
import pytest
from needs import needs

import reclap
from reclap.checkpoints.families import detect
from reclap.errors import FormatError

torch = needs("torch", "oracle")
transformers = needs("transformers", "oracle")

from test_families import RATE, clap_model, laion_state, mel_bank, save_folder  # noqa: E402

pytestmark = pytest.mark.oracle

# Section, key, what config.json says, what the tensors have.
CONTRADICTIONS = [
    ("", "projection_dim", 512, 24),
    ("", "projection_hidden_act", "gelu", "relu"),
    ("audio_config", "depths", [2, 3], [2, 2]),
    ("audio_config", "num_attention_heads", [2, 2], [1, 2]),
    ("audio_config", "patch_embeds_hidden_size", 96, 16),
    ("audio_config", "hidden_size", 768, 32),
    ("audio_config", "num_mel_bins", 128, 64),
    ("audio_config", "patch_size", 8, 4),
    ("audio_config", "patch_stride", [4, 2], [4, 4]),
    ("audio_config", "window_size", 4, 8),
    ("audio_config", "mlp_ratio", 2.0, 4.0),
    ("audio_config", "qkv_bias", False, True),
    ("audio_config", "enable_fusion", True, False),
    ("text_config", "vocab_size", 50265, 120),
    ("text_config", "hidden_size", 768, 128),
    ("text_config", "num_hidden_layers", 12, 2),
    ("text_config", "intermediate_size", 3072, 64),
    ("text_config", "max_position_embeddings", 514, 90),
    ("text_config", "type_vocab_size", 2, 1),
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a folder of transformers' ClapModel; not to be changed."""
    rng = np.random.default_rng(7)
    return save_folder(clap_model(rng), tmp_path_factory.mktemp("saved"))


def changed(saved, folder, section, key, value):
    """Link a folder with one setting of config.json changed."""
    for path in saved.iterdir():
        (folder / path.name).symlink_to(path)
    config = json.loads((saved / "config.json").read_text())
    (config[section] if section else config)[key] = value
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(("section", "key", "says", "have"), CONTRADICTIONS)
def test_contradiction_with_config_json_shows_both(saved, tmp_path, section, key, says, have):
    folder = changed(saved, tmp_path, section, key, says)
    name = f"{section}.{key}" if section else key
    with pytest.raises(FormatError) as caught:
        reclap.load(folder)
    assert f"{name} is {says!r}, the tensors have {have!r}" in str(caught.value)
    assert str(folder / "config.json") in str(caught.value)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("audio_config", "spec_size", "big", "spec_size is 'big', expected int"),
        ("audio_config", "spec_size", 250, "the audio tower takes 1 to 976"),
        ("text_config", "layer_norm_eps", None, "layer_norm_eps is None, expected float"),
        ("text_config", "num_attention_heads", 3, "heads: 3 does not divide"),
        ("text_config", "pad_token_id", True, "pad_token_id is True"),
        ("", "text_config", [1], r"text_config is \[1\], expected an object"),
    ],
)
def test_settings_that_cannot_be_are_named(saved, tmp_path, section, key, value, message):
    with pytest.raises(FormatError, match=message):
        reclap.load(changed(saved, tmp_path, section, key, value))


@pytest.mark.parametrize("name", ["preprocessor_config.json", "processor_config.json"])
def test_front_end_of_the_other_kind_is_a_contradiction(saved, tmp_path, name):
    folder = changed(saved, tmp_path, "", "architectures", ["ClapModel"])
    said = {"truncation": "fusion", "feature_extractor_type": "ClapFeatureExtractor"}
    nested = {"feature_extractor": said} if name.startswith("processor") else said
    (folder / name).write_text(json.dumps(nested))
    with pytest.raises(FormatError, match=r"truncation is 'fusion', the weights are .* without"):
        reclap.load(folder)
    said |= {"truncation": "rand_trunc", "hop_length": "480"}
    (folder / name).write_text(json.dumps(nested))
    with pytest.raises(FormatError, match=rf"{name}\.hop_length: expected int"):
        reclap.load(folder)


@pytest.mark.parametrize(
    ("bank", "message"),
    [
        (mel_bank(RATE, fmax=8000), r"covers the bins 2 to 170 .*expected 2 to 298"),
        (mel_bank(44100), r"another mel bank than that of 48000 Hz, n_fft 1024, 50 to 14000 Hz"),
        (torch.zeros(769, 64), r"melW is float32 \[769, 64\], expected float32 \[513, 64\]"),
        (torch.full((513, 64), torch.nan), "by up to nan"),
    ],
)
def test_another_mel_bank_is_refused(rng, tmp_path, bank, message):
    name = "audio_branch.logmel_extractor.melW"
    torch.save(laion_state(clap_model(rng)) | {name: bank}, tmp_path / "model.pt")
    with pytest.raises(FormatError, match=message):
        reclap.load(tmp_path / "model.pt")
    fused = laion_state(clap_model(rng, fused=True)) | {name: bank}  # which has another bank
    torch.save(fused, tmp_path / "fused.pt")
    if bank.shape == (513, 64):
        assert reclap.load(tmp_path / "fused.pt").config.front.mel_scale == "htk"
    else:
        with pytest.raises(FormatError, match=message):
            reclap.load(tmp_path / "fused.pt")


@pytest.mark.parametrize("fused", [False, True])
def test_another_transform_is_refused(rng, tmp_path, fused):
    """As HTSAT-tiny-win-1536 has it."""
    name = "audio_branch.spectrogram_extractor.stft.conv_real.weight"
    state = laion_state(clap_model(rng, fused=fused)) | {name: torch.zeros(769, 1, 1536)}
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(FormatError, match=r"conv_real.*\[769, 1, 1536\], .*\[513, 1, 1024\]"):
        reclap.load(tmp_path / "model.pt")


@pytest.mark.parametrize("fault", ["missing", "extra", "shape"])
def test_wrong_tensors_are_named(rng, tmp_path, fault):
    state = laion_state(clap_model(rng))
    name = "audio_branch.layers.0.blocks.1.mlp.fc2.bias"
    if fault == "missing":
        del state[name]
    elif fault == "extra":
        state["audio_branch.layers.0.blocks.1.more"] = torch.zeros(2)
    else:
        state[name] = torch.zeros(3)
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(FormatError, match=r"layers\.0\.blocks\.1\.(mlp\.fc2\.bias|more)"):
        reclap.load(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.ones(3), r"logit_scale_a has shape \[3\], expected a single number"),
        (torch.tensor(1e4), r"model\.pt: logit_scale is 10000\.0, whose exponential is inf"),
    ],
)
def test_temperature_that_cannot_be_is_named(rng, tmp_path, value, message):
    torch.save(laion_state(clap_model(rng)) | {"logit_scale_a": value}, tmp_path / "model.pt")
    with pytest.raises(FormatError, match=message):
        reclap.load(tmp_path / "model.pt")


def test_other_models_are_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(FormatError, match="'bert' model of transformers"):
        reclap.load(tmp_path)
    torch.save({"state_dict": {"layer.weight": torch.zeros(2, 2)}}, tmp_path / "other.pt")
    with pytest.raises(FormatError, match="audio_branch"):
        detect.read(tmp_path / "other.pt")
