"""Results of many requests at once, in order, until a server counts as broken."""

import contextlib
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

from reclap.llm.request import StoppedError
from reclap.llm.session import Session
from reclap.runtime.prefetch import prefetch_map

__all__ = ["results_of"]

_AHEAD = 4  # items on their way or waiting for their turn, for each thread
_MOST_FAILURES = 8  # in a row, after which the server is taken to be broken

Item = TypeVar("Item")
Result = TypeVar("Result")


def results_of(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    llm: Session,
    workers: int,
    failure: Callable[[Result], str],
) -> Generator[Result, None, None]:
    """Yield the results of `work`, which asks a language model, in the order of the items.

    Those that failed are held back until one after them succeeds: an item that a server cannot
    digest costs only that item; a server that is gone stops the run before it has failed item after
    item. When the generator is closed early, or an item raises, no further request starts; those on
    their way are awaited, so that their replies are kept; by Ctrl-C they are given up.

    Parameters
    ----------
    work : callable
        Called in one of several threads.
    items : iterable
        Read in the calling thread.
    llm : Session
        Session that `work` uses; stopped if the generator ends early.
    workers : int
        Threads.
    failure : callable
        Why a result failed; empty if it did not.

    Raises
    ------
    StoppedError
        If eight results in a row failed, or all.
    """

    def interrupt(at_once: bool) -> None:
        (llm.abort if at_once else llm.stop)()

    held: list[Result] = []
    any_good = False
    found = prefetch_map(work, items, workers, _AHEAD * workers, interrupt=interrupt)
    with contextlib.closing(found):
        for result in found:
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
