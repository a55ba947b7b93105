"""How much goes through a tower at once, and on how many threads."""

import itertools
import os
from collections.abc import Iterable, Iterator
from typing import TypeVar

from reclap.audio import AudioConfig

__all__ = [
    "BATCH",
    "PIXELS",
    "TEXT_BATCH",
    "batch_of",
    "batches",
    "default_threads",
]

T = TypeVar("T")

BATCH = 8  # most pictures in one call of the audio tower: more bring no speed
PIXELS = BATCH * 1024 * 64  # most frames times mels in one call, so that long windows fit memory
TEXT_BATCH = 128


def default_threads() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not everywhere
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def batch_of(front: AudioConfig) -> int:
    """Return how many pictures go into one call of the audio tower; see `BATCH` and `PIXELS`."""
    return min(BATCH, max(1, PIXELS // (front.frames * front.mels)))


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items, the last one shorter."""
    rest = iter(items)
    while batch := list(itertools.islice(rest, size)):
        yield batch
