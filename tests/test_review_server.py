"""The review page's server: who may ask, and what it never says."""

import contextlib
import json
import re
import socket
import urllib.parse

import pytest
import reviews
from reviews import HOSTILE, ask, decide, refused, served

from reclap.review import server as server_module


@pytest.fixture
def server(tmp_path):
    path = tmp_path / "bank.json"
    reviews.bank().save(path)
    with served(path) as running:
        yield running


# ---- Who may ask ---------------------------------------------------------------------------------


def test_the_server_listens_on_this_machine_only(server):
    assert server.server_address[0] == "127.0.0.1"
    assert server.url == f"http://127.0.0.1:{server.server_port}/#{server.token}"


def test_every_review_has_a_long_token_of_its_own(server, tmp_path):
    path = tmp_path / "other.json"
    reviews.bank().save(path)
    with served(path) as other:
        assert other.token != server.token
        assert len(other.token) >= 32


def test_no_answer_sets_a_cookie_or_repeats_the_token(server):
    """A browser would give a cookie to servers on all other ports of this machine."""
    for path in ("/", "/app.js", "/items", "/nearest?item=0", "/nothing"):
        answer, data = ask(server, path=path)
        assert answer.getheader("Set-Cookie") is None
        assert server.token.encode() not in data
        assert server.token not in str(answer.headers)


def test_the_page_itself_holds_nothing_and_needs_no_token(server):
    for path in ("/", "/app.js", "/list.js", "/style.css", "/icon.svg"):
        answer, data = ask(server, path=path, token="")
        assert answer.status == 200
        assert b"A dog barks" not in data


def test_all_answers_forbid_what_the_page_does_not_need(server):
    for path in ("/", "/app.js", "/items", "/nothing"):
        answer, _ = ask(server, path=path)
        policy = answer.getheader("Content-Security-Policy")
        assert policy.startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in policy
        assert answer.getheader("X-Content-Type-Options") == "nosniff"
        assert answer.getheader("Referrer-Policy") == "no-referrer"
        assert answer.getheader("Cross-Origin-Resource-Policy") == "same-origin"
        assert answer.getheader("Cache-Control") == "no-store"
        assert answer.getheader("Access-Control-Allow-Origin") is None
        assert answer.getheader("Server") == "reclap"


@pytest.mark.parametrize("path", ["/items", "/nearest?item=0", "/nothing"])
@pytest.mark.parametrize("token", ["", "x", "\u00e9" * 32, None])
def test_a_wrong_token_gets_nothing(server, path, token):
    headers = {"X-Reclap-Token": token}
    refused(ask(server, path=path, headers=headers), 403, "open the address")


def test_the_token_counts_in_its_header_only(server):
    everywhere = {
        "X-Reclap-Token": None,
        "Cookie": f"reclap-{server.server_port}={server.token}; token={server.token}",
        "Authorization": f"Bearer {server.token}",
    }
    for path in ("/items", f"/items?token={server.token}", f"/items?key={server.clip_key(0)}"):
        refused(ask(server, path=path, headers=everywhere), 403, "open the address")


@pytest.mark.parametrize("key", ["", "x", "\u00e9", "token", "other"])
def test_a_clip_needs_the_key_of_its_label(server, key):
    given = {"token": server.token, "other": server.clip_key(1)}.get(key, key)
    path = f"/clip?label=0&clip=0&key={urllib.parse.quote(given)}"
    refused(ask(server, path=path), 403, "does not open the clip")
    refused(ask(server, path="/clip?label=0&clip=0"), 403, "does not open the clip")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "localhost:1", "", None]
)
def test_another_host_header_is_refused(server, host):
    name = host and host.format(port=server.server_port)
    refused(ask(server, Host=name), 403, "Host header")
    refused(ask(server, path="/", Host=name), 403, "Host header")


def test_localhost_is_this_server_too(server):
    answer, _ = ask(server, Host=f"localhost:{server.server_port}")
    assert answer.status == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_other_sites_get_no_data(server, site):
    for path in ("/items", "/app.js", f"/clip?label=0&clip=0&key={server.clip_key(0)}"):
        refused(ask(server, path=path, Sec_Fetch_Site=site), 403, "another site")


def test_a_link_on_another_site_may_lead_here(server):
    answer, _ = ask(server, path="/", token="", Sec_Fetch_Site="cross-site")
    assert answer.status == 200


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"Origin": "https://evil.example"}, "another origin"),
        ({"Origin": "null"}, "another origin"),
        ({"Origin": "http://127.0.0.1:1"}, "another origin"),
        ({"Sec-Fetch-Site": "cross-site"}, "another site"),
        ({"X-Reclap-Token": None}, "open the address"),
        ({"X-Reclap-Token": "x"}, "open the address"),
    ],
)
def test_a_post_from_elsewhere_is_refused(server, headers, reason):
    body = json.dumps({"do": "accept", "items": [0], "revision": 0}).encode()
    refused(ask(server, "POST", "/decide", body, headers=headers), 403, reason)
    assert server.review.session.revision == 0


def test_the_address_does_not_allow_to_post(server):
    body = json.dumps({"do": "accept", "items": [0], "revision": 0}).encode()
    result = ask(server, "POST", f"/decide?token={server.token}", body, token="")
    refused(result, 403, "open the address")


# ---- Bad requests --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/../pyproject.toml",
        "/%2e%2e/bank.json",
        "/page/app.js",
        "//etc/passwd",
        "/bank.json",
        "/app.js/",
    ],
)
def test_only_the_page_s_own_files_are_served(server, path):
    refused(ask(server, path=path), 404, "no such page")


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_refused(server, method):
    refused(ask(server, method), 405, "expected GET or POST")


def test_a_method_that_nobody_knows_is_refused(server):
    refused(ask(server, "BREW"), 501, "Not Implemented")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "expected an object"),
        (b'{"do": "accept"}', "expected an object"),
        (b'{"do": "accept", "revision": true}', "expected an object"),
        (b'{"do": "accept", "revision": 0, "items": 3}', "expected an object"),
        (b'{"do": "accept", "revision": 0, "items": ["../x"]}', "expected numbers"),
        (b'{"do": "accept", "revision": 0, "items": [99]}', "expected 0 to 7"),
        (b'{"do": "accept", "revision": 0, "items": [-1]}', "expected 0 to 7"),
        (b'{"do": "edit", "revision": 0, "items": [0, 1], "text": "x"}', "expected 1"),
        (b'{"do": "edit", "revision": 0, "items": [0], "text": " "}', "expected 1 to"),
        (b'{"do": "edit", "revision": 0, "items": [0], "text": {}}', "expected an object"),
        (b'{"do": "edit", "revision": 0, "items": [0], "text": "\\ud800"}', "surrogates"),
        (b'{"do": ["accept"], "revision": 0}', "expected an object"),
        (b'{"do": "drop table", "revision": 0}', "do: expected"),
        (b'{"do": "ask", "revision": 0, "items": [0]}', "no language model"),
    ],
)
def test_a_bad_decision_is_refused_in_one_line(server, body, reason):
    refused(ask(server, "POST", "/decide", body), 400, reason)
    assert server.review.session.revision == 0


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Length": str(1 << 40)}, 413),
        ({"Content-Length": "-1"}, 411),
        ({"Content-Length": "x"}, 411),
        ({"Content-Length": None}, 411),
        ({"Transfer-Encoding": "chunked"}, 411),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": None}, 415),
    ],
)
def test_a_body_that_is_none_or_huge_is_not_read(server, headers, status):
    given = {"Content-Length": "2", **headers}
    refused(ask(server, "POST", "/decide", b"{}", headers=given), status, "")


def test_a_body_that_is_refused_is_no_request_of_its_own(server):
    hidden = f"GET /app.js HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n\r\n".encode()
    head = (
        f"POST /decide HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n"
        f"X-Reclap-Token: {server.token}\r\nContent-Type: text/plain\r\n"
        f"Content-Length: {len(hidden)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as connection:
        connection.sendall(head.encode() + hidden)
        with connection.makefile("rb") as answers, contextlib.suppress(ConnectionResetError):
            lines = [answers.readline()]
            lines += answers
    assert lines[0].startswith(b"HTTP/1.1 415")
    assert not any(line.startswith(b"HTTP/1.1") for line in lines[1:])


def test_a_post_elsewhere_is_refused(server):
    refused(ask(server, "POST", "/items", b"{}"), 404, "no such page")


@pytest.mark.parametrize(
    "path",
    ["/nearest", "/nearest?item=-1", "/nearest?item=99", "/nearest?item=0x1", "/clip?clip=0"],
)
def test_a_bad_number_is_refused(server, path):
    result = ask(server, path=path)
    refused(result, 400, "")


@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_no_request_gets_a_short_answer(server, request_):
    with socket.create_connection(server.server_address, timeout=20) as connection:
        connection.sendall(request_)
        data = b""
        while part := connection.recv(4096):
            data += part
    assert b'{"error":' in data
    assert b"aaaa" not in data
    assert b"Traceback" not in data


def test_a_fault_of_ours_is_told_here_and_not_to_the_client(server, monkeypatch, capsys):
    def broken(*_):
        raise KeyError("inner secret")

    monkeypatch.setattr(server_module, "items", broken)
    refused(ask(server), 500, "went wrong")
    assert b"inner secret" not in ask(server)[1]
    assert "inner secret" in capsys.readouterr().err


# ---- Hostile texts -------------------------------------------------------------------------------


def test_hostile_texts_leave_as_json_that_is_no_markup(tmp_path):
    path = tmp_path / "bank.json"
    reviews.hostile_bank().save(path)
    with served(path) as server:
        answer, data = ask(server)
        assert answer.getheader("Content-Type") == "application/json"
        assert not {b"<", b">", b"&"} & {data[i : i + 1] for i in range(len(data))}
        assert json.loads(data)["items"][1]["text"] == HOSTILE
        assert HOSTILE.encode() not in ask(server, path="/")[1]
        _, told = decide(server, do="edit", items=[1], text=HOSTILE + "!", revision=0)
        assert told["changed"]["1"]["edited_from"] == HOSTILE


def test_the_page_has_no_markup_from_strings_and_no_inline_script(server):
    page = ask(server, path="/")[1].decode()
    assert page.count("<script") == 1
    assert '<script type="module" src="/app.js"></script>' in page
    assert "//" not in page.replace("<!doctype html>", "")
    assert re.search(r"\s(on\w+|style)\s*=", page) is None
    for name in ("app.js", "list.js"):
        script = ask(server, path=f"/{name}")[1].decode()
        for word in (
            "innerHTML",
            "outerHTML",
            "insertAdjacent",
            "document.write",
            "eval(",
            "http:",
        ):
            assert word not in script, f"{name}: {word}"
