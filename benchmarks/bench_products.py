"""Where does HTSAT-base's time go, and how near is it to the machine's rate of products?

    python benchmarks/bench_products.py [--rounds N] [--clips 8] [--only int8] [--json]

Each kind of layer alone, with the shapes of all its calls on one clip of 10 s and on one thread, in
milliseconds of processor time a clip and GFLOP/s, for each type; then the tower itself. "rate" is
the best of all products: what the machine can do through oneDNN. Times are the least of the rounds;
those of products are of 8 GFLOP less those of 64 rows, so that packing the weights, which happens
once in a model, is left out.
"""

import ctypes
import json
from collections.abc import Iterator

import bench_audio_tower
import common
import numpy as np

TOWER = "HTSAT base"
DTYPES = ("float32", "bfloat16", "int8")
WORK, FEW = 8e9, 64  # operations of a measured product; rows of the one that is taken off
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
RNG = np.random.default_rng(0)


def products() -> Iterator[tuple[str, int, int, int]]:
    """Yield kind, rows a clip, width in and width out of every product of one clip."""
    audio = bench_audio_tower.config_of(TOWER).audio
    tokens, width = (audio.spec_size // audio.patch) ** 2, audio.embed
    yield "patches", tokens, audio.patch**2, width
    for stage, depth in enumerate(audio.depths):
        if stage:
            tokens //= 4
            yield "merging", tokens, 4 * width, 2 * width
            width *= 2
        for _ in range(depth):
            yield "queries, keys, values", tokens, width, 3 * width
            yield "projection", tokens, width, width
            yield "MLP, first", tokens, width, audio.mlp_ratio * width
            yield "MLP, second", tokens, audio.mlp_ratio * width, width


def blocks() -> Iterator[tuple[int, int, int]]:
    """Yield tokens, width and heads of every block."""
    audio = bench_audio_tower.config_of(TOWER).audio
    tokens, width = (audio.spec_size // audio.patch) ** 2, audio.embed
    for depth, heads in zip(audio.depths, audio.heads, strict=True):
        yield from [(tokens, width, heads)] * depth
        tokens, width = tokens // 4, 2 * width


def least(run: common.Call, rounds: int) -> float:
    """Return the least processor time of a call in seconds."""
    run()
    return min(common.clock(run)[1] for _ in range(rounds))


def keep_memory() -> None:
    """Let the C library keep what is freed: a model's arenas meet no page for the first time."""
    library = ctypes.CDLL(None)
    library.mallopt(M_MMAP_THRESHOLD, 1 << 30)
    library.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def seconds_a_row(width: int, out: int, dtype: str, rounds: int) -> float:
    """Return the processor time of one row of a product."""
    from reclap.runtime.libraries import kernels

    rows = int(WORK / (2 * width * out))
    x = RNG.standard_normal((rows + FEW, width), dtype=np.float32)
    w = RNG.standard_normal((out, width), dtype=np.float32)

    def run(n: int) -> float:
        return least(lambda: kernels.linear_forward(x[:n], w, None, packed=dtype), rounds)

    return (run(rows + FEW) - run(FEW)) / rows


def product_rows(dtype: str, rounds: int) -> tuple[dict[str, tuple[float, float]], float]:
    """Return seconds and GFLOP a clip of each kind of product, and the best GFLOP/s of any."""
    kinds: dict[str, tuple[float, float]] = {}
    known: dict[tuple[int, int], float] = {}
    for kind, rows, width, out in products():
        if (width, out) not in known:
            known[width, out] = seconds_a_row(width, out, dtype, rounds)
        seconds, work = kinds.get(kind, (0.0, 0.0))
        gflop = 2e-9 * rows * width * out
        kinds[kind] = (seconds + rows * known[width, out], work + gflop)
    return kinds, max(2e-9 * width * out / t for (width, out), t in known.items())


def other_rows(rounds: int) -> dict[str, tuple[float, float]]:
    """Return seconds and GFLOP a clip of what is no product with weights; float32 in every type."""
    from reclap.runtime.libraries import kernels

    kinds = dict.fromkeys(("attention", "GELU", "norms"), (0.0, 0.0))
    known: dict[tuple[int, int, int], tuple[float, float, float]] = {}
    for tokens, width, heads in blocks():
        shape = (tokens, width, heads)
        if shape not in known:
            x = RNG.standard_normal((tokens, width), dtype=np.float32)
            qkv = RNG.standard_normal((64, 3 * width), dtype=np.float32)
            bias = RNG.standard_normal((heads, 64, 64), dtype=np.float32)
            hidden = RNG.standard_normal((tokens, 4 * width), dtype=np.float32)
            one = np.ones(width, np.float32)
            scale = (width // heads) ** -0.5
            known[shape] = (
                least(lambda: kernels.attention(qkv, heads, 64, scale, bias, None), rounds)  # noqa: B023
                * (tokens // 64),
                least(lambda: kernels.activation("gelu", hidden), rounds),  # noqa: B023
                2 * least(lambda: kernels.layernorm_forward(x, one, one, 1e-5), rounds),  # noqa: B023
            )
        work = (4e-9 * tokens * 64 * width, 0.0, 0.0)
        for kind, t, gflop in zip(kinds, known[shape], work, strict=True):
            kinds[kind] = (kinds[kind][0] + t, kinds[kind][1] + gflop)
    return kinds


def main(argv: list[str] | None = None) -> int:
    """Run the script."""
    p = common.parser(__doc__, rounds=9, threads=1)
    p.add_argument("--clips", type=int, default=8, help="of the tower's batch")
    args = p.parse_args(argv)
    common.header(args)
    keep_memory()
    others = other_rows(args.rounds)
    for dtype in DTYPES[:1] if args.quick else DTYPES:
        if args.only not in dtype:
            continue
        kinds, rate = product_rows(dtype, args.rounds)
        run = bench_audio_tower.make_ours(TOWER, args.clips, dtype, args.threads)
        whole = least(run, 1 if args.quick else args.rounds) / args.clips
        work = sum(gflop for _, gflop in kinds.values())
        rows = {**kinds, **others, "tower": (whole, work), "at the rate": (work / rate, work)}
        for kind, (seconds, gflop) in rows.items():
            show(f"{dtype}, {kind}", seconds, gflop, whole, rate, args.json)
    return 0


def show(name: str, seconds: float, gflop: float, whole: float, rate: float, as_json: bool) -> None:
    """Print one row."""
    row = {
        "name": name,
        "ms": seconds * 1e3,
        "share": seconds / whole,
        "gflop": gflop,
        "of_rate": gflop / seconds / rate,
        "rate": rate,
    }
    line = (
        f"{name:34s} {row['ms']:8.2f} ms   {row['share']:5.2f} of the tower   {gflop:6.2f} GFLOP   "
        f"{row['of_rate']:5.2f} of {rate:.0f} GFLOP/s"
    )
    print(json.dumps(row) if as_json else line, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
