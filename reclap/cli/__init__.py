"""The command line: ``reclap COMMAND --help`` says what each takes."""

import argparse
import contextlib
import io
import os
import sys

import reclap
from reclap.cli import (
    bench,
    check,
    compare,
    convert,
    describe,
    embed,
    info,
    name,
    review,
    rewrite,
    train,
)
from reclap.errors import ReclapError, one_line

__all__ = ["main"]

BROKEN_PIPE = 128 + 13  # as a shell reports death by SIGPIPE
INTERRUPTED = 128 + 2


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : list of str, optional
        Arguments; those of the process by default.

    Returns
    -------
    int
        0; 1 if some of several files were skipped; 2 if the request cannot be met, after one line
        on standard error; 130 after Ctrl-C.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for what the terminal cannot show
    args = _parser().parse_args(argv)
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        _close_output()
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED
    except (ReclapError, OSError, ValueError) as error:
        print(f"reclap: {one_line(error)}", file=sys.stderr)
        return 2
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="reclap", description="Contrastive language-audio models on CPUs."
    )
    parser.add_argument("--version", action="version", version=f"reclap {reclap.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    name.add_classify(commands)
    name.add_timeline(commands)
    embed.add_embed(commands)
    check.add_check(commands)
    compare.add_compare(commands)
    train.add_train(commands)
    info.add_info(commands)
    bench.add_bench(commands)
    convert.add_convert(commands)
    review.add_review(commands)
    describe.add_describe(commands)
    rewrite.add_rewrite(commands)
    return parser


def _close_output() -> None:
    """Send what is still buffered nowhere, or the interpreter complains about the pipe at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
