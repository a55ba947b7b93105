"""Write the manifest of real recordings as JSON lines, one line a recording or window of it.

    python recipes/sounds/make_manifest.py ../shared/audio sounds.jsonl

Columns: id, path, kind, label (the archive's own name of the kind), group, archive, source,
licence, seconds; and, where they apply, start (of a window, in seconds), fold, credit, register,
language, band. Recordings that fingerprints find to be one sound get one source. The captions of
recipes/sounds/captions go into a file beside the manifest, to which its column captions refers.
"""

import argparse
import csv
import json
import re
from pathlib import Path
from typing import Any

from reclap._types import Samples
from reclap.audio import load, read
from reclap.audio.fingerprint import RATE, fingerprint, matches
from reclap.io import files

HERE = Path(__file__).parent
KINDS = json.loads((HERE / "kinds.json").read_text("utf-8"))
REGISTERS = ("low", "lower middle", "upper middle", "high")
NOTES = {name: i for i, name in enumerate(("C", "Cs", "D", "Ds", "E", "F", "Fs", "G", "Gs"))}
NOTES |= {"A": 9, "As": 10, "B": 11}
LANGUAGES = {"en": "English", "fr": "French", "it": "Italian"}
WINDOW = 10  # seconds; loops are cut into equal windows of about this length
CREDIT = re.compile(
    r"\*\*\[(?P<clip>[\w-]+)\.ogg\]\(\S+?\)\*\*:\s+clip derived from \[.*?\]\((?P<url>\S+?)\)"
    r" by \*(?P<author>.*?)\* \(\[(?P<licence>.+?)\]"
)

Item = dict[str, Any]


def esc10(audio: Path) -> list[Item]:
    """Return the clips of ESC-10, each with its freesound recording as source."""
    folder = audio / "esc10"
    found = CREDIT.finditer((folder / "ATTRIBUTION.txt").read_text("utf-8"))
    credits = {match["clip"]: match for match in found}
    items = []
    for row in table(folder / "esc10.csv"):
        credit = credits[Path(row["path"]).stem]
        items.append(
            {
                "path": f"esc10/{row['path']}",
                "label": row["label"],
                "archive": "esc10",
                "source": f"freesound:{row['freesound_id']}",
                "licence": f"CC BY 3.0; recording {credit['licence']}",
                "fold": int(row["fold"]),
                "credit": f"{credit['author']}, {credit['url']}",
            }
        )
    return items


def others(audio: Path) -> list[Item]:
    """Return the recordings of kinds.csv."""
    items = []
    for row in table(audio / "kinds.csv"):
        item: Item = {
            "path": row["path"],
            "label": row["label"],
            "group": row["group"],
            "archive": row["source"],
            "licence": row["licence"],
        }
        name = Path(row["path"]).with_suffix("").as_posix()
        item["source"] = f"{row['source']}:{name.partition('/')[2]}"
        if row["source"] == "philharmonia":
            item["source"] = f"philharmonia:{row['label']}"
            note = re.fullmatch(r"[^_]+_([A-G]s?)(\d)_.*", Path(name).name)
            if note:
                item["pitch"] = 12 * int(note[2]) + NOTES[note[1]] + 12  # as in MIDI: A4 is 69
        elif row["source"] == "asterisk-core-sounds":
            voice = Path(name).parent.name
            item |= {"source": f"asterisk:{voice}", "language": voice[:2], "band": "telephone"}
        elif row["source"] == "opsound":
            piece = Path(name).name.rpartition("_")[0]
            item |= {"source": f"opsound:{piece}", "band": "telephone"}
        items.append(item)
    set_registers(items)
    return items


def set_registers(items: list[Item]) -> None:
    """Cut the notes of each instrument into four registers, a source each."""
    notes = [item for item in items if "pitch" in item]
    for label in sorted({item["label"] for item in notes}):
        own = sorted(
            (item for item in notes if item["label"] == label), key=lambda item: item["pitch"]
        )
        first = {item["pitch"]: i for i, item in reversed(list(enumerate(own)))}  # equal: together
        for item in own:
            register = REGISTERS[first[item["pitch"]] * len(REGISTERS) // len(own)]
            item["register"] = register
            item["source"] += f":{register}"


def table(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as f:
        return list(csv.DictReader(f))


def name_kind(item: Item) -> None:
    """Set id, kind and group."""
    item["id"] = Path(item["path"]).with_suffix("").as_posix()
    item["kind"] = KINDS["names"].get(item["label"], item["label"])
    item["group"] = KINDS["groups"].get(item["kind"]) or item["group"]


def windows(item: Item) -> list[Item]:
    """Return the windows of a loop or of a piece of music, or the recording as it is."""
    count = (
        round(item["seconds"] / WINDOW) if item["path"].startswith(("ambient/", "music/")) else 1
    )
    if count < 2:
        return [item]
    length = item["seconds"] / count
    return [
        {
            **item,
            "id": f"{item['id']}:{i}",
            "start": round(i * length, 3),
            "seconds": round(length, 3),
        }
        for i in range(count)
    ]


def rows(audio: Path) -> list[Item]:
    """Return the rows of the manifest, by id."""
    items = esc10(audio) + others(audio)
    for item in items:
        name_kind(item)
        clip = read(audio / item["path"])
        item["seconds"] = round(len(clip.samples) / clip.rate, 3)
    for first, second, coherence in join_sources(audio, items):
        print(f"one source: {first} and {second} (coherence {coherence})")
    return sorted((row for item in items for row in windows(item)), key=lambda row: row["id"])


def join_sources(audio: Path, items: list[Item]) -> list[tuple[str, str, float]]:
    """Give recordings that fingerprints match one source; return the matches between sources."""

    def samples(i: int) -> Samples:
        return load(audio / items[i]["path"], RATE)

    prints = [fingerprint(samples(i)) for i in range(len(items))]
    found = []
    for match in matches(prints, samples):
        first, second = items[match.first], items[match.second]
        if first["source"] != second["source"]:
            found.append((first["id"], second["id"], round(match.coherence, 2)))
            kept, gone = sorted((first["source"], second["source"]))
            for item in items:
                item["source"] = kept if item["source"] == gone else item["source"]
    return found


COLUMNS = ("id", "path", "kind", "label", "group", "archive", "source", "licence", "seconds")
OPTIONAL = ("start", "fold", "credit", "register", "pitch", "language", "band", "captions")


def captions(folder: Path) -> dict[str, list[Item]]:
    """Return captions and rewrites by kind, and by id those of single recordings."""
    found: dict[str, list[Item]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            item = json.loads(line)
            name = item.get("recording", item["kind"])
            found.setdefault(name, []).append({key: item[key] for key in ("caption", "rewrites")})
    return found


def captions_of(row: Item, texts: dict[str, list[Item]]) -> tuple[str, list[Item]]:
    """Return the name and the list of the captions of a row.

    They are those of its kind; before them those of its language, or its own.
    """
    name, found = row["kind"], texts.get(row["kind"], [])
    if "language" in row:
        name = f"{name} in {LANGUAGES[row['language']]}"
        found = texts.get(name, []) + found
    if not found:
        raise ValueError(f"{row['id']}: no captions of {name}")
    own = texts.get(row["id"])
    return (row["id"], own + found) if own else (name, found)


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("audio", type=Path, help="folder with kinds.csv and esc10/")
    parser.add_argument("out", type=Path, help="manifest to write, .jsonl")
    arguments = parser.parse_args()
    if not (arguments.audio / "kinds.csv").is_file():
        parser.error(
            f"{arguments.audio / 'kinds.csv'}: no such file; the recordings are not in a clone"
        )
    texts, out = captions(HERE / "captions"), arguments.out
    beside = out.with_suffix(".captions.json")
    lines, used = [], {}
    for row in rows(arguments.audio):
        name, used[name] = captions_of(row, texts)
        row["captions"] = f"{beside.name}#{name}"
        lines.append(json.dumps({name: row[name] for name in (*COLUMNS, *OPTIONAL) if name in row}))
    files.write_text(beside, json.dumps(used, indent=1, ensure_ascii=False) + "\n")
    files.write_text(out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
