"""Write a manifest of many made-up rows over the real recordings, to try an audit on.

    python recipes/sounds/make_rows.py sounds.jsonl many.jsonl --rows 100000
    reclap data audit many.jsonl --split split --root ../shared/audio

Each row is a window of a recording with a caption of its own. The column split is train, valid or
test, the same for all rows of a source, so that nothing leaks but what is planted: of each of id,
source and caption, some rows of test take that of a row of train.
"""

import argparse
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from reclap.io import files

SPLITS = ("train",) * 8 + ("valid", "test")
PLANTED = ("id", "source", "caption")

Item = dict[str, Any]


def split_of(source: str) -> str:
    """Return the split of a source."""
    return SPLITS[int(hashlib.sha256(source.encode()).hexdigest(), 16) % len(SPLITS)]


def rows(recordings: list[Item], count: int, leaks: int, seed: int) -> Iterator[Item]:
    """Yield made-up rows; the last of those in test share something with the first in train."""
    rng = np.random.default_rng(seed)
    train: list[Item] = []
    planted = 0
    for i in range(count):
        base = recordings[int(rng.integers(len(recordings)))]
        latest = max(0.0, base["seconds"] - 0.1)
        row = {
            "id": f"row{i}",
            "path": base["path"],
            "start": round(float(rng.uniform(0, latest)), 9),
            "kind": base["kind"],
            "source": base["source"],
            "licence": base["licence"],
            "caption": f"{base['kind']}, made-up caption {i}",
            "split": split_of(base["source"]),
        }
        if row["split"] == "train" and len(train) < leaks * len(PLANTED):
            train.append(dict(row))
        elif row["split"] == "test" and planted < len(train):
            name = PLANTED[planted % len(PLANTED)]
            row[name] = train[planted][name]
            planted += 1
        yield row


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path, help="what make_manifest.py wrote")
    parser.add_argument("out", type=Path, help="manifest to write, .jsonl")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--leaks", type=int, default=10, help="planted of each kind")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    lines = arguments.manifest.read_text("utf-8").splitlines()
    recordings = [json.loads(line) for line in lines]
    made = rows(recordings, arguments.rows, arguments.leaks, arguments.seed)
    with files.atomic(arguments.out) as f:
        for row in made:
            f.write(json.dumps(row).encode() + b"\n")


if __name__ == "__main__":
    main()
