"""Windows over a clip, of the model's length; padding and rounding to 16 bits."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from reclap._types import Samples
from reclap.audio.arrays import refuse_non_finite
from reclap.audio.front import AudioConfig
from reclap.audio.streams import Stream, Whole, cut
from reclap.errors import BadSound, FormatError
from reclap.runtime.libraries import core

__all__ = ["each_window", "mono", "pad", "prepared", "window_starts", "windows"]

SHORT_SILENCE = 0.005  # seconds that are part of the sound, as between two swings of it


def windows(samples: npt.ArrayLike, config: AudioConfig | None = None) -> Samples:
    """Cover a clip by windows of the model's length.

    Parameters
    ----------
    samples : array_like, shape (T,)
        Mono clip at ``config.rate``.
    config : AudioConfig, optional
        Gives the window, the padding of short clips and the step between windows.

    Returns
    -------
    ndarray of float32, shape (n, config.samples)
        See Notes.

    Raises
    ------
    ValueError
        If `samples` is empty, not one-dimensional, or holds NaN or infinity.

    Notes
    -----
    A clip no longer than the window W gives one window, padded as ``config.padding`` says. A
    longer clip of L samples gives ``n = ceil((L - W) / H) + 1`` windows, ``H = window_hop W``,
    evenly spaced so that the first starts with the clip and the last ends with it: all audio is
    covered, nothing is padded, and equal clips give equal windows. (The reference
    implementations crop one window at random.) With ``silence="skip"`` the clip is the part
    between the silence at its ends, but at least W samples.

    Examples
    --------
    >>> windows(np.zeros(480001, np.float32)).shape
    (2, 480000)
    """
    return np.stack(list(each_window(Whole(mono(samples)), config or AudioConfig())))


def each_window(stream: Stream, config: AudioConfig) -> Iterator[Samples]:
    """Yield the windows of `windows` one by one, rounded if ``config.quantize``.

    Raises
    ------
    FormatError
        If a file has become shorter since its length was counted.
    """
    length, size = stream.length, config.samples
    blocks = prepared(stream, config)
    if length <= size:
        clip = np.concatenate(list(blocks))
        _refuse_shorter(len(clip), length)
        yield pad(clip, config)
        return
    starts = window_starts(stream, config)
    done = 0
    for window in cut(blocks, ((start, start + size) for start in starts)):
        if len(window) < size:
            break
        done += 1
        yield window
    _refuse_shorter(done, len(starts))


def window_starts(stream: Stream, config: AudioConfig) -> Sequence[int]:
    """Return the first samples of the windows of a clip longer than one; see `windows`."""
    size = config.samples
    first, stop = _covered(stream, config)
    extra = stop - first - size
    count = -(-extra // max(1, round(size * config.window_hop))) + 1
    return [first + (round(i * extra / (count - 1)) if i else 0) for i in range(count)]


def _covered(stream: Stream, config: AudioConfig) -> tuple[int, int]:
    """Return the range of a long clip that windows cover, at least one window long."""
    length, size, least = stream.length, config.samples, round(SHORT_SILENCE * config.rate)
    first, stop = (0, length) if config.silence == "keep" else stream.sounding
    if stop == 0 or first < least:
        first = 0
    if stop == 0 or length - stop < least:
        stop = length
    first = max(0, min(first, length - size))
    return first, max(stop, first + size)


def _refuse_shorter(found: int, counted: int) -> None:
    if found < counted:
        raise FormatError("the file became shorter while it was read")


def mono(samples: npt.ArrayLike) -> Samples:
    """Return a clip as contiguous float32.

    Raises
    ------
    ValueError
        If `samples` is empty, not one-dimensional, or holds NaN or infinity.
    """
    clip = np.ascontiguousarray(samples, np.float32)
    if np.ndim(samples) != 1:  # ascontiguousarray makes one axis of a scalar
        raise BadSound(f"samples: expected shape (T,), got {np.shape(samples)}")
    if len(clip) == 0:
        raise BadSound("samples: expected at least one, got none")
    refuse_non_finite(clip, "samples")
    return clip


def prepared(stream: Stream, config: AudioConfig) -> Iterator[Samples]:
    """Yield the blocks of a stream, rounded to 16 bits where ``config.quantize``.

    Raises
    ------
    ValueError
        If a sample is NaN or infinite.
    """
    for block in stream.blocks():
        refuse_non_finite(block, "samples")  # resampling may overflow
        if config.quantize:
            block = np.trunc(np.clip(block, -1, 1) * np.float32(32767)) / np.float32(32767)
        yield block.astype(np.float32, copy=False)


def pad(clip: Samples, config: AudioConfig) -> Samples:
    """Pad a clip to the window by ``config.padding``."""
    if len(clip) >= config.samples:
        return clip
    if config.padding == "repeat":
        return np.resize(clip, config.samples)
    if config.padding == "pad":
        return np.pad(clip, (0, config.samples - len(clip)))
    padded: Samples = core.repeat_pad(clip, config.samples)
    return padded
