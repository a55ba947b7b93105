"""In every family and every tensor, a weight that is not finite is refused at load, by name."""

import dataclasses

import numpy as np
import pytest
from needs import needs

import reclap
from reclap.checkpoints.families import detect
from reclap.errors import FormatError
from reclap.model import Model

torch = needs("torch", "oracle")
needs("transformers", "oracle")

import test_families_cnn14 as panns  # noqa: E402
from test_families import clap_model, laion_state, save_folder  # noqa: E402
from test_families_text import ClipText, without_text  # noqa: E402

pytestmark = pytest.mark.oracle


def saved(state, folder):
    torch.save(state, folder / "model.pt")
    return folder / "model.pt"


def clip_text(rng, folder):
    tower = ClipText(torch.nn.functional.gelu)
    return saved(without_text(laion_state(clap_model(rng))) | tower.state_dict(), folder)


FAMILIES = {
    "laion": lambda rng, folder: saved(laion_state(clap_model(rng)), folder),
    "fused": lambda rng, folder: saved(laion_state(clap_model(rng, fused=True)), folder),
    "clip": clip_text,
    "transformers": lambda rng, folder: save_folder(clap_model(rng), folder / "hf"),
    "microsoft": lambda rng, folder: saved({"model": panns.microsoft().state}, folder),
    "panns": lambda rng, folder: saved(panns.laion().state, folder),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_tensor_with_a_value_that_is_not_finite_is_named(rng, tmp_path, family):
    path = FAMILIES[family](rng, tmp_path)
    found = detect.read(path)
    reclap.load(path)
    for i, (name, tensor) in enumerate(found.tensors.items()):
        bad = np.array(np.asarray(tensor), np.float32)
        variance = name.endswith("running_var") and i % 2
        bad.flat[-1] = -1 if variance else (np.nan, np.inf, -np.inf)[i % 3]
        spoilt = dataclasses.replace(found, tensors=dict(found.tensors) | {name: bad})
        with pytest.raises(FormatError) as caught:
            Model._from_foreign(path, spoilt)
        assert str(path) in str(caught.value)
        assert name.removeprefix("audio_branch.") in str(caught.value)


def test_unused_tensors_may_hold_anything(rng, tmp_path):
    state = laion_state(clap_model(rng))
    state["audio_branch.tscam_conv.bias"] = torch.full((527,), torch.nan)
    assert reclap.load(saved(state, tmp_path)).digest
