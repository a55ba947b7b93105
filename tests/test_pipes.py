"""Sounds that come through pipes: silent ones end at Ctrl-C, all others are whole."""

import contextlib
import io
import os
import signal
import sys
import threading
import time

import numpy as np
import pytest
from folders import tone, write_wav

from reclap.audio import AudioConfig, inputs, load, sound_file
from reclap.errors import FormatError

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes"),
    pytest.mark.timeout(120),
]

KINDS = ["named", "named, no writer", "standard input", "buffered", "raw"]


@pytest.fixture(params=KINDS)
def pipe(request, tmp_path, monkeypatch):
    """Return a sound that is a silent pipe, and its other end; None where nobody has that yet."""
    path, ends = tmp_path / "sound", []
    if request.param.startswith("named"):
        os.mkfifo(path)
        if request.param == "named":
            ends.append(os.open(path, os.O_RDWR))  # for which there need be no reader
        yield path, ends[0] if ends else None
    else:
        read, write = os.pipe()
        ends.append(write)
        with open(read, "rb", buffering=0 if request.param == "raw" else -1) as file:  # noqa: PTH123
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file))
            yield "-" if request.param == "standard input" else file, write
    for end in ends:
        with contextlib.suppress(OSError):  # closed by the test
            os.close(end)


def embed(source):
    return list(inputs.features([source], inputs.Reading(), AudioConfig(), 2))


def end_by_signal(call, monkeypatch):
    """Call, and send Ctrl-C once a thread waits for a pipe."""
    waiting, asked = threading.Event(), sound_file.check_wanted

    def check():
        waiting.set()
        asked()

    def send():
        waiting.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(sound_file, "check_wanted", check)
    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(KeyboardInterrupt):
        call()
    sender.join()


def test_ctrl_c_ends_the_wait_for_a_silent_pipe(pipe, monkeypatch):
    source, end = pipe
    if end is not None:
        os.write(end, b"RIFF")  # and then no more
    end_by_signal(lambda: embed(source), monkeypatch)
    assert not [t for t in threading.enumerate() if t.name == "reclap-prefetch"]


def test_ctrl_c_ends_a_wait_without_prefetching(pipe, monkeypatch):
    source, _ = pipe
    end_by_signal(lambda: load(source), monkeypatch)


def test_closing_early_ends_the_wait_for_a_silent_pipe(pipe):
    source, _ = pipe
    found = inputs.features([tone(440), source], inputs.Reading(48000), AudioConfig(), 2)
    next(found)
    found.close()
    assert not [t for t in threading.enumerate() if t.name == "reclap-prefetch"]


@pytest.mark.parametrize("pipe", KINDS[1:], indirect=True)
def test_what_comes_bit_by_bit_is_whole(pipe, tmp_path):
    source, end = pipe
    write_wav(tmp_path / "sound.wav", tone(440, 3.0))
    data = (tmp_path / "sound.wav").read_bytes()

    def write():
        descriptor = os.open(source, os.O_WRONLY) if end is None else end
        for part in (data[:10], data[10:1000], data[1000:]):
            _write_all(descriptor, part)
            time.sleep(0.15)  # longer than a wait
        os.close(descriptor)

    writer = threading.Thread(target=write)
    writer.start()
    samples = load(source, 48000)
    writer.join()
    np.testing.assert_array_equal(samples, load(data, 48000))


def _write_all(descriptor, data):
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def test_a_pipe_that_ends_without_a_byte_is_no_sound(tmp_path):
    path = tmp_path / "sound"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: os.close(os.open(path, os.O_WRONLY)))
    writer.start()
    with pytest.raises(FormatError, match="sound: "):
        load(path)
    writer.join()


def test_a_file_object_of_another_kind_is_read_until_it_says_it_ends():
    """Its descriptor may stay silent: the rest of an answer waits in a buffer."""
    read, _ = os.pipe()

    class Answer(io.RawIOBase):
        data = io.BytesIO(b"no sound")

        def fileno(self):
            return read

        def readable(self):
            return True

        def readinto(self, buffer):
            return self.data.readinto(buffer)

    with pytest.raises(FormatError, match="Format not recognised"):
        load(io.BufferedReader(Answer()))
