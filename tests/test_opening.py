"""Sound files opened by several threads at once, and files that libsndfile would talk about."""

import threading

import pytest
from folders import EXAMPLES

from reclap.errors import FormatError
from reclap.runtime.libraries import sndfile

ROUNDS = 200
REASONS = {
    b"RIFF" + bytes(100): "Format not recognised",
    b"RIFF" + (100).to_bytes(4, "little") + b"WAVEdata" + bytes(90): "No 'data' chunk marker",
    b"FORM" + bytes(4) + b"AIFF" + bytes(50): "Channel count is zero",
}


def test_each_thread_is_told_the_reason_of_its_own_file():
    good, wrong = (EXAMPLES / "rain.ogg").read_bytes(), []

    def fail(data, reason):
        for _ in range(ROUNDS):
            try:
                sndfile().open(data)
            except FormatError as error:
                if reason not in str(error):
                    wrong.append(str(error))
            else:
                wrong.append("opened")

    def succeed():
        for _ in range(ROUNDS // 4):
            sndfile().open(good)

    threads = [threading.Thread(target=fail, args=item) for item in REASONS.items()]
    threads += [threading.Thread(target=succeed) for _ in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


@pytest.mark.parametrize("size", [0, 17, 123, 4000])
def test_midi_sample_dumps_are_refused_in_silence(size, capfd):
    """libsndfile prints what is wrong with their packets, between the lines of --json."""
    head = bytes([0xF0, 0x7E, 0x00, 0x01, 0x01, 0x00, 16, 0x10, 0x10, 0x02, 0x10, 0x10, 0x10])
    with pytest.raises(FormatError, match="MIDI sample dump"):
        sndfile().open(head + bytes([0, 0, 0, 0, 0, 0, 0, 0xF7]) + bytes(size))
    assert capfd.readouterr() == ("", "")
