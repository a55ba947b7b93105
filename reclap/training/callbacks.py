"""Callbacks of a run: what a caller hears of it while it goes on."""

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reclap.errors import one_line

if TYPE_CHECKING:
    from reclap.training.loop import Result
    from reclap.training.recipe import Recipe

__all__ = ["Callback", "Callbacks"]

log = logging.getLogger(__name__)


class Callback:
    """What a caller hears of a run: a class to inherit from, whose methods do nothing.

    Any object that has at least one of these methods will do. They are called in the process and
    thread that trains, one after the other, in the order of the callbacks. An exception of one
    ends the run after a checkpoint of the steps done, and reaches the caller of `train`.

    Examples
    --------
    >>> class Watch(Callback):
    ...     def on_step(self, line):
    ...         if line["grad_norm"] > 100:
    ...             raise RuntimeError(f"step {line['step']}: the gradient explodes")
    >>> Watch().on_begin(None, Path("runs/first"), 0)
    >>> Watch().on_step({"step": 3, "loss": 2.3, "grad_norm": 1.5})
    >>> Watch().on_eval({"step": 3, "eval": {"accuracy": 0.5}})
    >>> Watch().on_save(3, Path("runs/first/step-0000000003"))
    >>> Watch().on_end(None)
    """

    def on_begin(self, recipe: "Recipe", folder: Path, step: int) -> None:
        """Hear that the run begins, or goes on.

        Parameters
        ----------
        recipe : Recipe
            What is trained, and how.
        folder : Path
            The folder of the run.
        step : int
            Steps done before.
        """

    def on_step(self, line: Mapping[str, Any]) -> None:
        """Hear of a step.

        Parameters
        ----------
        line : mapping
            Its line in ``log.jsonl``: ``step`` (from 1), ``loss``, ``lr`` and so on.
        """

    def on_eval(self, line: Mapping[str, Any]) -> None:
        """Hear of an evaluation.

        Parameters
        ----------
        line : mapping
            Its line in ``log.jsonl``: ``step`` and ``eval``.
        """

    def on_save(self, step: int, folder: Path) -> None:
        """Hear of a checkpoint.

        Parameters
        ----------
        step : int
            Steps done.
        folder : Path
            The checkpoint, a model folder, complete on disk.
        """

    def on_end(self, result: "Result | None") -> None:
        """Hear that the run has ended.

        Parameters
        ----------
        result : Result or None
            What `train` will return; None where an exception ends it.
        """


_METHODS = tuple(name for name in vars(Callback) if name.startswith("on_"))


class Callbacks:
    """Several callbacks as one.

    Parameters
    ----------
    items, more : iterable of object
        See `Callback`; those of the caller, and others after them.

    Attributes
    ----------
    failed : Exception or None
        What one of them raised.

    Raises
    ------
    TypeError
        If they are no list, or one has none of the methods, or one that cannot be called.
    """

    def __init__(self, items: Iterable[object], more: Iterable[object] = ()) -> None:
        wanted = f"objects with some of {', '.join(_METHODS)}"
        if not isinstance(items, Iterable):
            raise TypeError(f"callbacks: expected a list of {wanted}, got {items!r}")
        self._items = [*items, *more]
        self.failed: Exception | None = None
        for item in self._items:
            found = [getattr(item, name) for name in _METHODS if hasattr(item, name)]
            if not found or isinstance(item, type) or not all(map(callable, found)):
                raise TypeError(f"callbacks: expected {wanted}, got {item!r}")

    def begin(self, recipe: "Recipe", folder: Path, step: int) -> None:
        """Call `Callback.on_begin` of all."""
        self._call("on_begin", recipe, folder, step)

    def step(self, line: Mapping[str, Any]) -> None:
        """Call `Callback.on_step` of all."""
        self._call("on_step", line)

    def eval(self, line: Mapping[str, Any]) -> None:
        """Call `Callback.on_eval` of all."""
        self._call("on_eval", line)

    def save(self, step: int, folder: Path) -> None:
        """Call `Callback.on_save` of all."""
        self._call("on_save", step, folder)

    def end(self, result: "Result | None") -> None:
        """Call `Callback.on_end` of all, also where some of them fail, then raise the first fault.

        Where an exception ends the run, that one counts, and faults of this call are only logged.
        """
        faults = []
        for method in self._named("on_end"):
            try:
                method(result)
            except Exception as error:
                faults.append(error)
        for fault in faults[result is not None :]:
            log.warning("a callback failed at the end of the run: %s", one_line(fault))
        if faults and result is not None:
            raise faults[0]

    def _named(self, name: str) -> list[Callable[..., None]]:
        return [getattr(item, name) for item in self._items if hasattr(item, name)]

    def _call(self, name: str, *arguments: object) -> None:
        for method in self._named(name):
            try:
                method(*arguments)
            except Exception as error:
                self.failed = error
                raise
