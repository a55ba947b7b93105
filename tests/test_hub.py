"""Hub ids: from a cache laid out as the hub's package does, and from a server on this machine."""

import hashlib
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from needs import needs

import reclap
from reclap.checkpoints import hub
from reclap.cli import main

huggingface_hub = needs("huggingface_hub", "hub")

NEW, OLD = "a" * 40, "b" * 40


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Return an empty cache of the hub, with every network connection forbidden."""
    from huggingface_hub import constants

    def refuse(*_):
        raise AssertionError("a network connection was asked for")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return tmp_path / "cache"


def place(cache, repository, source, commit=NEW, branch="main"):
    """Put a folder into the cache, as a download would have done: blobs, links, a reference."""
    home = cache / f"models--{repository.replace('/', '--')}"
    for path in source.rglob("*"):
        if path.is_file():
            blob = home / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
            link = home / "snapshots" / commit / path.relative_to(source)
            for folder in (blob.parent, link.parent):
                folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, blob)
            link.symlink_to(os.path.relpath(blob, link.parent))
    (home / "refs").mkdir(parents=True, exist_ok=True)
    (home / "refs" / branch).write_text(commit)


def test_id_in_the_cache_loads_offline(cache, small_folder, small):
    place(cache, "some/model", small_folder)
    model = reclap.load("some/model", offline=True)
    assert model.digest == small.digest
    assert NEW in model.info()["source"]


def test_environment_forbids_the_network(cache, small_folder, monkeypatch, capsys):
    place(cache, "some/model", small_folder)
    monkeypatch.setenv(hub.OFFLINE, "1")
    assert main(["info", "some/model"]) == 0
    assert main(["info", "some/other"]) == 2
    assert "offline" in capsys.readouterr().err


def test_command_line_option_forbids_the_network(cache, capsys):
    assert main(["classify", "x.wav", "--labels", "a", "--model", "no/such", "--offline"]) == 2
    assert "'no/such'" in capsys.readouterr().err


def test_revision_is_pinned(cache, small_folder, tmp_path):
    place(cache, "some/model", small_folder)
    place(cache, "some/model", small_folder, commit=OLD, branch="v1")
    for revision, commit in (("v1", OLD), (OLD, OLD), ("main", NEW), (None, NEW)):
        assert commit in str(hub.locate("some/model", revision, offline=True))
    with pytest.raises(FileNotFoundError, match="at revision v2"):
        hub.locate("some/model", "v2", offline=True)
    with pytest.raises(ValueError, match=r"revision: .* is no hub id"):
        reclap.load(small_folder, revision="v1")


def test_file_of_a_repository(cache, tmp_path):
    (tmp_path / "repo" / "sub").mkdir(parents=True)
    for name in ("a.pt", "sub/b.pt", "sub/vocab.txt"):
        (tmp_path / "repo" / name).write_bytes(b"x")
    place(cache, "some/files", tmp_path / "repo")
    path = hub.locate("some/files:sub/b.pt", offline=True)
    assert path.read_bytes() == b"x"
    assert (path.parent / "vocab.txt").is_file()
    with pytest.raises(FileNotFoundError, match=r"has no c\.pt"):
        hub.locate("some/files:c.pt", offline=True)
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        hub.locate("some/files", offline=True)


def test_prefix_says_that_an_id_is_one(cache, small_folder, small, tmp_path, monkeypatch, caplog):
    place(cache, "some/model", small_folder)
    (tmp_path / "some" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    model = reclap.load("hf:some/model", offline=True)
    assert model.digest == small.digest
    assert NEW in model.info()["source"]
    assert hub.locate("hf:some/model:config.json", offline=True).is_file()
    assert not caplog.records
    for name in ("hf:", "hf:model", "hf:a/b/c", "hf:a/../b"):
        with pytest.raises(ValueError, match="hub id is 'hf:"):
            reclap.load(name)


@pytest.mark.parametrize("offline", [False, True])
def test_bare_id_is_announced_before_the_hub_is_asked(monkeypatch, caplog, offline):
    said = []

    def snapshot(*_, **__):
        said.append(caplog.text)
        raise FileNotFoundError

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(FileNotFoundError):
        reclap.load("some/model", offline=offline)
    assert ("no such path: some/model; asking the Hugging Face hub" in said[0]) == (not offline)
    said.clear()
    caplog.clear()
    with pytest.raises(FileNotFoundError):
        reclap.load("hf:some/model", offline=offline)
    assert said == [""]


def test_missing_folder_beside_others_is_no_id(tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    assert not hub.is_hub_id("runs/smoke")
    with pytest.raises(
        FileNotFoundError, match=r"no model named or at 'runs/smoke'; .*hf:org/name"
    ):
        reclap.load("runs/smoke")


def test_address_is_named_as_one():
    with pytest.raises(FileNotFoundError, match=r"'https://host/model\.pt' is a URL: download"):
        reclap.load("https://host/model.pt")


def test_path_that_exists_wins(cache, small_folder, tmp_path, monkeypatch):
    shutil.copytree(small_folder, tmp_path / "some" / "model")
    monkeypatch.chdir(tmp_path)
    assert not hub.is_hub_id("some/model")
    assert reclap.load("some/model").info()["source"] == "some/model"


@pytest.mark.parametrize(
    "name",
    [
        "mini",
        "/some/model",
        "./some/model",
        "a/b/c",
        "a/..",
        "a/b:../c",
        "a/b:*.pt",
        "a b/c",
        "models/a.pt",
    ],
)
def test_other_names_are_no_ids(name):
    assert not hub.is_hub_id(name)


def test_missing_file_is_not_looked_for_on_the_hub():
    with pytest.raises(FileNotFoundError, match=r"no model named or at 'models/a\.pt'; bundled"):
        reclap.load("models/a.pt")


def test_message_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(reclap.MissingDependencyError, match="pip install huggingface_hub"):
        reclap.load("some/model")


# ---- A server ------------------------------------------------------------------------------------


class Hub(http.server.BaseHTTPRequestHandler):
    """The few answers of the hub that a download asks for."""

    folder: Path
    asked: list[str]

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def log_message(self, *_):
        """Stay silent."""

    def _answer(self, *, body):
        path = self.path.split("?")[0]
        type(self).asked.append(path)
        files = {p.name: p.read_bytes() for p in self.folder.iterdir() if p.is_file()}
        if path.startswith("/api/models/some/model"):
            listed = [{"type": "file", "path": n, "rfilename": n, "size": len(x), "oid": "c" * 40}
                      for n, x in files.items()]  # fmt: skip
            answer = listed if "/tree/" in path else {"id": "x", "sha": NEW, "siblings": listed}
            return self._send(json.dumps(answer).encode(), body, "application/json")
        name = path.rpartition("/")[2]
        if not path.startswith("/some/model/resolve/") or name not in files:
            return self._send(b"{}", body, "application/json", status=404)
        return self._send(files[name], body, "application/octet-stream")

    def _send(self, data, body, kind, status=200):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", NEW)
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        if body:
            self.wfile.write(data)


@pytest.fixture
def server(small_folder, tmp_path):
    """Return address, requests and folder of a server that holds one model and much else."""
    folder = tmp_path / "served"
    shutil.copytree(small_folder, folder)
    (folder / "README.md").write_text("not needed")
    (folder / "pytorch_model.bin").write_bytes(b"not needed beside safetensors")
    handler = type("Handler", (Hub,), {"folder": folder, "asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}", handler.asked, folder
        httpd.shutdown()
        thread.join()


def run(command, server, home, **more):
    """Run Python in a process of its own, as the hub's package reads its settings once."""
    env = os.environ | {"HF_ENDPOINT": server, "HF_HOME": str(home), **more}
    env["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    command = [sys.executable, *command]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)  # noqa: S603


def info(name, server, home, *options, **more):
    return run(["-m", "reclap", "info", name, *options], server, home, **more)


def test_only_what_is_needed_is_downloaded(server, tmp_path, small):
    address, asked, _ = server
    ran = info("some/model", address, tmp_path / "home")
    assert ran.returncode == 0, ran.stderr
    assert small.digest in ran.stdout
    names = {p.name for p in (tmp_path / "home").rglob(f"snapshots/{NEW}/*")}
    wanted = {"config.json", "model.safetensors", "text.safetensors", "tokenizer.json"}
    assert names == wanted
    asked.clear()
    again = info("some/model", address, tmp_path / "home", "--offline")
    assert (again.returncode, asked) == (0, [])
    again = info("some/model", address, tmp_path / "home", RECLAP_OFFLINE="1")
    assert (again.returncode, asked) == (0, [])


def test_older_weights_are_taken_where_there_are_no_others(server, tmp_path):
    address, _, folder = server
    (folder / "model.safetensors").unlink()
    code = (
        "from reclap.checkpoints import hub;"
        "print(*sorted(p.name for p in hub.locate('some/model').iterdir()))"
    )
    ran = run(["-c", code], address, tmp_path / "home")
    assert sorted(Path(line).name for line in ran.stdout.split()) == [
        "config.json",
        "pytorch_model.bin",
        "text.safetensors",
        "tokenizer.json",
    ]


def test_unknown_repository_is_an_error_of_one_line(server, tmp_path):
    ran = info("some/nothing", server[0], tmp_path / "home")
    assert ran.returncode == 2
    announced, error = ran.stderr.splitlines()
    assert announced.startswith("no such path: some/nothing")
    assert error.startswith("reclap: some/nothing")


def test_no_server_is_an_error_of_one_line(tmp_path):
    ran = info("hf:some/model", "http://127.0.0.1:9", tmp_path / "home")
    assert ran.returncode == 2
    assert "'some/model'" in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_locate_refuses_what_is_no_id():
    with pytest.raises(ValueError, match="hub id is"):
        hub.locate("a/b/c")


def test_importing_brings_no_network_package():
    code = (
        "import sys, reclap, reclap.checkpoints.hub, reclap.model.loading, reclap.cli; "
        "sys.exit(bool({'huggingface_hub', 'httpx', 'requests', 'torch'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], timeout=60)  # noqa: S603
    assert ran.returncode == 0
