"""The harness of all benchmarks: a peer in its own process, alternating rounds, one report.

A script compares answers first and only then the clock. Ours runs in this process or in one of its
own, the peer in a fresh one that never loads reclap's libraries, each with its own threads. Rounds
alternate ours, peer, ours, peer; the report gives medians, their ratio with its spread over the
rounds, the ratio of processor time, peak resident memory, threads, versions, and what the
processor can do. A peer that is not installed is left out, with a line that says so.
"""

import argparse
import csv
import datetime
import json
import logging
import multiprocessing
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

# Limits that a machine may set for NumPy's own products; torch and NumPy should choose freely.
UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
QUIET = {"PYTHONWARNINGS": "ignore", "TRANSFORMERS_VERBOSITY": "error"}  # peers warn much
FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8")

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    "numpy",
    "onednn-cpu-gomp",
    "torch",
    "transformers",
    "openvino",
    "onnxruntime",
    "faiss-cpu",
    "librosa",
    "soxr",
)

Call = Callable[[], Any]
Side: TypeAlias = "Here | Command | Peer"


def parser(about: str | None, *, rounds: int, threads: int) -> argparse.ArgumentParser:
    """Return a parser of the arguments that all benchmarks share."""
    p = argparse.ArgumentParser(description=(about or "").split("\n")[0])
    p.add_argument("--rounds", type=int, default=rounds, help="of ours and of the peer each")
    p.add_argument("--threads", type=int, default=threads, help="of ours and of the peer each")
    p.add_argument("--only", default="", help="run the rows whose name contains this")
    p.add_argument("--quick", action="store_true", help="small sizes: only whether answers agree")
    p.add_argument("--json", action="store_true", help="one JSON object a row")
    return p


def parse(
    argv: list[str] | None = None, *, rounds: int, threads: int, about: str | None = None
) -> argparse.Namespace:
    """Read the arguments that all benchmarks share."""
    return parser(about, rounds=rounds, threads=threads).parse_args(argv)


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0))


class Here:
    """A side of a benchmark that runs in this process."""

    def __init__(self, run: Call) -> None:
        self._run = run

    def __call__(self) -> Any:
        return self._run()

    def cost(self) -> tuple[float, float]:
        """Run once and return seconds by the clock and of processor time."""
        return clock(self._run)

    def memory(self) -> float:
        """Return the peak resident memory in MB."""
        return memory()


class Command:
    """A side that is a whole process, from its start to its end; calling it returns its output.

    Parameters
    ----------
    arguments : list of str
        The command.
    """

    def __init__(self, arguments: list[str], **environment: str) -> None:
        self._arguments, self._environment = arguments, os.environ | environment
        self._peak = 0.0

    def __call__(self) -> str:
        return self._run()[0]

    def cost(self) -> tuple[float, float]:
        """Run once and return seconds by the clock and of processor time."""
        return self._run()[1]

    def memory(self) -> float:
        """Return the peak resident memory of all runs so far in MB."""
        return self._peak

    def _run(self) -> tuple[str, tuple[float, float]]:
        start = time.perf_counter()
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
            child = subprocess.Popen(  # noqa: S603
                self._arguments, stdout=out, stderr=errors, env=self._environment
            )
            _, status, used = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)  # or Popen waits again
            seconds = time.perf_counter() - start
            out.seek(0), errors.seek(0)
            if child.returncode:
                raise RuntimeError(f"{self._arguments}: {errors.read()[-500:]}")
            self._peak = max(self._peak, used.ru_maxrss / 1024)
            return out.read(), (seconds, used.ru_utime + used.ru_stime)


class Peer:
    """A side that runs in a process of its own; calling it returns its answer.

    Parameters
    ----------
    make : function
        Found by name in the child: a module-level function of a script. Called there with
        `arguments`, it returns the function to run.
    threads : int
        OMP_NUM_THREADS of the child.
    """

    def __init__(self, make: Callable[..., Call], *arguments: Any, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        before = dict(os.environ)
        os.environ |= QUIET | {"OMP_NUM_THREADS": str(threads)}
        for name in UNSET:
            os.environ.pop(name, None)
        try:
            self._process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
        theirs.close()

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()  # ends the child's loop
        self._process.join()

    def _ask(self, what: str) -> Any:
        self._pipe.send(what)
        good, answer = self._pipe.recv()
        if not good:
            raise RuntimeError(f"the peer failed: {answer}")
        return answer

    def __call__(self) -> Any:
        return self._ask("answer")

    def cost(self) -> tuple[float, float]:
        """Run once and return what the peer itself measured, as `clock`."""
        return self._ask("cost")

    def memory(self) -> float:
        """Return the child's peak resident memory in MB."""
        return self._ask("memory")


def _serve(pipe: Any, make: Callable[..., Call], arguments: tuple[Any, ...]) -> None:
    logging.disable(logging.WARNING)
    try:
        run = make(*arguments)
        actions = {"answer": run, "cost": lambda: clock(run), "memory": memory}
        while True:
            pipe.send((True, actions[pipe.recv()]()))
    except EOFError:
        pass
    except Exception as error:  # reaches the parent as text, whatever it is
        pipe.recv()
        pipe.send((False, f"{type(error).__name__}: {error}"))


def clock(run: Call) -> tuple[float, float]:
    """Return the seconds of one call by the clock, and of processor time in all its threads."""
    start, used = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - start, time.process_time() - used


def memory() -> float:
    """Return this process's peak resident memory in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def same(name: str, ours: Any, peer: Any, tolerance: float) -> float:
    """Return the largest difference of two answers; end the program where it is too large."""
    gap = float(np.abs(np.asarray(ours) - np.asarray(peer)).max())
    if not gap <= tolerance:  # NaN too
        raise SystemExit(f"{name}: answers differ by {gap:.1e}, allowed {tolerance:.0e}")
    return gap


def alternate(ours: Side, peer: Side, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Time ours, peer, ours, peer, ... after one run of each.

    Returns
    -------
    ours, peer : ndarray of float64, shape (rounds, 2)
        Seconds by the clock and of processor time.
    """
    ours(), peer()
    pairs = np.array([(ours.cost(), peer.cost()) for _ in range(rounds)])
    return pairs[:, 0], pairs[:, 1]


def compare(
    name: str,
    ours: Side,
    peer: Side,
    peer_name: str,
    args: argparse.Namespace,
    *,
    tolerance: float,
    gap: Callable[[Any, Any], Any] = np.subtract,
    per: int = 1,
    **more: Any,
) -> dict[str, Any]:
    """Compare the answers of both sides, time them, and print the row; see `report`.

    Parameters
    ----------
    tolerance : float
        Largest allowed value of `gap(ours, peer)`.
    per : int
        Items of one call.
    """
    difference = same(name, gap(ours(), peer()), 0, tolerance)
    a, b = alternate(ours, peer, args.rounds)
    peaks = {"memory_mb": ours.memory(), "peer_memory_mb": peer.memory()}
    return report(name, a, b, peer_name, args, per=per, difference=difference, **peaks, **more)


def report(
    name: str,
    ours: np.ndarray,
    peer: np.ndarray,
    peer_name: str,
    args: argparse.Namespace,
    *,
    per: int = 1,
    **more: Any,
) -> dict[str, Any]:
    """Print one row: medians of seconds per item, ours / peer with its 10-90 % spread.

    `cpu_ratio` is the ratio of processor time, which other work on the machine hardly moves; a
    side whose threads spin while they wait is charged for that too.
    """
    low, high = np.percentile(ours[:, 0] / peer[:, 0], [10, 90])
    (a, a_cpu), (b, b_cpu) = np.median(ours, axis=0), np.median(peer, axis=0)
    row = {
        "name": name,
        "ours": a / per,
        "peer": b / per,
        "peer_name": peer_name,
        "ratio": a / b,
        "ratio_low": low,
        "ratio_high": high,
        "ours_cpu": a_cpu / per,
        "peer_cpu": b_cpu / per,
        "cpu_ratio": a_cpu / b_cpu,
        "rounds": len(ours),
        "threads": args.threads,
        **more,
    }
    if args.json:
        print(json.dumps(row | {"machine": machine()}), flush=True)
    else:
        extra = "".join(f", {k} {v:.3g}" for k, v in more.items())
        print(
            f"{name:34s} ours {a / per * 1e3:8.2f} ms   {peer_name} {b / per * 1e3:8.2f} ms   "
            f"ratio {a / b:.2f} ({low:.2f}-{high:.2f})   processor time {row['cpu_ratio']:.2f}   "
            f"threads {args.threads}{extra}",
            flush=True,
        )
    return row


def installed(name: str) -> bool:
    """Tell whether a distribution is there."""
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def skip(name: str, why: str, args: argparse.Namespace) -> None:
    """Say that a row is left out."""
    if args.json:
        print(json.dumps({"name": name, "skipped": why}), flush=True)
    else:
        print(f"{name:34s} skipped: {why}", flush=True)


def lacks(name: str, packages: Sequence[str], args: argparse.Namespace) -> bool:
    """Tell whether a row cannot be run, and say so, because a package is not installed."""
    absent = [package for package in packages if not installed(package)]
    if absent:
        skip(name, f"{', '.join(absent)} not installed", args)
    return bool(absent)


def shared() -> Path | None:
    """Return the folder of recordings and captions beside the checkout, if it is there."""
    folder = Path(os.environ.get("RECLAP_SHARED") or ROOT.parent / "shared")
    return folder if folder.is_dir() else None


def captions() -> list[str]:
    """Return the captions of AudioCaps' test part in the file's order; none where it is absent."""
    folder = shared()
    if folder is None:
        return []
    path = folder / "captions" / "audiocaps_test.csv"
    with path.open(newline="", encoding="utf-8") as f:
        return [row["caption"] for row in csv.DictReader(f)]


def esc10() -> list[dict[str, str]]:
    """Return the clips of ESC-10 with their path, fold and label; none where they are absent."""
    above = shared()
    if above is None:
        return []
    folder = above / "audio" / "esc10"
    with (folder / "esc10.csv").open(newline="", encoding="utf-8") as f:
        return [row | {"path": str(folder / row["path"])} for row in csv.DictReader(f)]


def header(args: argparse.Namespace) -> None:
    """Print once what the rows were measured on."""
    if not args.json:
        print(", ".join(f"{k} {v}" for k, v in machine().items()), flush=True)


def machine(*packages: str) -> Mapping[str, Any]:
    """Return versions, processor and its features, date, how busy the machine is."""
    names = packages or PACKAGES
    versions = {name: metadata.version(name) for name in names if installed(name)}
    cpu = Path("/proc/cpuinfo").read_text("utf-8") if sys.platform == "linux" else ""
    flags = next((s for s in cpu.splitlines() if s.startswith("flags")), "").split()
    model = next((s for s in cpu.splitlines() if s.startswith("model name")), ": unknown")
    return {
        "date": datetime.date.today().isoformat(),
        "processor": model.split(":")[1].strip(),
        "processors": processors(),
        "features": " ".join(f for f in FEATURES if f in flags),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **versions,
    }
