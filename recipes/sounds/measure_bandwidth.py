"""Measure how well the bandwidth of training examples alone tells the groups of sounds apart.

    python recipes/sounds/measure_bandwidth.py sounds.jsonl --root ../shared/audio

Prints JSON: for recordings as they are, for the examples of recipes/sounds.toml without its band
limits, and with them, the balanced accuracy over groups of a classifier that knows nothing but the
band edge, and its ratio to chance, one divided by the number of groups. Groups of fewer than three
sources are left out, and no source is both learned from and tested on.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from reclap._types import Floats
from reclap.audio import AudioConfig
from reclap.io import manifest
from reclap.io.manifest import Row
from reclap.training import Augment, Data, recipe
from reclap.training.data import Batches

RECIPE = Path(__file__).parents[1] / "sounds.toml"
DOWN = 80  # dB below the loudest mel band: what is quieter counts as the floor of a recording
FOLDS, LEAST_SOURCES = 5, 3
WIDTH = 1.0  # of the kernel, in mel bands

Labels = npt.NDArray[np.int64]


def band_edges(mels: Floats) -> Floats:
    """Return the band edge of log-mels (count, frames, mels): the highest band above the floor."""
    power = np.power(10, mels / 10).mean(axis=1)
    above = power >= power.max(axis=1, keepdims=True) * 10 ** (-DOWN / 10)
    edges: Floats = (mels.shape[2] - 1 - above[:, ::-1].argmax(axis=1)).astype(np.float32)
    return edges


def examples(
    rows: Sequence[Row], how: Augment, front: AudioConfig, draws: int
) -> tuple[Floats, Labels]:
    """Return the band edges of training examples, `draws` of each row, and their rows."""
    edges, used = [], []
    batches = Batches(rows, Data("", batch=1, cache_mb=4096), how, front, 20)
    for batch in batches.prefetch(0, draws * len(rows)):
        edges.append(band_edges(batch.mel))
        used.append(batch.rows[0][0])
    return np.concatenate(edges), np.array(used)


def folds_of(groups: Labels, sources: Sequence[str]) -> Labels:
    """Deal the sources of each group to folds."""
    fold = np.zeros(len(groups), np.int64)
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        order = {s: i for i, s in enumerate(sorted({sources[i] for i in members}))}
        for i in members:
            fold[i] = order[sources[i]] % min(FOLDS, len(order))
    return fold


def recalls(edges: Floats, groups: Labels, folds: Labels) -> dict[int, float]:
    """Return the recall of each group by the likeliest group of a band edge.

    The likelihood of an edge in a group is its share in the other folds, under a Gaussian kernel;
    all groups are alike before.
    """
    names = np.unique(groups)
    right = np.zeros(len(edges), bool)
    for fold in range(FOLDS):
        test, train = folds == fold, folds != fold
        distance = edges[test][:, np.newaxis] - edges[train]
        kernel = np.exp(-0.5 * np.square(distance / WIDTH))
        likely = np.stack([kernel[:, groups[train] == g].mean(axis=1) for g in names])
        right[test] = names[likely.argmax(axis=0)] == groups[test]
    return {int(g): float(right[groups == g].mean()) for g in names}


def known_groups(rows: Sequence[Row]) -> list[str]:
    """Return the groups of at least three sources."""
    sources: dict[str, set[str]] = {}
    for row in rows:
        sources.setdefault(row.extra["group"], set()).add(row.extra["source"])
    return sorted(name for name, some in sources.items() if len(some) >= LEAST_SOURCES)


def measure(rows: Sequence[Row], how: Augment, front: AudioConfig, draws: int) -> dict:
    """Return balanced accuracy, its ratio to chance, and the recall of groups."""
    names = known_groups(rows)
    rows = [row for row in rows if row.extra["group"] in names]
    edges, used = examples(rows, how, front, draws)
    groups = np.array([names.index(rows[i].extra["group"]) for i in used])
    folds = folds_of(groups, [rows[i].extra["source"] for i in used])
    recall = recalls(edges, groups, folds)
    accuracy = float(np.mean(list(recall.values())))
    return {
        "groups": len(names),
        "chance": round(1 / len(names), 4),
        "balanced accuracy": round(accuracy, 4),
        "ratio to chance": round(accuracy * len(names), 2),
        "recall": {names[g]: round(r, 2) for g, r in recall.items()},
        "examples": len(edges),
    }


def ways(how: Augment) -> dict[str, Augment]:
    """Return the augmentations to compare; each example is of one recording."""
    alone = dataclasses.replace(how, same=0.0)
    return {
        "recordings": Augment(),
        "without band limits": dataclasses.replace(alone, band=0.0),
        "with band limits": alone,
    }


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path, help="written by make_manifest.py")
    parser.add_argument("--root", type=Path, required=True, help="folder of the recordings")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="recipe with [augment]")
    parser.add_argument("--draws", type=int, default=8, help="examples of each row")
    parser.add_argument("--set", action="append", default=[], help="change of a setting")
    arguments = parser.parse_args()
    plan = recipe.load(arguments.recipe, arguments.set)
    front = AudioConfig.from_json(plan.model.front)
    rows = manifest.read(arguments.manifest, arguments.root)
    found = {
        name: measure(rows, how, front, arguments.draws) for name, how in ways(plan.augment).items()
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
