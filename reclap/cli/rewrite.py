"""``reclap rewrite``: let a language model reword the captions of a manifest."""

import argparse
from pathlib import Path

from reclap.cli import llm, options
from reclap.cli.options import Commands

__all__ = ["add_rewrite"]


def add_rewrite(commands: Commands) -> None:
    """Add the command."""
    p = commands.add_parser(
        "rewrite", help="let a language model reword the captions of a manifest"
    )
    p.add_argument("manifest", type=Path, metavar="MANIFEST", help=".csv, .jsonl or .parquet")
    llm.add_out(p, "training manifest, .jsonl; a report beside it")
    p.add_argument(
        "-k",
        "--rewrites",
        type=options.positive,
        default=4,
        help="rewrites of each caption, existing ones included (default: 4)",
    )
    llm.add_llm(p, temperature=0.4)
    llm.add_sense(p)
    p.set_defaults(run=_run_rewrite)


def _run_rewrite(args: argparse.Namespace) -> int:
    from reclap.llm import StoppedError
    from reclap.llm.rewrite import RewritePlan, rewrite, survey

    plan = RewritePlan(args.rewrites, llm.sampling_of(args), args.concurrency)
    if args.dry_run:
        print(survey(args.manifest, plan, small=llm.is_small(args)).text())
        return 0
    options.check_out(args.out, args.force)
    with llm.open_session(args) as session:
        try:
            report = rewrite(
                args.manifest,
                args.out,
                session,
                plan,
                sense=llm.sense_of(args),
                force=args.force,
                progress=options.is_watched(),
            )
        except StoppedError as error:
            raise llm.resumable(error, session) from error
    return llm.write_report(report, args.out)
