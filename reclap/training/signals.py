"""Signals that end a run after the current step, or in the wait for a batch."""

import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from reclap.training.data import Batch

__all__ = ["Signals"]


class Signals:
    """Catch SIGINT and SIGTERM; the second one interrupts at once, whatever is being done.

    Does nothing outside the main thread, where Python allows no handlers.

    Attributes
    ----------
    caught : str
        Name of the first signal; empty before.
    """

    def __init__(self) -> None:
        self.caught = ""
        self._is_waiting = False
        self._before: dict[int, Any] = {}

    def next(self, found: Iterator[Batch]) -> Batch | None:
        """Return the next batch; None at the end, or where a signal comes before the batch does."""
        try:
            try:
                self._is_waiting = True
                return None if self.caught else next(found, None)
            finally:
                self._is_waiting = False
        except _StoppedError:
            return None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.caught:
            raise KeyboardInterrupt
        self.caught = signal.Signals(number).name
        if self._is_waiting:
            raise _StoppedError

    def __enter__(self) -> "Signals":
        """Begin to catch."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        """Put the handlers back."""
        for number, before in self._before.items():
            signal.signal(number, before)


class _StoppedError(KeyboardInterrupt):
    """A signal came while a batch was awaited."""
