"""One model in the hands of several threads: whoever changes it is alone with it."""

import threading

import numpy as np
import pytest
from models import AUDIO, MLP, decibels, new_model

import reclap
from reclap.runtime.libraries import core

WAIT = 120.0  # seconds after which a test counts as stuck
BUSY = "busy|serves another thread"


def side_by_side(*works):
    """Run each on a thread of its own; return what each gave or raised."""
    barrier, results = threading.Barrier(len(works)), [None] * len(works)

    def run(i):
        barrier.wait(WAIT)
        try:
            results[i] = works[i]()
        except Exception as error:  # handed to the test
            results[i] = error

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(len(works))]
    for t in threads:
        t.start()
    for t in threads:
        t.join(WAIT)
    assert not any(t.is_alive() for t in threads), "stuck"
    return results


def while_running(long, other):
    """Call `other` again and again while `long` runs; return what it raised."""

    def until_let_in():
        while True:
            try:
                return long()
            except RuntimeError as error:
                if "busy" not in str(error):
                    raise

    thread = threading.Thread(target=until_let_in, daemon=True)
    thread.start()
    raised = []
    while thread.is_alive():
        try:
            other()
        except Exception as error:  # handed to the test
            raised.append(error)
    thread.join(WAIT)
    return raised


def assert_busy(raised):
    assert raised
    for error in raised:
        assert isinstance(error, RuntimeError)
        assert "busy" in str(error)


# ---- Readers and writers -------------------------------------------------------------------------


def test_many_may_embed_with_one_model(rng):
    model, _ = new_model(rng)
    mel = decibels(rng, 6)
    want = model.audio(core.Context(1), mel)
    for rows in side_by_side(*[lambda: model.audio(core.Context(1), mel)] * 4):
        np.testing.assert_array_equal(rows, want)


@pytest.mark.parametrize("change", [lambda m: m.pack(), lambda m: core.Trainer(m, 1)])
def test_a_model_is_not_changed_while_it_embeds(rng, change):
    model, _ = new_model(rng)
    mel, context = decibels(rng, 300), core.Context(1)
    want = model.audio(context, mel)
    rows = []
    assert_busy(
        while_running(lambda: rows.append(model.audio(context, mel)), lambda: change(model))
    )
    assert np.abs(rows[0] - want).max() < 1e-5
    change(model)
    assert np.abs(model.audio(context, mel) - want).max() < 1e-5


def test_a_model_does_not_embed_while_a_step_changes_it(rng):
    model, _ = new_model(rng)
    trainer, context, mel = core.Trainer(model, 1), core.Context(1), decibels(rng, 100)
    text = rng.standard_normal((100, 24))
    one = mel[:1].copy()
    assert_busy(
        while_running(lambda: trainer.step(mel, text, 0, 0), lambda: model.audio(context, one))
    )
    assert model.audio(context, one).shape == (1, 20)


def test_gradients_only_read(rng):
    model, _ = new_model(rng)
    trainer, context, mel = core.Trainer(model, 1), core.Context(1), decibels(rng, 30)
    text, one = rng.standard_normal((30, 24)), mel[:1].copy()
    assert not while_running(
        lambda: trainer.gradients(mel, text, 0, 0), lambda: model.audio(context, one)
    )


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_four_threads_may_pack(rng, dtype):
    mel = decibels(rng, 2)
    for _ in range(10):
        model, _ = new_model(rng)
        plain = model.audio(core.Context(1), mel)
        results = side_by_side(*[lambda m=model: m.pack(dtype)] * 4)
        assert_busy([r for r in results if r is not None] or [RuntimeError("busy")])
        assert None in results
        assert np.abs(model.audio(core.Context(1), mel) - plain).max() < 0.2


def test_threads_that_do_everything_get_the_right_result_or_are_refused(rng):
    model, values = new_model(rng)
    mel, text = decibels(rng, 4), rng.standard_normal((4, 24))
    arrays = list(values.values())
    want = model.audio(core.Context(1), mel)

    def embed():
        return [model.audio(core.Context(2), mel) for _ in range(20)]

    def read():
        return [model.read(i) for _ in range(3) for i in range(len(arrays))]

    def pack():
        for _ in range(10):
            model.pack()

    def train():
        for _ in range(5):
            core.Trainer(model, 2).gradients(mel, text, 0, 0)

    def bind():
        model.bind(arrays)

    for _ in range(5):
        for result in side_by_side(embed, read, pack, train, bind, embed):
            if isinstance(result, Exception):
                assert isinstance(result, RuntimeError | ValueError)
                assert any(w in str(result) for w in ("busy", "in training", "already"))
        assert np.abs(embed()[0] - want).max() < 1e-5
        for x, i in zip(arrays, range(len(arrays)), strict=True):
            np.testing.assert_array_equal(model.read(i), x)


def test_three_threads_do_everything_with_one_loaded_model(small_folder, tones, tmp_path):
    model = reclap.load(small_folder, threads=2)
    sounds, labels = tones[:3], ["rain", "dog"]
    rows, texts, digest = model.embed_audio(sounds), model.embed_text(labels), model.digest
    named = [r.label for r in model.classify(sounds, labels)]

    def embed():
        np.testing.assert_array_equal(model.embed_audio(sounds), rows)
        np.testing.assert_array_equal(model.embed_text(labels), texts)

    def classify():
        assert [r.label for r in model.classify(sounds, labels)] == named
        assert [len(r.scores) for r in model.classify(sounds, labels)] == [2] * 3

    def keep():
        folder = tmp_path / str(threading.get_ident())
        model.save(folder)
        assert reclap.load(folder, threads=1).digest == digest
        assert model.info()

    def change():
        for _ in range(20):
            model._core.pack()

    def everything(*works):
        for work in works:
            try:
                work()
            except RuntimeError as error:
                if "busy" not in str(error):
                    raise

    for _ in range(3):
        results = side_by_side(
            lambda: everything(embed, change, classify, keep),
            lambda: everything(keep, classify, change, embed),
            lambda: everything(change, embed, keep, classify),
        )
        assert results == [None] * 3
    embed()
    keep()


# ---- Binding and packing -------------------------------------------------------------------------


def test_bind_inside_of_bind_is_refused(rng):
    model, values = new_model(rng)
    arrays = list(values.values())
    mel = decibels(rng, 2)
    want = model.audio(core.Context(1), mel)
    other = core.Model(AUDIO, None, 24, MLP, MLP, 20)

    def nested():
        yield from arrays[:3]
        other.bind(arrays)

    for _ in range(3):
        with pytest.raises(RuntimeError, match="bind: busy"):
            other.bind(nested(), pack=True)
        with pytest.raises(RuntimeError, match="no parameters"):
            other.audio(core.Context(1), mel)
    other.bind(arrays)
    np.testing.assert_array_equal(other.audio(core.Context(1), mel), want)


def test_a_second_pack_is_nothing_or_is_refused(rng):
    model, _ = new_model(rng)
    context, mel = core.Context(1), decibels(rng, 2)
    model.pack("int8")
    want = model.audio(context, mel)
    model.pack("int8")
    with pytest.raises(ValueError, match=r"pack: .* is packed in another type already"):
        model.pack("float32")
    np.testing.assert_array_equal(model.audio(context, mel), want)
