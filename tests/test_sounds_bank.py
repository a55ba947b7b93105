"""The prompt bank of recipes/sounds: frozen, complete, checked, and apart from the captions."""

import csv
import hashlib
import json
import re
from itertools import pairwise
from pathlib import Path

import pytest

from reclap import checks
from reclap.prompts.bank import PromptBank

SOUNDS = Path(__file__).parents[1] / "recipes" / "sounds"
BANK = SOUNDS / "bank.json"


@pytest.fixture(scope="module")
def bank():
    return PromptBank.load(BANK)


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower().replace("'", "").replace("\u2019", ""))


def runs(text: str) -> set[tuple[str, ...]]:
    """Return the runs of four words of a text."""
    w = words(text)
    return set(zip(w, w[1:], w[2:], w[3:], strict=False))


def shared_runs(prompts, captions) -> dict[str, list[str]]:
    """Return the runs of four words that prompts share with captions, by prompt."""
    known = set().union(*map(runs, captions))
    both = {text: sorted(" ".join(run) for run in runs(text) & known) for text in prompts}
    return {text: found for text, found in both.items() if found}


def captions() -> list[str]:
    """Return all training captions and their rewrites."""
    rows = [
        json.loads(line)
        for path in sorted((SOUNDS / "captions").glob("*.jsonl"))
        for line in path.read_text("utf-8").splitlines()
    ]
    return [text for row in rows for text in (row["caption"], *row["rewrites"])]


def test_bank_is_frozen():
    digest, name = (SOUNDS / "bank.sha256").read_text("utf-8").split()
    assert name == BANK.name
    assert hashlib.sha256(BANK.read_bytes()).hexdigest() == digest


def test_bank_is_as_we_would_write_it(bank, tmp_path):
    bank.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == BANK.read_bytes()


def test_every_kind_has_an_entry(bank, shared):
    names = json.loads((SOUNDS / "kinds.json").read_text("utf-8"))["names"]
    lists = [shared / "audio" / name for name in ("kinds.csv", "esc10/esc10.csv")]
    if not all(path.is_file() for path in lists):
        pytest.skip("the shared test data has no kinds.csv")
    rows = [csv.DictReader(path.read_text("utf-8").splitlines()) for path in lists]
    labels = {row["label"] for table in rows for row in table}
    assert set(bank.labels) == {names.get(label, label) for label in labels}


def test_every_entry_has_three_properties_in_three_scenes(bank):
    assert bank.made["by"]
    for label, entry in bank.entries.items():
        assert [len(d.prompts) for d in entry.descriptions] == [3, 3, 3], label
        assert len(entry.in_use) == 9, label
        assert all(description.text for description in entry.descriptions), label


def test_every_prompt_is_one_sentence_of_eight_to_twenty_words(bank):
    for label, prompts in bank.prompts().items():
        for text in prompts:
            assert 8 <= len(words(text)) <= 20, (label, text)
            assert re.fullmatch(r"[A-Z][^.!?]*\.", text), (label, text)


def test_no_template(bank):
    """Labels do not share the beginnings of their sentences, and no label repeats its own."""
    prompts = bank.prompts()
    starts = [" ".join(words(text)[:3]) for group in prompts.values() for text in group]
    assert max(starts.count(start) for start in set(starts)) <= 4
    for label, group in prompts.items():
        first = sorted(" ".join(words(text)[:4]) for text in group)
        assert all(a != b for a, b in pairwise(first)), label


def test_checks_find_nothing(bank):
    _, report = checks.check_bank(bank, checks.load_sense())
    assert [str(flagged) for flagged in report.flagged] == []
    assert report.distribution.overused == ()


def test_a_shared_run_of_four_words_is_seen():
    prompt = "A dog's bark rings out over the wet yard."
    assert shared_runs([prompt], ["The bell rings out, over the hill."]) == {
        prompt: ["rings out over the"]
    }
    assert shared_runs([prompt], ["A dogs bark rings.", "Out over the wet."]) == {
        prompt: ["a dogs bark rings", "out over the wet"]
    }
    assert shared_runs([prompt], ["It rings out over a hill."]) == {}


def test_no_prompt_shares_four_words_in_a_row_with_a_caption(bank):
    texts = captions()
    if not texts:
        pytest.skip("recipes/sounds/captions has no captions yet")
    prompts = [text for group in bank.prompts().values() for text in group]
    found = shared_runs(prompts, texts)  # named without the captions, which stay unread
    assert found == {}
