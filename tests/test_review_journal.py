"""What of a review survives kills, full disks, and others who change its file."""

import contextlib
import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import reviews
from reviews import NEVER, journal, leave, session_of

from reclap.errors import FormatError, ReclapError
from reclap.prompts.bank import PromptBank
from reclap.review import session as session_module
from reclap.review.documents import open_document
from reclap.review.journal import digest


@pytest.fixture
def bank(tmp_path):
    path = tmp_path / "bank.json"
    reviews.bank().save(path)
    return path


def statuses(path):
    return [item.prompt.status[0] for item in open_document(path).items]


def old_journal(path, *lines):
    """Write the journal of an earlier version."""
    old = path.with_name(f"{path.name}.journal")
    first = f'{{"format": "reclap-review-1", "saved": "{digest(path)}", "steps": 0}}'
    old.write_text("".join(f"{line}\n" for line in (first, *lines)))
    return old


def test_undo_reaches_back_into_earlier_sittings(bank):
    session = session_of(bank)
    session.decide([0], "accepted", 0)
    session.edit(1, "A hound bays.", 1)
    session.close()
    session = session_of(bank)
    assert session.revision == 2
    assert session.undo(2).changed == [1]
    assert session.undo(3).changed == [0]
    session.close()
    assert PromptBank.load(bank) == reviews.bank()
    session = session_of(bank)
    assert session.redo(4).changed == [0]
    session.close()
    assert statuses(bank) == list("annnnnnn")


def test_decisions_survive_a_kill_before_the_bank_is_written(bank):
    code = (
        "import sys, os, signal\n"
        "from pathlib import Path\n"
        "from reclap.review import session\n"
        "from reclap.review.documents import open_document\n"
        "s = session.Session(open_document(Path(sys.argv[1])), pause=1000)\n"
        "s.decide([0, 4], 'rejected', 0)\n"
        "s.decide([1], 'accepted', 1)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(bank)], check=False)  # noqa: S603
    assert run.returncode == -signal.SIGKILL
    assert statuses(bank) == ["n"] * 8
    session = session_of(bank)
    assert session.revision == 2
    assert session.undo(2).changed == [1]
    session.close()
    assert statuses(bank) == list("rnnnrnnn")


@pytest.mark.parametrize("moment", ["before the name changes", "after it"])
def test_decisions_survive_a_stop_around_the_writing_of_the_bank(bank, monkeypatch, moment):
    class Killed(BaseException):
        pass

    def stop(*_):
        raise Killed

    session = session_of(bank, pause=NEVER)
    session.decide([0], "accepted", 0)
    if moment == "after it":
        monkeypatch.setattr(session._journal, "mark_saved", stop)
    else:
        monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(Killed):
        session.close()
    monkeypatch.undo()
    session = session_of(bank)
    assert (session.revision, session.items[0].prompt.status) == (1, "accepted")
    session.decide([1], "rejected", 1)
    session.close()
    assert statuses(bank) == list("arnnnnnn")


def test_a_bank_changed_by_others_starts_a_new_journal(bank):
    session = session_of(bank)
    session.decide([0], "accepted", 0)
    session.close()
    reviews.bank().save(bank)  # an older state put back
    session = session_of(bank)
    assert (session.revision, session.can_undo) == (0, False)
    session.close()
    assert statuses(bank) == ["n"] * 8


def test_decisions_that_a_kill_left_in_the_bank_do_not_wait(bank, monkeypatch):
    """What was killed between writing the bank and marking it has lost nothing to wait for."""
    session = session_of(bank, pause=NEVER)
    session.edit(0, "A hound bays.", 0)
    with monkeypatch.context() as patch:
        patch.setattr(session._journal, "mark_saved", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            session._save()
    leave(session)
    session_of(bank, pause=NEVER).close()
    reviews.bank().replace(name="theirs").save(bank)
    assert session_of(bank, pause=NEVER).revision == 0


def test_a_bank_changed_by_others_while_decisions_wait_is_refused(bank):
    session = session_of(bank, pause=NEVER)
    session.decide([0], "accepted", 0)
    leave(session)
    reviews.bank().replace(name="other").save(bank)
    with pytest.raises(ReclapError, match="changed by something else"):
        session_of(bank)


def test_a_bank_changed_by_others_during_the_review_is_not_overwritten(bank):
    session = session_of(bank, pause=NEVER)
    session.decide([0], "accepted", 0)
    reviews.bank().replace(name="other").save(bank)
    with pytest.raises(ReclapError, match="changed by something else during the review"):
        session.close()
    assert PromptBank.load(bank).name == "other"
    with pytest.raises(ReclapError, match="put the former file back"):
        session_of(bank)
    reviews.bank().save(bank)
    session = session_of(bank)
    session.close()
    assert statuses(bank)[0] == "a"


def test_a_second_review_of_the_same_file_is_refused(bank):
    review = session_of(bank)
    with pytest.raises(ReclapError, match="another review of this file is open"):
        session_of(bank)
    review.close()


def test_a_file_changed_while_it_is_opened_is_refused(bank):
    document = open_document(bank)
    reviews.bank().replace(name="other").save(bank)
    with pytest.raises(ReclapError, match="changed while it was opened"):
        session_module.Session(document)


def test_a_second_process_is_refused_until_the_first_is_killed(bank):
    code = (
        "import sys\n"
        "from reclap.review import session\n"
        "from reclap.review.documents import open_document\n"
        "s = session.Session(open_document(sys.argv[1]), pause=1000)\n"
        "s.decide([0], 'accepted', 0)\n"
        "print('open', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", code, str(bank)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(ReclapError, match="another review of this file is open"):
            session_of(bank)
        other.kill()
    session = session_of(bank)
    assert session.items[0].prompt.status == "accepted"
    session.close()


def test_journal_is_as_documented(bank):
    session = session_of(bank, pause=NEVER)
    session.decide([0], "accepted", 0)
    session.undo(1)
    session.redo(2)
    connection = session._journal._records._connection
    (level,) = connection.execute("PRAGMA synchronous").fetchone()
    assert level == 3  # every decision is on disk before it counts
    leave(session)
    with contextlib.closing(sqlite3.connect(journal(bank))) as connection:
        steps = [json.loads(text) for (text,) in connection.execute("SELECT content FROM steps")]
    change = [0, {"status": "new"}, {"status": "accepted"}]
    assert steps == [{"do": [change]}, {"undo": True}, {"redo": True}]


def test_a_new_journal_has_all_of_its_decisions_to_come(bank):
    """After another file has taken the place of the one that was reviewed."""
    session = session_of(bank)
    session.decide([0], "accepted", 0)
    session.close()
    reviews.bank().replace(name="theirs").save(bank)
    session = session_of(bank, pause=NEVER)
    session.decide([1], "rejected", 0)
    leave(session)
    session_of(bank).close()
    assert statuses(bank) == list("nrnnnnnn")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nonsense", "not JSON"),
        ("[]", "expected an object with one of do"),
        ('{"do": [[99, {}, {"status": "accepted"}]]}', "does not fit"),
        ('{"do": [[0, {}, {"status": 3}]]}', "does not fit"),
        ('{"do": 3}', "does not fit"),
        ('{"undo": true}', "does not fit"),
    ],
)
def test_a_damaged_step_is_named(bank, content, message):
    session_of(bank).close()
    with contextlib.closing(sqlite3.connect(journal(bank))) as connection, connection:
        connection.execute("INSERT INTO steps (content) VALUES (?)", (content,))
    with pytest.raises(FormatError, match=message) as caught:
        session_of(bank)
    assert str(journal(bank)) in str(caught.value)


def test_a_damaged_journal_is_named(bank):
    session = session_of(bank)
    session.edit(0, "x " * 900, 0)
    session.close()
    data = bytearray(journal(bank).read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    journal(bank).write_bytes(data)
    with pytest.raises(FormatError, match="journal of a review") as caught:
        session_of(bank)
    assert str(journal(bank)) in str(caught.value)


@pytest.mark.parametrize("content", ["another file", '{"do": []}\n'])
def test_another_file_of_the_journals_name_is_left_alone(bank, content):
    journal(bank).write_text(content * 100)
    with pytest.raises(FormatError, match="no journal of a review"):
        session_of(bank)
    assert journal(bank).read_text() == content * 100


def test_a_full_disk_refuses_the_decision_and_leaves_the_journal_whole(bank):
    session = session_of(bank)
    connection = session._journal._records._connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")  # the disk is full
    with pytest.raises(OSError, match="No space left") as caught:
        session.edit(0, "\N{BELL}" * 1900, 0)
    assert caught.value.filename == str(journal(bank))
    assert (session.revision, session.items[0].prompt.text) == (0, "A short, gruff burst.")
    connection.execute(f"PRAGMA max_page_count = {pages + 100}")
    session.decide([1], "accepted", 0)
    session.close()
    assert statuses(bank) == list("nannnnnn")
    session = session_of(bank)
    assert session.revision == 1
    session.close()


def test_a_decision_after_the_end_of_a_review_is_refused(bank):
    session = session_of(bank)
    session.close()
    with pytest.raises(ReclapError, match="has ended"):
        session.decide([0], "accepted", 0)


# ---- Journals of earlier versions ----------------------------------------------------------------


def test_a_journal_of_lines_is_taken_over(bank):
    accept = '{"do": [[0, {"status": "new"}, {"status": "accepted"}]]}'
    reject = '{"do": [[1, {"status": "new"}, {"status": "rejected"}]]}'
    old = old_journal(bank, accept, '{"undo": true}', reject, '{"do": [[5, {"sta')
    old.write_text(old.read_text()[:-1])  # what a kill in the middle of a line leaves
    session = session_of(bank, pause=NEVER)
    assert (session.revision, session.can_undo, session.can_redo) == (3, True, False)
    assert not old.exists()
    leave(session)
    for revision in (3, 4):  # the third opening finds what the second one left
        session = session_of(bank, pause=NEVER)
        assert session.revision == revision
        session.decide([2 + revision], "accepted", revision)
        leave(session)
    session_of(bank).close()
    assert statuses(bank) == list("nrnnnaan")


def test_a_kill_while_a_journal_of_lines_is_taken_over_loses_nothing(bank, monkeypatch):
    accept = '{"do": [[0, {"status": "new"}, {"status": "accepted"}]]}'
    old = old_journal(bank, accept)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_: (_ for _ in ()).throw(PermissionError()))
        session = session_of(bank, pause=NEVER)
        session.decide([1], "accepted", 1)
        leave(session)
    assert old.exists()
    session = session_of(bank)
    assert session.revision == 2
    assert not old.exists()
    session.close()
    old_journal(bank, accept)  # by an earlier version, meanwhile
    with pytest.raises(ReclapError, match=r"another journal .* delete one"):
        session_of(bank)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "not JSON"),
        ("[]", "expected an object with one of do"),
        ('{"saving": "x"}', "steps is None"),
    ],
)
def test_a_damaged_journal_of_lines_is_named_and_kept(bank, line, message):
    old = old_journal(bank, line)
    before = old.read_bytes()
    for _ in range(2):
        with pytest.raises(FormatError, match=message) as caught:
            session_of(bank)
        assert f"{old}:2" in str(caught.value)
    assert old.read_bytes() == before


def test_another_file_of_the_old_journals_name_is_left_alone(bank):
    old = bank.with_name("bank.json.journal")
    old.write_text('{"do": []}\n')
    with pytest.raises(FormatError, match='format is None, expected "reclap-review-1"'):
        session_of(bank)
    assert old.read_text() == '{"do": []}\n'


# ---- Writing the file ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "b"), "b: No space left on device"),
        (KeyError("inner"), "'inner'"),  # a fault of ours
    ],
)
def test_a_bank_that_cannot_be_written_is_a_problem_to_show(bank, monkeypatch, error, problem):
    session = session_of(bank, pause=0.001)
    write = session.document.write

    def fail(*_):
        raise error

    monkeypatch.setattr(session.document, "write", fail)
    session.decide([0], "accepted", 0)
    while not session.problem:
        time.sleep(0.001)
    assert session.problem == problem
    assert session.decide([1], "rejected", 1).revision == 2
    monkeypatch.setattr(session.document, "write", write)
    session.close()
    assert statuses(bank)[:2] == ["a", "r"]


def test_a_review_that_ends_while_its_file_is_written_ends(bank, monkeypatch):
    session = session_of(bank, pause=0.0)
    write = session.document.write
    writing = threading.Event()

    def slow(*given):
        writing.set()
        while not session._is_closing:
            time.sleep(0.001)
        write(*given)

    monkeypatch.setattr(session.document, "write", slow)
    session.decide([0], "accepted", 0)
    writing.wait()
    session.decide([1], "rejected", 1)
    session.close()
    assert statuses(bank)[:2] == ["a", "r"]


def test_a_link_stays_a_link(bank, tmp_path):
    link = tmp_path / "link.json"
    link.symlink_to(bank)
    session = session_of(link)
    session.decide([0], "accepted", 0)
    session.close()
    assert link.is_symlink()
    assert statuses(bank)[0] == "a"
