"""Mixtures drawn by seed: the same on every machine."""

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from reclap._types import Samples
from reclap.audio.mixture import Mixture, Sound, Taken, find_event, mix
from reclap.audio.resample import LEAST_RATE, MOST_RATE

__all__ = ["Draws", "check_settings", "draw_mixture"]

APART = 0.1  # seconds between events that do not overlap
SHORTEST = 0.1  # seconds that each event has room for
LONGEST = 3600.0  # seconds of a mixture
MOST_DB = 100.0  # of a level, above or below the background's

T = TypeVar("T")


class Draws:
    """Random numbers that depend on a name alone: the same on every machine and in every version.

    Parameters
    ----------
    *name : str or int
        What they are for, such as seed and index of a mixture.

    Notes
    -----
    Raw words of Philox, whose stream NumPy keeps, unlike that of its distributions.

    Examples
    --------
    >>> draws = Draws("mixture", 7)
    >>> round(draws.uniform(0, 10), 3), draws.choice("abc")
    (9.917, 'a')
    """

    def __init__(self, *name: str | int) -> None:
        digest = hashlib.sha256(":".join(map(str, name)).encode()).digest()
        self._bits = np.random.Philox(key=int.from_bytes(digest[:16], "little"))

    def uniform(self, low: float, high: float) -> float:
        """Return a number from low to high, high excluded."""
        return low + (high - low) * ((int(self._bits.random_raw()) >> 11) * 2.0**-53)

    def whole(self, stop: int) -> int:
        """Return one of 0, ..., stop - 1."""
        return int(self.uniform(0, stop))

    def choice(self, items: Sequence[T]) -> T:
        """Return one of the items."""
        return items[self.whole(len(items))]


def check_settings(
    *,
    rate: int,
    seconds: float,
    count: tuple[int, int] = (1, 1),
    snr_db: tuple[float, float] = (0.0, 0.0),
    overlap: bool = False,
) -> None:
    """Refuse settings of `draw_mixture` by which there is no mixture.

    Parameters
    ----------
    rate : int
        Sample rate in Hz.
    seconds : float
        Length of a mixture.
    count : tuple of int
        Least and greatest number of events.
    snr_db : tuple of float
        Least and greatest level in dB.
    overlap : bool
        Whether events may overlap.

    Raises
    ------
    ValueError
        Beginning with the name of the argument.

    Examples
    --------
    >>> check_settings(rate=32000, seconds=10.0, count=(3, 1))
    Traceback (most recent call last):
    ValueError: count: expected two numbers from 1 on, the least first, got 3 and 1
    """
    if not LEAST_RATE <= rate <= MOST_RATE:
        raise ValueError(f"rate: expected {LEAST_RATE} to {MOST_RATE} Hz, got {rate}")
    if not 1 <= count[0] <= count[1]:
        raise ValueError(
            f"count: expected two numbers from 1 on, the least first, got {count[0]} and {count[1]}"
        )
    if not -MOST_DB <= snr_db[0] <= snr_db[1] <= MOST_DB:
        raise ValueError(
            f"snr_db: expected two levels from {-MOST_DB:g} to {MOST_DB:g} dB, the least first, "
            f"got {snr_db[0]:g} and {snr_db[1]:g}"
        )
    least = SHORTEST if overlap else round(count[1] * (SHORTEST + APART), 6)
    if not least <= seconds <= LONGEST:
        room = "" if overlap or count[1] < 2 else f" ({count[1]} events side by side)"
        raise ValueError(f"seconds: expected {least:g}{room} to {LONGEST:g}, got {seconds:g}")


def draw_mixture(
    draws: Draws,
    events: Sequence[Taken],
    backgrounds: Sequence[Taken],
    load: Callable[[Taken], Samples],
    *,
    rate: int,
    seconds: float = 10.0,
    count: tuple[int, int] = (1, 4),
    snr_db: tuple[float, float] = (0.0, 20.0),
    longest: float = 4.0,
    overlap: bool = False,
) -> Mixture:
    """Draw a mixture.

    Parameters
    ----------
    draws : Draws
        Random numbers, of seed and index.
    events, backgrounds : sequence of Taken
        What may be taken. First a kind is drawn, then a recording of it, all alike. Without
        backgrounds there is silence behind the events.
    load : callable
        Returns the samples of a recording, float32 of shape (T,), at `rate`.
    rate : int
        Sample rate in Hz.
    seconds : float
        Length.
    count : tuple of int
        Least and greatest number of events.
    snr_db : tuple of float
        Least and greatest level relative to the background in dB, drawn in steps of 0.1.
    longest : float
        Length in seconds at which events are cut off; less where they would not fit side by side.
    overlap : bool
        Whether events may overlap; otherwise at least 0.1 s is between them.

    Returns
    -------
    Mixture
        The same for equal draws and recordings.

    Raises
    ------
    ValueError
        If a setting makes no mixture (see `check_settings`), there is nothing to take, or a
        recording is silent.

    Examples
    --------
    >>> tone = np.sin(np.arange(4000)).astype(np.float32)
    >>> bells = [Taken(f"bell/{i}", "bell", f"b{i}") for i in range(3)]
    >>> drawn = draw_mixture(Draws(1), bells, [], lambda taken: tone, rate=16000, seconds=2.0)
    >>> [event.kind for event in drawn.events]
    ['bell', 'bell', 'bell', 'bell']
    """
    check_settings(rate=rate, seconds=seconds, count=count, snr_db=snr_db, overlap=overlap)
    if not (math.isfinite(longest) and longest > 0):
        raise ValueError(f"longest: expected seconds above 0, got {longest:g}")
    if not events:
        raise ValueError("no recording to take events from")
    length = round(seconds * rate)
    behind = _of_a_kind(draws, backgrounds) if backgrounds else None
    number = count[0] + draws.whole(count[1] - count[0] + 1)
    apart = round(APART * rate)
    if not overlap:
        longest = min(longest, (length / number - apart) / rate)
    sounds = []
    for _ in range(number):
        of = _of_a_kind(draws, events)
        samples = load(of)
        sounds.append(Sound(of, samples, find_event(samples, rate, min(longest, seconds))))
    sizes = [stop - first for first, stop in (sound.span or (0, 0) for sound in sounds)]
    if overlap:
        onsets = [draws.whole(length - size + 1) for size in sizes]
    else:
        free = length - sum(sizes) - apart * (number - 1)
        offsets = sorted(draws.whole(free + 1) for _ in sizes)
        taken = np.cumsum([0, *(size + apart for size in sizes[:-1])])
        onsets = [offset + int(before) for offset, before in zip(offsets, taken, strict=True)]
    levels = [round(draws.uniform(*snr_db), 1) for _ in sizes]
    background = None if behind is None else Sound(behind, load(behind))
    return mix(background, sounds, onsets, levels, rate=rate, length=length)


def _of_a_kind(draws: Draws, some: Sequence[Taken]) -> Taken:
    kind = draws.choice(sorted({taken.kind for taken in some}))
    return draws.choice([taken for taken in some if taken.kind == kind])
