"""Small files: replaced whole or not at all, unguessable until then, mode and links kept."""

import os
import stat
import subprocess
import sys

import pytest

from reclap.errors import BackendError, FormatError, ReclapError
from reclap.io import files


def _mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="stop"), files.atomic(path) as f:  # noqa: PT012
        f.write(b"new")
        raise RuntimeError("stop")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_staged_files_change_only_once_all_are_written(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_text("old")
    with pytest.raises(FileNotFoundError, match=r"/b'$"), files.staged(a, b) as [new, _]:
        new.write_text("new")  # b is never written
    assert a.read_text() == "old"
    assert list(tmp_path.iterdir()) == [a]


def test_link_is_written_through(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    target, link, second = elsewhere / "t", tmp_path / "link", tmp_path / "second"
    target.write_text("old")
    link.symlink_to("elsewhere/t")
    second.symlink_to("link")
    files.write_text(second, "new")
    assert target.read_text() == "new"
    assert [str(x.readlink()) for x in (link, second)] == ["elsewhere/t", "link"]
    assert sorted(tmp_path.rglob("*")) == [elsewhere, target, link, second]


def test_dangling_link_gets_its_target(tmp_path):
    link = tmp_path / "link"
    link.symlink_to("t")
    files.write_text(link, "new")
    assert link.is_symlink()
    assert (tmp_path / "t").read_text() == "new"


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755, 0o666])
def test_replaced_file_keeps_its_mode(tmp_path, mode):
    path = tmp_path / "x"
    path.write_text("old")
    path.chmod(mode)
    files.write_text(path, "new")
    assert (_mode(path), path.read_text()) == (mode, "new")


def test_new_file_has_the_mode_of_any_other(tmp_path):
    (tmp_path / "other").write_text("x")
    files.write_text(tmp_path / "new", "x")
    assert _mode(tmp_path / "new") == _mode(tmp_path / "other")


@pytest.mark.parametrize("name", ["x" * 240, "x" * 255, "ü" * 127])
def test_longest_names_can_be_written(tmp_path, name):
    files.write_text(tmp_path / name, "new")
    assert (tmp_path / name).read_text() == "new"


def test_nobody_else_can_look_at_or_prepare_a_temporary_file(tmp_path):
    tmp_path.chmod(0o777)
    names = set()
    for _ in range(3):
        with files.staged(tmp_path / "x") as [new]:
            assert not new.exists()
            assert _mode(new.parent) == 0o700
            new.write_text("new")
            names.add(new.parent.name)
    assert len(names) == 3


def test_two_processes_of_one_number_do_not_meet(tmp_path, monkeypatch):
    """In two containers on one volume process and thread numbers are the same."""
    monkeypatch.setattr(files.os, "getpid", lambda: 7)
    monkeypatch.setattr("threading.get_native_id", lambda: 7)
    path = tmp_path / "x"
    with files.atomic(path) as a, files.atomic(path) as b:
        a.write(b"first")
        b.write(b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_pipe_is_written_to_and_stays_one(tmp_path):
    """As a device does; none of the machine's own is risked here."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        files.write_text(path, "new")
        assert os.read(reader, 10) == b"new"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_standard_output_can_be_named():
    code = "from reclap.io import files; files.write_text(files.Path('/proc/self/fd/1'), 'new')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)  # noqa: S603
    assert run.stdout == b"new"


@pytest.mark.parametrize("name", ["absent/x", "file/x", "folder"])
def test_errors_name_the_final_path(tmp_path, name):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=rf"'[^']*/{name}'") as caught:
        files.write_text(tmp_path / name, "new")
    assert ".tmp" not in str(caught.value)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("text", ["[]", "1", '"x"', "null"])
def test_json_that_is_no_object_is_refused(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(FormatError, match=r"x\.json: expected a JSON object, got"):
        files.read_json(path)


def test_lock_is_refused_while_another_holds_it_and_free_afterwards(tmp_path):
    path = tmp_path / "lock"
    with path.open("w") as first, path.open("w") as second:
        files.lock(first, "busy")
        with pytest.raises(ReclapError, match=r"^here: busy$"):
            files.lock(second, "here: busy")
        first.close()
        files.lock(second, "here: busy")


def test_systems_without_posix_locks_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    needed = pytest.raises(BackendError, match="need a POSIX system")
    with (tmp_path / "lock").open("w") as file, needed:
        files.lock(file, "busy")


# ---- Folders that appear whole -------------------------------------------------------------------


def write_two(folder):
    with files.staged_folder(folder, "a", "b") as new:
        for path in new:
            path.write_text(path.name)
            yield


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("written", [0, 1, 2])
def test_killed_writer_leaves_no_half_of_a_folder(tmp_path, there, written):
    if there:
        (tmp_path / "out").mkdir()
    code = (
        "import os, pathlib, signal, sys\n"
        "from reclap.io import files\n"
        "with files.staged_folder(pathlib.Path(sys.argv[1]), 'a', 'b') as new:\n"
        "    for path in new[:int(sys.argv[2])]:\n"
        "        path.write_text(path.name)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    target = tmp_path / "out"
    command = [sys.executable, "-c", code, str(target), str(written)]
    assert subprocess.run(command, check=False).returncode < 0  # noqa: S603
    assert target.exists() == there
    assert not there or not list(target.iterdir())
    [left] = [path for path in tmp_path.iterdir() if path != target]
    assert left.name.startswith(files.PRIVATE)
    for _ in write_two(target):
        pass
    assert {path.name: path.read_text() for path in target.iterdir()} == {"a": "a", "b": "b"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_private_folders_of_the_living_stay(tmp_path):
    first = write_two(tmp_path / "first")
    next(first)
    for _ in write_two(tmp_path / "second"):
        assert not (tmp_path / "second").exists()
    list(first)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]


def test_folder_that_fails_leaves_nothing_and_names_itself(tmp_path):
    with pytest.raises(OSError, match="No space") as caught:  # noqa: SIM117
        with files.staged_folder(tmp_path / "deep" / "out", "a") as [new]:
            raise OSError(28, "No space left on device", str(new))
    assert caught.value.filename == str(tmp_path / "deep" / "out" / "a")
    assert not list(tmp_path.iterdir())


def test_empty_folder_keeps_its_mode(tmp_path):
    target = tmp_path / "out"
    target.mkdir(mode=0o750)
    list(write_two(target))
    assert stat.S_IMODE(target.stat().st_mode) == 0o750
    list(write_two(tmp_path / "new"))
    (tmp_path / "usual").mkdir()
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("new", "usual")}
    assert len(modes) == 1
