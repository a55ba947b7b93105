"""Asking until there is enough: what is asked again, and what is not."""

import json

import pytest

from reclap.checks import Finding
from reclap.llm import Message, Reply, RequestError
from reclap.llm.cache import Cache
from reclap.llm.collect import Sampling, collect
from reclap.llm.session import Session
from reclap.llm.step import Step


class Model:
    """A model that says what its script says next, and keeps what it was asked."""

    name, small = "m", False

    def __init__(self, *replies):
        self.replies = list(replies)
        self.requests = []

    def complete(self, request):
        self.requests.append(request)
        reply = self.replies.pop(0) if self.replies else [f"text {len(self.requests)}"]
        if isinstance(reply, Exception):
            raise reply
        return Reply(reply if isinstance(reply, str) else json.dumps(reply), 1, 1, True, "d")


def step(text, count=1):
    return Step(count, lambda missing, present: (Message("user", f"{text} {missing}"),))


def take_all(text, present):
    return [Finding("bad", "no")] if text.startswith("bad") else []


@pytest.fixture
def ask(tmp_path):
    def run(model, steps, criterion=take_all, **sampling):
        with Session(model, Cache(tmp_path / "c")) as llm:
            found = collect(llm, steps, criterion, Sampling(**sampling))
            return found, llm.faults.counts()

    return run


def attempts(model):
    return [request.attempt for request in model.requests]


def test_equal_steps_are_asked_as_different_attempts(ask):
    """Otherwise the cache would answer the second with what the first has brought."""
    model = Model()
    found, _ = ask(model, [step("a"), step("a"), step("b"), step("a")], attempts=4)
    assert attempts(model) == [0, 4, 0, 8]
    assert [x.text for x in found.accepted] == ["text 1", "text 2", "text 3", "text 4"]
    assert [x.origin["attempt"] for x in found.accepted] == [0, 0, 0, 0]


def test_what_is_missing_is_asked_again_up_to_the_attempts(ask):
    model = Model(["good one", "bad one"], "no JSON", ["bad two"])
    found, faults = ask(model, [step("a", 2)], attempts=3)
    assert attempts(model) == [0, 1, 2]
    assert [r.messages[0].content for r in model.requests] == ["a 2", "a 1", "a 1"]
    assert ([x.text for x in found.accepted], found.missing) == (["good one"], 1)
    assert [x.text for x in found.rejected] == ["bad one", "bad two"]
    assert faults == {"bad": 2, "invalid JSON": 1}


def test_texts_too_many_are_left(ask):
    found, faults = ask(Model(["x", "y", "z"]), [step("a", 2)])
    assert ([x.text for x in found.accepted], faults) == (["x", "y"], {"wrong count": 1})


def test_a_request_that_fails_ends_the_steps(ask):
    model = Model(["x"], RequestError("HTTP 413", "too large"))
    found, _ = ask(model, [step("a"), step("b"), step("c")])
    assert (found.missing, found.failure) == (2, "HTTP 413: too large")
    assert len(model.requests) == 2
