"""Standard output and error: filtered, so that text from files cannot steer a terminal; reports."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Any, Protocol, TextIO

from reclap.errors import printable

__all__ = ["filtered", "print_report"]


class _Report(Protocol):
    def to_json(self) -> dict[str, Any]: ...


class _Filtered:
    """Text stream that escapes control characters, and names itself in errors.

    Attributes
    ----------
    unfiltered : file object
        The stream underneath, for progress bars.
    """

    def __init__(self, stream: TextIO | None, name: str) -> None:
        self.unfiltered, self._name = stream, name

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unfiltered, name)

    def write(self, text: str) -> int:
        """Write text."""
        with self._named():
            if self.unfiltered is None:
                raise OSError(9, os.strerror(9))
            self.unfiltered.write(printable(text))
        return len(text)

    def flush(self) -> None:
        """Flush the buffer."""
        with self._named():
            if self.unfiltered is not None:
                self.unfiltered.flush()

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._name) from error


@contextlib.contextmanager
def filtered() -> Iterator[None]:
    """Filter everything printed in the block."""
    before = sys.stdout, sys.stderr
    sys.stdout = _Filtered(sys.stdout, "standard output")
    sys.stderr = _Filtered(sys.stderr, "standard error")
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def print_report(report: _Report, *, as_json: bool) -> None:
    """Print a report as one JSON object, or for a person."""
    print(json.dumps(report.to_json()) if as_json else report)
