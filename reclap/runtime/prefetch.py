"""Ordered, bounded prefetching on threads.

The one prefetcher of the package: for log-mels of sounds (`reclap.audio`), training batches
(`reclap.training`) and requests to language models (`reclap.llm`).
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
    size: int,
    *,
    ahead: int | None = None,
    interrupt: Callable[[bool], None] | None = None,
) -> Generator[tuple[int, T], None, None]:
    """Prefetch the results of jobs, each of which yields any number, on threads.

    Parameters
    ----------
    jobs : iterable of callable
        Each returns an iterable, which one thread consumes. Jobs are taken in the calling thread,
        while it asks for results.
    threads : int
        Maximum number of jobs that run at once.
    size : int
        Maximum number of buffered results. The job being consumed has its own quota, so at most
        ``2 * size`` are held, and one more by each thread.
    ahead : int, optional
        Maximum number of jobs that are queued, running, or ended and not yet consumed;
        ``size + threads`` by default.
    interrupt : callable, optional
        Called when the generator ends early, before running jobs are awaited; with True where
        Ctrl-C ended it, after which running jobs should be cancelled.

    Yields
    ------
    index : int
        Index of the job.
    result
        All results of the first job in their order, then those of the second, and so on.

    Raises
    ------
    ValueError
        If `threads`, `size` or `ahead` is not positive.
    BaseException
        Exception of a job, after the job's last result; exception of `jobs`, after the results of
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
    ahead = size + threads if ahead is None else ahead
    if min(threads, size, ahead) < 1:
        raise ValueError(
            f"threads is {threads}, size {size} and ahead {ahead}, expected at least 1 of each"
        )
    return _run(iter(jobs), threads, _Buffer(size), ahead, interrupt)


def prefetch_map(
    function: Callable[[Item], T],
    items: Iterable[Item],
    threads: int,
    ahead: int,
    *,
    interrupt: Callable[[bool], None] | None = None,
) -> Generator[T, None, None]:
    """Map a function over items on threads, in order, with at most `ahead` results prefetched.

    Parameters
    ----------
    function : callable
        Called in one of several threads.
    items : iterable
        Read in the calling thread.
    threads : int
        Maximum number of calls that run at once.
    ahead : int
        Maximum number of prefetched results.
    interrupt : callable, optional
        As in `prefetch`.

    Yields
    ------
    result
        ``function(item)`` for each item, in order.

    Raises
    ------
    ValueError
        As `prefetch`.
    BaseException
        Exception of `function` or `items`, in its turn.
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
    """End the job that calls this if its results are no longer wanted; elsewhere do nothing.

    For jobs that may wait for ever, such as for a silent pipe. Ends them by an exception that they
    let pass.
    """
    buffer = getattr(_worker, "buffer", None)
    if buffer is not None:
        buffer.check()


_worker = threading.local()  # of a thread that works for a buffer: that buffer, and its bell


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
                        "this process is a fork of the one that began to prefetch, and has none of "
                        "its threads; start again in it"
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
    """Tell whether the exception being handled is, or was raised from, a KeyboardInterrupt."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


class _Collecting:
    """Callback that records the thread of a running garbage collection."""

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
    buffer.join()
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
    """Signal that no more results are wanted."""


class _Buffer(Generic[T]):
    """Buffer of queued jobs, and of results that wait for their turn.

    Attributes
    ----------
    turn : int
        Index of the job that is being consumed.

    Notes
    -----
    The handler of a signal may raise anywhere in the calling thread, a condition of `threading`
    would then stay locked, or half notified. Whoever waits here waits for a lock of its own, its
    bell: open once it was rung, and closed again by the wait. Ringing twice does no harm.
    What is left is the start of a worker, for which `threading` waits by a condition of its own.
    """

    def __init__(self, size: int) -> None:
        self._size, self._lock = size, threading.RLock()
        self._bell = threading.Lock()  # of the calling thread
        self._bells: list[threading.Lock] = []  # of the workers
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
        with self._lock:
            self._results[self._submitted] = deque()
            self._jobs.append((self._submitted, job))
            self._submitted += 1
            self._ring_workers()

    def results(self) -> Iterator[T]:
        """Yield the results of the job whose turn it is, then raise its exception."""
        index = self.turn
        own = self._results[index]
        while True:
            with self._lock:
                self._caller = threading.current_thread()
                is_ready, is_over = bool(own), index in self._ended
                if is_ready:
                    self._waiting -= 1
                    self._ring_workers()
                    result = own.popleft()
            if is_ready:
                yield result
            elif is_over:
                break
            else:
                self._bell.acquire()
        with self._lock:
            del self._results[index]
            error = self._ended.pop(index)
            self.turn += 1
            self._ring_workers()
        if error is not None:
            raise error

    def close(self) -> None:
        """Stop all jobs: no more results are wanted."""
        with self._lock:
            self._closed = True
            self._ring_workers()

    def _ring_workers(self) -> None:
        for bell in self._bells:
            self._ring(bell)

    @staticmethod
    def _ring(bell: threading.Lock) -> None:
        """Wake who waits for a bell; under the buffer's lock."""
        if bell.locked():
            bell.release()

    # ---- Workers -----------------------------------------------------------------------------

    def join(self) -> None:
        """Give the thread that calls this a bell."""
        _worker.buffer, _worker.bell = self, threading.Lock()
        with self._lock:
            self._bells.append(_worker.bell)

    def take(self) -> tuple[int, Callable[[], Iterable[T]]]:
        with self._lock:
            self._wait(lambda: bool(self._jobs))
            return self._jobs.popleft()

    def put(self, index: int, result: T) -> None:
        with self._lock:
            self._wait(lambda: self._has_space(index))
            self._results[index].append(result)
            self._waiting += 1
            self._ring(self._bell)

    def end(self, index: int, error: BaseException | None) -> None:
        with self._lock:
            self._ended[index] = error
            self._ring(self._bell)

    def _has_space(self, index: int) -> bool:
        if index == self.turn:  # whatever the others have made, or nobody could go on
            return len(self._results[index]) < self._size
        return self._waiting < self._size

    def _wait(self, ready: Callable[[], bool]) -> None:
        """Wait in a worker that holds the lock; see `check`."""
        while not (self._closed or ready()):
            self._lock.release()
            try:
                _worker.bell.acquire(timeout=_POLL)
            finally:
                self._lock.acquire()
            self.check()
        self.check()

    def check(self) -> None:
        """Raise `_Closed` if no more results are wanted, or the program is ending.

        Python ends once the main thread has, and all others but daemons.
        """
        caller = self._caller
        goes_on = threading.main_thread().is_alive() or (caller.is_alive() and not caller.daemon)
        if self._closed or not goes_on:
            raise _Closed
