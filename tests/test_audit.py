"""Audits: each planted leak is found and named, and nothing in a clean set."""

import csv
import errno
import json
import os
import shutil
import sqlite3

import numpy as np
import pytest
from folders import write_wav

from reclap.audio.fingerprint import RATE
from reclap.cli import main
from reclap.datasets import LEAKS, Split, audit
from reclap.datasets import leaks as module
from reclap.datasets.buckets import Buckets
from reclap.datasets.prints import Prints
from reclap.io.files import PRIVATE
from reclap.io.records import Records
from reclap.training import recipe_splits


def noise(seed, seconds=2.0):
    rng = np.random.default_rng(seed)
    loudness = np.repeat(rng.uniform(0.02, 1, 200), int(seconds * RATE) // 200 + 1)
    samples = 0.1 * rng.standard_normal(int(seconds * RATE))
    return (samples * loudness[: len(samples)]).astype(np.float32)


def row(i, **more):
    return {
        "id": f"i{i}",
        "path": f"{i}.wav",
        "caption": f"Caption number {i}",
        "source": f"s{i}",
        **more,
    }


@pytest.fixture
def folder(tmp_path):
    for i in range(8):
        write_wav(tmp_path / f"{i}.wav", noise(i), RATE)
    return tmp_path


TRAIN, TEST = [row(i) for i in range(4)], [row(i) for i in range(4, 7)]


def write(path, rows):
    path.write_text("".join(f"{json.dumps(r)}\n" for r in rows))
    return path


def audited(folder, train=TRAIN, test=TEST, **settings):
    paths = [write(folder / "train.jsonl", train), write(folder / "test.jsonl", test)]
    return audit(paths, **settings)


def plant(folder, check):
    """Return a row that shares something with the first one, and what a report says of it."""
    if check == "id":
        return row(7, id="i0"), "i0"
    if check == "file":
        return row(7, path="./0.wav"), ""
    if check == "bytes":
        shutil.copy(folder / "0.wav", folder / "7.wav")
        return row(7), ""
    if check == "copy":
        write_wav(folder / "7.wav", 0.3 * noise(0)[2000:13000], RATE)
        return row(7), "coherence 1.00"
    if check == "source":
        return row(7, source="s0"), "s0"
    return row(7, caption="caption  NUMBER 0!"), "Caption number 0"


@pytest.mark.parametrize("check", LEAKS)
def test_a_planted_leak_is_found_and_nothing_else(folder, check):
    planted, what = plant(folder, check)
    report = audited(folder, test=[*TEST, planted])
    assert (report.between, report.within) == ({check: 1}, {})
    (leak,) = report.leaks
    assert leak.splits == ("train", "test")
    assert leak.first == f"{folder / 'train.jsonl'}:1: 0.wav"
    assert leak.second == f"{folder / 'test.jsonl'}:4: {planted['path']}"
    assert (leak.what, leak.rows) == (what, 2)
    assert not report.is_clean
    assert f"{check}: 1, {LEAKS[check]} (train and test: 1)" in str(report)
    assert f"  train and test: {leak.first} and {leak.second}" in str(report)


@pytest.mark.parametrize("check", LEAKS)
def test_a_planted_duplicate_is_found_within_a_split(folder, check):
    planted, what = plant(folder, check)
    report = audited(folder, train=[*TRAIN, planted])
    expected = {} if check == "source" else {check: 1}  # a split may have all of a source
    assert (report.between, report.within) == ({}, expected)
    assert report.is_clean == (check == "source")
    for leak in report.leaks:
        assert leak.splits == ("train", "train")
        assert leak.first.endswith("train.jsonl:1: 0.wav")
        assert leak.second.endswith(f"train.jsonl:5: {planted['path']}")
        assert leak.what == what
        assert f"{check}: 1, {LEAKS[check]} (train: 1)" in str(report)
        assert f"  train: {leak.first} and {leak.second}" in str(report)


def test_a_clean_set_has_nothing(folder):
    report = audited(folder)
    assert report.is_clean
    assert (report.splits, report.files, report.leaks) == ({"train": 4, "test": 3}, 7, ())
    assert str(report) == "7 sound files; rows: train 4, test 3\nnothing found"


def test_windows_of_a_file_leak_between_splits_only(folder):
    windows = [row(7, id=f"w{i}", start=i, caption=f"Window {i}") for i in range(3)]
    assert audited(folder, train=[*TRAIN, *windows]).is_clean
    report = audited(folder, train=[*TRAIN, *windows[:2]], test=[*TEST, windows[2]])
    assert report.between == {"file": 1, "source": 1}
    for start in 1, "1", 1.0, "1.0 ":
        again = windows[1] | {"id": "w9", "start": start}
        assert audited(folder, train=[*windows, again]).within["file"] == 1


def test_a_group_of_many_rows_is_one_finding(folder):
    train = [r | {"source": "tape"} for r in TRAIN]
    test = [r | {"source": "tape"} for r in TEST]
    (leak,) = audited(folder, train, test).leaks
    assert (leak.check, leak.what, leak.rows) == ("source", "tape", 7)


def test_findings_are_counted_beyond_the_limit(folder):
    report = audited(folder, test=TRAIN, limit=2)
    assert report.between == {"id": 4, "file": 4, "source": 4}  # captions are of the same files
    assert [leak.check for leak in report.leaks] == ["id"] * 2 + ["file"] * 2 + ["source"] * 2
    assert report.to_json()["counts"][0] == {
        "check": "file",
        "splits": ["train", "test"],
        "count": 4,
    }


def test_shared_captions_repeat_by_design(folder):
    (folder / "texts.json").write_text('{"rain": [{"caption": "Rain falls"}]}')
    shared = {"captions": "texts.json#rain"}
    rows = [{k: v for k, v in row(i).items() if k != "caption"} | shared for i in range(6)]
    assert audited(folder, rows[:3], rows[3:]).is_clean


def test_copies_of_copies_count_for_every_file_of_the_same_content(folder):
    shutil.copy(folder / "0.wav", folder / "7.wav")
    write_wav(folder / "8.wav", 0.3 * noise(0)[2000:13000], RATE)
    report = audited(folder, train=[*TRAIN, row(7)], test=[*TEST, row(8)])
    assert (report.within, report.between) == ({"bytes": 1}, {"copy": 1})
    report = audited(folder, train=TRAIN[1:], test=[*TEST, row(0), row(7), row(8)])
    assert (report.within, report.between) == ({"bytes": 1, "copy": 1}, {})
    report = audited(folder, train=[*TRAIN[1:], row(7), row(8)], test=[*TEST, row(0)])
    assert report.within == {"copy": 1}
    assert report.between == {"bytes": 1, "copy": 1}


def test_splits_that_share_a_file_share_no_copy_of_it_for_that(folder):
    shutil.copy(folder / "0.wav", folder / "7.wav")
    paths = [folder / f"{name}.jsonl" for name in ("train", "test", "valid")]
    for path, i in zip(paths, (0, 0, 7), strict=True):
        write(path, [{"path": f"{i}.wav"}])
    assert audit(paths).counts == {
        ("file", "train", "test"): 1,
        ("bytes", "train", "valid"): 1,
        ("bytes", "test", "valid"): 1,
    }


def test_files_that_cannot_be_read_are_told(folder):
    (folder / "7.wav").write_bytes(b"no sound at all, but long enough to be looked at" * 9)
    report = audited(folder, test=[*TEST, row(7), row(99)])
    assert not report.is_clean
    assert report.unread == 2
    first, second = report.unread_files
    assert first.startswith(f"{folder / 'test.jsonl'}:4: 7.wav: ")
    assert second == f"{folder / 'test.jsonl'}:5: 99.wav: no such file"
    assert "not compared: 2 files" in str(report)


def test_a_pipe_is_not_waited_for(folder):
    os.mkfifo(folder / "pipe.wav")
    report = audited(folder, test=[*TEST, row(7, path="pipe.wav")])
    assert report.unread_files == (f"{folder / 'test.jsonl'}:4: pipe.wav: no regular file",)


def test_a_file_is_the_same_however_links_lead_to_its_folder(folder):
    (folder / "deep" / "in").mkdir(parents=True)
    (folder / "link").symlink_to(folder / "deep" / "in")
    (folder / "here").symlink_to(folder)
    write_wav(folder / "deep" / "0.wav", noise(20), RATE)  # link/../0.wav
    rows = [row(0), row(7, path="link/../0.wav"), row(8, path="here/1.wav")]
    report = audited(folder, test=rows[1:])
    assert (report.between, report.unread) == ({"file": 1}, 0)
    assert report.leaks[0].second.endswith("test.jsonl:2: here/1.wav")
    assert audited(folder, train=rows[:1], test=rows[1:2]).is_clean


def test_names_that_no_file_has_are_told(folder):
    report = audited(folder, test=[*TEST, row(7, path="\ud800.wav"), row(8, path="\ud800/x.wav")])
    assert report.unread == 2
    assert "surrogates not allowed" in report.unread_files[0]


@pytest.mark.parametrize(("splits", "pairs"), [(8, 28), (9, 8), (40, 39)])
def test_a_value_of_many_splits_is_one_finding_for_each(folder, splits, pairs):
    rows = [row(i, source="tape", fold=i) for i in range(splits)]
    report = audit(write(folder / "all.jsonl", rows), split="fold", audio=False)
    assert report.between == {"source": pairs}


def test_many_splits_of_families_are_compared_with_the_first_of_their_own(folder):
    rows = [row(i, source="tape") for i in range(10)]
    found = [
        Split(f"{i}", write(folder / f"{i}.jsonl", rows[i : i + 1]), family="ab"[i % 2])
        for i in range(10)
    ]
    report = audit(found, audio=False)
    assert report.between == {"source": 8}
    assert report.counts["source", "1", "9"] == 1


def test_a_full_disk_is_told_with_its_folder(tmp_path, monkeypatch):
    buckets = Buckets(tmp_path / "b", {"value": "u8"}, parts=2)
    for part in "0000", "0001":
        (tmp_path / "b" / part).symlink_to("/dev/full")
    buckets.add(1)
    with pytest.raises(OSError, match=r"No space left on device: .*b'$"):
        list(buckets.sorted())


def test_a_full_disk_of_the_index_ends_the_audit(folder, monkeypatch):
    def full(self):
        raise OSError(errno.ENOSPC, "No space left on device", "prints.sqlite")

    monkeypatch.setattr("reclap.io.records.Records.reading", full, raising=True)
    prints = object.__new__(Prints)
    prints._records = object.__new__(Records)
    with pytest.raises(OSError, match=r"No space left on device: 'prints\.sqlite'"):
        prints.add(folder / "0.wav")


def test_names_that_are_no_text_are_files_too(folder):
    name = os.fsdecode(b"\xff7.wav")
    write_wav(folder / name, 0.3 * noise(0)[2000:13000], RATE)
    (leak,) = audited(folder, test=[*TEST, row(7, path=name)]).leaks
    assert (leak.check, leak.second) == ("copy", f"{folder / 'test.jsonl'}:4: {name}")


def test_without_audio_no_file_is_opened(folder):
    planted, _ = plant(folder, "bytes")
    assert audited(folder, test=[*TEST, planted, row(99)], audio=False).is_clean


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("\u0928\u0940\u0932", "\u0928\u0932", False),  # vowels of Hindi
        ("\u0e19\u0e49\u0e33", "\u0e19\u0e33", False),  # tones of Thai
        ("\u304b", "\u304c", False),  # voicing of Japanese
        ("\U0001f436", "\U0001f431", False),
        ("Un \u00c9t\u00e9", "un ete\u0301!", True),
        ("\u2602\ufe0f", "\u2602\ufe0f ", True),
    ],
)
def test_captions_of_all_scripts_are_told_apart(folder, one, other, same):
    train, test = [row(0, caption=one)], [row(1, caption=other)]
    assert audited(folder, train, test, audio=False).is_clean != same


# ---- The index -----------------------------------------------------------------------------------


def fingerprinted(monkeypatch):
    read = []
    real = module.Prints._read
    monkeypatch.setattr(Prints, "_read", lambda self, p, s: read.append(p.name) or real(self, p, s))
    return read


def test_a_file_of_many_rows_is_read_once(folder, monkeypatch):
    read = fingerprinted(monkeypatch)
    windows = [row(7, id=f"w{i}", start=i, caption=f"Window {i}") for i in range(30)]
    assert audited(folder, train=windows).is_clean
    assert sorted(read) == ["4.wav", "5.wav", "6.wav", "7.wav"]


def test_an_index_is_kept_and_files_that_changed_are_read_again(folder, monkeypatch):
    read = fingerprinted(monkeypatch)
    index = folder / "index"
    assert audited(folder, index=index).is_clean
    assert len(read) == 7
    assert [p.name for p in index.iterdir() if "-wal" not in p.name and "-shm" not in p.name] == [
        "prints.sqlite"
    ]
    read.clear()
    assert audited(folder, index=index).is_clean
    assert read == []
    write_wav(folder / "5.wav", 0.5 * noise(0)[2000:13000], RATE)
    assert audited(folder, index=index).between == {"copy": 1}
    assert read == ["5.wav"]


def test_an_interrupted_audit_goes_on_and_leaves_nothing_else(folder, monkeypatch):
    read = fingerprinted(monkeypatch)
    index, real = folder / "index", Prints.add

    def interrupted(self, path):
        if path.name == "5.wav":
            raise KeyboardInterrupt
        return real(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(Prints, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            audited(folder, index=index, jobs=1)
    assert [p for p in index.iterdir() if p.is_dir()] == []
    assert {"0.wav", "4.wav"} <= set(read)
    read.clear()
    assert audited(folder, index=index).is_clean
    assert set(read) <= {"5.wav", "6.wav"}


def test_what_a_killed_audit_left_is_removed(folder):
    left = folder / "index" / f"{PRIVATE}x.tmp"
    left.mkdir(parents=True)
    (left / "key").write_bytes(b"1")
    assert audited(folder, index=folder / "index").is_clean
    assert not left.exists()


def test_an_index_of_another_kind_is_refused(folder):
    (folder / "index").mkdir()
    with sqlite3.connect(folder / "index" / "prints.sqlite") as other:
        other.execute("CREATE TABLE t (x)")
    other.close()
    with pytest.raises(ValueError, match="no file of fingerprints"):
        audited(folder, index=folder / "index")


# ---- Splits --------------------------------------------------------------------------------------


def test_a_column_divides_the_rows(folder):
    rows = [row(i, fold=1 + i % 2) for i in range(6)] + [row(6, fold=2, source="s0")]
    path = write(folder / "all.jsonl", rows)
    report = audit(path, split="fold")
    assert report.splits == {"fold 1": 3, "fold 2": 4}
    assert report.counts == {("source", "fold 1", "fold 2"): 1}
    with pytest.raises(ValueError, match="no column part to divide by"):
        audit(path, split="part")


def test_an_id_that_a_list_has_twice_is_found(folder):
    path = write(folder / "all.jsonl", [*TRAIN, *TEST])
    (folder / "one.txt").write_text("i0\ni1\ni0\ni2\ni0\n")
    (folder / "two.txt").write_text("i3\ni4\n")
    lists = [folder / "one.txt", folder / "two.txt"]
    report = audit(lists, manifest=path, audio=False)
    assert report.counts == {("id", "one", "one"): 1}
    assert report.splits == {"one": 3, "two": 2}
    (leak,) = report.leaks
    assert leak.first == leak.second == f"{path}:1: 0.wav"
    assert (leak.what, leak.rows) == ("i0", 3)
    assert f"  one: {path}:1: 0.wav: 'i0', 3 times in the list" in str(report)
    report = audit(lists, manifest=path, audio=False, split="source")
    assert report.counts == {("id", "one, source s0", "one, source s0"): 1}


def test_a_column_of_sources_that_no_row_has_is_refused_where_it_was_given(folder):
    others = [{k: v for k, v in r.items() if k != "source"} for r in TRAIN]
    assert audited(folder, train=others, audio=False).is_clean  # some have it
    path = write(folder / "all.jsonl", others)
    assert audit(path, audio=False).is_clean
    for column in ("recc", "source"):
        says = rf"all\.jsonl: no column {column}, but id, path, caption$"
        with pytest.raises(ValueError, match=says):
            audit(path, audio=False, source=column)


def test_an_empty_path_is_not_the_current_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    write(folder / "all.jsonl", TRAIN)
    for source in ("a=", ""):
        with pytest.raises(ValueError, match=f"'{source}': no path; expected a manifest"):
            audit(source, audio=False)
    write(folder / "all.jsonl", TRAIN).rename(folder / "a=")
    with pytest.raises(ValueError, match="a=: expected a manifest or a list"):
        audit("a=")


def test_files_that_were_cut_off_are_logged_once(folder, caplog):
    plant(folder, "copy")
    for name in ("0.wav", "7.wav"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-1000])
    assert audited(folder, test=[*TEST, row(7)]).between == {"copy": 1}
    assert sorted(message.split(":")[0][-5:] for message in caplog.messages) == ["0.wav", "7.wav"]


def test_families_of_lists_are_not_compared_with_each_other(folder):
    path = write(folder / "all.jsonl", [*TRAIN, *TEST, row(7, source="s0")])
    for name, ids in {
        "folds/a": (0, 1, 7),
        "folds/b": (2, 3),
        "thirds/a": (0, 2),
        "thirds/b": (7, 4, 5, 6),
    }.items():
        file = folder / "splits" / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"i{i}\n" for i in ids))
    report = audit(folder / "splits", manifest=path)
    assert report.splits == {"folds/a": 3, "folds/b": 2, "thirds/a": 2, "thirds/b": 4}
    assert report.counts == {("source", "thirds/a", "thirds/b"): 1}
    assert report.within == {}
    assert report.apart == (("folds", "thirds"),) == tuple(map(tuple, report.to_json()["apart"]))
    assert str(report).endswith("not compared by design: folds, thirds")
    path.rename(folder / "manifest.jsonl")
    assert audit(folder).counts == report.counts  # a data set: manifest and splits
    only = audit(folder / "splits" / "folds", manifest=folder / "manifest.jsonl")
    assert only.splits == {"folds/a": 3, "folds/b": 2}
    assert (only.is_clean, only.apart) == (True, ())
    sources = [f"{folder / 'splits' / 'folds'}", f"train={folder / 'manifest.jsonl'}"]
    report = audit(sources, manifest=folder / "manifest.jsonl", audio=False)
    assert (report.apart, report.between["id"]) == ((), 5)  # families of several sources are
    two = [folder / "splits" / name for name in ("folds", "thirds")]
    assert audit(two, manifest=folder / "manifest.jsonl", audio=False).between["id"] == 3
    mixed = audit([folder / "splits", sources[1]], manifest=folder / "manifest.jsonl", audio=False)
    assert (mixed.apart, mixed.between["id"]) == ((("folds", "thirds"),), 11)


def test_texts_beside_manifests_are_no_lists(folder):
    audited(folder)
    (folder / "LICENSE.txt").write_text("Free for any use")
    assert audit(folder).splits == {"test": 3, "train": 4}
    write(folder / "manifest.jsonl", TRAIN)
    assert audit(folder).splits == {"manifest": 4}
    (folder / "splits").mkdir()
    (folder / "splits" / "a.txt").write_text("i0\n")
    assert audit(folder).splits == {"splits/a": 1}


def test_a_recipe_is_audited_against_its_own_evaluation(folder):
    write(folder / "all.jsonl", [row(i, fold=i % 3, source=f"s{i % 5}") for i in range(7)])
    (folder / "run.toml").write_text(
        '[data]\nmanifest = "all.jsonl"\nwhere.fold = [0, 1]\n[run]\nsteps = 1\n'
        "[eval]\nevery = 1\nwhere.fold = [2]\n"
    )
    report = audit(recipe_splits(folder / "run.toml"))
    assert report.splits == {"run/train": 5, "run/eval": 2}
    assert report.between == {"source": 1}  # 0 and 5
    assert audit(recipe_splits(folder / "run.toml", ["eval.every=0"])).splits == {"run/train": 5}
    other = Split("other", write(folder / "other.jsonl", [row(0)]))
    report = audit([*recipe_splits(folder / "run.toml"), other], audio=False)
    assert report.counts["file", "run/train", "other"] == 1


def test_splits_are_objects_too(folder):
    path = write(folder / "all.jsonl", [row(i, part="ab"[i % 2]) for i in range(4)])
    report = audit([Split("one", path, where={"part": ["a"]}), Split("two", path)], audio=False)
    assert report.splits == {"one": 2, "two": 4}
    assert report.between == {"id": 2, "file": 2, "source": 2}


def refused(folder):
    (folder / "ids.txt").write_text("i1\nnone\nnever\n")
    (folder / "empty").mkdir()
    path = write(folder / "all.jsonl", TRAIN)
    return [
        (folder / "none.jsonl", {}, "none.jsonl: no such manifest"),
        (folder / "0.wav", {}, "expected a manifest or a list"),
        (folder / "ids.txt", {}, "needs the manifest that has them: --manifest"),
        (folder / "ids.txt", {"manifest": path}, "'none' and 1 more: no such id"),
        (folder / "empty", {}, "expected a folder of manifests"),
        ([path, path], {}, "two splits are called 'all'"),
        ([], {}, "at least one manifest"),
        (Split("x", path, where={"kind": ["rain"]}), {}, "no row where"),
        (path, {"jobs": 0}, "jobs is 0"),
        (path, {"limit": 0}, "limit 0"),
    ]


@pytest.mark.parametrize("case", range(10))
def test_sources_that_are_none_are_refused(folder, case):
    sources, settings, says = refused(folder)[case]
    with pytest.raises((ValueError, OSError), match=says):
        audit(sources, **settings)


# ---- The command ---------------------------------------------------------------------------------


def test_command_reports_and_its_status_tells(folder, capsys):
    train = write(folder / "a.jsonl", TRAIN)
    test = write(folder / "b.jsonl", TEST)
    command = ["data", "audit", f"train={train}", f"test={test}", "--jobs", "1"]
    assert main(command) == 0
    assert capsys.readouterr().out.endswith("nothing found\n")
    write(folder / "b.jsonl", [*TEST, row(7, source="s0")])
    assert main([*command, "--json", "--no-audio"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["between"] == {"source": 1}
    assert report["leaks"][0]["splits"] == ["train", "test"]
    assert main(["data", "audit", str(folder / "none.csv")]) == 2


def test_command_takes_recipes_lists_and_columns(folder, capsys):
    path = write(folder / "all.jsonl", [row(i, fold=i % 2) for i in range(4)])
    (folder / "run.toml").write_text('[data]\nmanifest = "all.jsonl"\n[run]\nsteps = 1\n')
    (folder / "some.txt").write_text("i0\ni3\n")
    assert main(["data", "audit", str(folder / "run.toml"), "--no-audio"]) == 0
    assert "run/train 4" in capsys.readouterr().out
    lists = [f"mine={folder / 'some.txt'}", "--manifest", str(path)]
    assert main(["data", "audit", *lists, "--no-audio"]) == 0
    assert "rows: mine 2" in capsys.readouterr().out
    assert main(["data", "audit", str(path), "--no-audio", "--split", "fold"]) == 0
    assert "rows: fold 0 2, fold 1 2" in capsys.readouterr().out
    for sources, rows in (lists, 2), ([str(folder / "run.toml")], 4):
        assert main(["data", "check", *sources]) == 0
        assert f"{rows} rows, 0 faults" in capsys.readouterr().out
        assert main(["data", "stats", *sources, "--no-audio"]) == 0
        assert f"{rows} rows, {rows} files" in capsys.readouterr().out


def test_a_page_stays_short_however_much_is_found(folder):
    rows = [{"id": f"r{i}", "path": f"x/{i}.wav", "caption": "Rain"} for i in range(900)]
    train = write(folder / "train.jsonl", rows)
    test = write(folder / "test.jsonl", rows)
    report = audit([train, test], audio=False)
    assert report.between == {"id": 900, "file": 900, "caption": 1}
    assert len(str(report).splitlines()) < 40
    assert "and 892 more" in str(report)
    (leak,) = [x for x in report.leaks if x.check == "caption" and x.is_between]
    assert (leak.what, leak.rows) == ("Rain", 1800)


def test_rows_are_sorted_on_disk_a_piece_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("reclap.datasets.buckets._HELD", 7)
    monkeypatch.setattr("reclap.datasets.buckets._BLOCK", 50)
    buckets = Buckets(tmp_path / "b", {"value": "u8", "row": "u4"}, parts=16)
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2**64, 500, np.uint64, endpoint=False)
    values[::7] = values[0]
    for row, value in enumerate(values[:200]):
        buckets.add(int(value), row)
    for start in range(200, 500, 30):
        part = values[start : start + 30]
        buckets.extend(value=part, row=np.arange(start, start + len(part)))
    pieces = list(buckets.sorted())
    assert len(pieces) == 16
    order = np.lexsort((np.arange(500), values))
    assert np.array_equal(np.concatenate([p["value"] for p in pieces]), values[order])
    assert np.array_equal(np.concatenate([p["row"] for p in pieces]), order)


def test_the_copy_within_a_fold_of_esc10_is_found(shared, tmp_path):
    folder = shared / "audio" / "esc10"
    with (folder / "esc10.csv").open(newline="") as f:
        rows = [r for r in csv.DictReader(f) if "fire" in r["path"] and r["fold"] in "23"]
    path = write(tmp_path / "fire.jsonl", [r | {"path": str(folder / r["path"])} for r in rows])
    report = audit(path, split="fold", source="freesound_id")
    assert (report.between, report.within) == ({}, {"copy": 1})
    (leak,) = report.leaks
    assert leak.splits == ("fold 2", "fold 2")
    assert leak.first.endswith("2-28314-A.ogg")
    assert leak.second.endswith("2-30322-A.ogg")
