"""How does the cost grow with the length of a clip, the batch, threads, and labels?

    python benchmarks/bench_cost.py [--tower base] [--rounds N] [--plot docs/cost.png] [--json]

HTSAT-base of random weights, ours alone. Length: whole clips, front end included, a window every 10
s. Batch: from log-mel to embedding. Threads: a batch of 8, by the clock. Labels: scoring one
embedded clip, and embedding the prompts with the text tower of the bundled model. Everything but
threads in processor time on one thread; the least of the rounds. The plot needs matplotlib.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import bench_audio_tower
import common
import numpy as np

DTYPES = ("float32", "bfloat16", "int8")
LENGTHS = (1, 5, 10, 20, 30, 60)
BATCHES = (1, 2, 4, 8, 16)
LABELS = (10, 30, 100, 300, 1000)
PANELS = {  # title, what the x axis counts, and the y axis
    "length": ("whole clip", "seconds of sound", "ms a clip"),
    "batch": ("audio tower", "clips in a batch", "ms a clip"),
    "threads": ("audio tower, batch of 8, by the clock", "threads", "ms a clip"),
    "labels": ("labels", "labels", "ms in all"),
}

Point = tuple[str, str, int, float]  # panel, series, x, milliseconds


def least(run: common.Call, rounds: int, clock: int = 1) -> float:
    """Return the least milliseconds of a call: clock 0 on the wall, 1 of processors."""
    run()
    return 1e3 * min(common.clock(run)[clock] for _ in range(rounds))


def points(tower: str, rounds: int, quick: bool) -> Iterator[Point]:
    """Measure everything."""
    few = slice(0, 2) if quick else slice(None)
    for dtype in DTYPES[:1] if quick else DTYPES:
        whole = bench_audio_tower.make_model(tower, dtype, 1)
        front = whole.config.front
        for seconds in LENGTHS[few]:
            clip = bench_audio_tower.waveforms(1, seconds * front.rate)
            run = lambda: whole.embed_audio(clip, rate=front.rate)  # noqa: B023, E731
            yield "length", dtype, seconds, least(run, rounds)
        for clips in BATCHES[few]:
            run = bench_audio_tower.make_ours(tower, clips, dtype, 1)
            yield "batch", dtype, clips, least(run, rounds) / clips
        for threads in range(1, 1 + common.processors()):
            run = bench_audio_tower.make_ours(tower, 8, dtype, threads)
            yield "threads", dtype, threads, least(run, rounds, 0) / 8
    yield from label_points(rounds, few)


def label_points(rounds: int, few: slice) -> Iterator[Point]:
    """Measure labels: their prompts, and scores once they are embedded."""
    import reclap
    from reclap.runtime.libraries import core

    model, context = reclap.load("mini", threads=1), core.Context(1)
    x = np.random.default_rng(0).standard_normal((1, 512), dtype=np.float32)
    for count in LABELS[few]:
        texts = [f"This is a sound of thing number {i}." for i in range(count)]
        yield "labels", "prompts embedded", count, least(lambda: model.embed_text(texts), rounds)  # noqa: B023
        rows = np.random.default_rng(1).standard_normal((count, 512), dtype=np.float32)
        run = lambda: core.scores(context, x, rows, 5, all=False)  # noqa: B023, E731
        yield "labels", "one clip scored", count, least(run, 10 * rounds)


def plot(found: list[Point], path: Path) -> None:
    """Draw a panel for each question."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.2), layout="constrained")
    for axes, (panel, (title, x_name, y_name)) in zip(
        figure.subplots(2, 2).flat, PANELS.items(), strict=True
    ):
        mine = [p for p in found if p[0] == panel]
        for series in dict.fromkeys(p[1] for p in mine):
            xy = np.array([(x, y) for _, s, x, y in mine if s == series])
            axes.plot(*xy.T, marker="o", markersize=4, label=series)
        if panel == "labels":
            axes.set_xscale("log"), axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
            axes.set_xticks(sorted({p[2] for p in mine}))
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel(x_name), axes.set_ylabel(y_name)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def main(argv: list[str] | None = None) -> int:
    """Run the script."""
    p = common.parser(__doc__, rounds=5, threads=1)
    p.add_argument("--tower", default="base", choices=("tiny", "base"))
    p.add_argument("--plot", type=Path, help="write a plot here")
    args = p.parse_args(argv)
    common.header(args)
    tower = "HTSAT tiny" if args.quick else f"HTSAT {args.tower}"
    found = []
    for point in points(tower, args.rounds, args.quick):
        found.append(point)
        panel, series, x, ms = point
        row = {"name": panel, "series": series, "x": x, "ms": ms}
        line = f"{panel:10s} {series:18s} {x:5d}   {ms:9.3f} ms"
        print(json.dumps(row) if args.json else line, flush=True)
    if args.plot:
        plot(found, args.plot)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
