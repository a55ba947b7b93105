"""``reclap info``: describe a model and the machine."""

import argparse
import json
from typing import Any

from reclap.cli import options
from reclap.cli.options import Commands

__all__ = ["add_info"]

_RESAMPLERS = {
    "soxr": "soxr, exact lengths",
    "librosa": "soxr, lengths of librosa as in LAION-CLAP",
    "sinc": "windowed sinc, lengths of torchaudio as in MS-CLAP",
}


_WIDEST = 1000  # characters of a value


def add_info(commands: Commands) -> None:
    """Add the command."""
    p = commands.add_parser("info", help="describe a model")
    p.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        default="mini",
        help="name, folder, file, or hf:ORG/NAME of the hub",
    )
    options.add_loading(p)
    options.add_threads(p)
    p.add_argument("--json", action="store_true", help="one JSON object, with the configuration")
    p.set_defaults(run=_run_info)


def _run_info(args: argparse.Namespace) -> int:
    from reclap.checkpoints.families import single_tower
    from reclap.model.loading import locate
    from reclap.runtime import libraries

    path = locate(args.model, args.revision, offline=args.offline)
    info = None
    if args.adapter is None:
        info = single_tower.describe(path, progress=options.is_watched())
    if info is None:
        args.offline = True  # by now it is on this machine
        info = options.load_model(args).info() | libraries.describe()
    if args.json:
        print(json.dumps(info))
        return 0
    rows = _lines(info)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:{width}}  {' '.join(value.split())[:_WIDEST]}")  # names may hold anything
    return 0


def _lines(info: dict[str, Any]) -> list[tuple[str, str]]:
    count = info["parameters"]
    return [
        ("name", info["name"]),
        ("source", info["source"]),
        ("family", info["family"]),
        *([("use", info["use"])] if "use" in info else []),
        *_towers(info["config"], count),
        ("in all", _parameters(count["total"])),
        ("tokenizer", _tokenizer(info["tokenizer"])),
        *(_running(info) if "onednn" in info else []),
        ("digest", info["digest"]),
        *([("adapter", info["adapter"])] if info.get("adapter") else []),
        *_ignored(info["ignored"]),
    ]


def _towers(config: dict[str, Any], count: dict[str, int]) -> list[tuple[str, str]]:
    from reclap.config.model import audio_from_json  # here, because --help needs no NumPy

    rows = []
    if audio := config.get("audio"):
        rows.append(
            (
                "audio tower",
                f"{audio_from_json(audio, 'audio').summary}, {_parameters(count['audio'])}",
            )
        )
    if text := config.get("text"):
        kind = f"{_text_kind(text)} {text['width']} x {text['layers']}"
        rows.append(("text tower", f"{kind}, {_parameters(count['text'])}"))
    for head in ("audio_head", "text_head"):
        if head in count:
            name = head.replace("_", " ")
            rows.append((name, f"{config[head]}, {_parameters(count[head])}"))
    return rows


def _tokenizer(found: dict[str, Any] | None) -> str:
    if found is None:
        return "none: no text can be embedded"
    return f"{found['kind']}, {found['tokens']} tokens: {found['file']}"


def _running(info: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the facts of a model that can embed."""
    fused = ", feature fusion" if info["config"]["audio"].get("fusion") else ""
    return [
        ("embedding", f"{info['dim']} wide"),
        ("window", f"{info['window_seconds']:g} s at {info['rate']} Hz{fused}"),
        ("resampling", _RESAMPLERS[info["config"]["front"]["resampler"]]),
        ("template", info["template"]),
        ("logit scale", f"{info['logit_scale']:.2f}"),
        ("arithmetic", f"{info['dtype']}, {info['threads']} threads"),
        ("oneDNN", info["onednn"]),
        ("processor", " ".join(info["cpu"])),
    ]


def _text_kind(text: dict[str, Any]) -> str:
    """Return the usual name of a text tower with these settings."""
    if text["position"] == "buckets":
        return "T5"
    if text["place"] == "pre":
        return "CLIP" if text["pool"] == "last" else "GPT-2"
    return "RoBERTa" if text["position_offset"] else "BERT"


def _ignored(ignored: dict[str, str]) -> list[tuple[str, str]]:
    """Return a line for each reason, with the number of names and the first of them."""
    reasons: dict[str, list[str]] = {}
    for name, why in ignored.items():
        reasons.setdefault(why, []).append(name)
    return [
        ("ignored", f"{len(names)} {why}: {', '.join(names[:3])}" + (", ..." if names[3:] else ""))
        for why, names in reasons.items()
    ]


def _parameters(count: int) -> str:
    return f"{count:,} parameters".replace(",", " ")
