"""``reclap check``: judge what a language model wrote."""

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from reclap.cli import options
from reclap.cli.options import Commands
from reclap.errors import ReclapError

if TYPE_CHECKING:
    from reclap.checks import Report, Sense

__all__ = ["add_check"]

_BATCH = 4096  # rewrites in one call of the checks
_MANIFESTS = (".csv", ".jsonl")


def add_check(commands: Commands) -> None:
    """Add the command."""
    p = commands.add_parser("check", help="judge prompts or rewrites of a language model")
    p.add_argument(
        "file",
        metavar="FILE",
        help="prompt bank, a file or the name of one; or a manifest with rewrites (.csv, .jsonl)",
    )
    options.add_model(p)
    p.add_argument(
        "--no-sense",
        dest="sense",
        action="store_false",
        help="compare words only, without the model's text tower",
    )
    p.add_argument("-o", "--out", metavar="JSON", type=Path, help="write the bank with flags")
    p.add_argument("--json", action="store_true", help="the report as one JSON object")
    p.set_defaults(run=_run_check)


def _run_check(args: argparse.Namespace) -> int:
    from reclap.checks import Sense, check_bank

    is_manifest = Path(args.file).suffix.lower() in _MANIFESTS
    if is_manifest and args.out is not None:
        raise ReclapError(f"--out: {args.file} is a manifest; only a bank keeps flags")
    sense = Sense(options.load_model(args).embed_text) if args.sense else None
    if is_manifest:
        report = _check_manifest(args.file, sense)
    else:
        bank, report = check_bank(options.read_prompts(args.file), sense)
        if args.out is not None:
            bank.save(args.out)
    print(json.dumps(report.to_json()) if args.json else report)
    return 1 if report.fatal else 0


def _check_manifest(path: str | os.PathLike[str], sense: "Sense | None") -> "Report":
    """Check all rewrites of a manifest."""
    from reclap import manifest
    from reclap.checks import Flagged, Report, check_rewrites

    rows = manifest.read(path, check_files=False)
    captions = (caption for row in rows for caption in row.captions)
    pairs = [(caption.text, rewrite) for caption in captions for rewrite in caption.rewrites]
    flagged = []
    for at in range(0, len(pairs), _BATCH):
        part = pairs[at : at + _BATCH]
        for (text, rewrite), findings in zip(part, check_rewrites(part, sense=sense), strict=True):
            if findings:
                flagged.append(Flagged(text, "rewrite", rewrite, tuple(findings)))
    return Report(os.fspath(path), len(pairs), tuple(flagged))
