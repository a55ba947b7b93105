"""Options that several commands share, and what they stand for."""

import argparse
import functools
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from reclap.errors import FormatError, ReclapError

if TYPE_CHECKING:
    from reclap.model import Model

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Labels: TypeAlias = Sequence[str] | Mapping[str, Sequence[str]]

SUFFIXES = (
    ".aif",
    ".aifc",
    ".aiff",
    ".au",
    ".caf",
    ".flac",
    ".mp3",
    ".oga",
    ".ogg",
    ".opus",
    ".wav",
)


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add ``--model`` and ``--threads``."""
    parser.add_argument(
        "--model",
        default="mini",
        help="bundled name, folder, checkpoint, or id of the hub (default: mini)",
    )
    add_loading(parser)
    add_threads(parser)


def add_loading(parser: argparse.ArgumentParser) -> None:
    """Add what else `load_model` takes, but for ``--threads``."""
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
        help="of the CLIP text tower in a file of LAION-CLAP (default: gelu)",
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
    parser.add_argument("files", metavar="FILE", nargs=nargs, help="sound files")
    parser.add_argument("--recursive", action="store_true", help="take folders, with all below")
    parser.add_argument(
        "--errors",
        choices=("raise", "skip"),
        default="raise",
        help="stop at a bad file, or report it and go on (default: raise)",
    )


def add_labels(parser: argparse.ArgumentParser) -> None:
    """Add the ways to give labels, of which one is needed, and ``--template``."""
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--labels", metavar="A,B,C", action="append", help="may be repeated")
    group.add_argument("--labels-file", metavar="TXT", type=Path, help="one label a line")
    group.add_argument(
        "--prompts", metavar="JSON", type=Path, help='{"label": ["a prompt", ...], ...}'
    )
    parser.add_argument("--template", help='how a label becomes a prompt: "a sound of {label}"')


def positive(text: str) -> int:
    """Parse a number above 0 for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not above 0")
    return value


def load_model(args: argparse.Namespace) -> "Model":
    """Load the model of ``--model`` and of what `add_loading` and `add_threads` added."""
    from reclap.loading import load

    return load(
        args.model,
        threads=args.threads,
        tokenizer=args.tokenizer,
        compat=args.compat,
        text_activation=args.text_activation,
        revision=args.revision,
        offline=args.offline,
    )


def is_watched(count: int = 2) -> bool:
    """Tell whether a progress bar over so many items helps anybody."""
    return count > 1 and sys.stderr.isatty()


def files_of(args: argparse.Namespace) -> list[str]:
    """Return the sound files of the command line.

    Raises
    ------
    ReclapError
        If one is a folder and ``--recursive`` was not given, or it holds no sound.
    """
    return [file for given in args.files for file in _expand(given, args.recursive)]


def _expand(given: str, recursive: bool) -> list[str]:
    folder = Path(given)
    if not folder.is_dir():
        return [given]
    if not recursive:
        raise ReclapError(f"{given} is a folder; give its files, as {folder}/*.wav, or --recursive")
    inside = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    found = sorted(str(path) for path in inside if path.is_file())
    if not found:
        raise ReclapError(f"{given}: no sound file below this folder")
    return found


def labels_of(args: argparse.Namespace) -> Labels:
    """Return the labels of the command line, or labels with their prompts.

    Raises
    ------
    ReclapError
        If there is none, one is empty, or one occurs twice.
    FormatError
        If the prompts are not a JSON object of lists of texts.
    """
    if args.prompts is not None:
        return _read_prompts(args.prompts)
    if args.labels_file is not None:
        lines = args.labels_file.read_text("utf-8-sig").splitlines()
        return _checked(str(args.labels_file), filter(str.strip, lines))
    return _checked("--labels", (part for given in args.labels for part in given.split(",")))


def _checked(where: str, given: Iterable[str]) -> list[str]:
    labels = [label.strip() for label in given]
    if not labels:
        raise ReclapError(f"{where}: no label")
    if "" in labels:
        raise ReclapError(f"{where}: label {labels.index('') + 1} is empty")
    twice = [label for i, label in enumerate(labels) if label in labels[:i]]
    if twice:
        raise ReclapError(f"{where}: {twice[0]!r} more than once")
    return labels


def _read_prompts(path: Path) -> dict[str, list[str]]:
    try:
        unique = functools.partial(_unique, str(path))
        prompts = json.loads(path.read_text("utf-8-sig"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: {error}") from error
    if not isinstance(prompts, dict) or not all(isinstance(p, list) for p in prompts.values()):
        raise FormatError(f'{path}: expected {{"label": ["a prompt", ...], ...}}')
    if not all(isinstance(prompt, str) for group in prompts.values() for prompt in group):
        raise FormatError(f"{path}: a prompt is not a text")
    return prompts


def _unique(where: str, pairs: list[tuple[str, object]]) -> dict[str, object]:
    _checked(where, (label for label, _ in pairs))
    return dict(pairs)
