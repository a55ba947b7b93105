"""Write captions of single recordings from what was measured of them.

    python recipes/sounds/measure_recordings.py sounds.jsonl --root ../shared/audio > measured.jsonl
    python recipes/sounds/describe_recordings.py measured.jsonl recipes/sounds/captions

Every text joins the name of the kind with one or two facts of the recording, in phrases of
`phrases.json`. A text is dropped if the project's checks find a fault, if it repeats a text of any
caption file or shares four words in a row with a test prompt, or if its opening, a phrase or a run
of four words has been used often. Writes `recordings.jsonl` beside the captions of the kinds.
"""

import argparse
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from reclap.checks import check_rewrite
from reclap.checks.words import content, key
from reclap.io import files
from reclap.prompts.bank import PromptBank

HERE = Path(__file__).parent
PHRASES = json.loads((HERE / "phrases.json").read_text("utf-8"))
PROPER = ("chinese", "french", "thai")  # first words of kinds that are written with a capital
REWRITES = 8
ALIKE = 0.75  # shared words by all words: as near as two texts may come
MOST_OPENING, MOST_RUN, MOST_PHRASE = 60, 40, 40  # uses

T = TypeVar("T")
Row = dict[str, Any]
Run = tuple[str, ...]


def clauses(row: Row) -> dict[str, list[str]]:
    """Return finite and nominal clauses with the source of a recording."""
    groups = PHRASES["kinds"]
    kind = row["kind"]
    own = groups.get(kind) or groups["percussion" if is_stroke(row) else "instrument"]
    name = f"{kind[0].upper()}{kind[1:]}" if kind.split()[0] in PROPER else kind
    article = "an" if name[0].lower() in "aeio" else "a"
    made = own[row["count"]]
    return {how: [c.format(a=article, name=name) for c in some] for how, some in made.items()}


def is_stroke(row: Row) -> bool:
    """Tell whether a recording is a stroke of a percussion instrument."""
    return bool({"dry", "ringing"} & set(row["facts"]))


def texts(row: Row, rng: np.random.Generator) -> Iterator[tuple[str, list[str]]]:
    """Yield sentences on a recording in random order, and the phrases of each, without end."""
    parts, facts = clauses(row), PHRASES["facts"]
    while True:
        names = row["facts"] if len(row["facts"]) > 1 else row["facts"] * 2
        a, b = (facts[names[i]] for i in rng.permutation(len(names))[:2])
        finite, nominal = choice(rng, parts["finite"]), choice(rng, parts["nominal"])
        how, other = choice(rng, a["adj"]), choice(rng, b["adj"])
        front, at, clause = choice(rng, a["with"]), choice(rng, b["with"]), choice(rng, b["clause"])
        form, phrases = choice(
            rng,
            [
                (f"{nominal}, {how}", [how]),
                (f"{finite} {at}", [at]),
                (f"{front}, {finite}", [front]),
                (f"{nominal}, {how}, {at}", [how, at]),
                (f"{nominal}, {both(how, other)}", [how, other]),
                (f"{front}, {finite}; {clause}", [front, clause]),
                (f"{finite} {front}; {clause}", [front, clause]),
                (f"{how}, {nominal}; {clause}", [how, clause]),
                (f"{how}, {nominal} {at}", [how, at]),
                (f"{finite} {at}, {how}", [at, how]),
                (f"{nominal}: {how}, {other}", [how, other]),
                (f"{finite}, and {clause}", [clause]),
                (f"{nominal} {front}, and {clause}", [front, clause]),
            ],
        )
        stems = [stem for phrase in phrases for stem in set(content(phrase))]
        if len(set(stems)) == len(stems):  # no word twice
            yield form, phrases


def choice(rng: np.random.Generator, options: Sequence[T]) -> T:
    """Draw one of several."""
    return options[int(rng.integers(len(options)))]


def both(one: str, other: str) -> str:
    """Join two adjective phrases, by a comma where one of them has an "and"."""
    return f"{one}, {other}" if " and " in f"{one} {other}" or "," in one else f"{one} and {other}"


class Writer:
    """Takes the texts that pass all rules.

    Parameters
    ----------
    known : list of str
        Texts of other caption files, which no text may repeat.
    prompts : list of str
        Test prompts, of which no text may have four words in a row.
    """

    def __init__(self, known: list[str], prompts: list[str]) -> None:
        self.forbidden = {run for text in prompts for run in runs(text)}
        self.keys = {key(text) for text in known}
        self.sets: list[set[str]] = []
        self.used: Counter[str | Run] = Counter()
        self.refused: Counter[str] = Counter()

    def take(self, text: str, phrases: list[str], caption: str) -> bool:
        """Take a text, or tell why not in `refused`."""
        fault = self.fault(text, phrases, caption)
        if fault:
            self.refused[fault] += 1
            return False
        self.keys.add(key(text))
        self.sets.append(set(content(text)))
        self.used.update([*phrases, opening(text), *runs(text)])
        return True

    def fault(self, text: str, phrases: list[str], caption: str) -> str:
        """Return the rule that a text breaks, or nothing."""
        if key(text) in self.keys or not 6 <= len(text.split()) <= 18:
            return "equal or too short or long"
        if any(self.used[p] >= MOST_PHRASE for p in phrases):
            return "phrase"
        if self.used[opening(text)] >= MOST_OPENING:
            return "opening"
        if any(run in self.forbidden or self.used[run] >= MOST_RUN for run in runs(text)):
            return "run"
        words = set(content(text))
        if any(len(words & other) >= ALIKE * len(words | other) for other in self.sets):
            return "alike"
        found = check_rewrite(caption, text)
        return str(found[0]) if found else ""


def runs(text: str) -> set[Run]:
    """Return the runs of four words of a text."""
    words = re.findall(r"[a-z0-9]+", text.lower().replace("'", ""))
    return set(zip(words, words[1:], words[2:], words[3:], strict=False))


def opening(text: str) -> str:
    """Return the first two words."""
    return " ".join(text.lower().split()[:2])


def sentence(text: str) -> str:
    """Return a text with a capital and a full stop."""
    return f"{text[0].upper()}{text[1:]}."


def describe(row: Row, writer: Writer, rng: np.random.Generator) -> Row:
    """Return a row of `recordings.jsonl`: a caption and its rewrites."""
    taken: list[str] = []
    plain = sentence(clauses(row)["finite"][0])  # what the caption is checked against
    for text, phrases in itertools.islice(texts(row, rng), 4000):
        made = sentence(text)
        if writer.take(made, phrases, taken[0] if taken else plain):
            taken.append(made)
        if len(taken) > REWRITES:
            break
    else:
        raise SystemExit(f"{row['recording']}: {len(taken)} texts; {writer.refused.most_common(9)}")
    about = {name: row[name] for name in ("recording", "kind", "facts")}
    return {**about, "caption": taken[0], "rewrites": taken[1:]}


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measured", type=Path, help="what measure_recordings.py printed")
    parser.add_argument("captions", type=Path, help="folder of the caption files")
    arguments = parser.parse_args()
    out = arguments.captions / "recordings.jsonl"
    known = [
        text
        for path in sorted(arguments.captions.glob("*.jsonl"))
        if path != out
        for line in path.read_text("utf-8").splitlines()
        for row in [json.loads(line)]
        for text in (row["caption"], *row["rewrites"])
    ]
    prompts = [p for some in PromptBank.load(HERE / "bank.json").prompts().values() for p in some]
    writer, rng = Writer(known, prompts), np.random.default_rng(14)
    rows = [json.loads(line) for line in arguments.measured.read_text("utf-8").splitlines()]
    made = [describe(row, writer, rng) for row in rows]
    lines = [json.dumps(row, ensure_ascii=False) for row in made]
    files.write_text(out, "\n".join(lines) + "\n")
    print(f"{len(made)} recordings; refused: {writer.refused.most_common(20)}")


if __name__ == "__main__":
    main()
