"""Train on three folds of ESC-10, name the sounds of the fourth, for each fold.

    python recipes/mini/crossval.py runs/crossval [--set section.key=value ...]

Prints accuracy by fold as JSON lines and a table: "plain" with the prompts of labels.json, "labels"
with the recipe's template around the plain labels, "paraphrased" with that template around three
descriptions in words of which no training caption holds any.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from reclap import Model, load
from reclap.io import manifest
from reclap.text import prompt_of
from reclap.training import loop, recipe

HERE = Path(__file__).parent
FOLDS = (1, 2, 3, 4)


def prompt_sets(words: dict, template: str) -> dict[str, list[list[str]]]:
    """Return under each name one or more lists of one prompt a label."""

    def fill(labels: list[str]) -> list[str]:
        return [prompt_of(label, template) for label in labels]

    names = list(words["labels"])
    count = len(words["paraphrases"][names[0]])
    return {
        "plain": [[words["prompts"][name] for name in names]],
        "labels": [fill([words["labels"][name] for name in names])],
        "paraphrased": [fill([words["paraphrases"][n][k] for n in names]) for k in range(count)],
    }


def accuracy(model: Model, sounds: np.ndarray, truth: np.ndarray, prompts: list[str]) -> float:
    """Return the share of sounds whose own prompt is the nearest."""
    return float(((sounds @ model.embed_text(prompts).T).argmax(axis=1) == truth).mean())


def run_fold(fold: int, out: Path, settings: list[str], words: dict) -> dict:
    """Train without a fold and test on it."""
    others = [f for f in FOLDS if f != fold]
    plan = recipe.load(HERE.parent / "mini.toml", [*settings, f"data.where.fold={others}"])
    ended = loop.train(plan, out / f"fold{fold}", resume=True, progress=True)
    if ended.interrupted:
        raise SystemExit(130)
    model = load(ended.folder)
    rows = manifest.read(plan.data.manifest, plan.data.root or None, {"fold": [fold]})
    truth = np.array([list(words["labels"]).index(row.extra["label"]) for row in rows])
    sounds = model.embed_audio([row.sound for row in rows])
    sets = prompt_sets(words, model.config.template)
    found = {
        name: round(float(np.mean([accuracy(model, sounds, truth, p) for p in several])), 4)
        for name, several in sets.items()
    }
    return {"fold": fold, "clips": len(rows), **found}


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for the four runs; continued if they exist")
    parser.add_argument("--set", action="append", default=[], metavar="section.key=value")
    parser.add_argument("--folds", type=int, nargs="+", default=FOLDS)
    arguments = parser.parse_args()
    words = json.loads((HERE / "labels.json").read_text("utf-8"))
    results = []
    for fold in arguments.folds:
        results.append(run_fold(fold, arguments.out, arguments.set, words))
        print(json.dumps(results[-1]), flush=True)
    names = [name for name in results[0] if name not in ("fold", "clips")]
    mean = {name: round(float(np.mean([r[name] for r in results])), 4) for name in names}
    print(json.dumps({"fold": "mean", **mean}))
    print("| fold | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    for r in [*results, {"fold": "mean", **mean}]:
        print(f"| {r['fold']} | " + " | ".join(f"{r[name]:.3f}" for name in names) + " |")


if __name__ == "__main__":
    main()
