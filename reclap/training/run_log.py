"""Log of a run: one JSON object a line, cut to the step that a run goes on from."""

import contextlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reclap.io import files
from reclap.io.files import StrPath

__all__ = ["RunLog", "read_log"]


class RunLog:
    """The log of a run, open for appending.

    Parameters
    ----------
    path : Path
        The file; created if absent.
    step : int
        Lines of later steps, and what a kill left of a line, are removed.
    """

    def __init__(self, path: Path, step: int) -> None:
        if path.exists():
            kept = [x for x in path.read_text("utf-8").splitlines() if _step_of(x) <= step]
            files.write_text(path, "".join(f"{line}\n" for line in kept))
        self._lines = path.open("a", encoding="utf-8")

    def write(self, line: Mapping[str, Any]) -> None:
        """Add a line; other processes see it at once."""
        self._lines.write(json.dumps(line) + "\n")
        self._lines.flush()

    def sync(self) -> None:
        """Write all lines to disk."""
        os.fsync(self._lines.fileno())

    def __enter__(self) -> "RunLog":
        """Return the log itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._lines.close()


def read_log(path: StrPath) -> list[dict[str, Any]]:
    r"""Return the lines of a log, without one that is being written.

    Parameters
    ----------
    path : path
        ``log.jsonl`` of a run.

    Returns
    -------
    list of dict
        In the order of the file.

    Raises
    ------
    OSError
        If it cannot be read.

    Examples
    --------
    >>> _ = Path("log.jsonl").write_text('{"step": 1, "loss": 2.3}\n{"step": 2, "lo')
    >>> read_log("log.jsonl")
    [{'step': 1, 'loss': 2.3}]
    """
    lines = Path(path).read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines if _step_of(line) < math.inf]


def _step_of(line: str) -> float:
    """Return the step of a log line, infinity for one that was cut."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return int(json.loads(line)["step"])
    return math.inf
