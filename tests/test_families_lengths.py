"""Lengths at which texts are cut: those of each project, never more than there are positions."""

import json

import numpy as np
import pytest
from needs import needs
from test_families import (
    SAME,
    clap_model,
    laion_state,
    save_folder,
    theirs_text,
    write_tokenizer,
)

import reclap

torch = needs("torch", "oracle")
transformers = needs("transformers", "oracle")

pytestmark = pytest.mark.oracle

LONG = [" ".join(f"w{i % 100}" for i in range(n)) for n in (75, 76, 80, 86)]  # and two at the ends


def test_folder_of_transformers_keeps_all_that_has_a_position(rng, tmp_path):
    theirs = clap_model(rng)
    ours = reclap.load(save_folder(theirs, tmp_path))
    assert ours.config.text.max_tokens == 88  # of 90 positions
    np.testing.assert_allclose(ours.embed_text(LONG), theirs_text(theirs, LONG), atol=SAME)


@pytest.mark.parametrize(("said", "expected"), [(50, 50), (512, 88), (int(1e30), 88), (None, 88)])
def test_length_that_the_tokenizer_says_holds(rng, tmp_path, said, expected):
    folder = save_folder(clap_model(rng), tmp_path / "a")
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": said}))
    first = reclap.load(folder)
    assert first.config.text.max_tokens == expected
    first.save(tmp_path / "b", format="hf")
    assert reclap.load(tmp_path / "b").digest == first.digest


def test_file_of_laion_is_cut_at_77_as_its_own_code_does(rng, tmp_path):
    torch.save(laion_state(clap_model(rng)), tmp_path / "model.pt")
    write_tokenizer(tmp_path / "tokenizer.json")
    ours = reclap.load(tmp_path / "model.pt")
    assert ours.config.text.max_tokens == 77
    rows = ours.embed_text(LONG[:3])
    np.testing.assert_array_equal(rows[1:], rows[:2])


def test_few_positions_shorten_the_texts(rng, tmp_path):
    state = laion_state(clap_model(rng))
    for name in ("position_embeddings.weight", "position_ids"):
        full = state[f"text_branch.embeddings.{name}"]
        state[f"text_branch.embeddings.{name}"] = full[:, :30] if "ids" in name else full[:30]
    torch.save(state, tmp_path / "model.pt")
    write_tokenizer(tmp_path / "tokenizer.json")
    ours = reclap.load(tmp_path / "model.pt")
    assert ours.config.text.max_tokens == 28
    assert ours.embed_text(LONG).shape == (4, 24)
