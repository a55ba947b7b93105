"""Write the splits of the manifest of real recordings: lists of ids, and their digests.

    python recipes/sounds/make_splits.py sounds.jsonl recipes/sounds/splits

- heard/fold1.txt .. fold4.txt: kinds with at least two sources, each source in one fold.
- unheard/split1.txt .. split3.txt: all kinds; what is listed is never heard in that split, all
  else is. Synonyms, and kinds that share a source, stay together.
- esc10/fold1.txt .. fold4.txt: the folds of ESC-10 as its author made them.

SHA256SUMS holds the digests, as ``sha256sum -c`` reads them.
"""

import argparse
import hashlib
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from reclap.io import files

KINDS = json.loads((Path(__file__).parent / "kinds.json").read_text("utf-8"))
FOLDS = (1, 2, 3, 4)
SPLITS = (1, 2, 3)

Item = dict[str, Any]


def order(name: str) -> str:
    """Return a key that sorts names as if shuffled, the same everywhere."""
    return hashlib.sha256(name.encode()).hexdigest()


def heard(rows: list[Item]) -> dict[int, list[str]]:
    """Return the ids of each fold, of kinds with at least two sources.

    A source with clips of ESC-10 has their fold. Others go, kind by kind, where the kind has the
    fewest sources.
    """
    sources = defaultdict(set)
    for row in rows:
        sources[row["kind"]].add(row["source"])
    folds = {row["source"]: row["fold"] for row in reversed(rows) if "fold" in row}
    kinds = sorted((kind for kind in sources if len(sources[kind]) > 1), key=order)
    total = dict.fromkeys(FOLDS, 0)
    for kind in kinds:
        count = dict.fromkeys(FOLDS, 0)
        for source in sources[kind] & folds.keys():
            count[folds[source]] += 1
        for source in sorted(sources[kind] - folds.keys(), key=order):
            fold = min(FOLDS, key=lambda f: (count[f], total[f], f))
            folds[source] = fold
            count[fold] += 1
            total[fold] += 1
    return {
        fold: [r["id"] for r in rows if r["kind"] in kinds and folds[r["source"]] == fold]
        for fold in FOLDS
    }


def families(rows: list[Item]) -> dict[str, str]:
    """Return the family of each kind: its synonyms, and kinds that share a source with it."""
    family = {row["kind"]: row["kind"] for row in rows}

    def merge(a: str, b: str) -> None:
        kept, gone = sorted((family[a], family[b]))
        for kind, name in family.items():
            if name == gone:
                family[kind] = kept

    for kinds in KINDS["synonyms"].values():
        for kind in kinds[1:]:
            merge(kinds[0], kind)
    first: dict[str, str] = {}
    for row in rows:
        merge(first.setdefault(row["source"], row["kind"]), row["kind"])
    return family


def unheard(rows: list[Item]) -> dict[int, list[str]]:
    """Return the ids of each third of the kinds, groups dealt evenly."""
    family = families(rows)
    group = {family[row["kind"]]: row["group"] for row in rows}
    size = defaultdict(int)
    for name in family.values():
        size[name] += 1
    third: dict[str, int] = {}
    kinds = dict.fromkeys(SPLITS, 0)
    for name in sorted(group, key=lambda name: (-size[name], group[name], order(name))):
        in_group = [third[other] for other in third if group[other] == group[name]]
        chosen = min(SPLITS, key=lambda s: (kinds[s], in_group.count(s), s))
        third[name] = chosen
        kinds[chosen] += size[name]
    return {s: [row["id"] for row in rows if third[family[row["kind"]]] == s] for s in SPLITS}


def esc10(rows: list[Item]) -> dict[int, list[str]]:
    """Return the ids of the folds of ESC-10."""
    return {fold: [row["id"] for row in rows if row.get("fold") == fold] for fold in FOLDS}


def lists(rows: list[Item]) -> dict[str, list[str]]:
    """Return every list of ids by the name of its file."""
    return {
        **{f"heard/fold{fold}.txt": ids for fold, ids in heard(rows).items()},
        **{f"unheard/split{split}.txt": ids for split, ids in unheard(rows).items()},
        **{f"esc10/fold{fold}.txt": ids for fold, ids in esc10(rows).items()},
    }


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path, help="what make_manifest.py wrote")
    parser.add_argument("out", type=Path, help="folder to write")
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.manifest.read_text("utf-8").splitlines()]
    sums = []
    for name, ids in lists(rows).items():
        text = "\n".join(ids) + "\n"
        path = arguments.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(path, text)
        sums.append(f"{hashlib.sha256(text.encode()).hexdigest()}  {name}\n")
    files.write_text(arguments.out / "SHA256SUMS", "".join(sums))


if __name__ == "__main__":
    main()
