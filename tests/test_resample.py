"""Resampling: lengths as librosa and torchaudio make them, odd ratios of rates, bounded memory."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from needs import needs

from reclap import audio
from reclap.audio import resample
from reclap.audio.resample import RESAMPLERS, resampled_length, resampler_of

# Samples, rate, new rate, and what became of them in librosa 0.11 (soxr_hq) and torchaudio 2.11.
RECORDED = [
    (220500, 44100, 48000, 240001, 240000),
    (44100, 44100, 48000, 48001, 48000),
    (352800, 44100, 96000, 768001, 768000),
    (209475, 11025, 48000, 912001, 912000),
    (22050, 22050, 48000, 48001, 48000),
    (278802, 32000, 22050, 192113, 192112),
    (220500, 11025, 96000, 1920001, 1920000),
    (220500, 44100, 24000, 120001, 120000),
    (209656, 11025, 48000, 912789, 912788),
    (418950, 22050, 24000, 456001, 456000),
    (309011, 22050, 48000, 672678, 672677),
    (400000, 16000, 48000, 1200000, 1200000),
    (1, 44100, 48000, 2, 2),
    (1, 48000, 8000, 1, 1),
]
RATES = [8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 96000]


@pytest.mark.parametrize(("length", "old", "new", "librosa", "torchaudio"), RECORDED)
def test_lengths_are_the_recorded_ones(length, old, new, librosa, torchaudio):
    assert resampled_length(length, old, new, "librosa") == librosa
    assert resampled_length(length, old, new, "sinc") == torchaudio
    for kind, want in (("librosa", librosa), ("sinc", torchaudio)):
        assert len(resample.resample(np.zeros(length, np.float32), old, new, kind)) == want


def pairs(rng, count, longest):
    """Yield lengths and rates, every second length whole seconds where so many samples allow."""
    for i in range(count):
        old, new = (int(rate) for rate in rng.choice(RATES, 2, replace=False))
        seconds = int(rng.integers(1, max(2, longest // old)))
        yield seconds * old if i % 2 else int(rng.integers(1, longest)), old, new


def test_thousands_of_lengths_are_librosas(rng):
    librosa = needs("librosa", "bench")
    hit = 0
    for length, old, new in [*pairs(rng, 2000, 12_000), *pairs(rng, 60, 500_000)]:
        y = librosa.resample(np.zeros(length, np.float32), orig_sr=old, target_sr=new)
        assert len(y) == resampled_length(length, old, new, "librosa"), (length, old, new)
        hit += len(y) != -(-length * new // old)
    assert hit > 10  # lengths that rounding changes are among them


def test_thousands_of_lengths_are_torchaudios(rng):
    torch = needs("torch", "oracle")
    hit = 0
    for length, old, new in pairs(rng, 4000, 10**8):
        common = int(np.gcd(old, new))
        # functional.resample: target_length, of at most length // old + 1 blocks
        exact = torch.as_tensor((new // common) * length / (old // common))
        most = (length // (old // common) + 1) * (new // common)
        want = min(int(torch.ceil(exact).long()), most)
        assert resampled_length(length, old, new, "sinc") == want, (length, old, new)
        hit += want != -(-length * new // old)
    assert hit > 20


@pytest.mark.parametrize("kind", ["librosa", "sinc"])
@pytest.mark.parametrize("length", [1, 255, 256, 257, 44100, 61_005])
def test_streams_have_the_length_of_the_whole(rng, kind, length):
    x = rng.standard_normal(length).astype(np.float32)
    want = resample.resample(x, 44100, 48000, kind)
    stream = resampler_of(44100, 48000, kind)
    ends = [*range(0, length, 997), length]
    parts = [stream.push(x[a:b]) for a, b in itertools.pairwise(ends)]
    got = np.concatenate([*parts, stream.finish()])
    assert len(got) == len(want) == resampled_length(length, 44100, 48000, kind)
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_librosas_last_sample_is_a_zero(rng):
    x = rng.standard_normal(44100).astype(np.float32)
    exact, filled = (resample.resample(x, 44100, 48000, kind) for kind in ("soxr", "librosa"))
    np.testing.assert_array_equal(filled, np.append(exact, np.float32(0)))


def test_whole_seconds_are_repeated_as_laion_clap_does(rng):
    """Five seconds at 44.1 kHz: 240,001 samples fit once into ten seconds, 240,000 twice."""
    x = rng.standard_normal(220_500).astype(np.float32)
    fronts = [audio.AudioConfig(resampler=kind) for kind in ("soxr", "librosa")]
    exact, upstream = (audio.windows(audio.load_front(x, f, rate=44100), f) for f in fronts)
    np.testing.assert_array_equal(exact[0, 240_000:], exact[0, :240_000])
    np.testing.assert_array_equal(upstream[0, :240_000], exact[0, :240_000])
    assert not upstream[0, 240_000:].any()


# ---- Odd ratios of rates -------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new"), [(44100, 48000), (48000, 44100), (192000, 8000)])
def test_gathered_filters_are_those_of_the_matrix(rng, monkeypatch, old, new):
    x = rng.standard_normal(30_000).astype(np.float32)
    want = resample.resample(x, old, new, "sinc")
    monkeypatch.setattr(resample, "MATRIX", 5000)  # several parts of phases, too
    np.testing.assert_allclose(resample.resample(x, old, new, "sinc"), want, atol=2e-6)


def test_odd_rate_keeps_a_tone():
    t = np.arange(44101) / 44101
    got = resample.resample(np.sin(2 * np.pi * 440 * t).astype(np.float32), 44101, 44100, "sinc")
    want = np.sin(2 * np.pi * 440 * np.arange(44100) / 44100)
    assert np.abs(got - want)[50:-50].max() < 4e-3  # torchaudio's phases are float32


PEAK = """
import resource, sys
import numpy as np
from reclap.audio.resample import resample
resample(np.zeros(1000, np.float32), 44100, 48000, sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for old, new in ((44101, 44100), (22051, 44100), (4194303, 48000), (1009, 48000)):
    resample(np.zeros(20_000, np.float32), old, new, sys.argv[1])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory in KB")
@pytest.mark.parametrize("kind", RESAMPLERS)
def test_memory_does_not_depend_on_the_ratio_of_rates(kind):
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", PEAK, kind], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 300_000  # a matrix for 44101 Hz would take 7 GB
