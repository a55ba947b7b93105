"""What callers pass as sounds: one or many, files or arrays; decoded ahead of the model."""

import numbers
import os
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from reclap import audio
from reclap.audio import AudioConfig
from reclap.errors import FormatError
from reclap.fusion import Pictures, pictures

__all__ = ["as_list", "features", "load", "name_of", "require_rate"]

Floats = npt.NDArray[np.float32]

AHEAD = 16  # sounds decoded before the model asks for them
AHEAD_WINDOWS = 64  # the same limit in windows, for long sounds
BAD_SOUND = (OSError, FormatError, ValueError, TypeError, MemoryError)


def as_list(source: Any) -> list[Any]:
    """Return the sounds of an argument: those of a list or iterable, or the one that it is.

    An array and a list of numbers are one sound each; an array of objects or strings holds several.
    """
    if _is_file(source) or not isinstance(source, Iterable):
        return [source]
    if _is_array(source) and np.asarray(source).dtype.kind not in "OU":
        return [source]
    items = list(source)
    is_clip = bool(items) and all(isinstance(x, numbers.Real) for x in items)
    return [np.asarray(items)] if is_clip else items


def _is_file(item: Any) -> bool:
    named = isinstance(item, str | os.PathLike | bytes | bytearray | memoryview)
    return named or hasattr(item, "read")


def _is_array(item: Any) -> bool:
    return hasattr(item, "__array__")


def require_rate(items: Sequence[Any], rate: int | None) -> None:
    """Refuse arrays without a rate: the caller's mistake, not a bad sound to be skipped.

    Raises
    ------
    ValueError
        Naming the first such array.
    """
    for i, item in enumerate(items):
        if rate is None and (_is_array(item) or isinstance(item, list | tuple)):
            raise ValueError(f"audio[{i}]: an array does not know its rate, pass rate= in Hz")


def load(item: Any, i: int, rate: int | None, front: AudioConfig) -> Floats:
    """Load the i-th sound as a model's front end wants it; see `reclap.audio.load`.

    Raises
    ------
    OSError, FormatError, ValueError, TypeError, MemoryError
        As `reclap.audio.load`, the message naming the file or the place in the list.
    """
    try:
        return audio.load(
            item,
            front.rate,
            front.channels,
            None if _is_file(item) else rate,
            resampler=front.resampler,
        )
    except BAD_SOUND as error:
        _name(error, name_of(item, i))
        raise


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
    items: Sequence[Any], rate: int | None, front: AudioConfig, threads: int
) -> Generator[Pictures | Exception, None, None]:
    """Yield the log-mel pictures of each sound in order, or why it has none.

    Parameters
    ----------
    items : sequence
        As `as_list` returns them.
    rate : int, optional
        Samples per second (Hz) of arrays.
    front : AudioConfig
        The model's front end.
    threads : int
        Threads that decode and transform ahead of the caller, with the interpreter lock released.

    Yields
    ------
    Pictures, or an exception

    Notes
    -----
    Memory holds the samples of at most `threads` sounds and the log-mels of those ahead: `AHEAD`
    sounds, or fewer once a sound has turned out to be long.
    """

    def work(i: int) -> Pictures | Exception:
        try:
            return pictures(load(items[i], i, rate, front), front)
        except BAD_SOUND as error:
            return error

    ahead, submitted = AHEAD, 0
    pending: deque[Future[Pictures | Exception]] = deque()
    pool = ThreadPoolExecutor(threads, "reclap-audio")
    try:
        while submitted < len(items) or pending:
            while submitted < len(items) and len(pending) < ahead:
                pending.append(pool.submit(work, submitted))
                submitted += 1
            result = pending.popleft().result()
            if not isinstance(result, Exception):
                ahead = min(ahead, max(threads, AHEAD_WINDOWS // len(result.mel), 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)
