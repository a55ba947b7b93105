"""Small banks, rewrites and models to try reviews on."""

import contextlib
import http.client
import json
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from reclap.prompts.bank import Description, Entry, Prompt, PromptBank
from reclap.review.api import Review
from reclap.review.documents import open_document
from reclap.review.example_sounds import clips_of
from reclap.review.neighbours import Neighbours
from reclap.review.server import Server
from reclap.review.session import Session

HOSTILE = (
    "</script><script>document.title='owned'</script>"
    "<img src=x onerror=\"document.title='owned'\"><style>*{display:none}</style>"
    "{{token}} ${alert(1)} &lt;b&gt; \u202egnp.exe\u2028 \x1b[31m"
)


def bank() -> PromptBank:
    """Return a bank of two labels: three descriptions, five captions, one flag."""
    dog = (
        Description(
            "A short, gruff burst.", (Prompt("A dog barks."), Prompt("Two barks ring out."))
        ),
        Description("A thin whine.", (Prompt("A puppy whines.", flags=("label: fits 'rain'",)),)),
    )
    rain = (Description("A dense hiss.", (Prompt("Rain hisses."), Prompt("Rain drums on tin."))),)
    entries = {"dog": Entry("dog", "the animal", dog), "rain": Entry("rain", "", rain)}
    return PromptBank("weather", {"by": "a test"}, entries)


def hostile_bank() -> PromptBank:
    """Return a bank with markup in everything that a reviewer sees."""
    prompt = Prompt(HOSTILE, "new", (f"label: {HOSTILE}", HOSTILE), {"edited_from": HOSTILE})
    first = Description(HOSTILE, (prompt,), flags=(f"{HOSTILE}: {HOSTILE}",))
    other = Description("plain", (Prompt(f"another {HOSTILE}"),))
    entries = {
        HOSTILE: Entry(HOSTILE, HOSTILE, (first,)),
        "other": Entry("other", "", (other,)),
    }
    return PromptBank(HOSTILE, {"by": HOSTILE}, entries)


def large_bank(labels: int = 527, prompts: int = 10) -> PromptBank:
    """Return a bank of the size of AudioSet's with 5 descriptions for each label."""
    entries = {}
    for n in range(labels):
        descriptions = tuple(
            Description(
                f"Sound {n} in manner {d}, rough and steady.",
                tuple(
                    Prompt(f"Thing {n} sounds in manner {d} at place {p} of a wide, quiet town.")
                    for p in range(prompts)
                ),
            )
            for d in range(5)
        )
        entries[f"label {n}"] = Entry(f"label {n}", "", descriptions)
    return PromptBank("large", {}, entries)


def write_rewrites(path: Path) -> Path:
    """Write a manifest of two sounds with two rewrites each."""
    rows = [
        {"path": "a.wav", "caption": "A dog barks", "rewrites": ["A gruff bark.", "It yaps."]},
        {"path": "b.wav", "caption": "Rain falls", "rewrites": ["A soft hiss.", "Drops patter."]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def embed(texts: list[str]) -> np.ndarray:
    """Return unit rows in which texts that share words lie near each other."""
    rows = np.full((len(texts), 64), 1e-3, np.float32)
    for row, text in zip(rows, texts, strict=True):
        for word in text.lower().split():
            row[zlib.crc32(word.strip(".,").encode()) % 64] += 1
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


NEVER = 1e6  # s; a pause after which no test writes a file


def session_of(path: Path, **options: object) -> Session:
    """Open a review of a file."""
    return Session(open_document(path), **options)


def journal(path: Path) -> Path:
    """Return the journal of a reviewed file."""
    return path.with_name(f"{path.name}.review")


def leave(session: Session) -> None:
    """Leave a review as a kill does: nothing is written any more, and locks are gone."""
    with session._changed:
        session._is_closing = True
        session._changed.notify_all()
    session._saver.join()
    session._journal.close()


@contextlib.contextmanager
def served(path: Path, clips: Path | None = None, **options: object) -> Iterator[Server]:
    """Serve a review of a file on this machine."""
    session = session_of(path, **options)
    review = Review(session, Neighbours(session, embed), clips_of(session.items, clips))
    with Server(review) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
            session.close()


Answer = tuple[http.client.HTTPResponse, bytes]


def ask(
    server: Server,
    method: str = "GET",
    path: str = "/items",
    body: bytes | None = None,
    token: str | None = None,
    headers: dict[str, str | None] | None = None,
    **named: str | None,
) -> Answer:
    """Send a request as the page would, but for what the test changes; None leaves a header out."""
    given = {
        "Host": f"127.0.0.1:{server.server_port}",
        "X-Reclap-Token": server.token if token is None else token,
        **({"Content-Type": "application/json"} if body else {}),
        **(headers or {}),
        **{name.replace("_", "-"): value for name, value in named.items()},
    }
    if body and "Content-Length" not in given:
        given["Content-Length"] = str(len(body))
    new = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    with contextlib.closing(new) as connection:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in given.items():
            if value is not None:
                connection.putheader(name, value)
        connection.endheaders(body)
        with connection.getresponse() as answer:
            return answer, answer.read()


def decide(server: Server, **request: Any) -> tuple[int, dict[str, Any]]:
    """Send a decision; return status and what the page is told."""
    answer, data = ask(server, "POST", "/decide", json.dumps(request).encode())
    return answer.status, json.loads(data)


def refused(result: Answer, status: int, reason: str) -> None:
    """Check that an answer is a refusal in one line."""
    answer, data = result
    assert (answer.status, answer.getheader("Content-Type")) == (status, "application/json")
    assert reason in json.loads(data)["error"]
    assert b"Traceback" not in data
