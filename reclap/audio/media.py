"""Decoding with PyAV of containers that libsndfile does not read (M4A, AAC, WebM, WMA)."""

import io
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from reclap._types import Samples
from reclap.errors import FormatError

__all__ = ["MediaReader"]


_RATES = range(1000, (4 << 20) + 1)  # Hz, as of all files
_LARGEST = 1 << 30  # samples in one array, as of all files


class MediaReader:
    """A decoder with the methods of the core's ``Reader``; needs the extra ``media``.

    Parameters
    ----------
    source : Path or bytes-like
        The file, or its content.
    kind : str
        Kind of the file, for messages.

    Raises
    ------
    FormatError
        If PyAV is not installed, or finds no sound in it.
    """

    def __init__(self, source: Path | bytes | bytearray | memoryview, kind: str) -> None:
        try:
            import av  # here, because few need it
        except ImportError:
            raise FormatError(
                f"{kind}, which libsndfile does not read; install the extra media (pip install "
                "av), or convert it to FLAC"
            ) from None
        self._av: Any = av
        self._kind = kind
        # A file object, never a name: FFmpeg would take some names for addresses.
        file = source.open("rb") if isinstance(source, Path) else io.BytesIO(source)
        weakref.finalize(self, file.close)
        try:
            self._container: Any = av.open(file)
        except (av.FFmpegError, ValueError) as error:
            raise FormatError(f"{kind}, but no sound file: {error}") from None
        stream = next(iter(self._container.streams.audio), None)
        if stream is None or stream.codec_context is None:
            raise FormatError(f"{kind} without a sound that can be decoded")
        self.rate = int(stream.codec_context.sample_rate or 0)
        self.channels = int(stream.codec_context.channels or 0)
        if self.rate not in _RATES or not 1 <= self.channels <= 1024:
            raise FormatError(f"header says {self.rate} Hz and {self.channels} channels")
        layout = stream.codec_context.layout
        self._resampler = av.AudioResampler(format="fltp", layout=layout, rate=self.rate)
        self._blocks = self._decoded(stream)
        self._held = np.empty((0, self.channels), np.float32)
        self._given = 0

    def _decoded(self, stream: Any) -> Any:
        """Yield blocks (frames, channels); a damaged file ends where nothing more decodes."""
        try:
            for frame in self._container.decode(stream):
                yield from self._converted(frame)
        except (self._av.FFmpegError, ValueError):  # PyAV's own checks
            pass
        yield from self._converted(None)

    def _converted(self, frame: Any) -> Any:
        for converted in self._resampler.resample(frame):
            yield converted.to_ndarray().T

    def read(self, frames: int = -1, /) -> Samples:
        """Decode the next frames, or all that are left, as (frames, channels).

        Raises
        ------
        FormatError
            If the file holds no frame, or more than fit into one array.
        """
        parts, have = [self._held], len(self._held)
        while frames < 0 or have < frames:
            block = next(self._blocks, None)
            if block is None:
                break
            parts.append(block)
            have += len(block)
            if have * self.channels > _LARGEST:
                raise FormatError(f"the file holds more than {_LARGEST} samples; split it")
        joined = np.concatenate(parts)
        out = joined if frames < 0 else joined[:frames]
        self._held = joined[len(out) :]
        self._given += len(out)
        if self._given == 0:
            raise FormatError(f"{self._kind}: no audio frame could be decoded")
        return np.ascontiguousarray(out, np.float32)
