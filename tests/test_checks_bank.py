"""Checks of whole banks and files, their report, and the labelled set."""

import json
import random
import sys
from pathlib import Path

import pytest

from reclap import checks
from reclap.checks.distribution import measure_distribution
from reclap.checks.duplicates import find_duplicates
from reclap.cli import main
from reclap.prompts.bank import Description, Entry, Prompt, PromptBank

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import eval_checks  # noqa: E402


@pytest.fixture
def bank():
    dog = Description(
        "A short, rough burst that starts abruptly.",
        (
            Prompt("A dog barks hoarsely behind a fence."),
            Prompt("A dog barks in the", flags=("length: of an earlier run", "person: too loud")),
            Prompt("A dog barks in", status="rejected", flags=("unfinished: ends with 'in'",)),
        ),
    )
    rain = Description("", (Prompt("Behind a fence, a dog barks hoarsely."),))
    entries = {"dog": Entry("dog", "", (dog,)), "rain": Entry("rain", "", (rain,))}
    return PromptBank("two", {}, entries)


def test_bank_gets_flags(bank):
    checked, report = checks.check_bank(bank)
    good, bad, rejected = checked.entries["dog"].descriptions[0].prompts
    assert good.flags == ()
    assert bad.flags == ("person: too loud", "unfinished: ends with 'the'")
    assert rejected.flags == ("unfinished: ends with 'in'",)
    (repeated,) = checked.entries["rain"].live
    assert any(flag.startswith("duplicate: shares 100%") for flag in repeated.flags)
    assert "of 'dog'" in " ".join(repeated.flags)
    assert bank.digest == checked.digest
    assert report.texts == 4


def test_report_counts_and_names(bank):
    _, report = checks.check_bank(bank)
    data = json.loads(json.dumps(report.to_json()))
    assert data["checks"] == report.by_check
    assert set(data["found"]) == {"dog", "rain"}
    assert data["fatal"] == len(report.fatal) > 0
    assert "unfinished: ends with 'the'" in str(report)


def test_label_without_prompts_is_reported(bank):
    entries = {**bank.entries, "wind": Entry("wind")}
    _, report = checks.check_bank(bank.replace(entries=entries))
    (wind,) = [item for item in report.flagged if item.where == "wind"]
    assert wind.is_fatal
    assert wind.findings[0].check == "structure"


def test_bank_without_descriptions_is_checked_by_meaning(mini):
    prompts = {"dog": ["a dog barks hoarsely"], "rain": ["a terrier yaps loudly"], "wind": ["42"]}
    sense = checks.Sense(mini.embed_text)
    _, report = checks.check_bank(PromptBank.from_prompts(prompts), sense)
    assert {item.where for item in report.flagged if item.kind == "prompt"} == {"rain", "wind"}


def test_duplicates_are_found_in_many_texts(rng):
    texts = [" ".join(f"w{i:x}x" for i in row) for row in rng.integers(0, 3000, (5000, 12))]
    moved = texts[17].split()
    random.Random(3).shuffle(moved)  # noqa: S311
    texts += [texts[5], texts[9].upper(), " ".join(moved), f"{texts[20]} more"]
    found = find_duplicates(texts)
    assert {i: found[i][0] for i in range(5000, 5004)} == {5000: 5, 5001: 9, 5002: 17, 5003: 20}
    assert set(found) == set(range(5000, 5004))


def test_meaning_finds_duplicates(mini):
    sense = checks.Sense(mini.embed_text)
    texts = ["a dog barks in the yard", "rain falls on a roof", "the dog is barking in the yard"]
    assert 2 in find_duplicates(texts, sense)


def test_distribution_names_what_comes_back():
    texts = {"dog": ["a dog barks in a yard"] * 30, "rain": ["rain on a roof far away"] * 40}
    found = measure_distribution(texts)
    assert dict(found.places) == {"roof": 0.5714, "yard": 0.4286}
    assert "yard" in found.overused
    assert dict(found.labels["dog"]) == {"bark": 1.0, "yard": 1.0}


def marked(path):
    return pytest.param(path.stem, marks=[pytest.mark.slow] if path.stat().st_size > 50_000 else [])


BANKS = [marked(path) for path in sorted(ROOT.glob("reclap/prompts/banks/*.json"))]


@pytest.mark.parametrize("name", BANKS)
def test_shipped_bank_is_fit(name, mini):
    bank = PromptBank.load(name)
    _, report = checks.check_bank(bank, checks.Sense(mini.embed_text))
    assert report.fatal == ()
    assert len(report.flagged) <= 0.04 * report.texts, str(report)


def test_command_judges_a_bank(bank, tmp_path, capsys):
    bank.save(tmp_path / "bank.json")
    out = tmp_path / "flagged.json"
    arguments = ["check", str(tmp_path / "bank.json"), "--no-sense", "-o", str(out), "--json"]
    assert main(arguments) == 1
    assert json.loads(capsys.readouterr().out)["name"] == "two"
    assert PromptBank.load(out).entries["dog"].descriptions[0].prompts[1].flags
    assert main(["check", "esc50", "--no-sense"]) == 0
    assert "esc50: " in capsys.readouterr().out


def test_command_judges_rewrites(tmp_path, capsys):
    row = {"path": "a.wav", "caption": "a dog barks", "rewrites": ["a hound woofs", "a cat meows"]}
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps(row) + "\n")
    assert main(["check", str(path)]) == 1
    assert "2 texts, 1 flagged" in capsys.readouterr().out
    assert main(["check", str(path), "-o", str(tmp_path / "x.json")]) == 2
    assert "--out" in capsys.readouterr().err


@pytest.fixture(scope="module")
def labelled():
    return eval_checks.items()


def test_labelled_set_is_large_and_names_every_defect(labelled):
    good = sum(not item["defect"] for item in labelled)
    assert good >= 250
    assert len(labelled) - good >= 250
    assert {item["defect"] for item in labelled} == {"", *checks.CHECKS}


@pytest.mark.parametrize("is_held_out", [False, True])
def test_checks_tell_good_from_bad(labelled, is_held_out, mini):
    these = [item for item in labelled if eval_checks.is_held_out(item) is is_held_out]
    rows = eval_checks.measure(these, checks.Sense(mini.embed_text))
    count, _, found, false = rows["all"]
    assert found / count >= 0.8
    assert found / (found + false) >= 0.9
    assert all(row[0] for row in rows.values())
    for name in ("garbled", "unrelated"):
        count, _, found, false = rows[name]
        assert count >= 30
        assert found / count >= 0.8
        assert false / len(these) <= 0.01
