"""Print the counts of the manifest of real recordings as the tables of docs/data.md.

python recipes/sounds/count.py sounds.jsonl
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

SPLITS = Path(__file__).parent / "splits"

Item = dict[str, Any]


def counts(rows: list[Item]) -> str:
    """Return recordings, sources, rows and minutes of some rows as cells."""
    paths, sources = ({row[name] for row in rows} for name in ("path", "source"))
    minutes = sum(row["seconds"] for row in rows) / 60
    return f"{len(paths)} | {len(sources)} | {len(rows)} | {minutes:.1f}"


def table(title: str, rows: list[Item], key: Callable[[Item], Any]) -> list[str]:
    """Return a table of counts by a key."""
    found: dict[Any, list[Item]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    lines = [
        f"| {title} | kinds | recordings | sources | rows | minutes |",
        "|---|---|---|---|---|---|",
    ]
    for name, some in sorted(found.items()):
        lines.append(f"| {name} | {len({r['kind'] for r in some})} | {counts(some)} |")
    return [*lines, f"| all | {len({r['kind'] for r in rows})} | {counts(rows)} |", ""]


def kinds(rows: list[Item], unheard: dict[str, str]) -> list[str]:
    """Return the table of kinds, with the split in which each is never heard."""
    lines = ["| kind | group | never heard in | recordings | sources | rows | minutes |"]
    lines.append("|---|---|---|---|---|---|---|")
    for kind in sorted({row["kind"] for row in rows}):
        some = [row for row in rows if row["kind"] == kind]
        split = unheard[some[0]["id"]].removeprefix("split")
        lines.append(f"| {kind} | {some[0]['group']} | {split} | {counts(some)} |")
    return [*lines, ""]


def listed(folder: str) -> dict[str, str]:
    """Return the list that each id is in."""
    paths = sorted((SPLITS / folder).glob("*.txt"))
    return {i: path.stem for path in paths for i in path.read_text("utf-8").splitlines()}


def tables(rows: list[Item]) -> str:
    """Return all tables as Markdown."""
    lines = table("group", rows, lambda row: row["group"])
    lines += table("archive and licence", rows, licence)
    for folder in ("heard", "unheard", "esc10"):
        where = listed(folder)
        inside = [row for row in rows if row["id"] in where]
        lines += table(folder, inside, lambda row, where=where: where[row["id"]])
    return "\n".join([*lines, *kinds(rows, listed("unheard"))])


def licence(row: Item) -> str:
    """Return archive and licence, without that of the single recording in ESC-10."""
    return f"{row['archive']}, {row['licence'].partition(';')[0]}"


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path, help="what make_manifest.py wrote")
    text = parser.parse_args().manifest.read_text("utf-8")
    print(tables([json.loads(line) for line in text.splitlines()]), end="")


if __name__ == "__main__":
    main()
