"""``reclap embed``: write embeddings of sounds or texts."""

import argparse
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from reclap.cli import options
from reclap.cli.options import Commands
from reclap.errors import ReclapError, SkippedWarning

if TYPE_CHECKING:
    from reclap.embedder import Floats
    from reclap.model import Model

__all__ = ["add_embed"]


def add_embed(commands: Commands) -> None:
    """Add the command."""
    p = commands.add_parser("embed", help="write one embedding for each sound or text")
    options.add_files(p, nargs="*")
    p.add_argument("--text", nargs="+", default=[], help="texts instead of files")
    p.add_argument("--text-file", type=Path, metavar="TXT", help="one text a line")
    options.add_model(p)
    p.add_argument(
        "-o",
        "--out",
        type=Path,
        required=True,
        metavar="NPZ",
        help="arrays embeddings (n, dim), items, kind, model, digest",
    )
    p.add_argument("--force", action="store_true", help="replace an existing file")
    p.set_defaults(run=_run_embed)


def _run_embed(args: argparse.Namespace) -> int:
    options.check_out(args.out, args.force)
    texts = _texts_of(args)
    if bool(texts) == bool(args.files):
        raise ReclapError("embed: give either sound files or texts")
    files = options.files_of(args)
    model = options.load_model(args)
    if texts:
        _write(args.out, model, "text", texts, model.embed_text(texts))
        return 0
    rows, faults = _embed_files(model, files, args.errors)
    for fault in faults.values():
        print(f"reclap: skipped: {fault}", file=sys.stderr)
    good = [i for i in range(len(files)) if i not in faults]
    _write(args.out, model, "audio", [files[i] for i in good], rows[good])
    return int(bool(faults))


def _texts_of(args: argparse.Namespace) -> list[str]:
    if args.text_file is None:
        return list(args.text)
    lines = args.text_file.read_text("utf-8-sig").splitlines()
    texts = [*args.text, *filter(str.strip, lines)]
    if not texts:
        raise ReclapError(f"{args.text_file}: no text")
    return texts


def _embed_files(model: "Model", files: list[str], errors: str) -> "tuple[Floats, dict[int, str]]":
    faults: dict[int, str] = {}
    with warnings.catch_warnings(record=True, action="always", category=SkippedWarning) as caught:
        rows = model.embed_audio(files, errors=errors, progress=options.is_watched(len(files)))
    for warning in caught or []:
        if isinstance(warning.message, SkippedWarning):
            faults |= warning.message.faults
    return rows, faults


def _write(path: Path, model: "Model", kind: str, items: list[str], rows: "Floats") -> None:
    from reclap.embeddings import Embeddings

    Embeddings(rows, tuple(items), kind, model.config.name, model.digest).save(path)
