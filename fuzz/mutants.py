"""Change the sources a little at a time: the tests must notice.

    python fuzz/mutants.py --count 300 --seed 1 --log mutants.jsonl

draws so many mutants, the same number from every area, puts each into a copy of the checkout and
runs the tests that belong to its file. Survivors are printed; the exit status is 1 where they are
more than 8 % of those that count. What equivalent_mutants.txt names does not count, nor does
what no compiler takes. With `--log`, a run that was ended continues where it stopped.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import queue
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "fuzz"))

from mutation_operators import Mutant, mutants_of  # noqa: E402
from mutation_tests import AREAS, tests_of  # noqa: E402

EQUIVALENT = ROOT / "fuzz" / "equivalent_mutants.txt"
MOST = 0.08  # of the mutants that count may survive
LONGEST = 120  # seconds of one test
MEMORY = 24 << 30  # bytes of data of a test process; a browser reserves terabytes of addresses


def main() -> int:
    """Run as the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", metavar="PATH", help="a file or folder of the checkout")
    parser.add_argument("--list", action="store_true", help="show what is drawn, run nothing")
    parser.add_argument("--jobs", type=int, default=1, help="copies of the checkout side by side")
    parser.add_argument("--log", type=Path, metavar="FILE", help="results, and where to continue")
    options = parser.parse_args()
    equal = read_equivalent(EQUIVALENT.read_text())
    drawn = draw(everything(options.only), options.count, options.seed)
    if options.list:
        for mutant in drawn:
            print(mutant.line(), "(equivalent)" if mutant.key() in equal else "")
        return 0
    known = read_log(options.log)
    stamps = {m: stamp(m) for m in drawn}  # of the sources as they are copied
    results = {m: known[stamps[m]] for m in drawn if stamps[m] in known}
    results |= {m: "equivalent" for m in drawn if m.key() in equal}
    run_all({m: stamps[m] for m in drawn if m not in results}, results, options)
    return report(drawn, results)


def everything(only: str | None) -> dict[str, list[Mutant]]:
    """Return the mutants of every area, in the order of the sources."""
    found: dict[str, list[Mutant]] = {}
    for area, patterns in AREAS.items():
        paths = sorted({p.relative_to(ROOT) for x in patterns for p in ROOT.glob(x)})
        kept = [p for p in paths if only is None or p.is_relative_to(only.removesuffix("/"))]
        found[area] = [m for p in kept for m in mutants_of(p.as_posix(), (ROOT / p).read_text())]
    return found


def draw(areas: dict[str, list[Mutant]], count: int, seed: int) -> list[Mutant]:
    """Return `count` mutants, one of each area by turns; fewer are the beginning of more.

    The order is one of hashes, so that a change of the sources leaves most of a draw as it is.
    """

    def place(mutant: Mutant) -> bytes:
        return hashlib.sha256("\0".join((str(seed), *mutant.key())).encode()).digest()

    left = {area: sorted(mutants, key=place) for area, mutants in areas.items()}
    drawn: list[Mutant] = []
    while len(drawn) < count and any(left.values()):
        drawn += [mutants.pop() for mutants in left.values() if mutants]
    return drawn[:count]


def read_equivalent(text: str) -> set[tuple[str, ...]]:
    """Return the keys in a list of blocks: path and operator, the two lines, the reason."""
    keys = set()
    for block in text.split("\n\n"):
        lines = [x for x in block.splitlines() if not x.startswith("#")]
        if not lines:
            continue
        if len(lines) < 4 or not lines[1].startswith("- ") or not lines[2].startswith("+ "):
            raise SystemExit(f"{EQUIVALENT}: expected path, - line, + line, reason; got {block!r}")
        path, _, operator = lines[0].partition(": ")
        keys.add((path, operator, lines[1][2:], lines[2][2:]))
    return keys


def stamp(mutant: Mutant) -> str:
    """Return what a result holds for: the mutant, its source and the tests of it."""
    paths = [mutant.path, *tests_of(mutant.path)]
    crc = 0
    for path in paths:
        crc = zlib.crc32((ROOT / path).read_bytes(), crc)
    return f"{mutant.line()} {crc:08x}"


def read_log(path: Path | None) -> dict[str, str]:
    """Return the results of a log by their stamps; the last line may be cut off."""
    known = {}
    for line in path.read_text().splitlines() if path and path.exists() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        known[entry["stamp"]] = entry["result"]
    return known


def run_all(
    todo: dict[Mutant, str], results: dict[Mutant, str], options: argparse.Namespace
) -> None:
    """Run mutants in `options.jobs` copies of the checkout and write the log."""
    if not todo:
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # after the mutants that are running
    with tempfile.TemporaryDirectory(prefix="reclap-mutants-") as folder:
        idle: queue.SimpleQueue[Checkout] = queue.SimpleQueue()
        for i in range(options.jobs):
            idle.put(Checkout(Path(folder) / str(i)))

        def run_one(mutant: Mutant) -> tuple[Mutant, str, str, float]:
            checkout, began = idle.get(), time.perf_counter()
            try:
                return mutant, *checkout.run(mutant), time.perf_counter() - began
            finally:
                idle.put(checkout)

        with ThreadPoolExecutor(options.jobs) as pool:
            for mutant, result, by, seconds in pool.map(run_one, todo):
                results[mutant] = result
                print(f"{result:9} {seconds:4.0f} s  {mutant.line()}", flush=True)
                if options.log:
                    entry = {"stamp": todo[mutant], "result": result, "by": by}
                    with options.log.open("a") as log:
                        log.write(json.dumps(entry | {"seconds": round(seconds, 1)}) + "\n")


class Checkout:
    """A copy of the checkout, built, in which one mutant at a time is tried."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.passed: set[str] = set()  # test files that pass without a mutant
        for path in files_of_checkout():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / path, folder / path)
        if (ROOT / "build").exists():  # objects, so that only what is mutated is compiled
            shutil.copytree(ROOT / "build", folder / "build")
        if self.build():
            raise SystemExit("the core does not build")
        self.built = {path: path.read_bytes() for path in folder.glob("reclap/_*.so")}

    def build(self) -> int:
        """Compile what has changed; returns the exit status."""
        command = [sys.executable, "setup.py", "build_ext", "--inplace", "-q"]
        done = subprocess.run(command, cwd=self.folder, capture_output=True)  # noqa: S603
        return done.returncode

    def run(self, mutant: Mutant) -> tuple[str, str]:
        """Return killed, survived or invalid, and the test that failed."""
        for test in tests_of(mutant.path):
            if test not in self.passed:
                status, by = self.test([test])
                if status not in (0, 5):  # 5: all of its tests are skipped or slow
                    print(f"{test} does not pass without a mutant: {by}", flush=True)
                    status, by = self.test([test])  # an hour's run is not lost to one bad minute
                if status not in (0, 5):
                    raise SystemExit(f"{test} does not pass without a mutant: {by}")
                self.passed.add(test)
        path = self.folder / mutant.path
        text = path.read_text()
        try:
            self.write(path, mutant.apply(text))
            if path.suffix == ".c" and self.build():
                return "invalid", ""
            status, by = self.test(tests_of(mutant.path))
        finally:
            self.write(path, text)
            if path.suffix == ".c":
                for built, content in self.built.items():
                    built.unlink(missing_ok=True)
                    built.write_bytes(content)
        return ("survived" if status == 0 else "killed"), by

    def write(self, path: Path, text: str) -> None:
        """Write a source; bytecode of the same second and length would pass for its own."""
        path.write_text(text)
        if path.suffix == ".py":
            Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)

    def test(self, files: list[str]) -> tuple[int, str]:
        """Run test files up to the first failure; returns the status and what failed."""
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", "--tb=no"]
        command += ["-p", "no:cacheprovider", f"--timeout={LONGEST}", "--timeout-method=thread"]
        shared = os.environ.get("RECLAP_SHARED") or str(ROOT.parent / "shared")
        with subprocess.Popen(  # noqa: S603
            command + files,
            cwd=self.folder,
            env=os.environ | {"RECLAP_SHARED": shared, "PYTHONPATH": str(self.folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        ) as child:
            resource.prlimit(child.pid, resource.RLIMIT_DATA, (MEMORY, MEMORY))
            try:
                out, _ = child.communicate(timeout=10 * LONGEST)
            except subprocess.TimeoutExpired:
                out = "FAILED all of them: out of time"
            finally:
                end_group(child.pid)
        failed = [x for x in out.splitlines() if x.startswith(("FAILED", "ERROR"))]
        return child.wait(), failed[0] if failed else out[-200:]


def end_group(pid: int) -> None:
    """End a process that leads a group, and its children, as far as they still run."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def files_of_checkout() -> Iterator[str]:
    """Yield the files that git knows or would take, by their paths below the checkout."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)  # noqa: S603
    yield from (p for p in dict.fromkeys(done.stdout.decode().split("\0")) if (ROOT / p).is_file())


def report(drawn: list[Mutant], results: dict[Mutant, str]) -> int:
    """Print survivors and the rate; returns the exit status."""
    counts = Counter(results[m] for m in drawn)
    for mutant in drawn:
        if results[mutant] == "survived":
            print(mutant.line())
    tried = counts["killed"] + counts["survived"]
    rate = counts["survived"] / max(tried, 1)
    print(
        f"{len(drawn)} mutants: {counts['killed']} killed, {counts['survived']} survived"
        f" ({rate:.1%}), {counts['equivalent']} equivalent, {counts['invalid']} do not compile"
    )
    return int(rate > MOST)


if __name__ == "__main__":
    sys.exit(main())
