"""``reclap check``: check texts that a language model wrote."""

import argparse
from pathlib import Path

from reclap.cli import options
from reclap.cli.options import Commands
from reclap.cli.output import print_report
from reclap.errors import ReclapError

__all__ = ["add_check"]


def add_check(commands: Commands) -> None:
    """Add the command."""
    p = commands.add_parser("check", help="check generated prompts or rewrites")
    p.add_argument(
        "file",
        metavar="FILE",
        help="prompt bank, a file or the name of one; or a manifest with rewrites",
    )
    options.add_model(p)
    p.add_argument(
        "--no-sense",
        dest="sense",
        action="store_false",
        help="compare words only, without the model's text tower",
    )
    p.add_argument("-o", "--out", metavar="JSON", type=Path, help="write the bank with flags")
    p.add_argument("--json", action="store_true", help="the report as one JSON object")
    p.set_defaults(run=_run_check)


def _run_check(args: argparse.Namespace) -> int:
    from reclap.checks import Sense, check_bank, check_manifest
    from reclap.io.manifest import SUFFIXES
    from reclap.prompts.bank import PromptBank

    is_manifest = Path(args.file).suffix.lower() in SUFFIXES
    if is_manifest and args.out is not None:
        raise ReclapError(f"--out: {args.file} is a manifest; only a bank keeps flags")
    if args.out is not None:
        options.check_out(args.out, force=True)
    sense = Sense(options.load_model(args).embed_text) if args.sense else None
    if is_manifest:
        report = check_manifest(args.file, sense)
    else:
        bank, report = check_bank(PromptBank.load(args.file), sense)
        if args.out is not None:
            bank.save(args.out)
    print_report(report, as_json=args.json)
    return 1 if report.fatal else 0
