"""Options that several commands share, and what they stand for."""

import argparse
import errno
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from reclap.errors import FormatError, ReclapError
from reclap.prompts.combine import RULES
from reclap.towers import DTYPES

if TYPE_CHECKING:
    from reclap.model import Model
    from reclap.prompts.bank import PromptBank
    from reclap.prompts.strategies import Labels

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

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
        help="bundled name, folder, checkpoint, or hf:ORG/NAME of the hub (default: mini)",
    )
    add_loading(parser)
    add_threads(parser)


def add_loading(parser: argparse.ArgumentParser) -> None:
    """Add what else `load_model` takes, but for ``--threads``."""
    parser.add_argument(
        "--dtype",
        choices=(*DTYPES, "auto"),
        default="float32",
        help="type of the towers' products (default: float32)",
    )
    add_reading(parser)


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Add how a model is found and read."""
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
    """Add the ways to give labels, of which one is needed, and what becomes of them."""
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--labels", metavar="A,B,C", action="append", help="may be repeated")
    group.add_argument("--labels-file", metavar="TXT", type=Path, help="one label a line")
    group.add_argument(
        "--prompts",
        metavar="BANK",
        help='prompt bank, a file or the name of one; or {"label": ["a prompt", ...], ...}',
    )
    parser.add_argument("--template", help='how a label becomes a prompt: "a sound of {label}"')
    parser.add_argument(
        "--strategy",
        metavar="NAME",
        help="how labels become prompts: template, label, label+description, attributes, sources "
        "or bank",
    )
    parser.add_argument(
        "--n-prompts", type=positive, metavar="N", help="prompts drawn of each label (default: all)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: 0)")
    parser.add_argument(
        "--combine",
        choices=RULES,
        default=RULES[0],
        help="how a label's prompts make one score (default: %(default)s)",
    )
    parser.add_argument(
        "--no-cache",
        dest="cache",
        action="store_false",
        help="embed prompts anew, and keep nothing",
    )


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
        dtype=args.dtype,
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


def check_out(path: Path, force: bool) -> None:
    """Refuse before the work what would fail after it."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not force:
        raise FileExistsError(errno.EEXIST, "exists; --force replaces it", str(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path.parent))


def labels_of(args: argparse.Namespace) -> "Labels":
    """Return the labels of the command line, or a bank of prompts for them.

    Raises
    ------
    ReclapError
        If there is none, one is empty, or one occurs twice.
    FormatError
        If the prompts are neither a bank nor a JSON object of lists of texts.
    """
    if args.prompts is not None:
        return read_prompts(args.prompts)
    if args.labels_file is not None:
        lines = args.labels_file.read_text("utf-8-sig").splitlines()
        return _checked(str(args.labels_file), filter(str.strip, lines))
    return _checked("--labels", (part for given in args.labels for part in given.split(",")))


def naming_of(args: argparse.Namespace, labels: "Labels", model: "Model") -> dict[str, Any]:
    """Return labels and what becomes of them, as arguments of `Model.classify`."""
    from reclap.prompts.strategies import make

    template = args.template or model.config.template
    return {
        "labels": make(args.strategy, labels, template) if args.strategy else labels,
        "template": template,
        "n_prompts": args.n_prompts,
        "seed": args.seed,
        "combine": args.combine,
        "cache": args.cache,
    }


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


def read_prompts(name: str) -> "PromptBank":
    """Read a bank, or a file of plain prompts as one."""
    from reclap.files import parse_json
    from reclap.prompts.bank import PromptBank

    path = Path(name)
    if not path.is_file():
        return PromptBank.load(name)
    data = parse_json(name, path.read_bytes(), unique=True)
    if isinstance(data, dict) and isinstance(data.get("format"), str):
        return PromptBank.from_json(data, name)
    if not isinstance(data, dict) or not all(isinstance(p, list) for p in data.values()):
        raise FormatError(f'{name}: expected a bank or {{"label": ["a prompt", ...], ...}}')
    try:
        return PromptBank.from_prompts(data, path.stem)
    except (TypeError, ValueError) as error:
        raise FormatError(f"{name}: {error}") from error
