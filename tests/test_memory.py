"""Nothing is lost on success or failure, and dead or busy handles say so."""

import ctypes
import gc
import sys
import threading

import numpy as np
import pytest
from closeness import f32
from models import AUDIO, CNN14, MLP, TEXT, decibels, new_model
from needs import kernels, needs

from reclap.runtime.libraries import core

psutil = needs("psutil", "test")

TRIM = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)


def resident():
    """Return this process's memory in bytes, less what libraries merely keep for later."""
    gc.collect()
    TRIM(0)
    return psutil.Process().memory_info().rss


def assert_flat(call, rounds=50, growth=2 << 20):
    """Call it often: in some batch Python's blocks and resident memory must stay where they are.

    A loss shows in every batch, a cache or free list that fills only in the first ones. An object
    lost in every round costs at least a block; what is lost in C must be large to show, so the
    arguments below are.
    """
    for _ in range(8):
        blocks, memory = sys.getallocatedblocks(), resident()
        for _ in range(rounds):
            call()
        more, grown = resident() - memory, sys.getallocatedblocks() - blocks
        if grown < rounds / 2 and more < growth:
            return
    pytest.fail(f"{grown} blocks and {more} bytes more after {rounds} calls, again and again")


def fails(kind, call):
    def run():
        with pytest.raises(kind):
            call()

    return run


def kernel_calls():
    rng = np.random.default_rng(0)
    x, w, r = f32(rng, 300, 200), f32(rng, 200), f32(rng, 300)
    square, index = f32(rng, 200, 200), np.arange(300) % 100
    grid, context, owners = f32(rng, 64, 3 * 64), core.Context(2), np.arange(300)
    return {
        "layernorm": lambda: kernels.layernorm_forward(x, w, w, 1e-5),
        "layernorm_backward": lambda: kernels.layernorm_backward(x, x, r, r, w),
        "rmsnorm": lambda: kernels.rmsnorm_forward(x, w, 1e-5),
        "rmsnorm_backward": lambda: kernels.rmsnorm_backward(x, x, r, w),
        "batchnorm_stats": lambda: kernels.batchnorm_stats(x),
        "batchnorm": lambda: kernels.batchnorm_forward(x, w, w**2, w, w, 1e-5),
        "batchnorm_backward": lambda: kernels.batchnorm_backward(x, x, w, w**2, w, 1e-5),
        "l2norm": lambda: kernels.l2norm_backward(x, *kernels.l2norm_forward(x)),
        "activation": lambda: kernels.activation("gelu", x),
        "activation_backward": lambda: kernels.activation_backward("gelu", x, x),
        "dropout": lambda: kernels.dropout(x, 0.5, 0, 0, 0, 0),
        "draws": lambda: kernels.draws("normal", 10000, 0, 0, 0),
        "window_index": lambda: kernels.window_index(64, 8, 4),
        "window_mask": lambda: kernels.window_mask(32, 8, 4),
        "patch_index": lambda: kernels.patch_index(64, 16, 4),
        "moves": lambda: kernels.scatter_rows(kernels.gather_rows(x, index), np.arange(300), 300),
        "lookup": lambda: kernels.lookup_backward(kernels.lookup_forward(x, index), index, 300),
        "stretch": lambda: kernels.stretch_backward(kernels.stretch_forward(x, 400), 300),
        "relpos": lambda: kernels.relpos_backward(kernels.relpos_forward(x[:225, :4], 8), 8),
        "meanpool": lambda: kernels.meanpool_backward(kernels.meanpool_forward(x)[0][None], 300),
        "attention": lambda: kernels.attention(grid, 2, 64, 1.0, None, None),
        "attention_backward": lambda: kernels.attention(grid, 2, 64, 1.0, None, None, grid[:, :64]),
        "linear": lambda: kernels.linear_forward(x, square, w, packed="float32", threads=2),
        "linear_int8": lambda: kernels.linear_forward(x, square, w, packed="int8", threads=2),
        "linear_backward": lambda: kernels.linear_backward(x, x, square, threads=2),
        "contrastive": lambda: kernels.contrastive(x, x, 1.0, 2),
        "losses": lambda: kernels.losses(
            [("sigmoid", 1.0), ("distillation", 1.0)], x, x, 1.0, 0.0, owners, owners * 0, x, x
        ),
        "adamw": lambda: kernels.adamw_step(x.copy(), x.copy(), x**2, x, 1, 0, 0, 0, 1, 0, 1),
        "sum_squares": lambda: kernels.sum_squares(x),
        "class_vectors": lambda: core.class_vectors(x, [0, 100, 300]),
        "combine": lambda: core.combine(context, x, x, [0, 100, 300], 5, 1.0, 1, True),
        "converted": lambda: kernels.sum_squares(np.arange(10**5)[::2]),
    }


@pytest.mark.parametrize("name", kernel_calls())
def test_kernels_keep_nothing(name):
    assert_flat(kernel_calls()[name])


def failing_calls():
    rng = np.random.default_rng(0)
    x, w = f32(rng, 300, 200), f32(rng, 200)
    wrong = f32(rng, 300, 201)
    step = (1, 0.1, 0.9, 0.9, 1e-8, 0.0, 1.0)
    return {
        "layernorm": lambda: kernels.layernorm_forward(x, w, x, 1e-5),
        "text": lambda: kernels.layernorm_forward(x, "w", w, 1e-5),
        "option": lambda: kernels.layernorm_forward(x, w, w, "eps"),
        "count": lambda: kernels.rmsnorm_forward(x),
        "backward": lambda: kernels.rmsnorm_backward(x, wrong, w, w),
        "activation": lambda: kernels.activation("swish", x),
        "activation_backward": lambda: kernels.activation_backward("gelu", x, wrong),
        "dropout": lambda: kernels.dropout(x, "p", 0, 0, 0, 0),
        "draws": lambda: kernels.draws("normal", -1, 0, 0, 0),
        "window": lambda: kernels.window_mask(8, 3, 0),
        "moves": lambda: kernels.gather_rows(x, [300]),
        "move_text": lambda: kernels.gather_rows(x, ["a"]),
        "stretch": lambda: kernels.stretch_forward(x, 0),
        "relpos": lambda: kernels.relpos_forward(x, 3),
        "meanpool": lambda: kernels.meanpool_backward(x, 3),
        "attention": lambda: kernels.attention(x, 7, 300, 1.0, None, None),
        "attention_bias": lambda: kernels.attention(x[:, :198], 1, 300, 1.0, x, None),
        "linear": lambda: kernels.linear_forward(x, wrong, None),
        "linear_threads": lambda: kernels.linear_forward(x, x, None, threads=0, packed="float32"),
        "linear_backward": lambda: kernels.linear_backward(x, x, wrong),
        "contrastive": lambda: kernels.contrastive(x, wrong, 1.0),
        "losses": lambda: kernels.losses([("sigmoid", 1.0)], x, x, 1.0, 0.0, [300] * 300),
        "losses_teacher": lambda: kernels.losses(
            [("sigmoid", 1.0)], x, x, 1.0, 0.0, None, None, x, wrong[:7]
        ),
        "adamw": lambda: kernels.adamw_step(x, x, x, x.astype(complex), *step),
        "adamw_read_only": lambda: kernels.adamw_step(np.broadcast_to(w, (3, 200)), x, x, x, *step),
        "class_vectors": lambda: core.class_vectors(x, [0, 400]),
        "combine": lambda: core.combine(core.Context(1), x, x, [0, 400], 4, 1.0, 1, True),
        "combine_rule": lambda: core.combine(core.Context(1), x, x, [0, 300], 9, 1.0, 1),
    }


@pytest.mark.parametrize("name", failing_calls())
def test_refused_calls_keep_nothing(name):
    assert_flat(fails((TypeError, ValueError), failing_calls()[name]))


# ---- Models, contexts, trainers ------------------------------------------------------------------


def test_models_and_contexts_come_and_go(rng):
    mel = decibels(rng, 2)

    def round_trip():
        model, _ = new_model(rng, text=TEXT, text_width=48)
        model.pack()
        context = core.Context(2)
        model.audio(context, mel)
        model.text(context, [1, 2, 3], [0, 1, 3])
        model.text_head(context, np.zeros((2, 48)))
        core.scores(context, np.zeros((3, 5)), np.zeros((4, 5)), 2, all=False)
        model.parameters()
        context.stats()

    assert_flat(round_trip, rounds=24, growth=1 << 20)


def test_fused_models_come_and_go(rng):
    four = decibels(rng, 8).reshape(2, 4, 250, 16)

    def round_trip():
        model, _ = new_model(rng, AUDIO | {"fusion": True})
        model.audio(core.Context(1), four, longer=[True, False])

    assert_flat(round_trip)


def test_models_with_cnn14_come_and_go(rng):
    mel = decibels(rng, 2)

    def round_trip():
        model, _ = new_model(rng, CNN14)
        model.pack()
        model.audio(core.Context(1), mel)

    assert_flat(round_trip)


def test_trainers_come_and_go(rng):
    mel, text = decibels(rng, 2), f32(rng, 2, 24)

    def round_trip():
        model, _ = new_model(rng)
        trainer = core.Trainer(model, 2)
        trainer.step(mel, text, 0, 0)
        trainer.buffers(1)

    assert_flat(round_trip, rounds=20)


def test_refused_models_and_calls_keep_nothing(rng):
    model, _ = new_model(rng, text=TEXT, text_width=48)
    trainer = core.Trainer(new_model(rng)[0], 1)
    context, mel, other = core.Context(1), decibels(rng, 2), decibels(rng, 2, 250, 15)
    fused, four = new_model(rng, AUDIO | {"fusion": True})[0], np.stack([mel] * 4, axis=1)
    arrays = [np.zeros(shape, np.float32) for _, shape, _ in model.parameters()]

    def bind_half():
        core.Model(AUDIO, TEXT, 48, MLP, MLP, 20).bind([*arrays[:-1], "scale"])

    calls = [
        lambda: core.Model(AUDIO | {"heads": [1, 2, 5]}, None, 24, MLP, MLP, 20),
        lambda: core.Model(AUDIO, TEXT | {"pool": 9}, 48, MLP, MLP, 20),
        lambda: core.Model(AUDIO, None, 24, MLP, 9, 20),
        lambda: core.Model({}, None, 24, MLP, MLP, 20),
        lambda: core.Model(CNN14 | {"widths": [4, 0]}, None, 24, MLP, MLP, 20),
        lambda: core.Model(CNN14 | {"widths": 4}, None, 24, MLP, MLP, 20),
        lambda: core.Model(CNN14 | {"kind": 7}, None, 24, MLP, MLP, 20),
        lambda: core.Model(AUDIO | {"fusion": True, "embed": 3}, None, 24, MLP, MLP, 20),
        lambda: core.Model(AUDIO | {"depths": ["a"]}, None, 24, MLP, MLP, 20),
        bind_half,
        lambda: core.Context(0),
        lambda: core.Context("two"),
        lambda: core.Trainer(model, 1, dtype="int8"),
        lambda: core.Trainer(None, 1),
        lambda: model.audio(context, other),
        lambda: model.audio(None, mel),
        lambda: model.audio(context, mel, longer=[True, False]),
        lambda: model.audio(context, mel, longer=[0.5, 1.0]),
        lambda: model.audio(context, mel, longer=[[True], [True, False]]),
        lambda: fused.audio(context, four),
        lambda: fused.audio(context, mel, longer=[True, False]),
        lambda: fused.audio(context, four, longer=[True]),
        lambda: core.Trainer(fused, 1).gradients(four, f32(rng, 2, 24), 0, 0),
        lambda: model.text(context, [1, 2], [0, 1]),
        lambda: model.text(context, [1000], [0, 1]),
        lambda: model.text(context, [1], "first"),
        lambda: model.text_head(context, mel),
        lambda: trainer.step(mel, mel, 0, 0),
        lambda: trainer.step(mel * np.nan, f32(rng, 2, 24), 0, 0),
        lambda: trainer.buffers(9),
        lambda: trainer.buffers("values"),
        lambda: core.scores(context, f32(rng, 2, 3), f32(rng, 2, 3), 9),
    ]

    def all_of_them():
        for call in calls:
            fails((TypeError, ValueError), call)()

    assert_flat(all_of_them, rounds=60)


def test_an_unbound_model_is_collected_with_a_cycle(rng):
    model, values = new_model(rng)
    cycle = [model, values]
    cycle.append(cycle)
    before = sys.getrefcount(values["logit_scale"])
    assert before >= 3  # the model holds its arrays
    scale = values["logit_scale"]
    del model, values, cycle
    gc.collect()
    assert sys.getrefcount(scale) == 2


def test_a_model_keeps_its_arrays_alive(rng):
    model, values = new_model(rng)
    mel, context = decibels(rng, 1), core.Context(1)
    want = model.audio(context, mel)
    del values
    gc.collect()
    junk = [np.ones(1000, np.float32) for _ in range(1000)]
    np.testing.assert_array_equal(model.audio(context, mel), want)
    assert len(junk) == 1000


def test_buffers_keep_their_trainer_alive(rng):
    trainer = core.Trainer(new_model(rng)[0], 1)
    trainer.step(decibels(rng, 2), f32(rng, 2, 24), 0, 0)
    views = trainer.buffers(0)
    kept = [x.copy() for x in views]
    del trainer
    gc.collect()
    for x, y in zip(views, kept, strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_model_keeps_what_its_trainer_taught(rng):
    model, _ = new_model(rng)
    trainer, context, mel = core.Trainer(model, 1), core.Context(1), decibels(rng, 2)
    trainer.step(mel, f32(rng, 2, 24), 0, 0, lr=0.1)
    during = model.audio(context, mel)
    del trainer
    gc.collect()
    np.testing.assert_array_equal(model.audio(context, mel), during)
    model.pack()  # no longer in training
    assert np.abs(model.audio(context, mel) - during).max() < 1e-5
    core.Trainer(model, 1).step(mel, f32(rng, 2, 24), 0, 1, lr=0.1)  # and again
    assert np.abs(model.audio(context, mel) - during).max() > 1e-3


def test_a_model_has_one_trainer(rng):
    model, _ = new_model(rng)
    trainer = core.Trainer(model, 1)
    with pytest.raises(ValueError, match="already has one"):
        core.Trainer(model, 1)
    trainer.step(decibels(rng, 2), f32(rng, 2, 24), 0, 0)  # the first one still stands


def test_a_model_in_training_is_not_packed(rng):
    model, _ = new_model(rng)
    trainer = core.Trainer(model, 1)
    with pytest.raises(ValueError, match="in training"):
        model.pack()
    del trainer


def test_evaluation_sees_what_training_has_changed(rng):
    model, _ = new_model(rng)
    model.pack()
    context, mel = core.Context(1), decibels(rng, 2)
    before = model.audio(context, mel)
    trainer = core.Trainer(model, 1)
    assert np.abs(model.audio(context, mel) - before).max() < 1e-5
    trainer.step(mel, f32(rng, 2, 24), 0, 0, lr=0.1)
    assert np.abs(model.audio(context, mel) - before).max() > 1e-3


# ---- Threads -------------------------------------------------------------------------------------


def together(count, work):
    """Run work() on threads that start at once; return what each gave or raised."""
    barrier, results = threading.Barrier(count), [None] * count

    def run(i):
        barrier.wait()
        try:
            results[i] = work()
        except Exception as error:  # handed to the test
            results[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return results


def test_a_busy_context_refuses_or_is_right(rng):
    model, _ = new_model(rng)
    context, mel = core.Context(1), decibels(rng, 8)
    want = model.audio(context, mel)
    refused = 0
    for _ in range(10):
        for result in together(3, lambda: model.audio(context, mel)):
            if isinstance(result, RuntimeError):
                assert "serves another thread" in str(result)
                refused += 1
            else:
                np.testing.assert_array_equal(result, want)
    assert refused > 0
    np.testing.assert_array_equal(model.audio(context, mel), want)  # and it is free again


def test_a_busy_trainer_refuses_or_is_right(rng):
    trainer = core.Trainer(new_model(rng)[0], 1)
    mel, text = decibels(rng, 8), f32(rng, 8, 24)
    want = trainer.gradients(mel, text, 0, 0)["loss"]
    for result in together(3, lambda: trainer.gradients(mel, text, 0, 0)):
        assert isinstance(result, RuntimeError) or result["loss"] == want
    assert trainer.gradients(mel, text, 0, 0)["loss"] == want


def test_a_context_is_free_after_a_failure(rng):
    model, _ = new_model(rng)
    context = core.Context(1)
    for _ in range(3):
        with pytest.raises(ValueError, match="257 frames"):
            model.audio(context, decibels(rng, 1, 257))
    assert model.audio(context, decibels(rng, 1)).shape == (1, 20)


def test_memory_is_kept_between_calls_and_does_not_grow(rng):
    model, _ = new_model(rng)
    context, mel = core.Context(2), decibels(rng, 16)
    assert_flat(lambda: model.audio(context, mel), rounds=30)
    assert_flat(lambda: model.audio(context, mel[: rng.integers(1, 17)]), rounds=30, growth=8 << 20)
