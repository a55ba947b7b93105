"""Captions of kinds of sounds: complete, unlike each other, and fit by the project's checks."""

import csv
import json
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from reclap import checks
from reclap.checks.duplicates import find_duplicates
from reclap.checks.form import check_form

SOUNDS = Path(__file__).resolve().parents[1] / "recipes" / "sounds"
FILES = sorted((SOUNDS / "captions").glob("*.jsonl"))
KINDS = [path for path in FILES if path.stem != "recordings"]  # those: test_sounds_recordings.py


def _rows(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def rows():
    return [row for path in FILES for row in _rows(path)]


def _texts(row):
    return [row["caption"], *row["rewrites"]]


@pytest.mark.parametrize("path", KINDS, ids=lambda path: path.stem)
def test_every_kind_has_captions_with_rewrites(path):
    rows = _rows(path)
    assert all(set(row) == {"kind", "caption", "rewrites"} for row in rows)
    captions = Counter(row["kind"] for row in rows)
    assert {kind: n for kind, n in captions.items() if n < 3} == {}
    assert [row["caption"] for row in rows if len(row["rewrites"]) < 8] == []


def test_every_recording_has_captions_of_its_kind(shared, rows):
    names = json.loads((SOUNDS / "kinds.json").read_text("utf-8"))["names"]
    tables = [shared / "audio" / "kinds.csv", shared / "audio" / "esc10" / "esc10.csv"]
    read = [csv.DictReader(path.read_text("utf-8").splitlines()) for path in tables]
    asked = {names.get(row["label"], row["label"]) for table in read for row in table}
    assert asked - {row["kind"] for row in rows} == set()


def test_speech_is_speech_in_its_language_at_most(rows):
    spoken = [text for row in rows if row["kind"].startswith("speech") for text in _texts(row)]
    who = r"\b(wom[ae]n|m[ae]n|(fe)?male|girl|boy|child(ren)?|young|old|elderly|s?he|his|her)\b"
    assert len(spoken) >= 12 * 9
    assert [text for text in spoken if re.search(who, text, re.IGNORECASE)] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_rewrites_pass_the_checks(path):
    report = checks.check_manifest(path)
    assert report.texts == sum(len(row["rewrites"]) for row in _rows(path))
    assert [str(flagged) for flagged in report.flagged] == []


def test_captions_can_be_read_and_are_of_the_length_of_captions(rows):
    found = [
        f"{row['caption']}: {finding}"
        for row in rows
        for finding in check_form(row["caption"], "rewrite")
    ]
    assert found == []
    odd = [row["caption"] for row in rows if not 6 <= len(row["caption"].split()) <= 18]
    assert odd == []


def test_no_text_repeats_another_within_or_across_kinds(rows):
    texts = [text for row in rows for text in _texts(row)]
    assert [
        f"{texts[i]!r} {how} {texts[j]!r}" for i, (j, how) in find_duplicates(texts).items()
    ] == []


def test_no_runs_of_words_recur_like_a_template(rows):
    runs = Counter()
    texts = [text for row in rows for text in _texts(row)]
    for text in texts:
        words = text.lower().replace(",", "").split()
        runs.update({tuple(words[i : i + 4]) for i in range(len(words) - 3)})
    most = max(10, 0.01 * len(texts))
    assert {" ".join(run): n for run, n in runs.items() if n > most} == {}


def test_nothing_is_overused(rows):
    texts = defaultdict(list)
    for row in rows:
        texts[row["kind"]] += _texts(row)
    found = checks.distribution.measure_distribution(texts)
    assert [name for name, share in found.openings if share > 0.04] == []
    assert [name for name, share in found.qualities if share > 0.08] == []
