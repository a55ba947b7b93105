"""Sound files and arrays to samples at a wanted rate."""

import dataclasses
import operator
import os
from pathlib import Path
from typing import IO, Any, TypeAlias, TypeGuard, cast

import numpy as np
import numpy.typing as npt

from reclap._libraries import core, sndfile
from reclap.errors import FormatError
from reclap.resample import resample

__all__ = ["CHANNELS", "Clip", "load", "read", "refuse_non_finite"]

Samples: TypeAlias = npt.NDArray[np.float32]
Source: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes]

CHANNELS = ("mean", "concatenate", "keep")


@dataclasses.dataclass(frozen=True)
class Clip:
    """Decoded audio: `samples` (T, channels) float32, nominally in [-1, 1]; `rate` in Hz."""

    samples: Samples
    rate: int


def read(source: Source) -> Clip:
    """Decode a sound file: WAV, FLAC, OGG, MP3, AIFF and what else libsndfile knows.

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
        As the operating system reports them.
    FormatError
        If the content is empty, no sound file, or holds no frame.
    ValueError
        If a sample is NaN or infinite.
    """
    name, data = _content(source)
    try:
        samples, rate = sndfile().decode(data)
    except FormatError as error:
        raise FormatError(f"{name}: {error}") from None
    refuse_non_finite(samples, name)
    return Clip(samples, rate)


def _content(source: Source) -> tuple[str, bytes | bytearray | memoryview]:
    """Return a name for messages, and the bytes."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source), Path(source).read_bytes()
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"<{len(source)} bytes>", source
    if callable(getattr(source, "read", None)):
        name = str(getattr(source, "name", "<file object>"))
        data = source.read()
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"{name}: expected a file opened in binary mode, read() gave a str")
        return name, data
    raise TypeError(
        f"audio source: expected a path, bytes or a file object, got {type(source).__name__}"
    )


def refuse_non_finite(samples: Samples, name: str) -> None:
    """Raise ValueError that names the first frame with NaN or infinity."""
    if not core.all_finite(samples):
        bad = int(np.argmin(np.isfinite(samples.reshape(len(samples), -1)).all(axis=1)))
        raise ValueError(f"{name}: NaN or infinite samples, the first at frame {bad}")


def load(
    source: Source | npt.ArrayLike,
    rate: int = 48000,
    channels: str = "mean",
    source_rate: int | None = None,
    *,
    resampler: str = "soxr",
) -> Samples:
    """Load a clip from a file or an array at a given rate.

    Parameters
    ----------
    source : path, bytes-like, binary file object, or array of shape (T,) or (T, channels)
        Floating-point arrays hold amplitudes, nominally in [-1, 1]; integers of 8, 16 and 32
        bits are scaled from their full range (unsigned 8 bits around 128, as in WAV files).
    rate : int
        Wanted rate in Hz.
    channels : {"mean", "concatenate", "keep"}
        Average them, put one after the other in time (as MS-CLAP does), or keep them.
    source_rate : int, optional
        Rate in Hz of an array; required there, and refused for files, which say it themselves.
    resampler : {"soxr", "sinc"}
        See `reclap.resample.resample`.

    Returns
    -------
    ndarray of float32, shape (T',) or, if channels are kept, (T', channels)
        May share memory with an array that needs no change.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError
        As the operating system reports them.
    FormatError
        If a file's content cannot be decoded.
    TypeError
        If an array's type is complex, boolean, text, or an integer of 64 bits.
    ValueError
        If the source is empty, has the wrong number of axes or channels first, or holds NaN or
        infinity, or if a rate is missing or not positive.

    Examples
    --------
    >>> load(np.zeros((44100, 2), np.int16), source_rate=44100).shape
    (48000,)
    """
    if channels not in CHANNELS:
        raise ValueError(f"channels is {channels!r}, expected one of {', '.join(CHANNELS)}")
    rate = _check_rate("rate", rate)
    if _is_file(source):
        if source_rate is not None:
            raise ValueError("source_rate: a file says its rate itself; pass it with arrays only")
        clip = read(source)
    else:
        clip = _from_array(cast("npt.ArrayLike", source), source_rate)
    samples, own_rate = clip.samples, clip.rate
    del clip  # an hour in stereo is more than a gigabyte
    if channels != "keep" and samples.shape[1] == 1:
        samples = samples[:, 0]
    elif channels == "mean":
        samples = core.downmix(samples)
    out = resample(samples, own_rate, rate, resampler)
    return out.T.reshape(-1) if channels == "concatenate" else out


def _is_file(source: object) -> TypeGuard[Source]:
    """Tell files and their content from arrays."""
    named = (str, os.PathLike, bytes, bytearray, memoryview)
    return isinstance(source, named) or hasattr(source, "read")


def _check_rate(name: str, rate: Any) -> int:
    whole = int(rate) if isinstance(rate, float) and rate.is_integer() else rate
    try:
        whole = operator.index(whole)
    except TypeError:
        raise TypeError(f"{name}: expected a whole number of Hz, got {rate!r}") from None
    if whole < 1:
        raise ValueError(f"{name}: expected a positive number of Hz, got {whole}")
    return whole


def _from_array(source: npt.ArrayLike, rate: int | None) -> Clip:
    array = np.asarray(source)
    if array.ndim not in (1, 2):
        raise ValueError(f"audio array: expected shape (T,) or (T, channels), got {array.shape}")
    if array.size == 0:
        raise ValueError(f"audio array: no samples, shape is {array.shape}")
    if array.ndim == 2 and array.shape[1] > max(64, array.shape[0]):
        raise ValueError(
            f"audio array: shape {array.shape} means {array.shape[1]} channels; "
            "channels come last, pass its transpose"
        )
    if rate is None:
        raise ValueError("audio array: its rate in Hz is needed")
    samples = _as_float(array)
    refuse_non_finite(samples, "audio array")
    return Clip(samples.reshape(len(samples), -1), _check_rate("audio array's rate", rate))


def _as_float(array: npt.NDArray[Any]) -> Samples:
    """Convert to contiguous float32, integers from their full range to [-1, 1)."""
    kind, bits = array.dtype.kind, 8 * array.dtype.itemsize
    if kind == "f":
        with np.errstate(over="ignore"):  # becomes infinite and is refused as such
            return np.ascontiguousarray(array, np.float32)
    if kind == "i" and bits <= 32:
        return np.ascontiguousarray(array * np.float32(2.0 ** (1 - bits)), np.float32)
    if kind == "u" and bits == 8:
        return np.ascontiguousarray(array * np.float32(2.0**-7) - np.float32(1), np.float32)
    raise TypeError(
        f"audio array: expected floating point, int8, int16, int32 or uint8, got {array.dtype}"
    )
