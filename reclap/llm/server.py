"""Language models behind an endpoint that speaks OpenAI's chat completions."""

import json
import os
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from reclap.errors import BackendError, ReclapError
from reclap.llm.request import Reply, Request, RequestError, StoppedError

if TYPE_CHECKING:
    import openai

__all__ = ["Server", "now", "read_completion"]

_KEY = "OPENAI_API_KEY"
_HOPELESS = (401, 403, 404, 405)  # no other request will fare better
_SHOWN = 200  # characters of a server's own words in a message


class Server:
    """A chat model behind a URL.

    The key is read from the environment variable ``OPENAI_API_KEY`` and appears in no message;
    servers that need none get a word that is no key.

    Parameters
    ----------
    base_url : str
        Such as ``http://127.0.0.1:8000/v1``.
    name : str
        The model's, as the server knows it.
    small : bool
        The model wants examples instead of long instructions.
    timeout : float
        Seconds without a byte after which a request is given up.

    Raises
    ------
    ReclapError
        If the URL is none, or the time-out is not above 0.
    BackendError
        If the ``openai`` package is missing.
    """

    def __init__(
        self, base_url: str, name: str, *, small: bool = False, timeout: float = 60.0
    ) -> None:
        host = _host_of(base_url)
        if not timeout > 0:
            raise ReclapError(f"timeout is {timeout:g} s, expected more than 0")
        try:
            import openai
        except ImportError as error:
            raise BackendError(
                f"a language model behind a URL needs: pip install 'reclap[llm]' ({error})"
            ) from error
        self.name = name
        self.small = small
        self._host = host
        self._key = os.environ.get(_KEY, "")
        self._lock = threading.Lock()
        self._limit = "max_tokens"
        self._dropped: set[str] = set()
        self._errors = openai
        self._client = openai.OpenAI(
            base_url=base_url, api_key=self._key or "none", timeout=timeout, max_retries=0
        )
        self._create: Any = self._client.chat.completions.with_raw_response.create

    def complete(self, request: Request) -> Reply:
        """Send one request once."""
        try:
            found = json.loads(self._create(**self._body(request)).content)
        except self._errors.APITimeoutError as error:
            raise RequestError("timeout", f"{self._host}: no answer in time", again=True) from error
        except self._errors.APIConnectionError as error:
            cause = self._safe(error.__cause__ or error)
            raise RequestError("connection lost", f"{self._host}: {cause}", again=True) from error
        except self._errors.APIStatusError as error:
            raise self._refusal(error) from error
        except (ValueError, RecursionError, self._errors.APIError) as error:
            raise RequestError(
                "malformed answer", f"{self._host}: {self._safe(error)}", again=True
            ) from error
        return read_completion(self._host, found, request)

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
        """Return what to make of an answer with an error status."""
        status = error.status_code
        message = f"{self._host}: HTTP {status}: {self._safe(error.message)}"
        if status in _HOPELESS or error.code == "insufficient_quota":
            hint = f"; the key is read from {_KEY}" if status == 401 else ""
            return StoppedError(message + hint)
        if status == 400 and self._adapt(error.param):
            return RequestError(f"HTTP 400: {error.param}", message, again=True, wait=0.0)
        again = status in (408, 409, 425, 429) or status >= 500
        wait = _retry_after(error.response.headers) if again else None
        return RequestError(f"HTTP {status}", message, again=again, wait=wait)

    def _adapt(self, parameter: str | None) -> bool:
        """Do without a parameter that this model refuses; tell whether that changes anything."""
        with self._lock:
            if parameter == "max_tokens" and self._limit == "max_tokens":
                self._limit = "max_completion_tokens"  # what reasoning models of OpenAI call it
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
        For the message.
    found : object
        The parsed JSON.
    request : Request
        From which tokens are estimated if they were not counted.

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
