"""Decoding, conversion, resampling and windows; damaged and hostile files."""

import dataclasses
import io
import math
import os
import struct
import subprocess
import sys
import threading
import typing
from pathlib import Path

import numpy as np
import pytest

from reclap import audio
from reclap.audio import AudioConfig, inputs
from reclap.errors import BackendError, FormatError
from reclap.runtime import libraries
from reclap.runtime.libraries import core
from reclap.training import spectra

soundfile = pytest.importorskip("soundfile")

FORMATS = [("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("WAV", "PCM_U8")]
FORMATS += [("FLAC", "PCM_16"), ("AIFF", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")]


def tone(rate: int, seconds: float = 0.5, channels: int = 1) -> np.ndarray:
    """Return (T, channels) float32, each channel of its own pitch."""
    t = np.arange(int(rate * seconds))[:, None] / rate
    return (0.3 * np.sin(2 * np.pi * 300 * t * np.arange(1, channels + 1))).astype(np.float32)


def encoded(x: np.ndarray, rate: int, kind: str = "WAV", subtype: str = "FLOAT") -> bytes:
    out = io.BytesIO()
    soundfile.write(out, x, rate, format=kind, subtype=subtype)
    return out.getvalue()


def float_wav(frames_said: int, data: bytes, channels: int = 1, rate: int = 48000) -> bytes:
    """Return a float WAV whose header claims `frames_said` frames."""
    size = min(frames_said * channels * 4, 0xFFFFFF00)
    second = rate * channels * 4 & 0xFFFFFFFF
    fmt = struct.pack("<HHIIHH", 3, channels, rate, second, channels * 4 & 0xFFFF, 32)
    head = b"RIFF" + struct.pack("<I", min(size + 36, 0xFFFFFFFF)) + b"WAVEfmt "
    return head + struct.pack("<I", 16) + fmt + b"data" + struct.pack("<I", size) + data


# ---- decoding ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "subtype"), FORMATS)
def test_read_gives_what_soundfile_gives(tmp_path, kind, subtype):
    path = tmp_path / f"clip.{kind.lower()}"
    soundfile.write(path, tone(44100, channels=2), 44100, format=kind, subtype=subtype)
    want, rate = soundfile.read(path, dtype="float32", always_2d=True)
    clip = audio.read(path)
    assert clip.rate == rate
    assert np.array_equal(clip.samples, want)


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (96000, 2), (44100, 6), (11025, 3)])
def test_read_keeps_rate_and_channels(rate, channels):
    x = tone(rate, channels=channels)
    clip = audio.read(encoded(x, rate))
    assert (clip.rate, clip.samples.dtype) == (rate, np.float32)
    assert np.array_equal(clip.samples, x)


def test_path_text_bytes_and_file_object_give_the_same(tmp_path):
    data = encoded(tone(48000), 48000)
    path = tmp_path / "clip é.wav"
    path.write_bytes(data)
    want = audio.read(path).samples
    with path.open("rb") as file:
        sources = [str(path), data, bytearray(data), memoryview(data), io.BytesIO(data), file]
        for source in sources:
            assert np.array_equal(audio.read(source).samples, want)


def test_real_clips_decode_as_soundfile_does(real_clips):
    for path in real_clips:
        want, rate = soundfile.read(path, dtype="float32", always_2d=True)
        clip = audio.read(path)
        assert clip.rate == rate
        assert np.array_equal(clip.samples, want), path.name


@pytest.mark.parametrize("frames", [1, 2, 100])
def test_very_short_files_load(frames):
    x = audio.load(encoded(tone(44100)[:frames], 44100))
    assert x.ndim == 1
    assert 1 <= len(x) <= 2 * frames


def test_decoded_memory_belongs_to_the_array():
    samples = audio.read(encoded(tone(48000), 48000)).samples
    samples[:] = 1  # writable, and freed with the array
    assert samples.base is not None


def test_threads_decode_side_by_side_and_get_their_own_errors():
    good, failures = encoded(tone(48000), 48000, "FLAC", "PCM_16"), []

    def work(i):
        for _ in range(50):
            try:
                ok = len(audio.read(good if i % 2 else b"garbage").samples) == 24000
            except FormatError as error:
                ok = i % 2 == 0 and "not a sound file" in str(error)
            if not ok:
                failures.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert failures == []


# ---- damaged and hostile files -------------------------------------------------------------------


def test_empty_file_names_itself(tmp_path):
    path = tmp_path / "nothing.wav"
    path.write_bytes(b"")
    with pytest.raises(FormatError, match=r"nothing\.wav.*empty"):
        audio.read(path)


@pytest.mark.parametrize("data", [b"\0", b"RIFF", b"not audio" * 50, b"OggS" + bytes(200)])
def test_garbage_is_refused(data):
    with pytest.raises(FormatError, match="bytes>: "):
        audio.read(data)


def test_header_without_frames_is_refused():
    with pytest.raises(FormatError, match="no audio frame"):
        audio.read(encoded(tone(48000)[:0], 48000))


@pytest.mark.parametrize("frames_said", [8, 1000, 1 << 29])
def test_header_that_promises_too_much_gives_what_is_there(frames_said):
    clip = audio.read(float_wav(frames_said, np.full(7, 0.5, "<f4").tobytes()))
    assert np.array_equal(clip.samples, np.full((7, 1), 0.5, np.float32))


@pytest.mark.parametrize(("kind", "subtype"), [("OGG", "VORBIS"), ("FLAC", "PCM_16")])
def test_truncated_file_gives_its_beginning(rng, kind, subtype):
    noise = 0.1 * rng.standard_normal(200_000)  # long enough for several pages of OGG
    data = encoded(noise.astype(np.float32), 44100, kind, subtype)
    whole = audio.read(data).samples
    part = audio.read(data[: len(data) * 2 // 3]).samples
    assert 0.3 * len(whole) < len(part) < len(whole)
    assert np.array_equal(part[:20000], whole[:20000])


@pytest.mark.parametrize("rate", [1, 999, 5_000_000, 2**31 - 1])
def test_absurd_rate_is_refused(rate):
    with pytest.raises(FormatError, match="Hz"):
        audio.read(float_wav(4, bytes(16), rate=rate))


@pytest.mark.parametrize("channels", [0, 1025, 65535])
def test_absurd_channel_count_is_refused(channels):
    with pytest.raises(FormatError):
        audio.read(float_wav(4, bytes(1 << 19), channels=channels))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_samples_name_file_and_frame(tmp_path, value):
    x = np.array([0, 0, value, 0], "<f4")
    path = tmp_path / "bad.wav"
    path.write_bytes(float_wav(4, x.tobytes()))
    with pytest.raises(ValueError, match=r"bad\.wav: NaN or infinite.*frame 2"):
        audio.read(path)


@pytest.mark.parametrize(("kind", "subtype"), [f for f in FORMATS if f[1] != "FLOAT"])
def test_mutated_files_decode_or_are_refused(rng, kind, subtype):
    data = np.frombuffer(encoded(tone(22050, 0.2), 22050, kind, subtype), np.uint8)
    for _ in range(60):
        bad = data.copy()
        bad[rng.integers(0, len(bad), 5)] = rng.integers(0, 256, 5)
        bad = bad[: rng.integers(1, len(bad) + 1)]
        try:
            clip = audio.read(bad.tobytes())
        except FormatError:
            continue
        assert clip.samples.size > 0
        float(clip.samples.sum())  # reads every byte of the result


def resident_kb() -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in x)
    return int(line.split()[1])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="keeps freed memory")
def test_memory_stays_flat_over_errors_and_successes(tmp_path):
    good = encoded(tone(44100, 1.0), 44100, "FLAC", "PCM_16")
    sources = [b"", b"garbage", float_wav(1 << 29, b""), float_wav(9, b"\xff" * 36), good]

    def rounds(n):
        for i in range(n):
            try:
                audio.log_mel(audio.load(sources[i % len(sources)]))
            except ValueError:
                continue

    rounds(100)
    before = resident_kb()
    rounds(1000)
    assert resident_kb() - before < 4000  # one leaked clip a round would be 35 MB


# ---- wrong arguments -----------------------------------------------------------------------------


def test_operating_system_errors_stay_themselves(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        audio.load(tmp_path / "missing.wav")
    with pytest.raises(IsADirectoryError):
        audio.load(tmp_path)


def test_text_mode_file_is_refused():
    with pytest.raises(TypeError, match="binary"):
        audio.read(io.StringIO("RIFF"))


def test_unknown_source_is_refused():
    with pytest.raises(TypeError, match="got None"):
        audio.read(None)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((0,)), "no samples"),
        (np.zeros((5, 0)), "no samples"),
        (np.zeros((1, 2, 3)), "expected shape"),
        (np.float32(1), "expected shape"),
        (np.zeros((2, 4800)), "transpose"),
        (np.array([0, np.nan, 0]), "NaN or infinite.*frame 1"),
        (np.array([1e300]), "infinite"),
    ],
)
def test_wrong_arrays_are_refused(array, message):
    with pytest.raises(ValueError, match=message):
        audio.load(array, rate=48000)


@pytest.mark.parametrize("dtype", [complex, bool, np.int64, np.uint16, object, "U1"])
def test_wrong_array_types_are_refused(dtype):
    with pytest.raises(TypeError, match="expected floating point"):
        audio.load(np.zeros(5, dtype), rate=48000)


def test_rates_are_checked():
    x = np.zeros(5, np.float32)
    with pytest.raises(ValueError, match="rate in Hz is needed"):
        audio.load(x)
    for rate in (0, -1):
        with pytest.raises(ValueError, match="expected 1000 to 4194304 Hz"):
            audio.load(x, rate=rate)
        with pytest.raises(ValueError, match="expected 1000 to 4194304 Hz"):
            audio.load(x, rate, rate=48000)
    with pytest.raises(TypeError, match="whole number"):
        audio.load(x, rate=44100.5)
    with pytest.raises(ValueError, match="says its rate itself"):
        audio.load(b"RIFF", rate=48000)


# ---- conversion, down-mix, resampling ------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "value", "want"),
    [
        (np.int16, -32768, -1.0),
        (np.int16, 16384, 0.5),
        (np.int32, 1 << 30, 0.5),
        (np.int8, -64, -0.5),
        (np.uint8, 192, 0.5),
        (np.float64, 0.25, 0.25),
        (np.float16, 2.0, 2.0),
        (">f4", 0.75, 0.75),
    ],
)
def test_arrays_are_scaled_from_their_full_range(dtype, value, want):
    x = audio.load(np.full(9, value, dtype), rate=48000)
    assert x.dtype == np.float32
    assert x.dtype.isnative
    assert np.array_equal(x, np.full(9, want, np.float32))


@pytest.mark.parametrize("channels", [1, 2, 3, 6])
def test_downmix_is_the_mean(rng, channels):
    x = rng.standard_normal((1001, channels)).astype(np.float32)
    got = audio.load(x, rate=48000)
    # One rounding per addition of values of about 1.
    assert np.abs(got - x.astype(np.float64).mean(axis=1)).max() < channels * 2.0**-22


def test_channels_are_kept_on_request(rng):
    x = rng.standard_normal((4410, 2)).astype(np.float32)
    assert audio.load(x, rate=44100, channels="keep").shape == (4800, 2)
    assert np.array_equal(audio.load(x, 44100, channels="keep", rate=44100), x)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 96000, 192000])
def test_resampled_tone_stays_the_tone(rate):
    got = audio.load(tone(rate, 1.0), rate=rate)
    want = tone(48000, 1.0)[:, 0]
    assert len(got) == 48000
    middle = slice(2000, -2000)  # away from the edges, where the filter sees silence
    assert np.abs(got[middle] - want[middle]).max() < 1e-4


@pytest.mark.parametrize("resampler", ["soxr", "sinc"])
def test_clip_shorter_than_one_output_sample_keeps_one(resampler):
    assert len(audio.load(np.ones(1), 8000, rate=192000, resampler=resampler)) == 1


@pytest.mark.parametrize(
    ("old", "new"), [(44100, 48000), (48000, 44100), (8000, 44100), (7000, 5000)]
)
def test_sinc_resampler_is_torchaudios_formula(rng, old, new):
    x = rng.standard_normal((133, 2)).astype(np.float32)
    got = audio.load(x, new, channels="keep", rate=old, resampler="sinc")
    common = math.gcd(old, new)
    a, b = old // common, new // common
    cutoff = min(a, b) * 0.99
    reach = math.ceil(6 * a / cutoff)
    want = np.zeros((math.ceil(133 * b / a), 2))
    for i in range(len(want)):
        block = i // b * a
        for k in range(max(0, block - reach), min(133, block + a + reach)):
            phase = np.float32(i % b) / np.float32(b)  # as torchaudio rounds it
            t = np.clip(((k - block) / a - float(phase)) * cutoff, -6, 6)
            want[i] += x[k] * np.sinc(t) * np.cos(np.pi * t / 12) ** 2 * cutoff / a
    assert got.shape == want.shape
    assert np.abs(got - want).max() < 3e-6


def test_channels_one_after_the_other_in_time(rng):
    x = rng.standard_normal((50, 3)).astype(np.float32)
    got = audio.load(x, 48000, channels="concatenate", rate=48000)
    np.testing.assert_array_equal(got, np.concatenate(x.T))
    assert len(audio.load(x[:, :1], channels="concatenate", rate=48000)) == 50


@pytest.mark.parametrize("argument", [{"channels": "left"}, {"resampler": "linear"}])
def test_unknown_treatment_is_refused(argument):
    (name, value), *_ = argument.items()
    with pytest.raises(ValueError, match=f"{name} is '{value}', expected one of"):
        audio.load(np.ones(5), rate=44100, **argument)


def test_array_views_load_like_copies(rng):
    x = rng.standard_normal((500, 4)).astype(np.float32)
    for view in (x[::2], x[:, 1::2], np.asfortranarray(x), x[::-1]):
        got = audio.load(view, rate=48000)
        assert np.array_equal(got, audio.load(view.copy(), rate=48000))


def test_rates_are_given_by_name_only():
    with pytest.raises(TypeError, match="positional"):
        audio.load(np.zeros(5), 48000, 48000)
    with pytest.raises(TypeError, match="positional"):
        audio.load_front(np.zeros(5), AudioConfig(), 48000)


HEARD = AudioConfig(rate=16000, samples=16000, n_fft=512, hop=160, mels=32, fmax=8000.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (name, value)
        for name, kind in typing.get_type_hints(AudioConfig).items()
        if typing.get_origin(kind) is typing.Literal
        for value in typing.get_args(kind)
    ],
)
def test_training_and_inference_hear_the_same(rng, tmp_path, field, value):
    """A clip of a second at most, so that one window holds it all, whatever the options."""
    front = dataclasses.replace(HEARD, **{field: value})
    seconds = 0.3  # twice that where channels are put one after the other
    noise = 0.2 * rng.standard_normal((int(44100 * seconds), 2)) * [1.0, 0.3]
    path = tmp_path / "noise.wav"
    soundfile.write(path, noise, 44100, subtype="FLOAT")
    [(_, heard)] = inputs.features([path], inputs.Reading(), front, 1)
    trained = spectra.load(path, 1.0, front, wrap=False).power
    inference = heard.mel[0] if front.truncation == "fusion" else heard.mel
    np.testing.assert_allclose(10 * np.log10(np.maximum(trained, 1e-10)), inference, atol=1e-3)


# ---- windows -------------------------------------------------------------------------------------

TEN = AudioConfig(rate=8000, samples=10, n_fft=32, hop=4, mels=2, fmax=4000.0)


def test_short_clip_is_repeated_whole_then_padded():
    x = np.array([1, 2, 3], np.float32)
    assert audio.windows(x, TEN).tolist() == [[1, 2, 3, 1, 2, 3, 1, 2, 3, 0]]
    repeat, pad = (dataclasses.replace(TEN, padding=p) for p in ("repeat", "pad"))
    assert audio.windows(x, repeat).tolist() == [[1, 2, 3, 1, 2, 3, 1, 2, 3, 1]]
    assert audio.windows(x, pad).tolist() == [[1, 2, 3, 0, 0, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize("length", [1, 5, 6, 9, 10])
def test_up_to_one_window_is_one_window(length):
    assert audio.windows(np.ones(length), TEN).shape == (1, 10)


@pytest.mark.parametrize(("length", "count"), [(11, 2), (20, 2), (21, 3), (30, 3), (101, 11)])
@pytest.mark.parametrize("window_hop", [1.0, 0.5])
def test_long_clip_is_covered_from_first_to_last_sample(length, count, window_hop):
    config = dataclasses.replace(TEN, window_hop=window_hop)
    got = audio.windows(np.arange(length), config).astype(int)
    assert len(got) == (count if window_hop == 1 else -(-(length - 10) // 5) + 1)
    assert (np.diff(got, axis=1) == 1).all()
    assert np.array_equal(np.unique(got), np.arange(length))
    steps = np.diff(got[:, 0])
    assert np.ptp(steps) <= 1


def test_quantize_rounds_towards_zero_as_laion_does():
    config = dataclasses.replace(TEN, samples=6, quantize=True)
    got = audio.windows([0.5, 0.99999, 1.0, -1.0, 1e-5, 1.2], config)[0]
    assert np.array_equal(np.rint(got * 32767), [16383, 32766, 32767, -32767, 0, 32767])


def test_window_features_stack_the_windows(rng):
    x = rng.standard_normal(25).astype(np.float32)
    got = audio.window_features(x, TEN)
    assert got.shape == (3, TEN.frames, TEN.mels)
    want = [audio.log_mel(w, TEN) for w in audio.windows(x, TEN)]
    assert np.array_equal(got, np.stack(want))


# ---- configuration -------------------------------------------------------------------------------


def test_config_survives_json():
    config = AudioConfig(rate=44100, bank_rate=32000, quantize=True, fmin=0.0)
    assert AudioConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"sample_rate": 1}, "audio: unknown sample_rate; known are rate"),
        ({"rate": "48000"}, r"audio\.rate: expected int from 1000 to 4194304, got '48000'"),
        ({"rate": True}, r"audio\.rate: expected int from 1000 to 4194304, got True"),
        ({"rate": 0}, r"audio\.rate: expected int from 1000 to 4194304, got 0"),
        ({"samples": 1.5}, r"audio\.samples"),
        ({"quantize": 1}, r"audio\.quantize"),
        (
            {"padding": "mirror"},
            r"audio\.padding: expected one of repeatpad, repeat",
        ),
        ({"window_hop": 0}, r"audio\.window_hop"),
        ({"n_fft": 1000}, "n_fft is 1000"),
        ({"fmin": 20000}, "fmin"),
        ({"bank_rate": "x"}, r"audio\.bank_rate: expected int from 1 to 16777216 or none, got 'x'"),
        ([1], "expected a table"),
    ],
)
def test_wrong_json_names_the_field(data, message):
    with pytest.raises(FormatError, match=message):
        AudioConfig.from_json(data)


# ---- libraries -----------------------------------------------------------------------------------


def test_missing_libsndfile_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("RECLAP_SNDFILE", str(tmp_path / "none.so"))
    libraries.sndfile.cache_clear()
    try:
        with pytest.raises(BackendError, match=r"none\.so.*pip install soundfile"):
            libraries.sndfile()
    finally:
        libraries.sndfile.cache_clear()


@pytest.mark.skipif(sys.platform != "linux", reason="names a Linux library")
def test_library_without_the_functions_is_refused():
    with pytest.raises(BackendError, match="sf_open_virtual"):
        core.SndFile("libc.so.6")


def test_sndfile_path_prefers_the_environment(monkeypatch):
    monkeypatch.setenv("RECLAP_SNDFILE", "elsewhere.so")
    assert libraries.sndfile_path() == "elsewhere.so"
    monkeypatch.delenv("RECLAP_SNDFILE")
    monkeypatch.setattr(libraries.importlib.util, "find_spec", lambda name: None)
    assert libraries.sndfile_path().startswith("libsndfile.")


def test_import_loads_neither_core_nor_soundfile():
    code = (
        "import sys, reclap, reclap.runtime.libraries as l; l.sndfile_path();"
        "assert 'reclap._core' not in sys.modules and 'soundfile' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))  # noqa: S603
