"""Counts of data sets."""

import json
import os

import numpy as np
import pytest
from folders import write_stereo, write_wav

from reclap.cli import main
from reclap.datasets import Count, stats


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    write_wav(tmp_path / "0.wav", rng.normal(0, 0.1, 16000), 8000)
    write_wav(tmp_path / "1.wav", rng.normal(0, 0.1, 32000), 16000)
    write_stereo(tmp_path / "2.wav", rng.normal(0, 0.1, (32000, 2)), 16000)
    return tmp_path


ROWS = [
    {"id": "a", "path": "0.wav", "kind": "rain", "group": "nature", "source": "s0",
     "licence": "CC0", "seconds": 2.0, "caption": "Rain falls", "rewrites": ["steady rain"]},
    {"id": "b", "path": "1.wav", "kind": "rain", "group": "nature", "source": "s1",
     "licence": "CC BY", "start": 0, "seconds": 0.5, "caption": "The rain falls on a roof"},
    {"id": "c", "path": "1.wav", "kind": "wind", "group": "nature", "source": "s1",
     "licence": "CC BY", "start": 0.5, "seconds": 1.5,
     "captions": [{"caption": "Wind howls"}, {"caption": "A gale"}]},
    {"id": "d", "path": "2.wav", "kind": "dog", "source": "s2"},
]  # fmt: skip


def counted(folder, rows=ROWS, **settings):
    path = folder / "clips.jsonl"
    path.write_text("".join(f"{json.dumps(r)}\n" for r in rows))
    return stats(path, **settings)


def test_rows_files_sources_and_lengths_are_counted(folder):
    report = counted(folder)
    assert report.total == Count(4, 3, 3, 6.0)
    assert report.columns == {
        "split": {"clips": Count(4, 3, 3, 6.0)},
        "kind": {
            "rain": Count(2, 2, 2, 2.5),
            "wind": Count(1, 1, 1, 1.5),
            "dog": Count(1, 1, 1, 2.0),
        },
        "group": {"nature": Count(3, 2, 2, 4.0)},
        "licence": {"CC0": Count(1, 1, 1, 2.0), "CC BY": Count(2, 1, 1, 2.0)},
    }
    assert report.unknown == 0


def test_headers_are_counted_by_file(folder):
    report = counted(folder)
    assert report.rates == {8000: 1, 16000: 2}
    assert report.channel_counts == {1: 2, 2: 1}
    assert report.formats == {".wav": 3}
    assert report.unread == 0
    (folder / "3.wav").write_bytes(b"no sound at all, but long enough to be looked at" * 9)
    report = counted(folder, [*ROWS, {"path": "3.wav"}, {"path": "4.wav"}])
    assert (report.unread, report.unknown, report.total.files) == (2, 2, 5)
    assert sum(report.rates.values()) == 3


@pytest.mark.timeout(30)
def test_a_pipe_is_not_waited_for(folder):
    os.mkfifo(folder / "pipe.wav")
    report = counted(folder, [*ROWS, {"path": "pipe.wav"}])
    assert (report.unread, report.unknown) == (1, 1)


def test_a_manifest_is_read_once_however_it_is_named(folder, monkeypatch):
    counted(folder)
    (folder / "here").symlink_to(folder)
    monkeypatch.chdir(folder)
    report = stats(["one=clips.jsonl", f"two={folder / 'clips.jsonl'}", "three=here/clips.jsonl"])
    assert report.total == Count(4, 3, 3, 6.0)
    assert report.columns["split"]["three"] == report.total


def test_lengths_do_not_depend_on_the_order_of_rows(folder):
    rows = [{"path": "1.wav", "start": 0, "seconds": 0.5}, {"path": "1.wav", "start": 0.5}]
    bad = b"OggS no sound at all, but long enough to be looked at" * 9
    (folder / "bad.ogg").write_bytes(bad)
    rows += [{"path": "bad.ogg", "seconds": 1}, {"path": "bad.ogg"}]
    reports = [counted(folder, order) for order in (rows, rows[::-1])]
    assert reports[0].total == reports[1].total == Count(4, 2, 0, 3.0)
    for report in reports:
        assert (report.unread, report.unknown, report.rates) == (1, 1, {16000: 1})


def test_lengths_that_are_none_do_not_count(folder):
    rows = [{"path": f"{i}.wav", "seconds": v} for i, v in enumerate((1e308, 1e308, 10**400, True))]
    report = counted(folder, rows, audio=False)
    assert (report.total.seconds, report.unknown) == (0, 4)
    assert "Infinity" not in json.dumps(report.to_json())


def test_captions_and_their_words_are_counted(folder):
    texts = counted(folder).texts
    assert texts.per_clip == {0: 1, 1: 2, 2: 1}
    assert (texts.captions, texts.rewrites) == (4, 1)
    assert texts.words == {2: 3, 6: 1}
    assert texts.mean_words == 3.0
    assert texts.vocabulary == 10  # rain falls the on a roof steady wind howls gale
    assert list(texts.common.items())[:2] == [("rain", 3), ("falls", 2)]
    assert "the" not in texts.common


def test_shared_captions_count_once(folder):
    (folder / "texts.json").write_text(
        '{"rain": [{"caption": "Rain falls", "rewrites": ["Drip"]}]}'
    )
    rows = [{"path": f"{i}.wav", "captions": "texts.json#rain"} for i in range(3)]
    texts = counted(folder, rows).texts
    assert (texts.captions, texts.rewrites, texts.per_clip) == (1, 1, {1: 3})


def test_lengths_that_rows_do_not_say_are_those_of_the_files(folder):
    rows = [{"path": "2.wav"}, {"path": "2.wav", "start": 1.5}]
    report = counted(folder, rows)
    assert report.total.seconds == 2.5
    report = counted(folder, rows, audio=False)
    assert (report.total.seconds, report.unknown, report.rates) == (0.0, 2, {})


def test_a_row_of_several_splits_counts_once_in_all(folder):
    (folder / "clips.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in ROWS))
    for name, ids in {"one": "a\nb\n", "two": "b\nc\nd\n"}.items():
        (folder / f"{name}.txt").write_text(ids)
    lists = [folder / "one.txt", folder / "two.txt"]
    report = stats(lists, manifest=folder / "clips.jsonl")
    assert report.total == Count(4, 3, 3, 6.0)
    assert report.columns["split"] == {"one": Count(2, 2, 2, 2.5), "two": Count(3, 2, 2, 4.0)}


def test_columns_have_other_names_and_divide(folder):
    rows = [{"path": f"{i}.wav", "label": "ab"[i % 2], "tape": "t", "seconds": 1} for i in range(3)]
    report = counted(folder, rows, kind="label", source="tape", split="label", audio=False)
    assert report.columns["kind"] == {"a": Count(2, 2, 1, 2.0), "b": Count(1, 1, 1, 1.0)}
    assert set(report.columns["split"]) == {"label a", "label b"}
    with pytest.raises(ValueError, match="jobs is 0"):
        counted(folder, rows, jobs=0)


@pytest.mark.parametrize("column", ["kind", "source"])
def test_a_column_that_no_row_has_is_refused_where_it_was_given(folder, column):
    rows = [{"id": "a", "path": "0.wav"}, {"path": "1.wav", "seconds": 1}]
    assert counted(folder, rows).total.rows == 2
    for name in (column, "nocol"):
        with pytest.raises(ValueError, match=f"no column {name}, but id, path, seconds$"):
            counted(folder, rows, **{column: name})
    assert main(["data", "stats", str(folder / "clips.jsonl"), f"--{column}", "nocol"]) == 2


def test_ids_that_a_list_has_twice_are_told_and_count_once(folder):
    counted(folder)
    (folder / "one.txt").write_text("a\nb\na\n")
    report = stats(folder / "one.txt", manifest=folder / "clips.jsonl")
    assert (report.total.rows, report.repeated) == (2, 1)
    assert "ids that a list has more than once: 1\n" in str(report)
    assert counted(folder).repeated == 0


def test_command_prints_a_page_or_json(folder, capsys):
    counted(folder)
    path = str(folder / "clips.jsonl")
    assert main(["data", "stats", path]) == 0
    text = capsys.readouterr().out
    assert text.startswith("4 rows, 3 files, 3 sources, 0.1 minutes\nrates of files: 8000: 1, ")
    assert "captions: 4, rewrites: 1; rows by captions: 0: 1, 1: 2, 2: 1" in text
    assert "words of a caption: 3.0 in the mean, 2 to 6; vocabulary: 10" in text
    assert "  dog   1 row, 1 file, 1 source, 0.0 minutes" in text
    assert main(["data", "stats", path, "--json", "--no-audio"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["columns"]["kind"]["wind"]["seconds"] == 1.5
    assert report["texts"]["captions"] == 4
    assert main(["data", "stats", str(folder / "none.csv")]) == 2


def test_a_page_stays_short(folder):
    rows = [{"path": "0.wav", "kind": f"k{i}", "seconds": 1} for i in range(500)]
    text = str(counted(folder, rows))
    assert len(text.splitlines()) < 30
    assert "and 488 more" in text
