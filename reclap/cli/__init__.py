"""Command line; ``reclap COMMAND --help`` describes each command."""

import argparse
import contextlib
import importlib
import io
import os
import sys
import traceback
from typing import NoReturn

import reclap
from reclap.cli.options import add_traceback
from reclap.cli.output import filtered
from reclap.errors import ReclapError, one_line

__all__ = ["main"]

BROKEN_PIPE = 128 + 13  # as a shell reports death by SIGPIPE
INTERRUPTED = 128 + 2
FAILED = 2

# Commands, and the modules that add them, which are imported for the command that is asked for.
COMMANDS = {
    "classify": "name",
    "timeline": "name",
    "embed": "embed",
    "check": "check",
    "compare": "compare",
    "train": "train",
    "plot": "plot",
    "info": "info",
    "bench": "bench",
    "convert": "convert",
    "review": "review",
    "describe": "describe",
    "rewrite": "rewrite",
    "data": "data",
    "cache": "cache",
}


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : list of str, optional
        Arguments; those of the process by default.

    Returns
    -------
    int
        0; 1 if some of several files were skipped; 2 for an error in the request, after one line
        on standard error; 130 after Ctrl-C.
    """
    _occupy_standard_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for what no terminal shows
    with filtered():
        try:
            args = _parse(sys.argv[1:] if argv is None else argv)
        except KeyboardInterrupt:
            return INTERRUPTED
        return _run(args)


def _parse(arguments: list[str]) -> argparse.Namespace:
    args, rest = _parser(arguments).parse_known_args(arguments)
    if rest:
        args.command.error(f"unrecognized arguments: {' '.join(rest)}")
    return args


class _Parser(argparse.ArgumentParser):
    """Argument parser whose errors are one line, as those of the commands."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        self.exit(FAILED, f"{self.prog}: {' '.join(message.split())} ({self.prog} --help)\n")


def _run(args: argparse.Namespace) -> int:
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        _close_output()
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if args.traceback or os.environ.get("RECLAP_DEBUG") == "1":
            traceback.print_exc()
        else:
            print(f"reclap: {_message(error)}", file=sys.stderr)
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            return FAILED
        _close_output()
        return FAILED
    return status


def _message(error: Exception) -> str:
    """Return the error of a request in one line, or say that it is a bug."""
    if isinstance(error, ReclapError | OSError | ValueError):
        return one_line(error)
    if isinstance(error, MemoryError):
        return f"out of memory: {one_line(error)}"
    return f"{type(error).__name__}: {one_line(error)} (--traceback shows where)"


def _occupy_standard_streams() -> None:
    """Open closed standard streams, or the next file would be taken for one of them."""
    while True:
        handle = os.open(os.devnull, os.O_RDWR)
        if handle > 2:
            os.close(handle)
            return


def _parser(arguments: list[str]) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = _Parser(
        prog="reclap", description="Contrastive language-audio models on CPUs."
    )
    parser.add_argument("--version", action="version", version=f"reclap {reclap.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    asked = [arguments[0]] if arguments and arguments[0] in COMMANDS else list(COMMANDS)
    for command_name in asked:
        module = importlib.import_module(f"reclap.cli.{COMMANDS[command_name]}")
        getattr(module, f"add_{command_name}")(commands)
    for command in commands.choices.values():
        command.set_defaults(traceback=False)
        add_traceback(command)
    return parser


def _close_output() -> None:
    """Send what is still buffered nowhere, or the interpreter complains about the pipe at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
