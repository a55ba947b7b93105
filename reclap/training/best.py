"""The best evaluation of a run so far, which early stopping and the best checkpoint go by."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from reclap.errors import FormatError

__all__ = ["Best", "measure"]

log = logging.getLogger(__name__)


def _retrieval(found: Mapping[str, Any]) -> float:
    """Return the mean of mAP@10 of both directions, by which LAION-CLAP chooses its models."""
    ways = found["retrieval"].values()
    return sum(float(way["mAP@10"]) for way in ways) / len(ways)


# What `eval.best` may be, from the results of an evaluation; the greatest is the best.
_MEASURES: Mapping[str, Callable[[Mapping[str, Any]], float]] = MappingProxyType(
    {
        "accuracy": lambda found: float(found["accuracy"]),
        "loss": lambda found: -float(found["loss"]),
        "retrieval": _retrieval,
    }
)


def measure(name: str, found: Mapping[str, Any]) -> float:
    """Return what `eval.best` names of the results of an evaluation; the greater, the better."""
    return _MEASURES[name](found)


@dataclasses.dataclass(frozen=True)
class Best:
    """The best evaluation so far, as ``state.json`` holds it.

    Attributes
    ----------
    by : str
        What is compared, `eval.best` of the recipe; empty: nothing, and no evaluation is better.
    step : int
        Steps done before the best evaluation; -1 before the first one.
    value : float
        See `measure`.
    waited : int
        Evaluations since.
    """

    by: str = ""
    step: int = -1
    value: float = 0.0
    waited: int = 0

    @classmethod
    def of_state(cls, state: Mapping[str, Any] | None, by: str, where: str) -> "Best":
        """Go on from a checkpoint: from nothing, where it compared something else.

        Parameters
        ----------
        state : mapping or None
            What `state.json` says; None for nothing.
        by : str
            `eval.best` of the recipe; empty: the state is kept as it is.
        where : str
            The checkpoint, for messages.

        Raises
        ------
        FormatError
            If it is not such a state.
        """
        if state is None:
            return cls(by)
        try:
            best = cls(
                str(state["by"]), int(state["step"]), float(state["value"]), int(state["waited"])
            )
        except (KeyError, TypeError, ValueError) as error:
            fault = f"{where}: not the state of the best evaluation: {error!r}"
            raise FormatError(fault) from error
        if by and best.by and best.by != by:
            log.warning("eval.best was %s, now %s: the best evaluation is found anew", best.by, by)
        return best if best.by == by or not by else cls(by)

    def after(self, step: int, found: Mapping[str, Any]) -> "Best":
        """Return the best after one more evaluation: of its step, if it is better."""
        value = measure(self.by, found)
        if value > self.value or (self.step < 0 and value == value):  # a NaN is never better
            return Best(self.by, step, value)
        return dataclasses.replace(self, waited=self.waited + 1)
