"""``reclap cache``: size and clearing of the cache."""

import argparse

from reclap.cli.options import Commands
from reclap.cli.tables import print_table
from reclap.io.cache_dir import PARTS, cache_folder, clear, sizes

__all__ = ["add_cache"]


def add_cache(commands: Commands) -> None:
    """Add the command."""
    p = commands.add_parser("cache", help="show or clear the caches")
    p.add_argument(
        "--clear",
        choices=PARTS,
        metavar="PART",
        help="remove prompts (their embeddings) or replies (of language models)",
    )
    p.set_defaults(run=_run_cache)


def _run_cache(args: argparse.Namespace) -> int:
    folder = cache_folder()
    found = sizes(folder)
    if args.clear:
        clear(folder, args.clear)
        print(f"{folder}: removed {_megabytes(found[args.clear])} of {args.clear}")
        return 0
    print(folder)
    rows = [(name, _megabytes(size)) for name, size in found.items()]
    print_table(("part", "size"), [*rows, ("in all", _megabytes(sum(found.values())))])
    return 0


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
