"""Run folders under any sequence of kills, full disks, removals, copies and second processes.

The oracle is an uninterrupted run that keeps every checkpoint. Whatever happens, a folder of a step
whose files are all there equals the oracle's byte for byte, no such folder is lost but to ``keep``,
and training goes on at the newest one.
"""

import contextlib
import errno
import itertools
import os
import shutil
import tempfile
from pathlib import Path

import hypothesis
import pytest
import training
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from reclap.errors import ReclapError
from reclap.training import loop
from reclap.training.learner import Learner

STEPS, KEEP = 6, 2
MAKING = ("mkdir", "link", "symlink", "fsync")  # need room on the disk
MOVING = ("rename", "replace", "unlink", "rmdir")


class Killed(BaseException):
    """The process is dead: nothing after this reaches the disk."""


@contextlib.contextmanager
def fault(kind: str, after: int):
    """Let the process die, or the disk be full, after so many changes to the file system.

    Yields a function that tells whether it came so far.
    """
    left = after

    def wrap(name, original):
        def changed(*args, **kwargs):
            nonlocal left
            left -= 1
            if left < 0 and kind == "kill":
                raise Killed
            if left < 0 and name in MAKING:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "disk")
            return original(*args, **kwargs)

        return changed

    with pytest.MonkeyPatch.context() as patch:
        for name in (*MAKING, *MOVING):
            patch.setattr(os, name, wrap(name, getattr(os, name)))
        yield lambda: left < 0


class Interrupted(Exception):
    """Training is over in the middle of a step."""


class RunFolders(RuleBasedStateMachine):
    """What may happen to a run folder."""

    plan = oracle = None  # set by the test

    def __init__(self):
        super().__init__()
        self.room = Path(tempfile.mkdtemp())
        self.out = self.room / "out"

    def teardown(self):
        shutil.rmtree(self.room)

    # ---- What is on disk ---------------------------------------------------------------------

    def folders(self):
        there = self.out.iterdir() if self.out.is_dir() else ()
        return sorted(p for p in there if p.name.startswith("step-") and len(p.name) == 15)

    def complete(self):
        """Return the steps whose files are all there and equal the oracle's."""
        steps = set()
        for folder in self.folders():
            theirs = sorted((self.oracle / folder.name).iterdir())
            ours = [folder / path.name for path in theirs]
            if all(path.exists() for path in ours) and all(
                a.read_bytes() == b.read_bytes() for a, b in zip(ours, theirs, strict=True)
            ):
                steps.add(int(folder.name[5:]))
        return steps

    def begun(self):
        return bool(self.folders()) or os.path.lexists(self.out / "last")

    # ---- Training ----------------------------------------------------------------------------

    def train(self, until=STEPS, save_every=1):
        """Train; check where it began, and that nothing was lost."""
        before, begun, taken = self.complete(), self.begun(), []
        damaged = {p for p in self.folders() if int(p.name[5:]) not in before}
        original = Learner.step

        def step(learner, number, mel, features, *more):
            if number == until:
                raise Interrupted
            taken.append(number)
            return original(learner, number, mel, features, *more)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Learner, "step", step)
            error = None
            try:
                loop.train(self.plan(save_every), self.out, resume=True)
            except (Interrupted, Killed, OSError) as raised:
                error = raised
        if isinstance(error, FileExistsError):
            assert begun
            assert not before
            assert not taken
        elif isinstance(error, OSError):
            assert error.errno == errno.ENOSPC
        if taken:
            assert taken[0] == max(before, default=0)
            assert before or not begun
        after = self.complete()
        assert damaged >= {p for p in self.folders() if int(p.name[5:]) not in after}
        for step in before - after:
            assert len([s for s in after if s > step]) >= KEEP
        return after

    @initialize()
    def start(self):
        self.train(until=2)

    @rule(until=st.integers(0, STEPS), save_every=st.integers(1, 3))
    def crash(self, until, save_every):
        self.train(until, save_every)

    @rule(kind=st.sampled_from(["kill", "full"]), after=st.integers(0, 300))
    def fail(self, kind, after):
        with fault(kind, after):
            self.train()

    @precondition(lambda self: max(self.complete(), default=STEPS if self.begun() else 0) < STEPS)
    @rule()
    def second_process(self):
        """Another one starts while the first one trains, and changes nothing."""
        original, at = Learner.step, max(self.complete(), default=0)

        def step(learner, number, mel, features, *more):
            if number == at:
                was = sorted(self.out.rglob("*"))
                with pytest.raises(ReclapError, match="another process"):
                    loop.train(self.plan(1), self.out, resume=True)
                assert sorted(self.out.rglob("*")) == was
            return original(learner, number, mel, features, *more)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Learner, "step", step)
            self.train(at + 1)

    @precondition(lambda self: self.complete() or not self.begun())
    @rule()
    def finish(self):
        assert STEPS in self.train()
        assert (self.out / "last").resolve() == self.folders()[-1].resolve()

    # ---- What people do ----------------------------------------------------------------------

    @precondition(lambda self: self.folders())
    @rule(which=st.integers(0, KEEP))
    def remove_step(self, which):
        """Remove the newest step, so that `last` dangles, or another one."""
        shutil.rmtree(self.folders()[::-1][which % len(self.folders())])

    @rule()
    def remove_last(self):
        if (self.out / "last").is_symlink():
            (self.out / "last").unlink()

    @precondition(lambda self: self.folders())
    @rule(which=st.integers(0, 5), part=st.sampled_from([0.0, 0.5]))
    def damage(self, which, part):
        """Leave one file of the newest step out, or half of it."""
        files = sorted(p for p in self.folders()[-1].iterdir())
        if files:
            path = files[which % len(files)]
            content = path.read_bytes()
            path.unlink()  # other checkpoints may share it
            if part:
                path.write_bytes(content[: int(part * len(content))])

    @rule(follow=st.booleans(), of=st.integers(1, 40))
    def copy(self, follow, of):
        """Go on in a copy, made with or without following links and broken off after some files."""
        if not self.out.is_dir():
            return
        copied, left = self.room / "copy", of

        def some(source, target):
            nonlocal left
            left -= 1
            if left >= 0:
                shutil.copyfile(source, target)
            return target

        with contextlib.suppress(shutil.Error):  # `last` may dangle
            shutil.copytree(
                self.out, copied, symlinks=not follow, copy_function=some, dirs_exist_ok=True
            )
        shutil.rmtree(self.out)
        copied.rename(self.out)

    @invariant()
    def log_has_one_line_a_step(self):
        path = self.out / "log.jsonl"
        if path.exists() and self.complete() == {STEPS}:
            steps = [line["step"] for line in training.read_log(self.out)]
            assert len(steps) == len(set(steps))


@pytest.fixture(scope="module")
def machine(tmp_path_factory, small_folder):
    """Return the machine with its recipe and its oracle."""
    sounds = training.write_set(tmp_path_factory.mktemp("sounds"))

    def plan(save_every, keep=KEEP):
        run = {"steps": STEPS, "save_every": save_every, "keep": keep}
        data = {"batch": 2, "threads": 1}
        return training.recipe(sounds, small_folder, run=run, data=data)

    oracle = tmp_path_factory.mktemp("oracle") / "out"
    loop.train(plan(1, keep=STEPS), oracle)
    return type("Machine", (RunFolders,), {"plan": staticmethod(plan), "oracle": oracle})


@pytest.mark.parametrize("kind", ["full", pytest.param("kill", marks=pytest.mark.slow)])
def test_fault_at_each_change_of_one_save_loses_nothing(machine, kind):
    """From steps 3 and 4 to 4 and 5: captions, checkpoint, link, log, removal of the oldest."""
    for after in itertools.count():
        run = machine()
        try:
            shutil.copytree(machine.oracle, run.out, symlinks=True)
            for step in (1, 2, 5, 6):
                shutil.rmtree(run.out / f"step-{step:010d}")
            with fault(kind, after) as came:
                run.train(until=5)
            assert run.complete() in ({3, 4}, {3, 4, 5}, {4, 5})
            assert run.train() == {5, 6}
            assert len(training.read_log(run.out)) == STEPS
        finally:
            run.teardown()
        if not came():
            break
    assert after > 40


def test_no_complete_checkpoint_is_ever_lost(machine):
    few = hypothesis.settings(
        max_examples=8,
        stateful_step_count=10,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    run_machine(machine, settings=few)


@pytest.mark.slow
def test_no_complete_checkpoint_is_ever_lost_in_many_runs(machine):
    many = hypothesis.settings(
        max_examples=40,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    run_machine(machine, settings=many)
