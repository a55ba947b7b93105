"""The review page in a real browser without a window."""

import http.server
import json
import re
import threading
import time

import browser
import folders
import pytest
import reviews
from reviews import HOSTILE, served

from reclap.prompts.bank import Prompt, PromptBank
from reclap.review.documents import open_document

VISIBLE = (
    HOSTILE.replace("\u202e", "⟨U+202E⟩").replace("\u2028", "⟨U+2028⟩").replace("\x1b", "⟨U+001B⟩")
)
CARD = "!document.querySelector('#card').hidden"


@pytest.fixture(scope="module")
def chromium():
    program = browser.find()
    if program is None:
        pytest.skip("no Chromium: install chromium, or name one with RECLAP_CHROMIUM")
    with browser.opened(program) as running:
        yield running


@pytest.fixture
def bank(tmp_path):
    path = tmp_path / "bank.json"
    reviews.bank().save(path)
    return path


def visit(chromium, server):
    chromium.log.clear()
    chromium.look()
    chromium.open(server.url, CARD)


def shown(chromium, selector="#text"):
    return chromium.run(f"document.querySelector('{selector}').textContent")


def press(chromium, keys):
    for key in keys.split():
        chromium.press(key)


def settle(chromium, server, revision):
    """Wait until the page shows a revision of the review."""
    deadline = time.monotonic() + 120
    while server.review.session.revision < revision:
        assert time.monotonic() < deadline, f"revision {server.review.session.revision}"
        time.sleep(0.01)
    done = len(server.review.session.items) - server.review.session.counts()["new"]
    chromium.wait(f"document.querySelector('#counts').textContent.startsWith('{done} of')")


def statuses(server):
    return "".join(item.prompt.status[0] for item in server.review.session.items)


def test_the_flagged_text_comes_first_with_all_that_is_known(chromium, bank):
    with served(bank) as server:
        visit(chromium, server)
        assert shown(chromium) == "A puppy whines."
        assert shown(chromium, "#of") == "dog"
        assert shown(chromium, "#definition") == "the animal"
        assert "A thin whine." in shown(chromium, "#about")
        assert shown(chromium, "#flags") == "label  fits 'rain'"
        assert shown(chromium, "#counts") == "0 of 8 decided · 1 flagged to do"
        chromium.wait("document.querySelector('#other b').textContent === 'Another label: rain'")
        assert "Rain" in shown(chromium, "#other bdi")
        assert re.fullmatch(r"0\.\d\d", shown(chromium, "#other output"))
    assert chromium.log == []


def test_the_token_leaves_the_address_bar(chromium, bank):
    with served(bank) as server:
        visit(chromium, server)
        assert chromium.run("location.href") == f"http://127.0.0.1:{server.server_port}/"
        assert chromium.run("document.cookie") == ""
        chromium.call("Page.reload")
        chromium.wait(CARD)  # with what this tab keeps for this port
        chromium.open("about:blank")
        chromium.open(f"http://127.0.0.1:{server.server_port}/", CARD)


def test_no_other_port_of_this_machine_hears_the_token(chromium, bank):
    heard = []

    class Stranger(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            heard.append(f"{self.path}\n{self.headers}")
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<p>another server</p>")

        def log_message(self, *_):
            pass

    with served(bank) as server, http.server.HTTPServer(("127.0.0.1", 0), Stranger) as stranger:
        threading.Thread(target=stranger.serve_forever, args=(0.01,), daemon=True).start()
        visit(chromium, server)
        chromium.open(
            f"http://127.0.0.1:{stranger.server_port}/",
            "document.body.innerText === 'another server'",
        )
        assert chromium.run("JSON.stringify(sessionStorage) + document.cookie") == "{}"
        stranger.shutdown()
    assert heard
    assert server.token not in "".join(heard)
    assert "Cookie" not in "".join(heard)


def test_the_address_of_a_newer_review_on_the_same_port_works(chromium, bank):
    with served(bank) as server:
        visit(chromium, server)
        server.token = "x" * 32  # as after another start
        chromium.run("window.before = true")
        chromium.run(f"location.hash = '{server.token}'")
        chromium.wait("!window.before && document.querySelector('#toast').hidden && " + CARD)
        press(chromium, "a")
        settle(chromium, server, 1)


def test_keys_decide_move_and_undo(chromium, bank):
    with served(bank) as server:
        visit(chromium, server)
        press(chromium, "a r j a")
        settle(chromium, server, 3)
        assert statuses(server) == "rnanannn"
        press(chromium, "u")
        settle(chromium, server, 4)
        assert shown(chromium) == "Two barks ring out."
        press(chromium, "k k k")
        press(chromium, "o")
        settle(chromium, server, 5)
        assert statuses(server) == "rnnnnnnn"
        press(chromium, "u U")
        settle(chromium, server, 7)
    assert [item.prompt.status[0] for item in open_document(bank).items] == list("rnnnnnnn")
    assert chromium.log == []


def test_many_keys_in_a_row_each_hit_the_next_text(chromium, bank):
    with served(bank) as server:
        visit(chromium, server)
        press(chromium, "a r a r a r a r")
        settle(chromium, server, 8)
        assert statuses(server) == "raraarar"


def test_an_edit_by_keyboard(chromium, bank):
    with served(bank) as server:
        visit(chromium, server)
        press(chromium, "e")
        chromium.run("document.querySelector('#draft').select()")
        chromium.type("A pup cries; just a pup.")
        press(chromium, "Enter")
        settle(chromium, server, 1)
        press(chromium, "k")
        assert shown(chromium) == "A pup cries; just a pup."
        assert "A puppy whines." in shown(chromium, "#edited")
        press(chromium, "e")
        chromium.type("x")
        press(chromium, "Escape")
        assert shown(chromium) == "A pup cries; just a pup."
        assert chromium.run("document.querySelector('#editor').hidden")
    assert "A pup cries; just a pup." in PromptBank.load(bank).prompts()["dog"]


def test_filters_and_search(chromium, bank):
    with served(bank) as server:
        visit(chromium, server)

        def choose(name, value):
            chromium.run(
                f"document.querySelector('#{name}').value = {json.dumps(value)};"
                f"document.querySelector('#{name}').dispatchEvent(new Event('input'))"
            )
            is_empty = chromium.run("document.querySelector('#card').hidden")
            return "nothing" if is_empty else shown(chromium, "#place")

        assert choose("label", "1") == "1 of 3 · undecided"
        assert choose("flag", "some") == "nothing"
        assert choose("label", "") == "1 of 1 · undecided"
        assert choose("flag", "=label") == "1 of 1 · undecided"
        assert choose("flag", "") == "1 of 8 · undecided"
        assert choose("search", "barks RING") == "1 of 1 · undecided"
        assert choose("search", "") == "4 of 8 · undecided"  # it stays at the text
        assert choose("status", "accepted") == "nothing"
        press(chromium, "/")
        chromium.type("a")  # typed, not taken for a key
        assert server.review.session.revision == 0


def test_all_unflagged_texts_are_accepted_after_a_question(chromium, bank):
    with served(bank) as server:
        visit(chromium, server)
        bulk = "document.querySelector('#bulk')"
        assert shown(chromium, "#bulk") == "Accept 7 unflagged…"
        chromium.run(f"{bulk}.click()")
        chromium.run("document.querySelector('#confirm button[value=no]').click()")
        chromium.run(f"{bulk}.click()")
        assert "Accept 7 undecided texts" in shown(chromium, "#question")
        chromium.run("document.querySelector('#confirm button[value=yes]').click()")
        settle(chromium, server, 1)
        assert statuses(server) == "aaaanaaa"
        assert chromium.run(f"{bulk}.disabled")
        press(chromium, "u")
        settle(chromium, server, 2)
        assert statuses(server) == "nnnnnnnn"


def test_a_page_that_is_behind_is_told_and_brought_up_to_date(chromium, bank):
    with served(bank) as server:
        visit(chromium, server)
        server.review.session.decide([0], "accepted", 0)  # another window
        press(chromium, "r")
        chromium.wait("document.querySelector('#toast').textContent.includes('another window')")
        assert statuses(server) == "annnnnnn"
        assert shown(chromium, "#counts").startswith("1 of 8")
        assert shown(chromium) == "A puppy whines."
        press(chromium, "r")
        settle(chromium, server, 2)
        assert statuses(server) == "annnrnnn"


def test_asking_again(chromium, bank):
    with served(bank) as server:
        visit(chromium, server)
        press(chromium, "g")
        chromium.wait("document.querySelector('#toast').textContent.includes('No language model')")
    with served(bank, ask=lambda item, about, taken: Prompt("A pup yelps.")) as server:
        visit(chromium, server)
        press(chromium, "g")
        chromium.wait("document.querySelector('#text').textContent === 'A pup yelps.'")
        assert shown(chromium, "#flags") == ""


def test_a_server_that_is_gone_is_named(chromium, bank):
    with served(bank) as server:
        visit(chromium, server)
        is_gone = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        chromium.call("Network.emulateNetworkConditions", offline=True, **is_gone)
        press(chromium, "a")
        chromium.wait("document.querySelector('#toast').textContent.includes('still running')")
        chromium.wait("document.querySelector('#text').textContent === 'A puppy whines.'")
        chromium.call("Network.emulateNetworkConditions", offline=False, **is_gone)
        press(chromium, "a")
        settle(chromium, server, 1)


def test_clips_play(chromium, bank, tmp_path):
    folder = tmp_path / "clips" / "dog"
    folder.mkdir(parents=True)
    for n in range(2):
        folders.write_wav(folder / f"{n}.wav", folders.tone(440, 0.5))
    with served(bank, tmp_path / "clips") as server:
        visit(chromium, server)
        chromium.wait("document.querySelector('#player').duration > 0.4")  # before it is played
        press(chromium, "p")
        chromium.wait("document.querySelector('#player').currentTime > 0.1")
        assert chromium.run("document.querySelector('#player').duration") == pytest.approx(0.5)
        press(chromium, "c")
        assert shown(chromium, "#which") == "2 of 2"
        chromium.run("document.querySelector('#search').value = 'hiss';")
        chromium.run("document.querySelector('#search').dispatchEvent(new Event('input'))")
        assert chromium.run("document.querySelector('#clips').hidden")  # rain has none
    assert chromium.log == []


def test_rewrites_are_reviewed_too(chromium, tmp_path):
    path = reviews.write_rewrites(tmp_path / "rows.jsonl")
    with served(path) as server:
        visit(chromium, server)
        assert shown(chromium, "#kind") == "Rewrite of"
        assert shown(chromium, "#of") in ("A dog barks", "Rain falls")
        press(chromium, "r")
        settle(chromium, server, 1)
    assert sum(len(json.loads(line)["rewrites"]) for line in path.read_text().splitlines()) == 3


def test_hostile_texts_are_inert(chromium, tmp_path):
    path = tmp_path / "bank.json"
    reviews.hostile_bank().save(path)
    with served(path) as server:
        visit(chromium, server)
        assert "document.title='owned'" in shown(chromium, "#flags")
        press(chromium, "j j j k k k j e Escape")
        chromium.wait("document.querySelector('#other bdi').textContent.length > 0")
        assert chromium.run("document.title").endswith("· reclap review")
        for place in ("#text", "#of", "#definition", "#edited bdi", "#about bdi"):
            assert shown(chromium, place) == VISIBLE
        assert "document.title='owned'" in shown(chromium, "#flags")
        assert VISIBLE in shown(chromium, "#label")
        made = "document.querySelectorAll('body script, img:not([src=\"/icon.svg\"]), body style')"
        assert chromium.run(f"{made}.length") == 0
        assert chromium.run("getComputedStyle(document.querySelector('#card')).display") != "none"
    assert chromium.log == []


def test_the_policy_holds_in_the_browser(chromium, bank):
    with served(bank) as server:
        visit(chromium, server)
        with pytest.raises(RuntimeError, match="TrustedHTML"):
            chromium.run("document.body.innerHTML = '<b>x</b>'")
        with pytest.raises(RuntimeError, match="Failed to fetch"):
            chromium.run("fetch('http://localhost:1/').then(() => 0)")
        blocked = chromium.run(
            "new Promise((done) => { document.addEventListener('securitypolicyviolation',"
            " (e) => done(e.effectiveDirective)); new Image().src = 'http://localhost:1/x' })"
        )
        assert blocked == "img-src"


def test_another_origin_can_neither_read_nor_write(chromium, bank, tmp_path):
    other = tmp_path / "other.json"
    reviews.bank().save(other)
    with served(bank) as server, served(other) as stranger:
        visit(chromium, server)
        chromium.open(f"http://127.0.0.1:{stranger.server_port}/nothing")  # no policy of a page
        target = f"http://127.0.0.1:{server.server_port}"
        for script in (
            f"fetch('{target}/items', {{credentials: 'include'}}).then(r => r.text())",
            f"fetch('{target}/decide', {{method: 'POST', credentials: 'include', mode: 'no-cors',"
            " body: JSON.stringify({do: 'accept', items: [0], revision: 0})}).then(r => r.text())",
        ):
            with pytest.raises(RuntimeError, match="Failed to fetch"):
                chromium.run(script)
        assert server.review.session.revision == 0


@pytest.mark.slow
def test_a_bank_of_audiosets_size(chromium, tmp_path):
    path = tmp_path / "large.json"
    reviews.large_bank().save(path)
    with served(path) as server:
        visit(chromium, server)
        assert chromium.run("document.querySelectorAll('.row').length") < 60
        press(chromium, "a " * 20)
        settle(chromium, server, 20)
        chromium.run("document.querySelector('#list').scrollTop = 1e6")
        chromium.wait("document.querySelector('.row').offsetTop > 9e5")
