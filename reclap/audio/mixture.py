"""Mixtures of recordings with known onsets: events placed into a background."""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from reclap._types import Samples
from reclap.audio.levels import sounding

__all__ = ["Event", "Mixture", "Sound", "Taken", "find_event", "mix"]

BLOCK = 0.005  # seconds over which the level of an event is measured
DEPTHS = 30, 20, 10  # dB below its loudest block that an event begins and ends at
RISE = 10.0  # dB above that which it reaches without a break
MARGIN = 3.0  # dB below that, on average, that what comes before it must be
PAUSE = 0.2  # seconds of less than that which do not end it
RAMPS = 0.002, 0.01  # seconds over which a cut event fades in and out
CROSSED = 0.1  # seconds over which a background fades into its repetition
BACKGROUND_DB = -30.0  # level of a background, and what levels of events are relative to
PEAK_DB = -1.0  # a mixture that exceeds it is made softer as a whole

_Doubles: TypeAlias = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Taken:
    """A recording that a mixture may take: `id`, `kind`, and the `source` that it is part of."""

    id: str
    kind: str
    source: str


@dataclasses.dataclass(frozen=True, eq=False)
class Sound:
    """A decoded recording.

    Parameters
    ----------
    of : Taken
        Which one.
    samples : ndarray of float32, shape (T,)
        Amplitudes at the rate of the mixture.
    span : tuple of int, optional
        Frames of the event in it; by default what `find_event` finds.

    Examples
    --------
    >>> bell = Sound(Taken("a/1", "bell", "a"), np.ones(8000, np.float32))
    >>> bell.of.kind, len(bell.samples)
    ('bell', 8000)
    """

    of: Taken
    samples: Samples
    span: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Event:
    """An event of a mixture.

    Parameters
    ----------
    kind, id, source : str
        Of the recording that it is taken from.
    onset, duration : float
        In the mixture, in seconds.
    snr_db : float
        Level (RMS over the event) relative to the background's (RMS over the mixture) in dB.
    start : float
        Where the event begins in the recording, in seconds.

    Examples
    --------
    >>> Event("bell", "a/1", "a", 2.5, 0.8, 10.0, 0.1).onset
    2.5
    """

    kind: str
    id: str
    source: str
    onset: float
    duration: float
    snr_db: float
    start: float


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
    """A mixture and what is in it.

    Parameters
    ----------
    samples : ndarray of float32, shape (T,)
        Amplitudes, none above -1 dB.
    rate : int
        Sample rate in Hz.
    events : tuple of Event
        In the order of their onsets.
    background : Taken, optional
        The recording behind them.
    gain_db : float
        Gain of the whole: at most 0, and such that it does not clip; then in steps of 0.1.

    Examples
    --------
    >>> silent = Mixture(np.zeros(16000, np.float32), 16000, ())
    >>> silent.to_jams("a", seed=1)["file_metadata"]["duration"]
    1.0
    """

    samples: Samples
    rate: int
    events: tuple[Event, ...]
    background: Taken | None = None
    gain_db: float = 0.0

    def to_jams(self, name: str, **more: Any) -> dict[str, Any]:
        """Return the annotations in the form of JAMS (Humphrey et al., ISMIR 2014).

        Parameters
        ----------
        name : str
            The mixture.
        **more
            What else its ``sandbox`` shall hold, such as the seed.

        Returns
        -------
        dict
            One annotation of namespace ``tag_open``; its ``sandbox`` has recording, source and
            level of each event in the same order.
        """
        seconds = len(self.samples) / self.rate
        of = self.background
        return {
            "file_metadata": {"title": name, "duration": seconds},
            "annotations": [
                {
                    "namespace": "tag_open",
                    "annotation_metadata": {"data_source": "program"},
                    "time": 0.0,
                    "duration": seconds,
                    "data": [
                        {
                            "time": event.onset,
                            "duration": event.duration,
                            "value": event.kind,
                            "confidence": 1.0,
                        }
                        for event in self.events
                    ],
                    "sandbox": {"events": [dataclasses.asdict(event) for event in self.events]},
                }
            ],
            "sandbox": {
                "rate": self.rate,
                "background": None if of is None else dataclasses.asdict(of),
                "gain_db": self.gain_db,
                **more,
            },
        }


def find_event(samples: Samples, rate: int, longest: float = 4.0) -> tuple[int, int]:
    """Find the event around the loudest moment of a recording.

    Parameters
    ----------
    samples : ndarray, shape (T,)
        Amplitudes.
    rate : int
        Sample rate in Hz.
    longest : float
        Length in seconds at which an event is cut off.

    Returns
    -------
    first, stop : int
        Frames. Blocks of 5 ms whose RMS is at most 30 dB below that of the loudest one belong to
        it; where blocks stay below for more than 0.2 s it is over, and what is beyond is another
        event. It begins where they lead without a break to the first of at most 20 dB, so neither
        silence nor a rustle before it counts, measured against its own peak, and ends with the
        last. Where nothing at least 3 dB softer comes before it, since the recording has noise of
        its own, these are 20 and 10 dB, or 10 and 0; where that does not help either, the event
        begins with the recording.

    Raises
    ------
    ValueError
        If all is silence.

    Examples
    --------
    >>> clicks = np.zeros(16000, np.float32)
    >>> clicks[4000:5000] = 0.5
    >>> clicks[12000:12100] = 0.1
    >>> find_event(clicks, 16000)
    (4000, 5040)
    """
    size = max(1, round(BLOCK * rate))
    whole = np.zeros(-(-len(samples) // size) * size)
    whole[: len(samples)] = samples
    power = np.square(whole.reshape(-1, size)).mean(axis=1)
    if not power.max(initial=0) > 0:
        raise ValueError("no event: all samples are 0")
    peak, most = int(power.argmax()), round(longest * rate)
    found, pause = [], round(PAUSE * rate / size)
    for depth in DEPTHS:
        first, stop = _around(peak, power, depth, pause)
        before = power[:first].mean() if first else np.inf
        is_softer = before < power[peak] * 10 ** (-(depth + MARGIN) / 10)
        found.append((not (is_softer and (peak + 1 - first) * size <= most), first, stop))
    _, first, stop = min(found, key=lambda run: run[0])  # the first that is clear, or the first
    return first * size, min(stop * size, len(samples), first * size + most)


def _around(peak: int, power: _Doubles, depth: float, pause: int) -> tuple[int, int]:
    """Return the range of blocks around the loudest one; see `find_event`."""
    loud = np.flatnonzero(power >= power[peak] * 10 ** (-depth / 10))
    parts = np.split(loud, np.flatnonzero(np.diff(loud) > pause + 1) + 1)
    (part,) = (part for part in parts if part[0] <= peak <= part[-1])
    first = int(part[np.argmax(power[part] >= power[peak] * 10 ** ((RISE - depth) / 10))])
    while first and power[first - 1] >= power[peak] * 10 ** (-depth / 10):
        first -= 1
    return first, int(part[-1]) + 1


def mix(
    background: Sound | None,
    sounds: Sequence[Sound],
    onsets: Sequence[int],
    levels: Sequence[float],
    *,
    rate: int,
    length: int,
    gain_db: float = 0.0,
) -> Mixture:
    """Place events into a background.

    Parameters
    ----------
    background : Sound, optional
        Its sounding part is repeated where it is too short, with a crossfade, and set to -30 dB
        (RMS over the mixture). Without it there is silence, and levels are relative to -30 dB.
    sounds : sequence of Sound
        Recordings of the events.
    onsets : sequence of int
        Frame of each where it begins.
    levels : sequence of float
        Level (RMS) of each relative to the background's in dB.
    rate : int
        Sample rate in Hz.
    length : int
        Frames of the mixture.
    gain_db : float
        Gain of the whole in dB, at most 0; less where the mixture would exceed -1 dB.

    Returns
    -------
    Mixture
        Events fade in over the 2 ms before they begin, and out over the 10 ms after they end, as
        far as the recording has them.

    Raises
    ------
    ValueError
        If an event does not fit into the mixture, a recording is silent, or `gain_db` exceeds 0.

    Examples
    --------
    >>> bell = Sound(Taken("a/1", "bell", "a"), np.ones(800, np.float32))
    >>> mixed = mix(None, [bell], [8000], [10.0], rate=16000, length=16000)
    >>> mixed.events[0].onset, round(float(mixed.samples.max()), 3)
    (0.5, 0.1)
    """
    if not gain_db <= 0:
        raise ValueError(f"gain_db must be at most 0, not {gain_db}")
    out = np.zeros(length)
    if background is not None:
        out += _backdrop(background, rate, length)
    events = []
    for sound, onset, level in zip(sounds, onsets, levels, strict=True):
        first, stop = sound.span or find_event(sound.samples, rate)
        if not 0 <= onset <= length - (stop - first):
            raise ValueError(
                f"{sound.of.id}: {stop - first} frames from {onset} on do not fit into {length}"
            )
        piece, lead = _cut(sound.samples, first, stop, rate)
        piece *= 10 ** ((BACKGROUND_DB + level) / 20) / _rms(sound.samples[first:stop])
        begin, skip = max(0, onset - lead), max(0, lead - onset)
        end = min(length, onset - lead + len(piece))
        out[begin:end] += piece[skip : skip + end - begin]
        at, lasts, start = (round(n / rate, 6) for n in (onset, stop - first, first))
        of = sound.of
        events.append(Event(of.kind, of.id, of.source, at, lasts, level, start))
    over = 20 * np.log10(max(np.abs(out).max(initial=0), 1e-9)) - PEAK_DB
    # In steps, so that annotations are exact.
    gain_db = min(gain_db, -float(np.ceil(10 * over)) / 10)
    samples = (out * 10 ** (gain_db / 20)).astype(np.float32)
    events.sort(key=lambda event: event.onset)
    behind = None if background is None else background.of
    return Mixture(samples, rate, tuple(events), behind, gain_db)


def _rms(samples: npt.NDArray[np.floating]) -> float:
    return float(np.sqrt(np.square(samples, dtype=np.float64).mean()))


def _cut(samples: Samples, first: int, stop: int, rate: int) -> tuple[_Doubles, int]:
    """Return an event with its ramps, and how many frames of them are before it."""
    before, after = (max(1, round(seconds * rate)) for seconds in RAMPS)
    begin, end = max(0, first - before), min(len(samples), stop + after)
    piece = samples[begin:end].astype(np.float64)
    for ramp, part in ((before, piece), (after, piece[::-1])):
        count = min(ramp, len(part))
        part[:count] *= np.square(np.sin(0.5 * np.pi * (np.arange(count) + 0.5) / count))
    return piece, first - begin


def _backdrop(background: Sound, rate: int, length: int) -> _Doubles:
    """Return the sounding part of a background, repeated to a length, at `BACKGROUND_DB`."""
    first, stop = background.span or sounding(background.samples)
    part = background.samples[first:stop].astype(np.float64)
    if not len(part):
        raise ValueError(f"{background.of.id}: a silent background")
    cross = min(round(CROSSED * rate), len(part) // 4)
    rise = np.sqrt((np.arange(cross) + 0.5) / max(1, cross))  # powers add up to 1
    out = np.array(part)
    while len(out) < length:
        out[len(out) - cross :] *= rise[::-1]
        out[len(out) - cross :] += part[:cross] * rise
        out = np.concatenate([out, part[cross:]])
    out = out[:length]
    scaled: _Doubles = out * (10 ** (BACKGROUND_DB / 20) / _rms(out))
    return scaled
