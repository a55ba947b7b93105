"""How fast are scores by prompts, and ranks, against NumPy and against the product alone?

    python benchmarks/bench_scoring.py [--rows N] [--threads N] [--rounds N] [--only max] [--json]

N random embeddings of 1,024 dimensions, 2,000 labels with two prompts each, the best five; ranks of
one item each among 4,000. The peer is NumPy, some thousand rows at a time, and for one vector a
label faiss' flat index of inner products too. `of_product` is the
processor time of our product of the same sizes, alone, divided by that of all the work; `extra_mb`
is what peak memory rose by. The best scores must agree to 1e-6 and the ranks be equal but for one
in a thousand, which may be off by one where two scores round alike.
"""

import argparse
from typing import Any

import common
import numpy as np

DIM, LABELS, PROMPTS, BEST, SCALE = 1024, 2000, 2, 5, 20.0
PIECE = 4096  # rows that NumPy and the product alone take at a time
RULES = ("class vectors", "mean_logit", "max", "logsumexp", "ranks")
TOLERANCE = 1e-6


def units(rows: int, seed: int) -> np.ndarray:
    """Return random unit-length embeddings; those after the first PIECE repeat them."""
    x = np.random.default_rng(seed).standard_normal((min(rows, PIECE), DIM), dtype=np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return np.resize(x, (rows, DIM))


def prompts_of(rule: str) -> np.ndarray:
    """Return what sounds are compared with."""
    return units(LABELS if rule == "class vectors" else LABELS * PROMPTS, 1)


def pairs(rows: int) -> np.ndarray:
    """Return an item for each row."""
    return np.arange(rows)[:, None] % (LABELS * PROMPTS)


def make_ours(rule: str, rows: int, threads: int) -> common.Call:
    """Return our work as a function that returns the best scores or the ranks."""
    from reclap.prompts.combine import rule_index
    from reclap.runtime.libraries import core

    context, x, w = core.Context(threads), units(rows, 0), prompts_of(rule)
    if rule == "class vectors":
        return lambda: core.scores(context, x, w, BEST, all=False)[1]
    if rule == "ranks":
        return lambda: core.ranks(context, x, w, pairs(rows))
    first = np.arange(0, len(w) + 1, PROMPTS)
    arguments = (context, x, w, first, rule_index(rule), SCALE, BEST)
    return lambda: core.combine(*arguments, all=False)[1]


def make_product(rule: str, rows: int, threads: int) -> common.Call:
    """Return the product alone, over the same rows, with columns as in one of our tiles."""
    from reclap.runtime.libraries import kernels

    x, w = units(PIECE, 0), prompts_of(rule)
    tiles = [w[i : i + 500] for i in range(0, len(w), 500)]

    def run() -> None:
        for _ in range(0, rows, PIECE):
            for tile in tiles:
                kernels.linear_forward(x, tile, None, threads, 256)

    return run


def numpy_piece(rule: str, x: np.ndarray, w: np.ndarray, pair: np.ndarray) -> np.ndarray:
    """Return the best scores, or the ranks, of some rows."""
    scores = x @ w.T
    if rule == "ranks":
        own = np.take_along_axis(scores, pair, 1)
        before = np.arange(len(w)) < pair
        return 1 + ((scores > own) | ((scores == own) & before)).sum(1, keepdims=True)
    if rule != "class vectors":
        each = scores.reshape(len(x), LABELS, PROMPTS)
        if rule == "mean_logit":
            scores = each.mean(2)
        elif rule == "max":
            scores = each.max(2)
        else:
            scores = np.log(np.exp(SCALE * each).mean(2)) / SCALE
    return -np.sort(np.partition(-scores, BEST, axis=1)[:, :BEST], axis=1)


def make_peer(rule: str, rows: int) -> common.Call:
    """Return NumPy's work as a function."""
    x, w, pair = units(rows, 0), prompts_of(rule), pairs(rows)
    pieces = range(0, rows, PIECE)
    return lambda: np.concatenate(
        [numpy_piece(rule, x[i : i + PIECE], w, pair[i : i + PIECE]) for i in pieces]
    )


def make_faiss(rows: int, threads: int) -> common.Call:
    """Return faiss' search among one vector a label as a function."""
    import faiss

    faiss.omp_set_num_threads(threads)
    x, index = units(rows, 0), faiss.IndexFlatIP(DIM)
    index.add(prompts_of("class vectors"))
    return lambda: index.search(x, BEST)[0]


def share(ours: common.Call, product: common.Call, rounds: int) -> float:
    """Return the product's share of our processor time, over alternating rounds."""
    times = np.array([(common.clock(product)[1], common.clock(ours)[1]) for _ in range(rounds)])
    return float(np.median(times[:, 0]) / np.median(times[:, 1]))


def same(name: str, rule: str, ours: np.ndarray, peer: np.ndarray) -> float:
    """Return the largest difference; end the program where answers differ too much."""
    if rule != "ranks":
        return common.same(name, ours, peer, TOLERANCE)
    off = np.abs(ours - peer)
    common.same(name, (off > 0).mean(), 0, 1e-3)
    return common.same(name, ours, peer, 1)


def peers_of(rule: str, args: argparse.Namespace) -> dict[str, tuple[Any, ...]]:
    """Return the peers of a row by name, as the arguments of `common.Peer`."""
    found: dict[str, tuple[Any, ...]] = {"NumPy": (make_peer, rule, args.rows)}
    if rule == "class vectors" and not common.lacks(f"{rule}, faiss", ("faiss-cpu",), args):
        found["faiss"] = (make_faiss, args.rows, args.threads)
    return found


def main(argv: list[str] | None = None) -> int:
    """Run the script."""
    p = common.parser(__doc__, rounds=7, threads=common.processors())
    p.add_argument("--rows", type=int, default=16384)
    args = p.parse_args(argv)
    if args.quick:
        args.rows = PIECE
    common.header(args)
    for rule in RULES:
        name = f"{rule}, {args.rows} rows"
        if args.only not in name:
            continue
        ours = make_ours(rule, args.rows, args.threads)
        before = common.memory()
        answer = ours()
        extra = common.memory() - before
        part = share(ours, make_product(rule, args.rows, args.threads), args.rounds)
        for peer_name, made in peers_of(rule, args).items():
            with common.Peer(*made, threads=args.threads) as peer:
                gap = same(name, rule, answer, peer())
                a, b = common.alternate(common.Here(ours), peer, args.rounds)
            more = {"difference": gap, "of_product": part, "extra_mb": extra}
            common.report(name, a, b, peer_name, args, per=args.rows, **more)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
