"""TensorBoard events of a run, by the package ``tensorboard`` alone: the extra ``tensorboard``."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reclap.errors import needs
from reclap.training.callbacks import Callback
from reclap.training.folder import EVENTS
from reclap.training.recipe import Recipe

__all__ = ["TensorBoard"]


class TensorBoard(Callback):
    """Callback that writes a run's log as TensorBoard events, into a folder ``tensorboard`` of it.

    Scalars are called ``train/loss``, ``eval/accuracy`` and so on. A run that goes on from a
    checkpoint hides the steps that are done again.

    Raises
    ------
    MissingDependencyError
        If the package is missing.

    Examples
    --------
    >>> import reclap
    >>> from reclap.training import TensorBoard
    >>> reclap.train("recipes/smoke.toml", "runs/smoke",
    ...              callbacks=[TensorBoard()])  # doctest: +SKIP

    What `train` calls, with numbers of another loop:

    >>> events = TensorBoard()  # doctest: +SKIP
    >>> events.on_begin(None, Path("runs/other"), 0)  # doctest: +SKIP
    >>> events.on_step({"step": 1, "loss": 2.3})  # doctest: +SKIP
    >>> events.on_eval({"step": 1, "eval": {"accuracy": 0.5}})  # doctest: +SKIP
    >>> events.on_save(1, Path("runs/other/step-0000000001"))  # doctest: +SKIP
    >>> events.on_end(None)  # doctest: +SKIP
    """

    def __init__(self) -> None:
        with needs("tensorboard", "writing TensorBoard events", "tensorboard"):
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        self._event, self._summary, self._open = event_pb2, summary_pb2, EventFileWriter
        self._writer: Any = None

    def on_begin(self, recipe: Recipe, folder: Path, step: int) -> None:
        """Open a file of events.

        Parameters
        ----------
        recipe : Recipe
            What is trained.
        folder : Path
            The folder of the run.
        step : int
            Steps done before.
        """
        self._writer = self._open(str(folder / EVENTS))
        start = self._event.SessionLog(status=self._event.SessionLog.START)
        self._add(step + 1, session_log=start)  # events of this step and later ones are void

    def on_step(self, line: Mapping[str, Any]) -> None:
        """Write the numbers of a step.

        Parameters
        ----------
        line : mapping
            Its line of the log.
        """
        numbers = {name: value for name, value in line.items() if name != "step"}
        self._scalars(line["step"], "train", numbers)

    def on_eval(self, line: Mapping[str, Any]) -> None:
        """Write the numbers of an evaluation.

        Parameters
        ----------
        line : mapping
            Its line of the log.
        """
        self._scalars(line["step"], "eval", line["eval"])
        self._writer.flush()

    def on_save(self, step: int, folder: Path) -> None:
        """Write to disk what is buffered.

        Parameters
        ----------
        step : int
            Steps done.
        folder : Path
            The checkpoint.
        """
        self._writer.flush()

    def on_end(self, result: object) -> None:
        """Close the file of events.

        Parameters
        ----------
        result : Result or None
            How the run ended.
        """
        if self._writer is not None:
            self._writer.close()

    def _scalars(self, step: int, group: str, numbers: Mapping[str, Any]) -> None:
        value = self._summary.Summary.Value
        values = [value(tag=tag, simple_value=x) for tag, x in _flat(group, numbers)]
        self._add(step, summary=self._summary.Summary(value=values))

    def _add(self, step: int, **what: Any) -> None:
        self._writer.add_event(self._event.Event(wall_time=time.time(), step=step, **what))


def _flat(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """Yield the numbers of nested mappings, each with the path to it; not what is no number."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{name}/{key}", inner)
    elif isinstance(value, int | float):
        yield name, float(value)
