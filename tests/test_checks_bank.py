"""Checks of whole banks and files, their report, and the labelled set."""

import json
import random
import sys
from pathlib import Path

import numpy as np
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
    (repeated,) = checked.entries["rain"].in_use
    assert any(flag.startswith("duplicate: shares 100%") for flag in repeated.flags)
    assert "of 'dog'" in " ".join(repeated.flags)
    assert bank.digest == checked.digest
    assert report.texts == 4


def test_repeats_within_a_label_name_the_text_alone():
    checked, _ = checks.check_bank(plain({"dog": [SEVERAL[0], SEVERAL[0]], "pug": [SEVERAL[0]]}))
    flags = [p.flags for entry in checked.entries.values() for p in entry.in_use]
    assert flags[:2] == [(), (f"duplicate: equals {SEVERAL[0]!r}",)]
    assert f"duplicate: equals {SEVERAL[0]!r} of 'dog'" in flags[2]


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


def plain(prompts):
    """Return a bank of prompts; a label may have none."""
    entries = {
        label: Entry(label, "", (Description("", tuple(map(Prompt, texts))),))
        for label, texts in prompts.items()
    }
    return PromptBank("plain", {}, entries)


def word(number):
    """Return a word that is in no list and has no inflection."""
    return "".join("q" + "abcdefghij"[int(digit)] for digit in str(number)) + "k"


SEVERAL = (
    "A dog barks hoarsely behind a fence.",
    "A hound bays at passing bicycles at dusk.",
    "A puppy whines for its supper.",
)


@pytest.mark.parametrize(
    ("counts", "found"),
    [
        ((2, 1, 0), [None, "1 prompts, most labels have 2", "0 prompts, most labels have 2"]),
        ((1, 1, 3), [None, None, None]),
        ((1, 3, 3), ["1 prompts, most labels have 3", None, None]),
        ((0, 0, 1), ["0 prompts, most labels have 0", "0 prompts, most labels have 0", None]),
    ],
)
def test_labels_have_as_many_prompts_as_most(counts, found):
    given = {f"dog {i}": [f"{text} {i}" for text in SEVERAL[:n]] for i, n in enumerate(counts)}
    _, report = checks.check_bank(plain(given))
    told = {x.where: x.findings[0].reason for x in report.flagged if x.kind == "label"}
    assert [told.get(label) for label in given] == found
    assert {x.where for x in report.fatal} == {label for label in given if not given[label]}


def test_descriptions_have_flags_of_their_own():
    dogs = (
        Description("A throaty bark", (Prompt(SEVERAL[0]),), flags=("length: of an earlier run",)),
        Description("A throaty bark", (Prompt(SEVERAL[1]),), "rejected", flags=("length: kept",)),
    )
    checked, report = checks.check_bank(PromptBank("x", {}, {"dog": Entry("dog", "", dogs)}))
    flags = [d.flags for d in checked.entries["dog"].descriptions]
    assert flags == [("length: 3 words, expected 4 to 60",), ("length: kept",)]
    assert [(x.where, x.kind, x.text) for x in report.flagged] == [
        ("dog", "description", "A throaty bark")
    ]
    assert report.texts == 2  # but what is rejected


def test_texts_of_a_bank_are_embedded_in_one_go():
    asked = []

    def embed(texts):
        asked.append(texts)
        return np.eye(16, dtype="f4")[[len(text) % 16 for text in texts]]

    given = {"dog": [*SEVERAL[:2], "собака лает во дворе"], "puppy": [SEVERAL[2]]}
    checks.check_bank(plain(given), checks.Sense(embed))
    assert asked[0] == list(SEVERAL)
    assert not set(SEVERAL) & {text for texts in asked[1:] for text in texts}


def test_report_reads_as_lines():
    given = {"dog": [SEVERAL[0], "A puppy barks in the"], "pug": ["Woof"]}
    _, report = checks.check_bank(plain(given))
    assert str(report).splitlines() == [
        "plain: 3 texts, 3 flagged, 2 of them unfit",
        "  structure: 1",
        "  unfinished: 1",
        "  length: 1",
        "pug: 'pug': structure: 1 prompts, most labels have 2",
        "dog: 'A puppy barks in the': unfinished: ends with 'the'",
        "pug: 'Woof': length: 1 words, expected 4 to 29",
        "most frequent words: bark 66.7%",
    ]
    data = report.to_json()
    assert (data["flagged"], data["fatal"], data["texts"]) == (3, 2, 3)
    (entry, _) = data["found"]["pug"]
    (finding,) = entry.pop("findings")
    assert entry == {"kind": "label", "text": "pug"}
    assert finding["fatal"] is False
    assert data["distribution"]["texts"] == 3
    again = checks.Report("x", 1, ()).to_json()
    assert again["distribution"] is None


def test_duplicates_are_found_in_many_texts(rng):
    texts = [" ".join(f"w{i:x}x" for i in row) for row in rng.integers(0, 3000, (5000, 12))]
    moved = texts[17].split()
    random.Random(3).shuffle(moved)  # noqa: S311
    texts += [texts[5], texts[9].upper(), " ".join(moved), f"{texts[20]} more"]
    found = find_duplicates(texts)
    assert {i: found[i][0] for i in range(5000, 5004)} == {5000: 5, 5001: 9, 5002: 17, 5003: 20}
    assert set(found) == set(range(5000, 5004))


def test_repeats_are_told_by_form_words_and_meaning():
    texts = [
        "a dog barks in a yard",
        "A dog barks in a yard!",
        "a dog barks in a yard",
        "rough loud dull hoarse bark",
        "rough loud dull hoarse bark whine",  # 5 of 6
        "rain rough loud dull hoarse",  # 4 of 6
        "wind blows over hills far",
        "wind blows over hills far away south",  # 5 of 7, and 0.96 by meaning
        "hail",
    ]
    meaning = np.eye(9, dtype="f4")
    meaning[7] = 0.96 * meaning[6] + 0.28 * meaning[7]
    meaning[8] = 0.95 * meaning[3]
    sense = checks.Sense(lambda asked: meaning[[texts.index(text) for text in asked]])
    words = {
        1: (0, "has the words of"),
        2: (0, "equals"),
        4: (3, "shares 83% of its words with"),
    }
    assert find_duplicates(texts) == words
    assert find_duplicates(texts, sense) == words | {7: (6, "means (0.96) the same as")}
    assert find_duplicates([], sense) == find_duplicates(["hail"], sense) == {}
    share = ["rough loud dull hoarse bark", "rough loud dull hoarse"]  # 4 of 5
    assert find_duplicates(share) == {1: (0, "shares 80% of its words with")}


def test_repeats_are_found_across_blocks():
    """Of rows of similarities that are in memory at once."""
    texts = [word(i) for i in range(1100)]
    rows = np.eye(1100, dtype="f4")
    for later, first in ((511, 0), (512, 511), (1023, 2), (1099, 1024)):
        rows[later] = rows[first]
    sense = checks.Sense(lambda asked: rows[[texts.index(text) for text in asked]])
    found = {i: j for i, (j, _) in find_duplicates(texts, sense).items()}
    assert found == {511: 0, 512: 0, 1023: 2, 1099: 1024}


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


def test_distribution_counts_texts():
    sea = ["a wave of the sea rolls far away", "a wave of the sea, far away", "the sea, away"]
    found = measure_distribution({"dog": ["a dog barks in a yard, a yard"] * 3, "sea_wave": sea})
    assert found.texts == 6
    half, third = 0.5, 0.3333
    assert dict(found.words) == {
        "away": half, "bark": half, "dog": half, "sea": half, "yard": half, "far": third,
        "wave": third,
    }  # fmt: skip
    assert found.words[0] == ("away", half)  # equal ones by name
    assert found.phrases == tuple(
        (phrase, half) for phrase in ("a dog barks", "a yard a", "dog barks in", "yard a yard")
    )
    assert found.openings == (("a dog", half), ("a wave", third))
    assert found.labels == {
        "dog": (("bark", 1.0), ("yard", 1.0)),
        "sea_wave": (("away", 1.0), ("far", 0.6667)),
    }
    assert found.overused == ()  # so few texts say nothing


@pytest.mark.parametrize(
    ("texts", "times", "overused"), [(50, 2, ()), (50, 3, ("muffl",)), (49, 3, ())]
)
def test_what_comes_back_too_often_is_named(texts, times, overused):
    given = [f"{word(i)} {'muffled' if i < times else 'plain'} {word(i)}" for i in range(texts)]
    assert measure_distribution({"x": given}).overused == overused


def test_lists_of_a_distribution_have_fifteen_items():
    words = sorted(word(i) for i in range(20))
    found = measure_distribution({"x": [" ".join(words)] * 2 + ["of the and"]})
    assert found.words == tuple((word, 0.6667) for word in words[:15])
    assert found.labels["x"] == found.words
    assert found.openings == ((f"{words[0]} {words[1]}", 0.6667),)


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
