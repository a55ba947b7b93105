"""Long files decoded block by block: equal to whole ones, in constant memory."""

import dataclasses
import io
import itertools
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from folders import tone

import reclap
from reclap import audio
from reclap.audio import AudioConfig, fusion, inputs, streams, windowing
from reclap.audio.resample import RESAMPLERS, resample, resampled_length, resampler_of
from reclap.checkpoints import model_folder
from reclap.errors import FormatError

soundfile = pytest.importorskip("soundfile")

FRONT = AudioConfig(rate=8000, samples=4000, n_fft=64, hop=20, mels=8, fmax=4000.0)
FUSED = dataclasses.replace(FRONT, truncation="fusion", mel_scale="htk", mel_norm="none")
FORMATS = [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")]


@pytest.fixture
def small_blocks(monkeypatch):
    """Stream whatever is longer than a tenth of a second, in blocks of an odd length."""
    monkeypatch.setattr(streams, "WHOLE", 1000)
    monkeypatch.setattr(streams, "BLOCK", 997)


def write(path: Path, x: np.ndarray, rate: int, kind: str = "WAV", subtype: str = "FLOAT") -> Path:
    soundfile.write(path, x, rate, format=kind, subtype=subtype)
    return path


def stream_of(path, front: AudioConfig) -> streams.Stream:
    return audio.open_front(path, front)


def noise(rng: np.random.Generator, frames: int, channels: int = 2) -> np.ndarray:
    return (0.2 * rng.standard_normal((frames, channels))).astype(np.float32)


# ---- Resampling ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", RESAMPLERS)
@pytest.mark.parametrize(
    ("old", "new"), [(44100, 48000), (48000, 44100), (8000, 8000), (192000, 16000), (11025, 44100)]
)
def test_blocks_resample_as_the_whole(rng, kind, old, new):
    x = noise(rng, 20_011, 1)[:, 0]
    want = resample(x, old, new, kind)
    stream, ends = resampler_of(old, new, kind), [0, 1, 2, 500, 8111, 8112, len(x)]
    parts = [stream.push(x[a:b]) for a, b in itertools.pairwise(ends)]
    got = np.concatenate([*parts, stream.finish()])
    assert len(got) == len(want) == resampled_length(len(x), old, new, kind)
    # soxr gives the same bits; products of other sizes than the whole's are summed in other orders.
    assert np.abs(got - want).max() <= (1e-6 if kind == "sinc" else 0)


def test_lengths_are_those_of_soxr(rng):
    x = np.zeros(100_000, np.float32)
    for length in rng.integers(100, 100_000, 40):
        for old, new in ((44100, 48000), (22050, 48000), (48000, 32000), (96000, 44100)):
            assert len(resample(x[:length], old, new)) == resampled_length(int(length), old, new)


# ---- Cutting -------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 3, 10, 100])
@pytest.mark.parametrize("length", [1, 7, 10, 11, 20, 29, 30])
@pytest.mark.parametrize("step", [1, 5, 10, 13])
def test_pieces_are_those_of_the_array(block, length, step):
    x = np.arange(length, dtype=np.float32)
    blocks = (x[i : i + block] for i in range(0, length, block))
    ranges = ((start, start + 10) for start in itertools.count(0, step))
    count = 1 + max(0, -(-(length - 10) // step))
    want = [x[i * step : i * step + 10] for i in range(count) if i * step < length]
    got = list(streams.cut(blocks, ranges))
    assert [g.tolist() for g in got] == [w.tolist() for w in want]


# ---- Files ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("kind", "subtype"), FORMATS)
@pytest.mark.parametrize("channels", ["mean", "concatenate"])
@pytest.mark.parametrize("resampler", RESAMPLERS)
def test_streamed_files_have_the_samples_of_whole_ones(
    tmp_path, rng, kind, subtype, channels, resampler
):
    front = dataclasses.replace(FRONT, channels=channels, resampler=resampler)
    path = write(tmp_path / "clip", noise(rng, 44_111), 44100, kind, subtype)
    want = audio.load(path, front.rate, channels=channels, resampler=resampler)
    for source in (path, path.read_bytes(), io.BytesIO(path.read_bytes())):
        stream = stream_of(source, front)
        assert not isinstance(stream, streams.Whole)
        blocks = list(stream.blocks())
        assert max(map(len, blocks)) < 1000
        got = np.concatenate(blocks)
        assert len(got) == len(want) == stream.length
        assert np.abs(got - want).max() <= (1e-6 if resampler == "sinc" else 0)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("front", [FRONT, FUSED], ids=["windows", "fusion"])
@pytest.mark.parametrize("change", [{}, {"quantize": True}, {"level_db": -20.0}])
@pytest.mark.parametrize("seconds", [0.3, 0.5, 0.5001, 1.3, 3.0])
def test_streamed_files_have_the_log_mels_of_whole_ones(tmp_path, rng, front, change, seconds):
    front = dataclasses.replace(front, **change)
    path = write(tmp_path / "clip.wav", noise(rng, int(44100 * seconds)), 44100)
    whole = streams.Whole(audio.load(path, front.rate))
    want, got = (list(fusion.log_mels(s, front)) for s in (whole, stream_of(path, front)))
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a.mel, b.mel)
        assert a.longer == b.longer


@pytest.mark.parametrize("seconds", [0.4, 1.0, 2.9])
def test_streaming_changes_no_result(small, tmp_path, monkeypatch, seconds):
    path = write(tmp_path / "clip.flac", tone(300, seconds), 16000, "FLAC", "PCM_16")

    def results():
        line = small.timeline(path, ["a", "b"], 0.7, 0.3)
        return small.embed_audio([path, path]), line.scores, line.seconds

    want = results()
    monkeypatch.setattr(streams, "WHOLE", 500)
    monkeypatch.setattr(streams, "BLOCK", 499)
    for a, b in zip(results(), want, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("kind", "subtype"), FORMATS[1:3])
def test_truncated_long_file_gives_its_beginning(tmp_path, rng, kind, subtype):
    data = write(tmp_path / "clip", noise(rng, 100_000, 1), 44100, kind, subtype).read_bytes()
    path = tmp_path / "part"
    path.write_bytes(data[: len(data) * 2 // 3])
    want = audio.load(path, FRONT.rate)
    stream = stream_of(path, FRONT)
    assert 0 < stream.length < 100_000 * 8000 // 44100
    np.testing.assert_array_equal(np.concatenate(list(stream.blocks())), want)


@pytest.mark.usefixtures("small_blocks")
def test_bad_sample_far_in_is_named_and_skipped(small, tmp_path, tones):
    x = tone(300, 3.0)
    x[20_000] = np.nan
    path = write(tmp_path / "bad.wav", x, 8000)
    message = r"bad\.wav: NaN or infinite samples, the first at frame 20000"
    for call in (small.embed_audio, lambda p: small.timeline(p, ["a"])):
        with pytest.raises(ValueError, match=message):
            call(path)
    with pytest.warns(reclap.SkippedWarning, match="frame 20000"):
        rows = small.embed_audio([tones[0], path, tones[1]], errors="skip")
    assert np.isnan(rows).all(axis=1).tolist() == [False, True, False]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("front", [FRONT, FUSED], ids=["windows", "fusion"])
def test_file_that_shrinks_between_passes_is_refused(tmp_path, rng, front):
    path = write(tmp_path / "clip.wav", noise(rng, 20_000, 1), 8000)
    stream = stream_of(path, front)
    assert stream.length == 20_000
    write(path, noise(rng, 9000, 1), 8000)
    with pytest.raises(FormatError, match="became shorter"):
        list(fusion.log_mels(stream, front))
    write(path, noise(rng, 9000, 2), 8000)
    with pytest.raises(FormatError, match="changed while it was read"):
        list(fusion.log_mels(stream, front))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipe_is_read_once(small, tmp_path, tones):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    feeder = threading.Thread(target=pipe.write_bytes, args=(tones[0].read_bytes(),))
    feeder.start()
    rows = small.embed_audio(pipe)
    feeder.join()
    np.testing.assert_array_equal(rows, small.embed_audio(tones[0]))


# ---- Memory --------------------------------------------------------------------------------------

HOURS = 2
MEASURE = """
import resource, sys
import reclap

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

model = reclap.load(sys.argv[1], threads=2)
model.timeline(sys.argv[2], ["a"])
before = peak()
model.embed_audio(sys.argv[3])
model.timeline(sys.argv[3], ["a"], 10.0, 10.0)
print(peak() - before)
"""


def megabytes_for(folder: Path, short: Path, long: Path) -> int:
    """Return how much a long file adds to the peak memory of a process that read a short one."""
    command = [sys.executable, "-c", MEASURE, folder, short, long]
    root = Path(reclap.__file__).parents[1]
    done = subprocess.run(  # noqa: S603
        command, cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.fixture(scope="module", params=["WAV", "OGG"])
def long_file(request, tmp_path_factory) -> Path:
    """Return a stereo file of hours."""
    path, rng = tmp_path_factory.mktemp("long") / request.param, np.random.default_rng(0)
    rate, subtype = (44100, "PCM_16") if request.param == "WAV" else (8000, "VORBIS")
    second = noise(rng, rate)
    with soundfile.SoundFile(path, "w", rate, 2, subtype, format=request.param) as out:
        for _ in range(60 if request.param == "WAV" else 3600 * HOURS):
            out.write(second)
    if request.param == "WAV":  # a header for hours, and a hole on the disk after the first minute
        size = 3600 * HOURS * rate * 4
        with path.open("r+b") as out:
            out.truncate(44 + size)
            out.seek(4)
            out.write((36 + size).to_bytes(4, "little"))
            out.seek(40)
            out.write(size.to_bytes(4, "little"))
    return path


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory in KB")
@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="keeps freed memory")
@pytest.mark.parametrize("folder", ["small_folder", "fused_folder"])
def test_memory_does_not_grow_with_a_file(request, long_file, tones, folder):
    # Decoded, the files would take 2.5 GB and 0.46 GB, their samples 0.46 GB, all log-mels 46 MB.
    assert megabytes_for(request.getfixturevalue(folder), tones[0], long_file) < 150


# ---- Silence at the ends -------------------------------------------------------------------------

SECOND = 8000


def between(rng, before: float, seconds: float, after: float) -> np.ndarray:
    """Return noise between silences of so many seconds, at 8 kHz."""
    sound = noise(rng, int(seconds * SECOND), 1)
    sound[[0, -1]] = 0.1
    return np.concatenate([np.zeros((round(s * SECOND), 1)) if i % 2 else sound
                           for i, s in ((1, before), (0, 0), (1, after))])  # fmt: skip


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("before", "seconds", "after", "covered"),
    [
        (0.0, 2.0, 0.0, (0.0, 2.0)),
        (0.7, 2.0, 0.0, (0.7, 2.7)),
        (0.0, 2.0, 0.7, (0.0, 2.0)),
        (5.0, 2.0, 3.0, (5.0, 7.0)),
        (0.004, 2.0, 0.004, (0.0, 2.008)),  # too short to be silence
        (1.0, 0.2, 1.0, (1.0, 1.5)),  # a window at least
        (2.0, 0.2, 0.15, (1.85, 2.35)),
    ],
)
def test_windows_cover_what_sounds(
    tmp_path, rng, monkeypatch, streamed, before, seconds, after, covered
):
    if streamed:
        monkeypatch.setattr(streams, "WHOLE", 1000)
        monkeypatch.setattr(streams, "BLOCK", 997)
    x = between(rng, before, seconds, after)
    stream = stream_of(write(tmp_path / "clip.wav", x, SECOND), FRONT)
    starts = windowing.window_starts(stream, FRONT)
    want = [round(t * SECOND) for t in covered]
    assert (starts[0], starts[-1] + FRONT.samples) == (want[0], want[1])
    assert len(starts) == -(-(starts[-1] - starts[0]) // FRONT.samples) + 1
    keep = dataclasses.replace(FRONT, silence="keep")
    kept = windowing.window_starts(stream, keep)
    assert (kept[0], kept[-1] + FRONT.samples) == (0, len(x))


@pytest.mark.parametrize("rate", [8000, 44100])
@pytest.mark.parametrize("streamed", [False, True])
def test_silence_in_front_moves_no_window(small, tmp_path, rng, monkeypatch, rate, streamed):
    if streamed:
        monkeypatch.setattr(streams, "WHOLE", 1000)
    sound = noise(rng, 4 * rate)
    sound[[0, -1]] = 0.1
    rows = []
    for before, after in ((0, 0), (rate // 5, 0), (rate, rate // 2), (0, 3 * rate)):
        dither = rng.uniform(-6e-5, 6e-5, (before + after, 2))  # of 16 bits
        x = np.concatenate([dither[:before], sound, dither[before:]]).astype(np.float32)
        rows.append(small.embed_audio(write(tmp_path / "x.wav", x, rate))[0])
        if not streamed:
            np.testing.assert_array_equal(small.embed_audio(x, rate=rate)[0], rows[-1])
    assert min(rows[0] @ row for row in rows[1:]) > 1 - 1e-4


def test_silence_alone_is_covered(small):
    silence = np.zeros(3 * SECOND + 1, np.float32)
    keep = dataclasses.replace(FRONT, silence="keep")
    whole = streams.Whole(silence)
    assert windowing.window_starts(whole, FRONT) == windowing.window_starts(whole, keep)
    assert np.isfinite(small.embed_audio(silence, rate=SECOND)).all()


def test_silence_between_channels_is_kept(rng):
    """One after the other in time, as MS-CLAP takes them."""
    x = np.concatenate([np.zeros((SECOND, 2)), noise(rng, SECOND)])
    front = dataclasses.replace(FRONT, channels="concatenate")
    stream = audio.open_front(x, front, rate=SECOND)
    assert stream.sounding == (0, 4 * SECOND)


def test_what_becomes_of_silence_and_the_hop_enter_the_digest(small_folder):
    config = model_folder.read_config(small_folder)
    digests = set()
    for change in ({}, {"silence": "keep"}, {"window_hop": 0.5}):
        front = dataclasses.replace(config.front, **change)
        other = dataclasses.replace(config, front=front)
        digests.add(model_folder.digesting(other).hexdigest())
    assert len(digests) == 3


def test_hop_of_a_call_is_that_of_the_front_end(small, rng):
    clip = noise(rng, 30_000, 1)
    plain = small.embed_audio(clip, rate=SECOND)
    finer = small.embed_audio(clip, rate=SECOND, window_hop=0.25)
    assert np.abs(plain - finer).max() > 0
    np.testing.assert_array_equal(small.embed_audio(clip, rate=SECOND), plain)
    front = dataclasses.replace(small.config.front, window_hop=0.25)
    [*heard] = inputs.features([clip], inputs.Reading(SECOND, window_hop=0.25), front, 1)
    assert len(heard) == len(audio.windows(audio.load(clip, front.rate, rate=SECOND), front))
    [found] = small.classify(clip, ["a"], rate=SECOND, window_hop=0.25)
    coarser = small.classify(clip, ["a"], rate=SECOND)[0]
    assert found.score != coarser.score
    with pytest.raises(ValueError, match="window_hop"):
        small.embed_audio(clip, rate=SECOND, window_hop=0)
