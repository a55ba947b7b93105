"""What callers pass as sounds: one or many, files or arrays; decoded ahead of the model."""

import contextlib
import dataclasses
import functools
import itertools
import numbers
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from reclap.audio import AudioConfig, open_front
from reclap.clips import is_file
from reclap.errors import FormatError, one_line
from reclap.fusion import Picture, pictures
from reclap.prefetch import prefetch
from reclap.streams import Stream, Whole, cut

__all__ = ["as_list", "features", "name_of", "pieces", "require_rate", "without_fault"]

AHEAD = 32  # pictures that are ready before the model asks for them
BAD_SOUND = (OSError, FormatError, ValueError, TypeError, MemoryError)


def as_list(source: Any) -> list[Any]:
    """Return the sounds of an argument: those of a list or iterable, or the one that it is.

    An array and a list of numbers are one sound each; an array of objects or strings holds several.
    """
    if is_file(source) or not isinstance(source, Iterable):
        return [source]
    if _is_array(source) and np.asarray(source).dtype.kind not in "OU":
        return [source]
    items = list(source)
    is_clip = bool(items) and all(isinstance(x, numbers.Real) for x in items)
    return [np.asarray(items)] if is_clip else items


def _is_array(item: Any) -> bool:
    return hasattr(item, "__array__")


def require_rate(items: Sequence[Any], rate: int | None, *, first: int = 0) -> None:
    """Refuse arrays without a rate: the caller's mistake, not a bad sound to be skipped.

    Raises
    ------
    ValueError
        Naming the first such array.
    """
    for i, item in enumerate(items, first):
        if rate is None and (_is_array(item) or isinstance(item, list | tuple)):
            raise ValueError(f"audio[{i}]: an array does not know its rate, pass rate= in Hz")


def _stream(item: Any, rate: int | None, front: AudioConfig) -> Stream:
    """Open a sound of a call, whose `rate` is that of its arrays."""
    return open_front(item, front, rate=None if is_file(item) else rate)


def name_of(item: Any, i: int) -> str:
    """Return how messages and results call the i-th sound: its path, or its place."""
    return os.fspath(item) if isinstance(item, str | os.PathLike) else f"audio[{i}]"


def _name(error: Exception, name: str) -> None:
    """Put the sound's name into the error's message, where it is not yet."""
    if isinstance(error, OSError):
        error.filename = error.filename or name
    elif not str(error).startswith(name):
        error.args = (f"{name}: {error}",)


def features(
    items: Iterable[Any], rate: int | None, front: AudioConfig, threads: int
) -> Generator[tuple[int, Picture | Exception], None, None]:
    """Yield the log-mel pictures of each sound, or why it has none, in order.

    Parameters
    ----------
    items : iterable
        As `as_list` returns them, read while pictures are asked for.
    rate : int, optional
        Samples per second (Hz) of arrays.
    front : AudioConfig
        The model's front end.
    threads : int
        Threads that decode and transform ahead of the caller, with the interpreter lock released.

    Yields
    ------
    place : int
        Of the sound in `items`.
    Picture or exception
        A sound that fails further on has given pictures before.

    Notes
    -----
    Memory holds at most `AHEAD` pictures, or twice that; and of at most `threads` sounds `WHOLE`
    decoded samples each, see `reclap.streams`, whatever their length.
    """

    def work(i: int, item: Any) -> Iterator[Picture | Exception]:
        try:
            yield from pictures(_stream(item, rate, front), front)
        except BAD_SOUND as error:
            _name(error, name_of(item, i))
            yield error

    jobs = (functools.partial(work, i, item) for i, item in enumerate(items))
    return prefetch(jobs, threads, AHEAD)


def pieces(
    item: Any, rate: int | None, front: AudioConfig, size: int, step: int
) -> Generator[tuple[int, int, Picture], None, None]:
    """Yield the log-mel pictures of the pieces of one sound, as they begin every `step` samples.

    Parameters
    ----------
    item, rate, front
        The sound, as in `features`; its channels are averaged.
    size, step : int
        Length of a piece, and from one to the next, in samples at ``front.rate``. The first piece
        that reaches the end is the last one, and may be shorter.

    Yields
    ------
    start, stop : int
        Of the piece in samples; once for every picture of it.
    Picture
        Of the piece, as of a sound of its own.

    Raises
    ------
    OSError, FormatError, ValueError, TypeError, MemoryError
        As `features` yields them.
    """

    def work() -> Iterator[tuple[int, int, Picture]]:
        try:
            stream = _stream(item, rate, dataclasses.replace(front, channels="mean"))
            ranges = ((start, start + size) for start in itertools.count(0, step))
            found = cut(stream.blocks(), ranges)
            for start, piece in zip(itertools.count(0, step), found, strict=False):
                for picture in pictures(Whole(piece), front):
                    yield start, start + len(piece), picture
        except BAD_SOUND as error:
            _name(error, name_of(item, 0))
            raise

    with contextlib.closing(prefetch([work], 1, AHEAD)) as found:
        for _, result in found:
            yield result


def without_fault(
    found: Generator[tuple[int, int, Picture], None, None], faults: list[str]
) -> Generator[tuple[int, int, Picture], None, None]:
    """Yield what `pieces` does; where it raises, end and put the reason into `faults`."""
    try:
        yield from found
    except BAD_SOUND as error:
        faults.append(one_line(error))
