"""``reclap train``: train a model by a recipe."""

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator

from reclap.cli import options
from reclap.cli.options import Commands

__all__ = ["add_train"]

INTERRUPTED = 130


def add_train(commands: Commands) -> None:
    """Add the command."""
    p = commands.add_parser("train", help="train a model by a recipe")
    p.add_argument("recipe", metavar="RECIPE", type=options.named_path, help="TOML file")
    p.add_argument(
        "--out",
        metavar="DIR",
        type=options.named_path,
        required=True,
        help="run folder, for checkpoints and log",
    )
    p.add_argument("--resume", action="store_true", help="resume the run in DIR")
    p.add_argument(
        "--set",
        metavar="SECTION.KEY=VALUE",
        action="append",
        default=[],
        dest="settings",
        help="change a setting of the recipe; may be repeated",
    )
    p.add_argument(
        "--tensorboard",
        action="store_true",
        help="write TensorBoard events, too, into DIR/tensorboard (extra: tensorboard)",
    )
    options.add_threads(p)
    p.set_defaults(run=_run_train)


@contextlib.contextmanager
def _told(log: logging.Logger) -> Iterator[None]:
    """Show on standard error what a logger says, not its warnings alone: what a run will need."""
    handler, level = logging.StreamHandler(sys.stderr), log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(handler)


def _run_train(args: argparse.Namespace) -> int:
    from reclap.training import loop, recipe

    threads = [] if args.threads is None else [f"run.threads={args.threads}"]
    events = ["run.tensorboard=true"] if args.tensorboard else []
    plan = recipe.load(args.recipe, [*args.settings, *threads, *events])
    with _told(loop.log):
        result = loop.train(plan, args.out, resume=args.resume, progress=options.is_watched())
    if result.interrupted:
        print(f"reclap: stopped after step {result.step}; --resume continues", file=sys.stderr)
        return INTERRUPTED
    if result.loss is None:
        how = "stopped early before; a larger eval.patience continues" if result.early else ""
        print(f"{result.folder}: {result.step} steps, {how or 'finished before; nothing to do'}")
        return 0
    accuracy = "" if result.accuracy is None else f", accuracy {result.accuracy:.3f}"
    early = ""
    if result.early:
        early = f" of {plan.run.steps}, stopped early: {plan.eval.best} got no better"
    print(f"{result.folder}: {result.step} steps{early}, loss {result.loss:.4f}{accuracy}")
    if result.best:
        print(f"{result.best}: {result.best.resolve().name}, the best by {plan.eval.best}")
    return 0
