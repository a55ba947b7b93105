"""NaN and infinities: they pass through every kernel, type and tower, or are refused by name."""

import folders
import numpy as np
import pytest
from models import AUDIO, CNN14, MLP, MS, STATISTIC, TEXT, decibels, draw_parameter, new_model
from needs import kernels

import reclap
from reclap.checkpoints import model_folder
from reclap.runtime.libraries import core

DTYPES = ["float32", "bfloat16", "int8", "bfloat16x1", "float32x3", "float32x6"]
# A quiet NaN, and those that rounding to bfloat16 by an addition turns into 0 or infinity.
NANS = [np.uint32(bits).view(np.float32) for bits in (0x7FC00000, 0xFFFFFFFF, 0x7F800001)]
BAD = [*NANS, np.float32(np.inf), np.float32(-np.inf)]
IDS = ["nan", "nan_all_bits", "nan_low_bit", "inf", "minus_inf"]


def matrix(rng, n, c, at=None, value=np.nan):
    """Return a random matrix with one value in it."""
    x = rng.standard_normal((n, c)).astype(np.float32)
    if at is not None:
        x[at] = value
    return x


# ---- Kernels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("nan", NANS, ids=IDS[:3])
@pytest.mark.parametrize(
    "kind", ["gelu", "gelu_tanh", "quick_gelu", "relu", "tanh", "sigmoid", "exp"]
)
def test_activations_keep_nan_where_it_is(rng, kind, nan):
    x = matrix(rng, 3, 37, (1, 5), nan)
    y = kernels.activation(kind, x)
    assert np.argwhere(np.isnan(y)).tolist() == [[1, 5]]
    if kind != "exp":
        dy = matrix(rng, 3, 37)
        dx = kernels.activation_backward(kind, dy, x)
        assert np.isnan(dx[1, 5]) or kind == "relu"  # whose slope there is 1, as torch's
        assert np.isfinite(np.delete(dx.ravel(), 37 + 5)).all()
        assert np.isnan(kernels.activation_backward(kind, x, np.ones_like(x))[1, 5])


def test_activations_of_infinities_are_their_limits():
    x = np.array([np.inf, -np.inf], np.float32)
    limits = {"relu": [np.inf, 0], "tanh": [1, -1], "sigmoid": [1, 0], "exp": [np.inf, 0]}
    for kind, want in limits.items():
        np.testing.assert_allclose(kernels.activation(kind, x), want, atol=2e-38)
    for kind in ("gelu", "gelu_tanh", "quick_gelu"):
        assert kernels.activation(kind, x)[0] == np.inf


@pytest.mark.parametrize("value", BAD, ids=IDS)
def test_norms_of_a_row_lose_the_row_and_no_other(rng, value):
    x, w, b = matrix(rng, 4, 40, (2, 7), value), np.ones(40), np.zeros(40)
    ln, rms = kernels.layernorm_forward(x, w, b, 1e-5)[0], kernels.rmsnorm_forward(x, w, 1e-5)[0]
    unit = kernels.l2norm_forward(x)[0]
    for y in (ln, rms, unit):
        assert not np.isfinite(y[2]).all()
        assert np.isfinite(np.delete(y, 2, axis=0)).all()
    mean, var = kernels.batchnorm_stats(x)
    assert not np.isfinite(mean[7])
    assert np.isnan(var[7])
    assert np.isfinite(np.delete(mean, 7)).all()
    y = kernels.batchnorm_forward(x, b, w, w, b, 1e-5)[0]
    assert np.argwhere(~np.isfinite(y)).tolist() == [[2, 7]]


def test_a_row_of_length_nan_is_nan_throughout(rng):
    x = matrix(rng, 3, 20, (1, 4), np.nan)
    y, length = kernels.l2norm_forward(x)
    assert np.isnan(y[1]).all()
    assert np.isnan(length[1])
    assert np.isnan(kernels.l2norm_backward(x[::-1], y, length)[0][1]).all()
    assert np.isnan(core.class_vectors(x, [0, 1, 3])[1]).all()


def test_rows_near_the_largest_float_have_unit_length():
    x = np.full((2, 300), 3e38, np.float32)
    y, _ = kernels.l2norm_forward(x)
    np.testing.assert_allclose(y, 300**-0.5, rtol=1e-6)
    np.testing.assert_allclose(core.class_vectors(x, [0, 1, 2]), 300**-0.5, rtol=1e-6)


@pytest.mark.parametrize("value", BAD, ids=IDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_products_lose_the_row_and_no_other(rng, dtype, value):
    x, w = matrix(rng, 40, 70, (3, 33), value), matrix(rng, 50, 70)
    y = kernels.linear_forward(x, w, np.zeros(50), packed=dtype)
    assert not np.isfinite(y[3]).any()
    clean = kernels.linear_forward(np.delete(x, 3, axis=0), w, np.zeros(50), packed=dtype)
    np.testing.assert_allclose(np.delete(y, 3, axis=0), clean, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32x3", "float32x6"])
def test_split_products_of_values_near_the_largest_float(dtype):
    # Rounded up, the first part would be infinite and the second minus infinity: together NaN.
    x = np.zeros((2, 32), np.float32)
    x[0, 0], x[1, 3] = np.finfo(np.float32).max, -3.4e38
    w = np.full((32, 32), 2.0**-20, np.float32)
    y = kernels.linear_forward(x, w, None, packed=dtype)
    np.testing.assert_allclose(y, np.broadcast_to(x.sum(1, keepdims=True) / 2**20, y.shape), 1e-4)


@pytest.mark.parametrize("largest", [1e-45, 1e-38, 3e-37])
def test_int8_rows_too_small_for_a_scale_are_zero(rng, largest):
    x = np.full((2, 64), largest, np.float32)
    y = kernels.linear_forward(x, matrix(rng, 16, 64), None, packed="int8")
    assert np.abs(y).max() < 1e-34


@pytest.mark.parametrize("part", ["query", "key", "value"])
def test_attention_keeps_nan(rng, part):
    qkv = matrix(rng, 9, 24)
    first = {"query": 0, "key": 8, "value": 16}[part]
    qkv[4, first] = np.nan
    y = kernels.attention(qkv, 2, 9, 0.3, None, None)
    head = np.isnan(y[:, :4])
    if part == "query":
        assert head[4].all()
        assert not np.delete(head, 4, axis=0).any()
    elif part == "key":
        assert head.all()
    else:
        assert head[:, 0].all()
        assert not head[:, 1:].any()
    assert np.isfinite(y[:, 4:]).all()
    dqkv, _ = kernels.attention(qkv, 2, 9, 0.3, None, None, matrix(rng, 9, 8))
    assert np.isnan(dqkv).any()


@pytest.mark.parametrize("value", BAD, ids=IDS)
def test_moves_and_sums_keep_what_they_read(rng, value):
    x = matrix(rng, 6, 5, (2, 3), value)
    assert not np.isfinite(kernels.meanpool_forward(x)[0][3])
    assert not np.isfinite(kernels.stretch_forward(x, 11)[:, 3]).all()
    assert not np.isfinite(kernels.gather_rows(x, [2])[0, 3])
    assert not np.isfinite(kernels.gated_forward(x, np.ones_like(x))[0][2, 3])
    assert not np.isfinite(kernels.lookup_backward(x, [0, 1, 1, 0, 1, 0], 2)[1, 3])
    assert not np.isfinite(kernels.sum_squares(x))
    assert not core.all_finite(x)
    assert core.all_finite(np.delete(x, 2, axis=0))


# Every kernel with arguments of which each array is poisoned in turn.
KERNELS = {
    "layernorm_forward": [(6, 20), (20,), (20,), 1e-5],
    "layernorm_backward": [(6, 20), (6, 20), (6,), (6,), (20,)],
    "rmsnorm_forward": [(6, 20), (20,), 1e-5],
    "rmsnorm_backward": [(6, 20), (6, 20), (6,), (20,)],
    "batchnorm_stats": [(6, 20)],
    "batchnorm_forward": [(6, 20), (20,), (20,), (20,), (20,), 1e-5],
    "batchnorm_backward": [(6, 20), (6, 20), (20,), (20,), (20,), 1e-5],
    "l2norm_forward": [(6, 20)],
    "l2norm_backward": [(6, 20), (6, 20), (6,)],
    "gated_forward": [(6, 20), (6, 20)],
    "gated_backward": [(6, 20), (6, 20), (6, 20)],
    "stretch_forward": [(6, 20), 9],
    "stretch_backward": [(6, 20), 4],
    "relpos_forward": [(25, 2), 3],
    "relpos_backward": [(2, 9, 9), 3],
    "t5_bias_forward": [(8, 2), 9, 20],
    "t5_bias_backward": [(2, 9, 9), 8, 20],
    "meanpool_forward": [(6, 20)],
    "meanpool_backward": [(1, 20), 6],
    "attention": [(6, 12), 2, 6, 0.5, (2, 6, 6), (6, 6)],
    "linear_forward": [(6, 20), (5, 20), (5,)],
    "linear_backward": [(6, 5), (6, 20), (5, 20)],
    "contrastive": [(6, 20), (6, 20), 1.0],
    "downmix": [(6, 2)],
}


DIVIDES = {("batchnorm_forward", 2), ("batchnorm_backward", 3), ("l2norm_backward", 2)}


@pytest.mark.parametrize("value", BAD, ids=IDS)
@pytest.mark.parametrize("name", KERNELS)
def test_no_kernel_makes_finite_what_is_not(rng, name, value):
    clean = [
        np.abs(rng.standard_normal(x)).astype(np.float32) + 1 if isinstance(x, tuple) else x
        for x in KERNELS[name]
    ]
    call = getattr(core if name == "downmix" else kernels, name)

    def finite(args):
        found = call(*args)
        return all(np.isfinite(y).all() for y in (found if isinstance(found, tuple) else [found]))

    assert finite(clean)
    for place, x in enumerate(clean):
        if isinstance(x, np.ndarray):
            bad = [y.copy() if isinstance(y, np.ndarray) else y for y in clean]
            bad[place].reshape(-1)[(x.size // 2 + 2) % x.size] = value
            divides = (name, place) in DIVIDES
            limit = np.isinf(value) and (
                divides or (name == "attention" and value < 0 and place > 3)
            )
            assert limit or not finite(bad), (name, place)  # by infinity, or masked by it


# ---- Front end -----------------------------------------------------------------------------------

MEL = {"rate": 16000, "n_fft": 512, "hop": 160, "mels": 40, "fmin": 0, "fmax": 8000}


def mel_of(**changes):
    return core.Mel(**(MEL | {"htk": False, "area_norm": True} | changes))


@pytest.mark.parametrize("value", BAD, ids=IDS)
def test_log_mel_is_nan_where_a_frame_holds_what_is_not_finite(rng, value):
    x = rng.standard_normal(8000).astype(np.float32)
    clean = mel_of()(x)
    x[4000] = value
    y = mel_of()(x)
    touched = [i for i in range(len(y)) if abs(160 * i - 4000) < 256]
    assert np.isnan(y[touched]).all()
    assert np.array_equal(np.delete(y, touched, axis=0), np.delete(clean, touched, axis=0))


def test_log_mel_of_power_beyond_float32():
    x = matrix(np.random.default_rng(1), 1, 4000)[0]
    loud = mel_of()(x * np.float32(1e30))
    np.testing.assert_allclose(loud, mel_of()(x) + 600, atol=1e-3)


@pytest.mark.parametrize("htk", [True, False])
@pytest.mark.parametrize("fmin", [1000, 62.5])  # on a bin: its weight was 0 / 0
def test_bands_too_narrow_to_tell_apart_are_refused(fmin, htk):
    with pytest.raises(ValueError, match=r"40 bands between fmin .* are too narrow"):
        mel_of(fmin=fmin, fmax=np.nextafter(fmin, 1e9), htk=htk)
    assert np.isfinite(mel_of(fmin=fmin, fmax=fmin * (1 + 1e-6), htk=htk).filters()).all()


@pytest.mark.parametrize("fmax", [1e-300, 1e-12, 1e-3])
def test_bands_close_to_0_hz_have_finite_filters(fmax):
    assert np.isfinite(mel_of(fmax=fmax).filters()).all()


# ---- Weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", BAD, ids=IDS)
@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("audio", [AUDIO, CNN14], ids=["htsat", "cnn14"])
def test_weights_that_are_not_finite_are_refused_by_name(rng, audio, pack, value):
    model = core.Model(audio, TEXT, 48, MLP, MS, 20)
    shapes = model.parameters()
    values = [draw_parameter(rng, name, shape) for name, shape, _ in shapes]
    for place in rng.choice(len(shapes), 5, replace=False):
        bad = [x.copy() for x in values]
        bad[place].reshape(-1)[-1] = value
        with pytest.raises(
            ValueError, match=f"^{shapes[place][0]}: value {bad[place].size - 1} is"
        ):
            model.bind(bad, pack=pack)
    model.bind(values, pack=pack)  # and the same object works
    assert np.isfinite(model.text(core.Context(1), [1, 2, 3], [0, 3])).all()


def test_negative_variances_are_refused_by_name(rng):
    _, values = new_model(rng, CNN14)
    again = core.Model(CNN14, None, 24, MLP, MLP, 20)
    name = "audio_branch.conv_block2.bn1.running_var"
    values[name][1] = -1e-3
    with pytest.raises(ValueError, match=f"{name}: value 1 is -0.001, a variance"):
        again.bind(list(values.values()))


# ---- Towers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", BAD, ids=IDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["htsat", "fusion", "cnn14"])
def test_a_clip_with_a_value_that_is_not_finite_gives_no_finite_row(rng, kind, dtype, value):
    if dtype == "bfloat16" and core.split_kind() == "plain":
        pytest.skip("this processor has no bfloat16")
    audio = {"htsat": AUDIO, "fusion": AUDIO | {"fusion": True}, "cnn14": CNN14}[kind]
    model, _ = new_model(rng, audio)
    model.pack(dtype)
    mel, options = decibels(rng, 3), {}
    if kind == "fusion":
        mel = np.stack([mel] * 4, axis=1)
        options = {"longer": np.array([True, True, False])}
    context = core.Context(2)
    clean = model.audio(context, mel, **options)
    mel[(1, 2, 77, 9) if kind == "fusion" else (1, 77, 9)] = value
    rows = model.audio(context, mel, **options)
    assert not np.isfinite(rows[1]).any()
    assert np.array_equal(rows[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize("value", BAD, ids=IDS)
@pytest.mark.parametrize("head", [MLP, MS])
def test_text_features_that_are_not_finite_give_no_finite_row(rng, head, value):
    model, _ = new_model(rng, heads=(MLP, head))
    x = matrix(rng, 3, 24, (1, 5), value)
    rows = model.text_head(core.Context(1), x)
    assert not np.isfinite(rows[1]).any()
    assert np.isfinite(rows[[0, 2]]).all()


@pytest.mark.parametrize("value", BAD, ids=IDS)
@pytest.mark.parametrize("where", ["mel", "text"])
def test_a_step_on_what_is_not_finite_is_refused_and_the_next_one_works(rng, where, value):
    model, _ = new_model(rng)
    trainer = core.Trainer(model, 2)
    mel, text = decibels(rng, 4), matrix(rng, 4, 24)
    before = [x.copy() for x in trainer.buffers(0)]
    bad = {"mel": mel.copy(), "text": text.copy()}
    bad[where].reshape(4, -1)[2, 11] = value
    with pytest.raises(ValueError, match="not finite; no update"):
        trainer.step(bad["mel"], bad["text"], 1, 0)
    for (name, _, kind), x, y in zip(model.parameters(), before, trainer.buffers(0), strict=True):
        assert kind == STATISTIC or np.array_equal(x, y), name
    assert np.isfinite(list(trainer.step(mel, text, 1, 0).values())).all()


# ---- Models --------------------------------------------------------------------------------------


def changed(folder, name, change):
    """Write a small model with one tensor changed."""
    folders.write_folder(folder)
    path = folder / (model_folder.TEXT if name.startswith("text_branch") else model_folder.MODEL)
    tensors = {key: np.array(x) for key, x in model_folder.read_tensors(path).items()}
    change(tensors[name].reshape(-1))
    model_folder.write_tensors(path, tensors)
    return folder


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize(
    "name", ["audio_branch.layers.0.blocks.0.mlp.fc1.weight", "text_branch.token.weight"]
)
def test_a_file_with_a_weight_that_is_not_finite_is_named_with_it(tmp_path, name, dtype):
    def change(x):
        x[5] = np.nan

    folder = changed(tmp_path / "model", name, change)
    with pytest.raises(reclap.FormatError, match=f"model.*{name}: value 5 is -?nan"):
        reclap.load(folder, dtype=dtype)


@pytest.mark.parametrize("dtype", ["float32", "float32x3"])
def test_an_embedding_that_is_not_finite_is_named(tmp_path, tones, dtype):
    def change(x):
        x[:] = np.finfo(np.float32).max

    audio = changed(tmp_path / "audio", "audio_projection.2.weight", change)
    with pytest.raises(reclap.ReclapError, match=rf"audio: .*{tones[0].name} is not finite"):
        reclap.load(audio, dtype=dtype).embed_audio(tones[:2])
    text = changed(tmp_path / "text", "text_projection.2.weight", change)
    with pytest.raises(reclap.ReclapError, match="text: the embedding of 'a b' is not finite"):
        reclap.load(text, dtype=dtype).embed_text(["a b", "c"])
