"""Sound files and arrays to samples at a wanted rate."""

import contextlib
import dataclasses
import operator
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias, TypeGuard, cast, get_args

import numpy as np
import numpy.typing as npt

from reclap._libraries import core, sndfile
from reclap.errors import FormatError
from reclap.resample import Kind, resample

if TYPE_CHECKING:
    from reclap._core import Reader

__all__ = [
    "CHANNELS",
    "Channels",
    "Clip",
    "Samples",
    "SoundFile",
    "Source",
    "convert",
    "is_file",
    "load",
    "read",
    "refuse_non_finite",
]

Samples: TypeAlias = npt.NDArray[np.float32]
Source: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes]

Channels: TypeAlias = Literal["mean", "concatenate", "keep"]
CHANNELS: tuple[Channels, ...] = get_args(Channels)


@dataclasses.dataclass(frozen=True)
class Clip:
    """Decoded audio: `samples` (T, channels) float32, nominally in [-1, 1]; `rate` in Hz."""

    samples: Samples
    rate: int


class SoundFile:
    """The content of a sound file, decoded as often as one likes.

    Parameters
    ----------
    source : path, bytes-like or binary file object
        A regular file stays on disk and is read piece by piece; of a pipe or a file object the
        whole content is taken at once.

    Attributes
    ----------
    name : str
        What messages call it.

    Raises
    ------
    OSError
        If it cannot be opened.
    TypeError
        If it is none of these.
    """

    def __init__(self, source: Source) -> None:
        self._path: Path | None = None
        if isinstance(source, (str, os.PathLike)):
            self.name = os.fspath(source)
            with Path(source).open("rb") as file:
                if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    self._path = Path(source)
                else:
                    self._data: bytes | bytearray | memoryview = file.read()
        else:
            self.name, self._data = _content(source)

    def open(self) -> "Reader":
        """Return what decodes the file from its beginning; FormatError if it is no sound file."""
        with self._named():
            if self._path is None:
                return sndfile().open(self._data)
            with self._path.open("rb") as file:
                return sndfile().open_file(file.fileno(), os.fstat(file.fileno()).st_size)

    def read(self, reader: "Reader", frames: int = -1, at: int = 0) -> Samples:
        """Decode the next frames, or all that are left, as (frames, channels).

        Parameters
        ----------
        reader : Reader
            As `open` returns it.
        frames : int
            How many; at the end of the file there are fewer, and then none.
        at : int
            How many were read before, for messages.

        Raises
        ------
        FormatError
            If the file holds no frame, or more than fit into one array.
        ValueError
            If a sample is NaN or infinite.
        """
        with self._named():
            samples = reader.read(frames)
        refuse_non_finite(samples, self.name, at)
        return samples

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except FormatError as error:
            raise FormatError(f"{self.name}: {error}") from None


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
        If the content is empty, no sound file, or holds no frame, or more than 2^30 samples.
    ValueError
        If a sample is NaN or infinite.
    """
    file = SoundFile(source)
    reader = file.open()
    return Clip(file.read(reader), reader.rate)


def _content(
    source: bytes | bytearray | memoryview | IO[bytes],
) -> tuple[str, bytes | bytearray | memoryview]:
    """Return a name for messages, and the bytes."""
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


def refuse_non_finite(samples: Samples, name: str, at: int = 0) -> None:
    """Raise ValueError that names the first frame with NaN or infinity, counted from `at`."""
    if not core.all_finite(samples):
        bad = at + int(np.argmin(np.isfinite(samples.reshape(len(samples), -1)).all(axis=1)))
        raise ValueError(f"{name}: NaN or infinite samples, the first at frame {bad}")


def load(
    source: Source | npt.ArrayLike,
    target_rate: int = 48000,
    *,
    rate: int | None = None,
    channels: Channels = "mean",
    resampler: Kind = "soxr",
) -> Samples:
    """Load a clip from a file or an array at a given rate.

    Parameters
    ----------
    source : path, bytes-like, binary file object, or array of shape (T,) or (T, channels)
        Floating-point arrays hold amplitudes, nominally in [-1, 1]; integers of 8, 16 and 32
        bits are scaled from their full range (unsigned 8 bits around 128, as in WAV files).
    target_rate : int
        Wanted rate in Hz.
    rate : int, optional
        Rate in Hz of an array; required there, and refused for files, which say it themselves.
    channels : {"mean", "concatenate", "keep"}
        Average them, put one after the other in time (as MS-CLAP does), or keep them.
    resampler : {"soxr", "sinc", "librosa"}
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
    >>> load(np.zeros((44100, 2), np.int16), rate=44100).shape
    (48000,)
    """
    if channels not in CHANNELS:
        raise ValueError(f"channels is {channels!r}, expected one of {', '.join(CHANNELS)}")
    target_rate = _check_rate("target_rate", target_rate)
    if is_file(source):
        if rate is not None:
            raise ValueError("rate: a file says its rate itself; pass it with arrays only")
        return convert(read(source), target_rate, channels, resampler)
    array = cast("npt.ArrayLike", source)
    return convert(_from_array(array, rate), target_rate, channels, resampler)


def convert(clip: Clip, rate: int, channels: Channels, resampler: Kind) -> Samples:
    """Mix the channels of a clip and change its rate; see `load`."""
    samples, own_rate = clip.samples, clip.rate
    del clip  # an hour in stereo is more than a gigabyte
    if channels != "keep" and samples.shape[1] == 1:
        samples = samples[:, 0]
    elif channels == "mean":
        samples = core.downmix(samples)
    out = resample(samples, own_rate, rate, resampler)
    return out.T.reshape(-1) if channels == "concatenate" else out


def is_file(source: object) -> TypeGuard[Source]:
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
