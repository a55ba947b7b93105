"""Which of two checkouts is faster? For the effect of one change.

    python benchmarks/two_trees.py OTHER [--work "HTSAT base"] [--items 8] [--dtype float32]
                                   [--threads N] [--rounds N]

Both have their core built in place. Single calls alternate: other, this, this, other, ..., so that
neither gains by its turn. Work is an audio tower (clips of 10 s), a text tower of
bench_text_tower.py (real captions; of flan-t5-large 77 tokens), "train tiny" or "train mini" (steps
of so many clips), "score RULE" (so many embeddings, rules of bench_scoring.py), "front end" (from
the bytes of an OGG to log-mel), or "cold start" (a process that names one sound). Weights are
random and the answers of both must agree. Printed: medians of both, and of the ratios this / other
with their 10-90 % spread, by the clock and of processor time.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import common
import numpy as np


def audio(work: str, items: int, dtype: str, threads: int) -> common.Call:
    """Return an audio tower on so many clips as a function."""
    import bench_audio_tower

    return bench_audio_tower.make_ours(work, items, dtype, threads)


def text(work: str, items: int, dtype: str, threads: int) -> common.Call:
    """Return a text tower on so many texts as a function."""
    import bench_text_tower

    from reclap.runtime.libraries import core

    config = bench_text_tower.config_of(work, False)
    texts = bench_text_tower.texts_of(work, config, False)
    if texts is None:
        raise SystemExit("two_trees: no captions beside the checkout")
    rng = np.random.default_rng(0)
    shapes = core.Model(None, config.to_core(), config.width, 0, 0, config.width).parameters()
    weights = {
        name: 0.03 * rng.standard_normal(shape, dtype=np.float32) for name, shape, _ in shapes
    }
    weights["logit_scale"] = np.zeros((), np.float32)
    return bench_text_tower.make_ours(config, weights, texts[:items], dtype, threads)


def front_end(work: str, items: int, dtype: str, threads: int) -> common.Call:
    """Return decoding, resampling and log-mel of so many clips as a function, on one thread."""
    import bench_front_end

    return bench_front_end.make_ours([bench_front_end.clip()] * items)


def train(work: str, items: int, dtype: str, threads: int) -> common.Call:
    """Return training steps of HTSAT-tiny, or of the bundled model's sizes, as a function."""
    import bench_train_step

    step = bench_train_step.make_ours(work.split()[1], items, threads)
    return lambda: np.asarray(step())


def score(work: str, items: int, dtype: str, threads: int) -> common.Call:
    """Return the best scores of so many embeddings by a rule as a function."""
    import bench_scoring

    return bench_scoring.make_ours(work.split(maxsplit=1)[1], items, threads)


def cold_start(work: str, items: int, dtype: str, threads: int) -> common.Call:
    """Return a whole process that names one sound as a function; it has no processor time here."""
    import bench_cold_start as cold

    command = [sys.executable, "-m", "reclap", "classify", str(cold.SOUND), "--labels", cold.LABELS]

    def run() -> np.ndarray:
        done = subprocess.run([*command, "--no-cache"], check=True, capture_output=True)  # noqa: S603
        return np.asarray([float(x) for x in done.stdout.split() if x[:2] in (b"0.", b"1.")])

    return run


def serve(args: argparse.Namespace) -> None:
    """Answer each line of standard input with the cost of a call; first write the answer."""
    kinds = {"HTSAT": audio, "Cnn14": audio, "front": front_end, "cold": cold_start}
    kinds |= {"train": train, "score": score}
    make = kinds.get(args.work.split()[0], text)
    run = make(args.work, args.items, args.dtype, args.threads)
    np.save(args.serve, run())
    print("ready", flush=True)
    for _ in sys.stdin:
        print(*common.clock(run), flush=True)


class Tree:
    """The work in a process of its own, with the package and the benchmarks of one checkout."""

    def __init__(self, root: Path, arguments: list[str], answer: Path) -> None:
        environment = os.environ | {"PYTHONPATH": str(root)}
        script = str(root / "benchmarks" / Path(__file__).name)
        command = [sys.executable, script, *arguments, "--serve", str(answer)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(  # noqa: S603
            command, stdin=pipe, stdout=pipe, text=True, env=environment
        )
        if self._process.stdout.readline() != "ready\n":
            raise SystemExit(f"two_trees: the work failed in {root}")
        self.answer = np.load(answer)

    def cost(self) -> tuple[float, ...]:
        """Return seconds by the clock and of processor time of one call."""
        self._process.stdin.write("again\n")
        self._process.stdin.flush()
        return tuple(map(float, self._process.stdout.readline().split()))

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()


def compare(args: argparse.Namespace, arguments: list[str], folder: Path) -> None:
    """Time both and print the rows."""
    if not [*args.other.glob("reclap/_core.*.so")]:
        raise SystemExit(f"two_trees: {args.other} is no checkout with its core built in place")
    other = Tree(args.other.resolve(), arguments, folder / "other.npy")
    this = Tree(common.ROOT, arguments, folder / "this.npy")
    gap = common.same(args.work, this.answer, other.answer, args.tolerance)
    pairs = np.empty((args.rounds, 2, 2))
    for i in range(args.rounds):
        order = (0, 1) if i % 2 == 0 else (1, 0)
        for side in order:
            pairs[i, side] = (other, this)[side].cost()
    other.close(), this.close()
    for k, name in enumerate(("clock", "processor time")):
        a, b = np.median(pairs[:, :, k], axis=0) * 1e3
        low, middle, high = np.percentile(pairs[:, 1, k] / pairs[:, 0, k], [10, 50, 90])
        print(
            f"{args.work}, {args.items}, {args.dtype}, threads {args.threads}, {name:14s} "
            f"other {a:8.1f} ms   this {b:8.1f} ms   ratio {middle:.3f} ({low:.3f}-{high:.3f})   "
            f"difference {gap:.1e}"
        )


def main(argv: list[str] | None = None) -> int:
    """Run the script."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("other", type=Path, help="the other checkout")
    p.add_argument(
        "--work",
        default="HTSAT base",
        help="HTSAT base, roberta-base, train tiny, score max, front end, cold start, ...",
    )
    p.add_argument("--items", type=int, default=8, help="clips, texts or embeddings of a call")
    p.add_argument("--dtype", default="float32")
    p.add_argument("--threads", type=int, default=common.processors())
    p.add_argument("--rounds", type=int, default=16)
    p.add_argument("--tolerance", type=float, default=1e-3, help="between the answers")
    p.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    args = p.parse_args(argv)
    if args.serve:
        serve(args)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        compare(args, sys.argv[1:] if argv is None else argv, Path(folder))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
