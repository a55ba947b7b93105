"""Ctrl-C during a long call of the core: the call ends, and everything works afterwards."""

import os
import signal
import struct
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
from models import TEXT, decibels, new_model

from reclap.runtime.libraries import core, sndfile

TASKS = Path("/proc/self/task")
pytestmark = pytest.mark.skipif(not TASKS.exists(), reason="handles signals as on Linux")

TRIES = 30  # a call may be over before the signal comes


def until_let_in(call):
    while True:
        try:
            return call()
        except RuntimeError as error:  # who asks whether something is busy keeps it busy
            if "busy" not in str(error) and "serves another thread" not in str(error):
                raise


def end_by_signal(call, busy):
    """Call until Ctrl-C ends it: its handler finds the call's objects busy, so it ran inside."""
    late, over = [], threading.Event()

    def works():
        try:
            busy()
        except RuntimeError as error:
            return "busy" in str(error) or "serves another thread" in str(error)
        return False

    def handler(*_):
        if works():
            raise KeyboardInterrupt
        late.append(1)  # and nothing raised, which would come in the middle of anything

    def send():
        while not over.is_set():
            if works():
                os.kill(os.getpid(), signal.SIGINT)
                return
            time.sleep(0.001)

    def attempt():
        over.clear()
        sender = threading.Thread(target=send)
        sender.start()
        try:
            until_let_in(call)
        finally:
            over.set()
            sender.join()

    before = signal.signal(signal.SIGINT, handler)
    try:
        for _ in range(TRIES):
            try:
                attempt()
            except KeyboardInterrupt:
                return
    finally:
        signal.signal(signal.SIGINT, before)
    pytest.fail(f"no signal was handled inside of the call, {len(late)} after it")


@pytest.fixture
def model(rng):
    return new_model(rng, text=TEXT, text_width=48)[0]


@pytest.mark.parametrize("threads", [1, 3])
def test_embedding_sounds_ends(rng, model, threads):
    context, mel = core.Context(threads), decibels(rng, 2500)
    want = model.audio(context, mel[:3])
    end_by_signal(lambda: model.audio(context, mel), model.pack)
    model.pack()
    assert np.abs(model.audio(context, mel[:3]) - want).max() < 1e-5


def test_embedding_texts_ends(rng, model):
    context, first = core.Context(2), np.arange(0, 77 * 6001, 77)
    ids = rng.integers(0, 101, first[-1])
    want = model.text(context, ids[:77], first[:2])
    end_by_signal(lambda: model.text(context, ids, first), model.pack)
    np.testing.assert_allclose(model.text(context, ids[:77], first[:2]), want, atol=1e-5)


def test_log_mel_ends(rng):
    plan = {"rate": 16000, "n_fft": 1024, "hop": 1, "mels": 8, "fmin": 0, "fmax": 8000}
    mel, samples = core.Mel(**plan, htk=False, area_norm=True), np.zeros(800_000, np.float32)
    given = []

    def only_of_the_call():
        view = samples.view()
        given[:] = [weakref.ref(view)]
        return view

    def is_given():
        return bool(given) and given[0]() is not None

    def busy():
        if is_given() and not time.sleep(0.01) and is_given():  # who waits has come to the call
            raise RuntimeError("busy")

    want = mel(samples[:2000])
    end_by_signal(lambda: mel(only_of_the_call()), busy)
    np.testing.assert_array_equal(mel(samples[:2000]), want)


def test_decoding_ends(tmp_path):
    path, size = tmp_path / "long.wav", 120_000_000
    header = struct.pack(
        "<4sI4s4sIHHIIHH", b"RIFF", size + 36, b"WAVE", b"fmt ", 16, 7, 1, *[8000] * 2, 1, 8
    )
    path.write_bytes(header + b"data" + struct.pack("<I", size))
    os.truncate(path, size + 44)  # a hole takes no room
    with path.open("rb") as file:

        def reader():
            return sndfile().open_file(file.fileno(), size + 44)

        want, readers = reader().read(100), []

        def call():
            readers[:] = [reader()]
            readers[0].read()

        end_by_signal(call, lambda: [x.read(0) for x in readers])
        np.testing.assert_array_equal(reader().read(100), want)


def test_scoring_ends(rng):
    context = core.Context(2)
    x, w = (rng.standard_normal((n, 256)).astype(np.float32) for n in (20_000, 30_000))
    groups = np.arange(0, 30_001, 5)
    want = core.combine(context, x[:2], w, groups, 4, 1.0, 1, all=False)
    end_by_signal(
        lambda: core.combine(context, x, w, groups, 4, 1.0, 1, all=False),
        lambda: core.scores(context, x[:1], w[:1], 1),
    )
    found = core.combine(context, x[:2], w, groups, 4, 1.0, 1, all=False)
    for a, b in zip(found[1:], want[1:], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["gradients", "step"])
def test_a_step_that_ends_changes_nothing(rng, kind):
    model, _ = new_model(rng)
    trainer, mel = core.Trainer(model, 2), decibels(rng, 400)
    text = rng.standard_normal((400, 24))
    trainer.step(mel[:4], text[:4], 0, 0, lr=0.0)
    before = [[x.copy() for x in trainer.buffers(k)] for k in (0, 2, 3)]

    def busy():
        core.Trainer(model, 1)

    def call():
        getattr(trainer, kind)(mel, text, 0, 1)
        if kind == "step":  # it was over before the signal came
            for k, kept in zip((0, 2, 3), before, strict=True):
                for x, y in zip(trainer.buffers(k), kept, strict=True):
                    x[...] = y

    def busy_or_in_training():
        try:
            busy()
        except ValueError:
            return

    end_by_signal(call, busy_or_in_training)
    for k, kept in zip((0, 2, 3), before, strict=True):
        for x, y in zip(trainer.buffers(k), kept, strict=True):
            np.testing.assert_array_equal(x, y)
    assert np.isfinite(trainer.step(mel[:4], text[:4], 0, 1)["loss"])


def test_what_another_handler_raises_comes_out(rng, model):
    class Told(Exception):
        pass

    def handler(*_):
        signal.setitimer(signal.ITIMER_REAL, 0)  # or it comes again while the first is on its way
        raise Told

    context, mel = core.Context(1), decibels(rng, 2500)
    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Told):
            [model.audio(context, mel) for _ in range(1000)]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert model.audio(context, mel[:1]).shape == (1, 20)


def test_threads_of_the_core_leave_signals_to_python():
    def masks():
        return {task.name: (task / "status").read_text() for task in TASKS.iterdir()}

    before = masks()
    context = core.Context(3)
    ours = [text for task, text in masks().items() if task not in before]
    assert len(ours) == 2
    for text in ours:
        blocked = int(text.split("SigBlk:")[1].split()[0], 16)
        assert blocked & 1 << (signal.SIGINT - 1)
        assert blocked & 1 << (signal.SIGALRM - 1)
    assert context.stats()["slow"] == 0
