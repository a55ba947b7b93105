"""Values at the border of the core: a configuration is refused with a name, or works."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from models import AUDIO, CNN14, MLP, TEXT, decibels, new_model
from needs import kernels

from reclap.runtime.libraries import core

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
    ("htsat", "mlp_ratio", 17, "audio.mlp_ratio: expected 0.0625 to 16, .*got 17"),
    ("htsat", "mlp_ratio", NAN, "audio.mlp_ratio: expected 0.0625 to 16, .*got -?nan"),
    ("htsat", "mlp_ratio", 1 / 15, "a hidden width of at least 1, .*with an embed of 12"),
    ("htsat", "activation", 4, "audio.activation: expected 0 to 3, got 4"),
    ("htsat", "block_eps", 0.0, "audio.block_eps: expected 1e-30 to 1, got 0"),
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
        "from reclap.runtime.libraries import core\n"
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


# ---- Arguments -----------------------------------------------------------------------------------

IDS = [
    ([2**32 + 5], ValueError, "32 bits"),
    ([-(2**31) - 1], ValueError, "32 bits"),
    (np.array([2**63], np.uint64), ValueError, "32 bits"),
    (np.array([2**31], np.uint32), ValueError, "32 bits"),
    ([5.9], TypeError, "integers, got dtype float64"),
    (np.ones(1, np.float16), TypeError, "integers, got dtype float16"),
    (["5"], TypeError, "integers"),
]


@pytest.mark.parametrize(("ids", "kind", "text"), IDS)
def test_integers_are_never_cut_or_rounded(rng, ids, kind, text):
    model, _ = new_model(rng, None, TEXT, 48)
    context = core.Context(1)
    with pytest.raises(kind, match=text):
        model.text(context, ids, [0, 1])
    with pytest.raises(kind, match=text):
        model.text(context, [1], np.concatenate([np.asarray(ids)[:0], ids, ids]))
    with pytest.raises(kind, match=text):
        core.ranks(context, np.eye(2), np.eye(2), np.reshape(ids, (1, 1)).repeat(2, 0))
    with pytest.raises(kind, match=text):
        kernels.gather_rows(np.eye(3), ids)
    with pytest.raises(kind, match=text):
        core.class_vectors(np.eye(3), ids)


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i4"])
def test_integers_of_every_type_that_fit_are_taken(rng, dtype):
    model, _ = new_model(rng, None, TEXT, 48)
    context = core.Context(1)
    want = model.text(context, [7, 8, 9], [0, 3])
    got = model.text(context, np.array([7, 8, 9], dtype), np.array([0, 3], dtype))
    assert np.array_equal(got, want)
    assert model.text(context, [], [0]).shape == (0, 20)


def test_draws_take_no_number_that_does_not_fit(rng):
    for seed in (-1, 2**64):
        with pytest.raises(OverflowError):
            kernels.draws("uniform", 3, seed, 0, 0)
        with pytest.raises(OverflowError):
            kernels.dropout(np.ones(3), 0.5, 0, seed, 0, 0)
    last = kernels.dropout(np.ones(3), 0.0, 0, 0, 0, 2**63 - 2)
    assert np.array_equal(last, np.ones(3))
    trainer = core.Trainer(new_model(rng)[0], 1)
    with pytest.raises(OverflowError):
        trainer.step(decibels(rng, 2), np.ones((2, 24)), 0, -1)


def test_flags_with_other_bytes_than_0_and_1(rng):
    model, _ = new_model(rng, AUDIO | {"fusion": True})
    mel = np.stack([decibels(rng, 3)] * 4, axis=1)
    context = core.Context(1)
    odd = np.array([2, 0, 255], np.uint8).view(bool)
    want = model.audio(context, mel, longer=np.array([True, False, True]))
    assert np.array_equal(model.audio(context, mel, longer=odd), want)


HUGE = [
    ("relpos_forward", (np.ones((1, 1)), 2**62)),
    ("relpos_forward", (np.ones((1, 1)), 65)),
    ("relpos_backward", (np.ones((1, 1, 1)), -(2**62))),
    ("stretch_forward", (np.ones((1, 0)), 2**60)),
    ("stretch_backward", (np.ones((1, 0)), 2**60)),
    ("meanpool_backward", (np.ones((1, 0)), 2**60)),
    ("window_mask", (4096, 64, 0)),
    ("attention", (np.ones((2, 6)), 2**62, 1, 1.0, None, None)),
    ("attention", (np.ones((2, 0)), 1, 1, 1.0, None, None)),
    ("t5_bias_forward", (np.ones((4, 1)), 2**40, 8)),
]


@pytest.mark.parametrize(("name", "args"), HUGE)
def test_sizes_that_overflow_are_refused(name, args):
    with pytest.raises(ValueError, match=r"expected|range|fit"):
        getattr(kernels, name)(*args)


def test_more_rows_than_there_are_make_one_chunk(rng):
    x, w = rng.standard_normal((5, 3)), rng.standard_normal((4, 3))
    want = kernels.linear_forward(x, w, None, rows=5)
    assert np.array_equal(kernels.linear_forward(x, w, None, rows=2**63 - 1), want)
    dy = rng.standard_normal((5, 4))
    for got, wanted in zip(
        kernels.linear_backward(dy, x, w, rows=2**63 - 1),
        kernels.linear_backward(dy, x, w, rows=5),
        strict=True,
    ):
        assert np.array_equal(got, wanted)


class Vicious:
    """An integer whose conversion empties what holds it."""

    def __init__(self, holder, value):
        self.holder, self.value = holder, value

    def __index__(self):
        self.holder.clear()
        return self.value


def test_items_that_change_their_list_or_dictionary():
    config = dict(AUDIO)
    config["depths"] = [2, 2, 2]
    config["depths"][0] = Vicious(config["depths"], 2)
    shape_of(config)
    assert config["depths"] == []
    config = dict(AUDIO)
    config["mels"] = Vicious(config, 16)
    with pytest.raises(ValueError, match='"spec_size" is missing'):
        shape_of(config)


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [
        ("mels", 16.0, TypeError),
        ("mels", "16", TypeError),
        ("mels", None, TypeError),
        ("mels", 2**63, OverflowError),
        ("eps", "small", TypeError),
        ("depths", 3, TypeError),
        ("depths", [2, 2.5, 2], TypeError),
        ("depths", {}, ValueError),
        ("fusion", 2, TypeError),
        ("fusion", np.ones(2), TypeError),
    ],
)
def test_values_of_a_wrong_type_are_named(field, value, kind):
    with pytest.raises(kind, match=field):
        shape_of(AUDIO | {field: value})
    with pytest.raises(TypeError, match="configuration: expected a dict, got list"):
        shape_of([1, 2])


def test_calls_take_a_bounded_number_of_clips_and_texts(rng):
    model, _ = new_model(rng, CNN14, TEXT, 48)
    context = core.Context(1)
    with pytest.raises(ValueError, match="clips: expected at most 65536 in one call, got 65537"):
        model.audio(context, np.zeros((65537, 4, 16), np.float32))
    with pytest.raises(ValueError, match="texts: expected at most 65536 in one call, got 65537"):
        model.text(context, np.ones(65537, np.int32), np.arange(65538))


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("lr", NAN, r"lr: expected 0 to 1e\+30, got -?nan"),
        ("lr", -1e-3, r"lr: expected 0 to 1e\+30, got -0.001"),
        ("beta1", 1.0, "beta1: expected 0 to"),
        ("beta2", 0.99999999999, "beta2: expected 0 to"),
        ("eps", 0.0, "eps: expected 1e-30 to 1, got 0"),
        ("weight_decay", float("inf"), "weight_decay: expected 0 to 1000, got inf"),
        ("clip", NAN, "clip: expected 0 to inf"),
        ("step", 2**63, "step: expected 0 to"),
    ],
)
def test_options_of_a_step_are_named(rng, option, value, text):
    trainer = core.Trainer(new_model(rng)[0], 1)
    mel, features = decibels(rng, 2), rng.standard_normal((2, 24))
    before = [x.copy() for x in trainer.buffers(0)]
    with pytest.raises(ValueError, match=text):
        trainer.step(mel, features, **({"seed": 1, "step": 0} | {option: value}))
    for x, y in zip(before, trainer.buffers(0), strict=True):
        assert np.array_equal(x, y)
    assert np.isfinite(list(trainer.step(mel, features, 1, 0).values())).all()


def test_a_call_that_needs_more_memory_than_there_is_says_so_and_the_next_one_works(rng):
    # Attention of a million positions with as many, in 16,384 heads: 2^56 bytes of biases alone.
    wide = {"width": 16, "heads": 1 << 14, "head_width": 1, "mlp": 4, "layers": 1, "vocab": 3}
    padded = {"pool": 4, "position": 1, "positions": 1 << 20, "pad_to": 1 << 20, "types": 0}
    text = TEXT | wide | padded | {"buckets": 32, "max_distance": 128}
    model, _ = new_model(rng, None, text, 16)
    small, _ = new_model(rng, None, TEXT, 48)
    context = core.Context(1)
    want = small.text(context, [1, 2, 3], [0, 3])
    with pytest.raises(MemoryError, match=r"out of memory: .* bytes"):
        model.text(context, [1, 2], [0, 2])
    assert np.array_equal(small.text(context, [1, 2, 3], [0, 3]), want)
