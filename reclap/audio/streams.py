"""Sounds of any length as mono samples at a wanted rate, block by block."""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import numpy as np

from reclap.audio.decode import (
    ARRAY,
    Channels,
    Clip,
    Samples,
    SoundFile,
    clip_of,
    convert,
    is_file,
)
from reclap.audio.levels import Levels, sounding
from reclap.audio.resample import Kind, resampled_length, resampler_of
from reclap.errors import FormatError
from reclap.runtime.libraries import core

__all__ = ["Stream", "Whole", "cut", "open_stream"]

WHOLE = 1 << 23  # samples over all channels, 95 s of stereo at 44.1 kHz; longer files are streamed
BLOCK = 1 << 18  # samples over all channels that are decoded at a time


class Stream(Protocol):
    """A sound of one channel at one rate."""

    @property
    def length(self) -> int:
        """Samples in all, for which a long file is decoded once without use."""

    @property
    def sounding(self) -> tuple[int, int]:
        """First sample that is no silence, and one more than the last: `reclap.audio.levels`."""

    def blocks(self) -> Iterator[Samples]:
        """Yield the samples from the beginning, in arrays (T,) of any length."""


class Whole:
    """A stream that is in memory: `samples` (T,); where it sounds, if that is known."""

    def __init__(self, samples: Samples, loud: tuple[int, int] | None = None) -> None:
        self._samples, self._loud = samples, loud
        self.length = len(samples)

    @functools.cached_property
    def sounding(self) -> tuple[int, int]:
        """Where it sounds; see `Stream`."""
        return sounding(self._samples) if self._loud is None else self._loud

    def blocks(self) -> Iterator[Samples]:
        """Yield the samples as one array."""
        yield self._samples


def open_stream(
    source: Any,
    target_rate: int,
    *,
    rate: int | None,
    channels: Channels,
    resampler: Kind,
    channels_first: bool = False,
    name: str | None = None,
) -> Stream:
    """Open a sound.

    Parameters
    ----------
    source, target_rate, rate, channels, resampler, channels_first
        As `reclap.audio.load`, whose samples the stream has; channels are not kept.
    name : str, optional
        Name of an array in warnings; put before that of bytes and file objects.

    Returns
    -------
    Stream
        Of an array, or of at most `WHOLE` decoded samples, in memory; else decoded at each use.

    Raises
    ------
    OSError, FormatError, TypeError, ValueError
        As `reclap.audio.load`; of a long file, what is wrong further on is raised by its blocks.
    """
    if not is_file(source) or rate is not None:
        clip = clip_of(source, rate, channels_first=channels_first)
        return _whole(clip, target_rate, channels, resampler, name or ARRAY)
    file = SoundFile(source, name)
    reader = file.open()
    most = max(1, WHOLE // reader.channels)
    samples = file.read(reader, most)
    if len(samples) < most or len(file.read(reader, 1, most)) == 0:
        file.report(len(samples))
        clip = Clip(samples, reader.rate)
        del samples
        return _whole(clip, target_rate, channels, resampler, file.name)
    return _LongFile(file, target_rate, channels, resampler)


def _whole(clip: Clip, target_rate: int, channels: Channels, resampler: Kind, name: str) -> Whole:
    loud = None if channels == "concatenate" else sounding(clip.samples)
    clip_rate = clip.rate
    samples = convert(clip, target_rate, channels, resampler, name)
    return Whole(samples, _resampled(loud, clip_rate, target_rate, len(samples)))


def _resampled(
    loud: tuple[int, int] | None, own_rate: int, rate: int, length: int
) -> tuple[int, int]:
    """Return where a sound of `length` samples sounds, given the frames before resampling."""
    if loud is None:  # channels one after the other: silence may lie between them
        return 0, length
    first, stop = loud
    return min(length, first * rate // own_rate), min(length, -(-stop * rate // own_rate))


class _LongFile:
    """A file that is decoded block by block, for its length and then at each use."""

    def __init__(self, file: SoundFile, rate: int, channels: Channels, resampler: Kind) -> None:
        reader = file.open()
        self._file, self._rates, self._resampler = file, (reader.rate, rate), resampler
        self._channels = reader.channels
        self._one_by_one = channels == "concatenate"

    @functools.cached_property
    def _frames(self) -> tuple[int, tuple[int, int]]:
        """The number of frames, and where they sound."""
        frames, loud = 0, (0, 0)
        for block in self._decoded():
            first, stop = sounding(block)
            if stop:
                loud = (loud[0] if loud[1] else frames + first, frames + stop)
            frames += len(block)
        self._file.report(frames)
        return frames, loud

    @functools.cached_property
    def length(self) -> int:
        length = resampled_length(self._frames[0], *self._rates, self._resampler)
        return length * self._channels if self._one_by_one else length

    @property
    def sounding(self) -> tuple[int, int]:
        loud = None if self._one_by_one else self._frames[1]
        return _resampled(loud, *self._rates, self.length)

    def blocks(self) -> Iterator[Samples]:
        if not self._one_by_one:
            yield from self._mixed(core.downmix, mean=True, first=True)
            return
        for channel in range(self._channels):
            mix = functools.partial(_channel, channel)
            yield from self._mixed(mix, mean=False, first=channel == 0)

    def _mixed(
        self, mix: Callable[[Samples], Samples], *, mean: bool, first: bool
    ) -> Iterator[Samples]:
        """Yield one channel made of all; the first time, log what is wrong with the file."""
        resampler, levels = resampler_of(*self._rates, self._resampler), Levels()
        counted, frames = "_frames" in vars(self), 0
        for block in self._decoded():
            frames += len(block)
            mixed = mix(block)
            levels.add(block, mixed if mean else None)
            yield resampler.push(mixed)
        if first:
            levels.report(self._file.name)
        if first and not counted:  # by `_frames`, which has reported it
            self._file.report(frames)
        yield resampler.finish()

    def _decoded(self) -> Iterator[Samples]:
        reader, at = self._file.open(), 0
        if reader.channels != self._channels:
            raise FormatError(f"{self._file.name}: changed while it was read")
        frames = max(1, BLOCK // self._channels)
        while len(block := self._file.read(reader, frames, at)):
            yield block
            at += len(block)


def _channel(channel: int, samples: Samples) -> Samples:
    return np.ascontiguousarray(samples[:, channel])


def cut(blocks: Iterable[Samples], ranges: Iterable[tuple[int, int]]) -> Iterator[Samples]:
    """Cut a stream into pieces, which may overlap or leave gaps.

    Parameters
    ----------
    blocks : iterable of ndarray, shape (T,)
        The samples.
    ranges : iterable of (start, stop)
        In samples; neither starts nor stops may fall. They may go on for ever.

    Yields
    ------
    ndarray, shape (stop - start,)
        A view of the block where one block holds the piece. The first piece that reaches the end of
        the stream is the last one, and may be shorter.
    """
    rest = iter(blocks)
    held: list[Samples] = []
    first = have = 0  # the samples that `held` spans
    for start, stop in ranges:
        while have <= stop:  # one more than needed: then it is known whether there are more
            block = next(rest, None)
            if block is None:
                break
            held.append(block)
            have += len(block)
            while held and first + len(held[0]) <= start:
                first += len(held.pop(0))
        if start >= have:
            return
        joined = held[0] if len(held) == 1 else np.concatenate(held)
        held, joined, first = [joined[start - first :]], joined[start - first :], start
        yield joined[: stop - start]
        if stop >= have:
            return
