"""Measure single recordings and say what the measurements show, one line of JSON each.

    python recipes/sounds/measure_recordings.py sounds.jsonl --root ../shared/audio > measured.jsonl

`measured` holds numbers: seconds that sound, events and their length, share of silence, range of
the level, ticks per second, pitch, decay. `facts` are what the fixed rules in
`facts_of` derive from them for the recording's kind; a count of events that changes with the
thresholds of its measurement is null and says nothing. At most eight recordings of a kind,
four of an instrument and three of equal facts are printed. The facts stay true of what training
makes of a recording: wherever it starts and however loud it is, a quarter faster or slower, in the
band of a telephone, under noise or beside another sound. So nothing is said of treble, bass and
silence.
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reclap._types import Samples
from reclap.audio import load
from reclap.io import manifest
from reclap.io.manifest import Row

RATE, HOP, FRAME = 16000, 160, 400  # of levels: frames of 25 ms every 10 ms
SILENT = 50  # dB below the loudest frame
DOWNS, GAPS = (20, 25, 30), (0.15, 0.25, 0.35)  # thresholds that must agree on a count of events
PITCHES = (50, 2500)  # Hz
MOST_OF_KIND, MOST_NOTES, MOST_ALIKE = 8, 4, 3  # recordings; of an instrument; of equal facts

Levels = npt.NDArray[np.float64]
Measured = dict[str, Any]


def levels(samples: Samples) -> Levels:
    """Return the power of frames in dB."""
    padded = np.pad(samples, (0, max(0, FRAME - len(samples)))).astype(np.float64)
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP]
    return 10 * np.log10(np.mean(np.square(frames), axis=1) + 1e-10)


def events(level: Levels, down: float, gap: float) -> list[tuple[float, float]]:
    """Return start and end in seconds of what lies less than `down` dB below the loudest frame."""
    above = level > level.max() - down
    edges = np.flatnonzero(np.diff(np.concatenate([[0], above.astype(int), [0]])))
    found: list[tuple[float, float]] = []
    for start, end in edges.reshape(-1, 2) * (HOP / RATE):
        if found and start - found[-1][1] < gap:
            found[-1] = (found[-1][0], float(end))
        else:
            found.append((float(start), float(end)))
    return [event for event in found if event[1] - event[0] >= 0.03]


def count_events(level: Levels) -> int | None:
    """Return the number of events if all thresholds agree on it."""
    counts = {len(events(level, down, gap)) for down in DOWNS for gap in GAPS}
    return counts.pop() if len(counts) == 1 else None


def ticks_per_second(samples: Samples) -> tuple[float, float]:
    """Return the strongest rate from 0.5 to 25 Hz at which the level repeats, and its strength.

    The strength is the autocorrelation of the rise of the level at that period, 1 at most.
    """
    rise = np.maximum(np.diff(np.maximum(levels(samples), levels(samples).max() - 40)), 0)
    rise -= rise.mean()
    power = np.square(np.abs(np.fft.rfft(rise, 2 * len(rise))))
    correlation = np.fft.irfft(power)[: len(rise)] / max(float(np.sum(rise**2)), 1e-12)
    first, last = 4, min(200, len(rise) // 2)
    if last <= first or not rise.any():
        return 0.0, 0.0
    peaks = correlation[first:last] * len(rise) / (len(rise) - np.arange(first, last))
    best = float(peaks.max())
    if best <= 0:
        return 0.0, 0.0
    lag = first + int(np.flatnonzero(peaks > 0.85 * best)[0])  # not a multiple of the period
    return RATE / HOP / lag, best


def pitch(samples: Samples, level: Levels) -> tuple[float, float] | None:
    """Return the median pitch in Hz and the spread of its middle half in semitones, if tonal."""
    size, found = 2048, []
    for at in np.flatnonzero(level > level.max() - 15)[::3]:
        frame = samples[at * HOP : at * HOP + size].astype(np.float64)
        if len(frame) < size:
            break
        power = np.square(np.abs(np.fft.rfft(frame - frame.mean(), 2 * size)))
        own = np.fft.irfft(power)[: size // 2] / np.linspace(1, 0.5, size // 2)
        own = own[: RATE // PITCHES[0]] / max(own[0], 1e-12)
        apart = np.flatnonzero(own < 0)  # a peak beyond this is a period
        least = int(apart[0]) if len(apart) else len(own)
        part = own[max(least, RATE // PITCHES[1]) :]
        if len(part) and part.max() > 0.8:
            first = int(np.flatnonzero(part > 0.9 * part.max())[0])  # no multiple of the period
            first += int(part[first : first + max(2, first // 4)].argmax())
            found.append(RATE / (len(own) - len(part) + first))
    if len(found) < 5:
        return None
    low, middle, high = np.percentile(found, [25, 50, 75])
    return float(middle), float(12 * np.log2(high / low))


def decay(level: Levels, down: float) -> float:
    """Return the seconds from the loudest frame until the level stays `down` dB lower."""
    top = int(level.argmax())
    after = np.flatnonzero(level[top:] > level[top] - down)
    return float(after[-1] * HOP / RATE)


def measure(samples: Samples) -> Measured:
    """Return the numbers of a mono recording at 16 kHz."""
    level = levels(samples)
    spans = events(level, 25, 0.25)
    smooth = np.convolve(10 ** (level / 10), np.ones(25) / 25, "valid")
    low, high = np.percentile(10 * np.log10(smooth + 1e-10), [5, 95])
    rate, strength = ticks_per_second(samples)
    tone = pitch(samples, level)
    return {
        "seconds": round(sum(end - start for start, end in spans), 2),
        "events": count_events(level),
        "longest event": round(max(end - start for start, end in spans), 2),
        "silence": round(float(np.mean(level < level.max() - SILENT)), 2),
        "range_db": round(float(high - low), 1),
        "ticks_per_s": round(rate, 2),
        "tick_strength": round(strength, 2),
        "pitch_hz": tone and round(tone[0], 1),
        "pitch_spread": tone and round(tone[1], 2),
        "loudest_at": round(float(level.argmax() / len(level)), 2),
        "decay_20_s": round(decay(level, 20), 2),
        "decay_40_s": round(decay(level, 40), 2),
    }


def facts_of(kind: str, row: Row, m: Measured) -> tuple[str, list[str]]:
    """Return how many events there are, in words or "", and the facts of a recording."""
    if row.extra["group"] == "instrument":
        return "", note_facts(row, m)
    if row.extra["group"] == "percussion":
        return "", stroke_facts(row, m)
    if kind in EVENTS:
        return event_facts(kind, m)
    if kind in TEXTURES:
        return "", texture_facts(kind, m)
    return ("", clock_facts(m)) if kind == "clock" else ("", [])


EVENTS = {"dog barking": 5, "person sneezing": 2, "rooster": 1}  # kinds, and the most events
TEXTURES = ("rain", "fire crackling", "waves", "chainsaw", "helicopter")
NUMBERS = ("", "one", "two", "three", "four", "five")
STROKE = re.compile(r"struck-singly|damped|mallet|hand|together")
NO_STROKE = re.compile(r"phrase|rhythm|roll|scraped|cresc|flam|shaken|effect|glissando|vibraslap")


def event_facts(kind: str, m: Measured) -> tuple[str, list[str]]:
    """Return the number of barks, sneezes or crows, and facts; none if it is not certain."""
    count, longest = m["events"], m["longest event"]
    if count is None or count > EVENTS[kind]:
        return "", []
    if kind == "dog barking" and longest > 0.45:  # two barks may have become one event
        return "", []
    found = {
        "moment": count == 1 and longest <= 0.36,
        "gaps": count > 1,
        "drawn out": count == 1 and longest >= 1.9,
    }
    return NUMBERS[count], [name for name, holds in found.items() if holds]


def clock_facts(m: Measured) -> list[str]:
    """Return the facts of a ticking clock."""
    rate, regular = m["ticks_per_s"], m["tick_strength"] >= 0.6
    found = {
        "slow ticks": regular and m["events"] == 5 and 0.95 <= rate <= 1.05,
        "hurried": regular and 3 <= rate <= 10,
    }
    return [name for name, holds in found.items() if holds]


def texture_facts(kind: str, m: Measured) -> list[str]:
    """Return the facts of a sound that goes on."""
    if m["silence"] > 0:
        return []
    pulses = kind == "helicopter" and 12.5 <= m["ticks_per_s"] <= 20 and m["tick_strength"] >= 0.6
    found = {
        "even": m["range_db"] <= 3,
        "uneven": m["range_db"] >= 9,
        "throbbing": pulses,
    }
    return [name for name, holds in found.items() if holds]


def note_facts(row: Row, m: Measured) -> list[str]:
    """Return the facts of a plain note whose pitch, as measured, is that of its name."""
    named = 440 * 2 ** ((int(row.extra["pitch"]) - 69) / 12)
    tonal = m["pitch_hz"] and abs(12 * np.log2(m["pitch_hz"] / named)) < 1
    if not row.path.stem.endswith("normal") or not tonal or m["pitch_spread"] > 0.5:
        return []
    found = {
        "low note": row.extra["register"] == "low",
        "high note": row.extra["register"] == "high",
        "short note": m["seconds"] <= 0.4,
        "held note": m["seconds"] >= 2.5 and m["events"] == 1,
        "fading": m["decay_20_s"] >= 2.5 and m["range_db"] >= 10 and m["loudest_at"] <= 0.15,
        "even": m["seconds"] >= 1 and m["range_db"] <= 3,
        "fixed pitch": m["seconds"] >= 1 and m["pitch_spread"] <= 0.1,
    }
    facts = [name for name, holds in found.items() if holds]
    return facts if len(facts) > 1 else []


def stroke_facts(row: Row, m: Measured) -> list[str]:
    """Return the facts of a single stroke."""
    name = row.path.stem
    plural = row.extra["kind"].endswith("s")
    if plural or not STROKE.search(name) or NO_STROKE.search(name) or m["events"] != 1:
        return []
    if m["loudest_at"] > 0.3:
        return []
    found = {
        "dry": m["decay_20_s"] <= 0.28 and m["decay_40_s"] <= 0.48,
        "ringing": m["decay_20_s"] >= 1.4,
    }
    return [name for name, holds in found.items() if holds]


def chosen(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Yield what is printed of each recording that has facts enough."""
    kinds: Counter[str] = Counter()
    alike: Counter[tuple[str, ...]] = Counter()
    for row in rows:
        kind = row.extra["kind"]
        if "start" in row.extra or not facts_possible(row):
            continue
        measured = measure(load(row.path, RATE))
        count, facts = facts_of(kind, row, measured)
        same = (kind, count, *facts)
        most = MOST_NOTES if row.extra["group"] == "instrument" else MOST_OF_KIND
        if not facts or kinds[kind] >= most or alike[same] >= MOST_ALIKE:
            continue
        kinds[kind] += 1
        alike[same] += 1
        yield {
            "recording": row.extra["id"],
            "kind": kind,
            "count": count,
            "facts": facts,
            "measured": measured,
        }


def facts_possible(row: Row) -> bool:
    """Tell whether there are rules for a recording."""
    kind, group = row.extra["kind"], row.extra["group"]
    return kind in (*EVENTS, *TEXTURES, "clock") or group in ("instrument", "percussion")


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path, help="written by make_manifest.py")
    parser.add_argument("--root", type=Path, required=True, help="folder of the recordings")
    arguments = parser.parse_args()
    for line in chosen(manifest.read(arguments.manifest, arguments.root)):
        print(json.dumps(line))


if __name__ == "__main__":
    main()
