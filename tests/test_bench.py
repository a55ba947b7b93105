"""``reclap bench``, and the harness of the benchmarks."""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from reclap.cli import main
from reclap.model.weights import choose_dtype

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import common

ARGS = argparse.Namespace(json=False, threads=1, rounds=2)


def bench(capsys, folder, *options):
    assert main(["bench", str(folder), "--seconds", "0.01", *options]) == 0
    return capsys.readouterr().out


def test_bench_measures_each_type_and_count_of_threads(small_folder, capsys):
    options = ("--threads", "1", "2", "--dtype", "float32", "int8", "--json")
    found = json.loads(bench(capsys, small_folder, *options))
    kinds = [(row["dtype"], row["threads"]) for row in found["rows"]]
    assert kinds == [("float32", 1), ("float32", 2), ("int8", 1), ("int8", 2)]
    assert found["rows"][0]["cosine"] == pytest.approx(1, abs=1e-5)
    for row in found["rows"]:
        assert min(row["clips_per_second"], row["texts_per_second"], row["load"]) > 0
        assert 0.9 < row["cosine"] < 1.0001


def test_bench_prints_a_table_of_what_the_processor_has(small_folder, capsys):
    about, head, *rows = bench(capsys, small_folder, "--threads", "1").splitlines()
    assert about.startswith("small, clips of 1 s")
    assert head.split()[:3] == ["dtype", "threads", "clips/s"]
    wide = ["bfloat16"] if choose_dtype("auto") == "bfloat16" else []
    assert [row.split()[0] for row in rows] == ["float32", *wide, "int8"]


def test_bench_refuses_no_time(small_folder, capsys):
    assert main(["bench", str(small_folder), "--seconds", "0"]) == 2
    assert "--seconds is 0.0, expected above 0" in capsys.readouterr().err


def test_clock_counts_processor_time():
    wall, used = common.clock(lambda: sum(range(10**6)))
    assert 0 < used <= 2 * wall + 0.02


def test_report_gives_ratios_of_both_clocks(capsys):
    ours, peer = np.array([[1.0, 2.0], [3.0, 2.0]]), np.array([[4.0, 8.0], [4.0, 8.0]])
    row = common.report("a row", ours, peer, "a peer", ARGS, per=2)
    assert (row["ours"], row["peer"], row["ratio"], row["cpu_ratio"]) == (1.0, 2.0, 0.5, 0.25)
    assert "ratio 0.50 (0.30-0.70)   processor time 0.25" in capsys.readouterr().out


def test_command_measures_another_process():
    side = common.Command([sys.executable, "-c", "print(sum(range(10**6)))"])
    assert side() == "499999500000\n"
    wall, used = side.cost()
    assert wall > 0
    assert used > 0
    assert side.memory() > 1


def test_command_that_fails_says_why():
    side = common.Command([sys.executable, "-c", "raise SystemExit('no such thing')"])
    with pytest.raises(RuntimeError, match="no such thing"):
        side()


def test_different_answers_end_a_benchmark():
    with pytest.raises(SystemExit, match=r"answers differ by 1\.0e\+00, allowed 1e-01"):
        common.compare(
            "x", common.Here(lambda: 1), common.Here(lambda: 2), "p", ARGS, tolerance=0.1
        )


def test_absent_peer_is_told(capsys):
    assert common.lacks("a row", ("numpy", "no-such-package"), ARGS)
    assert "skipped: no-such-package not installed" in capsys.readouterr().out
    assert not common.lacks("a row", ("numpy",), ARGS)
