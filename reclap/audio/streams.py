"""Streams: sounds of any length as mono samples at a given rate, block by block."""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import numpy as np

from reclap.audio.decode import ARRAY, Channels, Clip, Samples, clip_of, convert
from reclap.audio.levels import Levels, sounding
from reclap.audio.resample import Kind, resampled_length, resampler_of
from reclap.audio.sound_file import SoundFile, is_file
from reclap.errors import FormatError
from reclap.runtime.libraries import core

__all__ = ["Stream", "Whole", "cut", "open_stream"]

WHOLE = 1 << 23  # samples over all channels, 95 s of stereo at 44.1 kHz; longer files are streamed
BLOCK = 1 << 18  # samples over all channels that are decoded at a time


class Stream(Protocol):
    """A sound of one channel at one rate."""

    @property
    def length(self) -> int:
        """Total number of samples; for long files this costs one extra decoding pass."""

    @property
    def sounding(self) -> tuple[int, int]:
        """Range of samples without the silence at both ends; see `reclap.audio.levels`."""

    def blocks(self) -> Iterator[Samples]:
        """Yield the samples from the beginning, in arrays (T,) of any length."""


class Whole:
    """A stream in memory: `samples` (T,), and their range without silence, if known."""

    def __init__(self, samples: Samples, loud: tuple[int, int] | None = None) -> None:
        self._samples, self._loud = samples, loud
        self.length = len(samples)

    @functools.cached_property
    def sounding(self) -> tuple[int, int]:
        """Range without silence; see `Stream`."""
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
        As in `reclap.audio.load`, with channels mixed to one.
    name : str, optional
        Name of an array in warnings; put before that of bytes and file objects.

    Returns
    -------
    Stream
        Samples in memory for an array or at most `WHOLE` decoded ones; else decoded at each use.

    Raises
    ------
    OSError, FormatError, TypeError, ValueError
        As `reclap.audio.load`; errors further on in a long file are raised by its blocks.
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
    """Return the range without silence of a resampled sound, given the range before."""
    if loud is None:  # channels one after the other: silence may lie between them
        return 0, length
    first, stop = loud
    return min(length, first * rate // own_rate), min(length, -(-stop * rate // own_rate))


class _LongFile:
    """A long file that is decoded block by block, once for its length and then at each use."""

    def __init__(self, file: SoundFile, rate: int, channels: Channels, resampler: Kind) -> None:
        reader = file.open()
        self._file, self._rates, self._resampler = file, (reader.rate, rate), resampler
        self._channels = reader.channels
        self._one_by_one = channels == "concatenate"

    @functools.cached_property
    def _frames(self) -> tuple[int, tuple[int, int]]:
        """The number of frames, and their range without silence."""
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
        """Yield the mixed channel block by block; the first time, log the faults of the file."""
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
        Ranges in samples; neither starts nor stops may decrease. May be endless.

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
