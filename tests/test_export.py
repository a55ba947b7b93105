"""Folders of transformers' ClapModel: what we write loads there and gives the same embeddings."""

import dataclasses
import json
import shutil

import folders
import numpy as np
import pytest
from needs import needs
from safetensors.numpy import load_file
from test_families import (
    TEXTS,
    clap_model,
    laion_state,
    save_folder,
    sounds,
    theirs_audio,
    write_tokenizer,
)
from test_vocabulary import ODD, write_pairs

import reclap
from reclap.checkpoints.families import hf_export
from reclap.cli import main
from reclap.config import ClapConfig
from reclap.errors import FormatError

torch = needs("torch", "oracle")
transformers = needs("transformers", "oracle")

pytestmark = pytest.mark.oracle

SAME = 2e-6  # unit vectors; issue: 2e-5
RATE = 48000


def reload(folder):
    """Load by transformers; no key may be missing or left over."""
    model, report = transformers.ClapModel.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"], report["missing_keys"]
    assert not report["unexpected_keys"], report["unexpected_keys"]
    assert not report["mismatched_keys"], report["mismatched_keys"]
    return model.eval()


def embed(model, folder, clips, texts):
    """Embed by transformers alone, from samples and words on."""
    extractor = transformers.ClapFeatureExtractor.from_pretrained(folder)
    features = extractor(clips, sampling_rate=RATE, return_tensors="pt")
    vocab = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    rows = []
    with torch.no_grad():
        audio = model.get_audio_features(**features)
        for text in texts:
            ids = torch.tensor([[0, *(vocab[w] for w in text.split()), 2]])
            row = model.get_text_features(input_ids=ids, attention_mask=torch.ones_like(ids))
            rows.append(getattr(row, "pooler_output", row)[0].numpy())
    return unit(getattr(audio, "pooler_output", audio).numpy()), unit(np.stack(rows))


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("size", ["small", pytest.param("base", marks=pytest.mark.slow)])
def test_transformers_gives_the_same_embeddings(rng, tmp_path, fused, size):
    """From a file of LAION's layout, whose samples are then not rounded any more."""
    torch.save(laion_state(clap_model(rng, fused=fused, size=size)), tmp_path / "model.pt")
    write_tokenizer(tmp_path / "tokenizer.json")
    assert main(["convert", str(tmp_path / "model.pt"), str(tmp_path / "hf"), "--format=hf"]) == 0
    theirs, ours = reload(tmp_path / "hf"), reclap.load(tmp_path / "hf")
    clips = sounds(rng, (1.0, 10.0))
    audio, text = embed(theirs, tmp_path / "hf", clips, TEXTS)
    got = ours.embed_audio(clips, rate=RATE)
    np.testing.assert_allclose(got, theirs_audio(theirs, clips, ours.config.front), atol=SAME)
    if not fused:  # a fused extractor calls one short clip of a batch long, at random
        np.testing.assert_allclose(got, audio, atol=SAME)
    np.testing.assert_allclose(ours.embed_text(TEXTS), text, atol=SAME)


@pytest.mark.parametrize("fused", [False, True])
def test_there_and_back_keeps_every_bit(rng, tmp_path, fused):
    original = clap_model(rng, fused=fused)
    with torch.no_grad():
        original.logit_scale_t.copy_(original.logit_scale_a)  # ours is one
    first = reclap.load(save_folder(original, tmp_path / "a"))
    first.save(tmp_path / "own")
    reclap.load(tmp_path / "own").save(tmp_path / "b", format="hf")
    second = reclap.load(tmp_path / "b")
    assert second.digest == first.digest
    a, b = (load_file(tmp_path / x / "model.safetensors") for x in "ab")
    assert set(b) >= set(a)
    for name, x in a.items():
        np.testing.assert_array_equal(x, b[name], err_msg=name)
    state = original.state_dict()
    assert set(b) == set(state)
    assert all(b[name].dtype == x.numpy().dtype for name, x in state.items())


def test_parameters_in_transformers_are_equal(rng, tmp_path):
    original = clap_model(rng)
    reclap.load(save_folder(original, tmp_path / "a")).save(tmp_path / "b", format="hf")
    again = reload(tmp_path / "b").state_dict()
    for name, x in original.state_dict().items():
        if name != "logit_scale_t":
            assert torch.equal(x, again[name]), name


def test_processor_of_transformers_loads(rng, tmp_path):
    """With byte-level pairs, as RoBERTa's: the ids are the same on odd texts."""
    save_folder(clap_model(rng), tmp_path / "a")
    (tmp_path / "a" / "tokenizer.json").unlink()
    write_pairs(tmp_path / "a", ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    ours = reclap.load(tmp_path / "a")
    shutil.rmtree(tmp_path / "a")  # what is written is what was loaded
    ours.save(tmp_path / "b", format="hf")
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "b")
    assert type(processor).__name__ == "ClapProcessor"
    for text in ODD[:-1]:
        ids, _ = ours._tokenizer.encode([text])
        assert processor.tokenizer(text)["input_ids"] == ids.tolist()
    assert processor.tokenizer.pad_token_id == 1
    assert processor.feature_extractor.truncation == "rand_trunc"
    assert processor.feature_extractor.frequency_min == 50


def test_front_end_survives(rng, tmp_path):
    folder = save_folder(clap_model(rng), tmp_path / "a")
    extractor = transformers.ClapFeatureExtractor(
        sampling_rate=32000, max_length_s=8, hop_length=320, frequency_min=20, padding="pad",
        truncation="rand_trunc",
    )  # fmt: skip
    extractor.save_pretrained(folder)
    model = reclap.load(folder)
    front = model.config.front
    assert (front.rate, front.samples, front.hop, front.padding) == (32000, 256000, 320, "pad")
    model.save(tmp_path / "b", format="hf")
    assert reclap.load(tmp_path / "b").config.front == front


def test_model_of_another_kind_is_refused_with_every_reason(small, mini, tmp_path):
    with pytest.raises(FormatError) as caught:
        small.save(tmp_path / "hf", format="hf")
    for reason in ("text.pool is 'mean', expected 'pooler'", "no row for padding"):
        assert reason in str(caught.value)
    assert not (tmp_path / "hf").exists()
    with pytest.raises(FormatError, match=r"text_head is 'none', expected 'mlp'.*front\.level_db"):
        mini.save(tmp_path / "hf", format="hf")
    with pytest.raises(ValueError, match="format is 'onnx'"):
        small.save(tmp_path / "hf", format="onnx")


def test_reasons():
    base = ClapConfig.from_json(folders.CONFIG)
    roberta = dataclasses.replace(
        reclap.config.TextConfig.preset("roberta-base"), vocab=99, layers=2
    )
    fits = dataclasses.replace(base, text=roberta)
    assert hf_export.misfits(fits) == []
    front = dataclasses.replace(base.front, samples=base.front.rate * 3 // 2)
    assert hf_export.misfits(dataclasses.replace(fits, front=front)) == [
        "a window is 1.5 s, expected whole seconds"
    ]
    t5 = dataclasses.replace(fits, text=reclap.config.TextConfig.preset("flan-t5-large"))
    assert any("text.norm is 'rms'" in reason for reason in hf_export.misfits(t5))
    assert not hf_export.misfits(
        dataclasses.replace(fits, front=dataclasses.replace(base.front, quantize=True))
    )
