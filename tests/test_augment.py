"""Augmentation: what each setting does to sounds, measured over many draws.

Bounds of shares and means are five standard deviations wide.
"""

import collections
import dataclasses

import folders
import numpy as np
import pytest
from folders import RATE

from reclap.audio import AudioConfig
from reclap.io.manifest import Caption, Row
from reclap.training import augment, rng, spectra
from reclap.training.augment import Augment
from reclap.training.data import Batches, Data

FRONT = AudioConfig.from_json(folders.CONFIG["front"])
PLAIN = Augment()
LOW, HIGH = 300.0, 3000.0
HERTZ = np.arange(1.0, 8001.0)


def steady(hz, seconds=1.0):
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE)).astype("f4")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Return noise (0), and two steady tones that are one group (1 low, 2 high)."""
    folder = tmp_path_factory.mktemp("sounds")
    noise = np.random.default_rng(5).normal(0, 0.1, RATE).astype("f4")
    sounds = {"noise": noise, "low": steady(LOW), "high": steady(HIGH)}
    return [
        Row(
            folders.write_wav(folder / f"{name}.wav", x),
            (Caption(f"A {name} sound."),),
            {"group": "noise" if name == "noise" else "tone"},
        )
        for name, x in sounds.items()
    ]


def log_mels(rows, how, count, batch=20):
    """Return `count` log-mels (count, frames, mels) in dB, and the rows of each."""
    batches = Batches(rows, Data("", batch=batch, group="group"), how, FRONT, 3)
    made = [batches.batch(step) for step in range(count // batch)]
    return np.concatenate([b.mel for b in made]), [r for b in made for r in b.rows]


def changes(rows, how, count=400):
    """Return what is added to the log-mel of the noise in dB, (count, frames, mels)."""
    plain, _ = log_mels(rows[:1], PLAIN, 20)
    return log_mels(rows[:1], how, count)[0] - plain[0]


def assert_uniform(drawn, least, greatest):
    """Check range, mean and spread of a uniform distribution."""
    half, n = (greatest - least) / 2, len(drawn)
    assert least <= drawn.min() < least + 0.1 * half
    assert greatest - 0.1 * half < drawn.max() <= greatest
    assert abs(drawn.mean() - (least + greatest) / 2) < 5 * half / (3 * n) ** 0.5
    assert drawn.std() == pytest.approx(half / 3**0.5, rel=0.15)


def loudness(mel, hz):
    """Return the loudest band around a tone in each frame, in dB, shape (..., frames)."""
    edges = np.linspace(_mel_of(FRONT.fmin), _mel_of(FRONT.fmax), FRONT.mels + 2)
    band = int(np.abs(edges[1:-1] - _mel_of(hz)).argmin())
    return mel[..., max(0, band - 1) : band + 2].max(axis=-1)


def _mel_of(hz):
    """Slaney's scale."""
    return 3 * hz / 200 if hz < 1000 else 15 + 27 * np.log(hz / 1000) / np.log(6.4)


# ---- Level and colour ------------------------------------------------------------------------


def test_without_settings_nothing_changes(rows):
    assert np.abs(changes(rows, PLAIN, 20)).max() == 0


def test_gain_shifts_the_whole_log_mel(rows):
    added = changes(rows, Augment(gain_db=6.0))
    assert np.ptp(added, axis=(1, 2)).max() < 1e-3
    assert_uniform(added[:, 0, 0], -6, 6.0001)


def test_tilt_is_a_line_over_the_bands(rows):
    added = changes(rows, Augment(tilt_db=6.0))
    assert np.ptp(added, axis=1).max() < 1e-3  # every frame alike
    bands = added[:, 0]
    line = bands[:, :1] * np.linspace(1, -1, FRONT.mels)
    assert np.abs(bands - line).max() < 1e-3
    assert_uniform(bands[:, 0], -6, 6.0001)


def test_equalizer_is_a_curve_through_independent_points(rows):
    added = changes(rows, Augment(eq_db=6.0, eq_points=4))
    assert np.ptp(added, axis=1).max() < 1e-3
    places = np.linspace(0, FRONT.mels - 1, 4).astype(int)
    assert (np.diff(places) == 5).all()  # the points fall on bands
    points = added[:, 0, places]
    for k in range(4):
        assert_uniform(points[:, k], -6, 6.0001)
    assert np.abs(np.corrcoef(points.T) - np.eye(4)).max() < 0.25
    halfway = [np.interp(np.arange(FRONT.mels), places, p) for p in points]
    assert np.abs(added[:, 0] - halfway).max() < 1e-3


def test_tilt_and_equalizer_add(rows):
    added = changes(rows, Augment(tilt_db=6.0, eq_db=6.0))
    assert 6.5 < np.abs(added).max() <= 12.0001


# ---- Noise -----------------------------------------------------------------------------------


def noise_of(rows, how, count=400):
    """Return the power that is added to the noise-free tone, relative to its level."""
    plain, _ = log_mels(rows[1:2], PLAIN, 20)
    power = augment.from_db(plain[0])
    made, _ = log_mels(rows[1:2], how, count)
    level = augment.level_of(power)
    return [np.maximum(augment.from_db(m) - power, 0) / level for m in made]


def test_noise_is_quieter_than_the_clip_by_as_much_as_asked(rows):
    added = noise_of(rows, Augment(noise=1.0, noise_db=(10.0, 30.0)))
    below = np.array([-10 * np.log10(augment.level_of(x)) for x in added])
    # A second of noise is louder or quieter than its six by a fraction of a dB.
    assert 9 < below.min() < 12
    assert 28 < below.max() < 31
    assert abs(below.mean() - 20) < 5 * 10 / (3 * 400) ** 0.5
    assert below.std() == pytest.approx(10 / 3**0.5, rel=0.15)


def test_noise_has_three_colours(rows):
    added = noise_of(rows, Augment(noise=1.0, noise_db=(10.0, 10.0)))
    away = slice(8, 16)  # bands that the tone does not reach
    slopes = [np.polyfit(np.arange(8), 10 * np.log10(x[:, away].mean(0)), 1)[0] for x in added]
    counts = collections.Counter(np.digitize(slopes, [-0.9, -0.1]).tolist())
    assert set(counts) == {0, 1, 2}
    assert all(abs(n / 400 - 1 / 3) < 5 * (2 / 9 / 400) ** 0.5 for n in counts.values())


def test_noise_is_four_stretches_of_each_colour():
    """Amplitudes 1, f^-1/2 and f^-1: 0, 3 and 6 dB less per octave."""
    made = spectra.noises(FRONT)
    edges = np.linspace(_mel_of(FRONT.fmin), _mel_of(FRONT.fmax), FRONT.mels + 2)[1:-1]
    octaves = np.log2(np.interp(edges, [_mel_of(f) for f in HERTZ], HERTZ))
    slopes = [np.polyfit(octaves, 10 * np.log10(x.power.mean(axis=0)), 1)[0] for x in made]
    # Bands of one width in Hz up to 1 kHz, then of one width in octaves, all of unit area.
    assert slopes == pytest.approx([0.0] * 4 + [-3.0] * 4 + [-6.0] * 4, abs=0.6)
    assert len({x.power[0].tobytes() for x in made}) == 12


def test_noise_comes_as_often_as_asked(rows):
    added = noise_of(rows, Augment(noise=0.3, noise_db=(10.0, 10.0)))
    share = np.mean([x.any() for x in added])
    assert abs(share - 0.3) < 5 * (0.21 / 400) ** 0.5


# ---- Time ------------------------------------------------------------------------------------


def test_speeds_are_all_used_alike(rows):
    how = Augment(speeds=(0.5, 1.0, 2.0), shift=True)
    made, _ = log_mels(rows[2:], how, 300)
    bands = [max((0.5, 1, 2), key=lambda s: loudness(m, s * HIGH).mean()) for m in made]
    counts = collections.Counter(bands)
    assert all(abs(counts[s] / 300 - 1 / 3) < 5 * (2 / 9 / 300) ** 0.5 for s in (0.5, 1, 2))


def test_shift_starts_anywhere(tmp_path, rows):
    click = np.zeros(RATE, "f4")
    click[RATE // 2] = 0.9
    one = [dataclasses.replace(rows[0], path=folders.write_wav(tmp_path / "click.wav", click))]
    still, _ = log_mels(one, PLAIN, 20)
    assert set(still.max(axis=2).argmax(axis=1)) == {50}
    shifted, _ = log_mels(one, Augment(shift=True), 400)
    at = shifted.max(axis=2).argmax(axis=1)
    assert np.histogram(at, 5, (0, FRONT.frames))[0].min() > 80 - 5 * (400 * 0.16) ** 0.5


# ---- Joined clips ----------------------------------------------------------------------------


def halves(made):
    """Tell which tones sound in the first and the last fifth of each log-mel."""
    fifth = FRONT.frames // 5
    parts = (made[:, 3:fifth], made[:, -fifth:-3])
    return [
        tuple(
            "".join(
                name
                for name, hz in (("L", LOW), ("H", HIGH))
                if loudness(part[i], hz).mean() > part[i].max() - 15
            )
            for part in parts
        )
        for i in range(len(made))
    ]


def test_same_joins_clips_of_the_group(rows):
    made, used = log_mels(rows[1:], Augment(same=1.0, splice=0.0), 400)
    partners = collections.Counter(used)
    assert set(partners) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert all(abs(n / 400 - 0.25) < 5 * (0.1875 / 400) ** 0.5 for n in partners.values())
    heard = {(0, 0): "L", (1, 1): "H", (0, 1): "LH", (1, 0): "LH"}
    for names, pair in zip(halves(made), used, strict=True):
        assert names == (heard[pair], heard[pair])


def test_same_comes_as_often_as_asked(rows):
    _, used = log_mels(rows[1:], Augment(same=0.3), 400)
    assert abs(np.mean([len(u) == 2 for u in used]) - 0.3) < 5 * (0.21 / 400) ** 0.5


def test_spliced_clip_follows_the_first(rows):
    made, used = log_mels(rows[1:], Augment(same=1.0, splice=1.0), 200)
    for names, pair in zip(halves(made), used, strict=True):
        assert names == tuple("LH"[i] for i in pair)


def test_splice_comes_as_often_as_asked(rows):
    made, used = log_mels(rows[1:], Augment(same=1.0, splice=0.25), 800)
    both = [names for names, (a, b) in zip(halves(made), used, strict=True) if a != b]
    share = np.mean([names[0] != names[1] for names in both])
    assert abs(share - 0.25) < 5 * (0.1875 / len(both)) ** 0.5


def test_joined_clips_differ_in_level_by_as_much_as_asked(rows):
    made, used = log_mels(rows[1:], Augment(same=1.0, splice=0.0, snr_db=6.0), 2000)
    plain, alone = log_mels(rows[1:], PLAIN, 20)
    own = {}
    for k, hz in ((0, LOW), (1, HIGH)):
        mel = plain[alone.index((k,))]
        level = 10 * np.log10(augment.level_of(augment.from_db(mel)))
        own[hz] = loudness(mel, hz).mean() - level
    ratios = np.array(
        [
            (loudness(m, HIGH).mean() - own[HIGH]) - (loudness(m, LOW).mean() - own[LOW])
            for m, (a, b) in zip(made, used, strict=True)
            if (a, b) == (0, 1)
        ]
    )
    assert_uniform(ratios, -6.1, 6.1)


def test_mixtures_have_either_group_first(rows):
    batches = Batches(rows, Data("", batch=3, mixtures=1, group="group"), PLAIN, FRONT, 3)
    firsts = [batches.plan(step)[-1][0] for step in range(400)]
    assert abs(np.mean([first == 0 for first in firsts]) - 0.5) < 5 * (0.25 / 400) ** 0.5


def test_mixture_sounds_like_both_in_the_order_of_its_caption(rows):
    pair = [dataclasses.replace(r, extra={"group": str(i)}) for i, r in enumerate(rows[1:])]
    data = Data("", batch=1, mixtures=1, group="group")
    for sequence in (0.0, 1.0):
        batches = Batches(pair, data, Augment(sequence=sequence), FRONT, 3)
        for step in range(40):
            batch = batches.batch(step)
            ((a, b),) = batch.rows
            expected = tuple("LH"[i] for i in (a, b)) if sequence else ("LH", "LH")
            assert halves(batch.mel) == [expected]
            said = [w for w in batch.captions[0].split() if w in ("low", "high")]
            assert said == [("low", "high")[i] for i in (a, b)]


def test_sequences_come_as_often_as_asked(rows):
    data = Data("", batch=2, mixtures=1, group="group")
    batches = Batches(rows, data, Augment(sequence=0.25), FRONT, 3)
    said = [batches.batch(step).captions[-1] for step in range(400)]
    share = np.mean([", followed by " in caption for caption in said])
    assert abs(share - 0.25) < 5 * (0.1875 / 400) ** 0.5


# ---- Random numbers --------------------------------------------------------------------------


def test_streams_of_different_purposes_never_meet():
    purposes = (rng.ITEM, rng.ORDER, rng.PLAN, rng.POOL, rng.NOISE, rng.INIT, rng.BAND)
    places = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    drawn = {
        (seed, purpose, *place): rng.generator(seed, purpose, *place).integers(2**62, size=4)
        for seed in (0, 1, 5)
        for purpose in purposes
        for place in places
    }
    values = np.concatenate(list(drawn.values()))
    assert len(set(values.tolist())) == len(values)


def test_draws_stay_what_they_are():
    """A run that began with an earlier version goes on as it would have."""
    drawn = [int(rng.generator(7, p, 3, 2, 1).integers(1 << 32)) for p in range(6)]
    assert drawn == [2950635312, 1764461860, 3958624470, 2542757713, 2305584250, 3136274866]
