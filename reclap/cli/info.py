"""``reclap info``: describe a model and what runs it."""

import argparse
import json
from typing import Any

from reclap.cli import options
from reclap.cli.options import Commands

__all__ = ["add_info"]


def add_info(commands: Commands) -> None:
    """Add the command."""
    p = commands.add_parser("info", help="describe a model")
    p.add_argument("model", metavar="MODEL", nargs="?", default="mini", help="name or folder")
    options.add_threads(p)
    p.add_argument("--json", action="store_true", help="one JSON object, with the configuration")
    p.set_defaults(run=_run_info)


def _run_info(args: argparse.Namespace) -> int:
    from reclap import _libraries

    info = options.load_model(args).info() | _libraries.describe()
    if args.json:
        print(json.dumps(info))
        return 0
    rows = _lines(info)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:{width}}  {value}")
    return 0


def _lines(info: dict[str, Any]) -> list[tuple[str, str]]:
    config, count = info["config"], info["parameters"]
    audio, text = config["audio"], config["text"]
    depths = "-".join(map(str, audio["depths"]))
    return [
        ("name", info["name"]),
        ("source", info["source"]),
        ("audio tower", f"HTS-AT {audio['embed']} x {depths}, {_millions(count['audio'])}"),
        ("text tower", f"BERT {text['width']} x {text['layers']}, {_millions(count['text'])}"),
        ("heads", f"{config['audio_head']} / {config['text_head']}, {_millions(count['heads'])}"),
        ("embedding", f"{info['dim']} wide"),
        ("window", f"{info['window_seconds']:g} s at {info['rate']} Hz"),
        ("template", info["template"]),
        ("logit scale", f"{info['logit_scale']:.2f}"),
        ("arithmetic", f"{info['dtype']}, {info['threads']} threads"),
        ("oneDNN", info["onednn"]),
        ("processor", " ".join(info["cpu"])),
        ("digest", info["digest"]),
    ]


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M parameters"
