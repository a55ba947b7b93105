"""Fail every allocation of one kind of work once, in a process that this is the program of.

``python nomemory.py WORK core|python DTYPE``, the first with nomemory.c preloaded. What works
is set up anew for each n, so that the n-th allocation comes at the same place; the same objects are
used again afterwards.
"""

import ctypes
import io
import sys
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from models import AUDIO, MLP, TEXT, decibels, draw_parameter, new_model

from reclap.runtime.libraries import core, kernels, sndfile

MOST = 20_000  # allocations; more are a test that has gone wrong
QUIET = 40  # times that nothing happens: with CPython's hooks there is no other sign of the end

Call = Callable[[], Any]


class Work:
    """Calls that allocate, and what must still hold when one of them has failed."""

    inside = True  # only what the core allocates fails: then a call that raises changes nothing

    def __init__(self, dtype: str) -> None:
        self.rng, self.dtype = np.random.default_rng(5), dtype
        self.mel = decibels(self.rng, 6)
        self.audio = AUDIO | {"depths": [1, 1, 1]}

    def state(self) -> Any:
        return []

    def model(self, **parts: Any) -> Any:
        model, _ = new_model(np.random.default_rng(6), self.audio, **parts)
        model.pack(self.dtype)
        return model


class Load(Work):
    """A model that is made, bound and packed."""

    def __init__(self, dtype: str) -> None:
        super().__init__(dtype)
        model = core.Model(self.audio, TEXT, 48, MLP, MLP, 20)
        rng = np.random.default_rng(6)
        self.arrays = [draw_parameter(rng, n, shape) for n, shape, _ in model.parameters()]
        self.half: Any = None

    def fresh(self) -> None:
        self.half = None

    def run(self) -> Any:
        self.half = core.Model(self.audio, TEXT, 48, MLP, MLP, 20)
        self.half.bind(self.arrays, pack=True, dtype=self.dtype)
        return [self.half.audio(core.Context(2), self.mel)]

    def again(self) -> Any:
        if self.half is None:
            return self.run()
        try:
            self.half.bind(self.arrays, pack=True, dtype=self.dtype)
        except ValueError as error:
            assert "already" in str(error)  # noqa: PT017
        return [self.half.audio(core.Context(2), self.mel)]


class Pack(Work):
    """Weights that are packed all together."""

    def fresh(self) -> None:
        self.plain, _ = new_model(np.random.default_rng(6), self.audio)

    def run(self) -> Any:
        self.plain.pack(self.dtype)
        return [self.plain.audio(core.Context(1), self.mel)]

    again = run


class Embed(Work):
    """Batches of sounds that grow, then texts."""

    def __init__(self, dtype: str) -> None:
        super().__init__(dtype)
        self.both = self.model(text=TEXT, text_width=48)

    def fresh(self) -> None:
        self.context = core.Context(2)
        self.both.audio(self.context, self.mel[:1])  # products that are cached when others fail

    def run(self) -> Any:
        context, ids = self.context, np.arange(40)
        found = [self.both.audio(context, self.mel[:n]) for n in (6, 1)]
        found += [self.both.text(context, ids, [0, 7, 40]), self.both.text(context, ids, [0, 40])]
        return [*found, self.both.text_head(context, np.ones((3, 48), np.float32))]

    def again(self) -> Any:
        self.both.audio(self.context, self.mel[:1])
        return self.run()


class Train(Work):
    """A trainer that is made, and its first steps."""

    def __init__(self, dtype: str) -> None:
        super().__init__(dtype)
        first = core.Trainer(self.model(), 1)
        self.start = {k: [x.copy() for x in first.buffers(k)] for k in (0, 2, 3)}

    def fresh(self) -> None:
        self.pupil, self.trainer = self.model(), None
        self.text = np.random.default_rng(7).standard_normal((6, 24)).astype(np.float32)

    def run(self) -> Any:
        if self.trainer is None:
            self.trainer = core.Trainer(self.pupil, 2)
        # Gradients may be asked for twice, a step that was refused may be taken again.
        self.trainer.gradients(self.mel, self.text, 0, 0)
        return [np.array(list(self.trainer.step(self.mel, self.text, 0, 0, lr=0.01).values()))]

    def state(self) -> Any:
        return [x.copy() for x in self.trainer.buffers(0)]

    def again(self) -> Any:
        if not self.inside and self.trainer is not None:  # the step may have been taken
            for k, start in self.start.items():
                for x, y in zip(self.trainer.buffers(k), start, strict=True):
                    x[...] = y
        return self.run()


class Step(Train):
    """A later step, of more clips than before."""

    def fresh(self) -> None:
        super().fresh()
        self.trainer = core.Trainer(self.pupil, 2)
        self.trainer.gradients(self.mel[:2], self.text[:2], 0, 0)


class Adapt(Work):
    """A model that is given adapters, and their gradients."""

    def fresh(self) -> None:
        self.half, self.done, self.bound = None, 0, False

    def run(self) -> Any:
        if self.half is None:
            self.half = core.Model(self.audio, None, 24, MLP, MLP, 20)
        for place in self.half.linear()[4 * self.done :: 4]:
            self.half.adapt(place, 2, 4.0)
            self.done += 1
        rng, parameters = np.random.default_rng(6), self.half.parameters()
        if not self.bound:
            self.half.bind([draw_parameter(rng, n, shape) for n, shape, _ in parameters])
            self.bound = True
        rates = np.array([".lora_" in name for name, _, _ in parameters], np.float32)
        trainer = core.Trainer(self.half, 2, rates)
        text = np.random.default_rng(7).standard_normal((6, 24)).astype(np.float32)
        found = np.array(list(trainer.gradients(self.mel, text, 0, 0).values()))
        return [found, *(x.copy() for x in trainer.buffers(1) if x is not None)]

    again = run


class Decode(Work):
    """Files that are opened and read."""

    def __init__(self, dtype: str) -> None:
        super().__init__(dtype)
        out = io.BytesIO()
        with wave.open(out, "wb") as f:
            f.setparams((2, 2, 16000, 0, "NONE", ""))
            f.writeframes(np.arange(60_000, dtype="<i2").tobytes())
        sounds = Path(__file__).resolve().parents[1] / "examples" / "sounds"
        self.files = [out.getvalue(), (sounds / "rain.ogg").read_bytes()]

    def fresh(self) -> None:
        self.readers = [sndfile().open(data) for data in self.files]

    def run(self) -> Any:
        found = [reader.read(1000) for reader in self.readers]
        return found + [sndfile().open(data).read() for data in self.files]

    def again(self) -> Any:
        for reader in self.readers:  # wherever they stand
            assert reader.read().shape[1] in (1, 2)
        self.fresh()
        return self.run()


class Mel(Work):
    """Log-mel of a clip."""

    def fresh(self) -> None:
        self.x = np.sin(np.arange(9000, dtype=np.float32) / 9)

    def run(self) -> Any:
        bank = {"mels": 16, "fmin": 0.0, "fmax": 8000.0, "htk": True, "area_norm": False}
        return [core.Mel(rate=16000, n_fft=512, hop=160, **bank)(self.x)]

    again = run


class Score(Work):
    """Scores by rule, ranks, and the loss."""

    def fresh(self) -> None:
        rng = np.random.default_rng(8)
        self.x, self.w = (rng.standard_normal((n, 32)).astype(np.float32) for n in (40, 60))
        self.context = core.Context(2)

    def run(self) -> Any:
        groups = np.arange(0, 61, 6)
        found = [
            *core.scores(self.context, self.x, self.w, 3, all=True),
            *core.combine(self.context, self.x, self.w, groups, 4, 1.0, 1, True),
            *kernels.contrastive(self.x, self.w[:40], 1.0, 2),
            *kernels.losses([("sigmoid", 1.0)], self.x, self.w, 1.0, 0.0, np.arange(60) % 40),
            core.class_vectors(self.w, groups),
        ]
        return [np.asarray(x) for x in found if x is not None]

    again = run


KINDS = (Load, Pack, Embed, Train, Step, Adapt, Decode, Mel, Score)
WORKS = {kind.__name__.lower(): kind for kind in KINDS}


def mapped(name: str) -> Iterator[tuple[int, int]]:
    """Yield the executable parts of a library of this process."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        where, how, *_, path = line.split()
        if "x" in how and Path(path).name.startswith(name):
            yield tuple(int(x, 16) for x in where.split("-"))


def same(found: Any, want: Any) -> None:
    for x, y in zip(found, want, strict=True):
        np.testing.assert_array_equal(x, y)


def fail_each(work: Work, arm: Callable[[int], None], disarm: Callable[[], int]) -> int:
    """Fail the first allocation, then the second, until there is none to fail; return how many."""
    work.fresh()
    want, unhurt = work.run() + work.state(), 0
    for n in range(1, MOST):
        work.fresh()
        arm(n)
        try:
            found = work.run()
        except MemoryError:
            found = None
        finally:
            left = disarm()
        if found is not None:  # none failed, or one that can be done without
            same(found + work.state(), want)
        unhurt = 0 if found is None else unhurt + 1
        if left > 0 or unhurt == QUIET:
            return n - unhurt
        same(work.again() + work.state(), want)
    raise AssertionError("no end")


def main(name: str, whose: str, dtype: str) -> None:
    """Print how many allocations were failed."""
    work = WORKS[name](dtype)
    work.inside = whose == "core"
    if whose == "python":
        import _testcapi  # not everywhere

        def arm(n: int) -> None:
            _testcapi.set_nomemory(n, n + 1)

        def disarm() -> int:
            _testcapi.remove_mem_hooks()
            return 0

        print(fail_each(work, arm, disarm))
        return
    preloaded = ctypes.CDLL(None)
    preloaded.nomemory_watch.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
    preloaded.nomemory_arm.argtypes = [ctypes.c_long]
    preloaded.nomemory_disarm.restype = ctypes.c_long
    for module in (core, kernels):
        parts = list(mapped(Path(module.__file__).name))
        assert parts, module
        for part in parts:
            preloaded.nomemory_watch(*part)
    print(fail_each(work, preloaded.nomemory_arm, preloaded.nomemory_disarm))


if __name__ == "__main__":
    main(*sys.argv[1:])
