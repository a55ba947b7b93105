"""Fork again and again while a thread is at work; the program of test_forks.py.

``python forks.py STATE FOLDER SOUND``: each child does the same work with the same objects, and
ends with 0 where it gives what the parent got, or with an exception that says why not.
"""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from models import decibels, new_model

import reclap
from reclap.errors import FormatError
from reclap.runtime.libraries import core, kernels, sndfile
from reclap.runtime.prefetch import prefetch

FORKS = 8
STUCK = 60  # seconds after which a child counts as hanging

Call = Callable[[], Any]


def contexts() -> tuple[Call, Call]:
    model, _ = new_model(np.random.default_rng(0))
    mel, context, mine = decibels(np.random.default_rng(1), 12), core.Context(2), core.Context(2)
    return lambda: model.audio(context, mel), lambda: [model.audio(c, mel) for c in (context, mine)]


def products() -> tuple[Call, Call]:
    """Contexts that are new, so that oneDNN builds and its locks are held."""
    model, _ = new_model(np.random.default_rng(0))
    rng = np.random.default_rng(1)
    mel = decibels(rng, 2)

    def work() -> Any:
        x = np.ones((3, int(rng.integers(1, 500))), np.float32)
        kernels.linear_forward(x, x, None, packed="float32")
        return kernels.linear_forward(x, x, None)

    return work, lambda: [
        model.audio(core.Context(2), mel),
        kernels.linear_forward(mel[0], mel[1], None),
    ]


def opens(sound: Path) -> tuple[Call, Call]:
    good, bad = sound.read_bytes(), b"RIFF" + bytes(100)

    def read() -> Any:
        try:
            sndfile().open(bad)
        except FormatError as error:
            assert "not recognised" in str(error), error  # noqa: PT017
        return [sndfile().open(good).read(100)]

    return read, read


def embeds(folder: Path, sound: Path) -> tuple[Call, Call]:
    """Nearly always inside of the core, whose lock is a lock of Python."""
    model = reclap.load(folder, threads=2)
    texts = [f"rain on roof {i}" for i in range(300)]

    def embed() -> Any:
        return [model.embed_audio([sound, sound]), model.embed_text(["rain"])]

    return lambda: model.embed_text(texts), embed


def loads(folder: Path) -> tuple[Call, Call]:
    def load() -> Any:
        return [reclap.load(folder, threads=2).embed_text(["rain"])]

    return load, load


def reads_ahead() -> tuple[Call, Call]:
    """A child has no thread that would read on, and no part in the locks of those that did."""

    def begin() -> Any:
        return prefetch([partial(range, 99)] * 9, 2, 4)

    owner, found = os.getpid(), [begin(), begin()]
    first = [next(x) for x in found]
    one, other = (x.gi_frame.f_locals["buffer"]._lock for x in found)

    def hold() -> None:
        with one, other:
            time.sleep(0.01)

    def child() -> Any:
        if os.getpid() != owner:
            found[0].close()
            try:
                next(found[1])
            except RuntimeError as error:
                assert "is a fork of the one that began" in str(error)  # noqa: PT017
        return [first, [value for _, value in begin()]]

    return hold, child


def trains() -> tuple[Call, Call]:
    """What was changed when the process was forked says so; all else works."""
    model, _ = new_model(np.random.default_rng(0))
    trainer, mel = core.Trainer(model, 2), decibels(np.random.default_rng(1), 8)
    text = np.random.default_rng(2).standard_normal((8, 24))

    def child() -> Any:
        for call in (
            lambda: trainer.gradients(mel, text, 0, 0),
            lambda: trainer.step(mel, text, 0, 0, lr=0.0),
            lambda: model.audio(core.Context(2), mel),
            lambda: model.read(0),
        ):
            try:
                call()
            except RuntimeError as error:
                assert "forked" in str(error)  # noqa: PT017
        other, _ = new_model(np.random.default_rng(0))
        core.Trainer(other, 2).step(mel, text, 0, 0)

    return lambda: trainer.step(mel, text, 0, 0, lr=0.0), child


def run_child(call: Call, want: Any) -> None:
    """Leave the process with 0 if the call gives what it should."""
    faulthandler.dump_traceback_later(STUCK, exit=True)
    status = 1
    try:
        found = call()
        for x, y in zip(found or (), want or (), strict=True):
            np.testing.assert_array_equal(x, y)
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(status)


def main(state: str, folder: Path, sound: Path) -> None:
    """Fork FORKS children while a thread works, and FORKS more when it has ended."""
    states: dict[str, Callable[[], tuple[Call, Call]]] = {
        "contexts": contexts,
        "products": products,
        "opens": lambda: opens(sound),
        "embeds": lambda: embeds(folder, sound),
        "loads": lambda: loads(folder),
        "reads_ahead": reads_ahead,
        "trains": trains,
    }
    work, call = states[state]()
    work()
    want, ended, began = call(), threading.Event(), threading.Event()

    def loop() -> None:
        while not ended.is_set():
            work()
            began.set()

    thread = threading.Thread(target=loop)
    thread.start()
    began.wait()
    failed = 0
    for i in range(2 * FORKS):
        if i == FORKS:
            ended.set()
            thread.join()
        pid = os.fork()
        if pid == 0:
            run_child(call, want)
        failed += os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0
    print(failed)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
