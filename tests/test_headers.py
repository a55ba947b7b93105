"""What is said about sound files that were cut off, streamed, endless, or are something else."""

import io
import logging
import struct
from pathlib import Path

import numpy as np
import pytest

import reclap
from reclap import audio
from reclap.audio import headers, sound_file, streams
from reclap.errors import FormatError

soundfile = pytest.importorskip("soundfile")

RATE = 8000


def encoded(x, kind="WAV", subtype="PCM_16") -> bytes:
    out = io.BytesIO()
    soundfile.write(out, x, RATE, format=kind, subtype=subtype)
    return out.getvalue()


def noise(rng, seconds=2.0, channels=1):
    return (0.1 * rng.standard_normal((int(RATE * seconds), channels))).astype(np.float32)


def with_size(data: bytes, riff: int, samples: int, after: bytes = b"") -> bytes:
    """Return a WAV file of 44 bytes of header with other sizes in it."""
    head = bytearray(data[:44])
    head[4:8], head[40:44] = struct.pack("<I", riff), struct.pack("<I", samples)
    return bytes(head) + data[44:] + after


# ---- Streamed WAV files --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("riff", "size"), [(0, 0), (36, 0), (2**32 - 1, 2**32 - 1), (0, 2**32 - 1)]
)
@pytest.mark.parametrize("as_bytes", [True, False])
def test_streamed_wav_is_read_to_its_end(rng, tmp_path, caplog, riff, size, as_bytes):
    whole = encoded(noise(rng, channels=2))
    streamed = with_size(whole, riff, size)
    path = tmp_path / "streamed.wav"
    path.write_bytes(streamed)
    source = streamed if as_bytes else path
    np.testing.assert_array_equal(audio.read(source).samples, audio.read(whole).samples)
    np.testing.assert_array_equal(audio.load(source, 16000), audio.load(whole, 16000))
    assert not caplog.records
    assert path.read_bytes() == streamed


def test_streamed_wav_of_odd_length_loses_no_more_than_its_last_byte(rng):
    whole = encoded(noise(rng))
    got = audio.read(with_size(whole, 0, 0, b"\7")).samples
    np.testing.assert_array_equal(got, audio.read(whole).samples)


def test_chunks_behind_an_empty_recording_are_no_samples(rng):
    note = b"LIST" + struct.pack("<I", 10) + b"INFOISFT\0\0"
    with pytest.raises(FormatError, match="no audio frame"):
        audio.read(with_size(encoded(noise(rng))[:44], 0, 0, note))


# ---- Files that were cut off ---------------------------------------------------------------------

KINDS = [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("AIFF", "PCM_16"), ("FLAC", "PCM_16")]
KINDS += [("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")]


@pytest.mark.parametrize(("kind", "subtype"), KINDS)
@pytest.mark.parametrize("streamed", [False, True])
def test_file_that_was_cut_off_is_named(
    rng, tmp_path, caplog, monkeypatch, kind, subtype, streamed
):
    if streamed:
        monkeypatch.setattr(streams, "WHOLE", 1000)
    data = encoded(noise(rng, 20.0), kind, subtype)
    path = tmp_path / f"cut.{kind.lower()}"
    for share, warned in ((1.0, 0), (0.5, 1)):
        caplog.clear()
        path.write_bytes(data[: int(len(data) * share)])
        stream = audio.open_front(path, audio.AudioConfig(rate=RATE))
        assert stream.length > 0.2 * share * RATE * 20
        messages = [r.getMessage() for r in caplog.records]
        assert len(messages) == warned
        assert all(m.startswith(f"{path}: the file was cut off, it lacks ") for m in messages)
        if warned and kind != "OGG":
            assert "50%" in messages[0] or "49%" in messages[0] or "51%" in messages[0]


@pytest.mark.parametrize("channels", ["mean", "concatenate"])
@pytest.mark.parametrize("counted", [False, True])
def test_long_file_is_reported_once_whoever_reads_it(rng, caplog, monkeypatch, channels, counted):
    monkeypatch.setattr(streams, "WHOLE", 1000)
    data = encoded(100 * noise(rng, channels=2), subtype="FLOAT")[:-1000]
    stream = audio.open_front(data, audio.AudioConfig(rate=RATE, channels=channels))
    assert not counted or stream.length
    assert list(stream.blocks())
    told = sorted(r.getMessage().split(": ")[1][:12] for r in caplog.records)
    assert told == ["samples reac", "the file was"]


def test_odd_chunk_without_its_last_byte_is_whole(rng, caplog):
    data = encoded(noise(rng)[:101], "AIFF", "PCM_S8")
    assert len(audio.read(data[:-1]).samples) == 101
    assert not caplog.records
    audio.read(data[:-3])
    assert "lacks 3 of" in caplog.text


# ---- What never ends -----------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs /dev/zero and /dev/urandom")
@pytest.mark.parametrize("source", ["/dev/zero", "/dev/urandom"])
def test_endless_device_is_refused(small, source, monkeypatch):
    monkeypatch.setattr(sound_file, "HEAD", 1 << 20)
    with pytest.raises(FormatError, match=f"{source}: not a sound file"):
        small.embed_audio(source)
    with Path(source).open("rb") as file, pytest.raises(FormatError, match="not a sound file"):
        audio.read(file)


class Endless(io.RawIOBase):
    """A WAV file whose samples never end."""

    def __init__(self, head):
        self.head, self.given = head, 0

    def read(self, size=-1):
        assert size > 0, "asked for all of it"
        data, self.head = (self.head + bytes(size))[:size], b""
        self.given += size
        return data


def test_endless_sound_is_refused_at_a_bound(rng, monkeypatch):
    monkeypatch.setattr(sound_file, "LARGEST", 20 << 20)
    source = Endless(encoded(noise(rng)))
    with pytest.raises(FormatError, match="more than 20 MB in what is no regular file"):
        audio.read(source)
    assert source.given <= 22 << 20


def test_standard_input_is_a_sound(small, tones, monkeypatch):
    stdin = io.TextIOWrapper(io.BytesIO(tones[0].read_bytes()))
    monkeypatch.setattr("sys.stdin", stdin)
    np.testing.assert_array_equal(small.embed_audio("-"), small.embed_audio(tones[0]))


# ---- What is something else ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "pointer of Git LFS"),
        (b"\n<!DOCTYPE html>\n<html>", "an HTML page"),
        (b"<HTML><head>", "an HTML page"),
    ],
)
def test_what_is_no_sound_file_is_told(tmp_path, head, said):
    path = tmp_path / "dog.wav"
    path.write_bytes(head + bytes(200))
    with pytest.raises(FormatError, match=rf"dog\.wav: .*{said}"):
        audio.read(path)


def test_headers_survive_any_bytes(rng):
    starts = [
        b"RIFF\0\0\0\0WAVE",
        b"RF64\0\0\0\0WAVEds64",
        b"FORM",
        b"OggS",
        b"ID3",
        b"fLaC",
        b"\xff\xfb",
    ]
    for _ in range(300):
        data = starts[rng.integers(len(starts))] + rng.bytes(rng.integers(0, 300))

        def read(at, count, data=data):
            return data[at : at + count]

        headers.missing(read, len(data))
        headers.unsized_wav(read, len(data))
        headers.kind_of(data)
        headers.flac_frames(data)


# ---- Levels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
def test_channels_that_cancel_are_reported(small, rng, tmp_path, caplog, monkeypatch, streamed):
    if streamed:
        monkeypatch.setattr(streams, "WHOLE", 1000)
    x = noise(rng, channels=1)
    cases = {
        "antiphase": (np.hstack([x, -x]), True),
        "nearly": (np.hstack([x, -x + 0.1 * noise(rng)]), True),
        "independent": (noise(rng, channels=2), False),
        "left": (np.hstack([x, 0 * x]), False),
        "both": (np.hstack([x, x]), False),
        "silence": (np.zeros((RATE, 2)), False),
    }
    for name, (samples, warned) in cases.items():
        caplog.clear()
        path = tmp_path / f"{name}.wav"
        path.write_bytes(encoded(samples, subtype="FLOAT"))
        small.embed_audio(path)
        told = [r.getMessage() for r in caplog.records]
        assert bool(told) == warned, (name, told)
        assert all(m.startswith(f"{path}: its channels cancel") for m in told)


def test_amplitudes_beyond_full_scale_are_reported(small, rng, caplog):
    x = noise(rng)[:, 0].astype(np.float64)
    small.embed_audio([x, x * 20], rate=RATE)
    assert not caplog.records  # within 18 dB
    small.embed_audio(np.round(x * 32767), rate=RATE)
    assert "samples reach" in caplog.text
    assert caplog.records[0].levelno == logging.WARNING
    with pytest.raises(ValueError, match="NaN or infinite"):
        small.embed_audio(x * 1e60, rate=RATE)


def cut_off(rng) -> bytes:
    return encoded(noise(rng))[:-1000]


UNNAMED = {
    "array": (lambda rng: np.full(RATE, 99.0), "samples reach"),
    "pair": (lambda rng: (np.full(RATE, 99.0), RATE), "samples reach"),
    "mapping": (lambda rng: {"array": np.full(9, 99.0), "sampling_rate": RATE}, "samples reach"),
    "antiphase": (lambda rng: noise(rng) * np.array([0.5, -0.5]), "its channels cancel"),
    "bytes": (cut_off, "<31044 bytes>: the file was cut off"),
    "file object": (lambda rng: io.BytesIO(cut_off(rng)), "<file object>: the file was cut off"),
    "bytes of a mapping": (lambda rng: {"bytes": cut_off(rng), "path": None}, "<31044 bytes>: the"),
}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("kind", UNNAMED)
def test_reports_about_items_without_a_name_tell_their_place(
    small, rng, caplog, monkeypatch, kind, streamed
):
    if streamed:
        monkeypatch.setattr(streams, "WHOLE", 1000)
    make, text = UNNAMED[kind]
    good = noise(rng)
    small.embed_audio([good, make(rng), good], rate=RATE)
    list(small.iter_embed(iter([good, make(rng)]), rate=RATE))
    small.timeline([make(rng)], ["rain"], rate=RATE)
    told = [r.getMessage() for r in caplog.records]
    assert [m[:9] for m in told] == ["audio[1]:", "audio[1]:", "audio[0]:"]
    assert all(m[10:].startswith(text) for m in told)


def test_reports_about_items_that_bring_a_path_tell_it(small, rng, caplog):
    small.embed_audio([{"path": "a.wav", "bytes": cut_off(rng)}])
    assert caplog.records[0].getMessage().startswith("a.wav: <31044 bytes>: the file was cut off")


def test_reports_are_logged_below_the_packages_name(rng, caplog):
    audio.load(np.full(10, 99.0), rate=RATE)
    assert caplog.records[0].name.startswith(reclap.__name__)
