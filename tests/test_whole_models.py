"""Training that goes on with whole models of every source, and what it leaves to others."""

import dataclasses
import json

import numpy as np
import pytest
import training
from needs import needs
from test_laion_export import MODELS, model_of
from training import read_log

import reclap
from reclap.audio import AudioConfig
from reclap.checkpoints import model_folder
from reclap.cli import main
from reclap.config import HtsatConfig, TextConfig
from reclap.training import loop
from reclap.training.recipe import Recipe

TEXTS = ["rain", "dog rain", "rain rain dog dog"]
SAME = 2e-5  # of unit length

# MS-CLAP 2023: its heads, GPT-2; not of LAION-CLAP's layout.
_GPT2 = {"vocab": 120, "positions": 90, "width": 128, "layers": 2, "heads": 2, "mlp": 512}
MICROSOFT = (
    AudioConfig(rate=44100, samples=308700, hop=320, bank_rate=32000),
    HtsatConfig(embed=16, depths=(2, 2), heads=(1, 2)),
    dataclasses.replace(TextConfig.preset("gpt2"), **_GPT2, max_tokens=77),
)

SOURCES = {  # kind of model, format of its file or folder, text tower in training
    "folder of ours": ("roberta", "reclap", "trained"),
    "laion": ("roberta", "laion", "frozen"),
    "laion, both trained": ("roberta", "laion", "trained"),
    "laion with bert": ("bert", "laion", "trained"),
    "laion with clip": ("clip of laion", "laion", "trained"),
    "reclap": ("reclap", "laion", "frozen"),
    "reclap, both trained": ("reclap", "laion", "trained"),
    "pann": ("cnn14", "laion", "frozen"),
    "pann, both trained": ("cnn14", "laion", "trained"),
    "transformers": ("roberta", "hf", "trained"),
    "microsoft": ("microsoft", "reclap", "trained"),
}


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    return training.write_set(tmp_path_factory.mktemp("sounds"))


def source_of(rng, folder, kind, form):
    """Write a model in a format; return what a recipe names."""
    parts, heads = MODELS.get(kind, MICROSOFT), {}
    if kind not in MODELS:
        heads = {"audio_head": "ms", "text_head": "ms"}
    model = model_of(rng, folder / "made", parts, **heads)
    model.save(folder / "source", format=form)
    return folder / "source" / "model.pt" if form == "laion" else folder / "source"


def plan(sounds, source, text, **run):
    return Recipe.from_mapping(
        {
            "model": {"from": str(source)},
            "data": {"manifest": str(sounds), "batch": 2, "threads": 1},
            "train": {"text": text},
            "optim": {"lr": 1e-3},
            "run": {"steps": 1, "save_first": True, "keep": 9, "threads": 1} | run,
        }
    )


@pytest.mark.parametrize("name", SOURCES)
def test_step_0_is_the_model_and_a_finished_run_is_extended(rng, sounds, tmp_path, name):
    kind, form, text = SOURCES[name]
    path = source_of(rng, tmp_path, kind, form)
    source = reclap.load(path, threads=1)
    out = tmp_path / "out"
    loop.train(plan(sounds, path, text), out)
    begun = reclap.load(out / "step-0000000000", threads=1)
    assert begun.digest == source.digest
    assert begun.config.audio == source.config.audio
    clips = sorted(sounds.parent.glob("*.wav"))[:2]
    assert np.array_equal(begun.embed_text(TEXTS), source.embed_text(TEXTS))
    assert np.array_equal(begun.embed_audio(clips), source.embed_audio(clips))
    result = loop.train(plan(sounds, path, text, steps=2), out, resume=True)
    assert result.step == 2
    assert [line["step"] for line in read_log(out)] == [1, 2]
    ended = reclap.load(result.folder, threads=1)
    assert not np.array_equal(ended.embed_audio(clips), source.embed_audio(clips))
    moved = not np.array_equal(_tower(result.folder), _tower(out / "step-0000000000"))
    assert moved == (text == "trained")


def _tower(folder):
    return np.array(
        model_folder.read_tensors(folder / model_folder.TEXT)["text_branch.token.weight"]
    )


@pytest.mark.parametrize("kind", ["roberta", "reclap", "cnn14"])
def test_trained_model_is_left_in_the_layout_of_laion_bit_for_bit(rng, sounds, tmp_path, kind):
    path = source_of(rng, tmp_path, kind, "laion")
    loop.train(plan(sounds, path, "trained"), tmp_path / "out")
    last = str(tmp_path / "out" / "last")
    assert main(["convert", last, str(tmp_path / "theirs"), "--format=laion"]) == 0
    ours = reclap.load(last, threads=1)
    again = reclap.load(tmp_path / "theirs" / "model.pt", threads=1)
    for name, x in again._weights.require_exact().items():
        np.testing.assert_array_equal(np.asarray(x), ours._weights.require_exact()[name])
    assert np.array_equal(again.embed_text(TEXTS), ours.embed_text(TEXTS))


@pytest.mark.oracle
def test_trained_model_opens_in_transformers(rng, sounds, tmp_path):
    torch = needs("torch", "oracle")
    needs("transformers", "oracle")
    from test_export import reload
    from test_families import sounds as noises
    from test_families import theirs_audio, unit

    path = source_of(rng, tmp_path, "roberta", "laion")
    loop.train(plan(sounds, path, "trained"), tmp_path / "out")
    last = str(tmp_path / "out" / "last")
    assert main(["convert", last, str(tmp_path / "hf"), "--format=hf"]) == 0
    theirs, ours = reload(tmp_path / "hf"), reclap.load(last, threads=1)
    front = dataclasses.replace(ours.config.front, quantize=False)
    clips = noises(rng, (1.0, 10.0))
    np.testing.assert_allclose(
        ours.embed_audio(clips, rate=48000), theirs_audio(theirs, clips, front), atol=SAME
    )
    vocab = json.loads((tmp_path / "hf" / "tokenizer.json").read_text())["model"]["vocab"]
    for text, row in zip(TEXTS, ours.embed_text(TEXTS), strict=True):
        ids = torch.tensor([[0, *(vocab[w] for w in text.split()), 2]])
        with torch.no_grad():
            found = theirs.get_text_features(input_ids=ids)
        found = getattr(found, "pooler_output", found)
        np.testing.assert_allclose(row, unit(found.numpy())[0], atol=SAME)
