"""``reclap classify`` and ``reclap timeline``: zero-shot classification."""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reclap.cli import labels, options
from reclap.cli.options import Commands
from reclap.cli.tables import print_table

if TYPE_CHECKING:
    from reclap.model.results import Classification, Timeline
    from reclap.prompts.bank import PromptBank

__all__ = ["add_classify", "add_timeline"]

_LABELS = 256  # labels or prompts beyond which embedding them takes noticeable time


def add_classify(commands: Commands) -> None:
    """Add the command."""
    p = commands.add_parser("classify", help="classify sounds by labels in words")
    options.add_files(p)
    labels.add_labels(p)
    options.add_model(p)
    options.add_window_hop(p)
    p.add_argument(
        "--top-k", type=options.positive, default=5, help="number of labels shown (default: 5)"
    )
    p.add_argument("--explain", action="store_true", help="show the contribution of each prompt")
    p.add_argument("--json", action="store_true", help="one JSON object a line")
    p.set_defaults(run=_run_classify)


def _run_classify(args: argparse.Namespace) -> int:
    (files, faults), given = options.files_of(args), labels.labels_of(args)
    model = options.load_model(args)
    # One rule weighs prompts over all sounds; by the others each result is shown when it is there.
    name: Any = model.classify if args.combine == "entropy_batch" else model.iter_classify
    results: Iterable[Classification] = name(
        files,
        top_k=args.top_k,
        window_hop=args.window_hop,
        **labels.zero_shot_options(args, given, model),
        explain=args.explain,
        errors=args.errors,
        progress=options.is_watched(max(len(files), _prompts(given) // _LABELS)),
    )
    rows: list[tuple[str, ...]] = []
    for result in results:
        faults += result.error is not None
        if args.json:
            print(json.dumps(result.to_json()), flush=True)
        else:
            rows += _rows(result, args.explain)
    if not args.json:
        head = ("file", "label", "probability", _score(args))
        print_table((*head, "prompt") if args.explain else head, rows)
    return int(bool(faults))


def _prompts(given: "list[str] | PromptBank") -> int:
    return len(given) if isinstance(given, list) else sum(map(len, given.prompts().values()))


def _score(args: argparse.Namespace) -> str:
    """Return the column name of scores: a cosine, or an aggregate of several."""
    return "cosine" if args.combine == "mean_embedding" else args.combine


def _rows(result: "Classification", explain: bool) -> list[tuple[str, ...]]:
    """Return the table rows of one file's best labels; its name is in the first only.

    To explain, each label comes with the prompt that contributed most to its score.
    """
    if result.error is not None:
        reason = result.error.removeprefix(f"{result.file}: ")
        return [(result.file, f"error: {reason}", "", "", *([""] if explain else []))]
    decided = result.attribution
    return [
        (
            "" if n else result.file,
            result.labels[i],
            f"{result.probabilities[i]:.3f}",
            f"{result.scores[i]:.3f}",
            *([decided.of(result.labels[i])[0].prompt] if decided else []),
        )
        for n, i in enumerate(result.order)
    ]


def add_timeline(commands: Commands) -> None:
    """Add the command."""
    p = commands.add_parser("timeline", help="classify the windows of a recording")
    p.add_argument("file", metavar="FILE", help="sound file")
    labels.add_labels(p)
    options.add_model(p)
    p.add_argument("--window", type=float, metavar="S", help="seconds (default: the model's)")
    p.add_argument("--hop", type=float, metavar="S", help="seconds (default: half a window)")
    p.add_argument("--json", action="store_true", help="one JSON object a line and window")
    p.add_argument("--plot", type=Path, metavar="PNG", help="plot the timeline (extra: plot)")
    p.set_defaults(run=_run_timeline)


def _run_timeline(args: argparse.Namespace) -> int:
    if args.plot is not None:
        from reclap import plotting  # first of all: it may ask for a library

        plotting.require_format(args.plot)
        options.check_out(args.plot, force=True)
    given = labels.labels_of(args)
    model = options.load_model(args)
    timeline = model.timeline(
        args.file,
        window=args.window,
        hop=args.hop,
        **labels.zero_shot_options(args, given, model),
        progress=options.is_watched(),
    )
    if args.json:
        for window in timeline.to_json():
            print(json.dumps(window))
    else:
        print_table(("start", "end", "label", "probability", _score(args)), _windows(timeline))
    if args.plot is not None:
        plotting.save_timeline(timeline, args.plot)
    return 0


def _windows(timeline: "Timeline") -> list[tuple[str, ...]]:
    """Return the best label of each window."""
    best = timeline.scores.argmax(axis=1)
    return [
        (
            f"{start:.2f}",
            f"{end:.2f}",
            timeline.labels[i],
            f"{timeline.probabilities[n, i]:.3f}",
            f"{timeline.scores[n, i]:.3f}",
        )
        for n, (i, (start, end)) in enumerate(zip(best, timeline.seconds, strict=True))
    ]
