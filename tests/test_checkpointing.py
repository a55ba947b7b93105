"""Gradient checkpointing: the same bits in less memory."""

import numpy as np
import pytest
from models import AUDIO, TEXT, VIT, decibels, draw_parameter
from test_text_towers import small

from reclap.errors import BackendError
from reclap.runtime.libraries import core

DRAWS = {"drop_path": 0.2, "dropout": 0.1}
TEXTS = {
    "minilm": TEXT,
    "roberta": small("roberta-base").to_core(),
    "t5": small("flan-t5-large").to_core(),
    "gpt2": small("gpt2").to_core(),
}
DEEP = AUDIO | DRAWS | {"time_stripes": 1, "time_width": 9, "depths": [2, 4, 2]}


def new_trainer(audio, text, rate=None, **options):
    rng = np.random.default_rng(2)
    model = core.Model(audio, text | {"dropout": 0.1}, 48, 2, 2, 20)
    values = [draw_parameter(rng, n, s) for n, s, _ in model.parameters()]
    model.bind([np.asarray(x, np.float32) for x in values])
    names = [n for n, _, _ in model.parameters()]
    rates = None if rate is None else [float(rate in n) for n in names]
    return core.Trainer(model, 2, rates, **options)


def batch():
    rng = np.random.default_rng(0)
    first = np.cumsum([0, *rng.integers(1, 20, 5)]).astype(np.int32)
    return decibels(rng, 5, 60), (rng.integers(0, 101, first[-1]).astype(np.int32), first)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rate", [None, ".1."])
@pytest.mark.parametrize(("audio", "text"), [(DEEP, t) for t in TEXTS] + [(VIT | DRAWS, "t5")])
def test_gradients_are_the_same_bits(audio, text, rate, dtype):
    found = []
    for checkpointing in (False, True):
        options = {"checkpointing": checkpointing, "dtype": dtype}
        try:
            trainer = new_trainer(audio, TEXTS[text], rate, **options)
        except BackendError as error:
            pytest.skip(str(error))
        made = trainer.gradients(*batch(), 5, 1)
        found.append([np.float32(made["loss"]), *trainer.buffers(1)])
    for x, y in zip(*found, strict=True):
        assert (x is None) == (y is None)
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("text", TEXTS)
def test_memory_of_a_deep_tower_is_that_of_its_inputs(text):
    deep = TEXTS[text] | {"layers": 24}
    size = {"clips": 4, "frames": 60, "texts": 64, "tokens": 3200, "longest": 60, "na": 4, "nt": 64}
    whole, less = (
        new_trainer(AUDIO, deep, checkpointing=on).measure(**size)[0] for on in (False, True)
    )
    assert less < 0.35 * whole
