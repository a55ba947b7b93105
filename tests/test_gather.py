"""Which files the command line takes, and what it says about the others."""

import io

import pytest

from reclap.cli import files, main
from reclap.errors import ReclapError


@pytest.fixture
def folder(tmp_path, tones):
    names = ["b.wav", "a.flac", "sub/c.WAV", "._b.wav", ".hidden/d.wav", "sub/._c.wav", "notes.txt"]
    for name in [*names, "voice.m4a", "cover.jpg", "README"]:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tones[0].read_bytes())
    (tmp_path / "in" / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    return tmp_path / "in"


@pytest.mark.parametrize("has_media", [True, False])
def test_what_a_folder_leaves_out_is_counted_by_reason(folder, capsys, monkeypatch, has_media):
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda _: has_media or None)
    found = files.gather([str(folder)], recursive=True)
    want = ["a.flac", "b.wav", "sub/c.WAV"] + ["voice.m4a"] * has_media
    assert found == [str(folder / name) for name in want]
    said = capsys.readouterr().err
    assert f"{folder}: {len(want)} taken; left out: 3 hidden (.wav); 1 not regular" in said
    assert "3 of other kinds (" in said
    assert ("1 that need the extra media (pip install av) (.m4a)" in said) == (not has_media)


def test_folder_without_sounds_says_what_it_holds(tmp_path):
    (tmp_path / "a.txt").write_text("no sound")
    with pytest.raises(ReclapError, match=r"no sound file below this folder; left out: 1 of other"):
        files.gather([str(tmp_path)], recursive=True)


def test_files_are_taken_as_they_are_given(folder, capsys):
    given = [str(folder / "._b.wav"), "-", str(folder / "notes.txt")]
    assert files.gather(given, recursive=True) == given
    assert capsys.readouterr().err == ""
    with pytest.raises(ReclapError, match="is a folder"):
        files.gather([str(folder)], recursive=False)
    with pytest.raises(ReclapError, match="once only"):
        files.gather(["-", "-"], recursive=False)


def test_standard_input_on_the_command_line(small_folder, tones, capsys, monkeypatch):
    stdin = io.TextIOWrapper(io.BytesIO(tones[0].read_bytes()))
    monkeypatch.setattr("sys.stdin", stdin)
    args = ["classify", "-", "--labels", "a,b", "--model", str(small_folder), "--json"]
    assert main(args) == 0
    assert '"file": "-"' in capsys.readouterr().out
