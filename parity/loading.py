"""Time and memory of `reclap.load` beside those of `torch.load`, each in a process of its own."""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 3


def measure(path: Path) -> dict[str, float]:
    """Load a checkpoint by both in turn; return medians.

    Parameters
    ----------
    path : Path
        A file that torch.save wrote, in the page cache.

    Returns
    -------
    dict of str to float
        ``load_s`` and ``torch_load_s``; the same in seconds of processors, ``load_cpu_s`` and
        ``torch_load_cpu_s``; ``load_peak_mb`` and ``torch_load_peak_mb``, the most
        memory over that of the process with its libraries; ``load_resident_mb``, what is left of
        it once our model is ready, and ``weights_mb``, its float32 weights. `torch.load` gives
        tensors, no model.
    """
    rows: dict[str, list[dict[str, float]]] = {"reclap": [], "torch": []}
    for _ in range(ROUNDS):
        for way, found in rows.items():
            command = [sys.executable, __file__, way, str(path)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
            found.append(json.loads(done.stdout))
    ours, torchs = (_medians(found) for found in rows.values())
    return ours | {f"torch_{name}": x for name, x in torchs.items() if name != "load_resident_mb"}


def _medians(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def _load(way: str, path: str) -> dict[str, float]:
    if way == "reclap":
        import reclap

        reclap.load("mini").embed_text(["libraries are in memory now"])
    else:
        import torch
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    began, worked = time.perf_counter(), time.process_time()
    if way == "reclap":
        model = reclap.load(path)
    else:
        held = torch.load(path, map_location="cpu", weights_only=False)
    found = {"load_s": time.perf_counter() - began}
    found["load_cpu_s"] = time.process_time() - worked
    found["load_peak_mb"] = _memory("VmHWM") - before
    found["load_resident_mb"] = _memory("VmRSS") - before
    if way == "reclap":
        found["weights_mb"] = model.info()["parameters"]["total"] * 4 / 1e6
    else:
        del held
    return found


def _memory(name: str) -> float:
    """Return a figure of this process in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024 / 1e6


if __name__ == "__main__":
    print(json.dumps(_load(*sys.argv[1:])))
