"""What the core computes, for the comparison of its builds: python tests/variants.py OUT [FOLDER].

Writes the results of all kernels and of the bundled model to OUT, an .npz file. The core and the
module of kernels are those in FOLDER/reclap where that is given.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import reclap

if len(sys.argv) > 2:  # before anything imports the core
    reclap.__path__[:0] = [str(Path(sys.argv[2]) / "reclap")]

from test_gradients import PAIRS

from reclap.audio import AudioConfig, log_mel
from reclap.runtime.libraries import core, kernels

SOUNDS = sorted((Path(__file__).parents[1] / "examples" / "sounds").glob("*.ogg"))
TEXTS = ["a dog barks", "rain on a tin roof while somebody walks by", "rooster", "wind"] * 8


def pairs(rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """Yield results of both directions of every pair, at an even and an odd size."""
    for name, make in PAIRS.items():
        for size in ((64, 32), (77, 53)):
            pair = make(rng, *size)
            y = pair.forward(*pair.inputs)
            dy = rng.standard_normal(np.shape(y)).astype(np.float32)
            for i, x in enumerate([y, *pair.backward(dy, *pair.inputs)]):
                yield f"{name} {size} {i}", x


def others(rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what has no gradient: log-mels, scores of several prompts, steps of AdamW."""
    noise = rng.standard_normal(70001).astype(np.float32)
    yield "log_mel", log_mel(0.1 * noise, AudioConfig()) / 100
    w, g = rng.standard_normal((2, 5001)).astype(np.float32)
    m, v = np.zeros((2, 5001), np.float32)
    for step in (1, 2, 3):
        kernels.adamw_step(w, m, v, g * step, step, 1e-3, 0.9, 0.99, 1e-8, 0.1, 1.0)
    yield "adamw", np.stack([w, m, v])


def model() -> Iterator[tuple[str, np.ndarray]]:
    """Yield embeddings and scores of the bundled model."""
    mini = reclap.load("mini", threads=2)
    yield "clips", mini.embed_audio(SOUNDS)
    yield "texts", mini.embed_text(TEXTS)
    prompts = {label: [label, f"the sound of {label}"] for label in ("rain", "dog", "siren")}
    for rule in ("mean_embedding", "max", "entropy"):
        found = mini.classify(SOUNDS, prompts, combine=rule, cache=False)
        yield f"scores by {rule}", np.stack([x.scores for x in found])


def main() -> None:
    for module in (core, kernels):
        assert len(sys.argv) < 3 or Path(module.__file__).is_relative_to(sys.argv[2])
    rng = np.random.default_rng(5)
    np.savez(sys.argv[1], **dict([*pairs(rng), *others(rng), *model()]))


if __name__ == "__main__":
    main()
