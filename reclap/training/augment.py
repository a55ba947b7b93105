"""Augmentation of spectrograms: level, colour, band limits, noise, mixtures and their captions.

Spectrograms hold mel *power*, not decibels, so that sounds add: the power of a sum of unrelated
sounds is on average the sum of their powers. Nothing is decoded or transformed again for a mixture,
which makes a training example cost a millisecond.
"""

import dataclasses
from typing import Annotated, TypeAlias

import msgspec
import numpy as np

from reclap._types import Floats
from reclap.io.settings import Decibels, Probability, Settings

__all__ = [
    "FLOOR",
    "Augment",
    "colour",
    "compose",
    "from_db",
    "inner",
    "level_of",
    "limited",
    "mix",
    "splice",
    "take",
    "to_db",
]


FLOOR = 1e-10  # power of the log-mel's floor, -100 dB
LEAST_LEFT = 1e-3  # of a level: a clip of which a band limit leaves less stays as it is

Edge: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


@dataclasses.dataclass(frozen=True)
class Augment(Settings):
    """Section ``[augment]``: random changes in training, all off by default.

    Every clip is brought to a common level first, so that ratios below are ratios of loudness, and
    back to the front end's level (or its own, where the front end sets none) at the end.

    Parameters
    ----------
    shift : bool
        Start a clip that is no longer than the window at a random frame and wrap around. A longer
        clip always gives a window at a random position.
    speeds : tuple of float
        Play at one of these speeds, by resampling: 1.25 is faster and higher. Each (clip, speed)
        is decoded once and cached.
    tilt_db : float
        Largest gain or loss at the outer mel bands, falling linearly to the opposite at the
        other end.
    eq_db : float
        Largest gain or loss at evenly spaced mel bands, interpolated between.
    eq_points : int
        Number of these bands.
    band : float
        Probability that a clip is limited to one of `bands`, whatever it is of: as if it had been
        recorded by a telephone or at a low sampling rate, before it is played at another speed.
        Clips that lie outside the band, 30 dB of their level and more, are not limited.
    bands : tuple of (float, float)
        Lower and upper edges in Hz; each is drawn alike. Those of 8, 11.025, 16 and 22.05 kHz and
        of a telephone line by default; see `reclap.training.bands.response`.
    same : float
        Probability that a second clip of the same group, changed in the same manner, joins.
    splice : float
        Probability that it then follows at a cut in the middle half instead of sounding at the
        same time.
    snr_db : float
        Largest difference in level between two joined clips.
    sequence : float
        Probability that a mixture of two groups is one after the other ("..., followed by ...")
        instead of both at once ("... while ...").
    compositions : int
        Captions of mixtures per ordered pair of groups and kind, composed once from captions
        drawn from both groups; for sets whose captions describe the group. 0: composed from the
        two clips' own captions each time, as captions that describe one clip need.
    noise : float
        Probability that noise is added: one of twelve stretches of white, pink and brown noise.
    noise_db : tuple of float
        Least and greatest distance below the clip.
    gain_db : float
        Largest change of the final level.

    Raises
    ------
    ValueError, TypeError
        If a value is out of range or of the wrong type.

    Examples
    --------
    >>> Augment(shift=True, speeds=(0.9, 1.0, 1.1)).noise_db
    (10.0, 40.0)
    """

    shift: bool = False
    speeds: tuple[Annotated[float, msgspec.Meta(ge=0.25, le=4)], ...] = ()
    tilt_db: Decibels = 0.0
    eq_db: Decibels = 0.0
    eq_points: Annotated[int, msgspec.Meta(ge=2, le=4096)] = 6
    band: Probability = 0.0
    bands: Annotated[
        tuple[Annotated[tuple[Edge, ...], msgspec.Meta(min_length=2, max_length=2)], ...],
        msgspec.Meta(min_length=1, max_length=1000),
    ] = ((0.0, 4000.0), (300.0, 3400.0), (0.0, 5512.5), (0.0, 8000.0), (0.0, 11025.0))
    same: Probability = 0.0
    splice: Probability = 0.5
    snr_db: Decibels = 6.0
    sequence: Probability = 0.5
    compositions: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 0
    noise: Probability = 0.0
    noise_db: Annotated[
        tuple[Annotated[float, msgspec.Meta(ge=-1000, le=1000)], ...],
        msgspec.Meta(min_length=2, max_length=2),
    ] = (10.0, 40.0)
    gain_db: Decibels = 0.0

    def __post_init__(self) -> None:
        """Check."""
        super().__post_init__()
        if self.noise_db[0] > self.noise_db[1]:
            raise ValueError(f"noise_db is {list(self.noise_db)}, expected [least, greatest]")
        for low, high in self.bands:
            if low >= high:
                raise ValueError(f"bands has {[low, high]}, expected [lower, upper] edge in Hz")


# ---- Level -----------------------------------------------------------------------------------


def from_db(mel: Floats) -> Floats:
    """Convert decibels to power; values at the floor become zero."""
    power: Floats = np.power(np.float32(10), mel * np.float32(0.1))
    power[power <= FLOOR * 1.001] = 0
    return power


def to_db(power: Floats) -> Floats:
    """Convert power to decibels, at least -100."""
    mel = np.float32(10) * np.log10(np.maximum(power, np.float32(FLOOR)))
    return np.maximum(mel, np.float32(-100))  # the logarithm is rounded


def level_of(power: Floats) -> float:
    """Return the mean power of frames, each weighted by its power.

    Unlike the plain mean it does not depend on how much silence surrounds a short sound.
    """
    frames = power.sum(axis=1, dtype=np.float64)
    return float((frames @ frames) / max(frames.sum(), FLOOR)) or FLOOR


# ---- Changes ---------------------------------------------------------------------------------


def take(power: Floats, frames: int, start: int) -> Floats:
    """Return `frames` frames from `start` on, around the end as often as needed."""
    return power[(start + np.arange(frames)) % len(power)]


def colour(rng: np.random.Generator, mels: int, how: Augment) -> Floats:
    """Draw a gain per mel band, shape (mels,): a tilt plus a curve through random points."""
    gain = rng.uniform(-how.tilt_db, how.tilt_db) * np.linspace(-1, 1, mels)
    points = rng.uniform(-how.eq_db, how.eq_db, how.eq_points)
    gain += np.interp(np.linspace(0, how.eq_points - 1, mels), np.arange(how.eq_points), points)
    return np.power(10, gain / 10).astype(np.float32)


def limited(power: Floats, level: float, gain: Floats) -> float:
    """Return the level of a clip under a gain per mel band; 0 if too little of it would be left."""
    left = level_of(power * gain)
    return left if left >= LEAST_LEFT * level else 0.0


def _ratio(rng: np.random.Generator, snr_db: float) -> np.float32:
    return np.float32(10 ** (rng.uniform(-snr_db, snr_db) / 10))


def mix(rng: np.random.Generator, a: Floats, b: Floats, snr_db: float) -> Floats:
    """Let two sounds of equal level sound together, the second at a random level."""
    return a + b * _ratio(rng, snr_db)


def splice(rng: np.random.Generator, a: Floats, b: Floats, snr_db: float) -> Floats:
    """Let the second sound replace the first from a cut in its middle half on."""
    cut = int(rng.integers(len(a) // 4, 3 * len(a) // 4 + 1))
    return np.concatenate([a[:cut], b[cut:] * _ratio(rng, snr_db)])


def compose(a: str, b: str, *, sequence: bool) -> str:
    """Compose the caption of two sounds, together or one after the other.

    Examples
    --------
    >>> compose("A dog barks.", "Rain falls.", sequence=False)
    'A dog barks while rain falls.'
    """
    a, b = a.rstrip(". "), inner(b)
    return f"{a}, followed by {b}." if sequence else f"{a} while {b}."


def inner(caption: str) -> str:
    """Return a caption as it stands within a sentence.

    Examples
    --------
    >>> inner("A dog barks."), inner("TV voices talk")
    ('a dog barks', 'TV voices talk')
    """
    text = caption.rstrip(". ")
    first = text.split(" ", 1)[0]
    if len(first) > 1 and first.isupper():  # an acronym keeps its capitals
        return text
    return text[:1].lower() + text[1:]
