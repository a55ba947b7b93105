"""Checks of the recordings of a manifest, with a planted fault of every sort."""

import json
import os

import numpy as np
import pytest
from folders import write_stereo, write_wav

from reclap.cli import main
from reclap.datasets import FAULTS, check_recordings

RATE = 16000


def noise(seed, seconds=2.0):
    rng = np.random.default_rng(seed)
    loudness = np.repeat(rng.uniform(0.02, 1, 200), int(seconds * RATE) // 200 + 1)
    samples = 0.1 * rng.standard_normal(int(seconds * RATE))
    return (samples * loudness[: len(samples)]).astype(np.float32)


def row(path, caption, **more):
    return {"path": path, "caption": caption, **more}


@pytest.fixture
def folder(tmp_path):
    for i in range(4):
        write_wav(tmp_path / f"{i}.wav", noise(i), RATE)
    return tmp_path


GOOD = [row(f"{i}.wav", f"Caption number {i}", kind="rain", source=f"s{i}") for i in range(4)]


def checked(folder, rows, **settings):
    path = folder / "sounds.jsonl"
    path.write_text("".join(f"{json.dumps(r)}\n" for r in rows))
    return check_recordings(path, **settings)


def test_good_rows_have_no_fault(folder):
    report = checked(folder, GOOD, rate=RATE, copies=True)
    assert (report.rows, report.faults) == (4, ())


def plant(folder, check):
    """Return a row that has the fault, and what its report says."""
    first = noise(0)
    if check == "missing":
        return row("none.wav", "Nothing"), "no such file"
    if check == "unreadable":
        (folder / "bad.wav").write_bytes(b"no sound at all, but long enough to be looked at" * 9)
        return row("bad.wav", "Bad"), "bad.wav"
    if check == "row":
        return {"path": "3.wav", "start": 1}, "caption"
    if check == "silent":
        write_wav(folder / "silent.wav", np.zeros(RATE, np.float32), RATE)
        return row("silent.wav", "Silence"), "-80 dB"
    if check == "truncated":
        write_wav(folder / "cut.wav", noise(9), RATE)
        content = (folder / "cut.wav").read_bytes()
        (folder / "cut.wav").write_bytes(content[: len(content) // 2])
        return row("cut.wav", "Cut"), "it lacks"
    if check == "rate":
        write_wav(folder / "low.wav", noise(9)[::2], RATE // 2)
        return row("low.wav", "Low"), "8000 Hz, expected 16000"
    if check == "duplicate":
        write_wav(folder / "again.wav", first, RATE)
        return row("again.wav", "Again"), "sounds.jsonl:1: 0.wav"
    if check == "copy":
        write_wav(folder / "copy.wav", 0.3 * first[5000:27000], RATE)
        return row("copy.wav", "Copy"), "sounds.jsonl:1: 0.wav"
    if check == "caption":
        write_wav(folder / "new.wav", noise(9), RATE)
        return row("new.wav", "caption Number 2"), "'caption number 2' in 2 rows"
    write_wav(folder / "new.wav", noise(9), RATE)
    return row("new.wav", "New", kind="wind", source="s9"), "all of s9"


@pytest.mark.parametrize("check", FAULTS)
def test_a_planted_fault_is_found_and_nothing_else(folder, check):
    planted, says = plant(folder, check)
    report = checked(folder, [*GOOD, planted], rate=RATE, copies=True)
    assert list(report.by_check) == [check]
    (fault,) = report.faults
    assert says in f"{fault.where}: {fault.reason}"
    if check not in ("caption", "source"):
        assert fault.where.startswith(f"{folder / 'sounds.jsonl'}:5: {planted['path']}")
    assert FAULTS[check] in str(report)
    assert report.rows == 5


def test_windows_of_a_file_are_no_duplicates(folder):
    rows = [row("0.wav", "A", start=0), row("0.wav", "B", start=1)]
    assert checked(folder, rows).faults == ()
    again = checked(folder, [*rows, row("0.wav", "C", start=1)]).faults
    assert [(f.check, f.reason[-2:]) for f in again] == [("duplicate", ":2")]


@pytest.mark.parametrize("path", ["0.wav", "./0.wav", "here/0.wav"])
@pytest.mark.parametrize("start", ["1", 1.0, "1.0"])
def test_starts_and_paths_are_the_same_however_they_are_written(folder, path, start):
    (folder / "here").symlink_to(folder)
    rows = [row("0.wav", "A", start=1), row(path, "B", start=start)]
    (fault,) = checked(folder, rows).faults
    assert (fault.check, fault.reason[-2:]) == ("duplicate", ":1")


@pytest.mark.timeout(30)
def test_a_pipe_is_not_waited_for(folder):
    os.mkfifo(folder / "pipe.wav")
    (fault,) = checked(folder, [*GOOD, row("pipe.wav", "Pipe")]).faults
    assert (fault.check, fault.reason) == ("unreadable", "no regular file")


def test_captions_of_all_parts_of_a_file_count(folder):
    parts = [row("0.wav", "A", start=0), row("0.wav", "B", start=1), row("0.wav", "B", start=0.5)]
    assert checked(folder, parts).faults == ()
    (fault,) = checked(folder, [*parts, row("1.wav", "b")]).faults
    assert (fault.check, fault.where[-8:]) == ("caption", "2: 0.wav")
    assert fault.reason.startswith("'b' in 3 rows, the last ")


def test_copies_are_looked_for_when_asked(folder):
    planted, _ = plant(folder, "copy")
    assert checked(folder, [*GOOD, planted]).faults == ()


def test_shared_captions_repeat_by_design(folder):
    (folder / "texts.json").write_text('{"rain": [{"caption": "Rain falls"}]}')
    rows = [{"path": f"{i}.wav", "captions": "texts.json#rain"} for i in range(4)]
    assert checked(folder, rows).faults == ()
    rows[2]["captions"] = "texts.json#snow"
    assert [f.check for f in checked(folder, rows).faults] == ["row"]


def test_columns_of_kind_and_source_have_other_names(folder):
    rows = [row(f"{i}.wav", f"Text {i}", label="rain", clip="one") for i in range(4)]
    assert checked(folder, rows).faults == ()
    (fault,) = checked(folder, rows, kind="label", source="clip").faults
    assert (fault.check, fault.where, fault.reason) == ("source", "rain", "all of one")


@pytest.mark.parametrize("column", ["kind", "source"])
def test_a_column_that_no_row_has_is_refused_where_it_was_given(folder, column):
    others = [{k: v for k, v in r.items() if k != column} for r in GOOD]
    assert checked(folder, others).faults == ()
    there = ", ".join(others[0])
    with pytest.raises(ValueError, match=rf"sounds\.jsonl: no column recc, but {there}$"):
        checked(folder, GOOD[:0] + others, **{column: "recc"})
    with pytest.raises(ValueError, match=f"no column {column}, but"):
        checked(folder, others, **{column: column})
    assert checked(folder, [*others, GOOD[0] | {"path": "x.wav"}], **{column: column}).rows == 5


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ({"caption": "A", "kind": "rain"}, "no column path; has caption, kind"),
        ({"path": " ", "caption": "A"}, "path is empty"),
        ({"audio": 3, "caption": "A"}, "audio: expected a text, got 3"),
        ({"path": "0.wav", "kind": "rain"}, "no column caption; has path, kind"),
    ],
)
def test_a_row_that_lacks_something_says_what_it_has(folder, item, reason):
    (fault,) = checked(folder, [item]).faults
    assert (fault.check, fault.reason) == ("row", reason)


def test_an_id_that_a_list_has_twice_is_told(folder, capsys):
    checked(folder, [r | {"id": f"i{i}"} for i, r in enumerate(GOOD)])
    (folder / "some.txt").write_text("i1\ni2\ni1\n")
    lists = [str(folder / "some.txt"), "--manifest", str(folder / "sounds.jsonl")]
    assert main(["data", "check", *lists]) == 0
    text = capsys.readouterr().out
    assert "2 rows, 1 fault\n" in text
    assert "sounds.jsonl:2: 1.wav: its id comes 2 times in some" in text


def test_faults_of_copies_are_logged_once(folder, caplog):
    for name, samples in ("cut", noise(9)), ("copy", 0.3 * noise(9)):
        write_stereo(folder / f"{name}.wav", np.stack([samples, -0.9 * samples], 1), RATE)
    rows = [row("cut.wav", "A"), row("copy.wav", "B")]
    (fault,) = checked(folder, rows, copies=True).faults
    assert fault.check == "copy"
    assert len(caplog.messages) == len(set(caplog.messages)) > 0


def test_command_reports_and_its_status_tells(folder, capsys):
    checked(folder, GOOD)
    path = str(folder / "sounds.jsonl")
    assert main(["data", "check", path]) == 0
    assert "4 rows, 0 faults" in capsys.readouterr().out
    checked(folder, [*GOOD, plant(folder, "rate")[0]])
    assert main(["data", "check", path, "--rate", "16000"]) == 0  # of use, but told
    assert "8000 Hz" in capsys.readouterr().out
    checked(folder, [*GOOD, plant(folder, "missing")[0]])
    assert main(["data", "check", path, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["checks"] == {"missing": 1}
    assert report["faults"][0]["where"].endswith("sounds.jsonl:5: none.wav")


def test_sounds_start_from_the_root(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("elsewhere")
    assert checked(other, GOOD, root=folder).faults == ()
    assert len(checked(other, GOOD).fatal) == 4


def test_a_manifest_that_is_none_is_refused(folder, capsys):
    assert main(["data", "check", str(folder / "0.wav")]) == 2
    assert "expected a manifest" in capsys.readouterr().err
    assert main(["data", "check", str(folder / "none.csv")]) == 2
