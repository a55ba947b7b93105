"""``reclap compare``: nearest neighbours between two files of embeddings."""

import argparse
import json

from reclap.cli import options
from reclap.cli.options import Commands
from reclap.cli.tables import print_table

__all__ = ["add_compare"]


def add_compare(commands: Commands) -> None:
    """Add the command."""
    p = commands.add_parser("compare", help="find the nearest embeddings of another file")
    p.add_argument(
        "queries", metavar="NPZ", type=options.named_path, help="queries: a file of `reclap embed`"
    )
    p.add_argument(
        "among",
        metavar="NPZ",
        type=options.named_path,
        help="items: another file, by the same model",
    )
    p.add_argument(
        "--top-k", type=options.positive, default=5, help="items for each query (default: 5)"
    )
    p.add_argument("--json", action="store_true", help="one JSON object a line for each query")
    options.add_threads(p)
    p.set_defaults(run=_run_compare)


def _run_compare(args: argparse.Namespace) -> int:
    from reclap.retrieval.embeddings import Embeddings, nearest, require_comparable

    queries, among = Embeddings.load(args.queries), Embeddings.load(args.among)
    for embeddings, path in ((queries, args.queries), (among, args.among)):
        require_comparable(embeddings, str(path))
    found = nearest(queries, among, args.top_k, args.threads)
    pairs = [
        [(among.items[i], float(c)) for i, c in zip(order, cosines, strict=True)]
        for order, cosines in zip(found.order, found.cosines, strict=True)
    ]
    if args.json:
        for query, best in zip(queries.items, pairs, strict=True):
            rows = [{"item": item, "cosine": cosine} for item, cosine in best]
            print(json.dumps({"query": query, "nearest": rows}))
        return 0
    table = [
        (query, item, f"{cosine:.3f}")
        for query, best in zip(queries.items, pairs, strict=True)
        for item, cosine in best
    ]
    print_table(("query", "item", "cosine"), table)
    return 0
