"""Settings of a model's audio front end, and loading of sounds by them."""

import dataclasses
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from reclap._types import Samples
from reclap.audio.resample import LEAST_RATE, MOST_RATE
from reclap.audio.resample import Kind as ResamplerKind
from reclap.audio.sound_file import Source
from reclap.audio.streams import Stream, open_stream
from reclap.io.settings import Settings, from_mapping

__all__ = ["AudioConfig", "load_front", "open_front"]

Rate: TypeAlias = Annotated[int, msgspec.Meta(ge=LEAST_RATE, le=MOST_RATE)]
BankRate: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=2**24)]
Padding: TypeAlias = Literal["repeatpad", "repeat", "pad"]
Hertz: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


@dataclasses.dataclass(frozen=True)
class AudioConfig(Settings):
    """Settings of a model's audio front end; the defaults are LAION-CLAP's without fusion.

    Parameters
    ----------
    rate : int
        Sample rate in Hz that the model was trained on.
    samples : int
        Length of one window in samples.
    n_fft : int
        Length of the Hann window and of its transform, a power of two in 32..65536.
    hop : int
        Samples between frames.
    mels : int
        Number of mel bands.
    fmin : float
        Lower end of the bands in Hz.
    fmax : float
        Upper end of the bands in Hz.
    mel_scale : {"slaney", "htk"}
        Frequency axis on which the bands are evenly spaced.
    mel_norm : {"slaney", "none"}
        Triangles of unit area, or of unit height.
    bank_rate : int, optional
        Sample rate in Hz that the filter bank is designed for, where it is not `rate`. MS-CLAP 2023
        applies a bank for 32 kHz to audio at 44.1 kHz (``msclap/models/config.py`` of
        microsoft/CLAP).
    padding : {"repeatpad", "repeat", "pad"}
        How a short clip fills the window: whole copies, then zeros; copies, the last one cut;
        zeros.
    quantize : bool
        Clamp to [-1, 1] and round towards zero to 16 bits, as LAION-CLAP does in training and
        inference (``training/data.py``).
    window_hop : float
        Step between the windows of a long clip as a fraction of the window, in [0.001, 1].
    silence : {"skip", "keep"}
        Whether the windows of a long clip leave out the silence before and after it (below -80 dB,
        at least 5 ms), where channels are averaged. Kept, it moves all windows.
    level_db : float, optional
        Shift the log-mel of every window to this level in dB: the mean power of its frames, each
        weighted by its own power, so that silence around a sound does not count. For models that
        were trained to ignore loudness; see `reclap.audio.features.set_level`.
    truncation : {"windows", "fusion"}
        Handling of a clip longer than the window: windows that are embedded one by one, or a
        single input of four log-mels for a model with feature fusion; see
        `reclap.audio.fusion.fused_features`. Models with fusion go with ``mel_scale="htk"`` and
        ``mel_norm="none"``.
    fusion_resize : {"bilinear", "antialias"}
        How fusion shrinks the log-mel of a long clip to the frames of a window: two neighbours
        mixed, as transformers and, before torchvision 0.17, LAION-CLAP; or by triangles that see
        every frame, as LAION-CLAP since.
    channels : {"mean", "concatenate"}
        Handling of several channels: their mean, or one after the other in time, as in
        MS-CLAP (``msclap/CLAPWrapper.py``).
    resampler : {"soxr", "sinc", "librosa"}
        See `reclap.audio.resample.resample`.

    Raises
    ------
    ValueError, TypeError
        If a value is out of range or of the wrong type.

    Examples
    --------
    >>> AudioConfig().frames
    1001
    >>> config = AudioConfig.from_json({"rate": 44100, "samples": 308700, "hop": 320})
    >>> config.window_seconds
    7.0
    >>> config.to_json()["rate"]
    44100
    """

    rate: Rate = 48000
    samples: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] = 480000
    n_fft: Annotated[int, msgspec.Meta(ge=32, le=65536)] = 1024
    hop: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 480
    mels: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 64
    fmin: Hertz = 50.0
    fmax: Hertz = 14000.0
    mel_scale: Literal["slaney", "htk"] = "slaney"
    mel_norm: Literal["slaney", "none"] = "slaney"
    bank_rate: BankRate | None = None
    padding: Padding = "repeatpad"
    quantize: bool = False
    window_hop: Annotated[float, msgspec.Meta(ge=0.001, le=1)] = 1.0
    silence: Literal["skip", "keep"] = "skip"
    level_db: Annotated[float, msgspec.Meta(ge=-100, le=100)] | None = None
    truncation: Literal["windows", "fusion"] = "windows"
    fusion_resize: Literal["bilinear", "antialias"] = "bilinear"
    channels: Literal["mean", "concatenate"] = "mean"
    resampler: ResamplerKind = "soxr"

    def __post_init__(self) -> None:
        """Check."""
        super().__post_init__()
        if self.n_fft & (self.n_fft - 1):
            raise ValueError(f"n_fft is {self.n_fft}, expected a power of two")
        if self.fmin >= self.fmax:
            raise ValueError(f"fmin is {self.fmin}, expected below fmax, {self.fmax}")

    @property
    def window_seconds(self) -> float:
        """Length of one window in seconds."""
        return self.samples / self.rate

    @property
    def frames(self) -> int:
        """Number of frames in the log-mel of one window."""
        return self.samples // self.hop + 1

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a dictionary that `from_json` takes.

        Returns
        -------
        dict
            Field names to values.
        """
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Any, where: str = "audio") -> "AudioConfig":
        """Build a configuration from a dictionary; absent fields keep their default.

        Parameters
        ----------
        data : mapping
            Field names to values, as `to_json` writes them.
        where : str
            Name of this mapping in messages.

        Returns
        -------
        AudioConfig
            The configuration.

        Raises
        ------
        FormatError
            If a key is unknown, or a value has the wrong type or is out of range.
        """
        return from_mapping(cls, data, where)


def open_front(
    source: Source | npt.ArrayLike,
    front: AudioConfig,
    *,
    rate: int | None = None,
    channels_first: bool = False,
    speed: float = 1.0,
    name: str | None = None,
) -> Stream:
    """Open a sound as a front end takes it: its rate, its channels, its resampler.

    Inference, training and evaluation all load sounds here, so that a model is trained on the
    same log-mels that it gets later.

    Parameters
    ----------
    source : path, bytes-like, binary file object, or array of shape (T,) or (T, channels)
        The sound.
    front : AudioConfig
        The front end.
    rate : int, optional
        Sample rate in Hz of an array.
    channels_first : bool
        Whether an array of two axes is (channels, T).
    speed : float
        Factor by which the sound plays faster and higher.
    name : str, optional
        Name in warnings of an array; put before that of bytes and file objects.

    Returns
    -------
    Stream
        Mono samples at ``front.rate``, not yet quantised or padded.

    Raises
    ------
    OSError, FormatError, TypeError, ValueError
        As `load`; errors further on in a long file are raised by its blocks.

    Examples
    --------
    >>> stream = open_front(np.zeros(44100), AudioConfig(rate=16000), rate=44100)
    >>> stream.length
    16000
    >>> [block.shape for block in stream.blocks()]
    [(16000,)]
    """
    target = max(1, round(front.rate / speed))
    return open_stream(
        source,
        target,
        rate=rate,
        channels=front.channels,
        resampler=front.resampler,
        channels_first=channels_first,
        name=name,
    )


def load_front(
    source: Source | npt.ArrayLike,
    front: AudioConfig,
    *,
    rate: int | None = None,
    speed: float = 1.0,
) -> Samples:
    """Load a sound as a front end takes it, whole; see `open_front`.

    Parameters
    ----------
    source : path, bytes-like, binary file object, or array of shape (T,) or (T, channels)
        The sound.
    front : AudioConfig
        The front end.
    rate : int, optional
        Sample rate in Hz of an array.
    speed : float
        Factor by which the sound plays faster and higher.

    Returns
    -------
    ndarray of float32, shape (T,)
        Mono samples at ``front.rate``, not yet quantised or padded.

    Raises
    ------
    OSError, FormatError, TypeError, ValueError
        As `load`.

    Examples
    --------
    >>> load_front(np.zeros(44100), AudioConfig(rate=16000), rate=44100, speed=2.0).shape
    (8000,)
    """
    blocks = list(open_front(source, front, rate=rate, speed=speed).blocks())
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
