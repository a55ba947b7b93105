"""Processes that are made while others of their kind are at work: children work, or say why not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from folders import EXAMPLES
from needs import needs

import reclap

HERE = Path(__file__).resolve().parent
LONGEST = 400.0  # seconds; a child that hangs ends itself after less

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def run(program, what, folder):
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(reclap.__file__).parents[1]), str(HERE)])
    environment["PYTHONWARNINGS"] = "ignore"  # forking beside threads is what is tried here
    command = [sys.executable, str(HERE / program), what, str(folder)]
    command.append(str(EXAMPLES / "rain.ogg"))
    done = subprocess.run(  # noqa: S603
        command, env=environment, capture_output=True, text=True, timeout=LONGEST
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@needs_fork
@pytest.mark.parametrize(
    "state", ["contexts", "products", "opens", "embeds", "loads", "reads_ahead", "trains"]
)
def test_children_of_a_process_at_work_do_their_work(small_folder, state):
    done = run("forks.py", state, small_folder)
    assert done.stdout.strip() == "0", done.stderr[-3000:]


@needs_fork
@pytest.mark.parametrize("kind", ["fork", "forkserver", "spawn"])
def test_pools_of_processes_embed(small_folder, kind):
    run("pools.py", kind, small_folder)


@needs_fork
@pytest.mark.oracle
def test_workers_of_a_data_loader_embed(small_folder):
    needs("torch", "oracle")
    run("pools.py", "dataloader", small_folder)
