"""Forms in which people keep the same weights: types, shards, prefixes, wrappers."""

import json
import shutil

import numpy as np
import pytest
from needs import needs
from test_families import TEXTS, clap_model, laion_state, save_folder, write_tokenizer

import reclap
from reclap.cli import main
from reclap.errors import FormatError

torch = needs("torch", "oracle")
safetensors_torch = needs("safetensors.torch", "oracle")

pytestmark = pytest.mark.oracle


def test_bfloat16_file_is_the_rounded_model(rng, tmp_path):
    write_tokenizer(tmp_path / "tokenizer.json")
    rounded = {
        name: x.bfloat16() if x.is_floating_point() else x.clone()
        for name, x in laion_state(clap_model(rng)).items()
    }
    safetensors_torch.save_file(rounded, tmp_path / "half.safetensors")
    whole = {name: x.float() if x.is_floating_point() else x for name, x in rounded.items()}
    torch.save(whole, tmp_path / "whole.pt")
    half, whole = (reclap.load(tmp_path / name) for name in ("half.safetensors", "whole.pt"))
    assert half.digest == whole.digest
    assert half.info()["ignored"] == whole.info()["ignored"]
    np.testing.assert_array_equal(half.embed_text(TEXTS), whole.embed_text(TEXTS))


# ---- Several files -------------------------------------------------------------------------------


def sharded(folder, kind):
    """Cut the one file of a folder in two, with an index, as transformers does."""
    whole = safetensors_torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem, suffix, save = {
        "safetensors": ("model", "safetensors", safetensors_torch.save_file),
        "bin": ("pytorch_model", "bin", torch.save),
    }[kind]
    names = sorted(whole)
    index = {}
    for i, part in enumerate((names[:40], names[40:])):
        file = f"{stem}-{i + 1:05}-of-00002.{suffix}"
        save({name: whole[name] for name in part}, folder / file)
        index |= dict.fromkeys(part, file)
    path = folder / f"{stem}.{suffix}.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return path


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    theirs = clap_model(np.random.default_rng(0))
    return save_folder(theirs, tmp_path_factory.mktemp("saved") / "hf")


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards_are_one_model(saved, tmp_path, kind):
    folder = shutil.copytree(saved, tmp_path / "shards")
    index = sharded(folder, kind)
    assert reclap.load(folder).digest == reclap.load(saved).digest
    said = json.loads(index.read_text())
    name = next(iter(said["weight_map"]))
    for change, message in (
        ({name: "../other.bin"}, "expected names of files beside it"),
        ({name: 3}, "expected names of files beside it"),
        ({"more": said["weight_map"][name]}, "index and shards differ in more"),
    ):
        wrong = said | {"weight_map": said["weight_map"] | change}
        index.write_text(json.dumps(wrong))
        with pytest.raises(FormatError, match=message):
            reclap.load(folder)
    index.write_text(json.dumps(said | {"weight_map": []}))
    with pytest.raises(FormatError, match="expected a weight_map"):
        reclap.load(folder)
    index.write_text(json.dumps(said))
    (folder / said["weight_map"][name]).unlink()
    with pytest.raises(FileNotFoundError, match="00001-of-00002"):
        reclap.load(folder)


def test_half_precision_file_is_taken_where_it_is_all_there_is(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "half")
    whole = safetensors_torch.load_file(folder / "model.safetensors")
    half = {n: x.half() if x.is_floating_point() else x for n, x in whole.items()}
    safetensors_torch.save_file(half, folder / "model.fp16.safetensors")
    assert reclap.load(folder).digest == reclap.load(saved).digest
    (folder / "model.safetensors").unlink()
    assert reclap.load(folder).digest != reclap.load(saved).digest


def test_folder_of_onnx_alone_is_named(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "x")
    (folder / "model.safetensors").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"expected one of model.safetensors, .*index\.json"
    ):
        reclap.load(folder)
    (folder / "onnx").mkdir()
    (folder / "onnx" / "audio.onnx").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"it holds onnx/audio\.onnx, and ONNX is not read"):
        reclap.load(folder)


@pytest.mark.parametrize("kind", ["clap_audio_model", "clap_text_model"])
def test_one_side_of_a_clap_model_is_named(saved, tmp_path, kind):
    folder = shutil.copytree(saved, tmp_path / "x")
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(FormatError, match=r"one side alone of a ClapModel .*WithProjection"):
        reclap.load(folder)


# ---- Names around the model ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "module.module.", "model.", "clap_model.", "a.b."]
)
def test_what_wraps_a_model_is_taken_off(rng, tmp_path, prefix):
    state = laion_state(clap_model(rng))
    torch.save(state, tmp_path / "plain.pt")
    plain = reclap.load(tmp_path / "plain.pt")
    wrapped = {prefix + name: x for name, x in state.items()} | {"probe.weight": torch.ones(2)}
    torch.save({"state_dict": wrapped}, tmp_path / "wrapped.pt")
    safetensors_torch.save_file(wrapped, tmp_path / "wrapped.safetensors")
    for name in ("wrapped.pt", "wrapped.safetensors"):
        model = reclap.load(tmp_path / name)
        assert model.digest == plain.digest
        assert model.info()["ignored"]["probe.weight"] == "outside the model"


def test_two_models_in_a_file_are_named(rng, tmp_path):
    state = laion_state(clap_model(rng))
    both = {f"{who}.{name}": x for who in ("teacher", "student") for name, x in state.items()}
    torch.save(both, tmp_path / "model.pt")
    with pytest.raises(FormatError, match=r"expected one model, got several: student\.; teacher\."):
        reclap.load(tmp_path / "model.pt")


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_state_dict_of_a_clap_model_is_its_folder(saved, tmp_path, prefix):
    state = safetensors_torch.load_file(saved / "model.safetensors")
    torch.save({prefix + name: x for name, x in state.items()}, tmp_path / "clap.pt")
    write_tokenizer(tmp_path / "tokenizer.json")
    folder = reclap.load(saved)
    shutil.copyfile(saved / "config.json", tmp_path / "config.json")
    assert reclap.load(tmp_path / "clap.pt").digest == folder.digest
    (tmp_path / "config.json").unlink()  # the padding and the eps of published models then
    alone = reclap.load(tmp_path / "clap.pt")
    assert (alone.config.audio, alone.config.front) == (folder.config.audio, folder.config.front)
    assert (alone.config.text.eps, alone.config.text.heads) == (1e-12, 2)
    assert reclap.load(saved / "model.safetensors").digest == folder.digest


REFUSED = {
    "clapcap": ({"clap.base.htsat.bn0.weight": 1, "clap_project.linear.weight": 1}, "clapcap"),
    "text side": ({"text_model.embeddings.word_embeddings.weight": 1}, "the text side alone"),
    "open_clip": ({"audio.encoder.bn0.weight": 1}, "a CLAP of open_clip"),
    "htsat": ({"sed_model.layers.0.blocks.0.norm1.weight": 1}, "HTS-AT alone"),
    "else": ({"layer.weight": 1}, "a layout of neither LAION-CLAP"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_layouts_are_named(tmp_path, name):
    names, message = REFUSED[name]
    torch.save({n: torch.ones(2) for n in names}, tmp_path / "model.pt")
    with pytest.raises(FormatError, match=message):
        reclap.load(tmp_path / "model.pt")


def test_linear_probe_has_no_text(rng, tmp_path):
    state = {n: x for n, x in laion_state(clap_model(rng)).items() if "text_branch" not in n}
    probe = {f"clap_model.{n}": x for n, x in state.items()} | {
        "lp_layer.weight": torch.ones(5, 24)
    }
    torch.save({"state_dict": probe}, tmp_path / "probe.pt")
    with pytest.raises(FormatError, match=r"probe\.pt: LAION-CLAP without a text tower"):
        reclap.load(tmp_path / "probe.pt")


# ---- Settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"hop_length": 0}, "hop"),
        ({"max_length_s": 1e999}, "preprocessor_config"),
        ({"fft_window_size": -3}, "n_fft"),
        ([1], "expected a JSON object, got list"),
    ],
)
def test_front_end_that_cannot_be_is_named(saved, tmp_path, said, message):
    folder = shutil.copytree(saved, tmp_path / "x")
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(said | {"truncation": "rand_trunc"} if said != [1] else said))
    with pytest.raises(FormatError, match=message) as caught:
        reclap.load(folder)
    assert str(path) in str(caught.value)


def test_extractor_that_is_no_object_is_named(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "x")
    (folder / "processor_config.json").write_text('{"feature_extractor": [1]}')
    with pytest.raises(FormatError, match=r"feature_extractor is \[1\], expected an object"):
        reclap.load(folder)


@pytest.mark.parametrize("eps", [-1, 2.0])
def test_eps_that_cannot_be_is_named(saved, tmp_path, eps):
    folder = shutil.copytree(saved, tmp_path / "x")
    said = json.loads((folder / "config.json").read_text())
    said["text_config"]["layer_norm_eps"] = eps
    (folder / "config.json").write_text(json.dumps(said))
    with pytest.raises(FormatError, match=r"eps"):
        reclap.load(folder)


# ---- Saving --------------------------------------------------------------------------------------


def test_saving_leaves_the_configuration_of_something_else(saved, tmp_path, capsys):
    model = reclap.load(saved)
    for content in ('{"model_type": "bert"}', "not JSON", "[]"):
        (tmp_path / "config.json").write_text(content)
        for form in ("reclap", "hf"):
            with pytest.raises(FileExistsError, match=r"config\.json: is of something else"):
                model.save(tmp_path, form)
        assert (tmp_path / "config.json").read_text() == content
        assert len(list(tmp_path.iterdir())) == 1
    model.save(tmp_path, "hf", overwrite=True)
    model.save(tmp_path, "hf")
    with pytest.raises(FileExistsError, match="is of something else"):
        model.save(tmp_path)
    assert main(["convert", str(saved), str(tmp_path), "--force"]) == 0
    assert reclap.load(tmp_path).digest == model.digest
