"""Many requests on their way at once, results in order, memory bounded."""

import contextlib
import sys
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

from reclap.llm.request import StoppedError
from reclap.llm.session import Session
from reclap.runtime.prefetch import prefetch_map

__all__ = ["ordered", "unbroken"]

_AHEAD = 4  # items on their way or waiting for their turn, for each thread
_MOST_FAILURES = 8  # in a row, after which the server is taken to be broken

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered(
    work: Callable[[Item], Result], items: Iterable[Item], llm: Session, workers: int
) -> Generator[Result, None, None]:
    """Yield the results of `work`, which asks `llm`, in the order of the items.

    When the generator is closed early, or an item raises, no further request starts; those on
    their way are awaited, so that their replies are kept; by Ctrl-C they are given up. See
    `reclap.runtime.prefetch.prefetch_map`.
    """

    def interrupt() -> None:
        (llm.abort if _is_interrupted() else llm.stop)()

    return prefetch_map(work, items, workers, _AHEAD * workers, interrupt=interrupt)


def _is_interrupted() -> bool:
    """Tell whether the exception that is being handled is, or came of, a KeyboardInterrupt."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def unbroken(
    results: Generator[Result, None, None], failure: Callable[[Result], str]
) -> Generator[Result, None, None]:
    """Yield results, but hold back those that failed until one after them succeeds.

    One item that a server cannot digest costs only that item; a server that is gone stops the run
    before it has failed item after item.

    Parameters
    ----------
    results : generator
        In order; closed at the end.
    failure : callable
        Why a result failed; empty if it did not.

    Raises
    ------
    StoppedError
        If eight results in a row failed, or all.
    """
    held: list[Result] = []
    any_good = False
    with contextlib.closing(results):
        for result in results:
            if failure(result):
                held.append(result)
                if len(held) == _MOST_FAILURES:
                    break
                continue
            any_good = True
            yield from held
            held.clear()
            yield result
    if held and (len(held) == _MOST_FAILURES or not any_good):
        raise StoppedError(f"{len(held)} in a row failed, the last with {failure(held[-1])}")
    yield from held
