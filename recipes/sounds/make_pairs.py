"""Write pairs of sounds that a model can only tell apart by order, or by one attribute, by seed.

    python recipes/sounds/make_pairs.py sounds.jsonl ../shared/audio pairs \
        --split heard/fold1 --test order

- order: two events, first A then B, and the same two as B then A.
- attribute: an event changed to both sides by a known operation: loudness, pitch or distance in
  turn (reclap.audio.attributes).

Background, recordings and levels of the two sounds of a pair are the same; where one would clip,
both are made softer by as much. NAMEa.wav and NAMEb.wav
have annotations beside them as mixtures do; pairs.jsonl has a line for each pair: id, test,
attribute, the two paths, and their captions, of which each fits one sound only. Captions are of the
kinds, without those that have a word of order or of an attribute; those of single recordings, which
count events and time them, are left out.
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from make_mixtures import (
    HeldOut,
    check_options,
    held_out,
    is_background,
    is_event,
    new_set,
    one_line_errors,
    options,
    write,
)

from reclap.audio.attributes import ATTRIBUTES, Change
from reclap.audio.mixture import Mixture, Sound, Taken, find_event, mix
from reclap.audio.mixture_draws import Draws
from reclap.io import files
from reclap.training.augment import inner

RECORDINGS = Path(__file__).parent / "captions" / "recordings.jsonl"
LEAST = 2.0  # seconds of a sound
LONGEST = 3.0  # seconds of an event; less where two would not fit side by side
GAP = 0.2, 1.0  # seconds between two
SNR = 10.0, 20.0  # dB
ORDERS = (
    "{a}, then {then}.",
    "{a}, and after that {then}.",
    "{a} before {then}.",
    "{b} after {once}.",
)
WORDS = re.compile(
    r"\b(then|before|after|follow\w*|first|again|while|loud\w*|soft\w*|quiet\w*|faint\w*|high\w*|"
    r"low\w*|near\w*|close\w*|far|distan\w*|deep\w*|away|across|slow\w*|fast\w*)\b",
    re.IGNORECASE,
)

Placed = tuple[list[Sound], list[int], list[float]]  # sounds, onsets, levels
Pair = tuple[tuple[Mixture, str], tuple[Mixture, str], dict[str, Any]]


class Pairs:
    """Pairs of the held-out recordings of a split."""

    def __init__(self, held: HeldOut, seconds: float) -> None:
        self._held, self._rate = held, held.rate
        self._length = round(seconds * held.rate)
        self._longest = min(LONGEST, (seconds - GAP[1]) / 2)
        self._own = {json.loads(x)["caption"] for x in RECORDINGS.read_text("utf-8").splitlines()}
        self._events = [t for t in held.taken(is_event) if self._captions(t)]
        self._backgrounds = held.taken(is_background)

    def order(self, draws: Draws) -> Pair:
        """Return two events in both orders."""
        kinds = self._kinds(2)
        first = draws.choice(kinds)
        second = draws.choice([kind for kind in kinds if kind != first])
        events = [self._draw(draws, kind) for kind in (first, second)]
        levels = [round(draws.uniform(*SNR), 1) for _ in events]
        gap = round(draws.uniform(*GAP) * self._rate)
        sizes = [stop - begin for begin, stop in (sound.span for sound in events)]
        free = self._length - sum(sizes) - gap
        start, behind = draws.whole(free + 1), self._background(draws)
        texts = [draws.choice(self._captions(sound.of)) for sound in events]
        form = draws.choice(ORDERS)
        onsets = [start, start + sizes[0] + gap], [start + sizes[1] + gap, start]
        one, other = self._mix(behind, [(events, places, levels) for places in onsets])
        a, b = ordered(form, *texts), ordered(form, *texts[::-1])
        return (one, a), (other, b), {"test": "order", "kinds": [first, second]}

    def attribute(self, draws: Draws, name: str) -> Pair:
        """Return an event changed to both sides of an attribute."""
        kind = draws.choice(self._kinds(1))
        sound = self._draw(draws, kind)
        level, behind = round(draws.uniform(*SNR), 1), self._background(draws)
        text = draws.choice(self._captions(sound.of)).rstrip(". ")
        changed = [self._changed(sound, change) for change in ATTRIBUTES[name]]
        longest = max(stop - begin for begin, stop in (other.span for other in changed))
        onset = draws.whole(self._length - longest + 1)
        levels = [round(level + change.level_db, 1) for change in ATTRIBUTES[name]]
        placed = [([s], [onset], [db]) for s, db in zip(changed, levels, strict=True)]
        one, other = self._mix(behind, placed)
        a, b = (f"{text}, {change.words}." for change in ATTRIBUTES[name])
        return (one, a), (other, b), {"test": "attribute", "attribute": name, "kinds": [kind]}

    def _kinds(self, least: int) -> list[str]:
        kinds = sorted({taken.kind for taken in self._events})
        if len(kinds) < least:
            raise ValueError(f"--split: expected events of {least} kinds, got {len(kinds)}")
        return kinds

    def _captions(self, taken: Taken) -> list[str]:
        texts = [caption.text for caption in self._held.rows[taken.id].captions]
        return [text for text in texts if text not in self._own and not WORDS.search(text)]

    def _draw(self, draws: Draws, kind: str) -> Sound:
        of = draws.choice([taken for taken in self._events if taken.kind == kind])
        samples = self._held.load(of)
        return Sound(of, samples, find_event(samples, self._rate, self._longest))

    def _changed(self, sound: Sound, change: Change) -> Sound:
        first, stop = sound.span
        samples = change.apply(sound.samples[:stop], self._rate)
        # Where the event begins does not depend on the change: at a share of the recording.
        first = round(first * len(samples) / stop)
        return Sound(sound.of, samples, (first, len(samples)))

    def _background(self, draws: Draws) -> Sound | None:
        if not self._backgrounds:
            return None
        of = draws.choice(self._backgrounds)
        return Sound(of, self._held.load(of))

    def _mix(self, behind: Sound | None, sides: Sequence[Placed]) -> list[Mixture]:
        """Return the mixtures of both sides, at the gain of the softer one."""
        mixed = [mix(behind, *side, rate=self._rate, length=self._length) for side in sides]
        gain = min(side.gain_db for side in mixed)
        return [
            made
            if made.gain_db == gain
            else mix(behind, *side, rate=self._rate, length=self._length, gain_db=gain)
            for made, side in zip(mixed, sides, strict=True)
        ]


def ordered(form: str, first: str, second: str) -> str:
    """Return a caption of a sound and a later one."""
    a, b = (text.rstrip(". ") for text in (first, second))
    return form.format(a=a, b=b, once=inner(a), then=inner(b))


def pairs(made: Pairs, test: str, split: str, seed: int, size: int) -> Iterator[tuple[str, Pair]]:
    """Yield name and pair of each pair of a set."""
    names = sorted(ATTRIBUTES)
    for index in range(size):
        draws = Draws("pair", test, split, seed, index)
        if test == "order":
            yield f"{index:04d}", made.order(draws)
        else:
            yield f"{index:04d}", made.attribute(draws, names[index % len(names)])


def main() -> None:
    """Run the script."""
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--test", choices=("order", "attribute"), required=True)
    with one_line_errors(parser):
        print(json.dumps(make(parser.parse_args()), indent=1))


def make(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write the set that the arguments describe, and return its counts."""
    check_options(arguments)
    if arguments.seconds < LEAST:
        raise ValueError(f"--seconds: expected at least {LEAST:g}, got {arguments.seconds:g}")
    made = Pairs(held_out(arguments), arguments.seconds)
    about = (arguments.split, arguments.seed)
    lines, kinds = [], Counter()
    with new_set(arguments.out) as folder:
        for name, (*sides, what) in pairs(made, arguments.test, *about, arguments.count):
            for side, (mixed, _) in zip("ab", sides, strict=True):
                jams = mixed.to_jams(f"{name}{side}", split=about[0], seed=about[1], **what)
                write(folder, f"{name}{side}", mixed, jams)
            paths = [f"{name}{side}.wav" for side in "ab"]
            captions = [caption for _, caption in sides]
            lines.append(json.dumps({"id": name, **what, "paths": paths, "captions": captions}))
            kinds.update(what["kinds"])
        files.write_text(folder / "pairs.jsonl", "\n".join(lines) + "\n")
    return {"pairs": len(lines), "kinds": dict(sorted(kinds.items()))}


if __name__ == "__main__":
    main()
