"""Options that several commands share, and their values."""

import argparse
import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from reclap.cli.files import gather
from reclap.config.ranges import DTYPES
from reclap.errors import FormatError, one_line

if TYPE_CHECKING:
    from reclap.model.clap import Model

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_traceback(parser: argparse.ArgumentParser) -> None:
    """Add ``--traceback``, to a command of a command too, and name the parser `command`."""
    parser.set_defaults(command=parser)
    parser.add_argument(
        "--traceback",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show where an error comes from (also: RECLAP_DEBUG=1)",
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add ``--model`` and ``--threads``."""
    parser.add_argument(
        "--model",
        default="mini",
        help="bundled name, folder, checkpoint, or hf:ORG/NAME of the hub (default: mini)",
    )
    add_loading(parser)
    add_threads(parser)


def add_loading(parser: argparse.ArgumentParser) -> None:
    """Add the other options of `load_model`, except ``--threads``."""
    parser.add_argument(
        "--dtype",
        choices=(*DTYPES, "auto"),
        default="float32",
        help="type of the towers' products (default: float32)",
    )
    add_reading(parser)


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Add the options for finding and reading a model."""
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="PATH",
        help="tokenizer.json, or a folder with a tokenizer, for a checkpoint without one",
    )
    parser.add_argument("--revision", help="branch, tag or commit of an id of the hub")
    parser.add_argument(
        "--offline", action="store_true", help="no network: only what the hub's cache holds"
    )
    parser.add_argument(
        "--text-activation",
        choices=("gelu", "quick_gelu"),
        help="activation of the CLIP text tower in a file of LAION-CLAP (default: gelu)",
    )
    parser.add_argument(
        "--adapter",
        type=named_path,
        metavar="FILE",
        help="low-rank adapter that was trained on this model, merged into it",
    )
    parser.add_argument(
        "--compat",
        choices=("upstream",),
        help="prepare sounds exactly as the checkpoint's own project does",
    )


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Add ``--threads``."""
    parser.add_argument("--threads", type=positive, help="most threads (default: all processors)")


def add_files(parser: argparse.ArgumentParser, nargs: str = "+") -> None:
    """Add sound files, ``--recursive`` and ``--errors``."""
    parser.add_argument(
        "files", metavar="FILE", nargs=nargs, help="sound files; - for standard input"
    )
    parser.add_argument("--recursive", action="store_true", help="search folders recursively")
    parser.add_argument(
        "--errors",
        choices=("raise", "skip"),
        default="raise",
        help="stop at a bad file, or report and skip it (default: raise)",
    )


def add_window_hop(parser: argparse.ArgumentParser) -> None:
    """Add ``--window-hop``."""
    parser.add_argument(
        "--window-hop",
        type=float,
        metavar="X",
        help="step between the windows of a long clip, a fraction of the window "
        "(default: the model's, mostly 1)",
    )


def positive(text: str) -> int:
    """Parse a number above 0 for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not above 0")
    return value


def load_model(args: argparse.Namespace) -> "Model":
    """Load the model of ``--model`` with the options of `add_loading` and `add_threads`."""
    from reclap.model.loading import load

    return load(
        args.model,
        dtype=args.dtype,
        threads=args.threads,
        tokenizer=args.tokenizer,
        compat=args.compat,
        text_activation=args.text_activation,
        adapter=args.adapter,
        revision=args.revision,
        offline=args.offline,
        progress=is_watched(),
    )


def is_watched(count: int = 2) -> bool:
    """Tell whether a progress bar over so many items is useful."""
    return count > 1 and sys.stderr.isatty()


def named_path(text: str) -> Path:
    """Return an argument that is a path; an empty one would be this folder."""
    if not text:
        raise argparse.ArgumentTypeError("expected a name, got an empty one")
    return Path(text)


def files_of(args: argparse.Namespace) -> tuple[list[str], int]:
    """Return the sound files of the command line, and how many folders were skipped.

    See `reclap.cli.files.gather`; by ``--errors skip`` folders that cannot be listed are skipped.
    """
    unread: list[OSError] | None = [] if args.errors == "skip" else None
    found = gather(args.files, recursive=args.recursive, unread=unread)
    for error in unread or []:
        print(f"reclap: skipped: {one_line(error)}", file=sys.stderr)
    return found, len(unread or [])


def check_out(path: Path, force: bool, *, folder: bool = False) -> None:
    """Refuse an output path that cannot be written, before the work; `folder` allows a folder."""
    if path.is_dir() and not folder:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    is_empty = folder and path.is_dir() and not any(path.iterdir())  # as a killed process left it
    if path.exists() and not force and not is_empty:
        raise FileExistsError(errno.EEXIST, "exists; --force replaces it", str(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path.parent))
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path.parent))


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file.

    Raises
    ------
    OSError
        If it cannot be read.
    FormatError
        If it is not UTF-8; names the line.
    """
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FormatError(
            f"{path}: line {line} is not UTF-8; convert it, as with iconv -f latin1 -t utf-8"
        ) from error
    lines = text.replace("\r\n", "\n").split("\n")  # not splitlines, which also splits at U+2028
    return lines[:-1] if lines[-1] == "" else lines
