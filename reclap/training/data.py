"""Training batches as a pure function of (settings, seed, step), prefetched by threads."""

import contextlib
import dataclasses
import functools
import itertools
import logging
import math
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from reclap._types import Floats
from reclap.audio import fusion
from reclap.audio.front import AudioConfig
from reclap.errors import FormatError, ReclapError
from reclap.io.manifest import Row
from reclap.runtime.prefetch import prefetch
from reclap.training import augment
from reclap.training.augment import Augment
from reclap.training.bands import response
from reclap.training.rng import BAND, CUTS, ITEM, ORDER, PLAN, TEXTS, generator
from reclap.training.sections import Data
from reclap.training.spectra import Cache, Spectrum, load, noises
from reclap.training.texts import ClipTexts, TextDraws, joined

__all__ = ["Batch", "Batches", "Data"]

log = logging.getLogger(__name__)

# Decibels, whether all four log-mels of fusion are heard, texts, rows.
Example: TypeAlias = tuple[Floats, bool, ClipTexts, tuple[int, ...]]

_MOST_COMPOSED = 200_000
_BAD_FILE = (OSError, ReclapError, ValueError)


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """Batch of one training step.

    Attributes
    ----------
    step : int
        Index of the step, from 0.
    mel : ndarray of float32, shape (b, frames, mels), or with fusion (b, 4, frames, mels)
        Log-mels in decibels.
    longer : ndarray of bool, shape (b,), or None
        With fusion: which clips exceed the window, so that all four of their log-mels count.
    captions : tuple of str
        Caption of each log-mel: the first b of the texts.
    texts : tuple of str
        All n texts: captions, then further captions, modules and negatives clip by clip.
    owner : ndarray of int32, shape (n,)
        Log-mel that each text belongs to.
    role : ndarray of int32, shape (n,)
        0: a positive seen by all clips; 1: a positive seen by its own clip; 2: a hard negative
        seen by its own clip.
    rows : tuple of tuple of int
        Indices of the manifest's rows in each log-mel.
    """

    step: int
    mel: Floats
    longer: npt.NDArray[np.bool_] | None
    captions: tuple[str, ...]
    texts: tuple[str, ...]
    owner: npt.NDArray[np.int32]
    role: npt.NDArray[np.int32]
    rows: tuple[tuple[int, ...], ...]


class Batches:
    """Batches of a manifest; `batch` is a pure function of the step and safe to call from threads.

    Parameters
    ----------
    rows : sequence of Row
        See `reclap.io.manifest.read`.
    data, how : Data, Augment
        Composition of batches, and augmentation.
    front : AudioConfig
        The model's front end.
    seed : int
        Seed of the run.

    Raises
    ------
    FormatError
        If a row has no group, or there are too few groups for a batch.
    """

    def __init__(
        self, rows: Sequence[Row], data: Data, how: Augment, front: AudioConfig, seed: int
    ) -> None:
        self.rows, self.data, self.how, self.front, self.seed = rows, data, how, front, seed
        self._members = _group(rows, data.group)
        self._group_of = {i: g for g, members in enumerate(self._members) for i in members}
        self._cache = Cache(data.cache_mb << 20)
        self._bad: set[int] = set()
        self._lock = threading.Lock()
        self._check_groups()
        self._draws = TextDraws(rows, data, how, self._members, seed)

    def _check_groups(self) -> None:
        groups, singles = len(self._members), self.data.batch - self.data.mixtures
        if self.data.per_group and singles > groups * self.data.per_group:
            raise FormatError(
                f"a batch of {singles} with at most {self.data.per_group} of a group needs more "
                f"than the {groups} groups of these rows"
            )
        composed = groups * (groups - 1) * self.how.compositions
        if self.data.mixtures and composed > _MOST_COMPOSED:
            raise FormatError(
                f"compositions is {self.how.compositions} for each pair of {groups} groups: "
                f"{composed} captions, at most {_MOST_COMPOSED} make sense; use fewer, or 0"
            )
        if self.data.mixtures > groups * (groups - 1) // 2:
            raise FormatError(f"{self.data.mixtures} mixtures a batch: {groups} groups are too few")

    def epoch(self, step: int) -> int:
        """Return the number of epochs completed before a step."""
        return step * max(1, self.data.batch - self.data.mixtures) // len(self.rows)

    def texts(self) -> list[str]:
        """Return all texts that can occur, except those of mixtures with ``compositions = 0``."""
        return self._draws.all()

    def batch(self, step: int) -> Batch:
        """Compute the batch of a step.

        Parameters
        ----------
        step : int
            Index of the step, from 0.

        Returns
        -------
        Batch
            The same for equal settings, seed and step.

        Raises
        ------
        FormatError
            If a sound cannot be read; names its line of the manifest. See `Data.errors`.
        """
        return self._join(step, self._examples(step))

    def prefetch(self, first: int, last: int) -> Generator[Batch, None, None]:
        """Yield the batches of consecutive steps, prefetched by threads; close it at the end.

        Parameters
        ----------
        first, last : int
            Steps, the last one excluded.

        Yields
        ------
        Batch
            One for each step, in order.

        Raises
        ------
        FormatError
            As for `batch`, in place of the batch.

        Notes
        -----
        Order and content do not depend on the number of threads. Closed early, it waits for the
        example that each thread is computing; see `reclap.runtime.prefetch.prefetch`.
        """
        data = self.data
        jobs = (functools.partial(self._examples, step) for step in range(first, last))
        found = prefetch(jobs, data.threads, data.ahead * data.batch, ahead=data.ahead)
        with contextlib.closing(found):
            for step in range(first, last):
                yield self._join(step, [x for _, x in itertools.islice(found, data.batch)])

    def _examples(self, step: int) -> Iterator[Example]:
        for item, rows in enumerate(self.plan(step)):
            yield self._example(step, item, rows)

    # ---- Composition ---------------------------------------------------------------------------

    def plan(self, step: int) -> list[tuple[int, ...]]:
        """Return the row indices of each example of a step: one, or two for a mixture."""
        rng = generator(self.seed, PLAN, step)
        count = self.data.batch - self.data.mixtures
        if self.data.per_group:
            singles = self._drawn(rng, count)
        else:
            singles = [self._dealt(step * count + i) for i in range(count)]
        return [(row,) for row in singles] + self._pairs(rng)

    def _dealt(self, position: int) -> int:
        epoch, index = divmod(position, len(self.rows))
        return int(_order(self.seed, epoch, len(self.rows))[index])

    def _drawn(self, rng: np.random.Generator, count: int) -> list[int]:
        slots = rng.permutation(len(self._members) * self.data.per_group)[:count]
        return [self._member(rng, int(s) // self.data.per_group) for s in slots]

    def _member(self, rng: np.random.Generator, group: int) -> int:
        members = self._members[group]
        return members[int(rng.integers(len(members)))]

    def _pairs(self, rng: np.random.Generator) -> list[tuple[int, ...]]:
        groups = len(self._members)
        total = groups * (groups - 1) // 2
        pairs: list[tuple[int, ...]] = []
        if not self.data.mixtures:
            return pairs
        for index in rng.choice(total, self.data.mixtures, replace=False):
            a, b = _unrank(int(index))
            if rng.random() < 0.5:
                a, b = b, a
            pairs.append((self._member(rng, a), self._member(rng, b)))
        return pairs

    # ---- Sounds --------------------------------------------------------------------------------

    def _example(self, step: int, item: int, rows: tuple[int, ...]) -> Example:
        rng, how = generator(self.seed, ITEM, step, item), self.how
        # Of their own, so that all else is drawn alike without them.
        band, more = (generator(self.seed, purpose, step, item) for purpose in (BAND, TEXTS))
        one = self._changed(rng, band, rows[0])
        used: tuple[int, ...] = (one.row,)
        if len(rows) == 2:
            sequence = bool(rng.random() < how.sequence)
            other = self._changed(rng, band, rows[1])
            power = self._together(rng, one, other, splice=sequence)
            used = pair = (one.row, other.row)
            texts = self._draws.of_mixture(rng, more, pair, sequence=sequence)
        else:
            texts = self._draws.of_clip(rng, more, one.row)
            if rng.random() < how.same:
                other = self._changed(rng, band, self._member(rng, self._group_of[one.row]))
                power = self._together(rng, one, other, splice=bool(rng.random() < how.splice))
                used = (one.row, other.row)
            else:
                power = one.whole() if self._fuses(one) else one.window(self.front.frames)
        if rng.random() < how.noise:
            power = power + self._noise(rng, len(power))
        level = one.level
        if self.front.level_db is not None:
            level = 10 ** (self.front.level_db / 10)
        level *= 10 ** (rng.uniform(-how.gain_db, how.gain_db) / 10)
        mel = augment.to_db(power * np.float32(level))
        return *self._views(mel, step, item), texts, used

    def _together(
        self, rng: np.random.Generator, one: "_Changed", other: "_Changed", *, splice: bool
    ) -> Floats:
        """Join windows of two sounds, with fusion too: they cannot be shrunk together."""
        join = augment.splice if splice else augment.mix
        frames = self.front.frames
        return join(rng, one.window(frames), other.window(frames), self.how.snr_db)

    def _fuses(self, sound: "_Changed") -> bool:
        return self.front.truncation == "fusion" and len(sound.power) > self.front.frames

    def _views(self, mel: Floats, step: int, item: int) -> tuple[Floats, bool]:
        """Return what the tower takes of a log-mel: with fusion four, whose cuts are drawn."""
        if self.front.truncation != "fusion":
            return mel, False
        if len(mel) == self.front.frames:
            return np.stack([mel] * fusion.VIEWS), False
        rng = generator(self.seed, CUTS, step, item)
        ranges = fusion.cut_ranges(len(mel), self.front.frames)
        starts = [int(rng.integers(part.start, part.stop)) for part in ranges]
        return fusion.fused(mel, starts, self.front), True

    def _join(self, step: int, examples: Iterable[Example]) -> Batch:
        mels, flags, clips, rows = zip(*examples, strict=True)
        captions = tuple(clip.caption for clip in clips)
        longer = np.array(flags) if self.front.truncation == "fusion" else None
        return Batch(step, np.stack(mels), longer, captions, *joined(clips), rows)

    def _changed(self, rng: np.random.Generator, band: np.random.Generator, row: int) -> "_Changed":
        """Draw what is changed in a sound, and where its window begins."""
        speeds = self.how.speeds or (1.0,)
        speed = speeds[int(rng.integers(len(speeds)))]
        sound, row = self._good(row, speed)
        frames, have = self.front.frames, len(sound.power)
        if have > frames:
            start = int(rng.integers(have - frames + 1))
        else:
            start = int(rng.integers(have)) if self.how.shift else 0
        gain, level = self._limit(band, sound, speed)
        factors = [np.float32(1 / level), augment.colour(rng, self.front.mels, self.how)]
        if gain is not None:
            factors.append(gain)
        return _Changed(sound.power, start, factors, level, row)

    def _limit(
        self, rng: np.random.Generator, sound: Spectrum, speed: float
    ) -> tuple[Floats | None, float]:
        """Draw a band limit; return its gain per mel band, if any, and the level under it."""
        if rng.random() < self.how.band:
            low, high = self.how.bands[int(rng.integers(len(self.how.bands)))]
            gain = response(self.front, (low, high), speed)
            level = augment.limited(sound.power, sound.level, gain)
            if level:
                return gain, level
        return None, sound.level

    def _noise(self, rng: np.random.Generator, frames: int) -> Floats:
        choice = noises(self.front)
        noise = choice[int(rng.integers(len(choice)))]
        power = augment.take(noise.power, frames, int(rng.integers(len(noise.power))))
        least, greatest = self.how.noise_db
        below = rng.uniform(least, greatest)
        return power * np.float32(10 ** (-below / 10) / noise.level)

    def _good(self, row: int, speed: float) -> tuple[Spectrum, int]:
        """Return the sound of a row, or with ``errors = "skip"`` that of the next readable row."""
        if self.data.errors == "raise":
            return self._sound(row, speed), row
        members = self._members[self._group_of[row]] if self.data.group else range(len(self.rows))
        at = members.index(row)
        for candidate in itertools.chain(members[at:], members[:at]):
            if candidate in self._bad:
                continue
            try:
                return self._sound(candidate, speed), candidate
            except FormatError as error:
                self._report(candidate, error)
        none = ReclapError("not readable, nor any other of its group")
        raise FormatError(self.rows[row].fault(none))

    def _report(self, row: int, error: Exception) -> None:
        with self._lock:
            if row not in self._bad:
                log.warning("skipped %s", error)
            self._bad.add(row)

    def _sound(self, row: int, speed: float) -> Spectrum:
        sound = self._cache.get((row, speed))
        if sound is None:
            try:
                sound = load(self.rows[row].sound, speed, self.front, wrap=self.how.shift)
            except _BAD_FILE as error:
                raise FormatError(self.rows[row].fault(error)) from error
            self._cache.put((row, speed), sound)
        return sound


@dataclasses.dataclass(frozen=True, eq=False)
class _Changed:
    """A sound at level 1 with drawn changes: its power, where its window begins, its own level."""

    power: Floats
    start: int
    factors: list[Any]
    level: float
    row: int

    def window(self, frames: int) -> Floats:
        """Return a window of it, wrapped around as often as needed."""
        return self._made(augment.take(self.power, frames, self.start))

    def whole(self) -> Floats:
        """Return all of it."""
        return self._made(self.power)

    def _made(self, power: Floats) -> Floats:
        for factor in self.factors:
            power = power * factor
        return power


def _group(rows: Sequence[Row], column: str) -> list[list[int]]:
    """Return the row indices of each group, groups in alphabetical order."""
    if not column:
        return [[i] for i in range(len(rows))]
    members: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        if column not in row.extra:
            where = (
                row.at
                if any(column in other.extra for other in rows)
                else row.at.rpartition(":")[0]
            )
            known = ", ".join(row.extra) or "none"
            raise FormatError(
                f"data.group: {where or row.path}: no column {column!r}; columns beside those of "
                f"sounds and captions: {known}"
            )
        members.setdefault(row.extra[column], []).append(i)
    return [members[name] for name in sorted(members)]


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> npt.NDArray[np.int64]:
    """Return the row indices in the order of an epoch."""
    return generator(seed, ORDER, epoch).permutation(count)


def _unrank(index: int) -> tuple[int, int]:
    """Return the pair (a, b), b < a, at an index in the list (1, 0), (2, 0), (2, 1), ..."""
    a = (1 + math.isqrt(1 + 8 * index)) // 2
    return a, index - a * (a - 1) // 2
