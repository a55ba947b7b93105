"""Session with a language model: cache, budget, retries and counts around its requests."""

import collections
import dataclasses
import logging
import random
import threading
import time
from types import TracebackType
from typing import Self

from reclap.llm.cache import Cache
from reclap.llm.request import (
    FORMS,
    NO_CONNECTION,
    LanguageModel,
    Reply,
    Request,
    RequestError,
    StoppedError,
)

__all__ = ["Budget", "Clock", "Session", "Tally"]

_log = logging.getLogger(__name__)

_RETRIES = 8
_FIRST_RETRIES = 2  # where nothing has ever answered
_LONGEST_WAIT = 30.0  # s, between two tries unless the server asks for more
_LONGEST_ASKED = 600.0  # s, that a server may ask to wait
_MAY_BE_FORM = ("HTTP 400", "HTTP 422")  # of a server that does not know this form of reply


class Tally:
    """Counts by name; several threads may add."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: collections.Counter[str] = collections.Counter()

    def add(self, name: str, amount: int = 1) -> None:
        """Add to a count."""
        with self._lock:
            self._counts[name] += amount

    def counts(self) -> dict[str, int]:
        """Return the counts by name, in the order of names."""
        with self._lock:
            return dict(sorted(self._counts.items()))


class Budget:
    """Budget of a run in requests and tokens.

    Parameters
    ----------
    max_requests : int, optional
        Requests that may be sent, repeated ones included.
    max_tokens : int, optional
        Tokens of prompts and replies together. A request is sent only if its estimated prompt
        and its longest reply still fit beside those in flight.

    Examples
    --------
    >>> budget = Budget(max_requests=1)
    >>> budget.claim(300)
    >>> budget.settle(300, used=120)
    >>> budget.claim(300)
    Traceback (most recent call last):
    reclap.llm.request.StoppedError: the budget of 1 requests is spent
    """

    def __init__(self, max_requests: int | None = None, max_tokens: int | None = None) -> None:
        self._max_requests = max_requests
        self._max_tokens = max_tokens
        self._lock = threading.Lock()
        self._requests = 0
        self._tokens = 0

    def claim(self, tokens: int) -> None:
        """Reserve a request and its tokens.

        Parameters
        ----------
        tokens : int
            Estimate for prompt and reply.

        Raises
        ------
        StoppedError
            If they exceed the budget.
        """
        with self._lock:
            if self._max_requests is not None and self._requests >= self._max_requests:
                raise StoppedError(f"the budget of {self._max_requests} requests is spent")
            if self._max_tokens is not None and self._tokens + tokens > self._max_tokens:
                raise StoppedError(
                    f"the budget of {self._max_tokens} tokens is spent: {self._tokens} used or set "
                    f"aside, {tokens} more wanted"
                )
            self._requests += 1
            self._tokens += tokens

    def settle(self, claimed: int, used: int) -> None:
        """Replace reserved tokens by those used.

        Parameters
        ----------
        claimed : int
            Tokens reserved by `claim`.
        used : int
            Tokens of the prompt and the reply.
        """
        with self._lock:
            self._tokens += used - claimed


class Clock:
    """Clock of a session."""

    def now(self) -> float:
        """Return monotonic seconds."""
        return time.monotonic()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Wait up to so many seconds; tell whether the event happened."""
        return event.wait(seconds)


class Session:
    """Session with a language model: replies are cached, requests budgeted and retried.

    Itself a `LanguageModel`; close it, or use it as a context.

    Parameters
    ----------
    model : LanguageModel, optional
        Answers what the cache does not; without it, only recorded replies are given.
    cache : Cache
        Replies so far.
    name : str
        Name of the model that gave the recorded replies, if `model` is not given.
    small : bool
        Whether that model is small, if `model` is not given.
    budget : Budget, optional
        Requests and tokens that may be used; unlimited by default.
    backoff : float
        Seconds before the first retry; doubled with each up to 30, times a random number from 0.5
        to 1 so that threads do not come back at one moment.
    clock : Clock, optional
        Source of time, and of waiting.

    Attributes
    ----------
    usage : Tally
        ``cached``, ``requests``, ``prompt tokens``, ``completion tokens`` as the model counts them.
    faults : Tally
        Faults by kind; whoever reads the replies adds those found in them.

    Examples
    --------
    >>> from reclap.llm import Cache, Message, Reply, Request
    >>> class Parrot:
    ...     name, small = "parrot", True
    ...     def complete(self, request):
    ...         return Reply(request.messages[-1].content, 3, 2, True, "2026-01-31T12:00:00Z")
    >>> with Session(Parrot(), Cache("replies.sqlite")) as llm:
    ...     request = Request((Message("user", "a dog barks"),), {})
    ...     replies = [llm.complete(request).text for _ in range(2)]
    ...     print(replies, llm.usage.counts()["cached"])
    ['a dog barks', 'a dog barks'] 1
    >>> llm.stop(), llm.abort(), llm.close()  # also at the end of the block
    (None, None, None)
    """

    def __init__(
        self,
        model: LanguageModel | None,
        cache: Cache,
        *,
        name: str = "",
        small: bool = False,
        budget: Budget | None = None,
        backoff: float = 0.5,
        clock: Clock | None = None,
    ) -> None:
        self._model = model
        self._cache = cache
        self._name = name if model is None else model.name
        self._small = small if model is None else model.small
        self._budget = Budget() if budget is None else budget
        self._backoff = backoff
        self._form = 0  # index in FORMS of the strictest that the server takes
        self._clock = Clock() if clock is None else clock
        self._resume_at = 0.0  # before which nothing is sent; shared by all threads
        self._stopped = threading.Event()
        self._is_there = self._has_told = False
        self.usage = Tally()
        self.faults = Tally()

    @property
    def name(self) -> str:
        """Name of the model."""
        return self._name

    @property
    def small(self) -> bool:
        """Whether the model wants examples and one property at a time."""
        return self._small

    def complete(self, request: Request) -> Reply:
        """Answer from the cache, or ask and keep the answer.

        Parameters
        ----------
        request : Request
            The request.

        Returns
        -------
        Reply
            The recorded reply, or a new one.

        Raises
        ------
        RequestError
            If it was refused, or not answered nine times.
        StoppedError
            If the budget is spent, the key refused, the reply not recorded, or `stop` called.
        """
        digest = request.digest(self.name)
        reply = self._cache.get(digest)
        if reply is not None:
            self.usage.add("cached")
            return reply
        if self._model is None:
            raise StoppedError(f"no recorded reply of {self.name} to request {digest[:12]}")
        return self._cache.put(digest, self._ask(self._model, request))

    def stop(self) -> None:
        """Let no further request start, and end all waiting."""
        self._stopped.set()

    def abort(self) -> None:
        """Stop, and cancel the requests in flight, if the model can."""
        self.stop()
        abort = getattr(self._model, "abort", None)
        if abort is not None:
            abort()

    def close(self) -> None:
        """Stop, and close the cache and the model."""
        self.stop()
        self._cache.close()
        close = getattr(self._model, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def _ask(self, model: LanguageModel, request: Request) -> Reply:
        form, tries = self._form, 0
        while True:
            self._wait()
            try:
                reply = self._send(model, dataclasses.replace(request, form=FORMS[form]))
            except RequestError as error:
                self.faults.add(error.kind)
                if error.kind != NO_CONNECTION:
                    self._is_there = True
                elif not self._is_there and tries == _FIRST_RETRIES:
                    raise StoppedError(f"{error}; nothing ever answered there") from error
                self._tell(error)
                if error.kind in _MAY_BE_FORM and form + 1 < len(FORMS):
                    form += 1
                elif not error.again or tries == _RETRIES:
                    raise
                else:
                    self._note_wait(error, tries)
                    tries += 1
            else:
                self._form = max(self._form, form)  # now known to be understood
                self._is_there = True
                return reply

    def _send(self, model: LanguageModel, request: Request) -> Reply:
        claimed = request.prompt_tokens + request.max_tokens
        self._budget.claim(claimed)
        used, sent = 0, True
        try:
            reply = model.complete(request)
            used = reply.prompt_tokens + reply.completion_tokens
        except RequestError as error:
            sent = error.kind != NO_CONNECTION
            raise
        finally:
            self.usage.add("requests", int(sent))
            self._budget.settle(claimed, used)
        self.usage.add("prompt tokens", reply.prompt_tokens)
        self.usage.add("completion tokens", reply.completion_tokens)
        return reply

    def _tell(self, error: RequestError) -> None:
        """Log the first fault that leads to a retry, which can take minutes."""
        if error.again and not self._has_told:
            self._has_told = True
            _log.warning("%s; trying again", error)

    def _note_wait(self, error: RequestError, tries: int) -> None:
        if error.wait is None:
            jitter = random.uniform(0.5, 1.0)  # noqa: S311 (no secret)
            self._sleep(min(_LONGEST_WAIT, self._backoff * 2**tries) * jitter)
        elif error.wait > _LONGEST_ASKED:
            raise StoppedError(f"{error}; it asks to wait {error.wait:.0f} s")
        else:
            self._resume_at = max(self._resume_at, self._clock.now() + error.wait)

    def _wait(self) -> None:
        """Wait until the server accepts requests again."""
        while True:
            self._sleep(self._resume_at - self._clock.now())
            if self._resume_at <= self._clock.now():
                return

    def _sleep(self, seconds: float) -> None:
        if self._clock.wait(self._stopped, max(0.0, seconds)):
            raise StoppedError("stopped")
