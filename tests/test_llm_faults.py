"""A server that is at fault 30 % of the time, and runs that are killed: all comes out whole.

The figures of the first two tests are those of docs/describe.md:

    python -m pytest tests/test_llm_faults.py -s
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from llm_server import FAULTS, Faulty, Server, captions
from needs import needs

import reclap
from reclap.llm.cache import Cache
from reclap.llm.collect import Sampling
from reclap.llm.describe import Plan, describe
from reclap.llm.rewrite import RewritePlan, rewrite
from reclap.llm.server import Server as Client
from reclap.llm.session import Session
from reclap.prompts.bank import PromptBank

needs("openai", "llm")

PARENT = Path(reclap.__file__).parents[1]  # of the package that is tested
KILLS = 20
KINDS = ("dog", "bell", "saw", "drum", "pump", "horse", "door", "fan", "frog", "car")
FIFTY = [f"{how} {kind}" for how in ("small", "old", "big", "wet", "far") for kind in KINDS]
TRANSPORT = {"HTTP 429", "HTTP 500", "timeout", "connection lost"}
# What is wrong with a reply as a whole is counted once, what is wrong with texts once for each.
WHOLE = {"truncated reply", "invalid JSON", "empty reply"}


def session(server, path, timeout=2.0):
    return Session(Client(server.url, "m", timeout=timeout), Cache(path), backoff=0.01)


def read(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def check_counts(faulty, report):
    """Compare what the server did with what the report counts."""
    for kind in FAULTS:
        done, counted = faulty.injected[kind], report.faults.get(kind, 0)
        assert done > 0
        assert counted == done if kind in TRANSPORT | WHOLE else counted >= done, kind
    assert report.usage["requests"] == faulty.injected.total()
    print(f"\n{dict(faulty.injected)}\n{report.text()}")


@pytest.mark.slow
def test_describe_is_complete_and_valid_at_30_percent_faults(tmp_path):
    faulty = Faulty(hang=2.5, seed=1)
    plan = Plan(5, 10, Sampling(attempts=12), workers=16)
    with Server(faulty) as server, session(server, tmp_path / "c") as llm:
        bank, report = describe(FIFTY, llm, plan)
    assert bank.labels == tuple(FIFTY)
    for entry in bank.entries.values():
        assert [len(d.prompts) for d in entry.descriptions] == [10] * 5
        assert len({p.text for p in entry.in_use}) == 50
    assert (report.incomplete, report.accepted) == (0, 50 * 55)
    check_counts(faulty, report)
    with Session(None, Cache(tmp_path / "c"), name="m") as replay:
        assert describe(FIFTY, replay, plan)[0] == bank


@pytest.mark.slow
def test_rewrite_is_complete_and_valid_at_30_percent_faults(tmp_path):
    rows = [{"path": f"{i}.wav", "caption": c} for i, c in enumerate(captions(1000))]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    faulty = Faulty(hang=2.5, seed=2)
    plan = RewritePlan(3, Sampling(attempts=12), workers=16)
    with Server(faulty) as server, session(server, tmp_path / "c") as llm:
        report = rewrite(source, tmp_path / "out.jsonl", llm, plan)
    found = read(tmp_path / "out.jsonl")
    assert [{k: row[k] for k in ("path", "caption")} for row in found] == rows
    assert all(len(set(row["rewrites"])) == 3 for row in found)
    assert (report.items, report.incomplete) == (1000, 0)
    check_counts(faulty, report)


# ---- Killed --------------------------------------------------------------------------------------


def kill_and_go_on(command, done, check, lives=(0.8, 2.2)):
    """Run a command, killing it at random moments, until it has been killed often enough.

    If it is done before that, which depends on the machine, it is checked and begins anew.
    """
    moments = random.Random(3)  # noqa: S311
    environment = {**os.environ, "PYTHONPATH": str(PARENT)}
    killed = 0
    while killed < KILLS:
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:  # noqa: S603
            time.sleep(moments.uniform(*lives))
            process.send_signal(signal.SIGKILL)
        assert process.returncode in (0, -signal.SIGKILL)
        killed += process.returncode != 0
        if done.exists():
            check()
            for path in (done, *done.parent.glob("c.sqlite*")):
                path.unlink()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    check()


def arguments(server, tmp_path, attempts=12):
    return [
        "--base-url", server.url, "--llm", "m", "--sense", "none", "--timeout", "0.4",
        "--attempts", str(attempts), "--concurrency", "16", "--cache", str(tmp_path / "c.sqlite"),
    ]  # fmt: skip


@pytest.mark.slow
def test_rewrite_killed_20_times_has_every_row_once(tmp_path):
    rows = [{"path": f"{i}.wav", "caption": c} for i, c in enumerate(captions(1000))]
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def check():
        found = read(out)
        assert [{k: row[k] for k in ("path", "caption")} for row in found] == rows
        assert all(len(set(row["rewrites"])) == 2 for row in found)

    with Server(Faulty(hang=0.6, delay=0.05)) as server:
        command = [sys.executable, "-m", "reclap", "rewrite", str(source), "-o", str(out)]
        kill_and_go_on([*command, "-k", "2", *arguments(server, tmp_path)], out, check)


@pytest.mark.slow
def test_describe_killed_20_times_is_whole(tmp_path):
    labels, out = tmp_path / "labels.txt", tmp_path / "bank.json"
    labels.write_text("\n".join(FIFTY))

    def check():
        bank = PromptBank.load(out)
        assert bank.labels == tuple(FIFTY)
        assert all(len({p.text for p in entry.in_use}) == 20 for entry in bank.entries.values())

    with Server(Faulty(hang=0.6, delay=0.1)) as server:
        command = [sys.executable, "-m", "reclap", "describe", str(labels), "-o", str(out)]
        options = ["-t", "5", "-n", "4", *arguments(server, tmp_path)]
        kill_and_go_on([*command, *options], out, check)
