"""Decoder of an excerpt: skips what is before it, and ends where it ends."""

from typing import Protocol

import numpy as np

from reclap._types import Samples
from reclap.errors import FormatError
from reclap.io.excerpts import Excerpt

__all__ = ["Decoder", "ExcerptReader"]

SKIP = 1 << 18  # samples over all channels that are decoded at a time before the excerpt


class Decoder(Protocol):
    """Decoder of a file, from its beginning: the core's ``Reader``, or `MediaReader`."""

    @property
    def rate(self) -> int:
        """Sample rate in Hz."""

    @property
    def channels(self) -> int:
        """Number of channels."""

    def read(self, frames: int = -1, /) -> Samples:
        """Decode the next frames, or all remaining ones, as (frames, channels)."""


class ExcerptReader:
    """A decoder of part of a file.

    What is before the part is decoded and dropped block by block: the core's reader cannot seek.

    Parameters
    ----------
    reader : Decoder
        Decoder of the file, at its beginning.
    excerpt : Excerpt
        The part.
    """

    def __init__(self, reader: Decoder, excerpt: Excerpt) -> None:
        self._reader = reader
        self.rate, self.channels = reader.rate, reader.channels
        first, stop = excerpt.frames(self.rate)
        most, at = max(1, SKIP // self.channels), 0
        while at < first and (count := len(reader.read(min(most, first - at)))):
            at += count
        self._start, self._at, self._read = excerpt.start, at, 0
        self._left = None if stop is None else stop - first

    def read(self, frames: int = -1, /) -> Samples:
        """Decode the next frames, or all remaining ones, as (frames, channels).

        Raises
        ------
        FormatError
            If the file ends before the excerpt begins.
        """
        if self._left is not None:
            frames = self._left if frames < 0 else min(frames, self._left)
        if frames == 0:
            return np.empty((0, self.channels), np.float32)
        block = self._reader.read(frames)
        self._read += len(block)
        if self._left is not None:
            self._left -= len(block)
        if self._read == 0:
            end = self._at / self.rate
            raise FormatError(f"it starts at {self._start:g} s, but the file ends at {end:g} s")
        return block
