"""Changes of one attribute of a sound: what each does to a tone whose answer is known."""

import numpy as np
import pytest
from test_mixture import MS, RATE, begins, tone

from reclap.audio.attributes import ATTRIBUTES, low_pass, play


def sine(hz, seconds=1.0):
    return np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE).astype("f4")


def loudest(samples):
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return spectrum.argmax() * RATE / len(samples)


def decibels(samples):
    return 10 * np.log10(np.mean(np.square(samples, dtype=np.float64)))


@pytest.mark.parametrize("speed", [0.5, 0.8, 1.5])
def test_playing_changes_pitch_and_length(speed):
    out = play(sine(440), RATE, speed)
    assert len(out) == pytest.approx(RATE / speed, abs=1)
    assert loudest(out) == pytest.approx(440 * speed, abs=2)


@pytest.mark.parametrize(("hz", "weaker"), [(100, 0.1), (1000, 6.02), (4000, 24.6)])
def test_low_pass_weakens_by_12_db_an_octave(hz, weaker):
    long = low_pass(sine(hz), RATE, 1000.0)[RATE // 2 :]
    # 20 lg(1 + (f/fc)^2) of the analogue filter; the sampled one lets a little more through
    assert decibels(sine(hz)[RATE // 2 :]) - decibels(long) == pytest.approx(weaker, abs=2.5)


def test_low_pass_looks_back_only():
    out = low_pass(tone(440, before=0.3), RATE, 1000.0)
    assert not out[: round(0.3 * RATE)].any()
    assert begins(out) - 0.3 * RATE <= 10 * MS


def test_sides_of_an_attribute_are_opposites():
    samples = sine(440)
    high, low = (change.apply(samples, RATE) for change in ATTRIBUTES["pitch"])
    assert loudest(high) / loudest(low) == pytest.approx(2 ** (8 / 12), rel=0.01)
    loud, soft = ATTRIBUTES["loudness"]
    assert loud.level_db - soft.level_db == 16
    near, far = ATTRIBUTES["distance"]
    bright = sine(4000) + sine(300)
    assert near.apply(bright, RATE) is bright
    assert loudest(far.apply(bright, RATE)) == pytest.approx(300, abs=2)
    assert far.level_db < near.level_db
    assert len({change.words for sides in ATTRIBUTES.values() for change in sides}) == 6
