"""Forms in which people keep the same weights: types, shards, prefixes, wrappers."""

import numpy as np
import pytest
from test_families import TEXTS, clap_model, laion_state, write_tokenizer

import reclap

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

pytestmark = pytest.mark.torch


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
