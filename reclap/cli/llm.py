"""Options of the commands that ask a language model, and their values."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from reclap.cli import options
from reclap.errors import ReclapError

if TYPE_CHECKING:
    from reclap.checks import Sense
    from reclap.llm.collect import Sampling
    from reclap.llm.report import Report
    from reclap.llm.request import StoppedError
    from reclap.llm.session import Session

__all__ = [
    "add_llm",
    "add_out",
    "add_sense",
    "is_small",
    "open_session",
    "resumable",
    "sampling_of",
    "sense_of",
    "write_report",
]


def add_out(parser: argparse.ArgumentParser, help_text: str) -> None:
    """Add ``--out``, ``--force`` and ``--dry-run``."""
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help=help_text)
    parser.add_argument("--force", action="store_true", help="replace an existing result")
    parser.add_argument("--dry-run", action="store_true", help="estimate requests and tokens only")


def add_llm(parser: argparse.ArgumentParser, temperature: float) -> None:
    """Add the options of the language model, its sampling and the budget."""
    group = parser.add_argument_group("language model")
    group.add_argument(
        "--base-url",
        metavar="URL",
        help="server that speaks OpenAI's chat completions (default: a small model in this "
        "process)",
    )
    group.add_argument(
        "--key-env",
        metavar="VARIABLE",
        help="environment variable with the server's key (default: RECLAP_LLM_KEY; for "
        "https://api.openai.com also OPENAI_API_KEY)",
    )
    group.add_argument("--llm", metavar="NAME", help="the server's model, or a .gguf file")
    group.add_argument(
        "--small",
        action="store_true",
        default=None,
        help="ask for one property at a time, with examples (default without --base-url)",
    )
    group.add_argument(
        "--temperature",
        type=float,
        default=temperature,
        help=f"of sampling (default: {temperature})",
    )
    group.add_argument("--seed", type=int, default=0, help="seed of sampling (default: 0)")
    group.add_argument(
        "--attempts",
        type=options.positive,
        default=4,
        help="attempts per text (default: 4)",
    )
    group.add_argument(
        "--concurrency", type=options.positive, default=8, help="concurrent requests (default: 8)"
    )
    group.add_argument(
        "--timeout", type=float, default=60.0, help="seconds for a whole answer (default: 60)"
    )
    group.add_argument(
        "--max-requests", type=options.positive, metavar="N", help="budget of requests"
    )
    group.add_argument("--max-tokens", type=options.positive, metavar="N", help="budget of tokens")
    group.add_argument(
        "--cache", type=Path, metavar="FILE", help="cache of replies (default: the user's)"
    )
    group.add_argument(
        "--replay", action="store_true", help="recorded replies only: send nothing, load no model"
    )


def add_sense(parser: argparse.ArgumentParser) -> None:
    """Add ``--sense``."""
    parser.add_argument(
        "--sense",
        default="mini",
        metavar="MODEL",
        help="text tower with which checks compare meanings; none: words only (default: mini)",
    )


def open_session(args: argparse.Namespace) -> "Session":
    """Return a session with the chosen model."""
    from reclap.llm import open_llm

    return open_llm(
        args.base_url,
        args.llm,
        small=args.small,
        cache=args.cache,
        replay=args.replay,
        max_requests=args.max_requests,
        max_tokens=args.max_tokens,
        timeout=args.timeout,
        key_env=args.key_env,
    )


def is_small(args: argparse.Namespace) -> bool:
    """Tell whether the model counts as small, without opening it."""
    return args.base_url is None or bool(args.small)


def sampling_of(args: argparse.Namespace) -> "Sampling":
    """Return the sampling options."""
    from reclap.llm.collect import Sampling

    return Sampling(args.temperature, args.seed, args.attempts)


def sense_of(args: argparse.Namespace) -> "Sense | None":
    """Return the text tower that checks use."""
    from reclap.checks import load_sense

    return None if args.sense == "none" else load_sense(args.sense)


def resumable(error: "StoppedError", session: "Session") -> ReclapError:
    """Return the message about resuming a stopped run."""
    sent = session.usage.counts().get("requests", 0)
    done = f"{sent} requests sent, all replies kept" if sent else "no request sent"
    return ReclapError(f"{error}; {done}: run it again to go on")


def write_report(report: "Report", out: Path) -> int:
    """Print a report, write it beside the result, return the exit status."""
    from reclap.io.files import write_text

    text = json.dumps(report.to_json(), indent=1, ensure_ascii=False)
    write_text(out.with_suffix(".report.json"), text + "\n")
    print(report.text())
    return int(report.incomplete > 0)
