"""Ordered, bounded prefetching on threads.

The one prefetcher of the package: sounds on their way to a tower (`reclap.audio`), batches of
training (`reclap.training`), requests to a language model (`reclap.llm`).
"""

import contextlib
import gc
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from typing import Generic, TypeVar

__all__ = ["check_wanted", "prefetch", "prefetch_map"]

T = TypeVar("T")
Item = TypeVar("Item")

_POLL = 1.0  # seconds after which a waiting worker looks whether the program is ending


def prefetch(
    jobs: Iterable[Callable[[], Iterable[T]]],
    threads: int,
    room: int,
    *,
    ahead: int | None = None,
    interrupt: Callable[[bool], None] | None = None,
) -> Generator[tuple[int, T], None, None]:
    """Run jobs on threads, each of which yields any number of results one by one.

    Parameters
    ----------
    jobs : iterable of callable
        Each returns an iterable, which one thread consumes. Jobs are taken in the calling thread,
        while it asks for results.
    threads : int
        Maximum number of jobs that run at once.
    room : int
        Maximum number of buffered results. The job being consumed has its own quota, so at most
        ``2 * room`` are held, and one in the hand of each thread.
    ahead : int, optional
        Maximum number of jobs that are queued, running, or ended and not yet consumed;
        ``room + threads`` by default.
    interrupt : callable, optional
        Called when the generator ends early, before running jobs are awaited; with True where
        Ctrl-C ended it, after which what runs should be given up.

    Yields
    ------
    index : int
        Index of the job.
    result
        All results of the first job in their order, then those of the second, and so on.

    Raises
    ------
    ValueError
        If `threads`, `room` or `ahead` is not positive.
    BaseException
        What a job raises, after the job's last result; what `jobs` raises, after the results of
        the jobs that it gave.
    RuntimeError
        If the process was forked meanwhile, in its child, which has none of the threads.

    Notes
    -----
    Threads start with the first result that is asked for. When the generator is closed or raises,
    queued jobs never start, running ones end at their next result, and all threads are awaited, but
    where the garbage collector closes it. A generator that is neither closed nor consumed does not
    keep the interpreter from exiting.
    """
    ahead = room + threads if ahead is None else ahead
    if min(threads, room, ahead) < 1:
        raise ValueError(
            f"threads is {threads}, room {room} and ahead {ahead}, expected at least 1 of each"
        )
    return _run(iter(jobs), threads, _Buffer(room), ahead, interrupt)


def prefetch_map(
    function: Callable[[Item], T],
    items: Iterable[Item],
    threads: int,
    ahead: int,
    *,
    interrupt: Callable[[bool], None] | None = None,
) -> Generator[T, None, None]:
    """Yield ``function(item)`` in the order of the items, at most `ahead` of them computed early.

    Parameters
    ----------
    function : callable
        Called in one of several threads.
    items : iterable
        Read in the calling thread.
    threads, ahead, interrupt
        As in `prefetch`.

    Raises
    ------
    ValueError
        As `prefetch`.
    BaseException
        What `function` or `items` raises, in its turn.
    """
    jobs = (partial(_single, function, item) for item in items)
    found = prefetch(jobs, threads, ahead, ahead=ahead, interrupt=interrupt)
    return _values(found)


def _single(function: Callable[[Item], T], item: Item) -> Iterator[T]:
    yield function(item)


def _values(found: Generator[tuple[int, T], None, None]) -> Generator[T, None, None]:
    with contextlib.closing(found):
        for _, value in found:
            yield value


def check_wanted() -> None:
    """End the job that calls this if nobody wants its results any more; elsewhere do nothing.

    For jobs that wait for what may never come. Ends them by an exception that they let pass.
    """
    buffer = getattr(_worker, "buffer", None)
    if buffer is not None:
        buffer.check()


_worker = threading.local()  # the buffer of a thread that works for one


def _run(
    jobs: Iterator[Callable[[], Iterable[T]]],
    threads: int,
    buffer: "_Buffer[T]",
    ahead: int,
    interrupt: Callable[[bool], None] | None,
) -> Generator[tuple[int, T], None, None]:
    workers: list[threading.Thread] = []
    owner = os.getpid()
    failure: BaseException | None = None
    more, complete = True, False
    try:
        while True:
            while more and buffer.pending < ahead:
                try:
                    job = next(jobs)
                except StopIteration:
                    more = False
                    break
                except Exception as error:  # raised once the jobs before it are consumed
                    more, failure = False, error
                    break
                buffer.submit(job)
                del job  # its arguments may be large
                if len(workers) < threads:
                    workers.append(_start(buffer))
            if not buffer.pending:
                break
            for result in buffer.results():
                yield buffer.turn, result
                if os.getpid() != owner:
                    raise RuntimeError(
                        "this process is a fork of the one that began to read ahead, whose threads "
                        "it does not have; begin anew in it"
                    )
        if failure is not None:
            raise failure
        complete = True
    finally:
        if os.getpid() == owner:  # in the child of a fork a lock may be held for ever
            _end(workers, buffer, None if complete else interrupt)


def _end(
    workers: list[threading.Thread], buffer: "_Buffer[T]", interrupt: Callable[[bool], None] | None
) -> None:
    buffer.close()
    if interrupt is not None:
        interrupt(_is_interrupted())
    # A thread that drops the generator itself is not awaited, and none where the garbage collector
    # frees it: in the middle of anything, with any lock held, those of `threading` too.
    here = threading.get_ident()
    if _collecting.thread != here and all(worker.ident != here for worker in workers):
        for worker in workers:
            worker.join()


def _is_interrupted() -> bool:
    """Tell whether the exception that is being handled is, or came of, a KeyboardInterrupt."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


class _Collecting:
    """The thread in which the garbage collector is at work, if it is."""

    thread: int | None = None

    def __call__(self, phase: str, _: dict[str, int]) -> None:
        self.thread = threading.get_ident() if phase == "start" else None


_collecting = _Collecting()
gc.callbacks.append(_collecting)


def _start(buffer: "_Buffer[T]") -> threading.Thread:
    worker = threading.Thread(target=_work, args=(buffer,), name="reclap-prefetch")
    worker.start()
    return worker


def _work(buffer: "_Buffer[T]") -> None:
    _worker.buffer = buffer
    with contextlib.suppress(_Closed):
        while True:
            index, job = buffer.take()
            try:
                _produce(buffer, index, job)
            except _Closed:
                raise
            except BaseException as error:  # raised again where the result is asked for
                buffer.end(index, error)
            else:
                buffer.end(index, None)
            del job  # its arguments may be large, and the next one may be long in coming


def _produce(buffer: "_Buffer[T]", index: int, job: Callable[[], Iterable[T]]) -> None:
    results = job()
    try:
        for result in results:
            buffer.put(index, result)
    finally:
        close = getattr(results, "close", None)
        if close is not None:
            close()


class _Closed(BaseException):
    """Nobody wants more results."""


class _Buffer(Generic[T]):
    """Queued jobs, and the results of those that run or have ended before their turn.

    Attributes
    ----------
    turn : int
        Index of the job that is being consumed.
    """

    def __init__(self, room: int) -> None:
        self._room, self._change = room, threading.Condition()
        self._jobs: deque[tuple[int, Callable[[], Iterable[T]]]] = deque()
        self._results: dict[int, deque[T]] = {}
        self._ended: dict[int, BaseException | None] = {}
        self._waiting = self._submitted = self.turn = 0
        self._closed = False
        self._caller = threading.current_thread()

    # ---- The calling thread ------------------------------------------------------------------

    @property
    def pending(self) -> int:
        """Number of jobs that were submitted and are not yet consumed."""
        return self._submitted - self.turn

    def submit(self, job: Callable[[], Iterable[T]]) -> None:
        with self._change:
            self._results[self._submitted] = deque()
            self._jobs.append((self._submitted, job))
            self._submitted += 1
            self._change.notify_all()

    def results(self) -> Iterator[T]:
        """Yield the results of the job whose turn it is, then raise what it raised."""
        index = self.turn
        own = self._results[index]
        while True:
            with self._change:
                self._caller = threading.current_thread()
                self._change.wait_for(lambda: own or index in self._ended)
                if not own:
                    break
                self._waiting -= 1
                self._change.notify_all()
                result = own.popleft()
            yield result
        with self._change:
            del self._results[index]
            error = self._ended.pop(index)
            self.turn += 1
            self._change.notify_all()
        if error is not None:
            raise error

    def close(self) -> None:
        """Nobody asks for results any more."""
        with self._change:
            self._closed = True
            self._change.notify_all()

    # ---- Workers -----------------------------------------------------------------------------

    def take(self) -> tuple[int, Callable[[], Iterable[T]]]:
        with self._change:
            self._wait(lambda: bool(self._jobs))
            return self._jobs.popleft()

    def put(self, index: int, result: T) -> None:
        with self._change:
            self._wait(lambda: self._has_room(index))
            self._results[index].append(result)
            self._waiting += 1
            self._change.notify_all()

    def end(self, index: int, error: BaseException | None) -> None:
        with self._change:
            self._ended[index] = error
            self._change.notify_all()

    def _has_room(self, index: int) -> bool:
        if index == self.turn:  # whatever the others have made, or nobody could go on
            return len(self._results[index]) < self._room
        return self._waiting < self._room

    def _wait(self, ready: Callable[[], bool]) -> None:
        """Wait in a worker; see `check`."""
        while not self._change.wait_for(lambda: self._closed or ready(), _POLL):
            self.check()
        self.check()

    def check(self) -> None:
        """Raise `_Closed` if nobody wants more results, or nobody can ask: the program is ending.

        Python ends once the main thread has, and all others but daemons.
        """
        caller = self._caller
        goes_on = threading.main_thread().is_alive() or (caller.is_alive() and not caller.daemon)
        if self._closed or not goes_on:
            raise _Closed
