"""Sound files and arrays to what an audio encoder takes: clips, windows, log-mel pictures."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from reclap.arrays import refuse_non_finite
from reclap.clips import Clip, Samples, Source, load, read
from reclap.errors import BadSound, FormatError
from reclap.resample import Kind as ResamplerKind
from reclap.runtime.libraries import core
from reclap.settings import Settings, from_mapping
from reclap.streams import Stream, Whole, cut, open_stream

if TYPE_CHECKING:
    from reclap._core import Mel

__all__ = [
    "AudioConfig",
    "Clip",
    "load",
    "load_front",
    "log_mel",
    "open_front",
    "read",
    "window_features",
    "windows",
]

Rate: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=2**24)]
SHORT_SILENCE = 0.005  # seconds that are part of the sound, as between two swings of it

Padding: TypeAlias = Literal["repeatpad", "repeat", "pad"]
Hertz: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


@dataclasses.dataclass(frozen=True)
class AudioConfig(Settings):
    """The audio front end of a model; the defaults are those of LAION-CLAP without fusion.

    Parameters
    ----------
    rate : int
        Samples per second (Hz) that the model was trained on.
    samples : int
        Length of one window in samples.
    n_fft : int
        Length of the Hann window and of its transform, a power of two in 32..65536.
    hop : int
        Samples between frames.
    mels : int
        Mel bands.
    fmin, fmax : float
        Range of the bands in Hz.
    mel_scale : {"slaney", "htk"}
        Frequency axis on which the bands are evenly spaced.
    mel_norm : {"slaney", "none"}
        Triangles of unit area, or of unit height.
    bank_rate : int, optional
        The rate in Hz that the filter bank is laid out for, where it is not `rate`. MS-CLAP 2023
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
        Shift the log-mel picture of every window to this level in dB: the mean power of its
        frames, each weighted by its own power, so that silence around a sound does not count.
        For models that were trained to ignore loudness; see `set_level`.
    truncation : {"windows", "fusion"}
        What becomes of a clip longer than the window: windows that are embedded one by one, or a
        single input of four pictures for a model with feature fusion; see
        `reclap.fusion.fused_features`. Models with fusion go with ``mel_scale="htk"`` and
        ``mel_norm="none"``.
    fusion_resize : {"bilinear", "antialias"}
        How fusion shrinks a long clip to one picture: two neighbours mixed, as transformers and,
        before torchvision 0.17, LAION-CLAP; or by triangles that see every frame, as LAION-CLAP
        since.
    channels : {"mean", "concatenate"}
        What becomes of several channels: their mean, or one after the other in time, as in
        MS-CLAP (``msclap/CLAPWrapper.py``).
    resampler : {"soxr", "sinc", "librosa"}
        See `reclap.resample.resample`.

    Examples
    --------
    >>> AudioConfig().frames
    1001
    >>> AudioConfig.from_json({"rate": 44100, "samples": 308700, "hop": 320}).window_seconds
    7.0
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
    bank_rate: Rate | None = None
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
        """Frames of the log-mel picture of one window."""
        return self.samples // self.hop + 1

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a dictionary that `from_json` takes."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Any, where: str = "audio") -> "AudioConfig":
        """Build a configuration from a dictionary; absent fields keep their default.

        Parameters
        ----------
        data : mapping
            Field names to values, as `to_json` writes them.
        where : str
            How messages call this mapping.

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
    place: str | None = None,
) -> Stream:
    """Open a sound as a front end takes it: its rate, its channels, its resampler.

    Inference, training and evaluation all load sounds here, so a model is trained on what it hears
    later.

    Parameters
    ----------
    source : path, bytes-like, binary file object, or array of shape (T,) or (T, channels)
        The sound.
    front : AudioConfig
        The front end.
    rate : int, optional
        Rate in Hz of an array.
    channels_first : bool
        An array of two axes is (channels, T).
    speed : float
        The sound plays faster and higher by this factor.
    place : str, optional
        What warnings call what has no name.

    Returns
    -------
    Stream
        Mono samples at ``front.rate``, not yet quantised or padded.

    Raises
    ------
    OSError, FormatError, TypeError, ValueError
        As `load`; of a long file, what is wrong further on is raised by its blocks.
    """
    target = max(1, round(front.rate / speed))
    return open_stream(
        source,
        target,
        rate=rate,
        channels=front.channels,
        resampler=front.resampler,
        channels_first=channels_first,
        place=place,
    )


def load_front(
    source: Source | npt.ArrayLike,
    front: AudioConfig,
    *,
    rate: int | None = None,
    speed: float = 1.0,
) -> Samples:
    """Load a sound as a front end takes it: the samples of `open_front`, shape (T,).

    Examples
    --------
    >>> load_front(np.zeros(44100), AudioConfig(rate=16000), rate=44100, speed=2.0).shape
    (8000,)
    """
    blocks = list(open_front(source, front, rate=rate, speed=speed).blocks())
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


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
    implementations crop one window at random.) With ``silence="skip"`` the clip is what lies
    between the silence at its ends, but W samples at least.

    Examples
    --------
    >>> windows(np.zeros(480001, np.float32)).shape
    (2, 480000)
    """
    return np.stack(list(each_window(Whole(mono(samples)), config or AudioConfig())))


def each_window(stream: Stream, config: AudioConfig) -> Iterator[Samples]:
    """Yield the windows of `windows` one by one, rounded where ``config.quantize`` says so.

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
    """Return where the windows of a clip longer than one begin; see `windows`."""
    size = config.samples
    first, stop = _covered(stream, config)
    more = stop - first - size
    count = -(-more // max(1, round(size * config.window_hop))) + 1
    return [first + (round(i * more / (count - 1)) if i else 0) for i in range(count)]


def _covered(stream: Stream, config: AudioConfig) -> tuple[int, int]:
    """Return the part of a long clip that windows cover, a window at least."""
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
    """Fill the window as ``config.padding`` says; a clip that does so already is returned as is."""
    if len(clip) >= config.samples:
        return clip
    if config.padding == "repeat":
        return np.resize(clip, config.samples)
    if config.padding == "pad":
        return np.pad(clip, (0, config.samples - len(clip)))
    padded: Samples = core.repeat_pad(clip, config.samples)
    return padded


def log_mel(samples: npt.ArrayLike, config: AudioConfig | None = None) -> Samples:
    """Compute the log-mel spectrogram of one mono clip.

    Parameters
    ----------
    samples : array_like, shape (T,)
        Amplitudes at ``config.rate``, nominally in [-1, 1]; converted to float32.
    config : AudioConfig, optional
        Window, hop, mel bands and their range in Hz; neither padded nor cropped to its window.

    Returns
    -------
    ndarray of float32, shape (T // hop + 1, mels)
        Decibels, ``10 log10(max(power, 1e-10))``.

    Raises
    ------
    ValueError
        If `samples` is empty, not one-dimensional, or holds NaN or infinity.

    Notes
    -----
    Periodic Hann window, frames centred on multiples of the hop, edges reflected. Two banks are
    in use upstream, 22 dB apart: Slaney's scale with unit area (``clap_module/htsat.py`` of
    LAION-AI/CLAP, which models without fusion use) and HTK's with unit height
    (``training/data.py``, models with fusion). Agrees with transformers' ClapFeatureExtractor
    within 1e-4 dB.

    Examples
    --------
    >>> log_mel(np.zeros(48000, np.float32)).shape
    (101, 64)
    """
    picture: Samples = _mel(config or AudioConfig())(mono(samples))
    return picture


def window_features(samples: npt.ArrayLike, config: AudioConfig | None = None) -> Samples:
    """Compute the log-mel spectrogram of every window of a clip.

    Parameters
    ----------
    samples : array_like, shape (T,)
        Mono clip at ``config.rate``.
    config : AudioConfig, optional
        The front end.

    Returns
    -------
    ndarray of float32, shape (n, config.frames, config.mels)
        Decibels; the windows are those of `windows`.

    Raises
    ------
    ValueError
        If `samples` is empty, not one-dimensional, or holds NaN or infinity.
    """
    pictures = list(each_picture(Whole(mono(samples)), config or AudioConfig()))
    return pictures[0][np.newaxis] if len(pictures) == 1 else np.stack(pictures)


def each_picture(stream: Stream, config: AudioConfig) -> Iterator[Samples]:
    """Yield the pictures of `window_features` one by one."""
    mel = _mel(config)
    for window in each_window(stream, config):
        picture: Samples = mel(window)
        yield picture if config.level_db is None else set_level(picture, config.level_db)


def each_frames(stream: Stream, config: AudioConfig, count: int) -> Iterator[Samples]:
    """Yield the log-mel frames of a whole stream in order, about `count` at a time.

    Each part is computed from as many samples around it as its frames see, so together they equal
    those of `log_mel`.
    """
    mel, hop, total = _mel(config), config.hop, stream.length // config.hop + 1
    margin = config.n_fft // 2 // hop + 1  # frames on either side whose samples a frame sees
    firsts = range(0, max(1, total - margin - 1), count)  # what would be left is of the last part
    spans = [(max(0, first - margin), first + count + margin) for first in firsts]
    spans[-1] = (spans[-1][0], total)
    pieces = cut(prepared(stream, config), ((a * hop, b * hop) for a, b in spans))
    for first, (start, stop), piece in zip(firsts, spans, pieces, strict=False):
        last = stop if stop == total else first + count
        yield mel(piece)[first - start : last - start]


def set_level(picture: Samples, level_db: float) -> Samples:
    """Shift a log-mel picture to a level; what lies at its floor stays there.

    Parameters
    ----------
    picture : ndarray of float32, shape (frames, mels)
        Decibels, at least -100.
    level_db : float
        Wanted mean power of the frames, each weighted by its power, in dB.

    Returns
    -------
    ndarray of float32, shape (frames, mels)
        Decibels, at least -100. Silence comes back unchanged.
    """
    floor = np.float32(-100)
    heard = picture > floor + np.float32(0.005)
    frames = np.where(heard, np.power(np.float32(10), picture * np.float32(0.1)), 0).sum(axis=1)
    if not frames.any():
        return picture
    present = 10 * np.log10(frames @ frames / frames.sum())
    return np.where(heard, np.maximum(picture + np.float32(level_db - present), floor), floor)


def mel_filters(config: AudioConfig) -> Samples:
    """Return the filter bank of a front end, float32 of shape (mels, n_fft // 2 + 1)."""
    return _mel(config).filters()


@functools.lru_cache(maxsize=16)
def _mel(config: AudioConfig) -> "Mel":
    """Return the transform's tables; they cost more than one clip."""
    mel: Mel = core.Mel(
        rate=config.bank_rate or config.rate,
        n_fft=config.n_fft,
        hop=config.hop,
        mels=config.mels,
        fmin=config.fmin,
        fmax=config.fmax,
        htk=config.mel_scale == "htk",
        area_norm=config.mel_norm == "slaney",
    )
    return mel
