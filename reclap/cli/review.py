"""``reclap review``: review of generated texts by a person."""

import argparse
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from reclap.cli import llm, options
from reclap.cli.options import Commands
from reclap.errors import ReclapError

if TYPE_CHECKING:
    from reclap.review import Review

__all__ = ["add_review"]


def add_review(commands: Commands) -> None:
    """Add the command."""
    p = commands.add_parser("review", help="review generated prompts or rewrites on a local page")
    p.add_argument("file", metavar="FILE", type=Path, help="prompt bank (.json), manifest (.jsonl)")
    p.add_argument(
        "--clips",
        type=Path,
        metavar="FOLDER",
        help="example sounds: a folder for each label, or a manifest",
    )
    p.add_argument("--terminal", action="store_true", help="review in the terminal instead")
    p.add_argument("--port", type=_port, default=0, help="port of the page (default: any free one)")
    options.add_model(p)
    p.add_argument("--ask", action="store_true", help="enable regeneration by a language model")
    llm.add_llm(p, temperature=0.9)
    p.set_defaults(run=_run_review)


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**16:
        raise argparse.ArgumentTypeError(f"{value} is no port")
    return value


def _run_review(args: argparse.Namespace) -> int:
    from reclap.checks import Sense
    from reclap.review import open_document, open_review

    document = open_document(args.file)  # before the model, which takes longer
    sense = Sense(options.load_model(args).embed_text)
    with contextlib.ExitStack() as stack:
        model = stack.enter_context(llm.open_session(args)) if args.ask else None
        sampling = llm.sampling_of(args)
        review = stack.enter_context(
            open_review(document, sense=sense, clips=args.clips, llm=model, sampling=sampling)
        )
        if args.terminal:
            _question(review)
        else:
            _serve(review, args.port)
    session = review.session
    counts = session.counts()
    print(
        f"{session.document.path}: {counts['accepted']} accepted, {counts['rejected']} rejected, "
        f"{counts['new']} undecided"
    )
    return 0


def _question(review: "Review") -> None:
    from reclap.review import Terminal

    if sys.stdin is None:
        raise ReclapError("review --terminal: standard input is closed")
    try:
        Terminal(review, sys.stdin, sys.stdout).run()
    except KeyboardInterrupt:
        print()


def _serve(review: "Review", port: int) -> None:
    from reclap.review import Server

    with Server(review, port) as server:
        print(f"Open {server.url}\nEnd with Ctrl-C; every decision is saved at once.", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
