"""Band limits in training: as those of real recordings, and drawn for all kinds alike."""

import collections
import dataclasses

import folders
import numpy as np
import pytest
from folders import RATE

from reclap.audio import AudioConfig
from reclap.audio.features import log_mel
from reclap.audio.resample import resample
from reclap.io.manifest import Caption, Row
from reclap.training import recipe
from reclap.training.augment import Augment
from reclap.training.bands import response
from reclap.training.data import Batches, Data

FRONT = dataclasses.replace(AudioConfig.from_json(folders.CONFIG["front"]), mels=32)
WIDE = AudioConfig(rate=32000, hop=640)
LIMITS = ((0.0, 1000.0), (300.0, 3400.0), (0.0, 4000.0))
ALWAYS = Augment(band=1.0, bands=LIMITS)


def in_db(gain):
    return 10 * np.log10(np.maximum(gain, 1e-10))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Return four noises, two of each of two groups, and a tone of 3 kHz of a third."""
    folder = tmp_path_factory.mktemp("noises")
    rng = np.random.default_rng(5)
    sounds = {f"noise {i}": rng.normal(0, 0.1, RATE) for i in range(4)}
    sounds["tone"] = 0.3 * np.sin(2 * np.pi * 3000 * np.arange(RATE) / RATE) * np.hanning(RATE)
    return [
        Row(
            folders.write_wav(folder / f"{name}.wav", samples.astype("f4")),
            (Caption(f"A {name} sound."),),
            {"group": f"g{i // 2}"},
        )
        for i, (name, samples) in enumerate(sounds.items())
    ]


def drawn(rows, how, steps=1, front=FRONT, **data):
    """Return the log-mels of some steps (count, frames, mels) in dB, and the row of each."""
    batches = Batches(rows, Data("", **({"batch": len(rows)} | data)), how, front, 3)
    made = [batches.batch(step) for step in range(steps)]
    return np.concatenate([b.mel for b in made]), [r[0] for b in made for r in b.rows]


def limits(mels, bands=LIMITS):
    """Return the band that each log-mel of noise is limited to, or None."""
    known = [*(in_db(response(FRONT, band)) for band in bands), np.zeros(FRONT.mels)]
    spectra = mels.mean(axis=1)
    away = [np.abs(np.maximum(spectra - spectra.max(1, keepdims=True), -40)
                   - np.maximum(k, -40)).sum(1) for k in known]  # fmt: skip
    return [(*bands, None)[i] for i in np.argmin(away, axis=0)]


# ---- Responses -------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050])
def test_limit_is_that_of_a_low_sampling_rate(rng, rate):
    noise = (0.05 * rng.standard_normal(20 * WIDE.rate)).astype("f4")
    low = resample(resample(noise, WIDE.rate, rate), rate, WIDE.rate)
    before, after = (np.power(10, log_mel(x, WIDE)[5:-5] / 10).mean(axis=0) for x in (noise, low))
    real, gain = in_db(after / before), in_db(response(WIDE, (0.0, rate / 2)))
    passing = real > -6
    assert 40 < passing.sum() < 63
    assert np.abs(real - gain)[passing].max() < 0.5
    assert gain[~passing].max() < -4
    assert gain[real < -80].max(initial=-100) < -60  # the real one ends at the floor of log-mels


def test_telephone_band_passes_nothing_outside():
    gain = in_db(response(WIDE, (300.0, 3400.0)))
    above, below = response(WIDE, (0.0, 3400.0)), response(WIDE, (300.0, 16000.0))
    assert np.abs(gain - in_db(above * below)).max() < 1.5
    assert gain[0] < -20
    assert gain[-20:].max() < -80
    assert np.ptp(gain[gain > -0.1]) < 0.1


def test_a_band_that_holds_all_changes_nothing():
    assert response(WIDE, (0.0, 1e9)) == pytest.approx(1, abs=1e-6)


def test_edges_move_with_the_speed():
    assert np.array_equal(response(WIDE, (400.0, 4000.0), 1.25), response(WIDE, (500.0, 5000.0)))


# ---- Draws -----------------------------------------------------------------------------------


def test_limits_come_as_often_as_asked_each_alike(rows):
    mels, _ = drawn(rows[:4], dataclasses.replace(ALWAYS, band=0.6), 150)
    found = collections.Counter(limits(mels))
    assert set(found) == {*LIMITS, None}
    for band, share in [*((b, 0.2) for b in LIMITS), (None, 0.4)]:
        assert abs(found[band] / 600 - share) < 5 * (share * (1 - share) / 600) ** 0.5


def test_limits_do_not_depend_on_the_kind(rows):
    """The draw belongs to seed, step and place in the batch, whatever clip stands there."""
    there, _ = drawn(rows[:4], ALWAYS, 20)
    other = [dataclasses.replace(r, extra={"group": "other"}) for r in rows[3::-1]]
    assert limits(drawn(other, ALWAYS, 20)[0]) == limits(there)
    how = dataclasses.replace(ALWAYS, band=0.5)
    mels, at = drawn(rows[:4], how, 150)
    limited = np.array([band is not None for band in limits(mels)])
    for row in range(4):
        assert abs(limited[np.array(at) == row].mean() - 0.5) < 5 * (0.25 / 150) ** 0.5


def test_a_limited_clip_moves_with_its_speed(rows):
    mels, _ = drawn(rows[:4], Augment(band=1.0, bands=((0.0, 2000.0),), speeds=(0.5,)), 5)
    assert set(limits(mels, ((0.0, 1000.0), (0.0, 2000.0)))) == {(0.0, 1000.0)}


def test_a_limited_clip_has_the_level_of_others(rows):
    front = dataclasses.replace(FRONT, level_db=10.0)
    for mel in drawn(rows[:4], ALWAYS, 10, front)[0]:
        frames = np.power(10, mel / 10).sum(axis=1)
        assert 10 * np.log10(frames @ frames / frames.sum()) == pytest.approx(10, abs=0.2)


def test_a_clip_outside_the_band_is_left_as_it_is(rows):
    away = Augment(band=1.0, bands=((0.0, 1000.0),))
    assert np.array_equal(drawn(rows[4:] * 2, away)[0], drawn(rows[4:] * 2, Augment())[0])


def test_both_clips_of_a_mixture_are_limited(rows):
    how = Augment(band=1.0, bands=LIMITS[:1], sequence=1.0, snr_db=0.0)
    mels, _ = drawn(rows[:4], how, 10, batch=1, mixtures=1, group="group")
    for mel in mels:  # one after the other
        assert limits(np.stack([mel[:20], mel[-20:]]), LIMITS[:1]) == [LIMITS[0]] * 2


def test_all_else_is_drawn_as_without_limits(rows):
    how = Augment(shift=True, speeds=(0.8, 1.25), tilt_db=3.0, noise=0.5, gain_db=6.0)
    whole = dataclasses.replace(how, band=1.0, bands=((0.0, 1e9), (0.0, 1e8)))
    plain, limited = (drawn(rows, h, 4, batch=5)[0] for h in (how, whole))
    assert np.abs(plain - limited).max() < 1e-3


def test_bands_that_are_not_drawn_count_for_nothing(rows, tmp_path):
    idle = Augment(bands=LIMITS)
    assert np.array_equal(drawn(rows, idle)[0], drawn(rows, Augment())[0])
    assert identity(tmp_path, idle) == identity(tmp_path, Augment())
    assert identity(tmp_path, ALWAYS) != identity(tmp_path, Augment())
    assert identity(tmp_path, ALWAYS) != identity(tmp_path, Augment(band=1.0))


def identity(folder, how):
    """Return the identity of a run with some augmentation."""
    for name in ("train.jsonl", "text.safetensors", "tokenizer.json"):
        (folder / name).write_text("")
    whole = recipe.Recipe(recipe.Data(str(folder / "train.jsonl")), recipe.Run(1), augment=how)
    return whole.identity(folder)
