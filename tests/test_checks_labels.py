"""Checks of texts about a label, beside its name, the other labels and each other."""

import numpy as np
import pytest
import reviews

from reclap import checks
from reclap.checks.labels import check_labels
from reclap.checks.similarity import Sense
from reclap.review.checking import Checker
from reclap.review.documents import Item


def names(findings):
    return {f.check for f in findings}


def fake_sense(rows):
    """Return a sense that knows the texts of a table, in two dimensions."""
    return Sense(lambda texts: np.array([rows[t] for t in texts], np.float32))


def test_text_that_fits_another_label_is_flagged():
    text = "A long, wavering note over rooftops"
    sense = fake_sense({text: (0.28, 0.96), "rooster": (1, 0), "siren": (0, 1)})
    (finding,) = checks.check_description(text, "rooster", others=["siren"], sense=sense)
    assert (finding.check, finding.fatal) == ("label", False)
    assert "'siren' (0.96)" in finding.reason
    assert "'rooster' (0.28)" in finding.reason


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("crane with a delicate feather in its beak", "crane"),
        ("dog bark with a giant dog that has gone mad", "dog bark"),
        ("an eagle on the edge of a cliff", "eagle"),
    ],
)
def test_description_without_a_word_about_sound_is_flagged(text, label):
    (finding,) = checks.check_description(text, label)
    assert (finding.check, finding.fatal) == ("unrelated", False)
    assert checks.check_description(f"{text}, in a shrill tone", label) == []


def test_label_says_nothing_of_its_own_sound():
    """A label of sound words does not make a description of it."""
    (finding,) = checks.check_description("dog bark with a long brown nose", "dog_bark")
    assert finding.check == "unrelated"


def test_prompt_about_something_else_is_flagged():
    far = "A basket of ripe apples on the table"
    assert names(checks.check_prompt(far, "bee")) == {"unrelated"}
    for near in ("A bee on a basket of ripe apples", "An insect on a basket", "A soft hum nearby"):
        assert checks.check_prompt(near, "bee") == []
    assert checks.check_prompt(far, "crisp", definition="an apple that somebody bites") == []


@pytest.mark.parametrize(("score", "expected"), [(0.11, {"unrelated"}), (0.13, set())])
def test_prompt_with_another_sound_needs_some_similarity(score, expected):
    text = "The professor explains a theory"
    sense = fake_sense({text: (score, 1 - score), "drum": (1, 0)})
    assert names(checks.check_prompt(text, "drum", sense=sense)) == expected


def test_rewrite_about_something_else_is_flagged():
    sense = fake_sense({"it barks": (1, 0), "it sings out": (0, 1)})
    assert "meaning" in names(checks.check_rewrite("it barks", "it sings out", sense=sense))


def test_sense_asks_for_each_text_once():
    asked = []

    def embed(texts):
        asked.extend(texts)
        return np.ones((len(texts), 1), np.float32)

    sense = Sense(embed, limit=3)
    sense.rows(["a", "b", "a"])
    assert sense.rows(["a", "c"]).shape == (2, 1)
    assert asked == ["a", "b", "c"]
    sense.rows(["b"])  # three are kept
    sense.rows(["a", "d"])  # a fourth text: all but those asked for are forgotten
    sense.rows(["a", "b"])
    assert asked == ["a", "b", "c", "d", "b"]


def test_siblings_are_compared():
    old = ["A dog barks behind a garden fence."]
    same = ("A dog barks behind a garden fence.", "a dog barks; behind a garden fence")
    moved = "Behind a garden fence, a dog barks."
    for text in (*same, moved):
        assert names(checks.check_prompt(text, "dog", siblings=old)) == {"duplicate"}
    other = "A hound bays at passing bicycles from a porch."
    assert checks.check_prompt(other, "dog", siblings=old) == []


# ---- Other labels --------------------------------------------------------------------------------


class Alike:
    """A sense by a table of pairs of texts; others have nothing in common."""

    def __init__(self, table):
        self._table = table

    def similarity(self, a, b):
        return np.array([[self._table.get((x, y), 0.0) for y in b] for x in a])


def about(text, label, others, table=None, kind="prompt", definition=""):
    """Return what is found in a text of a label beside others."""
    sense = None if table is None else Alike(table)
    ((*found,),) = check_labels(
        [text], label, kind, definition=definition, others=others, sense=sense
    )
    assert not any(f.fatal for f in found)
    return [str(f) for f in found]


@pytest.mark.parametrize(
    ("kind", "mine", "theirs", "is_flagged"),
    [
        ("prompt", 0.0, 0.15, False),
        ("prompt", 0.0, 0.16, True),
        ("prompt", 0.25, 0.390625, False),
        ("description", 0.0, 0.25, False),
        ("description", 0.0, 0.26, True),
    ],
)
def test_another_label_fits_better_by_a_margin(kind, mine, theirs, is_flagged):
    text = "a hum over rooftops"
    table = {(text, "siren"): mine, (text, "organ pipe"): theirs, (text, "tuba"): theirs / 2}
    found = about(text, "siren", ["tuba", "siren", "organ_pipe"], table, kind)
    found = [f for f in found if not f.startswith("unrelated")]
    reason = f"label: fits 'organ_pipe' ({theirs:.2f}) better than 'siren' ({mine:.2f})"
    assert found == ([reason] if is_flagged else [])


@pytest.mark.parametrize(("near", "is_flagged"), [(0.54, True), (0.55, False), (0.9, False)])
def test_labels_that_mean_the_same_do_not_compete(near, is_flagged):
    text = "a hum over rooftops"
    table = {(text, "bark"): 0.5, ("dog: the animal", "bark"): near}
    found = about(text, "dog", ["bark"], table, definition="the animal")
    assert bool(found) == is_flagged


def test_text_that_holds_the_words_of_its_label_fits_it():
    for label in ("gronk", "Quux, gronk", "gronk (quux)", "Gronks", "gronk_hum"):
        text = "a gronk hums over rooftops"
        assert about(text, label, ["siren"], {(text, "siren"): 0.9}) == []
    assert about("a gronk", "gronk", ["siren"], {("a gronk", "siren"): 0.9}) == []
    for label in ("gronk quux", "quux"):
        (found,) = about(text, label, ["siren"], {(text, "siren"): 0.9})
        assert found.startswith("label: fits 'siren' (0.90) better")
    # Nor is a label in question whose source is named by another word.
    text = "a hound hums over rooftops"
    assert about(text, "dog", ["siren"], {(text, "siren"): 0.9}) == []


@pytest.mark.parametrize(
    ("text", "label", "others", "found"),
    [
        ("a cat meows", "siren", ["rain", "siren", "cat"], "label: names 'cat', another label"),
        ("a cat meows", "siren", ["tom cat, kitten"], ""),  # not all words of a part
        ("a tom cat meows", "siren", ["kitten, tom cat"], "label: names 'kitten, tom cat', anoth"),
        (
            "a cat meows",
            "siren",
            ["cat (at_night)"],
            "label: names 'cat (at_night)', another label",
        ),
        ("a cat", "siren", ["cat"], "label: names 'cat', another label"),
        ("a cat meows", "animal", ["cat"], ""),  # kin
        ("an animal", "cat", ["animal"], ""),
        ("a cat meows", "gronk", ["cat"], ""),  # nobody knows what a gronk is
        ("a gronk hums", "siren", ["gronk"], ""),
        ("no cat hums", "siren", ["cat"], ""),
        ("a siren wails at a cat", "siren", ["cat"], ""),
    ],
)
def test_text_that_names_another_label_is_flagged(text, label, others, found):
    given = about(text, label, others)
    assert given[0].startswith(found) if found else given == []


@pytest.mark.parametrize(("mine", "theirs", "is_flagged"), [(0.5, 0.51, True), (0.5, 0.5, False)])
def test_text_that_names_both_labels_belongs_to_the_nearer(mine, theirs, is_flagged):
    text = "a siren wails at a cat"
    table = {(text, "siren"): mine, (text, "rain"): 0.9, (text, "cat"): theirs}
    found = about(text, "siren", ["rain", "cat"], table)
    assert found == ["label: names 'cat', another label"] * is_flagged


def test_similarity_with_the_label_counts_where_only_a_sound_is_named():
    text = "The professor explains a theory"
    table = {(text, "drum: a skin"): 0.119}
    (found,) = about(text, "drum", [], table, definition="a skin")
    assert found == "unrelated: says nothing of 'drum' (similarity 0.12)"
    assert about(text, "drum", [], {(text, "drum"): 0.12}) == []
    assert about("a drum of the professor", "drum", [], {}) == []


def test_what_a_person_writes_is_checked_as_what_it_is():
    """A description may be longer than a caption, and a rewrite has a caption beside it."""
    checker = Checker(["dog bark", "siren"], Sense(reviews.embed))
    long = " ".join(["A dog barks with a gruff voice of its own at the gate"] * 3)

    def found(kind, label, text, siblings=()):
        flags = checker.flags(Item(kind, label, None), text, siblings)
        return [flag.partition(":")[0] for flag in flags]

    assert "length" not in found("description", "dog bark", long)
    assert "length" in found("prompt", "dog bark", long)
    assert found("rewrite", "a dog barks and rain falls", "a dog barks") == ["lost"]
    assert found("prompt", "dog bark", "a hound barks at a gate") == []
    assert found("prompt", "dog bark", "a siren wails in the street") == ["label"]
    same = "a hound barks at a gate"
    assert found("prompt", "dog bark", same, [same]) == ["duplicate"]


def test_sense_keeps_many_texts():
    asked = []

    def embed(texts):
        asked.append(len(texts))
        return np.zeros((len(texts), 1), np.float32)

    sense = Sense(embed)
    texts = [str(n) for n in range(1 << 16)]
    sense.rows(texts)
    sense.rows(["0"])
    sense.rows(["one more"])
    sense.rows(["0"])
    assert asked == [1 << 16, 1, 1]
