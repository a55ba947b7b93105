"""Load damaged files of every reader: each must load or fail cleanly, run nothing, bound memory.

    python fuzz/mutate_files.py --count 10000 --seed 1

checks so many mutations of each kind of file: checkpoints, configurations, tokenizers, sounds,
manifests, prompt banks, stores and archives of embeddings, recipes. A failure keeps the file and
names it.
"""

import argparse
import logging
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))
if not os.environ.get("PYTHONSAFEPATH"):  # set where another build is to be tried
    sys.path.insert(0, str(ROOT))

import mutations  # noqa: E402
import readers  # noqa: E402

from reclap.errors import FormatError, ReclapError  # noqa: E402

LONGEST = 60.0  # seconds of the processor for one file


def main() -> None:
    """Run as the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000, help="mutations of each kind of file")
    parser.add_argument("--seed", type=int, default=1)
    kinds = ("pt", "pth", *readers.KINDS)
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--jobs", type=int, default=1, help="kinds side by side")
    options = parser.parse_args()
    todo = [(kind, options.count, options.seed) for kind in options.kinds]
    with multiprocessing.get_context("spawn").Pool(options.jobs, maxtasksperchild=1) as pool:
        for line in pool.imap(_run, todo, chunksize=1):
            print(line, flush=True)


def _run(work: tuple[str, int, int]) -> str:
    """Return a line about `count` mutations of a kind; the folder stays where one failed."""
    kind, count, seed = work
    logging.disable(logging.WARNING)  # of sounds that were cut off
    folder = Path(tempfile.mkdtemp(prefix="reclap-fuzz-"))
    path, load, seeds, allowed = _target(kind, folder, readers.write_all(folder / "made"))
    began = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fine = mutations.run(path, load, seeds, count, seed, allowed=allowed, longest=LONGEST)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    shutil.rmtree(folder)
    return (
        f"{kind:12} {count} mutations: {fine} loaded, {count - fine} refused,"
        f" {time.perf_counter() - began:.0f} s, peak memory grew by {grown} MiB"
    )


def _target(kind: str, folder: Path, made: Path):
    """Return the path to write to, what reads it, the files to damage, and clean errors."""
    if kind in ("pt", "pth"):
        seeds = mutations.torch_files(legacy=kind == "pth")
        return folder / f"a.{kind}", mutations.load_pickle, seeds, (FormatError,)
    path, load = made / readers.KINDS[kind][0], readers.KINDS[kind][1]
    return path, load, [path.read_bytes()], (ReclapError, OSError)


if __name__ == "__main__":
    main()
