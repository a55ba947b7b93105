"""Batch sizes of the towers."""

import itertools
from collections.abc import Iterable, Iterator
from typing import TypeVar

from reclap.audio.front import AudioConfig

__all__ = ["BATCH", "PIXELS", "TEXT_BATCH", "batch_of", "batches"]

T = TypeVar("T")

BATCH = 8  # most log-mels in one call of the audio tower: more bring no speed
PIXELS = BATCH * 1024 * 64  # most frames times mels in one call, so that long windows fit memory
TEXT_BATCH = 128


def batch_of(front: AudioConfig) -> int:
    """Return the batch size of the audio tower in log-mels; see `BATCH` and `PIXELS`."""
    return min(BATCH, max(1, PIXELS // (front.frames * front.mels)))


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items, the last one shorter."""
    rest = iter(items)
    while batch := list(itertools.islice(rest, size)):
        yield batch
