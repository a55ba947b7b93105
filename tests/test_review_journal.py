"""What of a review survives kills, full disks, and others who change its file."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import reviews
from reviews import session_of

from reclap.errors import FormatError, ReclapError
from reclap.prompts.bank import PromptBank
from reclap.review import session as session_module
from reclap.review.documents import open_document


@pytest.fixture
def bank(tmp_path):
    path = tmp_path / "bank.json"
    reviews.bank().save(path)
    return path


def statuses(path):
    return [item.prompt.status[0] for item in open_document(path).items]


def journal(path):
    return path.with_name(f"{path.name}.journal")


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
        "session.PAUSE = 100\n"
        "s = session.Session(open_document(Path(sys.argv[1])))\n"
        "s.decide([0, 4], 'rejected', 0)\n"
        "s.decide([1], 'accepted', 1)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(bank)], check=False)  # noqa: S603
    assert run.returncode == -signal.SIGKILL
    assert statuses(bank) == ["n"] * 8
    with journal(bank).open("a") as f:
        f.write('{"do": [[5, {"sta')  # what a kill in the middle of a line leaves
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

    monkeypatch.setattr(session_module, "PAUSE", 1000)
    session = session_of(bank)
    session.decide([0], "accepted", 0)
    if moment == "after it":
        mark = session._mark
        monkeypatch.setattr(
            session, "_mark", lambda kind, *rest: mark(kind, *rest) if kind == "saving" else stop()
        )
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


def test_a_bank_changed_by_others_while_decisions_wait_is_refused(bank, monkeypatch):
    monkeypatch.setattr(session_module, "PAUSE", 1000)
    session = session_of(bank)
    session.decide([0], "accepted", 0)
    session._journal.close()  # as a kill leaves it
    reviews.bank().replace(name="other").save(bank)
    with pytest.raises(ReclapError, match="changed by something else"):
        session_of(bank)


def test_a_bank_changed_by_others_during_the_review_is_not_overwritten(bank, monkeypatch):
    monkeypatch.setattr(session_module, "PAUSE", 1000)
    session = session_of(bank)
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


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "not JSON"),
        ("[]", "expected an object with one of do"),
        ('{"saving": "x"}', "steps is None"),
        ('{"do": [[99, {}, {"status": "accepted"}]]}', "does not fit"),
        ('{"do": [[0, {}, {"status": 3}]]}', "does not fit"),
        ('{"do": 3}', "does not fit"),
        ('{"undo": true}', "does not fit"),
    ],
)
def test_a_damaged_journal_is_named(bank, line, message):
    session_of(bank).close()
    with journal(bank).open("a") as f:
        f.write(line + "\n")
    with pytest.raises(FormatError, match=message) as caught:
        session_of(bank)
    assert str(journal(bank)) in str(caught.value)


def test_another_file_of_the_journals_name_is_left_alone(bank):
    journal(bank).write_text('{"do": []}\n')
    with pytest.raises(FormatError, match='format is None, expected "reclap-review-1"'):
        session_of(bank)
    assert journal(bank).read_text() == '{"do": []}\n'


def test_a_full_disk_refuses_the_decision_and_leaves_the_journal_whole(bank, monkeypatch):
    session = session_of(bank)
    before = journal(bank).read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left") as caught:
            session.decide([0], "accepted", 0)
    assert caught.value.filename == str(journal(bank))
    assert journal(bank).read_bytes() == before
    assert session.items[0].prompt.status == "new"
    session.decide([0], "accepted", 0)
    session.close()
    assert statuses(bank)[0] == "a"


def test_a_bank_that_cannot_be_written_is_a_problem_to_show(bank, monkeypatch):
    monkeypatch.setattr(session_module, "PAUSE", 0.01)
    session = session_of(bank)
    write = session.document.write

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(bank))

    monkeypatch.setattr(session.document, "write", fail)
    session.decide([0], "accepted", 0)
    deadline = time.monotonic() + 20
    while not session.problem and time.monotonic() < deadline:
        time.sleep(0.01)
    assert session.problem == f"{bank}: No space left on device"
    monkeypatch.setattr(session.document, "write", write)
    session.close()
    assert statuses(bank)[0] == "a"


def test_a_link_stays_a_link(bank, tmp_path):
    link = tmp_path / "link.json"
    link.symlink_to(bank)
    session = session_of(link)
    session.decide([0], "accepted", 0)
    session.close()
    assert link.is_symlink()
    assert statuses(bank)[0] == "a"
