"""``reclap bench``: throughput of a model on this machine."""

import argparse
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from reclap.cli import options
from reclap.cli.options import Commands, positive
from reclap.cli.tables import print_table
from reclap.config.ranges import DTYPES

if TYPE_CHECKING:
    from reclap._types import Floats
    from reclap.model.clap import Model

__all__ = ["add_bench"]

CLIPS = 16  # two batches of the audio tower
TEXTS = [f"The sound of {what} in {where}." for what in "abcdefgh" for where in "ijklmnop"]
HEAD = ("dtype", "threads", "clips/s", "texts/s", "cosine", "load s")


def add_bench(commands: Commands) -> None:
    """Add the command."""
    p = commands.add_parser("bench", help="measure the throughput of a model on this machine")
    p.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        default="mini",
        help="name, folder, file, or hf:ORG/NAME of the hub",
    )
    options.add_reading(p)
    p.add_argument(
        "--threads",
        type=positive,
        nargs="+",
        metavar="N",
        help="most threads of a call (default: one, and all processors)",
    )
    p.add_argument(
        "--dtype",
        nargs="+",
        choices=DTYPES,
        help="types of the towers' products (default: all that the processor has)",
    )
    p.add_argument(
        "--seconds",
        type=float,
        default=2.0,
        help="how long each number is measured at least (default: %(default)s)",
    )
    p.add_argument("--json", action="store_true", help="one JSON object")
    p.set_defaults(run=_run_bench)


def _run_bench(args: argparse.Namespace) -> int:
    from reclap.runtime import libraries
    from reclap.runtime.threads import default_threads

    if not args.seconds > 0:
        raise ValueError(f"--seconds is {args.seconds}, expected above 0")
    counts = args.threads or sorted({1, default_threads()})
    reference: Floats | None = None
    rows: list[dict[str, Any]] = []
    for dtype in args.dtype or _dtypes():
        for threads in counts:
            began = time.perf_counter()
            model = options.load_model(
                argparse.Namespace(**vars(args) | {"dtype": dtype, "threads": threads})
            )
            load = time.perf_counter() - began
            args.offline = True  # by now it is on this machine
            row, embedded = _measure(model, args.seconds)
            reference = embedded if reference is None else reference
            cosine = float((embedded * reference).sum(axis=1).min())
            rows.append({"dtype": dtype, "threads": threads, **row, "cosine": cosine, "load": load})
    about = {"model": model.config.name, "window_seconds": model.config.front.window_seconds}
    _show(about | libraries.describe() | {"rows": rows}, as_json=args.json)
    return 0


def _dtypes() -> list[str]:
    """Return the types that this processor can compute with."""
    from reclap.model.weights import choose_dtype

    wide = "bfloat16" if choose_dtype("auto") == "bfloat16" else "float32"
    return [d for d in ("float32", "bfloat16", "int8") if d != "bfloat16" or wide == d]


def _measure(model: "Model", seconds: float) -> tuple[dict[str, float | None], "Floats"]:
    """Return clips and texts per second, and the embeddings of the clips."""
    import numpy as np

    front = model.config.front
    noise = np.random.default_rng(0).standard_normal((CLIPS, front.samples), dtype=np.float32)
    pitch = np.sin(np.linspace(0, 1, front.samples) * np.geomspace(1e3, 1e5, CLIPS)[:, None])
    clips = list(((noise + 3 * pitch) / 10).astype(np.float32))
    rows = model.embed_audio(clips, rate=front.rate)
    audio = _rate(lambda: model.embed_audio(clips, rate=front.rate), CLIPS, seconds)
    has_text = model.info()["tokenizer"] is not None
    text = _rate(lambda: model.embed_text(TEXTS), len(TEXTS), seconds) if has_text else None
    return {"clips_per_second": audio, "texts_per_second": text}, rows


def _rate(run: Callable[[], object], items: int, seconds: float) -> float:
    """Return items per second of the fastest call within so many seconds."""
    run()
    times: list[float] = []
    while sum(times) < seconds:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return items / min(times)


def _show(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found))
        return
    print(
        f"{found['model']}, clips of {found['window_seconds']:g} s, everything from samples to "
        f"embeddings; oneDNN {found['onednn']}, {' '.join(found['cpu'])}"
    )
    print_table(HEAD, [_cells(row) for row in found["rows"]])


def _cells(row: dict[str, Any]) -> list[str]:
    text = row["texts_per_second"]
    return [
        row["dtype"],
        str(row["threads"]),
        f"{row['clips_per_second']:.1f}",
        "" if text is None else f"{text:.0f}",
        f"{row['cosine']:.5f}",
        f"{row['load']:.2f}",
    ]
