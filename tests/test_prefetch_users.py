"""What holds for the prefetcher holds for all who use it: sounds, batches, language models."""

import gc
import io
import itertools
import os
import threading
import types
import warnings

import numpy as np
import pytest
from folders import tone, write_wav

from reclap.audio import AudioConfig, inputs
from reclap.llm.parallel import results_of
from reclap.training.augment import Augment
from reclap.training.data import Batches
from reclap.training.sections import Data
from reclap.training.texts import ClipTexts

pytestmark = pytest.mark.timeout(120)

THREADS = 2


def sounds(job, tmp_path):
    """Log-mels of file objects."""
    write_wav(tmp_path / "sound.wav", tone(440))
    data = (tmp_path / "sound.wav").read_bytes()

    class File(io.BytesIO):
        def __init__(self, i):
            super().__init__(data)
            self.i = i

        def read(self, size=-1):
            if self.tell() == 0:
                job(self.i)
            return super().read(size)

    files = (File(i) for i in itertools.count())
    found = inputs.features(files, inputs.Reading(), AudioConfig(), THREADS)
    with_index = (i for i, _ in found)
    return found, with_index


def batches(job, tmp_path):
    """Batches of two examples."""

    class Made(Batches):
        def _example(self, step, item, rows):
            job(step)
            return np.zeros((1, 1), np.float32), False, ClipTexts(""), rows

    data = Data("", batch=2, threads=THREADS, ahead=4)
    row = types.SimpleNamespace(captions=())
    found = Made([row] * 4, data, Augment(), AudioConfig(), 0).prefetch(0, 1000)
    return found, (batch.step for batch in found)


def requests(job, tmp_path):
    """Results of requests."""

    def work(item):
        job(item)
        return item

    llm = types.SimpleNamespace(stop=lambda: None, abort=lambda: None)
    found = results_of(work, itertools.count(), llm, THREADS, lambda _: "")
    return found, found


USERS = [sounds, batches, requests]
user = pytest.mark.parametrize("user", USERS, ids=lambda f: f.__name__)


def workers():
    return [t for t in threading.enumerate() if t.name == "reclap-prefetch"]


@user
def test_order_is_that_of_the_items(user, tmp_path):
    found, indices = user(lambda _: None, tmp_path)
    assert list(itertools.islice(indices, 50)) == list(range(50))
    found.close()
    assert not workers()


@user
def test_an_error_comes_at_its_index(user, tmp_path):
    def job(i):
        if i == 3:
            raise ArithmeticError("of item 3")

    _, indices = user(job, tmp_path)
    assert [next(indices) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ArithmeticError, match="of item 3"):
        next(indices)
    assert not workers()


@user
def test_little_is_begun_that_nobody_asked_for(user, tmp_path):
    begun = []
    found, indices = user(begun.append, tmp_path)
    assert not begun
    assert not workers()
    for n in range(20):
        assert next(indices) == n
        assert max(begun) <= n + inputs.AHEAD + THREADS
    found.close()


@user
def test_closing_early_awaits_what_runs_and_leaves_no_thread(user, tmp_path):
    running, ended, go = threading.Event(), [], threading.Event()

    def job(i):
        if i:
            running.set()
            go.wait()
            ended.append(i)

    found, indices = user(job, tmp_path)
    next(indices)
    running.wait()
    threading.Timer(0.1, go.set).start()
    found.close()
    assert 1 <= len(ended) <= THREADS  # no other example, sound or request has begun
    assert not workers()


@user
def test_ctrl_c_leaves_no_thread(user, tmp_path):
    def job(i):
        if i == 2:
            raise KeyboardInterrupt

    _, indices = user(job, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        list(indices)
    assert not workers()


@user
def test_the_garbage_collector_awaits_nothing(user, tmp_path):
    lock, inside = threading.Lock(), threading.Event()

    def job(i):
        if i:
            inside.set()
            with lock:
                pass

    with lock:
        found, indices = user(job, tmp_path)
        next(indices)
        inside.wait()
        left = workers()
        cycle = [found, indices]
        cycle.append(cycle)
        del found, indices, cycle
        gc.collect()
        assert any(worker.is_alive() for worker in left)
    for worker in left:
        worker.join()


@user
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_of_a_fork_is_told_that_it_has_no_threads(user, tmp_path):
    found, indices = user(lambda _: None, tmp_path)
    next(indices)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks with threads
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            for _ in indices:
                pass
        except RuntimeError as error:
            status = 0 if "is a fork of the one that began" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    found.close()
