"""Normalisation of `source` arguments, and prefetching of their log-mels."""

import contextlib
import dataclasses
import functools
import itertools
import numbers
import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from reclap.audio.decode import check_rate, own_rate
from reclap.audio.front import AudioConfig, open_front
from reclap.audio.fusion import LogMel, log_mels
from reclap.audio.sound_file import Source, is_file
from reclap.audio.streams import Stream, Whole, cut
from reclap.errors import BadSound, BadSoundType, FormatError, one_line
from reclap.io.excerpts import Excerpt
from reclap.runtime.prefetch import prefetch

__all__ = [
    "Reading",
    "Sounds",
    "as_list",
    "features",
    "name_of",
    "pieces",
    "require_rate",
    "without_fault",
]

# Types of `source`: a file, its content, samples, samples with their rate; or several of them.
Sound: TypeAlias = Source | npt.ArrayLike | tuple[npt.ArrayLike, float] | Mapping[str, Any]
Sounds: TypeAlias = Sound | Iterable[Sound]

MOST_PIECES = 1 << 20  # 12 days, one a second; each is a pass of the tower, and a row kept
AHEAD = 32  # log-mels that are prefetched
BAD_SOUND = (OSError, FormatError, BadSound)  # anything else is a fault of ours, or the caller's


def as_list(source: Sounds) -> list[Any]:
    """Return the sounds of a `source` argument as a list.

    An array, a list of numbers, a pair ``(samples, rate)`` and a mapping with keys ``"array"`` and
    ``"sampling_rate"`` (an item of the library datasets) are one sound each; an array of objects or
    strings holds several.
    """
    if isinstance(source, numbers.Real):
        raise BadSoundType(
            f"audio: expected a path, bytes, a file object or an array, got {type(source).__name__}"
        )
    if is_file(source) or not isinstance(source, Iterable):
        return [source]
    if isinstance(source, Mapping) or _is_pair(source):
        return [source]
    if hasattr(source, "detach") or (  # torch's, which NumPy may not take
        _is_array(source) and np.asarray(source).dtype.kind not in "OU"
    ):
        return [source]
    items = list(source)
    is_clip = bool(items) and all(isinstance(x, numbers.Real) for x in items)
    return [np.asarray(items)] if is_clip else items


def _is_array(item: Any) -> bool:
    return hasattr(item, "__array__")


def _is_pair(item: Any) -> bool:
    """Tell ``(samples, rate)`` from a list of sounds, and from a clip of two samples."""
    if not isinstance(item, tuple) or len(item) != 2:
        return False
    samples, rate = item
    of_many = _is_array(samples) or isinstance(samples, list)
    return of_many and np.ndim(rate) == 0 and isinstance(rate, numbers.Real | np.generic)


@dataclasses.dataclass(frozen=True)
class Reading:
    """Options of reading the sounds of one call.

    Attributes
    ----------
    rate : int, optional
        Samples per second (Hz) of arrays that do not bring their own.
    channels_first : bool
        Arrays of two axes are (channels, T).
    window_hop : float, optional
        Replaces the front end's, see `reclap.audio.AudioConfig`.
    """

    rate: int | None = None
    channels_first: bool = False
    window_hop: float | None = None

    def front(self, front: AudioConfig) -> AudioConfig:
        """Return a front end with the window hop of this call; ValueError if it is out of range."""
        if self.window_hop is None:
            return front
        return dataclasses.replace(front, window_hop=self.window_hop)

    def open(self, item: Any, front: AudioConfig, name: str) -> Stream:
        """Open a sound as a front end takes it; see `reclap.audio.open_front`."""
        source, own = _parts(item)
        if is_file(source):
            return open_front(source, front, name=name)
        rate = self.rate if own is None else own_rate(own)
        return open_front(source, front, rate=rate, channels_first=self.channels_first, name=name)


def _parts(item: Any) -> tuple[Any, Any]:
    """Return the samples or the file of an item, and its own sample rate or None.

    Raises
    ------
    BadSound
        If a mapping has other keys than those of an item of datasets.
    """
    if _is_pair(item):
        return item[0], item[1]
    if isinstance(item, Mapping):
        if "array" in item and "sampling_rate" in item:
            return item["array"], item["sampling_rate"]
        if item.get("bytes") is not None:
            return item["bytes"], None
        if item.get("path") is not None:
            return item["path"], None
        raise BadSound(f"a mapping: expected array and sampling_rate, got {sorted(map(str, item))}")
    return item, None


def require_rate(items: Sequence[Any], rate: int | None, *, first: int = 0) -> None:
    """Refuse arrays without a sample rate, and impossible rates, as errors of the caller.

    Raises
    ------
    TypeError, ValueError
        Naming the first such array.
    """
    if rate is not None:
        check_rate("rate", rate)
    for i, item in enumerate(items, first):
        needed = _is_array(item) or (isinstance(item, list | tuple) and not _is_pair(item))
        if rate is None and needed:
            raise ValueError(f"audio[{i}]: an array does not know its rate, pass rate= in Hz")


def name_of(item: Any, i: int) -> str:
    """Return the name of the i-th sound in messages and results: its path, or its index."""
    if isinstance(item, Mapping) and isinstance(path := item.get("path"), str | os.PathLike):
        return os.fspath(path)
    if isinstance(item, Excerpt):
        return str(item)
    return os.fspath(item) if isinstance(item, str | os.PathLike) else f"audio[{i}]"


def _name(error: Exception, name: str) -> None:
    """Put the sound's name into the error's message, where it is not yet."""
    if isinstance(error, OSError):
        error.filename = error.filename or name
    elif not str(error).startswith(f"{name}: "):
        error.args = (f"{name}: {error}",)


def features(
    items: Iterable[Any], reading: Reading, front: AudioConfig, threads: int
) -> Generator[tuple[int, LogMel | Exception], None, None]:
    """Prefetch the log-mels of sounds: yield those of each sound, or why it has none, in order.

    Parameters
    ----------
    items : iterable
        Sounds, as `as_list` returns them; read while log-mels are asked for.
    reading : Reading
        Options of reading.
    front : AudioConfig
        The model's front end.
    threads : int
        Threads of the prefetcher, which decode and transform with the interpreter lock released.

    Yields
    ------
    index : int
        Index of the sound in `items`.
    result : LogMel or exception
        A sound that fails further on has given log-mels before.

    Notes
    -----
    Memory holds at most `AHEAD` log-mels, or twice that; and of at most `threads` sounds `WHOLE`
    decoded samples each, see `reclap.audio.streams`, whatever their length.
    """

    def work(i: int, item: Any) -> Iterator[LogMel | Exception]:
        name = name_of(item, i)
        try:
            yield from log_mels(reading.open(item, front, name), front)
        except BAD_SOUND as error:
            _name(error, name)
            yield error

    jobs = (functools.partial(work, i, item) for i, item in enumerate(items))
    return prefetch(jobs, threads, AHEAD)


def pieces(
    item: Any, reading: Reading, front: AudioConfig, size: int, step: int
) -> Generator[tuple[int, int, LogMel], None, None]:
    """Yield the log-mels of the pieces of one sound, which begin every `step` samples.

    Parameters
    ----------
    item, reading, front
        The sound, as in `features`; its channels are averaged.
    size, step : int
        Length of a piece, and from one to the next, in samples at ``front.rate``. The first piece
        that reaches the end is the last one, and may be shorter.

    Yields
    ------
    start, stop : int
        Begin and end of the piece in samples; repeated for each of its log-mels.
    mel : LogMel
        Log-mel of the piece, as if it were a sound of its own.

    Raises
    ------
    OSError, FormatError, ValueError, TypeError
        If the sound cannot be read; ValueError also for more than `MOST_PIECES`.
    """

    def work() -> Iterator[tuple[int, int, LogMel]]:
        try:
            mixed = dataclasses.replace(front, channels="mean")
            stream = reading.open(item, mixed, name_of(item, 0))
            _refuse_more(stream.length, size, step, front.rate)
            ranges = ((start, start + size) for start in itertools.count(0, step))
            found = cut(stream.blocks(), ranges)
            for start, piece in zip(itertools.count(0, step), found, strict=False):
                for mel in log_mels(Whole(piece), front):
                    yield start, start + len(piece), mel
        except BAD_SOUND as error:
            _name(error, name_of(item, 0))
            raise

    with contextlib.closing(prefetch([work], 1, AHEAD)) as found:
        for _, result in found:
            yield result


def _refuse_more(length: int, size: int, step: int, rate: int) -> None:
    if -(-max(0, length - size) // step) + 1 > MOST_PIECES:
        raise ValueError(
            f"hop is {step / rate:g} s, which makes more than {MOST_PIECES} windows of a sound of "
            f"{length / rate:.0f} s; a longer hop, or the sound in parts"
        )


def without_fault(
    found: Generator[tuple[int, int, LogMel], None, None], faults: list[str]
) -> Generator[tuple[int, int, LogMel], None, None]:
    """Yield from `pieces`; where that raises, stop and append the reason to `faults`."""
    try:
        yield from found
    except BAD_SOUND as error:
        faults.append(one_line(error))
