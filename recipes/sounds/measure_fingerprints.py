"""Measure how well fingerprints find copies of recordings among all of them.

    python recipes/sounds/measure_fingerprints.py ../shared/audio

One copy is made of each recording, of one of five sorts in turn, 0 to 12 dB softer: OGG or MP3 of
low quality; trimmed to 40 to 80 %, at least half a second; resampled to 8 to 32 kHz; and all of
these with MP3. Prints JSON: recall by sort; precision of all matches; false matches. A match with
another recording is right if the two recordings match themselves.
"""

import argparse
import io
import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import soundfile

from reclap._types import Samples
from reclap.audio import load, read
from reclap.audio.fingerprint import COHERENT, RATE, Index, coherence, fingerprint, matches
from reclap.audio.resample import resample

SORTS = ("ogg", "mp3", "trimmed", "resampled", "all")
RATES = (8000, 11025, 16000, 22050, 32000)


def encoded(samples: Samples, rate: int, kind: str, quality: float) -> Samples:
    """Return what comes back from a coded file, at the rate of fingerprints."""
    file = io.BytesIO()
    subtype = {"OGG": "VORBIS", "MP3": "MPEG_LAYER_III"}[kind]
    soundfile.write(
        file, samples, rate, format=kind, subtype=subtype, compression_level=1 - quality
    )
    return load(file.getvalue(), RATE)


def trimmed(samples: Samples, rate: int, rng: np.random.Generator) -> Samples:
    """Return a random part of a clip."""
    least = min(len(samples), rate // 2)
    size = max(int(len(samples) * rng.uniform(0.4, 0.8)), least)
    start = rng.integers(0, len(samples) - size + 1)
    return samples[start : start + size]


def copy(path: Path, sort: str, rng: np.random.Generator) -> Samples:
    """Return a copy of a recording at the rate of fingerprints."""
    clip = read(path)
    samples, rate = clip.samples.mean(axis=1), clip.rate
    samples = (samples * 10 ** -rng.uniform(0, 0.6)).astype(np.float32)
    if sort in ("trimmed", "all"):
        samples = trimmed(samples, rate, rng)
    if sort in ("resampled", "all"):
        other = int(rng.choice(RATES))
        samples, rate = resample(samples, rate, other), other
    if sort == "ogg":
        return encoded(samples, rate, "OGG", rng.choice([0.1, 0.4]))
    if sort in ("mp3", "all"):
        return encoded(samples, rate, "MP3", rng.choice([0.2, 0.5]))
    return load(samples, RATE, rate=rate)


def measure(paths: list[Path]) -> dict:
    """Return recall by sort of copy, precision, and the false matches."""
    rng = np.random.default_rng(20)
    clips = [load(path, RATE) for path in paths]
    prints = [fingerprint(clip) for clip in clips]
    index = Index(prints)
    same = {(m.first, m.second) for m in matches(prints, clips.__getitem__)}
    found, made, right, false = Counter(), Counter(), 0, defaultdict(list)
    for i, path in enumerate(paths):
        sort = SORTS[i % len(SORTS)]
        made[sort] += 1
        clip = copy(path, sort, rng)
        for j in index.candidates(fingerprint(clip)):
            if coherence(clips[j], clip) < COHERENT:
                continue
            found[sort] += i == j
            if i == j or (min(i, j), max(i, j)) in same:
                right += 1
            else:
                false[path.name].append(paths[j].name)
    wrong = sum(map(len, false.values()))
    return {
        "copies": made.total(),
        "recall": round(found.total() / made.total(), 4),
        **{f"recall, {sort}": round(found[sort] / made[sort], 4) for sort in SORTS},
        "precision": round(right / max(1, right + wrong), 4),
        "false": false,
        "pairs of recordings that match": len(same),
    }


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("audio", type=Path, help="folder of recordings")
    parser.add_argument("--every", type=int, default=1, help="only each such recording")
    arguments = parser.parse_args()
    kinds = {".ogg", ".mp3"}
    paths = sorted(p for p in arguments.audio.rglob("*") if p.suffix in kinds)
    print(json.dumps(measure(paths[:: arguments.every]), indent=1))


if __name__ == "__main__":
    main()
