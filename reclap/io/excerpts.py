"""Excerpts: parts of sound files, as rows of a manifest name them by start and length."""

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reclap.errors import FormatError, shown_name

__all__ = ["Excerpt", "number_of", "sound_of"]

_CLOSE = 0.01  # seconds that an excerpt may lack: manifests round
_MOST = 1e9  # seconds, thirty years: beyond it frames would not fit into 64 bits


@dataclasses.dataclass(frozen=True)
class Excerpt:
    """Part of a sound file; wherever a file can be read, an excerpt of it can.

    Parameters
    ----------
    path : Path
        The file.
    start : float
        Where it begins, in seconds.
    seconds : float, optional
        Its length; up to the end of the file by default.

    Examples
    --------
    >>> excerpt = Excerpt(Path("yard.wav"), 10.0, 2.5)
    >>> str(excerpt), excerpt.frames(16000)
    ('yard.wav from 10 s', (160000, 200000))
    """

    path: Path
    start: float
    seconds: float | None = None

    def __str__(self) -> str:
        """Return the name in messages."""
        return f"{os.fspath(self.path)} from {self.start:g} s"

    def frames(self, rate: int) -> tuple[int, int | None]:
        """Return the range of frames at a rate in Hz; None: up to the end.

        Both ends are rounded, so that excerpts that meet in seconds meet in frames.
        """
        first = round(self.start * rate)
        if self.seconds is None:
            return first, None
        return first, max(first + 1, round((self.start + self.seconds) * rate))

    def lacks(self, frames: int, rate: int) -> str | None:
        """Return what is not there of an excerpt that decodes to some frames at a rate in Hz."""
        first, stop = self.frames(rate)
        lost = 0 if stop is None else stop - first - frames
        if lost <= _CLOSE * rate:
            return None
        return f"{lost / rate:.2f} of {self.seconds:g} s"


def sound_of(at: str, path: Path, columns: Mapping[str, Any]) -> Path | Excerpt:
    """Return what a row of a manifest has its sound from.

    Parameters
    ----------
    at : str
        File and line, for messages.
    path : Path
        The row's file.
    columns : mapping
        The row's columns. Without ``start``, or where that is empty, the sound is the whole file,
        and ``seconds`` only says how long it is.

    Returns
    -------
    Path or Excerpt
        The file, or ``seconds`` of it from ``start``.

    Raises
    ------
    FormatError
        If ``start`` is no number of at least 0, or ``seconds`` none above 0.
    """
    start = number_of(at, "start", columns.get("start"))
    if start is None:
        return path
    seconds = number_of(at, "seconds", columns.get("seconds"))
    if seconds == 0:
        raise FormatError(f"{at}: seconds: expected more than 0 of an excerpt")
    return Excerpt(path, start, seconds)


def number_of(at: str, name: str, value: Any) -> float | None:
    """Return a number of seconds, or None where a column is empty; `at` is for messages."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number <= _MOST:
        raise FormatError(f"{at}: {name}: expected seconds, got {shown_name(repr(value))}")
    return number
