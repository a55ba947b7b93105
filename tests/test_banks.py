"""The banks that come with the package."""

from pathlib import Path

import pytest

import reclap
from reclap.prompts import bank as bank_module

FOLDER = Path(bank_module.__file__).parent / "banks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
# File of labels in the shared data, labels, descriptions of each at least, captions of each.
SHAPES = {
    "esc50": ("ESC50.txt", 50, 5, 2),
    "urbansound8k": ("UrbanSound8K.txt", 10, 5, 2),
    "tut": ("tut.txt", 15, 5, 2),
    "nsynth": ("nsynth.txt", 11, 5, 2),
    "fsd50k": ("FSD50k.txt", 200, 3, 2),
    "vggsound": ("VGGSound.txt", 309, 2, 1),
    "audioset": ("audioset.txt", 527, 2, 1),
}
# Lists that are not the labels of the data set: a family too few, nodes of the ontology too many.
DIFFERENT = {"nsynth": {"synth_lead"}, "audioset": set()}


def test_all_banks_are_there():
    assert set(NAMES) == set(SHAPES)


@pytest.mark.parametrize("name", NAMES)
def test_bank_has_what_it_should(name):
    bank = reclap.PromptBank.load(name)
    _, labels, descriptions, captions = SHAPES[name]
    assert bank.name == name
    assert len(bank.labels) == labels
    assert bank.made["by"]
    for label, entry in bank.entries.items():
        assert len(entry.descriptions) >= descriptions, label
        for description in entry.descriptions:
            assert description.text, label
            assert len(description.prompts) >= captions, label


@pytest.mark.parametrize("name", NAMES)
def test_no_prompt_occurs_twice(name):
    texts = [t.casefold() for g in reclap.PromptBank.load(name).prompts().values() for t in g]
    assert len(texts) == len(set(texts))


@pytest.mark.parametrize("name", NAMES)
def test_file_is_as_we_would_write_it(name, tmp_path):
    reclap.PromptBank.load(name).save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (FOLDER / f"{name}.json").read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_those_of_the_data_set(shared, name):
    lines = (shared / "labels" / SHAPES[name][0]).read_text("utf-8").splitlines()
    listed, labels = (
        {line.strip() for line in lines if line.strip()},
        set(reclap.PromptBank.load(name).labels),
    )
    assert labels - listed == DIFFERENT.get(name, set())
    assert name == "audioset" or listed <= labels


def test_a_bundled_bank_names_sounds(mini, real_clips):
    bank = reclap.PromptBank.load("esc50").select(["rain", "rooster"])
    clips = [path for path in real_clips if path.parent.name == "rooster"]
    assert [r.label for r in mini.classify(clips, bank)] == ["rooster"] * len(clips)
