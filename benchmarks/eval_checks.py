"""How well the checks tell good texts from bad ones: precision and recall for each defect.

    python benchmarks/eval_checks.py            both halves of the labelled set
    python benchmarks/eval_checks.py --errors   also what goes wrong in the half for tuning

    python benchmarks/eval_checks.py --tuning   the half for tuning alone
    python benchmarks/eval_checks.py --captions captions.csv   also false alarms on real captions

The set, ``tests/data/checks.jsonl``, was written for this purpose. A text belongs to the half that
was held out while the checks were tuned if it says so, or if the first byte of its SHA-256 is odd.
"""

import argparse
import csv
import hashlib
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reclap import checks
from reclap.checks.form import check_form
from reclap.prompts.bank import PromptBank

BANKS = Path(checks.__file__).parents[1] / "prompts" / "banks"
DATA = Path(__file__).parents[1] / "tests" / "data" / "checks.jsonl"
Item = dict[str, Any]


def items() -> list[Item]:
    """Return the labelled texts."""
    return [json.loads(line) for line in DATA.read_text("utf-8").splitlines()]


def is_held_out(item: Item) -> bool:
    """Return the half of a text: its own mark, or by its digest."""
    if "held_out" in item:
        return bool(item["held_out"])
    return bool(hashlib.sha256(item["text"].encode()).digest()[0] & 1)


def texts_of(item: Item) -> list[str]:
    pair = [item["text"], item.get("caption") or item["label"]]
    return [*pair, *item.get("others", ()), *item.get("siblings", ())]


def find(item: Item, sense: checks.Sense | None) -> list[checks.Finding]:
    """Run the check that fits a text."""
    if item["kind"] == "rewrite":
        return checks.check_rewrite(item["caption"], item["text"], sense=sense)
    check = checks.check_prompt if item["kind"] == "prompt" else checks.check_description
    others, siblings = item.get("others", ()), item.get("siblings", ())
    return check(item["text"], item["label"], others=others, siblings=siblings, sense=sense)


def _names(item: Item, sense: checks.Sense | None) -> set[str]:
    """Return the checks that found something; a word said twice is garbled as well."""
    names = {f.check for f in find(item, sense)}
    return names | {"garbled"} if "repetition" in names and item["defect"] == "garbled" else names


def measure(these: Sequence[Item], sense: checks.Sense | None) -> dict[str, tuple[int, ...]]:
    """Count for each defect: texts, texts found by any check, by its own; false alarms."""
    if sense is not None:  # in one go, which is faster
        sense.rows([text for item in these for text in texts_of(item) if text.strip()])
    found = [_names(item, sense) for item in these]
    rows = {}
    for name in checks.CHECKS:
        own = [names for item, names in zip(these, found, strict=True) if item["defect"] == name]
        good = [names for item, names in zip(these, found, strict=True) if not item["defect"]]
        rows[name] = (len(own), sum(map(bool, own)), sum(name in n for n in own),
                      sum(name in n for n in good))  # fmt: skip
    bad = [names for item, names in zip(these, found, strict=True) if item["defect"]]
    good = [names for item, names in zip(these, found, strict=True) if not item["defect"]]
    flagged = sum(map(bool, bad))
    rows["all"] = (len(bad), flagged, flagged, sum(map(bool, good)))
    return rows


def show(rows: dict[str, tuple[int, ...]]) -> None:
    print("| defect | texts | found | recall by name | false alarms | precision |")
    print("|---|---|---|---|---|---|")
    for name, (count, found, named, false) in rows.items():
        recall = f"{named / count:.2f}" if count else "-"
        precision = f"{named / (named + false):.2f}" if named + false else "-"
        print(f"| {name} | {count} | {found} | {recall} | {false} | {precision} |")


def show_cost(these: Sequence[Item]) -> None:
    """Print the processor time of a check by words alone."""
    began = time.process_time()
    for item in these:
        find(item, None)
    spent = (time.process_time() - began) / len(these)
    print(f"\na check by words alone: {1e3 * spent:.2f} ms")


def show_captions(path: Path) -> None:
    """Print which checks of a text by itself find something in captions that people wrote."""
    with path.open(encoding="utf-8") as f:
        captions = [row["caption"] for row in csv.DictReader(f)]
    found = [{f.check for f in check_form(text, "rewrite")} - {"length"} for text in captions]
    share = sum(map(bool, found)) / len(captions)
    print(f"\n{len(captions)} captions, {share:.4f} flagged (length aside)")
    print(dict(Counter(name for names in found for name in names)))


def show_banks(sense: checks.Sense | None) -> None:
    """Print how many texts of the banks that come with the package are flagged."""
    for path in sorted(BANKS.glob("*.json")):
        _, report = checks.check_bank(PromptBank.load(path.stem), sense)
        print(f"{path.stem}: {report.texts} texts, {len(report.flagged)} flagged", report.by_check)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-sense", action="store_true", help="words only, without a model")
    parser.add_argument("--errors", action="store_true", help="list errors of the tuning half")
    parser.add_argument("--tuning", action="store_true", help="leave the held-out half shut")
    parser.add_argument("--captions", type=Path, help="CSV with a column caption")
    args = parser.parse_args()
    sense = None if args.no_sense else checks.load_sense()
    halves = {False: "tuning half"} | ({} if args.tuning else {True: "held-out half"})
    for held_out, title in halves.items():
        these = [item for item in items() if is_held_out(item) is held_out]
        good = sum(not item["defect"] for item in these)
        print(f"\n{title}: {good} good, {len(these) - good} bad\n")
        show(measure(these, sense))
    show_cost(items())
    if args.captions:
        show_captions(args.captions)
    show_banks(sense)
    if args.errors:
        for item in items():
            found, names = find(item, sense), _names(item, sense)
            if not is_held_out(item) and (names - {item["defect"]} if not item["defect"]
                                          else item["defect"] not in names):  # fmt: skip
                print(item["defect"] or "good", "|", item.get("caption") or item["label"], "|",
                      item["text"], "|", *map(str, found))  # fmt: skip


if __name__ == "__main__":
    main()
