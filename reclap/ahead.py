"""Work done ahead of who needs it, by a few threads, in order and within bounds."""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

__all__ = ["ahead"]

T = TypeVar("T")


def ahead(
    jobs: Iterable[Callable[[], Iterator[T]]], threads: int, room: int
) -> Generator[tuple[int, T], None, None]:
    """Run jobs on threads, each of which makes any number of results one by one.

    Parameters
    ----------
    jobs : iterable of callable
        Each returns an iterator, which runs on one thread. They are taken when a thread is free.
    threads : int
        Jobs that run at once.
    room : int
        Results that wait for the caller, at most; those of the job that is next in turn are not
        counted among the others, so twice as many in the worst case.

    Yields
    ------
    place : int
        Of the job.
    result
        All results of the first job in their order, then those of the second, and so on.

    Notes
    -----
    What a job raises is raised in its turn. When the generator is closed, jobs end at their next
    result.
    """
    queue: _Queue[T] = _Queue(room)
    rest, turn = enumerate(jobs), threading.Lock()

    def work() -> None:
        with contextlib.suppress(_Closed):
            while True:
                with turn:  # opened in order, so that the caller finds each when its turn comes
                    place, job = next(rest, (None, None))
                    if place is None or job is None:
                        queue.finish()
                        return
                    queue.open(place)
                _run(queue, place, job)

    pool = ThreadPoolExecutor(threads, "reclap-ahead")
    try:
        for _ in range(threads):
            pool.submit(work)
        yield from queue.results()
    finally:
        queue.close()
        pool.shutdown()


def _run(queue: "_Queue[T]", place: int, job: Callable[[], Iterator[T]]) -> None:
    try:
        for result in job():
            queue.put(place, result)
        queue.end(place, None)
    except _Closed:
        raise
    except Exception as error:  # raised again where the result is asked for
        queue.end(place, error)


class _Closed(Exception):
    """Nobody wants more results."""


class _Queue(Generic[T]):
    """Results of jobs that are under way, and of those that ended before their turn."""

    def __init__(self, room: int) -> None:
        self._room, self._change = room, threading.Condition()
        self._results: dict[int, deque[T]] = {}
        self._ended: dict[int, Exception | None] = {}
        self._waiting = self._turn = 0
        self._finished = self._closed = False

    def open(self, place: int) -> None:
        with self._change:
            self._results[place] = deque()
            self._change.notify_all()

    def put(self, place: int, result: T) -> None:
        with self._change:
            self._change.wait_for(lambda: self._closed or self._has_room(place))
            if self._closed:
                raise _Closed
            self._results[place].append(result)
            self._waiting += 1
            self._change.notify_all()

    def _has_room(self, place: int) -> bool:
        if place == self._turn:  # whatever the others have made, or nobody could go on
            return len(self._results[place]) < self._room
        return self._waiting < self._room

    def end(self, place: int, error: Exception | None) -> None:
        with self._change:
            self._ended[place] = error
            self._change.notify_all()

    def finish(self) -> None:
        """There are no more jobs."""
        with self._change:
            self._finished = True
            self._change.notify_all()

    def close(self) -> None:
        """Nobody asks for results any more."""
        with self._change:
            self._closed = True
            self._change.notify_all()

    def results(self) -> Iterator[tuple[int, T]]:
        while self._begun():
            while (result := self._next()) is not None:
                yield self._turn, result
            with self._change:
                place, self._turn = self._turn, self._turn + 1
                del self._results[place]
                error = self._ended.pop(place)
                self._change.notify_all()
            if error is not None:
                raise error

    def _begun(self) -> bool:
        """Wait for the job whose turn it is; false if there is none."""
        with self._change:
            self._change.wait_for(lambda: self._turn in self._results or self._finished)
            return self._turn in self._results

    def _next(self) -> T | None:
        """Wait for a result of that job; None at its end."""
        with self._change:
            own = self._results[self._turn]
            self._change.wait_for(lambda: own or self._turn in self._ended)
            if not own:
                return None
            self._waiting -= 1
            self._change.notify_all()
            return own.popleft()
