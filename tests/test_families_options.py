"""Options of transformers' ClapModel: loaded with its numbers, written as config.json says them."""

import copy
import json

import folders
import numpy as np
import pytest
import training
from oracle import LIVE
from safetensors.numpy import load_file, save_file

import reclap
from reclap.checkpoints.families import htsat_names
from reclap.config import TextConfig
from reclap.errors import FormatError
from reclap.training import loop, recipe

if LIVE:
    import torch
    import transformers
    from test_families import (
        RATE,
        TEXTS,
        clap_model,
        save_folder,
        sounds,
        theirs_audio,
        theirs_text,
    )

SAME = 2e-6  # unit vectors

# What config.json says, and our fields.
AUDIO = [
    ({"hidden_act": "gelu_python"}, {"activation": "gelu"}),
    ({"hidden_act": "gelu_new"}, {"activation": "gelu_tanh"}),
    ({"hidden_act": "gelu_pytorch_tanh"}, {"activation": "gelu_tanh"}),
    ({"hidden_act": "gelu_fast"}, {"activation": "gelu_tanh"}),
    ({"hidden_act": "gelu_accurate"}, {"activation": "gelu_tanh"}),
    ({"hidden_act": "relu"}, {"activation": "relu"}),
    ({"hidden_act": "quick_gelu"}, {"activation": "quick_gelu"}),
    ({"layer_norm_eps": 0.1}, {"block_eps": 0.1}),
    ({"mlp_ratio": 1.3}, {"mlp_ratio": 1.3}),
    ({"mlp_ratio": 3.0}, {"mlp_ratio": 3}),
    ({"qkv_bias": False}, {"qkv_bias": False}),
    ({"enable_patch_layer_norm": False}, {"patch_norm": False}),
]
ALL = [{k: v for pair in AUDIO[-8:] for k, v in pair[i].items()} for i in range(2)]
FUSED = [*(({"aff_block_r": r}, {"fusion_ratio": r}) for r in (1, 3, 5, 16))]
CASES = [(False, *case) for case in [*AUDIO, ALL]] + [(True, *case) for case in FUSED]
CASES += [(True, ALL[0] | {"aff_block_r": 2}, ALL[1] | {"fusion_ratio": 2})]


def named(case):
    return "_".join(f"{k}_{v}" for k, v in case[1].items()) if len(case[1]) == 1 else "all"


def has(config, fields):
    return {name: getattr(config, name) for name in fields} == fields


# ---- Without transformers ------------------------------------------------------------------------


def write_own(folder, fused, fields, text=()):
    """Write a model folder of ours that fits ClapModel."""
    data = copy.deepcopy(folders.fused_config() if fused else folders.CONFIG)
    roberta = vars(TextConfig.preset("roberta-base")) | data["text"] | dict(text)
    if fused:
        data["front"] |= {"mel_scale": "htk", "mel_norm": "none"}
    roberta |= {"pool": "pooler", "types": 1, "position_offset": 1, "eps": 1e-5}
    return folders.write_folder(
        folder, data=data | {"audio": data["audio"] | fields, "text": roberta}
    )


@pytest.mark.parametrize("case", CASES, ids=named)
def test_options_are_written_and_read_back(tmp_path, tones, case):
    fused, says, fields = case
    model = reclap.load(write_own(tmp_path / "own", fused, fields, {"activation": "relu"}))
    model.save(tmp_path / "hf", format="hf")
    said = json.loads((tmp_path / "hf" / "config.json").read_text())
    written = (
        says if fields.get("activation") != "gelu_tanh" else {"hidden_act": "gelu_pytorch_tanh"}
    )
    written = {} if "gelu_python" in says.values() else written
    assert {key: said["audio_config"][key] for key in written} == written
    assert said["text_config"]["hidden_act"] == "relu"
    again = reclap.load(tmp_path / "hf")
    assert has(again.config.audio, fields)
    assert again.config.audio == model.config.audio
    assert again.digest == model.digest
    np.testing.assert_array_equal(again.embed_audio(tones), model.embed_audio(tones))
    np.testing.assert_array_equal(again.embed_text(["ab c"]), model.embed_text(["ab c"]))
    biases = [n for n in load_file(tmp_path / "hf" / "model.safetensors") if "audio" in n]
    biases = [n for n in biases if n.endswith(("query.bias", "patch_embed.norm.bias"))]
    lacks = (not fields.get("qkv_bias", True), not fields.get("patch_norm", True))
    assert len(biases) == (0 if lacks[0] else 2) + (0 if lacks[1] else 1)


@pytest.mark.parametrize("fields", [{"block_eps": 1e-5}, {"fusion_ratio": 7}, {"mlp_ratio": 4.0}])
def test_what_changes_nothing_changes_no_digest(tmp_path, fields):
    """Nor the identity of a run, nor what comes back from a folder of transformers."""
    plain = reclap.load(write_own(tmp_path / "plain", False, {}))
    model = reclap.load(write_own(tmp_path / "own", False, fields))
    model.save(tmp_path / "hf", format="hf")
    assert reclap.load(tmp_path / "hf").digest == model.digest == plain.digest
    assert model.config.audio == plain.config.audio


def reworded(folder, section, change):
    """Change settings of config.json; None takes one out."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config[section] |= change
    config[section] = {key: value for key, value in config[section].items() if value is not None}
    path.write_text(json.dumps(config))


REFUSED = [
    ("audio_config", {"hidden_act": "silu"}, r"hidden_act is 'silu', expected one of gelu, .*relu"),
    ("audio_config", {"hidden_act": ["gelu"]}, r"audio_config\.hidden_act is \['gelu'\], expected"),
    (
        "text_config",
        {"hidden_act": "prelu"},
        r"text_config\.hidden_act is 'prelu', expected one of",
    ),
    (
        "audio_config",
        {"layer_norm_eps": 0.0},
        "block_eps: expected float from 1e-30 to 1 .*got 0.0",
    ),
    (
        "audio_config",
        {"layer_norm_eps": -1e-5},
        "block_eps: expected float from 1e-30 to 1 .*got -1",
    ),
    ("audio_config", {"layer_norm_eps": "x"}, "layer_norm_eps is 'x', expected float"),
    ("audio_config", {"layer_norm_eps": 10**400}, "block_eps: expected float"),
    ("audio_config", {"mlp_ratio": 2.0}, "mlp_ratio is 2.0, the tensors have 4.0"),
    ("audio_config", {"mlp_ratio": 4.1}, "mlp_ratio is 4.1, the tensors have 4.0"),
    ("audio_config", {"mlp_ratio": -1.0}, "mlp_ratio is -1.0, the tensors have 4.0"),
    ("audio_config", {"mlp_ratio": 10**400}, "mlp_ratio is 1000.*, the tensors have 4.0"),
    ("audio_config", {"qkv_bias": False}, "qkv_bias is False, the tensors have True"),
    ("audio_config", {"qkv_bias": "no"}, "qkv_bias is 'no', the tensors have True"),
    (
        "audio_config",
        {"enable_patch_layer_norm": False},
        "enable_patch_layer_norm is False, the tensors have True",
    ),
    ("audio_config", {"flatten_patch_embeds": False}, "flatten_patch_embeds is False, .*True"),
    ("audio_config", {"patch_embed_input_channels": 2}, "patch_embed_input_channels is 2, .* 1"),
    ("audio_config", {"aff_block_r": 2}, "aff_block_r is 2, the tensors have 4"),
    ("audio_config", {"aff_block_r": 0}, "aff_block_r is 0, the tensors have 4"),
    ("audio_config", {"aff_block_r": 4.0}, "aff_block_r is 4.0, expected int"),
]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return folders of a fused ClapModel and of one that lacks biases and norm; to be copied."""
    made = {}
    for name, fused, fields in (("fused", True, {}), ("bare", False, ALL[1])):
        folder = tmp_path_factory.mktemp("written")
        model = reclap.load(write_own(folder / "own", fused, fields))
        model.save(folder / "hf", format="hf")
        made[name] = folder / "hf"
    return made


def copied(folder, to):
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


@pytest.mark.parametrize(("section", "change", "message"), REFUSED)
def test_values_that_nobody_runs_are_named(written, tmp_path, section, change, message):
    folder = copied(written["fused"], tmp_path / "x")
    reworded(folder, section, change)
    with pytest.raises(FormatError, match=message) as caught:
        reclap.load(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(("key", "value"), [("qkv_bias", True), ("enable_patch_layer_norm", True)])
def test_parameters_that_are_missing_are_an_option_only_where_config_json_says_so(
    written, tmp_path, key, value
):
    folder = copied(written["bare"], tmp_path / "x")
    assert reclap.load(folder).config.audio.qkv_bias is False
    reworded(folder, "audio_config", {key: value})
    with pytest.raises(FormatError, match=f"{key} is True, the tensors have False"):
        reclap.load(folder)
    reworded(folder, "audio_config", {key: None})
    missing = "attn.qkv.bias" if key == "qkv_bias" else r"patch_embed\.norm\.weight"
    with pytest.raises(FormatError, match=f"missing: .*{missing}"):
        reclap.load(folder)


def test_a_file_that_lacks_some_biases_is_no_model_without(written, tmp_path):
    folder = copied(written["fused"], tmp_path / "x")
    tensors = load_file(folder / "model.safetensors")
    at = "audio_model.audio_encoder.layers.1.blocks.0.attention.self."
    for part in ("query", "key", "value"):
        del tensors[f"{at}{part}.bias"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(FormatError, match=r"missing: .*layers\.1\.blocks\.0\.attn\.qkv\.bias"):
        reclap.load(folder)


def test_ratio_of_fusion_counts_only_with_fusion(written, tmp_path):
    folder = copied(written["bare"], tmp_path / "x")
    reworded(folder, "audio_config", {"aff_block_r": 7, "fusion_type": "channel_map"})
    assert reclap.load(folder).digest == reclap.load(written["bare"]).digest


@pytest.mark.parametrize("width", [1, 7, 12, 49, 96, 768])
def test_ratios_read_off_tensors_give_their_widths(width):
    """In every stage, whose widths are whole divisions of the last one's."""
    for hidden in range(1, 4 * width + 1):
        tensors = {
            f"{htsat_names.BRANCH}layers.0.blocks.0.mlp.fc1.weight": np.empty((hidden, width))
        }
        ratio = htsat_names._mlp_ratio(tensors, 0)
        assert int(ratio * width) == hidden
        for halves in (2, 4, 8):
            if width % halves == 0:
                assert int(ratio * (width // halves)) == hidden // halves
    for r in range(1, width + 1):
        few = np.empty((width // r, width, 1, 1))
        tensors = {f"{htsat_names.BRANCH}patch_embed.fusion_model.local_att.0.weight": few}
        assert width // htsat_names._fusion_ratio(tensors, width) == width // r


# ---- Beside transformers -------------------------------------------------------------------------


@pytest.mark.oracle
@pytest.mark.parametrize("case", CASES, ids=named)
def test_folder_with_options_gives_transformers_embeddings(rng, tmp_path, case):
    fused, says, fields = case
    theirs = clap_model(rng, fused=fused, audio=says)
    ours = reclap.load(save_folder(theirs, tmp_path / "hf"))
    assert has(ours.config.audio, fields)
    clips = sounds(rng, (1.0, 13.0) if fused else (1.0,))
    got = ours.embed_audio(clips, rate=RATE)
    np.testing.assert_allclose(got, theirs_audio(theirs, clips, ours.config.front), atol=SAME)
    ours.save(tmp_path / "again", format="hf")
    model, report = transformers.ClapModel.from_pretrained(
        tmp_path / "again", output_loading_info=True
    )
    assert not any(report.values()), report
    written = theirs_audio(model.eval(), clips, ours.config.front)
    np.testing.assert_allclose(got, written, atol=SAME)


@pytest.mark.oracle
@pytest.mark.parametrize("word", ["gelu_new", "relu", "quick_gelu"])
def test_text_tower_has_its_activation(rng, tmp_path, word):
    theirs = clap_model(rng, text={"hidden_act": word})
    ours = reclap.load(save_folder(theirs, tmp_path / "hf"))
    np.testing.assert_allclose(ours.embed_text(TEXTS), theirs_text(theirs, TEXTS), atol=SAME)
    ours.save(tmp_path / "again", format="hf")
    model = transformers.ClapModel.from_pretrained(tmp_path / "again").eval()
    np.testing.assert_allclose(ours.embed_text(TEXTS), theirs_text(model, TEXTS), atol=SAME)


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("fused", "says", "message"),
    [
        (False, {"flatten_patch_embeds": False}, "flatten_patch_embeds is False"),
        (False, {"patch_embed_input_channels": 2}, "patch_embed_input_channels is 2"),
        (True, {"fusion_type": "channel_map"}, r"patch_embed\.proj\.weight.*\[16, 4, 4, 4\]"),
    ],
)
def test_what_transformers_cannot_run_is_refused(rng, tmp_path, fused, says, message):
    """If it runs one day, this fails, and the option is worth having."""
    theirs = clap_model(rng, fused=fused, audio=says)
    mel = torch.zeros(1, 4 if fused else 1, 1001, 64)
    with pytest.raises(RuntimeError):
        theirs.get_audio_features(input_features=mel, is_longer=torch.tensor([[True]]))
    with pytest.raises(FormatError, match=message):
        reclap.load(save_folder(theirs, tmp_path / "hf"))


@pytest.mark.parametrize("place", ["folder", "hf"])
def test_training_goes_on_with_all_options_and_makes_up_no_parameters(tmp_path, place):
    model = reclap.load(write_own(tmp_path / "own", False, ALL[1]))
    model.save(tmp_path / "hf", format="hf")
    source = tmp_path / ("own" if place == "folder" else "hf")
    sections = training.settings(training.write_set(tmp_path / "set"), "mini")
    sections["model"] = {"from": str(source)}
    sections["run"] = {"steps": 2, "save_first": True}
    plan = recipe.Recipe.from_mapping(sections)
    loop.train(plan, tmp_path / "out")
    begun, ended = (reclap.load(path) for path in sorted((tmp_path / "out").glob("step-*"))[:2])
    assert begun.digest == model.digest != ended.digest
    assert ended.config.audio == model.config.audio
    ended.save(tmp_path / "trained", format="hf")
    assert has(reclap.load(tmp_path / "trained").config.audio, ALL[1])
    before, after = (load_file(tmp_path / x / "model.safetensors") for x in ("hf", "trained"))
    assert set(before) == set(after)
