"""``reclap describe``: let a language model describe how labels sound."""

import argparse
from typing import TYPE_CHECKING

from reclap.cli import llm, options
from reclap.cli.options import Commands

if TYPE_CHECKING:
    from reclap.prompts.entries import Entry

__all__ = ["add_describe"]

_PARTIAL = ".partial.json"


def add_describe(commands: Commands) -> None:
    """Add the command."""
    p = commands.add_parser("describe", help="let a language model describe how labels sound")
    p.add_argument(
        "labels",
        metavar="LABELS",
        help="file: one label a line, its definition after a tab or ': '; or a bundled bank's name",
    )
    llm.add_out(p, "bank of prompts, JSON; a report beside it")
    p.add_argument("--name", help="name of the bank (default: that of the file)")
    p.add_argument(
        "-t",
        "--descriptions",
        type=options.positive,
        default=5,
        help="descriptions of each label (default: 5)",
    )
    p.add_argument(
        "-n",
        "--prompts",
        type=options.positive,
        default=10,
        help="captions of each description (default: 10)",
    )
    llm.add_llm(p, temperature=0.7)
    llm.add_sense(p)
    p.set_defaults(run=_run_describe)


def _run_describe(args: argparse.Namespace) -> int:
    from reclap.llm import StoppedError
    from reclap.llm.describe import Plan, describe, estimate, read_labels

    labels = read_labels(args.labels)
    plan = Plan(args.descriptions, args.prompts, llm.sampling_of(args), args.concurrency)
    if args.dry_run:
        print(estimate(labels, plan, small=llm.is_small(args)).text())
        return 0
    options.check_out(args.out, args.force)
    name = args.name or args.out.stem
    entries: dict[str, Entry] = {}
    with llm.open_session(args) as session:
        try:
            bank, report = describe(
                labels,
                session,
                plan,
                name=name,
                sense=llm.sense_of(args),
                partial=entries,
                progress=options.is_watched(len(labels)),
            )
        except StoppedError as error:
            _save_partial(args, name, entries)
            raise llm.resumable(error, session) from error
        except KeyboardInterrupt:
            _save_partial(args, name, entries)
            raise
    bank.save(args.out)
    args.out.with_suffix(_PARTIAL).unlink(missing_ok=True)
    return llm.write_report(report, args.out)


def _save_partial(args: argparse.Namespace, name: str, entries: "dict[str, Entry]") -> None:
    """Write an incomplete bank for people to look at; resuming needs only the cache."""
    from reclap.prompts.bank import PromptBank

    if entries:
        made = {"by": "reclap describe", "state": "stopped before it was complete"}
        PromptBank(name, made, entries).save(args.out.with_suffix(_PARTIAL))
