"""Prompt banks: reading, writing, drawing, digests."""

import contextlib
import dataclasses
import hashlib
import json
import random
import re

import pytest

import reclap
from reclap.prompts.bank import Description, Entry, Prompt, PromptBank, sample


def bank_of(*prompts, status="new"):
    description = Description("a bark", prompts, status)
    return PromptBank("test", {"by": "me"}, {"dog": Entry("dog", "animal", (description,))})


FULL = bank_of(
    Prompt("Größe: a bark", "accepted", ("length: short",), {"request": "ab", "attempt": 2}),
    Prompt("a yelp", "rejected"),
    Prompt("a growl"),
)


def test_a_bank_is_public():
    assert reclap.PromptBank is PromptBank


def test_written_and_read_again_it_is_the_same(tmp_path):
    FULL.save(tmp_path / "bank.json")
    assert PromptBank.load(tmp_path / "bank.json") == FULL
    assert PromptBank.load(str(tmp_path / "bank.json")).digest == FULL.digest
    assert "Größe" in (tmp_path / "bank.json").read_text("utf-8")


def test_defaults_are_left_out_of_the_file():
    [description] = FULL.to_json()["labels"]["dog"]["descriptions"]
    assert description["prompts"][2] == {"text": "a growl"}
    assert set(description) == {"text", "prompts"}


def test_writing_is_stable(tmp_path):
    FULL.save(tmp_path / "a.json")
    PromptBank.load(tmp_path / "a.json").save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_rejected_prompts_are_not_used():
    assert FULL.prompts() == {"dog": ["Größe: a bark", "a growl"]}
    assert bank_of(Prompt("a bark"), status="rejected").prompts() == {"dog": []}


def test_digest_follows_prompts_in_use_and_nothing_else():
    same = bank_of(Prompt("Größe: a bark"), Prompt("a growl"))
    assert same.digest == FULL.digest == FULL.replace(name="other", made={}).digest
    others = [
        bank_of(Prompt("a growl"), Prompt("Größe: a bark")),
        bank_of(Prompt("Größe: a bark")),
        PromptBank("test", {}, {"cat": dataclasses.replace(FULL.entries["dog"], label="cat")}),
    ]
    assert len({FULL.digest, *(bank.digest for bank in others)}) == 4


def test_digest_tells_where_a_label_ends():
    a = PromptBank.from_prompts({"a": ["x", "b"], "c": ["y"]})
    b = PromptBank.from_prompts({"a": ["x"], "b": ["c", "y"]})
    assert a.digest != b.digest


def test_digest_stays_what_it_was():
    """It names kept embeddings: of texts beyond ASCII too."""
    bank = PromptBank.from_prompts({"Kuh": ["eine Kuh muht ä ö", "…"]})
    text = '[["Kuh", ["eine Kuh muht ä ö", "…"]]]'
    assert bank.digest == hashlib.sha256(text.encode()).hexdigest()


PLAIN = {"dog": [f"bark {i}" for i in range(9)], "rain": [f"drop {i}" for i in range(7)]}


def test_sample_draws_without_replacement():
    bank = PromptBank.from_prompts(PLAIN)
    for n in range(1, 8):
        drawn = bank.sample(n, seed=n)
        assert list(drawn) == ["dog", "rain"]
        for label, texts in drawn.items():
            assert len(set(texts)) == n
            assert set(texts) <= set(PLAIN[label])


def test_sample_is_a_function_of_seed_and_label():
    bank = PromptBank.from_prompts(PLAIN)
    assert bank.sample() == bank.sample(2, 0) == sample(bank.prompts())
    assert bank.select(["rain"]).sample(3, 5)["rain"] == bank.sample(3, 5)["rain"]
    assert bank.sample(4, 5)["dog"][:3] == bank.sample(3, 5)["dog"]
    assert len({tuple(bank.sample(2, seed)["dog"]) for seed in range(20)}) > 10


def test_each_prompt_is_drawn_about_equally_often():
    bank = PromptBank.from_prompts(PLAIN)
    drawn = [text for seed in range(900) for text in bank.sample(2, seed)["dog"]]
    counts = [drawn.count(text) for text in PLAIN["dog"]]
    assert max(abs(count - 200) for count in counts) < 60  # 4.8 standard deviations


def test_sample_refuses_what_is_not_there():
    with pytest.raises(ValueError, match="8 prompts of each label wanted, but 'rain' has 7"):
        PromptBank.from_prompts(PLAIN).sample(8)
    with pytest.raises(ValueError, match="0, expected at least 1"):
        PromptBank.from_prompts(PLAIN).sample(0)


def test_select_keeps_the_order_asked_for():
    bank = PromptBank.from_prompts(PLAIN, "plain", {"by": "me"})
    assert bank.select(["rain", "dog"]).labels == ("rain", "dog")
    with pytest.raises(KeyError, match="no label 'cat'"):
        bank.select(["cat"])


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ({}, "labels: expected at least one"),
        ({"dog": []}, r"labels\['dog'\]: expected at least one"),
        ({"dog": ["a", " "]}, r"labels\['dog'\]\[1\] is empty"),
        ({" ": ["a"]}, r"labels\[0\] is empty"),
    ],
)
def test_plain_prompts_are_checked(prompts, words):
    with pytest.raises(ValueError, match=words):
        PromptBank.from_prompts(prompts)


def test_descriptions_with_captions_are_a_bank():
    pairs = [("a gruff bark", ["a dog barks", "a hound barks"]), ("a yelp", ["a puppy yelps"])]
    bank = PromptBank.from_descriptions({"dog": pairs}, "yard", {"by": "me"}, "accepted")
    assert bank.prompts() == {"dog": ["a dog barks", "a hound barks", "a puppy yelps"]}
    assert [d.text for d in bank.entries["dog"].descriptions] == ["a gruff bark", "a yelp"]
    statuses = {p.status for p in bank.entries["dog"].in_use}
    assert statuses | {d.status for d in bank.entries["dog"].descriptions} == {"accepted"}


def test_an_entry_stands_under_its_label():
    with pytest.raises(ValueError, match="its label is 'cat'"):
        PromptBank("x", {}, {"dog": Entry("cat")})


def with_prompt(**prompt):
    data = json.loads(json.dumps(FULL.to_json()))
    data["labels"]["dog"]["descriptions"][0]["prompts"][0] = prompt
    return data


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], r'expected "format": "reclap-prompts-1", got \[\]'),
        ({"format": "reclap-prompts-2"}, "got 'reclap-prompts-2'"),
        ({"format": "reclap-prompts-1"}, "no name and no labels"),
        (FULL.to_json() | {"madde": {}}, "unknown field 'madde', known are format, name, made"),
        (FULL.to_json() | {"labels": []}, r"labels: expected an object, got \[\]"),
        (FULL.to_json() | {"labels": {}}, "labels: expected at least one"),
        (FULL.to_json() | {"labels": {"dog": 3}}, r"labels\['dog'\]: expected an object, got 3"),
        (with_prompt(text=3), r"labels\['dog'\].descriptions\[0\].prompts\[0\].text: expected a t"),
        (with_prompt(text=""), "'dog', description 1, prompts.0. is empty"),
        (with_prompt(), "'dog', description 1, prompts.0. is empty"),
        (
            with_prompt(text="a", status="good"),
            r"prompts\[0\]: status is 'good', expected one of new",
        ),
        (with_prompt(text="a", flags=[1]), r"prompts\[0\].flags: expected texts, got \[1\]"),
        (with_prompt(text="a", origin=[]), r"prompts\[0\].origin: expected an object, got \[\]"),
        (with_prompt(text="a\ud800"), "not valid Unicode"),
    ],
)
def test_a_damaged_file_is_named_with_the_place(tmp_path, data, words):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(data))
    with pytest.raises(reclap.FormatError, match=words) as caught:
        PromptBank.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("length", "cut"), [(58, ""), (59, "...")])
def test_bad_values_are_shown_up_to_sixty_characters(length, cut):
    data = FULL.to_json() | {"format": "x" * length}
    shown = f"'{'x' * length}'" if not cut else f"'{'x' * 56}..."
    with pytest.raises(reclap.FormatError, match=rf'"reclap-prompts-1", got {re.escape(shown)}$'):
        PromptBank.from_json(data)


@pytest.mark.parametrize(
    ("description", "words"),
    [
        (Description("a bark", status="good"), "'dog', description 2: status is 'good'"),
        (Description(" "), r"'dog', description 2, text\[0\] is empty"),
        (Description("", (Prompt("a", "good"),)), "'dog', description 2, prompt 1: status is 'g"),
        (Description("", (Prompt(" "),)), r"'dog', description 2, prompts\[0\] is empty"),
    ],
)
def test_a_bank_made_in_python_is_checked_too(description, words):
    entry = Entry("dog", "", (Description("a yelp"), description))
    with pytest.raises(ValueError, match=words):
        PromptBank("x", {}, {"dog": entry})
    with pytest.raises(ValueError, match="labels: expected at least one"):
        PromptBank("x", {}, {})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ('{"format": "reclap-prompts-1", "labels": {"a": {}, "a": {}}}', "'a' more than once"),
    ],
)
def test_text_that_is_no_bank(tmp_path, text, words):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(reclap.FormatError, match=words):
        PromptBank.load(tmp_path / "bad.json")


def test_plain_prompts_are_a_bank_named_after_their_file(tmp_path):
    (tmp_path / "two.json").write_text(json.dumps(PLAIN))
    assert PromptBank.load(tmp_path / "two.json") == PromptBank.from_prompts(PLAIN, "two")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"dog": "a bark"}, "expected a bank or"),
        ({"dog": []}, r"labels\['dog'\]: expected at least one"),
        ({"format": [" "]}, r"labels\['format'\]\[0\] is empty"),
        ({}, "labels: expected at least one"),
    ],
)
def test_plain_prompts_that_are_none(tmp_path, data, words):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(data))
    with pytest.raises(reclap.FormatError, match=words) as caught:
        PromptBank.load(path)
    assert str(path) in str(caught.value)


def test_damaged_bytes_are_refused_or_read(tmp_path):
    FULL.save(tmp_path / "good.json")
    good, path = (tmp_path / "good.json").read_bytes(), tmp_path / "bad.json"
    chance = random.Random(5)  # noqa: S311
    for _ in range(500):
        data = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(data))
            data[at : at + chance.randint(0, 3)] = chance.choice((b"", b'"', b"{", b"\xff", b"0"))
        path.write_bytes(data)
        with contextlib.suppress(reclap.FormatError):
            assert PromptBank.load(path).labels


def test_a_bank_that_is_not_there():
    with pytest.raises(FileNotFoundError, match="no prompt bank named or at 'esc5000'"):
        PromptBank.load("esc5000")
