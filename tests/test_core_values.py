"""Values at the border of the core: a configuration is refused with a name, or works."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from models import AUDIO, CNN14, MLP, TEXT, decibels, new_model

from reclap._libraries import core

ROOT = Path(__file__).resolve().parents[1]
NAN = float("nan")


def shape_of(audio=None, text=None):
    """Return a core.Model of this configuration, without weights."""
    return core.Model(audio, text, text["width"] if text else 24, MLP, MLP, 20)


@pytest.mark.parametrize(
    ("patch", "depths", "window"),
    [(16, [1, 2, 1], 4), (16, [2, 1, 1], 1), (32, [2, 2], 4), (64, [3], 8), (64, [1], 1)],
)
def test_a_last_stage_of_one_token_works(rng, patch, depths, window):
    audio = AUDIO | {"patch": patch, "window": window, "depths": depths, "heads": [1] * len(depths)}
    model, _ = new_model(rng, audio)
    mel = decibels(rng, 3)
    rows = model.audio(core.Context(1), mel)
    assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() < 1e-5
    trainer = core.Trainer(model, 1)
    step = trainer.step(mel, rng.standard_normal((3, 24)).astype(np.float32), 1, 0)
    assert np.isfinite(list(step.values())).all()


REFUSED = [
    ("htsat", "spec_size", 0, "spec_size 0"),
    ("htsat", "spec_size", 2**62, "spec_size"),
    ("htsat", "mels", -1, "mels -1"),
    ("htsat", "patch", 0, "audio.patch"),
    ("htsat", "embed", 0, "audio.embed: expected 1 to 4096, got 0"),
    ("htsat", "window", 65, "audio.window: expected 1 to 64, got 65"),
    ("htsat", "mlp_ratio", 17, "audio.mlp_ratio: expected 1 to 16, got 17"),
    ("htsat", "depths", [], "number of depths: expected 1 to 8, got 0|depths but"),
    ("htsat", "depths", [2, 0, 2], r"audio.depths\[1\]"),
    ("htsat", "heads", [1, 2, 5], r"audio.heads\[2\]: 5 does not divide"),
    ("htsat", "heads", [1, 2, 2**63 - 1], r"audio.heads\[2\]"),
    ("htsat", "eps", 0.0, "audio.eps: expected 1e-30 to 1, got 0"),
    ("htsat", "eps", NAN, "audio.eps: expected 1e-30 to 1, got -?nan"),
    ("htsat", "bn_momentum", NAN, "audio.bn_momentum: expected 0 to 1, got -?nan"),
    ("htsat", "drop_path", NAN, "drop_path -?nan"),
    ("htsat", "dropout", 1.0, "dropout 1 must"),
    ("htsat", "time_stripes", -1, "stripes"),
    ("cnn14", "mels", 3, "audio.mels: 3 blocks need 4 to 1024, got 3"),
    ("cnn14", "widths", [4, 0], r"audio.widths\[1\]"),
    ("cnn14", "eps", -1.0, "audio.eps"),
    ("text", "layers", 10**7, "text.layers: expected 1 to 256, got 10000000"),
    ("text", "vocab", 0, "text.vocab: expected 1 to 16777216, got 0"),
    ("text", "positions", 2**40, "text.positions: expected 1 to 1048576"),
    ("text", "mlp", -5, "text.mlp: expected 1 to 1048576, got -5"),
    ("text", "types", -1, "text.types: expected 0 to"),
    ("text", "heads", 0, "text.heads: expected 1 to 16384, got 0"),
    ("text", "heads", 5, "text.heads: 5 does not divide the width 48"),
    ("text", "eps", NAN, "text.eps"),
]
KINDS = {"htsat": AUDIO, "cnn14": CNN14, "text": TEXT}


@pytest.mark.parametrize(("kind", "field", "value", "text"), REFUSED)
def test_a_value_out_of_range_is_named(kind, field, value, text):
    config = KINDS[kind] | {field: value}
    with pytest.raises(ValueError, match=text):
        shape_of(**{"text" if kind == "text" else "audio": config})


def test_a_small_configuration_takes_little_memory():
    # Masks of every window took 5 GB here; three kinds of them, shared by all stages, take 200 MB.
    script = (
        "import resource, sys\n"
        "sys.path.insert(0, 'tests')\n"
        "import models\n"
        "from reclap._libraries import core\n"
        "wide = {'spec_size': 2048, 'patch': 4, 'window': 64, 'mels': 64}\n"
        "wide |= {'depths': [2] * 4, 'heads': [1] * 4}\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "core.Model(models.AUDIO | wide, None, 24, 2, 2, 20)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)  # noqa: S603
    assert int(done.stdout) < 300 << 10


def test_tokens_a_side_are_bounded():
    with pytest.raises(ValueError, match=r"audio.patch: 2 makes 1024 tokens a side"):
        shape_of(AUDIO | {"spec_size": 2048, "patch": 2, "mels": 64})
