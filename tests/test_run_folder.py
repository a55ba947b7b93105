"""The folder of a run: whatever was done to it, no complete checkpoint is lost."""

import dataclasses
import fcntl
import shutil

import pytest
import training
from training import read_run

import reclap
from reclap.checkpoints import model_folder
from reclap.errors import ReclapError
from reclap.training import folder as run_folder
from reclap.training import initial, loop, running
from reclap.training.learner import Learner


@pytest.fixture(scope="module")
def plan(tmp_path_factory, small_folder):
    """Return a function that makes recipes of six steps with three checkpoints."""
    sounds = training.write_set(tmp_path_factory.mktemp("sounds"))
    short = {"steps": 6, "save_every": 2, "keep": 3}

    def make(**run):
        return training.recipe(sounds, small_folder, run=short | run)

    return make


@pytest.fixture(scope="module")
def whole(plan, tmp_path_factory):
    """Return the output of that recipe, run without interruption."""
    out = tmp_path_factory.mktemp("whole") / "out"
    loop.train(plan(), out)
    return out


@pytest.fixture
def out(whole, tmp_path):
    """Return a copy of it to treat badly."""
    return shutil.copytree(whole, tmp_path / "out", symlinks=True)


def step(out, number):
    return out / f"step-{number:010d}"


def steps(out):
    return sorted(int(p.name[5:]) for p in out.iterdir() if len(p.name) == 15)


def test_nothing_to_resume_is_told(plan, whole, tmp_path, caplog):
    out = tmp_path / "new"
    loop.train(plan(), out, resume=True)
    assert [r.message for r in caplog.records] == [f"nothing to resume in {out}: starting a run"]
    caplog.clear()
    loop.train(plan(), out, resume=True)
    loop.train(plan(), tmp_path / "other")
    assert not caplog.records


# ---- Treated in any way ----------------------------------------------------------------------


def test_removed_newest_step_goes_back_one(plan, whole, out):
    """The link `last` dangles then."""
    shutil.rmtree(step(out, 6))
    assert loop.train(plan(), out, resume=True).step == 6
    assert steps(out) == [2, 4, 6]
    assert read_run(out) == read_run(whole)
    assert (out / "last").resolve() == step(out, 6)


def test_checkpoint_that_last_does_not_name_yet_is_continued_from(plan, whole, out, monkeypatch):
    (out / "last").unlink()
    (out / "last").symlink_to(step(out, 2).name)
    monkeypatch.setattr(Learner, "step", None)  # finished: nothing is computed again
    assert loop.train(plan(), out, resume=True).step == 6
    assert (out / "last").readlink().name == step(out, 6).name
    assert steps(out) == [2, 4, 6]


@pytest.mark.parametrize("name", [*run_folder._FILES, run_folder.STATE_INFO])
@pytest.mark.parametrize("how", ["absent", "cut"])
def test_incomplete_newest_step_is_passed_over_by_name(plan, whole, out, name, how, caplog):
    path = step(out, 6) / name
    content = path.read_bytes()
    path.unlink()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    loop.train(plan(), out, resume=True)
    assert read_run(out) == read_run(whole)
    assert "passed over step-0000000006" in caplog.text
    assert name in caplog.text
    assert steps(out) == [2, 4, 6]
    aside = out / "step-0000000006.aside1"
    assert aside.is_dir()  # nothing of it is lost


def test_incomplete_steps_alone_are_refused_by_name(plan, out):
    for number in (2, 4, 6):
        (step(out, number) / "state.json").unlink()
    with pytest.raises(FileExistsError, match=r"step-0000000002 \(no state\.json\).*0000000006"):
        loop.train(plan(), out, resume=True)
    assert steps(out) == [2, 4, 6]


def test_link_to_nothing_alone_is_refused(plan, out):
    for number in (2, 4, 6):
        shutil.rmtree(step(out, number))
    with pytest.raises(FileExistsError, match=r"last \(names step-0000000006"):
        loop.train(plan(), out, resume=True)
    assert len(training.read_log(out)) == 6


def test_state_of_another_step_is_refused(plan, out):
    """A renamed folder would shadow the steps between."""
    for number in (2, 4):
        shutil.rmtree(step(out, number))
    step(out, 6).rename(step(out, 9))
    with pytest.raises(FileExistsError, match=r"step-0000000009 .*the state of step 6"):
        loop.train(plan(), out, resume=True)


@pytest.mark.parametrize("left", [[], [2, 4], [2, 4, 6]])
def test_copy_that_followed_the_link_continues(plan, whole, out, left):
    (out / "last").unlink()
    shutil.copytree(step(out, 6), out / "last")
    for number in {2, 4, 6} - set(left):
        shutil.rmtree(step(out, number))
    loop.train(plan(), out, resume=True)
    assert read_run(out) == read_run(whole)
    assert (out / "last").readlink().name == step(out, 6).name
    assert steps(out) == sorted({*left, 6})
    assert (out / "last.aside1").exists() == (6 in left)


def test_only_keep_removes_and_only_the_oldest(plan, out):
    shutil.rmtree(step(out, 6))
    loop.train(plan(keep=2), out, resume=True)
    assert steps(out) == [4, 6]


def test_leftovers_of_a_killed_process_go(plan, out):
    (out / ".step-0000000008.tmp").mkdir()
    (out / ".step-0000000002.old.tmp").mkdir()
    (out / ".last.tmp").symlink_to("step-0000000008")
    (out / ".ab12_xyz.tmp").mkdir()  # of earlier versions
    (out / ".reclap-ab12_xyz.tmp").mkdir()
    (out / ".notes.tmp").touch()  # not ours
    loop.train(plan(), out, resume=True)
    assert sorted(p.name for p in out.glob(".*")) == [".lock", ".notes.tmp"]


def test_folder_that_holds_anything_is_refused(plan, tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(FileExistsError, match="not empty"):
        loop.train(plan(), tmp_path)
    with pytest.raises(FileExistsError, match=r"no run to resume, but thesis\.txt"):
        loop.train(plan(), tmp_path, resume=True)


def test_folder_of_another_run_is_refused_before_the_sounds_are_looked_for(plan, tmp_path):
    (tmp_path / "thesis.txt").touch()
    lost = dataclasses.replace(plan().data, manifest=str(tmp_path / "none.csv"))
    with pytest.raises(FileExistsError, match="not empty"):
        loop.train(dataclasses.replace(plan(), data=lost), tmp_path)


# ---- Two processes ---------------------------------------------------------------------------


def test_second_process_in_a_folder_is_refused(plan, tmp_path):
    with (tmp_path / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ReclapError, match="another process is training"):
            loop.train(plan(), tmp_path, resume=True)
    assert loop.train(plan(), tmp_path, resume=True).step == 6


def test_nothing_of_a_run_is_read_or_written_before_it_is_locked(plan, out, monkeypatch):
    """A process that is just ending would move checkpoints in between."""
    seen = []

    def under_lock(owner, name):
        original = getattr(owner, name)

        def checked(*args, **kwargs):
            with (out / ".lock").open("w") as other, pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            seen.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, checked)

    shutil.rmtree(step(out, 6))
    under_lock(run_folder, "_read")
    under_lock(initial, "text_tower")
    under_lock(running, "RunLog")
    under_lock(Learner, "load")
    loop.train(plan(), out, resume=True)
    assert set(seen) == {"_read", "text_tower", "RunLog", "load"}


def test_process_whose_lock_was_removed_leaves_the_folder_to_the_next(plan, out, monkeypatch):
    shutil.rmtree(step(out, 6))
    original = Learner.step

    def removed(self, *args):
        (out / ".lock").unlink(missing_ok=True)
        (out / ".lock").touch()  # by another process
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", removed)
        with pytest.raises(ReclapError, match="another process is training"):
            loop.train(plan(), out, resume=True)
    assert steps(out) == [2, 4]
    assert (out / "last").readlink().name == step(out, 4).name
    assert loop.train(plan(), out, resume=True).step == 6


# ---- Storage ---------------------------------------------------------------------------------


def shared(folder, other):
    """Return the names of files that two folders have in common on disk."""
    return [
        path.name
        for path in folder.iterdir()
        if (other / path.name).exists() and path.samefile(other / path.name)
    ]


def test_checkpoints_of_a_run_share_the_text_tower_with_each_other_only(whole, small_folder):
    both = {model_folder.TEXT, model_folder.TOKENIZER}
    assert set(shared(step(whole, 2), step(whole, 6))) == both
    assert shared(step(whole, 2), small_folder) == []
    for name in both:
        assert (step(whole, 6) / name).read_bytes() == (small_folder / name).read_bytes()


def test_checkpoint_linked_with_its_source_is_not_linked_on(plan, out, small_folder):
    """As earlier versions wrote it."""
    shutil.rmtree(step(out, 6))
    for name in (model_folder.TEXT, model_folder.TOKENIZER):
        (step(out, 4) / name).unlink()
        (step(out, 4) / name).hardlink_to(small_folder / name)
    loop.train(plan(), out, resume=True)
    assert shared(step(out, 6), small_folder) == []


def test_saved_model_shares_nothing_with_its_source(small_folder, tmp_path):
    for name in (model_folder.TEXT, model_folder.TOKENIZER):
        (tmp_path / name).hardlink_to(small_folder / name)
    model = reclap.load(small_folder, threads=1)
    model.save(tmp_path)
    assert shared(tmp_path, small_folder) == []
    assert reclap.load(tmp_path, threads=1).digest == model.digest
