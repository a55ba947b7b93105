"""Decoding of sound files and conversion of arrays to samples at a given rate."""

import dataclasses
import math
import operator
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from reclap._types import Samples
from reclap.audio.arrays import amplitudes
from reclap.audio.levels import Levels
from reclap.audio.resample import LEAST_RATE, MOST_RATE, Kind, resample
from reclap.audio.sound_file import Decoder, SoundFile, Source, is_file
from reclap.errors import BadSound, BadSoundType, shown_name
from reclap.runtime.libraries import core

__all__ = [
    "CHANNELS",
    "Channels",
    "Clip",
    "Decoder",
    "Samples",
    "SoundFile",
    "Source",
    "check_rate",
    "clip_of",
    "convert",
    "is_file",
    "load",
    "own_rate",
    "read",
]

Channels: TypeAlias = Literal["mean", "concatenate", "keep"]
CHANNELS: tuple[Channels, ...] = get_args(Channels)
ARRAY = "audio array"  # name of an array in messages


@dataclasses.dataclass(frozen=True)
class Clip:
    """Decoded audio.

    Parameters
    ----------
    samples : ndarray of float32, shape (T, channels)
        Amplitudes, nominally in [-1, 1].
    rate : int
        Sample rate in Hz.

    Examples
    --------
    >>> Clip(np.zeros((48000, 2), np.float32), 48000).samples.shape
    (48000, 2)
    """

    samples: Samples
    rate: int


def read(source: Source) -> Clip:
    """Decode a sound file: WAV, FLAC, OGG, MP3, AIFF and the other formats of libsndfile.

    With the extra ``media`` also M4A, AAC, WebM and WMA.

    Parameters
    ----------
    source : path, bytes-like or binary file object
        The file, or its whole content.

    Returns
    -------
    Clip
        All channels at the file's own rate. A damaged file gives what can be decoded.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError
        If the file cannot be opened.
    FormatError
        If the content is empty, no sound file, or holds no frame, or more than 2^30 samples.
    ValueError
        If a sample is NaN or infinite.

    Examples
    --------
    >>> import io, wave
    >>> file = io.BytesIO()
    >>> with wave.open(file, "wb") as out:
    ...     out.setparams((1, 2, 16000, 4, "NONE", ""))
    ...     out.writeframes(bytes(8))
    >>> clip = read(file.getvalue())
    >>> clip.rate, clip.samples.shape
    (16000, (4, 1))
    """
    file = SoundFile(source)
    reader = file.open()
    clip = Clip(file.read(reader), reader.rate)
    file.report(len(clip.samples))
    return clip


def load(
    source: Source | npt.ArrayLike,
    target_rate: int = 48000,
    *,
    rate: int | None = None,
    channels: Channels = "mean",
    resampler: Kind = "soxr",
    channels_first: bool = False,
) -> Samples:
    """Load a clip from a file or an array at a given rate.

    Parameters
    ----------
    source : path, bytes-like, binary file object, or array of shape (T,) or (T, channels)
        Floating-point arrays hold amplitudes, nominally in [-1, 1]; integers of 8, 16 and 32
        bits are scaled from their full range (unsigned 8 bits around 128, as in WAV files).
    target_rate : int
        Sample rate of the result in Hz, 1000 to 4194304.
    rate : int, optional
        Sample rate of an array in Hz, 1000 to 4194304; required for arrays, and refused for files,
        which have their own.
    channels : {"mean", "concatenate", "keep"}
        Average them, put one after the other in time (as MS-CLAP does), or keep them.
    resampler : {"soxr", "sinc", "librosa"}
        See `reclap.audio.resample.resample`.
    channels_first : bool
        Whether an array of two axes is (channels, T), as in torchaudio and transformers.

    Returns
    -------
    ndarray of float32, shape (T',) or, if channels are kept, (T', channels)
        May share memory with an array that needs no change.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError
        If the file cannot be opened.
    FormatError
        If a file's content cannot be decoded.
    TypeError
        If an array's type is complex, boolean, text, or an integer of 64 bits.
    ValueError
        If the source is empty, has the wrong number of axes or channels first, or holds NaN,
        infinity or a sample beyond 1e10; if a rate is missing or not 1000 to 4194304 Hz; or if
        resampling would give more than 2^31 - 1 samples.

    Notes
    -----
    Warnings are logged for a truncated file, with what is missing; channels that cancel in
    their mean; amplitudes beyond 8.

    Examples
    --------
    >>> load(np.zeros((44100, 2), np.int16), rate=44100).shape
    (48000,)
    """
    if channels not in CHANNELS:
        raise ValueError(f"channels is {channels!r}, expected one of {', '.join(CHANNELS)}")
    target_rate = check_rate("target_rate", target_rate)
    if is_file(source):
        if rate is not None:
            raise ValueError("rate: a file says its rate itself; pass it with arrays only")
        file = SoundFile(source)
        reader = file.open()
        clip = Clip(file.read(reader), reader.rate)
        file.report(len(clip.samples))
        return convert(clip, target_rate, channels, resampler, file.name)
    clip = clip_of(source, rate, channels_first=channels_first)
    return convert(clip, target_rate, channels, resampler, ARRAY)


def clip_of(source: Any, rate: int | None, *, channels_first: bool = False) -> Clip:
    """Return an array as a clip; see `load`."""
    samples = amplitudes(source, channels_first=channels_first)
    if rate is None:
        raise ValueError(f"{ARRAY}: its rate in Hz is needed")
    return Clip(samples, check_rate(f"{ARRAY}'s rate", rate))


def convert(
    clip: Clip, rate: int, channels: Channels, resampler: Kind, name: str | None
) -> Samples:
    """Mix the channels of a clip and resample it; see `load`; `name` is for warnings, or None."""
    samples, clip_rate, levels = clip.samples, clip.rate, Levels()
    del clip  # an hour in stereo is more than a gigabyte
    mixed = None
    if channels != "keep" and samples.shape[1] == 1:
        mixed = samples[:, 0]
    elif channels == "mean":
        mixed = core.downmix(samples)
    levels.add(samples, mixed if channels == "mean" else None)
    if name is not None:
        levels.report(name)
    if mixed is not None:
        samples = mixed
    out = resample(samples, clip_rate, rate, resampler)
    return out.T.reshape(-1) if channels == "concatenate" else out


def check_rate(name: str, rate: Any) -> int:
    """Return a sample rate in Hz as an int; TypeError or ValueError if it is not one."""
    if isinstance(rate, float | np.floating) and math.isfinite(rate) and rate == int(rate):
        rate = int(rate)
    wrong = TypeError(f"{name}: expected a whole number of Hz, got {_shown(rate)}")
    if isinstance(rate, bool):
        raise wrong
    try:
        whole: int = operator.index(rate)
    except TypeError:
        raise wrong from None
    if not LEAST_RATE <= whole <= MOST_RATE:
        raise ValueError(f"{name}: expected {LEAST_RATE} to {MOST_RATE} Hz, got {_shown(whole)}")
    return whole


def _shown(rate: Any) -> str:
    is_large = isinstance(rate, int) and abs(rate) >= 1 << 64
    return "an integer too large to show" if is_large else shown_name(repr(rate))


def own_rate(rate: Any) -> int:
    """Return the own sample rate of a sound; BadSound if it is none, or out of range."""
    try:
        return check_rate("its rate", rate)
    except TypeError as error:
        raise BadSoundType(str(error)) from None
    except ValueError as error:
        raise BadSound(str(error)) from None
