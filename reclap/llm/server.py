"""Client of a language model's server (OpenAI's chat completions)."""

import contextlib
import functools
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, InvalidStateError
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from reclap.errors import ReclapError, needs
from reclap.llm.request import NO_CONNECTION, Reply, Request, RequestError, StoppedError

if TYPE_CHECKING:
    import openai

__all__ = ["Server", "is_openai", "key_of", "now", "read_completion"]

OWN_KEY, OPENAI_KEY = "RECLAP_LLM_KEY", "OPENAI_API_KEY"
_HINT = (
    f"the key is read from {OWN_KEY}, for api.openai.com also from {OPENAI_KEY}; --key-env names "
    "another variable"
)
LARGEST = 1 << 23  # bytes of an answer
_HOPELESS = (401, 403, 404, 405)  # no other request will fare better
_SHOWN = 200  # characters of a server's own words in a message


class Server:
    """A chat model behind a URL.

    The key is read from the environment and appears in no message; see `key_of`. Servers that need
    none get a word that is no key. Redirections are not followed, and answers are bounded.

    Parameters
    ----------
    base_url : str
        Such as ``http://127.0.0.1:8000/v1``.
    name : str
        The model's, as the server knows it.
    small : bool
        The model wants examples instead of long instructions.
    timeout : float
        Seconds after which a request is given up whose answer has not come whole.
    key_env : str, optional
        Environment variable that holds this server's key.

    Raises
    ------
    ReclapError
        If the URL is none, the time-out is not above 0, or `key_env` is not set.
    MissingDependencyError
        If the ``openai`` package is missing.
    """

    def __init__(
        self,
        base_url: str,
        name: str,
        *,
        small: bool = False,
        timeout: float = 60.0,
        key_env: str | None = None,
    ) -> None:
        host = _host_of(base_url)
        if not timeout > 0:
            raise ReclapError(f"timeout is {timeout:g} s, expected more than 0")
        with needs("openai", "a language model behind a URL", "llm"):
            import openai
        self.name = name
        self.small = small
        self._host = host
        self._key = key_of(base_url, key_env)
        self._lock = threading.Lock()
        self._timeout = timeout
        self._on_way: set[Future[Reply]] = set()
        self._own = threading.local()  # the answer that a thread waits for
        self._limit = "max_tokens"
        self._dropped: set[str] = set()
        self._errors = openai
        self._client = openai.OpenAI(
            base_url=base_url,
            api_key=self._key or "none",
            timeout=timeout,
            max_retries=0,
            default_headers={"Accept-Encoding": "identity"},  # a small answer stays small
            http_client=openai.DefaultHttpxClient(
                follow_redirects=False,
                event_hooks={
                    "request": [] if is_openai(base_url) else [_strip],
                    "response": [self._bound],
                },
            ),
        )
        self._create: Any = self._client.chat.completions.with_raw_response.create

    def complete(self, request: Request) -> Reply:
        """Send one request once; give it up at the time-out, or when `abort` is called.

        A thread of its own waits for the server, because nothing else ends a wait for an answer
        that comes byte by byte, or not at all.
        """
        answer: Future[Reply] = Future()
        with self._lock:
            self._on_way.add(answer)
        threading.Thread(target=self._work, args=(answer, request), daemon=True).start()
        try:
            return answer.result(self._timeout)
        except TimeoutError:
            late = RequestError("timeout", f"{self._host}: no answer in time", again=True)
            _fail(answer, late)
            raise late from None
        finally:
            with self._lock:
                self._on_way.discard(answer)

    def abort(self) -> None:
        """Cancel all requests in flight."""
        with self._lock:
            on_way = list(self._on_way)
        for answer in on_way:
            _fail(answer, StoppedError("interrupted"))

    def _work(self, answer: "Future[Reply]", request: Request) -> None:
        self._own.answer = answer
        try:
            reply = self._ask(request)
        except BaseException as error:  # raised where the answer is waited for
            _fail(answer, error)
        else:
            with contextlib.suppress(InvalidStateError):  # given up meanwhile
                answer.set_result(reply)

    def _ask(self, request: Request) -> Reply:
        try:
            found = json.loads(self._create(**self._body(request)).content)
        except self._errors.APITimeoutError as error:
            raise RequestError("timeout", f"{self._host}: no answer in time", again=True) from error
        except (_TooLargeError, self._errors.APIConnectionError) as error:
            cause = error.__cause__ or error  # some versions of the package wrap what is ours
            kind = "malformed answer" if isinstance(cause, _TooLargeError) else "connection lost"
            message = f"{self._host}: {self._safe(cause)}"
            if type(cause).__name__ == "ConnectError":
                kind = NO_CONNECTION
            raise RequestError(kind, message, again=True) from error
        except self._errors.APIStatusError as error:
            raise self._refusal(error) from error
        except (ValueError, RecursionError, self._errors.APIError) as error:
            raise RequestError(
                "malformed answer", f"{self._host}: {self._safe(error)}", again=True
            ) from error
        return read_completion(self._host, found, request)

    def _bound(self, response: Any) -> None:
        """Limit the size of answers, however long a server goes on."""
        coding = response.headers.get("content-encoding", "identity")
        if coding != "identity":
            raise _TooLargeError(f"an answer in the coding {coding[:_SHOWN]!r}, expected none")
        kind: Any = type(response.stream)
        response.stream = _bounded(kind)(response.stream, self._own.answer)

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def _body(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.name,
            "messages": [{"role": m.role, "content": m.content} for m in request.messages],
            self._limit: request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed + request.attempt,
        }
        if request.form == "json_schema":
            schema = {"name": "texts", "strict": True, "schema": request.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif request.form == "json_object":
            body["response_format"] = {"type": "json_object"}
        return {key: value for key, value in body.items() if key not in self._dropped}

    def _refusal(self, error: "openai.APIStatusError") -> ReclapError:
        """Return the error for an answer with an error status."""
        status = error.status_code
        message = f"{self._host}: HTTP {status}: {self._safe(_words_of(error))}"
        if 300 <= status < 400:
            target = self._safe(error.response.headers.get("location", "elsewhere"))
            return StoppedError(
                f"{self._host}: HTTP {status}: redirects to {target}, which is not followed; give "
                "the address that answers"
            )
        if status in _HOPELESS or error.code == "insufficient_quota":
            hint = f"; {_HINT}" if status == 401 else ""
            return StoppedError(message + hint)
        if status == 400 and self._adapt(error.param):
            return RequestError(f"HTTP 400: {error.param}", message, again=True, wait=0.0)
        again = status in (408, 409, 425, 429) or status >= 500
        wait = _retry_after(error.response.headers) if again else None
        return RequestError(f"HTTP {status}", message, again=again, wait=wait)

    def _adapt(self, parameter: str | None) -> bool:
        """Drop a parameter that this model refuses; tell whether that changes the request."""
        with self._lock:
            if parameter == "max_tokens" and self._limit == "max_tokens":
                self._limit = "max_completion_tokens"  # its name for OpenAI's reasoning models
                return True
            if parameter in ("seed", "temperature") and parameter not in self._dropped:
                self._dropped.add(parameter)
                return True
        return False

    def _safe(self, said: object) -> str:
        """Return a short text on one line without the key, should a server repeat it."""
        text = " ".join(str(said).split())
        if self._key:
            text = text.replace(self._key, "***")
        return text[:_SHOWN]


def key_of(base_url: str, key_env: str | None = None) -> str:
    """Return the key for a server, from the environment; empty if there is none for it.

    A key goes only where it was meant for: that of the variable `key_env` to any server;
    ``RECLAP_LLM_KEY`` likewise; ``OPENAI_API_KEY`` to ``https://api.openai.com`` only.

    Raises
    ------
    ReclapError
        If `key_env` is given and not set.
    """
    if key_env is not None:
        if not os.environ.get(key_env):
            raise ReclapError(f"the environment variable {key_env} is not set")
        return os.environ[key_env]
    other = os.environ.get(OPENAI_KEY, "") if is_openai(base_url) else ""
    return os.environ.get(OWN_KEY, "") or other


def is_openai(url: str) -> bool:
    """Tell whether a URL is OpenAI's own, over https."""
    parts = urlsplit(url)
    is_host = parts.hostname == "api.openai.com" and parts.port in (None, 443)
    return is_host and parts.scheme == "https"


def _strip(request: Any) -> None:
    """Remove the headers that the package takes from OpenAI's other variables."""
    for name in [name for name in request.headers if name.lower().startswith("openai-")]:
        del request.headers[name]


class _TooLargeError(ReclapError):
    """Error of an answer of too many bytes, or of unknown size."""


def _fail(answer: "Future[Reply]", error: BaseException) -> None:
    with contextlib.suppress(InvalidStateError):  # there is an answer, or it was given up
        answer.set_exception(error)


def _words_of(error: "openai.APIStatusError") -> object:
    """Return a server's message about a fault, without the package's words around it."""
    body = error.body
    if isinstance(body, dict):
        inner = body.get("error", body)
        return inner.get("message", inner) if isinstance(inner, dict) else inner
    return body or error.response.reason_phrase


@functools.cache
def _bounded(kind: Any) -> Any:
    """Return a class of bounded streams for the HTTP library of `openai`."""

    class Bounded(kind):  # type: ignore[misc]
        def __init__(self, stream: Any, answer: "Future[Reply]") -> None:
            self._inner, self._answer = stream, answer

        def __iter__(self) -> Iterator[bytes]:
            size = 0
            for part in self._inner:
                size += len(part)
                if self._answer.done():
                    raise _TooLargeError("an answer that nobody waits for any more")
                if size > LARGEST:
                    raise _TooLargeError(f"an answer of more than {LARGEST} bytes")
                yield part

        def close(self) -> None:
            self._inner.close()

    return Bounded


def _host_of(url: str) -> str:
    """Return the host of a URL, and its port if it names one."""
    wrong = ReclapError(f"base URL: expected http://host:port/v1 or https://, got {url!r}")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:  # a port that is no number, a bracket too many
        raise wrong from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise wrong
    return parts.hostname if port is None else f"{parts.hostname}:{port}"


def read_completion(where: str, found: object, request: Request) -> Reply:
    """Read the answer to a chat completion.

    Parameters
    ----------
    where : str
        Name of the server in messages.
    found : object
        The parsed JSON.
    request : Request
        Request, from which tokens are estimated if they were not counted.

    Raises
    ------
    RequestError
        If it is no such answer.
    """
    try:
        choice = found["choices"][0]  # type: ignore[index]
        text = choice["message"]["content"] or ""
        if not isinstance(text, str):
            raise TypeError(f"content is a {type(text).__name__}")
        usage = found.get("usage") or {}  # type: ignore[attr-defined]
        prompt = int(usage.get("prompt_tokens") or request.prompt_tokens)
        completion = int(usage.get("completion_tokens") or len(text) // 4)
        complete = choice.get("finish_reason") != "length"
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise RequestError(
            "malformed answer", f"{where}: no chat completion: {error!r}", again=True
        ) from error
    return Reply(text, prompt, completion, complete, now())


def now() -> str:
    """Return the time in UTC to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server asks to wait: a number, or a date."""
    value = headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
