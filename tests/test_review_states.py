"""A review as a state machine: whatever happens, no decision that was taken is lost.

Beside the review runs an oracle of a few lines: lists of texts and statuses, one for each moment.
"""

import contextlib
import errno
import os
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import pytest
import reviews
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)
from hypothesis.stateful import run_state_machine_as_test as run
from reviews import NEVER, journal, leave, session_of

from reclap.errors import ReclapError
from reclap.review.documents import open_document
from reclap.review.session import StaleError

COUNT = 8  # items of the bank
PLACES = st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=3)
STATUS = st.sampled_from(["new", "accepted", "rejected"])
TEXTS = st.sampled_from(["A hound bays.", "Two barks ring out.", "x" * 1900, "ä\u2028 „b“ 🔔"])


FEW = settings(
    max_examples=8,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


class Killed(BaseException):
    """The end of the process."""


def seen(items):
    return [(item.prompt.text, item.prompt.status) for item in items]


class Review(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.bank = self.folder / "bank.json"
        reviews.bank().save(self.bank)
        self.session = session_of(self.bank, pause=NEVER)
        self.begin()

    def begin(self):
        """Let the oracle begin: the moments that undo goes back to, and those redo goes on to."""
        self.now = seen(self.session.items)
        self.past, self.future = [], []
        self.revision = 0
        self.saved = self.now  # what the file holds

    def teardown(self):
        with contextlib.suppress(OSError, ReclapError):
            self.session.close()
        shutil.rmtree(self.folder)

    def reopen(self):
        self.session = session_of(self.bank, pause=NEVER)

    def took(self, decision, after):
        """Follow a decision in the oracle."""
        if after == self.now:
            assert decision == ([], self.revision)
            return
        self.past.append(self.now)
        self.future.clear()
        self.now, self.revision = after, self.revision + 1
        assert decision.revision == self.revision

    # ---- What a reviewer does ----------------------------------------------------------------

    @rule(places=PLACES, status=STATUS)
    def decide(self, places, status):
        after = [(text, status if i in places else old) for i, (text, old) in enumerate(self.now)]
        self.took(self.session.decide(places, status, self.revision), after)

    @rule(index=st.integers(0, COUNT - 1), text=TEXTS)
    def edit(self, index, text):
        after = list(self.now)
        after[index] = (" ".join(text.split()), "accepted")
        self.took(self.session.edit(index, text, self.revision), after)

    @rule()
    def undo(self):
        decision = self.session.undo(self.revision)
        if self.past:
            self.future.append(self.now)
            self.now, self.revision = self.past.pop(), self.revision + 1
        assert decision.revision == self.revision

    @rule()
    def redo(self):
        decision = self.session.redo(self.revision)
        if self.future:
            self.past.append(self.now)
            self.now, self.revision = self.future.pop(), self.revision + 1
        assert decision.revision == self.revision

    @rule(behind=st.integers(1, 3))
    def decide_without_having_seen_the_last(self, behind):
        with pytest.raises(StaleError):
            self.session.decide([0], "accepted", self.revision - behind)

    # ---- What happens to it ------------------------------------------------------------------

    @rule()
    def save(self):
        self.session._save()
        self.saved = self.now
        assert seen(open_document(self.bank).items) == self.now

    @rule()
    def end_and_open_again(self):
        self.session.close()
        assert seen(open_document(self.bank).items) == self.now
        self.saved = self.now
        self.reopen()

    @rule()
    def kill_and_open_again(self):
        leave(self.session)
        self.reopen()

    @rule(moment=st.sampled_from(["write", "mark_saving", "replace", "mark_saved"]))
    def kill_while_saving(self, moment):
        index = {"write": self.session.document, "replace": Path}.get(moment, self.session._journal)
        with mock.patch.object(index, moment, side_effect=Killed), pytest.raises(Killed):
            self.session._save()
        if moment == "mark_saved":
            self.saved = self.now
        leave(self.session)
        self.reopen()

    @rule(is_in=st.booleans())
    def kill_while_deciding(self, is_in):
        """The decision is in the file or not; nobody was told either way."""
        append = self.session._journal.append

        def stop(step):
            if is_in:
                append(step)
            raise Killed

        after = [(text, "accepted") for text, _ in self.now]
        if after == self.now:
            return
        with mock.patch.object(self.session._journal, "append", stop), pytest.raises(Killed):
            self.session.decide(range(COUNT), "accepted", self.revision)
        leave(self.session)
        self.reopen()
        if is_in:
            self.past.append(self.now)
            self.future.clear()
            self.now, self.revision = after, self.revision + 1

    @rule(text=st.sampled_from(["🔔" * 1500, "ä" * 1999]))
    def decide_on_a_full_disk(self, text):
        connection = self.session._journal._records._connection
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        if free or self.now[0][0] == text:
            return
        (most,) = connection.execute("PRAGMA max_page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        try:
            after = [(text, "accepted"), *self.now[1:]]
            self.took(self.session.edit(0, text, self.revision), after)  # there was room
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017
            assert error.filename == str(journal(self.bank))  # noqa: PT017
        connection.execute(f"PRAGMA max_page_count = {most}")

    @rule()
    def save_on_a_full_disk(self):
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.bank))
        with (
            mock.patch.object(self.session.document, "write", side_effect=full),
            pytest.raises(OSError, match="No space left"),
        ):
            self.session._save()

    @rule()
    def a_second_process_comes(self):
        with pytest.raises(ReclapError, match="another review of this file is open"):
            session_of(self.bank)

    @precondition(lambda self: self.now == self.saved)
    @rule()
    def somebody_puts_another_file_there_between_two_sittings(self):
        self.session.close()
        bank = reviews.bank()
        bank.replace(name=f"other {self.revision}").save(self.bank)
        self.reopen()
        self.begin()

    @rule()
    def somebody_puts_another_file_there_for_a_while(self):
        """While decisions wait, nobody's work is thrown away."""
        leave(self.session)
        own = self.bank.read_bytes()
        reviews.bank().replace(name="theirs").save(self.bank)
        if self.now != self.saved:
            with pytest.raises(ReclapError, match="changed by something else"):
                session_of(self.bank)
            self.bank.write_bytes(own)
            self.reopen()
        else:
            self.bank.write_bytes(own)
            self.reopen()

    # ---- What always holds -------------------------------------------------------------------

    @invariant()
    def the_review_shows_what_was_decided(self):
        assert seen(self.session.items) == self.now
        assert self.session.revision == self.revision
        assert (self.session.can_undo, self.session.can_redo) == (
            bool(self.past),
            bool(self.future),
        )

    @invariant()
    def the_file_is_whole(self):
        assert seen(open_document(self.bank).items) == self.saved
        names = {path.name for path in self.folder.iterdir()}
        assert names <= {"bank.json", "bank.json.review", "bank.json.review-journal"}


def test_no_decision_is_ever_lost():
    run(Review, settings=settings(FEW, derandomize=True))


@pytest.mark.slow
def test_no_decision_is_ever_lost_in_many_reviews():
    run(Review, settings=settings(FEW, max_examples=25, stateful_step_count=25))
