"""Ordered, bounded prefetching."""

import collections
import contextlib
import gc
import itertools
import signal
import subprocess
import sys
import threading
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reclap.runtime.prefetch import check_wanted, prefetch, prefetch_map

pytestmark = pytest.mark.timeout(120)

WAIT = 60.0  # seconds after which a test counts as stuck


def workers():
    return [t for t in threading.enumerate() if t.name.startswith("reclap-prefetch")]


@given(
    st.lists(st.lists(st.one_of(st.none(), st.integers()), max_size=6), max_size=12),
    st.integers(1, 5),
    st.integers(1, 20),
    st.one_of(st.none(), st.integers(1, 20)),
)
@settings(deadline=None, max_examples=60)
def test_results_come_in_order_whatever_they_are(jobs, threads, size, ahead):
    found = list(prefetch([job.__iter__ for job in jobs], threads, size, ahead=ahead))
    assert found == [(i, result) for i, job in enumerate(jobs) for result in job]
    assert not workers()


def test_no_more_is_made_than_there_is_room_for():
    made = []

    def job(i):
        for j in itertools.count():
            made.append((i, j))
            yield i, j

    found = prefetch([lambda i=i: job(i) for i in range(3)], 3, 10)
    for n in range(200):
        assert next(found) == (0, (0, n))
        # The first job's room, the others' room, what each thread waits with, and what was taken.
        assert len(made) <= 2 * 10 + 3 + n + 1
    found.close()
    count = len(made)
    assert not workers()  # closing ended endless jobs
    assert len(made) == count


def test_items_are_read_no_further_than_asked_for():
    read = []

    def items():
        for i in itertools.count():
            read.append(i)
            yield i

    found = prefetch_map(lambda i: i * i, items(), threads=2, ahead=5)
    assert [next(found) for _ in range(10)] == [i * i for i in range(10)]
    assert len(read) <= 10 + 5
    found.close()


def test_threads_work_at_once():
    barrier = threading.Barrier(3)
    found = prefetch_map(lambda _: barrier.wait(WAIT), range(6), threads=3, ahead=3)
    assert sorted(found) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt, StopIteration])
def test_what_a_job_raises_comes_in_its_turn(threads, kind):
    class Job:
        def __init__(self, i):
            self.rest = iter([i, i])

        def __iter__(self):
            return self

        def __next__(self):
            i = next(self.rest)
            if i == 2:
                raise kind("job 2")
            return i

    found = prefetch([lambda i=i: Job(i) for i in range(5)], threads, 4)
    if kind is StopIteration:  # an iterator's own way to end
        assert list(found) == [(i, i) for i in (0, 1, 3, 4) for _ in range(2)]
        return
    assert [next(found) for _ in range(4)] == [(0, 0), (0, 0), (1, 1), (1, 1)]
    with pytest.raises(kind, match="job 2"):
        next(found)
    assert not workers()


def test_what_a_function_raises_comes_in_its_turn():
    found = prefetch_map(lambda i: 6 // (i - 2), range(5), threads=2, ahead=3)
    assert [next(found), next(found)] == [-3, -6]
    with pytest.raises(ZeroDivisionError):
        next(found)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_what_the_jobs_raise_comes_after_all_of_their_results(threads):
    def jobs():
        yield lambda: iter("ab")
        yield lambda: iter("c")
        raise OSError("no more jobs")

    found = prefetch(jobs(), threads, 1)
    assert [next(found) for _ in range(3)] == [(0, "a"), (0, "b"), (1, "c")]
    with pytest.raises(OSError, match="no more jobs"):
        next(found)
    assert not workers()


def test_closing_early_drops_queued_jobs_and_interrupts_running_ones():
    begun, told, stop = [], [], threading.Event()

    def interrupt(at_once):
        told.append(at_once)
        stop.set()

    def work(i):
        begun.append(i)
        if i:
            assert stop.wait(WAIT)  # what interrupts comes before what waits
        return i

    found = prefetch_map(work, range(100), threads=2, ahead=10, interrupt=interrupt)
    assert next(found) == 0
    found.close()
    assert told == [False]
    assert len(begun) <= 3
    assert not workers()


@pytest.mark.parametrize("where", ["items", "function", "consumer", "what it led to"])
def test_jobs_are_told_of_ctrl_c(where):
    told = []

    def items():
        yield 0
        if where == "items":
            raise KeyboardInterrupt

    def function(item):
        if where == "function":
            raise KeyboardInterrupt
        return item

    def consume():
        found = prefetch_map(function, items(), 1, 1, interrupt=told.append)
        with contextlib.closing(found):
            for _ in found:
                if where == "consumer":
                    raise KeyboardInterrupt
                if where == "what it led to":
                    try:
                        raise KeyboardInterrupt
                    finally:
                        raise OSError("disk full")

    with pytest.raises((KeyboardInterrupt, OSError)):
        consume()
    assert told == [True]


def test_a_complete_run_is_not_interrupted():
    calls = []
    assert list(prefetch_map(abs, [-1], 1, 1, interrupt=calls.append)) == [1]
    assert not calls


def test_a_job_that_is_left_early_is_closed():
    closed = threading.Event()

    def job():
        try:
            yield from itertools.count()
        finally:
            closed.set()

    found = prefetch([job], 1, 2)
    next(found)
    found.close()
    assert closed.is_set()


def test_nothing_starts_before_the_first_result_is_asked_for():
    found = prefetch([lambda: iter("a")], 1, 1)
    assert not workers()
    assert list(found) == [(0, "a")]


@pytest.mark.parametrize(("threads", "size", "ahead"), [(0, 1, None), (1, 0, 1), (1, 1, 0)])
def test_bounds_below_one_are_refused_at_once(threads, size, ahead):
    with pytest.raises(ValueError, match="expected at least 1"):
        prefetch([], threads, size, ahead=ahead)


def test_a_generator_left_open_does_not_hold_the_interpreter():
    code = (
        "import itertools; from reclap.runtime.prefetch import prefetch; "
        "found = prefetch([itertools.count] * 3, 2, 2); print(next(found))"
    )
    run = subprocess.run([sys.executable, "-c", code], timeout=WAIT, capture_output=True, text=True)  # noqa: S603
    assert (run.returncode, run.stdout, run.stderr) == (0, "(0, 0)\n", "")


def test_a_thread_may_go_on_asking_when_the_main_thread_has_ended():
    code = """
import threading, time
from reclap.runtime import prefetch
prefetch._POLL = 0.01

def work():
    threading.main_thread().join()
    found = prefetch.prefetch([range(5).__iter__] * 3, 2, 2)
    for i, value in found:
        time.sleep(0.05)  # so that workers wait for room, and look whether the program is ending
        print(i, value)

threading.Thread(target=work).start()
"""
    run = subprocess.run([sys.executable, "-c", code], timeout=WAIT, capture_output=True, text=True)  # noqa: S603
    expected = "".join(f"{i} {value}\n" for i in range(3) for value in range(5))
    assert (run.returncode, run.stdout, run.stderr) == (0, expected, "")


@pytest.mark.parametrize("daemon", [False, True])
def test_a_generator_that_a_thread_left_open_does_not_hold_the_interpreter(daemon):
    code = f"""
import itertools, threading
from reclap.runtime import prefetch
prefetch._POLL = 0.01
found = prefetch.prefetch([itertools.count] * 3, 2, 2)
begun = threading.Event()

def work():
    next(found), begun.set()
    if {daemon}:
        threading.Event().wait()

next(found)  # threads that a daemon starts are daemons, too
threading.Thread(target=work, daemon={daemon}).start()
begun.wait()
"""
    run = subprocess.run([sys.executable, "-c", code], timeout=WAIT, capture_output=True, text=True)  # noqa: S603
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_a_job_may_ask_whether_it_is_wanted():
    check_wanted()  # in no job
    asked, caught = threading.Event(), []

    def job():
        yield 0
        try:
            while True:
                check_wanted()
                asked.set()
        except Exception as error:
            caught.append(error)

    found = prefetch([job], 1, 1)
    next(found)
    asked.wait()
    found.close()
    assert not workers()
    assert not caught  # a job cannot take it for a fault of its own


def test_a_generator_may_be_collected_by_one_of_its_threads():
    dropped, over = threading.Event(), threading.Event()

    def job(turn):
        yield turn
        if turn == 0:
            dropped.wait()
            gc.collect()
            over.set()
        yield turn

    found = prefetch([partial(job, 0), partial(job, 1)], 2, 4)
    cycle = [found, next(found)]
    cycle.append(cycle)
    workers = [t for t in threading.enumerate() if t.name == "reclap-prefetch"]
    gc.disable()  # or it is this thread that collects
    try:
        del found, cycle
        dropped.set()
        over.wait()
    finally:
        gc.enable()
    for worker in workers:
        worker.join()
    assert len(workers) == 2


def test_the_garbage_collector_waits_for_no_job():
    """It works in the middle of anything, such as with a lock that the job wants."""
    lock, inside = threading.Lock(), threading.Event()

    def job():
        yield 0
        inside.set()
        with lock:
            yield 1

    found = prefetch([job], 1, 4)
    with lock:
        cycle = [found, next(found)]
        cycle.append(cycle)
        (worker,) = (t for t in threading.enumerate() if t.name == "reclap-prefetch")
        inside.wait()
        del found, cycle
        gc.collect()
        assert worker.is_alive()
    worker.join()


class _HandledError(Exception):
    pass


def test_a_handler_may_raise_anywhere_in_the_calling_thread():
    """A lock that was left behind would let the workers, and so the end, wait for ever."""
    armed = False

    def handler(*_):
        nonlocal armed
        if armed:
            armed = False
            raise _HandledError

    def consume(found, seconds):
        nonlocal armed
        next(found)
        armed = True
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
        collections.deque(found, maxlen=0)

    before = signal.signal(signal.SIGVTALRM, handler)
    try:
        for i in range(200):
            with pytest.raises(_HandledError):
                consume(prefetch_map(int, itertools.count(), 2, 4), 1e-4 + i * 1e-5)
    finally:
        signal.signal(signal.SIGVTALRM, before)
