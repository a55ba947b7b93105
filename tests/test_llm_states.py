"""Sessions with a language model as a state machine: nothing answered is asked again or lost.

Beside the session runs an oracle: the replies that are kept, what may still be sent, and what the
model must have been asked.
"""

import contextlib
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from hypothesis.stateful import run_state_machine_as_test as run
from llm_server import FakeClock

from reclap.llm import Message, Reply, Request, RequestError, StoppedError
from reclap.llm.cache import Cache
from reclap.llm.request import FORMS
from reclap.llm.session import Budget, Session

FEW = settings(
    max_examples=25,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TRIES = 9  # of one request, the first included
COST = 15  # tokens of a reply, as the model counts them
# From what a model does to the error that it raises.
FAULTS = {
    "busy": lambda: RequestError("HTTP 429", "slow down", again=True, wait=20.0),
    "broken": lambda: RequestError("HTTP 500", "oops", again=True),
    "form": lambda: RequestError("HTTP 400", "unknown field"),
    "too long": lambda: RequestError("HTTP 413", "too long"),
    "key": lambda: StoppedError("HTTP 401"),
    "fault of ours": lambda: KeyError("inner"),
}
SCRIPTS = st.lists(st.sampled_from(["busy", "broken", "form"]), max_size=11).flatmap(
    lambda begin: st.sampled_from(["ok", *FAULTS]).map(lambda end: [*begin, end])
)
NUMBERS = st.integers(0, 5)


def request(number):
    return Request((Message("user", f"say {number}"),), {"type": "object"}, max_tokens=50)


class Model:
    """Does what its script says, one request after the other; then answers well."""

    name, small = "m", False

    def __init__(self):
        self.script, self.forms, self.answers = [], [], 0

    def complete(self, asked):
        self.forms.append(asked.form)
        what = self.script.pop(0) if self.script else "ok"
        if what != "ok":
            raise FAULTS[what]()
        self.answers += 1
        return Reply(f"answer {self.answers}", COST - 5, 5, True, "d")


class Asking(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.model = Model()
        self.kept = {}  # replies by number of their request
        self.session = None

    @initialize(requests=st.none() | st.integers(1, 15), tokens=st.none() | st.integers(60, 400))
    def open(self, requests, tokens):
        self.cache = Cache(self.folder / "c")
        self.clock = FakeClock()
        self.session = Session(
            self.model, self.cache, budget=Budget(requests, tokens), clock=self.clock
        )
        self.requests, self.tokens, self.form = requests, tokens, 0
        self.stopped = False
        self.sent = self.used = self.cached = 0

    def teardown(self):
        if self.session is not None:
            self.session.close()
        shutil.rmtree(self.folder)

    # ---- The oracle --------------------------------------------------------------------------

    def expected(self, number, script):
        """Return what asking must come to, and the forms of reply that the model is asked for."""
        if number in self.kept:
            self.cached += 1
            return "cached", []
        form, tries, forms = self.form, 1, []
        for what in [*script, *["ok"] * 20]:
            if self.stopped:
                return "stopped", forms
            cost = request(number).prompt_tokens + 50
            if self.requests is not None and self.sent >= self.requests:
                return "stopped", forms
            if self.tokens is not None and self.used + cost > self.tokens:
                return "stopped", forms
            self.sent += 1
            forms.append(FORMS[form])
            if what == "ok":
                self.used += COST
                self.form = max(self.form, form)
                return "answered", forms
            if what == "form" and form + 1 < len(FORMS):
                form += 1
            elif what == "key":
                return "stopped", forms
            elif what == "fault of ours":
                return "fault", forms
            elif what in ("form", "too long") or tries == TRIES:
                return "refused", forms
            else:
                tries += 1
        raise AssertionError

    def ask(self, number, script):
        """Ask, compare with the oracle, return the reply or nothing."""
        self.model.script, self.model.forms = list(script), []
        outcome, forms = self.expected(number, script)
        errors = {"stopped": StoppedError, "refused": RequestError, "fault": KeyError}
        reply = None
        with pytest.raises(errors[outcome]) if outcome in errors else contextlib.nullcontext():
            reply = self.session.complete(request(number))
        assert self.model.forms == forms
        if outcome == "cached":
            assert reply == self.kept[number]
        return reply

    # ---- What happens ------------------------------------------------------------------------

    @rule(number=NUMBERS, script=SCRIPTS)
    def complete(self, number, script):
        reply = self.ask(number, script)
        if reply is not None:
            self.kept.setdefault(number, reply)

    @rule(number=NUMBERS)
    def another_process_is_faster(self, number):
        other = Cache(self.folder / "c")
        reply = other.put(request(number).digest("m"), Reply("theirs", 1, 1, True, "d"))
        other.close()
        assert reply == self.kept.setdefault(number, reply)

    @rule(number=NUMBERS)
    def the_disk_is_full(self, number):
        """A reply that cannot be kept is no reply: it is asked for again."""
        if number in self.kept:
            return
        connection = self.cache._records._connection
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (most,) = connection.execute("PRAGMA max_page_count").fetchone()
        long = Reply("x" * 9000, COST - 5, 5, True, "d")
        connection.execute(f"PRAGMA max_page_count = {pages}")
        try:
            with pytest.raises(OSError, match="No space left"):
                self.cache.put(request(number).digest("m"), long)
        finally:
            connection.execute(f"PRAGMA max_page_count = {most}")

    @rule()
    def stop(self):
        self.session.stop()
        self.stopped = True

    @rule(requests=st.none() | st.integers(1, 15))
    def kill_and_go_on(self, requests):
        self.cache._records._connection.close()  # nothing is told the session
        self.open(requests, None)

    @rule(number=NUMBERS)
    def replay(self, number):
        cache = Cache(self.folder / "c", must_exist=True)
        with Session(None, cache, name="m") as recorded:
            if number in self.kept:
                assert recorded.complete(request(number)) == self.kept[number]
            else:
                with pytest.raises(StoppedError, match="no recorded reply"):
                    recorded.complete(request(number))

    # ---- What always holds -------------------------------------------------------------------

    @invariant()
    def all_that_was_answered_is_kept(self):
        if self.session is None:
            return
        found = {n: self.cache.get(request(n).digest("m")) for n in range(6)}
        assert {n: reply for n, reply in found.items() if reply is not None} == self.kept

    @invariant()
    def counts_are_right(self):
        if self.session is None:
            return
        usage = self.session.usage.counts()
        assert usage.get("requests", 0) == self.sent
        assert usage.get("cached", 0) == self.cached
        assert usage.get("prompt tokens", 0) + usage.get("completion tokens", 0) == self.used
        assert self.requests is None or self.sent <= self.requests
        assert self.tokens is None or self.used <= self.tokens


def test_nothing_answered_is_lost():
    run(Asking, settings=settings(FEW, derandomize=True))


@pytest.mark.slow
def test_nothing_answered_is_lost_in_many_sessions():
    run(Asking, settings=settings(FEW, max_examples=200, stateful_step_count=30))
