"""Try values that nobody meant on the core: each must be refused cleanly or work.

    python fuzz/mutate_values.py --count 20000 --seed 1

Cases run in child processes, which a crash, an endless loop or too much memory ends: then the case
is shown, and `--only NUMBER` runs it alone. Best in a sanitized build (.ci/run fuzz).
"""

import argparse
import collections
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))
if not os.environ.get("PYTHONSAFEPATH"):  # set where another build is to be tried
    sys.path.insert(0, str(ROOT))

BLOCK = 400  # cases of one child: oneDNN keeps the kernels of each new shape
LONGEST = 60  # seconds of the processor for one case
MEMORY = 5 << 30  # bytes of address space beyond what the interpreter has, outside of sanitizers


def main() -> None:
    """Run as the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--only", type=int, help="run this case alone, in this process")
    parser.add_argument("--child", type=int, nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only is not None:
        print(case_of(options.seed, options.only), flush=True)
        print(run_one(options.seed, options.only))
    elif options.child is not None:
        run_child(options.seed, *options.child)
    else:
        sys.exit(watch(options))


def case_of(seed: int, number: int) -> dict:
    """Return case `number` of a seed."""
    import values

    rng = random.Random(f"{seed} {number}")  # noqa: S311
    found = values.seeds()
    return values.mutate(rng, found[number % len(found)])


def run_one(seed: int, number: int) -> str:
    """Run one case; return what became of it."""
    import values

    return values.run(case_of(seed, number), number)


def run_child(seed: int, first: int, end: int, progress: int) -> None:
    """Run cases one after the other, telling the parent through a file where it is."""
    outcomes: collections.Counter[str] = collections.Counter()
    run_one(seed, 0)  # whatever is imported and made at first use
    if "libasan" not in os.environ.get("LD_PRELOAD", ""):
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    for number in range(first, end):
        os.pwrite(progress, struct.pack("q", number), 0)
        signal.setitimer(signal.ITIMER_PROF, LONGEST)
        outcomes[run_one(seed, number)] += 1
    print(*(f"{name}={count}" for name, count in outcomes.items()), sep="\n")


def watch(options: argparse.Namespace) -> int:
    """Run all cases in children; return 1 where one of them ended as none should."""
    began = time.perf_counter()
    end = options.first + options.count
    blocks = [(x, min(x + BLOCK, end)) for x in range(options.first, end, BLOCK)]
    outcomes: collections.Counter[str] = collections.Counter()
    findings = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        for counts, found in pool.map(lambda x: run_block(options.seed, *x), blocks):
            outcomes.update(counts)
            findings += len(found)
            for line in found:
                print(line, flush=True)
    told = ", ".join(f"{count} {name}" for name, count in outcomes.most_common())
    print(
        f"{options.count} cases of seed {options.seed}: {told}; {findings} findings, "
        f"{time.perf_counter() - began:.0f} s"
    )
    return int(findings > 0)


def run_block(
    seed: int, first: int, end: int, script: str = __file__
) -> tuple[collections.Counter[str], list[str]]:
    """Run some cases in a child, and those behind one that ended it in another."""
    counts: collections.Counter[str] = collections.Counter()
    found: list[str] = []
    while first < end:
        with tempfile.TemporaryFile() as progress:
            fd = progress.fileno()
            command = [sys.executable, script, "--seed", str(seed)]
            command += ["--child", str(first), str(end), str(fd)]
            done = subprocess.run(  # noqa: S603
                command, capture_output=True, text=True, pass_fds=[fd], errors="replace"
            )
            if done.returncode == 0:
                lines = [x.rpartition("=") for x in done.stdout.split("\n") if "=" in x]
                counts.update({name: int(count) for name, _, count in lines})
                break
            at = os.pread(fd, 8, 0)
            number = struct.unpack("q", at)[0] if at else first
        tail = "\n    ".join(done.stderr.strip().splitlines()[-12:])
        case = case_of(seed, number)
        found.append(f"case {number} ended with {done.returncode}: {case}\n    {tail}")
        first = number + 1
    return counts, found


if __name__ == "__main__":
    main()
