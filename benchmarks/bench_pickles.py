"""How fast and how small the weights of a torch checkpoint load, beside torch.load.

    python benchmarks/bench_pickles.py --megabytes 1665 --rounds 3    # ReCLAP's size

writes a checkpoint of so many megabytes of float32 weights in ReCLAP's shapes with Adam's two
moments beside them, loads it in fresh processes, ours and torch's in turn, compares the weights,
and deletes it. Times are of the load alone, the file in the page cache; memory is the peak of the
process less what it had before the load. "read" means that every byte of the weights was used.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WAYS = ("reclap", "reclap, read", "torch.load", "torch.load, mmap, read")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--megabytes", type=int, default=30)
    p.add_argument("--quick", action="store_true", help="10 MB")
    p.add_argument("--legacy", action="store_true", help="the older container")
    p.add_argument("--load", nargs=2, help=argparse.SUPPRESS)
    p.add_argument("--write", help=argparse.SUPPRESS)
    options = p.parse_args()
    if options.quick:
        options.megabytes = 10
    if options.load:
        print(json.dumps(load(*options.load)))
    elif options.write:
        write(Path(options.write), options.megabytes * 1_000_000, legacy=options.legacy)
    else:
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder) / "checkpoint.pt", options)


def measure(path: Path, options: argparse.Namespace) -> None:
    legacy = ["--legacy"] * options.legacy
    run("--write", str(path), "--megabytes", str(options.megabytes), *legacy)
    ways = [way for way in WAYS if not (options.legacy and "mmap" in way)]
    rows = {way: [] for way in ways}
    for _ in range(options.rounds):
        for way in ways:
            rows[way].append(json.loads(run("--load", way, str(path))))
    sums = {tuple(row["sum"]) for way in ways for row in rows[way] if row["sum"]}
    if len(sums) != 1:
        raise SystemExit(f"the weights differ: {sums}")
    print(f"{path.stat().st_size / 1e6:.0f} MB; {options.rounds} rounds, medians")
    peer = {k: statistics.median(r[k] for r in rows["torch.load"]) for k in ("seconds", "bytes")}
    for way in ways:
        seconds, size = (statistics.median(r[k] for r in rows[way]) for k in ("seconds", "bytes"))
        print(
            f"{way:24} {seconds:8.3f} s ({seconds / peer['seconds']:5.2f} of torch.load)"
            f" {size / 1e6:8.0f} MB ({size / peer['bytes']:5.2f})"
        )


def run(*arguments: str) -> str:
    command = [sys.executable, __file__, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603


def write(path: Path, size: int, *, legacy: bool) -> None:
    import torch

    shapes = [(2816, 1024), (1024, 2816), (1024, 1024), (1024,), (3072,), (64, 64)]
    weights = {}
    while size > 0:
        shape = shapes[len(weights) % len(shapes)]
        weights[f"module.layer.{len(weights)}.weight"] = torch.randn(shape)
        size -= 4 * torch.Size(shape).numel()
    state = {
        i: {
            "step": torch.tensor(1.0),
            "exp_avg": torch.rand_like(x),
            "exp_avg_sq": torch.rand_like(x),
        }
        for i, x in enumerate(weights.values())
    }
    whole = {
        "epoch": 45,
        "name": "benchmark",
        "state_dict": weights,
        "optimizer": {"state": state, "param_groups": [{"lr": 1e-4, "params": list(state)}]},
    }
    torch.save(whole, path, _use_new_zipfile_serialization=not legacy)


def load(way: str, path: str) -> dict:
    """Return seconds, bytes and a check sum of one way of loading."""
    sys.path.insert(0, str(ROOT))
    if way.startswith("reclap"):
        from reclap import pickles
    else:
        import torch

        torch.set_num_threads(1)
    before, began = resident(), time.perf_counter()
    if way.startswith("reclap"):
        arrays = pickles.state_dict(path)
    else:
        tensors = torch.load(
            path, map_location="cpu", weights_only=True, mmap="mmap" in way or None
        )
        arrays = {name: x.numpy() for name, x in tensors["state_dict"].items()}
    sums = [float(x.max()) for x in arrays.values()] if "read" in way else []
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "seconds": seconds,
        "bytes": peak - before,
        "sum": [len(sums), sum(sums)] if sums else [],
    }


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


if __name__ == "__main__":
    main()
