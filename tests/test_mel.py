"""The log-mel transform against a float64 formula and against transformers."""

import threading
import warnings

import numpy as np
import pytest

from reclap import audio
from reclap.audio import AudioConfig, features
from reclap.runtime.libraries import core

SMALL = AudioConfig(rate=8000, samples=4000, n_fft=64, hop=20, mels=8, fmin=20.0, fmax=4000.0)

# Float32 decibels up to 100 in size carry 4e-6 of rounding; the rest is the logarithm's polynomial.
DB_TOLERANCE = 5e-5


def slaney_mel(f):
    return np.where(f < 1000, f * 3 / 200, 15 + np.log(np.maximum(f, 1) / 1000) * 27 / np.log(6.4))


def slaney_hz(m):
    return np.where(m < 15, m * 200 / 3, 1000 * np.exp((m - 15) * np.log(6.4) / 27))


def reference_filters(c: AudioConfig) -> np.ndarray:
    htk = c.mel_scale == "htk"
    to_mel = (lambda f: 2595 * np.log10(1 + f / 700)) if htk else slaney_mel
    to_hz = (lambda m: 700 * (10 ** (m / 2595) - 1)) if htk else slaney_hz
    edges = to_hz(np.linspace(to_mel(c.fmin), to_mel(c.fmax), c.mels + 2))
    low, top, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    f = np.arange(c.n_fft // 2 + 1) * (c.bank_rate or c.rate) / c.n_fft
    w = np.maximum(0, np.minimum((f - low) / (top - low), (high - f) / (high - top)))
    return w * 2 / (high - low) if c.mel_norm == "slaney" else w


def reference_log_mel(x: np.ndarray, c: AudioConfig) -> np.ndarray:
    mode = "reflect" if len(x) > 1 else "edge"
    padded = np.pad(x.astype(np.float64), c.n_fft // 2, mode=mode)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(c.n_fft) / c.n_fft)
    starts = range(0, len(padded) - c.n_fft + 1, c.hop)
    frames = np.stack([padded[s : s + c.n_fft] * window for s in starts])
    power = np.abs(np.fft.rfft(frames)) ** 2
    return 10 * np.log10(np.maximum(power @ reference_filters(c).T, 1e-10))


CONFIGS = [
    AudioConfig(),
    AudioConfig(mel_scale="htk", mel_norm="none"),
    AudioConfig(rate=44100, samples=308700, hop=320, bank_rate=32000),
    SMALL,
    AudioConfig(rate=16000, n_fft=32, hop=7, mels=3, fmin=0.0, fmax=8000.0),
    AudioConfig(n_fft=2048, hop=3000, mels=128, fmin=0.0, fmax=24000.0),
    AudioConfig(n_fft=65536, hop=65536, mels=2),
]


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
def test_filters_match_formula(config):
    plan = features._mel(config)
    assert np.abs(plan.filters() - reference_filters(config)).max() < 1e-7


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
@pytest.mark.parametrize("length", [1, 2, 3, 1000, 7777])
def test_log_mel_matches_formula(rng, config, length):
    x = rng.standard_normal(length).astype(np.float32)
    got, want = audio.log_mel(x, config), reference_log_mel(x, config)
    assert got.shape == want.shape == (length // config.hop + 1, config.mels)
    assert np.abs(got - want).max() < DB_TOLERANCE


@pytest.mark.parametrize("length", [1, 2, 16, 31, 32, 33, 63, 64, 65, 159, 160, 161])
def test_clips_around_the_pad_and_the_block_match_formula(rng, length):
    x = rng.standard_normal(length).astype(np.float32)
    assert np.abs(audio.log_mel(x, SMALL) - reference_log_mel(x, SMALL)).max() < DB_TOLERANCE


def test_quiet_band_beside_a_loud_tone_keeps_its_level():
    t = np.arange(48000) / 48000
    x = (np.sin(2 * np.pi * 300 * t) + 1e-5 * np.sin(2 * np.pi * 9000 * t)).astype(np.float32)
    got, want = audio.log_mel(x), reference_log_mel(x, AudioConfig())
    assert np.ptp(want[50]) > 90  # decibels between the bands of one frame
    assert np.abs(got - want).max() < DB_TOLERANCE


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 2e9])
def test_log_mel_of_any_level_matches_formula(rng, scale):
    x = (rng.standard_normal(5000) * scale).astype(np.float32)
    assert np.abs(audio.log_mel(x) - reference_log_mel(x, AudioConfig())).max() < 10 * DB_TOLERANCE


def test_log_mel_of_silence_is_floor():
    assert np.abs(audio.log_mel(np.zeros(5000)) + 100).max() < DB_TOLERANCE


def test_log_mel_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        audio.log_mel(np.zeros(0))
    with pytest.raises(ValueError, match="no samples"):
        features._mel(SMALL)(np.zeros(0, np.float32))


def test_log_mel_of_wrong_rank_or_nan_is_refused():
    for bad in (np.zeros((2, 100)), np.float32(1)):
        with pytest.raises(ValueError, match="expected shape"):
            audio.log_mel(bad)
    with pytest.raises(ValueError, match=r"NaN.*frame 1"):
        audio.log_mel([0.0, np.nan])


OUT_OF_RANGE = [("n_fft", 1000), ("n_fft", 16), ("n_fft", 131072), ("n_fft", -1024), ("hop", 0)]
OUT_OF_RANGE += [("hop", 1 << 40), ("mels", 0), ("mels", 10**6), ("fmin", -1.0), ("fmax", 50.0)]
OUT_OF_RANGE += [("fmin", np.nan), ("fmax", np.inf), ("rate", 0), ("rate", 1 << 60)]


@pytest.mark.parametrize(("field", "value"), OUT_OF_RANGE)
def test_plan_out_of_range_is_refused(field, value):
    good = {"rate": 48000, "n_fft": 1024, "hop": 480, "mels": 64, "fmin": 50.0, "fmax": 14000.0}
    with pytest.raises(ValueError, match=field):
        core.Mel(**{**good, field: value}, htk=False, area_norm=True)


def test_fortran_double_and_sliced_input_gives_the_same(rng):
    x = rng.standard_normal(6000)
    want = audio.log_mel(x.astype(np.float32))
    assert np.array_equal(audio.log_mel(x), want)
    assert np.array_equal(audio.log_mel(np.stack([x, x], axis=1)[:, 0]), want)
    assert np.array_equal(audio.log_mel(x[::-1])[::-1].shape, want.shape)


def test_threads_sharing_a_plan_give_the_same_bits(rng):
    clips = rng.standard_normal((4, 60000)).astype(np.float32)
    want = [audio.log_mel(x) for x in clips]
    got: list = [None] * 4

    def work(i):
        for _ in range(5):
            got[i] = audio.log_mel(clips[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))


def clap_features(mel_scale: str):
    """Return transformers' extractor as a function of a 48 kHz clip of up to 10 s."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

        extractor = transformers.ClapFeatureExtractor(
            frequency_min=50,
            frequency_max=14000,
            truncation="rand_trunc" if mel_scale == "slaney" else "fusion",
            padding="repeatpad",
        )

    def extract(x: np.ndarray) -> np.ndarray:
        return extractor(x, sampling_rate=48000, return_tensors="np")["input_features"][0, 0]

    return extract


@pytest.mark.oracle
@pytest.mark.parametrize("mel_scale", ["slaney", "htk"])
@pytest.mark.parametrize("length", [1, 2, 4801, 100_003, 240_000, 479_999, 480_000])
def test_noise_matches_transformers(rng, mel_scale, length):
    config = AudioConfig(
        mel_scale=mel_scale, mel_norm="slaney" if mel_scale == "slaney" else "none"
    )
    x = (0.1 * rng.standard_normal(length)).astype(np.float32)
    got = audio.window_features(x, config)
    assert got.shape == (1, 1001, 64)
    assert np.abs(got[0] - clap_features(mel_scale)(x)).max() < 1e-3


@pytest.mark.oracle
def test_real_clips_match_transformers(real_clips):
    extract = clap_features("slaney")
    for path in real_clips:
        x = audio.load(path)[:480_000]
        assert np.abs(audio.window_features(x)[0] - extract(x)).max() < 1e-3, path.name


def test_what_lies_at_the_floor_stays_there_at_any_level(rng):
    mel = rng.uniform(-60, -20, (50, 8)).astype(np.float32)
    silent = rng.random((50, 8)) < 0.3
    mel[silent] = -100
    for level in (-40.0, -20.0, 30.0):
        got = features.set_level(mel, level)
        assert (got[silent] == -100).all()
        assert np.ptp(got[~silent] - mel[~silent]) < 1e-3
