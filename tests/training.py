"""A small set of sounds with captions, and recipes to train on it in a second."""

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from folders import CONFIG, RATE, tone, write_wav

from reclap.checkpoints import model_folder
from reclap.training.recipe import Recipe

GROUPS = ("bell", "drone", "flute", "horn", "wind")
AUDIO = {**CONFIG["audio"], "time_stripes": 1, "time_width": 8, "freq_stripes": 1, "freq_width": 2}


def write_set(folder: Path) -> Path:
    """Write two tones of each group, 0.5 to 1.9 s long, and their manifest; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for g, group in enumerate(GROUPS):
        for k, kind in enumerate(("low", "high")):
            name = f"{group}{k}.wav"
            write_wav(folder / name, tone(150 * 2**g * (1 + 0.1 * k), 0.5 + 1.4 * (k + g) % 1.5))
            rewrites = [f"{group} {kind} told {word}" for word in ("shortly", "loudly", "again")]
            row = {
                "path": name,
                "group": group,
                "caption": f"The {group} {kind}.",
                "rewrites": rewrites,
            }
            lines.append(json.dumps(row))
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def settings(manifest: Path, text: Path, **changes: dict) -> dict:
    """Return the sections of a recipe; keyword arguments add to them or replace keys."""
    sections = {
        "model": {
            "text": str(text),
            "dim": CONFIG["dim"],
            "front": CONFIG["front"],
            "audio": AUDIO,
        },
        "data": {"manifest": str(manifest), "batch": 5, "group": "group", "threads": 2},
        "augment": {"shift": True, "tilt_db": 3.0, "gain_db": 3.0, "noise": 0.5},
        "optim": {"lr": 1e-3, "warmup": 3, "weight_decay": 0.01, "clip": 1.0},
        "run": {"steps": 12, "save_every": 4, "threads": 1},
        "eval": {"label": "group"},
    }
    names = dict.fromkeys([*sections, *changes])
    return {name: sections.get(name, {}) | changes.get(name, {}) for name in names}


def recipe(manifest: Path, text: Path, **changes: dict) -> Recipe:
    """Return the recipe of `settings`."""
    return Recipe.from_mapping(settings(manifest, text, **changes))


def to_toml(sections: dict) -> str:
    """Write `settings` as a recipe file; JSON values are TOML values, tables apart."""
    lines = []
    for name, part in sections.items():
        tables = {k: v for k, v in part.items() if isinstance(v, dict)}
        lines.append(f"[{name}]")
        lines += [f"{k} = {json.dumps(v)}" for k, v in part.items() if k not in tables]
        for table, items in tables.items():
            lines.append(f"[{name}.{table}]")
            lines += [f"{k} = {json.dumps(v)}" for k, v in items.items()]
    return "\n".join(lines) + "\n"


def read_run(out: Path) -> dict[str, bytes]:
    """Return every tensor of the last checkpoint, model and state, as bytes."""
    names = (model_folder.MODEL, model_folder.TEXT, "state.safetensors")
    files = [out / "last" / name for name in names]
    return {
        f"{path.name}:{name}": np.asarray(array).tobytes()
        for path in files
        for name, array in model_folder.read_tensors(path).items()
    }


def read_log(out: Path) -> list[dict]:
    """Return the lines of a log."""
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


class Bar:
    """A progress bar that keeps what it is told, in place of `reclap.runtime.progress.bar`."""

    def __init__(self, total: int, unit: str, *, shown: bool) -> None:
        self.told = (total, unit, shown)
        self.n = 0

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, n: int = 1) -> None:
        self.n += n


def watch_bars(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> list[Bar]:
    """Return the list of the bars that a module will make."""
    bars: list[Bar] = []

    def make(total: int, unit: str, *, shown: bool) -> Bar:
        bars.append(Bar(total, unit, shown=shown))
        return bars[-1]

    monkeypatch.setattr(module, "progress_bar", make)
    return bars


__all__ = [
    "GROUPS",
    "RATE",
    "read_log",
    "read_run",
    "recipe",
    "settings",
    "to_toml",
    "watch_bars",
    "write_set",
]
