"""Reviews: decisions, undo, asking again, what two reviewers do to each other."""

import time

import numpy as np
import pytest
import reviews
from reviews import session_of

from reclap.checks import Sense
from reclap.errors import FormatError, ReclapError
from reclap.prompts.bank import Prompt, PromptBank
from reclap.review.documents import open_document
from reclap.review.opening import open_review
from reclap.review.session import StaleError

PUPPY = 4  # the flagged caption's index


@pytest.fixture
def bank(tmp_path):
    path = tmp_path / "bank.json"
    reviews.bank().save(path)
    return path


@pytest.fixture
def review(bank):
    opened = session_of(bank)
    yield opened
    opened.close()


def statuses(path):
    return [item.prompt.status[0] for item in open_document(path).items]


def test_items_are_descriptions_each_before_its_captions(review):
    kinds = [(item.kind[0], item.label, item.parent) for item in review.items]
    assert kinds == [
        ("d", "dog", None), ("p", "dog", 0), ("p", "dog", 0), ("d", "dog", None),
        ("p", "dog", 3), ("d", "rain", None), ("p", "rain", 5), ("p", "rain", 5),
    ]  # fmt: skip
    assert review.items[0].definition == "the animal"


def test_prompts_without_a_description_are_items_of_their_own(tmp_path):
    path = tmp_path / "plain.json"
    PromptBank.from_prompts({"dog": ["a bark", "a yelp"]}).save(path)
    session = session_of(path)
    session.decide([1], "rejected", 0)
    session.close()
    assert [(item.kind, item.parent) for item in session.items] == [("prompt", None)] * 2
    assert PromptBank.load(path).prompts() == {"dog": ["a bark"]}


def test_flagged_items_come_first_and_decided_ones_last(review):
    assert review.queue()[0] == PUPPY
    review.decide([PUPPY, 0], "accepted", 0)
    assert review.queue() == [1, 2, 3, 5, 6, 7, 4, 0]
    assert review.counts() == {"new": 6, "accepted": 2, "flagged": 0}


def test_decisions_come_into_the_bank(bank):
    session = session_of(bank)
    session.decide([0, 1], "accepted", 0)
    session.decide([PUPPY], "rejected", 1)
    session.close()
    assert statuses(bank) == list("aannrnnn")
    saved = PromptBank.load(bank)
    assert saved.made == {"by": "a test"}
    assert "A puppy whines." not in saved.prompts()["dog"]
    assert saved.entries["dog"].descriptions[1].prompts[0].flags == ("label: fits 'rain'",)


def test_the_bank_is_written_a_moment_after_a_decision(bank):
    session = session_of(bank, pause=0.001)
    session.decide([0], "accepted", 0)
    while "a" not in statuses(bank):
        time.sleep(0.001)
    session.close()


def test_deciding_nothing_new_is_no_decision(review):
    review.decide([0], "accepted", 0)
    assert review.decide([0], "accepted", 1) == ([], 1)
    assert review.undo(1) == ([0], 2)
    assert review.undo(2) == ([], 2)


def test_an_edit_is_accepted_and_says_what_it_was(review):
    review.edit(1, "  A dog barks\n twice. ", 0)
    prompt = review.items[1].prompt
    assert (prompt.text, prompt.status) == ("A dog barks twice.", "accepted")
    assert prompt.origin["edited_from"] == "A dog barks."
    assert prompt.origin["by"] == "review"
    review.edit(1, "A dog barks thrice.", 1)
    assert review.items[1].prompt.origin["edited_from"] == "A dog barks."


def test_an_edit_that_changes_nothing_accepts(review):
    review.edit(1, "A dog barks.", 0)
    assert review.items[1].prompt == Prompt("A dog barks.", "accepted")


def test_an_edited_text_is_checked_beside_its_siblings(bank):
    seen = []

    def check(item, text, siblings):
        seen.append((item.label, text, siblings))
        return ("length: short",)

    session = session_of(bank, check=check)
    session.decide([2], "rejected", 0)
    session.edit(1, "Woof.", 1)
    session.close()
    assert seen == [("dog", "Woof.", ["A puppy whines."])]
    assert session.items[1].prompt.flags == ("length: short",)


@pytest.mark.parametrize("text", ["", " \n", "x" * 2001])
def test_an_edit_without_a_usable_text_is_refused(review, text):
    with pytest.raises(ValueError, match="expected 1 to 2000"):
        review.edit(1, text, 0)


def test_a_text_has_one_to_two_thousand_characters(review):
    review.edit(1, "x", 0)
    review.edit(1, " " + "x" * 2000, 1)
    assert len(review.items[1].prompt.text) == 2000


@pytest.mark.parametrize("index", [-1, 8])
def test_an_item_that_is_not_there_is_refused(review, index):
    with pytest.raises(ValueError, match="expected 0 to 7"):
        review.decide([index], "accepted", 0)


def test_a_status_that_is_none_is_refused(review):
    with pytest.raises(ValueError, match="expected new, accepted, rejected"):
        review.decide([0], "fine", 0)


def test_undo_and_redo_go_back_and_forth(review):
    review.decide([0, 1], "accepted", 0)
    review.edit(2, "Three barks.", 1)
    before = review.items[2]
    assert review.undo(2).changed == [2]
    assert review.items[2].prompt == Prompt("Two barks ring out.")
    assert review.redo(3).changed == [2]
    assert review.items[2] == before
    review.undo(4)
    review.undo(5)
    assert [item.prompt.status for item in review.items] == ["new"] * 8
    review.decide([7], "rejected", 6)
    assert review.redo(7).changed == []  # another way was taken


def test_a_reviewer_who_has_not_seen_the_last_decision_is_refused(review):
    review.decide([0], "accepted", 0)
    for act in (
        lambda: review.decide([1], "accepted", 0),
        lambda: review.edit(1, "x", 0),
        lambda: review.undo(0),
        lambda: review.redo(0),
    ):
        with pytest.raises(StaleError, match="elsewhere"):
            act()
    assert review.items[1].prompt.status == "new"


# ---- Asking again --------------------------------------------------------------------------------


def test_asking_again_puts_another_text_in_the_place(bank):
    asked = []

    def ask(item, about, taken):
        asked.append((item.kind, about, taken))
        return Prompt("A hound bays.", flags=("length: short",), origin={"attempt": 2})

    session = session_of(bank, ask=ask)
    session.ask_again(1, 0)
    session.close()
    taken = ["Two barks ring out.", "A puppy whines.", "A dog barks."]
    assert asked == [("prompt", "A short, gruff burst.", taken)]
    assert session.items[1].prompt == Prompt(
        "A hound bays.", "new", ("length: short",), {"attempt": 2}
    )
    session = session_of(bank)
    session.undo(1)
    session.close()
    assert PromptBank.load(bank).prompts()["dog"][0] == "A dog barks."


def test_asking_without_a_language_model_is_refused(review):
    assert not review.can_ask
    with pytest.raises(ReclapError, match="no language model"):
        review.ask_again(0, 0)


def test_an_answer_that_comes_after_a_decision_on_its_item_is_dropped(bank):
    def ask(item, about, taken):
        session.decide([1], "accepted", 0)
        return Prompt("late")

    session = session_of(bank, ask=ask)
    with pytest.raises(StaleError, match="while the language model was asked"):
        session.ask_again(1, 0)
    session.close()
    assert session.items[1].prompt == Prompt("A dog barks.", "accepted")


# ---- Other files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "x", "expected a prompt bank"),
        ("a.json", "{}", "expected at least one"),
        ("a.json", '{"format": "reclap-prompts-1", "name": "x", "labels": {"a": {}}}', "nothing"),
    ],
)
def test_what_cannot_be_reviewed_is_refused(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(FormatError, match=message):
        open_document(path)
    assert sorted(tmp_path.iterdir()) == [path]


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        open_document(tmp_path / "none.json")


@pytest.mark.slow
def test_a_bank_of_audiosets_size(tmp_path):
    path = tmp_path / "large.json"
    reviews.large_bank().save(path)
    session = session_of(path)
    assert len(session.items) == 527 * 5 * 11
    for n in range(50):
        session.decide([n], "accepted", n)
    session.decide(range(len(session.items)), "accepted", 50)
    session.close()
    assert set(statuses(path)) == {"a"}
    session = session_of(path)
    assert session.revision == 51
    session.close()


def decide_and_fail(review):
    review.session.decide([1], "rejected", 0)
    raise KeyError


def test_an_opened_review_saves_and_closes_whatever_happens(bank):
    sense = Sense(lambda texts: np.zeros((len(texts), 2), np.float32))
    with pytest.raises(KeyError), open_review(bank, sense=sense) as review:
        decide_and_fail(review)
    assert open_document(bank).items[1].prompt.status == "rejected"
    with open_review(open_document(bank), sense=sense) as review:  # the lock is free again
        assert not review.session.can_ask
        with pytest.raises(ReclapError), open_review(bank, sense=sense):
            pass
