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
    from reclap.review.api import Review

__all__ = ["add_review"]


def add_review(commands: Commands) -> None:
    """Add the command."""
    p = commands.add_parser("review", help="look through prompts or rewrites, on a local page")
    p.add_argument("file", metavar="FILE", type=Path, help="prompt bank (.json), manifest (.jsonl)")
    p.add_argument(
        "--clips",
        type=Path,
        metavar="FOLDER",
        help="example sounds: a folder for each label, or a manifest",
    )
    p.add_argument("--terminal", action="store_true", help="questions here instead of a page")
    p.add_argument("--port", type=_port, default=0, help="of the page (default: any free one)")
    options.add_model(p)
    p.add_argument("--ask", action="store_true", help="let a language model write texts anew")
    llm.add_llm(p, temperature=0.9)
    p.set_defaults(run=_run_review)


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**16:
        raise argparse.ArgumentTypeError(f"{value} is no port")
    return value


def _run_review(args: argparse.Namespace) -> int:
    from reclap.checks import Sense
    from reclap.review.api import Review
    from reclap.review.checking import Checker
    from reclap.review.documents import open_document
    from reclap.review.example_sounds import clips_of
    from reclap.review.neighbours import Neighbours
    from reclap.review.session import Session

    document = open_document(args.file)
    clips = clips_of(document.items, args.clips)
    sense = Sense(options.load_model(args).embed_text)
    labels = list(dict.fromkeys(item.label for item in document.items))
    with contextlib.ExitStack() as stack:
        ask = None
        if args.ask:
            from reclap.review.regenerate import asker

            model = stack.enter_context(llm.open_session(args))
            ask = asker(model, llm.sampling_of(args), labels, sense)
        session = Session(document, ask=ask, check=Checker(labels, sense).flags)
        stack.callback(session.close)
        review = Review(session, Neighbours(session, sense.rows), clips)
        if args.terminal:
            _question(review)
        else:
            _serve(review, args.port)
    counts = session.counts()
    print(
        f"{document.path}: {counts['accepted']} accepted, {counts['rejected']} rejected, "
        f"{counts['new']} undecided"
    )
    return 0


def _question(review: "Review") -> None:
    from reclap.review.terminal import Terminal

    if sys.stdin is None:
        raise ReclapError("review --terminal: standard input is closed")
    try:
        Terminal(review.session, review.neighbours, sys.stdin, sys.stdout).run()
    except KeyboardInterrupt:
        print()


def _serve(review: "Review", port: int) -> None:
    from reclap.review.server import Server

    with Server(review, port) as server:
        print(f"Open {server.url}\nEnd with Ctrl-C; every decision is saved at once.", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
