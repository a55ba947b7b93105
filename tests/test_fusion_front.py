"""The four log-mels of a model with feature fusion."""

import dataclasses

import numpy as np
import pytest

from reclap import audio
from reclap.audio import AudioConfig, fusion, windowing
from reclap.audio.streams import Whole
from reclap.errors import FormatError

CLAP = AudioConfig(mel_scale="htk", mel_norm="none", truncation="fusion")
SMALL = AudioConfig(
    rate=8000, samples=4000, n_fft=64, hop=20, mels=8, fmax=4000.0, truncation="fusion"
)  # 201 frames
DB = 1e-3


def noise(rng, length):
    """Noise whose level and colour change, so that frames differ."""
    swell = np.interp(np.arange(length), np.linspace(0, length, 40), rng.uniform(0, 1, 40))
    return (0.3 * swell**2 * rng.standard_normal(length)).astype(np.float32)


# ---- Against transformers ----------------------------------------------------------------------


@pytest.fixture
def extractor(monkeypatch):
    """Return transformers' extractor; it takes the middle of each part, not a random place."""
    import transformers

    monkeypatch.setattr(np.random, "choice", lambda places: places[(len(places) - 1) // 2])
    return transformers.ClapFeatureExtractor(
        frequency_min=50, frequency_max=14000, truncation="fusion", padding="repeatpad"
    )


def theirs(extractor, *clips):
    got = extractor(list(clips), sampling_rate=48000, return_tensors="np")
    return got["input_features"], got["is_longer"][:, 0]


LENGTHS = [1, 4801, 240_000, 479_999, 480_000, 480_001, 480_479, 480_480, 480_960, 481_440]
LONG = [700_001, 1_440_000, 2_000_003, pytest.param(14_400_007, marks=pytest.mark.slow)]


@pytest.mark.oracle
@pytest.mark.parametrize("length", LENGTHS + LONG)
def test_log_mels_match_transformers(rng, extractor, length):
    x = noise(rng, length)
    mel, longer = fusion.fused_features(x, CLAP)
    # With a long clip beside it the extractor flags nothing at random.
    want, flags = theirs(extractor, x, np.zeros(500_000, np.float32))
    assert mel.dtype == np.float32
    assert np.abs(mel - want[0]).max() <= DB
    assert longer == flags[0]


@pytest.mark.oracle
def test_log_mels_of_real_clips_match_transformers(real_clips, extractor):
    for path in real_clips[::4]:
        x = np.tile(audio.load(path), 4)[:1_234_567]
        assert np.abs(fusion.fused_features(x, CLAP)[0] - theirs(extractor, x)[0][0]).max() <= DB


@pytest.mark.oracle
@pytest.mark.parametrize("frames", [202, 203, 250, 400, 603, 5000])
@pytest.mark.parametrize("antialias", [False, True])
def test_shrinking_matches_torch(rng, frames, antialias):
    import torch

    mel = (20 * rng.standard_normal((frames, 8)) - 40).astype(np.float32)
    want = torch.nn.functional.interpolate(
        torch.from_numpy(mel)[None, None], (201, 8), mode="bilinear", antialias=antialias
    )[0, 0].numpy()
    for part in (frames, 97, 1):
        shrunk = (fusion.Antialiased if antialias else fusion.Bilinear)(frames, 201, 8)
        for at in range(0, frames, part):
            shrunk.add(mel[at : at + part], at)
        assert shrunk.rows.dtype == np.float32
        assert np.abs(shrunk.rows - want).max() <= DB


# ---- By themselves -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "starts"),
    [
        (202, [0, 1, 0]),
        (203, [0, 1, 2]),
        (204, [0, 2, 3]),
        (209, [1, 4, 7]),
        (1206, [167, 503, 838]),
    ],
)
def test_cuts_start_in_the_middle_of_each_third_of_the_places(frames, starts):
    assert fusion.cut_starts(frames, 201) == starts


def test_short_clip_gives_one_log_mel_four_times(rng):
    for length in (1, 100, 3999, 4000, 4001, 4019):
        x = noise(rng, length)
        mel, longer = fusion.fused_features(x, SMALL)
        assert mel.shape == (4, 201, 8)
        assert not longer
        want = audio.log_mel(windowing.pad(x, SMALL), SMALL)
        for view in mel:
            np.testing.assert_array_equal(view, want)


def test_long_clip_gives_the_whole_and_three_cuts(rng):
    x = noise(rng, 20_000)
    whole = audio.log_mel(x, SMALL)
    mel, longer = fusion.fused_features(x, SMALL)
    assert longer
    for cut, start in zip(mel[1:], fusion.cut_starts(len(whole), 201), strict=True):
        np.testing.assert_array_equal(cut, whole[start : start + 201])
    again, _ = fusion.fused_features(x, SMALL)
    np.testing.assert_array_equal(mel, again)


def test_options_of_the_front_end_hold_for_fusion(rng):
    x = noise(rng, 9000)
    rough = dataclasses.replace(SMALL, quantize=True)
    rounded = np.trunc(np.clip(x, -1, 1) * np.float32(32767)) / np.float32(32767)
    np.testing.assert_array_equal(
        fusion.fused_features(x, rough)[0], fusion.fused_features(rounded, SMALL)[0]
    )
    level = dataclasses.replace(SMALL, level_db=-20.0)
    loud, _ = fusion.fused_features(x, level)
    soft, _ = fusion.fused_features(x / 2, level)
    assert np.abs(loud - soft).max() < 0.01
    smooth = dataclasses.replace(SMALL, fusion_resize="antialias")
    a, b = fusion.fused_features(x, SMALL)[0], fusion.fused_features(x, smooth)[0]
    assert np.abs(a[0] - b[0]).max() > 1
    np.testing.assert_array_equal(a[1:], b[1:])


def test_log_mels_follow_the_configuration(rng):
    x = noise(rng, 9000)
    [fused] = fusion.log_mels(Whole(x), SMALL)
    assert fused.mel.shape == (4, 201, 8)
    assert fused.longer
    windows = AudioConfig.from_json(SMALL.to_json() | {"truncation": "windows"})
    plain = list(fusion.log_mels(Whole(x), windows))
    assert [p.mel.shape for p in plain] == [(201, 8)] * 3
    assert not any(p.longer for p in plain)


@pytest.mark.parametrize("change", [{}, {"fusion_resize": "antialias"}, {"level_db": -20.0}])
@pytest.mark.parametrize("length", [4019, 4020, 4100, 9000, 20_011])
def test_parts_of_a_log_mel_give_what_the_whole_gives(rng, monkeypatch, change, length):
    x, config = noise(rng, length), dataclasses.replace(SMALL, **change)
    want = fusion.fused_features(x, config)
    for part in (1, 7, 200, 5000):
        monkeypatch.setattr(fusion, "PART", part)
        mel, longer = fusion.fused_features(x, config)
        assert longer == want[1]
        # The log-mels of parts are the same; triangles of antialiasing are summed in parts.
        assert np.abs(mel - want[0]).max() <= (DB if "fusion_resize" in change else 0)


def test_bad_settings_and_samples_are_refused():
    for name in ("truncation", "fusion_resize"):
        with pytest.raises(FormatError, match=f"{name}: expected one of .*, got 'random'"):
            AudioConfig.from_json({name: "random"})
    with pytest.raises(ValueError, match="at least one"):
        fusion.fused_features(np.zeros(0), SMALL)
    with pytest.raises(ValueError, match="NaN"):
        fusion.fused_features(np.full(10, np.nan), SMALL)
