"""Load damaged checkpoints: each must load or fail cleanly, run nothing and stay within memory.

    python fuzz/mutate_checkpoints.py --count 10000 --seed 1

checks so many mutations each of a .pt, a .pth, a .safetensors, a config.json and a tokenizer.json.
A failure keeps the file and names it.
"""

import argparse
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import folders  # noqa: E402
import mutations  # noqa: E402


def main() -> None:
    """Run as the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000, help="mutations of each kind of file")
    parser.add_argument("--seed", type=int, default=1)
    kinds = ("pt", "pth", "safetensors", "config", "tokenizer")
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=kinds)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="reclap-fuzz-"))
    model = folders.write_folder(folder / "model")
    for kind in options.kinds:
        name, load, seeds = _target(kind, model)
        began = time.perf_counter()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        fine = mutations.run(folder / name, load, seeds, options.count, options.seed)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
        print(
            f"{kind:12} {options.count} mutations: {fine} loaded, {options.count - fine} refused,"
            f" {time.perf_counter() - began:.0f} s, peak memory grew by {grown} MiB",
            flush=True,
        )
    shutil.rmtree(folder)


def _target(kind, model):
    read = [
        (model / name).read_bytes()
        for name in ("model.safetensors", "config.json", "tokenizer.json")
    ]
    return {
        "pt": lambda: ("a.pt", mutations.load_pickle, mutations.torch_files(legacy=False)),
        "pth": lambda: ("a.pth", mutations.load_pickle, mutations.torch_files(legacy=True)),
        "safetensors": lambda: ("a.safetensors", mutations.load_tensors, read[:1]),
        "config": lambda: ("config.json", mutations.load_config, read[1:2]),
        "tokenizer": lambda: ("tokenizer.json", mutations.load_tokenizer, read[2:]),
    }[kind]()


if __name__ == "__main__":
    main()
