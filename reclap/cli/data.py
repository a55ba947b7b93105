"""``reclap data``: checks of data sets."""

import argparse
import json
from pathlib import Path

from reclap.cli.options import Commands

__all__ = ["add_data"]


def add_data(commands: Commands) -> None:
    """Add the command."""
    p = commands.add_parser("data", help="check the recordings of a manifest")
    actions = p.add_subparsers(metavar="ACTION", required=True)
    check = actions.add_parser("check", help="find what would stop or bias a run")
    check.add_argument("manifest", metavar="MANIFEST", help=".csv, .jsonl or .parquet")
    check.add_argument("--root", type=Path, help="folder that sound paths start from")
    check.add_argument("--rate", type=int, default=0, help="least sample rate of files in Hz")
    check.add_argument("--kind", default="kind", metavar="COLUMN", help="column of kinds")
    check.add_argument("--source", default="source", metavar="COLUMN", help="column of sources")
    check.add_argument(
        "--copies", action="store_true", help="compare fingerprints of all recordings as well"
    )
    check.add_argument("--json", action="store_true", help="the report as one JSON object")
    check.set_defaults(run=_run_check)


def _run_check(args: argparse.Namespace) -> int:
    from reclap.checks import check_recordings

    report = check_recordings(
        args.manifest,
        args.root,
        rate=args.rate,
        kind=args.kind,
        source=args.source,
        copies=args.copies,
    )
    print(json.dumps(report.to_json()) if args.json else report)
    return 1 if report.fatal else 0
