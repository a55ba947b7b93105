"""``reclap check``: check texts that a language model wrote."""

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from reclap.cli import options
from reclap.cli.options import Commands
from reclap.errors import ReclapError

if TYPE_CHECKING:
    from reclap.checks import Report, Sense

__all__ = ["add_check"]

_BATCH = 4096  # rewrites in one call of the checks
_MANIFESTS = (".csv", ".jsonl", ".parquet")


def add_check(commands: Commands) -> None:
    """Add the command."""
    p = commands.add_parser("check", help="judge prompts or rewrites of a language model")
    p.add_argument(
        "file",
        metavar="FILE",
        help="prompt bank, a file or the name of one; or a manifest with rewrites",
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
    from reclap.prompts.bank import PromptBank

    is_manifest = Path(args.file).suffix.lower() in _MANIFESTS
    if is_manifest and args.out is not None:
        raise ReclapError(f"--out: {args.file} is a manifest; only a bank keeps flags")
    if args.out is not None:
        options.check_out(args.out, force=True)
    sense = Sense(options.load_model(args).embed_text) if args.sense else None
    if is_manifest:
        report = _check_manifest(args.file, sense)
    else:
        bank, report = check_bank(PromptBank.load(args.file), sense)
        if args.out is not None:
            bank.save(args.out)
    print(json.dumps(report.to_json()) if args.json else report)
    return 1 if report.fatal else 0


def _check_manifest(path: str, sense: "Sense | None") -> "Report":
    """Check all rewrites of a manifest; only those with findings are kept in memory."""
    from reclap.checks import Flagged, Report, check_rewrites

    flagged, count = [], 0
    rest = _pairs(Path(path))
    while pairs := list(itertools.islice(rest, _BATCH)):
        count += len(pairs)
        for (caption, rewrite), found in zip(
            pairs, check_rewrites(pairs, sense=sense), strict=True
        ):
            if found:
                flagged.append(Flagged(caption, "rewrite", rewrite, tuple(found)))
    return Report(path, count, tuple(flagged))


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    """Yield captions and their rewrites, row by row."""
    from reclap.io import manifest

    shared = manifest.SharedCaptions(path.parent)
    for line, item in manifest.items(path):
        for caption in manifest.take_captions(f"{path}:{line}", item, shared):
            yield from ((caption.text, rewrite) for rewrite in caption.rewrites)
