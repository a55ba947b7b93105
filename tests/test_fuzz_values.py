"""The value fuzzer: its seeds work, some of its cases, and it sees a process end."""

import subprocess
import sys
from pathlib import Path

import pytest
import values

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "fuzz" / "mutate_values.py"


@pytest.mark.parametrize("number", range(len(values.seeds())))
def test_what_mutations_begin_with_works(number):
    assert values.run(values.seeds()[number], number) == "worked"


def test_some_hundred_values_are_refused_or_work():
    command = [sys.executable, SCRIPT, "--count", "300", "--seed", "5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stdout
    assert " 0 findings" in done.stdout


def test_a_case_that_ends_the_process_is_found_and_the_rest_runs(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "fuzz")
    import mutate_values

    script = tmp_path / "crash.py"
    script.write_text(
        "import os, struct, sys\n"
        "first, end, fd = map(int, sys.argv[-3:])\n"
        "for n in range(first, end):\n"
        "    os.pwrite(fd, struct.pack('q', n), 0)\n"
        "    if n in (12, 15): os.abort()\n"
        "print('worked=4')\n"
    )
    counts, found = mutate_values.run_block(1, 10, 20, str(script))
    assert [line.split(":")[0] for line in found] == [
        "case 12 ended with -6",
        "case 15 ended with -6",
    ]
    assert counts == {"worked": 4}
