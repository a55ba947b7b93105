"""Accuracy of every prompt strategy and combination rule on ESC-10.

    python benchmarks/eval_prompts.py                         bundled model, all clips
    python benchmarks/eval_prompts.py --folds runs/crossval   clips that a model never heard

The bundled model was trained on these clips, so that its figures say how prompts compare and not
how well it hears; the second form takes the four models of recipes/mini/crossval.py, each for the
clips of the fold that it was not trained on. Prompts are those of the bundled bank of ESC-50, ten
labels of it.

An interval is the middle 95 % of 2,000 bootstrap samples that draw clips and seeds with
replacement. Three tables: accuracy, its gain over one template with the same samples on both sides,
and the standard deviation over seeds.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import common
import numpy as np

import reclap
from reclap.model.classes import Classes
from reclap.prompts.combine import RULES
from reclap.prompts.strategies import make
from reclap.runtime.libraries import core

LABELS = {  # of the clips, and of the bank
    "baby_cry": "crying_baby",
    "chainsaw": "chainsaw",
    "clock_tick": "clock_tick",
    "dog_bark": "dog",
    "fire_crackling": "crackling_fire",
    "helicopter": "helicopter",
    "person_sneeze": "sneezing",
    "rain": "rain",
    "rooster": "rooster",
    "sea_waves": "sea_waves",
}
COUNTS = (1, 2, 4, 8)
SAMPLES = 2000


class Part:
    """Clips and the model that names them."""

    def __init__(self, model: reclap.Model, rows: list[dict[str, str]]) -> None:
        self.scale = model.logit_scale
        self.truth = np.array([list(LABELS).index(row["label"]) for row in rows])
        self.audio = model.embed_audio([row["path"] for row in rows])
        self.context = core.Context(model.threads)
        self.model, self.texts = model, {}

    def embed(self, prompts: dict[str, list[str]]) -> np.ndarray:
        """Return embeddings of prompts, of each text only once."""
        texts = [text for group in prompts.values() for text in group]
        new = [text for text in dict.fromkeys(texts) if text not in self.texts]
        if new:
            self.texts |= zip(new, self.model.embed_text(new), strict=True)
        return np.stack([self.texts[text] for text in texts])

    def right(self, prompts: dict[str, list[str]], rule: str) -> np.ndarray:
        """Return for each clip whether its label is the best."""
        classes = Classes(prompts, self.embed(prompts), rule)
        return classes.score(self.context, self.audio, self.scale, 1).order[:, 0] == self.truth


def parts(args: argparse.Namespace) -> list[Part]:
    rows = common.esc10()
    if not rows:
        sys.exit("eval_prompts: no recordings beside the checkout (or where RECLAP_SHARED says)")
    if args.folds is None:
        return [Part(reclap.load(args.model, threads=args.threads), rows)]
    return [
        Part(
            reclap.load(args.folds / f"fold{fold}" / "last", threads=args.threads),
            [row for row in rows if row["fold"] == fold],
        )
        for fold in sorted({row["fold"] for row in rows})
    ]


def variants(bank: reclap.PromptBank, seeds: int) -> Iterator[tuple[str, list[dict]]]:
    """Yield names with the sets of prompts to try, one for each seed."""
    for name in ("template", "label", "label+description", "attributes", "sources"):
        yield name, [make(name, bank, "The sound of {label}.").prompts()]
    for n in COUNTS:
        yield f"bank, N = {n}", [bank.sample(n, seed) for seed in range(seeds)]
    yield "bank, all", [bank.prompts()]


def interval(right: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return accuracies of bootstrap samples of right (seeds, clips)."""
    seeds, clips = right.shape
    draws = (
        right[np.ix_(rng.integers(0, seeds, seeds), rng.integers(0, clips, clips))].mean()
        for _ in range(SAMPLES)
    )
    return np.fromiter(draws, float, SAMPLES)


def row_of(name: str, rule: str, right: np.ndarray, base: np.ndarray) -> dict:
    """Return the figures of one variant and rule beside those of the template."""
    low, high = np.percentile(interval(right, np.random.default_rng(0)), [2.5, 97.5])
    worse, better = np.percentile(interval(right - base, np.random.default_rng(0)), [2.5, 97.5])
    return {
        "prompts": name,
        "combine": rule,
        "accuracy": right.mean(),
        "low": low,
        "high": high,
        "seed_sd": right.mean(axis=1).std(ddof=1) if len(right) > 1 else 0.0,
        "gain": right.mean() - base.mean(),
        "gain_low": worse,
        "gain_high": better,
    }


def show(rows: list[dict], cell: str) -> None:
    """Print one table, prompts by rules; `cell` formats a row's figures."""
    rules = [name for name in RULES if any(row["combine"] == name for row in rows)]
    print(f"\n| prompts | {' | '.join(rules)} |\n|{'---|' * (1 + len(rules))}")
    for name in dict.fromkeys(row["prompts"] for row in rows):
        found = {row["combine"]: cell.format(**row) for row in rows if row["prompts"] == name}
        cells = [found.get(rule, "") for rule in rules]
        print(f"| {name} | {' | '.join(cells)} |")


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", default="mini", help="where --folds is not given")
    p.add_argument("--folds", type=Path, help="folder of recipes/mini/crossval.py")
    p.add_argument("--bank", default="esc50", help="name or file")
    p.add_argument("--seeds", type=int, default=20)
    p.add_argument("--threads", type=int, default=common.processors())
    p.add_argument("--json", action="store_true", help="one JSON object a row")
    args = p.parse_args(argv)
    bank = reclap.PromptBank.load(args.bank).select(LABELS.values())
    tested, base, rows = parts(args), None, []
    for name, sets in variants(bank, args.seeds):
        several = max(len(texts) for texts in sets[0].values()) > 1
        for rule in RULES if several else RULES[:1]:  # one prompt is its cosine by any rule
            right = np.array(
                [np.concatenate([part.right(s, rule) for part in tested]) for s in sets], float
            )
            base = right if base is None else base
            rows.append(row_of(name, rule, right, base))
            if args.json:
                print(json.dumps(rows[-1]), flush=True)
    if not args.json:
        show(rows, "{accuracy:.3f} ({low:.3f} to {high:.3f})")
        show(rows, "{gain:+.3f} ({gain_low:+.3f} to {gain_high:+.3f})")
        show(rows, "{seed_sd:.3f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
