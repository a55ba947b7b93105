"""Rewrites under review: what comes out of a manifest, and what goes back into it."""

import json

import pytest
import reviews
from reviews import session_of

from reclap.errors import FormatError
from reclap.io import manifest
from reclap.review.documents import open_document


def write(path, *rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def read(path):
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]


@pytest.fixture
def rows(tmp_path):
    return reviews.write_rewrites(tmp_path / "rows.jsonl")


def test_plain_prompts_are_reviewed_and_become_a_bank(tmp_path):
    path = tmp_path / "plain.json"
    path.write_text('{"dog": ["a bark", "a growl"], "rain": ["a hiss"]}')
    session = session_of(path)
    session.decide([1], "rejected", 0)
    session.close()
    assert reviews.PromptBank.load(path).prompts() == {"dog": ["a bark"], "rain": ["a hiss"]}
    assert [item.prompt.status for item in session_of(path).items] == ["new", "rejected", "new"]


def test_items_are_rewrites_with_their_caption_and_sound(rows):
    items = open_document(rows).items
    assert [(x.kind, x.label, x.prompt.text) for x in items] == [
        ("rewrite", "A dog barks", "A gruff bark."),
        ("rewrite", "A dog barks", "It yaps."),
        ("rewrite", "Rain falls", "A soft hiss."),
        ("rewrite", "Rain falls", "Drops patter."),
    ]
    assert items[0].sound == rows.parent / "a.wav"


def test_training_reads_what_is_not_rejected(rows):
    session = session_of(rows)
    session.decide([0], "rejected", 0)
    session.decide([2], "accepted", 1)
    session.edit(3, "Drops patter on a pane.", 2)
    session.close()
    found = manifest.read(rows, check_files=False)
    assert [row.captions[0].rewrites for row in found] == [
        ("It yaps.",),
        ("A soft hiss.", "Drops patter on a pane."),
    ]


def test_a_review_can_be_continued_and_taken_back(rows):
    before = read(rows)
    session = session_of(rows)
    session.decide([0, 1], "rejected", 0)
    session.close()
    assert read(rows)[0]["rewrites"] == []
    session = session_of(rows)
    assert [item.prompt.status for item in session.items] == ["rejected", "rejected", "new", "new"]
    session.undo(1)
    session.close()
    kept = [{k: v for k, v in row.items() if k != "review"} for row in read(rows)]
    assert kept == before


def test_looking_changes_nothing(rows):
    before = rows.read_bytes()
    session_of(rows).close()
    assert rows.read_bytes() == before


def test_rows_with_several_captions(tmp_path):
    captions = [
        {"caption": "A dog barks", "rewrites": ["A gruff bark.", "It yaps."]},
        {"caption": "A hound", "rewrites": []},
        {"caption": "A bark", "rewrites": ["One bark."]},
    ]
    path = write(tmp_path / "x.jsonl", {"path": "a.wav", "captions": captions, "fold": 3})
    session = session_of(path)
    session.decide([1], "rejected", 0)
    session.close()
    [row] = read(path)
    assert [c["rewrites"] for c in row["captions"]] == [["A gruff bark."], [], ["One bark."]]
    assert row["fold"] == 3
    assert [item.prompt.status for item in session_of(path).items] == ["new", "rejected", "new"]
    [found] = manifest.read(path, check_files=False)
    assert found.captions[0].rewrites == ("A gruff bark.",)


def test_rows_without_a_sound_and_without_rewrites_stay_as_they_are(tmp_path):
    plain = {"caption": "Rain", "note": "x"}
    other = {"caption": "Rain\u2028falls", "rewritten_captions": ["It\u2028pours hard."]}
    path = write(tmp_path / "x.jsonl", plain, other)
    session = session_of(path)
    assert [(x.label, x.sound) for x in session.items] == [("Rain\u2028falls", None)]
    session.decide([0], "accepted", 0)
    session.close()
    assert read(path) == [
        plain,
        other | {"review": [[{"text": "It\u2028pours hard.", "status": "accepted"}]]},
    ]


def test_doubts_of_the_rewriting_become_flags_and_move_to_the_review(tmp_path):
    row = {
        "caption": "A dog barks",
        "rewrites": ["A gruff bark rings out.", "Yap"],
        "rewrite_flags": {"A gruff bark rings out.": ["meaning: similarity 0.10"]},
    }
    path = write(tmp_path / "x.jsonl", row)
    session = session_of(path)
    first, second = (item.prompt.flags for item in session.items)
    assert first == ("meaning: similarity 0.10",)
    assert second[0].startswith("length: ")  # the checks look where nobody has
    session.decide([0], "accepted", 0)
    session.close()
    [row] = read(path)
    assert "rewrite_flags" not in row
    assert row["review"][0][0]["flags"] == ["meaning: similarity 0.10"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"review": 3}, "expected a list of 1 lists"),
        ({"review": [3]}, "expected a list of 1 lists"),
        ({"review": [[], []]}, "expected a list of 1 lists"),
        ({"review": [[3]]}, "expected an object"),
        ({"review": [[{"text": "a", "mood": 1}]]}, "unknown field 'mood'"),
        ({"review": [[{"text": "a", "status": "good"}]]}, "status is 'good', expected one of new"),
        ({"review": [[{"text": "b", "status": "new"}]]}, "differ from the rewrites"),
        ({"rewrite_flags": []}, "expected an object of lists"),
        ({"captions": "all.json#x"}, "expected a list"),
    ],
)
def test_a_row_that_does_not_hold_together_is_named(tmp_path, more, message):
    row = {"path": "a.wav", "caption": "A dog", "rewrites": ["a"], **more}
    path = write(tmp_path / "x.jsonl", row)
    with pytest.raises(FormatError, match=message) as caught:
        open_document(path)
    assert str(caught.value).startswith(f"{path}:1: ")


def test_a_manifest_without_rewrites_is_nothing_to_review(tmp_path):
    with pytest.raises(FormatError, match="nothing to review"):
        open_document(write(tmp_path / "x.jsonl", {"path": "a.wav", "caption": "A dog"}))


def test_what_people_read_stays_readable(tmp_path):
    path = write(tmp_path / "x.jsonl", {"caption": "Größe", "rewrites": ["Äste knarren im Wind."]})
    session = session_of(path)
    session.decide([0], "accepted", 0)
    session.close()
    text = path.read_text("utf-8")
    assert '"caption": "Größe"' in text
    assert text.count("Äste knarren im Wind.") == 2


def test_new_rewrites_are_checked_against_their_caption(tmp_path):
    row = {
        "caption": "A dog barks and rain falls",
        "rewrites": ["A dog barks and rain falls on the"],
    }
    row["rewrites"].append("A dog barks")
    (one, two) = open_document(write(tmp_path / "x.jsonl", row)).items
    assert one.prompt.flags == ("unfinished: ends with 'the'",)
    assert two.prompt.flags == ("lost: rain ('rain')",)
