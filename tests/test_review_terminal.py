"""Review in a terminal, and the command that starts a review."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import types
import urllib.request

import pytest
import reviews
from reviews import embed, session_of

from reclap.cli import main
from reclap.prompts.bank import Prompt, PromptBank
from reclap.review.api import Review
from reclap.review.documents import open_document
from reclap.review.neighbours import Near, Nearest, Neighbours
from reclap.review.terminal import Terminal


@pytest.fixture
def bank(tmp_path):
    path = tmp_path / "bank.json"
    reviews.bank().save(path)
    return path


def review(path, typed, **options):
    """Return what the reviewer sees, who types these lines."""
    session = session_of(path, **options)
    neighbours, out = Neighbours(session, embed), io.StringIO()
    patience = time.monotonic() + 60
    while neighbours.nearest(0).share < 1 and time.monotonic() < patience:
        time.sleep(0.01)  # texts are embedded behind the review
    Terminal(Review(session, neighbours, {}), io.StringIO(typed), out).run()
    session.close()
    return out.getvalue()


def statuses(path):
    return "".join(item.prompt.status[0] for item in open_document(path).items)


def test_the_flagged_item_comes_first_with_all_that_is_known(bank):
    shown = review(bank, "")
    first = shown[shown.index("[1 of 8") :]
    assert first.splitlines()[:6] == [
        "[1 of 8, undecided; 0 decided, 1 flagged to do]",
        "Caption for: dog",
        "  Definition: the animal",
        "  Description: A thin whine.",
        "  A puppy whines.",
        "  ! label: fits 'rain'",
    ]
    assert re.search(r"  nearest elsewhere \(\d\.\d\d\): rain: Rain", first)


def test_how_much_was_compared_is_told_until_it_is_all(bank):
    assert "compared so far" not in review(bank, "j\n")
    session = session_of(bank)
    out, found = io.StringIO(), Nearest(Near(6, 0.5), None, 0.254)
    near = types.SimpleNamespace(nearest=lambda place: found)
    Terminal(Review(session, near, {}), io.StringIO(), out).run()
    session.close()
    assert "  nearest elsewhere (0.50): rain: Rain hisses.\n" in out.getvalue()
    assert out.getvalue().endswith("  (25% of all texts compared so far)\n> ")


def test_keys_go_where_they_say(bank):
    """Places in the queue: first the flagged caption, then all others."""
    shown = review(bank, "k\nj\nj\nk\na\no\nr\ne\nA bay.\nu\n")
    at = [int(n) for n in re.findall(r"^\[(\d) of 8", shown, re.M)]
    assert at == [1, 1, 2, 3, 2, 3, 3, 4, 4, 4]


def test_keys_decide_and_go_on(bank):
    shown = review(bank, "a\nr\no\nj\nk\n\n?\nq\n")
    assert statuses(bank) == "rnnnannn"
    assert shown.count("accept, go on") == 2
    assert shown.endswith("> ")


def test_edit_undo_redo(bank):
    shown = review(bank, "e\nA pup cries.\nu\nU\nU\nj\ne\n\nq\n")
    assert "A pup cries." in PromptBank.load(bank).prompts()["dog"]
    assert "nothing more" in shown
    assert statuses(bank) == "nnnnannn"


def test_undo_goes_to_the_item(bank):
    shown = review(bank, "a\nj\nj\nu\n")
    assert shown[shown.rindex("[") :].startswith("[1 of 8, undecided")


def test_all_unflagged_are_accepted_after_a_question(bank):
    review(bank, "A\nn\nA\n\nq\n")
    assert statuses(bank) == "nnnnnnnn"
    shown = review(bank, "A\ny\n")
    assert "accept 7 undecided texts without flags?" in shown
    assert statuses(bank) == "aaaanaaa"


def test_the_ends_are_named(bank):
    shown = review(bank, "k\n" + "j\n" * 8)
    assert shown.count("This is the first one.") == shown.count("That was the last one.") == 1


def test_asking_again(bank):
    assert "no language model to ask" in review(bank, "g\n")
    shown = review(bank, "g\n", ask=lambda item, about, taken: Prompt("A pup yelps."))
    assert "A pup yelps." in shown
    assert "A pup yelps." in PromptBank.load(bank).prompts()["dog"]


def test_a_fault_does_not_end_the_review(bank):
    shown = review(bank, "e\n" + "x" * 2001 + "\na\n")
    assert "expected 1 to 2000" in shown
    assert statuses(bank) == "nnnnannn"


def test_texts_cannot_steer_the_terminal(tmp_path):
    path = tmp_path / "bank.json"
    reviews.hostile_bank().save(path)
    shown = review(path, "j\nj\n")
    assert not [c for c in shown if not c.isprintable() and c != "\n"]
    assert r"\u202egnp.exe\u2028 \x1b[31m" in shown


def test_rewrites_are_reviewed_too(tmp_path):
    path = reviews.write_rewrites(tmp_path / "rows.jsonl")
    shown = review(path, "a\nr\n")
    assert "Rewrite of: A dog barks" in shown
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    decided = [x.get("status", "new") for row in rows for group in row["review"] for x in group]
    assert sorted(decided) == ["accepted", "new", "new", "rejected"]


# ---- The command ---------------------------------------------------------------------------------


def test_the_command_reviews_in_the_terminal(bank, monkeypatch, capsys, small_folder):
    monkeypatch.setattr(sys, "stdin", io.StringIO("a\nr\n"))
    assert main(["review", str(bank), "--terminal", "--model", str(small_folder)]) == 0
    assert capsys.readouterr().out.endswith(f"{bank}: 1 accepted, 1 rejected, 6 undecided\n")
    assert statuses(bank) == "rnnnannn"


def test_the_command_ends_quietly_with_ctrl_c(bank, monkeypatch, capsys, small_folder):
    class Interrupted(io.StringIO):
        def readline(self, *_):
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", Interrupted())
    assert main(["review", str(bank), "--terminal", "--model", str(small_folder)]) == 0
    assert "8 undecided" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.json"], "No such file"),
        (["bank.json", "--clips", "none"], "No such file"),
        (["bank.json", "--clips", "."], "no clip of any label"),
        (["bank.json", "--model", "none"], "no model named"),
        (["bank.txt"], "expected a prompt bank"),
    ],
)
def test_the_command_names_what_is_wrong(bank, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(bank.parent)
    (bank.parent / "bank.txt").write_text("x")
    assert main(["review", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_port_in_use_is_named(bank, capsys, small_folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["review", str(bank), "--port", port, "--model", str(small_folder)]) == 2
    assert "in use" in capsys.readouterr().err


def test_the_command_serves_the_page_until_ctrl_c(bank, small_folder):
    command = [sys.executable, "-m", "reclap", "review", str(bank), "--model", str(small_folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as running:  # noqa: S603
        url = running.stdout.readline().removeprefix("Open ").strip()
        with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310
            assert b"<title>reclap review</title>" in answer.read()
        running.send_signal(signal.SIGINT)
        rest = running.stdout.read()
    assert running.returncode == 0
    assert rest.endswith("0 accepted, 0 rejected, 8 undecided\n")
