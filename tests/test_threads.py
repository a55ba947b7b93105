"""Work ahead of the model, and several users of threads in one process."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from models import new_model

import reclap
from reclap.audio import AudioConfig
from reclap.model.batching import BATCH, batch_of
from reclap.runtime import threads
from reclap.runtime.threads import cgroup_quota, default_threads

WAIT = 60.0  # seconds after which a test counts as stuck


def test_the_front_end_runs_while_the_tower_does(small, tones, monkeypatch):
    """A tower that waits until later sounds were decoded would wait for ever, did it not."""
    opened, enough = [], threading.Event()
    plain = reclap.audio.inputs.open_front

    def watched(*args, **options):
        opened.append(args[0])
        if len(opened) > BATCH:
            enough.set()
        return plain(*args, **options)

    class Tower:
        def audio(self, *args, **options):
            assert enough.wait(WAIT)
            return small._core.audio(*args, **options)

    model = reclap.load(small._source, threads=2)
    monkeypatch.setattr(reclap.audio.inputs, "open_front", watched)
    monkeypatch.setattr(model, "_core", Tower())
    assert len(model.embed_audio(tones * 3)) == 3 * len(tones)


# ---- Several users of one process's processors ---------------------------------------------------


def timed(work):
    """Return the processor time that a process takes for something."""
    start = time.process_time()
    work()
    return time.process_time() - start


def side_by_side(*works):
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for t in threads:
        t.start()
    for t in threads:
        t.join(WAIT)
    assert not any(t.is_alive() for t in threads), "stuck"


def test_two_models_side_by_side_take_no_more_than_one_after_the_other(small_folder, fused_folder):
    models = [reclap.load(folder, threads=2) for folder in (small_folder, fused_folder)]
    sounds = [np.sin(np.arange(20_000) * 0.01 * (i + 1)) for i in range(24)]
    found = {}

    def work(i):
        found[i] = models[i].embed_audio(sounds, rate=16000)

    want = [model.embed_audio(sounds, rate=16000) for model in models]
    alone, together = [], []
    for _ in range(5):
        alone.append(timed(lambda: [work(0), work(1)]))
        together.append(timed(lambda: side_by_side(lambda: work(0), lambda: work(1))))
    for i in range(2):
        assert np.abs(found[i] - want[i]).max() <= 2e-6
    assert min(together) <= 1.3 * min(alone)


def test_weights_are_packed_on_the_calling_thread(rng):
    """A team of OpenMP threads would spin for each weight while others keep the processors busy."""
    models = [new_model(rng)[0] for _ in range(20)]
    own, whole = time.thread_time(), time.process_time()
    for model in models:
        model.pack()
    own, whole = time.thread_time() - own, time.process_time() - whole
    assert whole <= 1.1 * own + 0.01


@pytest.mark.oracle
def test_threads_of_torch_stay_as_they_are(small_folder, tones):
    import torch

    before = torch.get_num_threads()
    x = torch.rand(200, 200)
    stop = threading.Event()

    def other():
        while not stop.is_set():
            (x @ x).sum().item()

    worker = threading.Thread(target=other, daemon=True)
    worker.start()
    model = reclap.load(small_folder, threads=2)
    rows = model.embed_audio(tones)
    stop.set()
    worker.join(WAIT)
    assert torch.get_num_threads() == before
    np.testing.assert_array_equal(model.embed_audio(tones), rows)


def test_batches_of_long_windows_are_small():
    assert batch_of(AudioConfig()) == BATCH
    assert batch_of(AudioConfig(samples=30 * 48000)) == 2
    assert batch_of(AudioConfig(samples=600 * 48000)) == 1


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/", {"cpu.max": "200000 100000"}, 2.0),
        ("0::/", {"cpu.max": "max 100000"}, None),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000"}, 1.5),
        ("0::/a", {"a/cpu.max": "300000 100000", "cpu.max": "50000 100000"}, 0.5),
        (
            "12:cpuset:/\n4:cpu,cpuacct:/job",
            {"cpu/job/cpu.cfs_quota_us": "400000", "cpu/job/cpu.cfs_period_us": "100000"},
            4.0,
        ),
        (
            "4:cpu:/",
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
            None,
        ),
        ("0::/", {"cpu.max": "nonsense"}, None),
        (None, {}, None),
    ],
)
def test_quotas_of_control_groups(tmp_path, groups, files, quota):
    if groups is not None:
        (tmp_path / "proc" / "self").mkdir(parents=True)
        (tmp_path / "proc" / "self" / "cgroup").write_text(groups + "\n")
    for name, text in files.items():
        path = tmp_path / "sys" / "fs" / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert cgroup_quota(tmp_path) == quota


@pytest.mark.parametrize(("quota", "most"), [(None, None), (1.5, 2), (0.1, 1), (1e6, None)])
def test_threads_heed_the_quota(monkeypatch, quota, most):
    monkeypatch.setattr(threads, "cgroup_quota", lambda: None)
    bound = default_threads()
    monkeypatch.setattr(threads, "cgroup_quota", lambda: quota)
    assert default_threads() == (bound if most is None else min(bound, most))


COUNT = """
import os, sys
import reclap
model = reclap.load(sys.argv[1], threads=1)
before = len(os.listdir("/proc/self/task"))
model.embed_text([f"rain on roof {i}" for i in range(2000)])
print(before, len(os.listdir("/proc/self/task")))
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_many_texts_start_no_threads_beyond_those_asked_for(small_folder):
    command = [sys.executable, "-c", COUNT, str(small_folder)]
    told = subprocess.run(  # noqa: S603 (ourselves)
        command, capture_output=True, text=True, check=True, timeout=120
    )
    before, after = told.stdout.split()
    assert after == before
