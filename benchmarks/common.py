"""The harness of all benchmarks: a peer in its own process, alternating rounds, one report.

A script compares answers first and only then the clock. Ours runs in this process, the peer in a
fresh one that never loads reclap's libraries, each with its own threads. Rounds alternate ours,
peer, ours, peer; the report gives medians, their ratio with its spread over the rounds, peak
resident memory, threads, versions, and what the processor can do.
"""

import argparse
import datetime
import json
import multiprocessing
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

# Limits that a machine may set for NumPy's own products; torch and NumPy should choose freely.
UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8")

Call = Callable[[], Any]


def parse(
    argv: list[str] | None = None, *, rounds: int, threads: int, about: str | None = None
) -> argparse.Namespace:
    """Read the arguments that all benchmarks share."""
    p = argparse.ArgumentParser(description=(about or "").split("\n")[0])
    p.add_argument("--rounds", type=int, default=rounds, help="of ours and of the peer each")
    p.add_argument("--threads", type=int, default=threads, help="of ours and of the peer each")
    p.add_argument("--only", default="", help="run the rows whose name contains this")
    p.add_argument("--json", action="store_true", help="one JSON object a row")
    return p.parse_args(argv)


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0))


class Peer:
    """A function that runs in a process of its own; calling it returns its answer.

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
        os.environ["OMP_NUM_THREADS"] = str(threads)
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

    def seconds(self) -> float:
        """Run once and return the time that the peer itself measured."""
        return self._ask("time")

    def memory(self) -> float:
        """Return the child's peak resident memory in MB."""
        return self._ask("memory")


def _serve(pipe: Any, make: Callable[..., Call], arguments: tuple[Any, ...]) -> None:
    try:
        run = make(*arguments)
        actions = {"answer": run, "time": lambda: clock(run), "memory": memory}
        while True:
            pipe.send((True, actions[pipe.recv()]()))
    except EOFError:
        pass
    except Exception as error:  # reaches the parent as text, whatever it is
        pipe.recv()
        pipe.send((False, f"{type(error).__name__}: {error}"))


def clock(run: Call) -> float:
    """Return the seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def memory() -> float:
    """Return this process's peak resident memory in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def same(name: str, ours: Any, peer: Any, tolerance: float) -> float:
    """Return the largest difference of two answers; end the program where it is too large."""
    gap = float(np.abs(np.asarray(ours) - np.asarray(peer)).max())
    if not gap <= tolerance:  # NaN too
        raise SystemExit(f"{name}: answers differ by {gap:.1e}, allowed {tolerance:.0e}")
    return gap


def alternate(ours: Call, peer: Peer, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Time ours, peer, ours, peer, ...; both have run at least once before the first round."""
    ours(), peer()
    pairs = [(clock(ours), peer.seconds()) for _ in range(rounds)]
    a, b = np.array(pairs).T
    return a, b


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
    """Print one row: medians of seconds per item, and ours / peer with its 10-90 % spread."""
    ratios = ours / peer
    low, high = np.percentile(ratios, [10, 90])
    row = {
        "name": name,
        "ours": float(np.median(ours)) / per,
        "peer": float(np.median(peer)) / per,
        "peer_name": peer_name,
        "ratio": float(np.median(ours) / np.median(peer)),
        "ratio_low": float(low),
        "ratio_high": float(high),
        "rounds": len(ours),
        "threads": args.threads,
        **more,
    }
    if args.json:
        print(json.dumps(row | {"machine": machine()}), flush=True)
    else:
        extra = "".join(f", {k} {v:.3g}" for k, v in more.items())
        print(
            f"{name:34s} ours {row['ours'] * 1e3:8.2f} ms   {peer_name} {row['peer'] * 1e3:8.2f} ms"
            f"   ratio {row['ratio']:.2f} ({low:.2f}-{high:.2f})   threads {args.threads}{extra}",
            flush=True,
        )
    return row


def header(args: argparse.Namespace, *packages: str) -> None:
    """Print once what the rows were measured on."""
    if not args.json:
        print(", ".join(f"{k} {v}" for k, v in machine(*packages).items()), flush=True)


def machine(*packages: str) -> Mapping[str, Any]:
    """Return versions, processor and its features, date."""
    names = packages or ("numpy", "onednn-cpu-gomp", "torch", "transformers", "soxr")
    versions = {name: metadata.version(name) for name in names if _installed(name)}
    cpu = Path("/proc/cpuinfo").read_text("utf-8") if sys.platform == "linux" else ""
    flags = next((s for s in cpu.splitlines() if s.startswith("flags")), "").split()
    model = next((s for s in cpu.splitlines() if s.startswith("model name")), ": unknown")
    return {
        "date": datetime.date.today().isoformat(),
        "processor": model.split(":")[1].strip(),
        "processors": processors(),
        "features": " ".join(f for f in FEATURES if f in flags),
        "python": platform.python_version(),
        **versions,
    }


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
