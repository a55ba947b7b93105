"""Labels on the command line: options, files, strategies."""

import argparse
import csv
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reclap.cli.options import positive, read_lines
from reclap.errors import FormatError, ReclapError, shown_name, shown_names
from reclap.prompts.combine import RULES

if TYPE_CHECKING:
    from reclap.model.clap import Model
    from reclap.prompts.bank import PromptBank
    from reclap.prompts.strategies import Labels

__all__ = ["add_labels", "labels_of", "zero_shot_options"]

# Columns of published lists of classes that hold the label, the first that is there.
_COLUMNS = ("label", "labels", "display_name", "category", "class", "name")
_SEPARATORS = {".csv": ",", ".tsv": "\t"}


def add_labels(parser: argparse.ArgumentParser) -> None:
    """Add the options for labels, of which one is required, and for their prompts."""
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument(
        "--labels",
        metavar="A,B,C",
        action="append",
        help="may be repeated; one with a comma in double quotes: '\"dog, barking\",rain'",
    )
    group.add_argument(
        "--labels-file",
        metavar="TXT",
        type=Path,
        help="one label a line; or .csv or .tsv with a column label",
    )
    group.add_argument(
        "--prompts",
        metavar="BANK",
        help='prompt bank, a file or the name of one; or {"label": ["a prompt", ...], ...}',
    )
    parser.add_argument("--template", help='prompt of a label, such as "a sound of {label}"')
    parser.add_argument(
        "--strategy",
        metavar="NAME",
        help="strategy that makes prompts: template, label, label+description, attributes, sources "
        "or bank",
    )
    parser.add_argument(
        "--n-prompts", type=positive, metavar="N", help="prompts to draw per label (default: all)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw (default: 0)")
    parser.add_argument(
        "--combine",
        choices=RULES,
        default=RULES[0],
        help="aggregation rule over the prompts of a label (default: %(default)s)",
    )
    parser.add_argument(
        "--no-cache",
        dest="cache",
        action="store_false",
        help="neither read nor write the cache of prompt embeddings",
    )


def labels_of(args: argparse.Namespace) -> "list[str] | PromptBank":
    """Return the labels of the command line, or a bank of prompts for them.

    Raises
    ------
    ReclapError
        If there is none, one is empty, or one occurs twice.
    FormatError
        If the prompts are neither a bank nor a JSON object of lists of texts.
    """
    if args.prompts is not None:
        from reclap.prompts.bank import PromptBank

        return PromptBank.load(args.prompts)
    if args.labels_file is not None:
        where = str(args.labels_file)
        separator = _SEPARATORS.get(args.labels_file.suffix.lower())
        lines = read_lines(args.labels_file)
        found = lines if separator is None else _column(where, lines, separator)
        return _checked(where, filter(str.strip, found))
    return _checked("--labels", (label for given in args.labels for label in _split(given)))


def _split(given: str) -> list[str]:
    close = re.sub(r'(?<=")\s+(?=,|$)', "", given)  # space between a quote and a comma
    try:
        [row] = csv.reader([close], skipinitialspace=True, strict=True)
    except csv.Error as error:
        raise ReclapError(
            f"--labels: {given!r}: expected labels with commas between them, on one line; one that "
            "holds a comma or a quote in double quotes, its quotes doubled"
        ) from error
    return row


def _column(where: str, lines: Sequence[str], separator: str) -> list[str]:
    """Return the labels of a table: its column of labels, or the only one, each once."""
    table = csv.reader((line + "\n" for line in lines), delimiter=separator, strict=True)
    try:
        rows = [row for row in table if any(map(str.strip, row))]
    except csv.Error as error:
        raise FormatError(
            f"{where}: line {table.line_num}: expected cells with {separator!r} between them; one "
            "that holds it, a quote or a line break in double quotes, its quotes doubled"
        ) from error
    if not rows:
        return []
    names = [name.strip().lower() for name in rows[0]]
    known = [names.index(name) for name in _COLUMNS if name in names]
    if known:
        column, rows = known[0], rows[1:]
    elif len(names) == 1 or (len(names) == 2 and re.fullmatch(r"\d+", names[0])):
        column = len(names) - 1
    else:
        raise FormatError(
            f"{where}: no column of labels among {shown_names(rows[0])}; expected one named "
            f"{', '.join(_COLUMNS)}"
        )
    short = [i for i, row in enumerate(rows) if len(row) <= column]
    if short:
        raise FormatError(f"{where}: row {short[0] + 1} has {len(rows[short[0]])} columns")
    return list(dict.fromkeys(row[column] for row in rows))


def zero_shot_options(args: argparse.Namespace, labels: "Labels", model: "Model") -> dict[str, Any]:
    """Return the arguments of `Model.classify` that concern labels and prompts."""
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
    twice = [label for label, count in Counter(labels).items() if count > 1]
    if twice:
        raise ReclapError(f"{where}: {shown_name(twice[0])!r} more than once")
    return labels
