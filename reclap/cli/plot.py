"""``reclap plot``: curves of a training run, similarity matrix of a checkpoint."""

import argparse
from pathlib import Path

from reclap.cli import options
from reclap.cli.options import Commands

__all__ = ["add_plot"]


def add_plot(commands: Commands) -> None:
    """Add the command."""
    p = commands.add_parser("plot", help="plot a training run (extra: plot)")
    p.add_argument("folder", metavar="RUN", type=options.named_path, help="folder of the run")
    p.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="image to write or replace, PNG, SVG or PDF by its suffix (default: "
        "RUN/curves.png or RUN/similarity.png)",
    )
    p.add_argument(
        "--similarity",
        action="store_true",
        help="the similarity matrix of a checkpoint over the sounds of [eval], not the curves",
    )
    p.add_argument(
        "--checkpoint",
        metavar="NAME",
        default="",
        help="with --similarity: a checkpoint of RUN (default: best, or else last)",
    )
    options.add_threads(p)
    p.set_defaults(run=_run_plot)


def _run_plot(args: argparse.Namespace) -> int:
    from reclap import plotting  # first of all: it may ask for a library

    name = "similarity.png" if args.similarity else "curves.png"
    out = args.folder / name if args.out is None else args.out
    plotting.require_format(out)
    if args.checkpoint and not args.similarity:
        raise ValueError("--checkpoint: needs --similarity; curves are those of the whole run")
    if args.similarity:
        from reclap.training import run_similarity

        found = run_similarity(args.folder, args.checkpoint, threads=args.threads)
        title = f"{args.folder.resolve().name}, {found.checkpoint}"
        figure = plotting.similarity(found.matrix, found.rows, found.columns, title)
    else:
        figure = plotting.curves(args.folder)
    plotting.save(figure, out)
    print(out)
    return 0
