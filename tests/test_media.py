"""M4A, AAC, WebM and WMA through PyAV: written by it here, read as any other sound."""

import io

import numpy as np
import pytest
from needs import needs

from reclap import audio
from reclap.audio import headers, media, sound_file, streams
from reclap.errors import FormatError

av = needs("av", "media")
pytestmark = pytest.mark.extra

# Suffix, codec, kind.
KINDS = [
    ("m4a", "aac", "M4A or MP4"),
    ("aac", "aac", "AAC"),
    ("webm", "libopus", "WebM or Matroska"),
    ("wma", "wmav2", "WMA"),
]
CONTAINERS = {"m4a": "mp4", "aac": "adts", "webm": "webm", "wma": "asf"}


def tone(rate, seconds, channels):
    t = np.arange(int(rate * seconds))[None] / rate
    return (0.3 * np.sin(2 * np.pi * 440 * t * np.arange(1, channels + 1)[:, None])).astype("f4")


def encoded(suffix, codec, x, rate) -> bytes:
    """Return x of shape (channels, T) in a container."""
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no encoder {codec}")
    out = io.BytesIO()
    layout = "stereo" if len(x) == 2 else "mono"
    with av.open(out, "w", format=CONTAINERS[suffix]) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        stream.bit_rate = 128_000
        frame = av.AudioFrame.from_ndarray(x, format="fltp", layout=layout)
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return out.getvalue()


@pytest.mark.parametrize(("suffix", "codec", "kind"), KINDS)
@pytest.mark.parametrize("channels", [1, 2])
def test_files_of_other_containers_are_read(tmp_path, suffix, codec, kind, channels):
    rate = 48000
    x = tone(rate, 1.0, channels)
    data = encoded(suffix, codec, x, rate)
    assert headers.kind_of(data[:64]) == kind
    path = tmp_path / f"clip.{suffix}"
    path.write_bytes(data)
    clip = audio.read(path)
    assert (clip.rate, clip.samples.shape[1], clip.samples.dtype) == (rate, channels, np.float32)
    assert abs(len(clip.samples) - rate) < 6000  # a codec's first and last frames
    np.testing.assert_array_equal(audio.read(data).samples, clip.samples)
    # The tone is there, wherever the codec's delay put it.
    power = np.abs(np.fft.rfft(clip.samples[8000:32000].mean(axis=1)))
    assert abs(np.argmax(power) * rate / 24000 - 440) <= 2
    assert np.sqrt((clip.samples[8000:32000, 0] ** 2).mean()) == pytest.approx(
        0.3 / 2**0.5, rel=0.1
    )


def test_long_files_are_streamed_with_the_same_samples(tmp_path, monkeypatch, small):
    path = tmp_path / "long.m4a"
    path.write_bytes(encoded("m4a", "aac", tone(44100, 5.0, 2), 44100))
    whole, row = audio.load(path, 16000), small.embed_audio(path)
    monkeypatch.setattr(streams, "WHOLE", 1000)
    stream = audio.open_front(path, audio.AudioConfig(rate=16000))
    blocks = list(stream.blocks())
    assert len(blocks) > 1
    got = np.concatenate(blocks)
    assert len(got) == len(whole) == stream.length
    np.testing.assert_array_equal(got, whole)
    np.testing.assert_array_equal(small.embed_audio(path), row)


def test_reader_gives_as_many_frames_as_are_asked_for():
    data = encoded("m4a", "aac", tone(44100, 1.0, 1), 44100)
    whole = audio.read(data).samples
    reader = media.MediaReader(data, "M4A")
    parts = [reader.read(1000), reader.read(1), reader.read(5000), reader.read()]
    assert [len(p) for p in parts[:3]] == [1000, 1, 5000]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert reader.read(5).shape == (0, 1)


def test_without_pyav_the_way_out_is_named(tmp_path, monkeypatch):
    path = tmp_path / "voice.m4a"
    path.write_bytes(encoded("m4a", "aac", tone(44100, 0.2, 1), 44100))
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(
        FormatError, match=r"voice\.m4a: M4A or MP4, .*extra media \(pip install av"
    ):
        audio.read(path)


@pytest.mark.parametrize(("suffix", "codec", "kind"), KINDS)
def test_damaged_files_decode_or_are_refused(rng, suffix, codec, kind):
    data = np.frombuffer(encoded(suffix, codec, tone(48000, 0.3, 1), 48000), np.uint8)
    for _ in range(20):
        bad = data.copy()
        bad[rng.integers(16, len(bad), 20)] = rng.integers(0, 256, 20)
        try:
            samples = audio.read(bad[: rng.integers(20, len(bad))].tobytes()).samples
        except (FormatError, ValueError):
            continue
        assert len(samples) > 0


def test_a_pipe_of_another_container_is_no_endless_input(monkeypatch):
    data = encoded("webm", "libopus", tone(48000, 2.0, 1), 48000)
    monkeypatch.setattr(sound_file, "CHUNK", 1000)
    monkeypatch.setattr(sound_file, "HEAD", 2000)
    assert len(audio.read(io.BytesIO(data)).samples) > 48000
