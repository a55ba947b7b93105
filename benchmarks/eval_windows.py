"""How far silence in front of a long clip moves its embedding, by step of the windows and pooling.

    python benchmarks/eval_windows.py                  real recordings of 12 s and more
    python benchmarks/eval_windows.py --noise -60      noise of that level in dB in place of silence

Silence of 0 to 1 window is put in front of each recording; the cosine with the embedding of the
recording alone is given, worst and median over recordings and lengths of silence, with the number
of windows that a recording costs. Poolings of the windows' embeddings:

skip      each counts the same, and windows cover no silence at the ends (the default)
mean      each counts the same (``silence = "keep"``)
heard     the same, each counts by the share of its frames within 60 dB of the loudest frame
power     the same, each counts by the root of its power
"""

import argparse
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import reclap
from reclap import audio
from reclap.audio import fusion, windowing
from reclap.audio.streams import Whole
from reclap.checkpoints import model_folder

SHARED = Path(os.environ.get("RECLAP_SHARED") or Path(__file__).resolve().parents[2] / "shared")
SECONDS = 12.0  # shortest recording
HOPS = (1.0, 1 / 2, 1 / 3, 1 / 4, 1 / 6)
SHARES = (
    0.0,
    0.0009,
    0.01,
    0.1,
    0.235,
    0.35,
    0.5,
    0.65,
    0.8,
    0.9,
    1.0,
)  # of a window; 0.235 is 1.2 s
HEARD_DB = -60.0
FRAME = 0.02  # seconds


def recordings(most: int, rate: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield ambient recordings, spread over all of them, by name."""
    found = sorted((SHARED / "audio" / "ambient").glob("*/*.ogg"))
    count = 0
    for path in found:
        clip = audio.load(path, rate)
        if len(clip) >= SECONDS * rate:
            yield f"{path.parent.name}/{path.stem}", clip
            count += 1
        if count == most:
            return


def weights(windows: list[np.ndarray], rate: int) -> dict[str, np.ndarray]:
    """Return how much each window counts, by pooling."""
    frame = int(FRAME * rate)
    power = np.stack([np.square(w[: len(w) // frame * frame].reshape(-1, frame)).mean(1)
                      for w in windows])  # fmt: skip
    heard = power > power.max() * 10 ** (HEARD_DB / 10)
    return {
        "mean": np.ones(len(windows)),
        "heard": heard.mean(axis=1),
        "power": np.sqrt(power.mean(axis=1)),
    }


def rows_of(model: reclap.Model, clip: np.ndarray, hop: float) -> tuple[dict[str, np.ndarray], int]:
    """Return the embedding of a clip by pooling, and how many windows it took."""
    front = dataclasses.replace(model.config.front, window_hop=hop)
    rate = front.rate
    pooled = {"skip": model.embed_audio(clip, rate=rate, window_hop=hop)[0]}
    front, stream = dataclasses.replace(front, silence="keep"), Whole(clip)
    windows = list(windowing.each_window(stream, front))
    mels = ((i, p) for i, p in enumerate(fusion.log_mels(stream, front)))
    rows = np.stack([row for _, row in model._embed_log_mels(mels, str)])
    for name, weight in weights(windows, rate).items():
        mean = (weight / weight.sum()) @ rows
        pooled[name] = mean / np.linalg.norm(mean)
    return pooled, len(windows)


def main() -> None:
    """Print a line for each step and pooling."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--model", default="mini")
    p.add_argument("--most", type=int, default=40, metavar="N", help="recordings")
    p.add_argument("--hops", nargs="+", type=float, default=HOPS, metavar="SHARE")
    p.add_argument("--noise", type=float, metavar="DB", help="level of noise in place of silence")
    options = p.parse_args()
    model = reclap.load(model_folder.resolve(options.model))
    front = model.config.front
    rng = np.random.default_rng(0)
    level = 0.0 if options.noise is None else 10 ** (options.noise / 20)
    before = (level * rng.standard_normal(front.samples)).astype(np.float32)
    clips = list(recordings(options.most, front.rate))
    print(f"{len(clips)} recordings, {model.config.name}, window {front.window_seconds:g} s")
    print("   hop pooling   windows   worst     1 %  median  worst of")
    for hop in options.hops:
        cosines: dict[str, list[tuple[float, str]]] = {}
        count = 0
        for name, clip in clips:
            first, n = rows_of(model, clip, hop)
            count += n
            for share in SHARES[1:]:
                moved = np.concatenate([before[: round(share * front.samples)], clip])
                found, _ = rows_of(model, moved, hop)
                for pooling, row in found.items():
                    said = f"{name}, {share:g} of a window"
                    cosines.setdefault(pooling, []).append((float(row @ first[pooling]), said))
        for pooling, values in cosines.items():
            x = np.array([v for v, _ in values])
            figures = " ".join(f"{v:7.4f}" for v in (x.min(), np.quantile(x, 0.01), np.median(x)))
            line = f"{hop:6.3f} {pooling:8} {count / len(clips):8.1f} {figures}"
            print(f"{line}  {min(values)[1]}", flush=True)


if __name__ == "__main__":
    main()
