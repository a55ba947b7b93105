"""``reclap data``: checks of data sets."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from reclap.cli.options import Commands, add_traceback, is_watched, positive
from reclap.cli.output import print_report

if TYPE_CHECKING:
    from reclap.datasets import Split

__all__ = ["add_data"]

_SOURCES = """
SOURCE is a manifest (.csv, .jsonl, .parquet), a recipe (.toml), a list of ids (.txt), or a folder
of manifests or of lists; NAME=SOURCE names it. Lists need --manifest, unless
they lie in splits/ beside manifest.csv (.jsonl, .parquet).
"""


def add_data(commands: Commands) -> None:
    """Add the commands."""
    p = commands.add_parser("data", help="check, audit and count the recordings of a data set")
    actions = p.add_subparsers(metavar="ACTION", required=True)
    _add_check(actions)
    _add_audit(actions)
    _add_stats(actions)


def _add_action(actions: Commands, name: str, text: str) -> argparse.ArgumentParser:
    """Add a command with what all of them take."""
    p = actions.add_parser(name, help=text, description=f"{text.capitalize()}. {_SOURCES}")
    p.add_argument("sources", metavar="SOURCE", nargs="+", help="manifest, recipe, list or folder")
    p.add_argument("--root", type=Path, help="folder that sound paths start from")
    p.add_argument("--manifest", type=Path, help="manifest that has the ids of lists")
    p.add_argument("--source", metavar="COLUMN", help="column of sources (default: source)")
    p.add_argument("--json", action="store_true", help="the report as one JSON object")
    add_traceback(p)
    return p


def _add_check(actions: Commands) -> None:
    p = _add_action(actions, "check", "find what would stop or bias a run")
    p.add_argument("--rate", type=int, default=0, help="least sample rate of files in Hz")
    p.add_argument("--kind", metavar="COLUMN", help="column of kinds (default: kind)")
    p.add_argument(
        "--copies", action="store_true", help="compare fingerprints of all recordings as well"
    )
    p.set_defaults(run=_run_check)


def _add_audit(actions: Commands) -> None:
    p = _add_action(actions, "audit", "find what splits share, and what comes twice in one")
    _add_reading(p)
    p.add_argument("--index", type=Path, metavar="DIR", help="folder that keeps the fingerprints")
    p.add_argument(
        "--limit", type=positive, default=1000, help="findings listed of each kind (default: 1000)"
    )
    p.set_defaults(run=_run_audit)


def _add_stats(actions: Commands) -> None:
    p = _add_action(actions, "stats", "count rows, files, sources, lengths and captions")
    _add_reading(p)
    p.add_argument("--kind", metavar="COLUMN", help="column of kinds (default: kind)")
    p.set_defaults(run=_run_stats)


def _add_reading(p: argparse.ArgumentParser) -> None:
    """Add what audits and counts take."""
    p.add_argument("--split", default="", metavar="COLUMN", help="column that divides the rows")
    p.add_argument(
        "--no-audio", dest="audio", action="store_false", help="do not read the sound files"
    )
    p.add_argument("--jobs", type=positive, help="threads that read files (default: processors)")


def _splits(args: argparse.Namespace) -> "list[Split]":
    """Return the splits that the command line names; recipes among them."""
    from reclap.datasets import find_splits
    from reclap.datasets.splits import named_source

    found: list[Split] = []
    for text in args.sources:
        name, path = named_source(text)
        if path.suffix.lower() == ".toml":
            from reclap.training import recipe_splits

            found += recipe_splits(path, name=name, root=args.root)
        else:
            found += find_splits([text], root=args.root, manifest=args.manifest)
    return find_splits(found)


def _run_check(args: argparse.Namespace) -> int:
    from reclap.datasets import check_recordings

    report = check_recordings(
        _splits(args), rate=args.rate, kind=args.kind, source=args.source, copies=args.copies
    )
    print_report(report, as_json=args.json)
    return 1 if report.fatal else 0


def _run_audit(args: argparse.Namespace) -> int:
    from reclap.datasets import audit

    report = audit(
        _splits(args),
        split=args.split,
        source=args.source,
        audio=args.audio,
        index=args.index,
        jobs=args.jobs,
        limit=args.limit,
        progress=is_watched(),
    )
    print_report(report, as_json=args.json)
    return 0 if report.is_clean else 1


def _run_stats(args: argparse.Namespace) -> int:
    from reclap.datasets import stats

    report = stats(
        _splits(args),
        split=args.split,
        kind=args.kind,
        source=args.source,
        audio=args.audio,
        jobs=args.jobs,
        progress=is_watched(),
    )
    print_report(report, as_json=args.json)
    return 0
