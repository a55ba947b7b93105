"""Every allocation failed once: MemoryError, and the same objects give the same bits afterwards.

Each kind of work runs in a process of its own (nomemory.py), into which nomemory.c is preloaded: it
sees what the core asks of the C library, whichever function does, without a line in the core. The
allocators of CPython fail through hooks of its own. oneDNN and libsndfile write through the null
pointers that they get, which no caller can help, and libgomp ends the process; so these may have
all memory here.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import reclap

HERE = Path(__file__).resolve().parent
CORE = {
    "load": ("float32", "int8"),
    "pack": ("float32", "bfloat16x1", "int8"),
    "embed": ("float32", "bfloat16x1", "int8", "float32x6"),
    "train": ("float32",),
    "step": ("float32",),
    "adapt": ("float32",),
    "decode": ("float32",),
    "mel": ("float32",),
    "score": ("float32",),
}
PYTHON = ("load", "pack", "embed", "step", "decode", "mel", "score")


@pytest.fixture(scope="module")
def preload(tmp_path_factory):
    compiler = shutil.which("cc")
    if compiler is None or os.confstr("CS_GNU_LIBC_VERSION") is None:
        pytest.skip("needs a C compiler (cc) and glibc")
    out = tmp_path_factory.mktemp("nomemory") / "nomemory.so"
    source = str(HERE / "nomemory.c")
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(out), source]
    subprocess.run(command, check=True)  # noqa: S603
    return out


def failures(work, whose, dtype, **variables):
    """Run nomemory.py; return how many allocations it failed."""
    path = os.pathsep.join([str(Path(reclap.__file__).parents[1]), str(HERE)])
    environment = {**os.environ, "PYTHONPATH": path, **variables}
    program = [sys.executable, "-X", "faulthandler", str(HERE / "nomemory.py")]
    command = [*program, work, whose, dtype]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)  # noqa: S603
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-3000:]}"
    return int(done.stdout)


@pytest.mark.parametrize(("work", "dtype"), [(w, t) for w, types in CORE.items() for t in types])
def test_each_allocation_of_the_core_may_fail(preload, work, dtype):
    assert failures(work, "core", dtype, LD_PRELOAD=str(preload)) >= 1


@pytest.mark.parametrize("work", PYTHON)
def test_each_allocation_of_python_may_fail(work):
    if importlib.util.find_spec("_testcapi") is None:
        pytest.skip("this Python came without _testcapi")
    assert failures(work, "python", "float32") >= 1
