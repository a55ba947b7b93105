"""What the review page is told: decisions, what is nearest, clips."""

import contextlib
import http.client
import io
import json
import os
import threading
import time
import wave

import pytest
import reviews
from reviews import ask, decide, refused, served, session_of

from reclap.errors import FormatError
from reclap.review import server as server_module
from reclap.review.documents import open_document
from reclap.review.example_sounds import clips_of
from reclap.review.neighbours import Neighbours


@pytest.fixture
def clips(tmp_path):
    for n, name in enumerate(("Dog", "dog/inner", "rain_")):
        folder = tmp_path / "clips" / name
        folder.mkdir(parents=True)
        with wave.open(str(folder / f"{n}.wav"), "wb") as f:
            f.setnchannels(1)
            f.setsampwidth(2)
            f.setframerate(8000)
            f.writeframes(bytes(range(200)) * 10)
        (folder / "notes.txt").write_text("secret")
    return tmp_path / "clips"


@pytest.fixture
def server(tmp_path):
    path = tmp_path / "bank.json"
    reviews.bank().save(path)
    with served(path) as running:
        yield running


# ---- Decisions -----------------------------------------------------------------------------------


def test_decisions_are_taken_and_told(server):
    status, told = decide(server, do="accept", items=[1, 4], revision=0)
    assert status == 200
    assert {place: x["status"] for place, x in told["changed"].items()} == {
        "1": "accepted",
        "4": "accepted",
    }
    assert (told["revision"], told["can_undo"], told["can_redo"]) == (1, True, False)
    status, told = decide(server, do="edit", items=[4], text="A pup cries.", revision=1)
    assert told["changed"]["4"] == {
        "text": "A pup cries.",
        "status": "accepted",
        "flags": [],
        "edited_from": "A puppy whines.",
    }
    assert decide(server, do="undo", revision=2)[1]["changed"]["4"]["text"] == "A puppy whines."
    assert decide(server, do="redo", revision=3)[1]["revision"] == 4
    assert decide(server, do="reopen", items=[4], revision=4)[1]["changed"]["4"]["status"] == "new"
    assert decide(server, do="reject", items=[0], revision=5)[0] == 200


def test_a_stale_page_is_told_so(server):
    decide(server, do="accept", items=[1], revision=0)
    status, told = decide(server, do="accept", items=[2], revision=0)
    assert (status, told["error"]) == (409, "something was decided elsewhere since")


def test_of_many_pages_that_decide_at_once_one_wins_each_time(server):
    won = []

    def page():
        for _ in range(10):
            revision = json.loads(ask(server)[1])["revision"]
            place = revision % 8
            status, _ = decide(server, do="accept", items=[place], revision=revision)
            if status == 200:
                won.append(revision)

    pages = [threading.Thread(target=page) for _ in range(4)]
    for thread in pages:
        thread.start()
    for thread in pages:
        thread.join()
    assert server.review.session.revision == len(set(won) & set(range(8)))
    assert len(won) >= 8


def test_asking_again_goes_to_the_language_model(tmp_path):
    path = tmp_path / "bank.json"
    reviews.bank().save(path)
    answer = reviews.Prompt("A hound bays.", flags=("length: short",))
    with served(path, ask=lambda item, about, taken: answer) as server:
        assert json.loads(ask(server)[1])["can_ask"] is True
        _, told = decide(server, do="ask", items=[1], revision=0)
    assert told["changed"]["1"]["text"] == "A hound bays."


def test_a_full_disk_is_told_in_one_line(server, monkeypatch):
    def full(line):
        raise OSError(28, "No space left on device", "bank.json.review")

    monkeypatch.setattr(server.review.session._journal, "append", full)
    status, told = decide(server, do="accept", items=[1], revision=0)
    assert (status, told["error"]) == (507, "bank.json.review: No space left on device")


# ---- What is nearest -----------------------------------------------------------------------------


def test_the_nearest_text_of_another_label_is_found(tmp_path):
    path = tmp_path / "bank.json"
    bank = reviews.PromptBank.from_prompts(
        {"dog": ["a dog on a roof", "a dog barks"], "rain": ["rain on a roof", "mud"]}
    )
    bank.save(path)
    with served(path) as server:
        for _ in range(200):
            found = json.loads(ask(server, path="/nearest?item=0")[1])
            if found["share"] == 1:
                break
        assert found["other"]["index"] == 2
        assert found["own"]["index"] == 1
        assert 0.7 < found["other"]["similarity"] < 1
        decide(server, do="reject", items=[2], revision=0)
        assert json.loads(ask(server, path="/nearest?item=0")[1])["other"]["index"] == 3
        decide(server, do="edit", items=[1], text="a dog on a roof top", revision=1)
        again = json.loads(ask(server, path="/nearest?item=1")[1])
        assert again["own"]["similarity"] > found["own"]["similarity"]


def test_what_stops_comparing_is_told_and_does_not_stop_the_review(tmp_path, caplog):
    path = tmp_path / "bank.json"
    reviews.bank().save(path)
    broken = True

    def embed(texts):
        if broken:
            raise KeyError("no such token")
        return reviews.embed(texts)

    session = session_of(path)
    neighbours = Neighbours(session, embed)
    found = neighbours.nearest(0)
    assert (found.other, found.share, found.problem) == (None, 0, "'no such token'")
    broken = False
    assert neighbours.nearest(0).problem == ""
    while neighbours.nearest(0).share < 1:  # the thread goes on
        time.sleep(0.01)
    session.close()
    assert "could not be compared" in caplog.text


# ---- Clips ---------------------------------------------------------------------------------------


def test_clips_are_served_by_number_and_in_ranges(tmp_path, clips):
    path = tmp_path / "bank.json"
    reviews.bank().save(path)
    data = (clips / "Dog" / "0.wav").read_bytes()
    with served(path, clips) as server:
        assert [x["clips"] for x in json.loads(ask(server)[1])["labels"]] == [1, 1]
        address = f"/clip?label=0&key={json.loads(ask(server)[1])['labels'][0]['key']}"
        answer, got = ask(server, path=f"{address}&clip=0", token="")
        assert (answer.status, got) == (200, data)
        assert answer.getheader("Content-Type") == "audio/wav"
        for given, first, last in (
            ("bytes=0-", 0, len(data) - 1),
            ("bytes=10-19", 10, 19),
            ("bytes=-5", len(data) - 5, len(data) - 1),
            ("bytes=-99999", 0, len(data) - 1),
            ("bytes=2000-99999", 2000, len(data) - 1),
        ):
            answer, got = ask(server, path=f"{address}&clip=0", Range=given)
            assert (answer.status, got) == (206, data[first : last + 1])
            assert answer.getheader("Content-Range") == f"bytes {first}-{last}/{len(data)}"
        for given in ("bytes=99999-", "bytes=5-2", "bytes=-0"):
            refused(ask(server, path=f"{address}&clip=0", Range=given), 416, "the clip has")
        refused(ask(server, path=f"{address}&clip=1"), 400, "no such clip")
        absent = f"/clip?label=9&clip=0&key={server.clip_key(9)}"
        refused(ask(server, path=absent), 400, "no such clip")
        refused(ask(server, path=f"{address}&clip=../notes.txt"), 400, "no number")
        (clips / "Dog" / "0.wav").unlink()
        refused(ask(server, path=f"{address}&clip=0"), 404, "No such file")


@pytest.mark.parametrize(("code", "status"), [(5, 500), (13, 500), (28, 507)])
def test_a_clip_that_cannot_be_read_is_not_called_a_full_disk(
    tmp_path, clips, monkeypatch, code, status
):
    path = tmp_path / "bank.json"
    reviews.bank().save(path)

    def broken(_):
        raise OSError(code, os.strerror(code), "0.wav")

    with served(path, clips) as server:
        monkeypatch.setattr(server_module._Handler, "_send_clip", lambda _, path: broken(path))
        address = f"/clip?label=0&clip=0&key={server.clip_key(0)}"
        refused(ask(server, path=address), status, os.strerror(code))


def test_a_clip_that_breaks_off_ends_its_answer(tmp_path, clips, monkeypatch):
    """No second answer stands in the middle of the first."""
    path = tmp_path / "bank.json"
    reviews.bank().save(path)

    class Broken(io.BytesIO):
        def read(self, size=-1):
            raise OSError(5, "Input/output error")

    with served(path, clips) as server:
        monkeypatch.setattr(server_module.Path, "open", lambda *_: Broken())
        with pytest.raises(http.client.IncompleteRead) as caught:
            ask(server, path=f"/clip?label=0&clip=0&key={server.clip_key(0)}")
    assert caught.value.partial == b""


def test_a_connection_outlives_a_clip_of_many_pieces(tmp_path, clips):
    path, sound = tmp_path / "bank.json", clips / "Dog" / "0.wav"
    reviews.bank().save(path)
    sound.write_bytes(bytes(range(256)) * 1024)
    with (
        served(path, clips) as server,
        contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
        ) as connection,
    ):
        address = f"/clip?label=0&clip=0&key={server.clip_key(0)}"
        connection.request("GET", address)
        assert connection.getresponse().read() == sound.read_bytes()
        first = connection.sock
        connection.request("GET", address, headers={"Range": "bytes=65530-131080"})
        assert connection.getresponse().read() == sound.read_bytes()[65530:131081]
        assert connection.sock is first is not None


def test_clips_come_from_a_manifest_too(tmp_path, clips):
    path = tmp_path / "bank.json"
    reviews.bank().save(path)
    manifest = tmp_path / "clips.csv"
    manifest.write_text("path,caption,label\nclips/rain_/2.wav,x,rain\nclips/none.wav,x,dog\n")
    items = session_of(path).items
    assert clips_of(items, manifest) == {"rain": [clips / "rain_" / "2.wav"]}
    manifest.write_text("path,caption\nclips/rain_/2.wav,Rain\n")
    assert clips_of(items, manifest) == {"rain": [clips / "rain_" / "2.wav"]}
    manifest.write_text("path,caption\nclips/rain_/2.wav,snow\n")
    with pytest.raises(FormatError, match="no clip of any label"):
        clips_of(items, manifest)
    with pytest.raises(FileNotFoundError):
        clips_of(items, tmp_path / "none.csv")


def test_clips_under_another_name_than_a_labels_are_reported(tmp_path, clips, caplog):
    path = tmp_path / "bank.json"
    reviews.bank().save(path)
    (clips / "dog_bark").mkdir()
    (clips / "snow").mkdir()
    items = open_document(path).items
    assert set(clips_of(items, clips)) == {"dog", "rain"}
    assert "2 names are not offered" in caplog.text
    assert "called so: 'dog bark' (for 'dog'?), 'snow'" in caplog.text
    caplog.clear()
    for name in ("dog_bark", "snow"):
        (clips / name).rmdir()
    assert set(clips_of(items, clips)) == {"dog", "rain"}
    assert caplog.text == ""


def test_rewrites_bring_their_own_sounds(tmp_path, clips):
    rows = reviews.write_rewrites(tmp_path / "rows.jsonl")
    (tmp_path / "a.wav").write_bytes((clips / "Dog" / "0.wav").read_bytes())
    assert clips_of(session_of(rows).items, None) == {"A dog barks": [tmp_path / "a.wav"]}
