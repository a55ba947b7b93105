"""Training that begins with other models: HTS-AT's audio tower, plain text models."""

import json
import shutil

import numpy as np
import pytest
import training
from closeness import f32
from needs import needs
from test_families import clap_model, laion_state, write_tokenizer

import reclap
from reclap.audio import AudioConfig
from reclap.checkpoints import model_folder
from reclap.checkpoints.families import text_folder
from reclap.config import HtsatConfig
from reclap.errors import FormatError
from reclap.training import initial, loop, recipe
from reclap.training.text_encoder import TextEncoder

torch = needs("torch", "oracle")
transformers = needs("transformers", "oracle")

pytestmark = pytest.mark.oracle

SAME = 2e-6 * 20  # features before the head are not of unit length
SMALL = {"embed": 16, "depths": [2, 2], "heads": [1, 2]}  # of `clap_model`
FRONT = {"rate": 16000, "samples": 16000, "n_fft": 512, "hop": 160, "fmax": 8000.0}
SIZES = {"vocab_size": 120, "hidden_size": 128, "num_hidden_layers": 2, "intermediate_size": 64}
SIZES |= {"num_attention_heads": 2, "max_position_embeddings": 90}
GPT2 = {"vocab_size": 120, "n_embd": 128, "n_layer": 2, "n_head": 2, "n_positions": 90}
T5 = {"vocab_size": 120, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2}

# Class, settings, how the pooled row is made of hidden states (tokens, width).
MODELS = {
    "bert": ("BertModel", "BertConfig", SIZES),
    "bert with a head": ("BertForMaskedLM", "BertConfig", SIZES),
    "roberta": ("RobertaModel", "RobertaConfig", SIZES | {"pad_token_id": 1, "type_vocab_size": 1}),
    "roberta without a pooler": (
        "RobertaForMaskedLM",
        "RobertaConfig",
        SIZES | {"pad_token_id": 1, "type_vocab_size": 1},
    ),
    "t5": ("T5ForConditionalGeneration", "T5Config", T5 | {"feed_forward_proj": "gated-gelu"}),
    "t5 plain": ("T5EncoderModel", "T5Config", T5 | {"feed_forward_proj": "relu"}),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT2),
    "clip": ("CLIPTextModel", "CLIPTextConfig", SIZES | {"eos_token_id": 2, "hidden_act": "gelu"}),
}


def text_model(folder, kind):
    """Save a small text model of random weights with a tokenizer; return it."""
    name, config, settings = MODELS[kind]
    torch.manual_seed(3)
    special = {"bos_token_id": 0, "eos_token_id": 2} if "t5" not in kind else {}
    settings = special | settings
    model = getattr(transformers, name)(getattr(transformers, config)(**settings)).eval()
    model.save_pretrained(folder)
    write_tokenizer(folder / "tokenizer.json")
    return model


def pooled(model, kind, ids):
    """Return what the CLAP model with this tower takes of its states."""
    inner = getattr(model, "bert", getattr(model, "roberta", getattr(model, "transformer", model)))
    inner = inner.encoder if kind == "t5" else inner
    padded = [*ids, *[0] * (77 - len(ids))] if "t5" in kind else ids
    mask = [[1] * len(ids) + [0] * (len(padded) - len(ids))]
    with torch.no_grad():
        out = inner(input_ids=torch.tensor([padded]), attention_mask=torch.tensor(mask))
    states = out.last_hidden_state[0]
    if kind == "roberta":
        return out.pooler_output[0].numpy()
    if "without" in kind or "t5" in kind:
        return states.mean(dim=0).numpy()
    return states[len(ids) - 1 if kind == "clip" else 0].numpy()


@pytest.mark.parametrize("kind", [k for k in MODELS if k != "gpt2"])
def test_plain_text_model_gives_its_features(tmp_path, kind):
    model = text_model(tmp_path / "plain", kind)
    out = tmp_path / "run"
    made = initial.text_tower(str(tmp_path / "plain"), out)
    assert made.parent == out
    encoder = TextEncoder(made)
    for words in (["w3"], ["w1", "w2", "w99"]):
        ids = [0, *(4 + int(w[1:]) for w in words), 2]
        got = encoder.features([" ".join(words)])[0]
        np.testing.assert_allclose(got, pooled(model, kind, ids), atol=SAME)
    assert initial.text_tower(str(tmp_path / "plain"), out) == made  # not made again


def test_gpt2_is_used_as_in_msclap(tmp_path):
    model = text_model(tmp_path / "plain", "gpt2")
    encoder = TextEncoder(initial.text_tower(str(tmp_path / "plain"), tmp_path / "run"))
    assert encoder.config.text.suffix == " <|endoftext|>"
    ids, _ = encoder._tokenizer.encode(["w7 w8"])
    with torch.no_grad():
        states = model.transformer(input_ids=torch.tensor([ids.tolist()])).last_hidden_state[0]
    got = encoder.features(["w7 w8"])[0]
    np.testing.assert_allclose(got, states[int((ids != 0).sum()) - 1].numpy(), atol=SAME)


def test_bin_and_vocabulary_do_as_well(tmp_path):
    folder = tmp_path / "plain"
    model = text_model(folder, "bert")
    first = text_folder.read(folder)
    (folder / "model.safetensors").unlink()
    (folder / "tokenizer.json").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "rain"]))
    again = text_folder.read(folder)
    assert again.config == first.config
    for name, x in first.tensors.items():
        np.testing.assert_array_equal(np.asarray(x), np.asarray(again.tensors[name]))
    (folder / "vocab.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json"):
        text_folder.read(folder)


@pytest.mark.parametrize(
    ("kind", "key", "value", "message"),
    [
        ("bert", "hidden_size", 768, "hidden_size is 768, the tensors have 128"),
        ("bert", "hidden_act", "swish", "hidden_act is 'swish', expected one of gelu"),
        ("roberta", "num_attention_heads", "2", "num_attention_heads is '2', expected a number"),
        ("roberta", "type_vocab_size", 2, "type_vocab_size is 2, the tensors have 1"),
        ("t5", "d_kv", 64, "d_kv is 64, the tensors have 16"),
        ("t5", "num_heads", 4, "num_heads is 4, the tensors have 2"),
        ("t5", "feed_forward_proj", "gated-silu", "feed_forward_proj is 'gated-silu'"),
        ("gpt2", "n_layer", 12, "n_layer is 12, the tensors have 2"),
        ("clip", "max_position_embeddings", 77, "max_position_embeddings is 77, the tensors"),
        ("clip", "model_type", "bart", "a 'bart' model of transformers, expected one of bert"),
    ],
)
def test_contradictions_show_both(tmp_path, kind, key, value, message):
    text_model(tmp_path, kind)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(FormatError, match=message):
        text_folder.read(tmp_path)


# ---- Audio ---------------------------------------------------------------------------------------


@pytest.fixture
def tower(rng, tmp_path):
    """Return HTS-AT's tower as its Lightning checkpoint holds it, and the file."""
    state = {
        f"sed_model.{name.removeprefix('audio_branch.')}": x
        for name, x in laion_state(clap_model(rng)).items()
        if name.startswith("audio_branch.")
    }
    state["sed_model.head.weight"] = torch.zeros(527, 527)
    path = tmp_path / "HTSAT_AudioSet.ckpt"
    whole = {"epoch": 3, "pytorch-lightning_version": "1.5.9", "state_dict": state}
    torch.save(whole | {"optimizer_states": [{"state": {}}]}, path)
    return state, path


def test_htsat_gives_the_audio_tower(tower):
    state, path = tower
    wanted = HtsatConfig(embed=16, depths=(2, 2), heads=(1, 2), spec_size=128)
    tensors = initial.audio_tower(path, wanted, AudioConfig())
    for name, x in tensors.items():
        theirs = state[f"sed_model.{name.removeprefix('audio_branch.')}"]
        np.testing.assert_array_equal(np.asarray(x), theirs.numpy())
    assert "audio_branch.bn0.running_mean" in tensors


def test_other_sizes_are_shown_beside_those_in_training(tower):
    message = r"embed is 16, the tower in training has 96; depths is \(2, 2\), .* \(2, 2, 6, 2\)"
    with pytest.raises(FormatError, match=message):
        initial.audio_tower(tower[1], HtsatConfig(), AudioConfig())


def test_other_activations_and_parameters_are_shown_too(tower):
    wanted = HtsatConfig(
        embed=16, depths=(2, 2), heads=(1, 2), activation="relu", qkv_bias=False, patch_norm=False
    )
    message = (
        "activation is gelu, .*relu; qkv_bias is True, .*False; patch_norm is True, .* has False"
    )
    with pytest.raises(FormatError, match=message):
        initial.audio_tower(tower[1], wanted, AudioConfig())


def test_htsat_alone_is_no_model(tower):
    with pytest.raises(FormatError, match=r"HTS-AT alone.*audio_from"):
        reclap.load(tower[1])


@pytest.fixture
def run_of(tmp_path):
    """Return a function that makes the recipe of two steps."""
    manifest = training.write_set(tmp_path / "set")

    def make(text, **model):
        model |= {"audio": SMALL | {"spec_size": 128}, "front": FRONT, "dim": 128}
        few = {"steps": 2, "save_every": 1}
        sections = training.settings(manifest, text, model=model, run=few)
        return recipe.Recipe.from_mapping(sections)

    return make


def test_run_begins_with_both(tower, run_of, tmp_path):
    """And its checkpoint is a complete model with the text model's tower."""
    state, path = tower
    text_model(tmp_path / "plain", "roberta")
    plan = run_of(tmp_path / "plain", audio_from=str(path))
    result = loop.train(plan, tmp_path / "out")
    own = model_folder.read_tensors(result.folder / model_folder.MODEL)
    name = "layers.1.blocks.1.mlp.fc1.weight"
    begun = state[f"sed_model.{name}"].numpy()
    assert 0 < np.abs(own[f"audio_branch.{name}"] - begun).max() < 0.01  # two steps away
    model = reclap.load(result.folder)
    assert model.embed_text(["w1 w2"]).shape == (1, 128)
    assert model.embed_audio(f32(np.random.default_rng(0), 16000) / 9, rate=16000).shape == (1, 128)
    assert loop.train(plan, tmp_path / "out", resume=True).step == 2


def test_other_files_are_another_run(tower, run_of, tmp_path):
    text_model(tmp_path / "plain", "roberta")
    plan = run_of(tmp_path / "plain", audio_from=str(tower[1]))
    loop.train(plan, tmp_path / "out")
    with (tmp_path / "plain" / "tokenizer.json").open("a") as f:
        f.write("\n")
    shutil.copyfile(tmp_path / "plain" / "model.safetensors", tower[1])
    with pytest.raises(FormatError, match=r"(?s)model\.text: .*audio_from|audio_from.*model\.text"):
        loop.train(plan, tmp_path / "out", resume=True)


def test_toml_names_them_relative_to_the_recipe(tower, tmp_path):
    text_model(tmp_path / "plain", "bert")
    sections = training.settings(
        training.write_set(tmp_path / "set"), "plain", model={"audio_from": tower[1].name}
    )
    path = tmp_path / "recipe.toml"
    path.write_text(training.to_toml(sections))
    plan = recipe.load(path)
    assert plan.model.text == str(tmp_path / "plain")
    assert plan.model.audio_from == str(tower[1])


def test_any_model_gives_its_audio_tower(rng, tmp_path, small_folder, caplog):
    torch.save(laion_state(clap_model(rng)), tmp_path / "model.pt")
    wanted = HtsatConfig(embed=16, depths=(2, 2), heads=(1, 2))
    a = initial.audio_tower(tmp_path / "model.pt", wanted, AudioConfig())
    assert not caplog.records
    write_tokenizer(tmp_path / "tokenizer.json")
    reclap.load(tmp_path / "model.pt").save(tmp_path / "own")
    b = initial.audio_tower(tmp_path / "own", wanted, AudioConfig(rate=32000, hop=320))
    assert "trained with another front end: ['rate was 48000, now 32000', 'hop was" in caplog.text
    assert set(a) == set(b)
    for name, x in a.items():
        np.testing.assert_array_equal(np.asarray(x), np.asarray(b[name]))
    caplog.clear()
    other = HtsatConfig(embed=16, depths=(2, 2), heads=(1, 2), block_eps=0.5)
    initial.audio_tower(tmp_path / "own", other, AudioConfig())
    (said,) = [r.getMessage() for r in caplog.records]
    assert "trained with block_eps 1e-05, now 0.5" in said
    with pytest.raises(FormatError, match="mels is 16, the tower in training has 64"):
        initial.audio_tower(small_folder, wanted, AudioConfig())


def test_training_goes_on_with_another_projects_checkpoint(rng, tmp_path):
    """Which becomes a model folder of the run, made once."""
    torch.save(laion_state(clap_model(rng)), tmp_path / "model.pt")
    write_tokenizer(tmp_path / "tokenizer.json")
    source = reclap.load(tmp_path / "model.pt")
    sections = training.settings(training.write_set(tmp_path / "set"), "mini")
    sections["model"] = {"from": str(tmp_path / "model.pt")}
    sections["run"] = {"steps": 1, "save_first": True}
    plan = recipe.Recipe.from_mapping(sections)
    loop.train(plan, tmp_path / "out")
    begun = reclap.load(tmp_path / "out" / "step-0000000000")
    np.testing.assert_array_equal(begun.embed_text(["w1 w2"]), source.embed_text(["w1 w2"]))
    assert begun.digest == source.digest
    [made] = (tmp_path / "out").glob("text-*")
    before = (made / "config.json").stat().st_mtime_ns
    assert loop.train(plan, tmp_path / "out", resume=True).step == 1
    assert (made / "config.json").stat().st_mtime_ns == before
