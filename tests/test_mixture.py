"""Mixtures with known onsets: where events begin, how loud they are, and what is drawn by seed."""

import dataclasses
import hashlib
import json
import math
from itertools import pairwise

import numpy as np
import pytest

from reclap.audio.mixture import Sound, Taken, find_event, mix
from reclap.audio.mixture_draws import APART, Draws, draw_mixture

RATE = 16000
MS = RATE // 1000


def tone(hz, seconds=0.5, before=0.2, after=0.1, level=0.5):
    """Return a decaying tone between silences."""
    t = np.arange(round(seconds * RATE)) / RATE
    sound = level * np.sin(2 * np.pi * hz * t) * np.exp(-2 * t / seconds)
    silence = [np.zeros(round(s * RATE)) for s in (before, after)]
    return np.concatenate([silence[0], sound, silence[1]]).astype(np.float32)


def hiss(seed, seconds=4.0, level=0.1):
    rng = np.random.default_rng(seed)
    return (level * rng.standard_normal(round(seconds * RATE))).astype(np.float32)


def sound(samples, kind="bell", span=None):
    return Sound(Taken(f"{kind}/1", kind, f"{kind}s"), samples, span)


def rms_db(samples):
    return 10 * np.log10(np.mean(np.square(samples, dtype=np.float64)))


def begins(samples):
    """Return the frame at which a sound reaches -30 dB of its loudest 5 ms."""
    power = np.convolve(np.square(samples, dtype=np.float64), np.ones(5 * MS))[: len(samples)]
    return int(np.argmax(power >= power.max() * 1e-3))


# ---- Where an event begins -------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.9, 0.01, 1e-4])
@pytest.mark.parametrize("before", [0.0, 0.0523, 1.0])
def test_silence_before_an_event_is_measured_against_its_own_peak(level, before):
    samples = tone(440, before=before, level=level)
    first, stop = find_event(samples, RATE)
    assert abs(first - round(before * RATE)) <= 5 * MS
    assert stop <= len(samples) - 0.1 * RATE + 5 * MS
    assert (stop - first) > 0.4 * RATE


def test_what_is_31_db_softer_is_silence_and_29_is_not():
    for below, first in ((31, 8000), (29, 4000)):
        samples = np.zeros(RATE, "f4")
        samples[4000:8000] = 0.5 * 10 ** (-below / 20)
        samples[8000:12000] = 0.5
        assert find_event(samples, RATE)[0] == first


def test_a_rustle_before_an_event_is_not_its_onset():
    samples = tone(440, before=0.3)
    samples[3200:3360] += 0.02  # 25 dB below, 100 ms before it
    assert abs(find_event(samples, RATE)[0] - 4800) <= 5 * MS
    samples[3200:4800] += 0.02  # leads to it
    assert find_event(samples, RATE)[0] == 3200


def test_noise_of_the_recording_is_not_the_event():
    for level in (0.015, 0.04):  # 26 and 17 dB below
        samples = hiss(1, 2.0, level) + tone(440, 0.5, 1.0, 0.5)
        assert abs(find_event(samples, RATE)[0] - RATE) <= 5 * MS


def test_what_begins_with_the_recording_begins_there():
    assert find_event(hiss(1, 1.0), RATE) == (0, RATE)


def test_another_event_after_a_pause_is_another():
    two = np.concatenate([tone(440, level=0.4), np.zeros(2000, "f4"), tone(660)])
    first, stop = find_event(two, RATE)
    start = len(tone(440)) + 2000 + 3200
    assert abs(first - start) <= 5 * MS
    assert stop > start + 6000
    close = np.concatenate([tone(440, after=0, level=0.4), tone(660, before=0.15)])
    assert abs(find_event(close, RATE)[0] - 3200) <= 5 * MS


def test_long_events_are_cut_off():
    assert find_event(tone(440, 8.0), RATE, longest=1.5) == (3200, 3200 + 24000)


def test_silence_has_no_event():
    with pytest.raises(ValueError, match="all samples are 0"):
        find_event(np.zeros(100, "f4"), RATE)
    with pytest.raises(ValueError, match="bell/1: 10400 frames from 9000 on do not fit into 16000"):
        mix(None, [sound(hiss(0), span=(0, 10400))], [9000], [0.0], rate=RATE, length=RATE)
    with pytest.raises(ValueError, match="bell/1: a silent background"):
        mix(sound(np.zeros(100, "f4")), [], [], [], rate=RATE, length=RATE)


# ---- Mixing ----------------------------------------------------------------------------------


def test_energy_begins_where_the_annotation_says():
    rng = np.random.default_rng(3)
    for seconds, before in rng.uniform(0.05, 0.6, (20, 2)):
        onset = int(rng.integers(3 * RATE))
        event = sound(tone(440, seconds, before))
        mixed = mix(None, [event], [onset], [10.0], rate=RATE, length=4 * RATE)
        assert mixed.events[0].onset == pytest.approx(onset / RATE, abs=1e-6)
        assert abs(begins(mixed.samples) - onset) <= 10 * MS
        end = round((mixed.events[0].onset + mixed.events[0].duration) * RATE)
        assert rms_db(mixed.samples[end + 10 * MS :] + 1e-9) < rms_db(mixed.samples) - 40


@pytest.mark.parametrize("level", [-5.0, 0.0, 12.5])
def test_level_is_relative_to_the_background(level):
    behind, event = sound(hiss(1), "rain"), sound(tone(440))
    first, stop = find_event(event.samples, RATE)
    alone = mix(behind, [], [], [], rate=RATE, length=4 * RATE)
    both = mix(behind, [event], [RATE], [level], rate=RATE, length=4 * RATE)
    assert rms_db(alone.samples) == pytest.approx(-30, abs=1e-3)
    added = (both.samples - alone.samples)[RATE : RATE + stop - first]
    assert rms_db(added) - rms_db(alone.samples) == pytest.approx(level, abs=1e-2)
    assert (both.background.kind, both.gain_db) == ("rain", 0)


def test_nothing_clips_and_levels_stay():
    behind, event = sound(hiss(1), "rain"), sound(tone(440, 0.05))
    quiet = mix(behind, [event], [RATE], [5.0], rate=RATE, length=4 * RATE)
    loud = mix(behind, [event], [RATE], [40.0], rate=RATE, length=4 * RATE)
    assert quiet.gain_db == 0
    assert 10 ** (-1.1 / 20) < np.abs(loud.samples).max() <= 10 ** (-1 / 20) + 1e-6
    assert rms_db(loud.samples[2 * RATE :]) - rms_db(quiet.samples[2 * RATE :]) == pytest.approx(
        loud.gain_db, abs=1e-3
    )


def test_a_gain_is_of_the_whole_and_less_where_it_would_clip():
    behind, event = sound(hiss(1), "rain"), sound(tone(440, 0.05))
    at = {"rate": RATE, "length": 4 * RATE}
    plain, softer = (mix(behind, [event], [RATE], [5.0], gain_db=g, **at) for g in (0.0, -6.3))
    assert softer.gain_db == -6.3
    np.testing.assert_allclose(softer.samples, plain.samples * 10 ** (-6.3 / 20), rtol=1e-6)
    assert softer.events == plain.events
    loud, limited = (mix(behind, [event], [RATE], [40.0], gain_db=g, **at) for g in (0.0, -1.0))
    assert limited.gain_db == loud.gain_db < -1
    for refused in (0.1, float("nan")):
        with pytest.raises(ValueError, match="gain_db must be at most 0, not"):
            mix(behind, [event], [RATE], [5.0], gain_db=refused, **at)


def test_a_cut_event_has_no_edges():
    event = sound(hiss(2) + np.float32(0.5), span=(RATE, 2 * RATE))
    mixed = mix(None, [event], [RATE], [10.0], rate=RATE, length=4 * RATE).samples
    plain = (
        event.samples[RATE : 2 * RATE]
        * np.float64(10 ** (-20 / 20))
        / 10 ** (rms_db(event.samples[RATE : 2 * RATE]) / 20)
    )
    np.testing.assert_allclose(mixed[RATE : 2 * RATE], plain, atol=1e-6)  # ramps are outside
    assert np.flatnonzero(mixed)[0] == RATE - 2 * MS
    assert np.flatnonzero(mixed)[-1] == 2 * RATE + 10 * MS - 1
    for edge in (mixed[RATE - 2 * MS :], mixed[: 2 * RATE + 10 * MS][::-1]):
        assert abs(edge[0]) < 0.002 < 0.05 < abs(edge[2 * RATE // 1000 * 5])


def test_a_short_background_is_repeated_without_gap_or_step():
    hum = np.sin(np.arange(RATE) / 3).astype("f4")
    padded = np.concatenate([np.zeros(800, "f4"), hum, np.zeros(800, "f4")])
    out = mix(sound(padded, "rain"), [], [], [], rate=RATE, length=4 * RATE).samples
    parts = [rms_db(part) for part in out.reshape(-1, RATE // 10)]
    assert -34 < min(parts) <= max(parts) < -26
    assert np.abs(np.diff(out)).max() < 2.1 * np.abs(np.diff(out[: RATE // 2])).max()


def test_annotations_are_in_the_form_of_jams():
    sounds = [sound(tone(440), "horn"), sound(tone(880), "bell")]
    mixed = mix(sound(hiss(1), "rain"), sounds, [RATE, 0], [3.0, 6.5], rate=RATE, length=2 * RATE)
    jams = json.loads(json.dumps(mixed.to_jams("a", seed=9)))
    assert jams["file_metadata"] == {"title": "a", "duration": 2.0}
    (annotation,) = jams["annotations"]
    assert annotation["namespace"] == "tag_open"
    assert [(d["value"], d["time"], d["confidence"]) for d in annotation["data"]] == [
        ("bell", 0.0, 1.0),
        ("horn", 1.0, 1.0),
    ]
    first = annotation["sandbox"]["events"][0]
    assert (first["id"], first["source"], first["snr_db"], first["start"]) == (
        "bell/1", "bells", 6.5, 0.2
    )  # fmt: skip
    assert jams["sandbox"]["seed"] == 9
    assert jams["sandbox"]["background"]["id"] == "rain/1"


# ---- Drawing ---------------------------------------------------------------------------------

DIGEST = "cbbf800b45be8b8a"  # of the annotations of twenty mixtures
EVENTS = [
    Taken(f"{kind}/{i}", kind, f"{kind}{i % 2}") for kind in ("bell", "horn") for i in range(3)
]
BEHIND = [Taken("rain/0", "rain", "rain0")]


def samples_of(taken):
    i = int(taken.id[-1])
    return {"rain": lambda: hiss(i), "bell": lambda: tone(900 + 50 * i, 0.3 + 0.4 * i)}.get(
        taken.kind, lambda: tone(300 + 20 * i, 1.4, 0.05 * i)
    )()


def drawn(*name, **settings):
    return draw_mixture(Draws(*name), EVENTS, BEHIND, samples_of, rate=RATE, **settings)


def test_draws_are_the_same_everywhere():
    draws = Draws("mixture", 7)
    assert [draws.whole(1000) for _ in range(6)] == [991, 259, 844, 479, 771, 312]
    values = np.array([draws.uniform(-1, 1) for _ in range(2000)])
    assert abs(values.mean()) < 0.05
    assert (values.min() >= -1) & (values.max() < 1)


def test_seed_gives_annotations_and_samples():
    total = hashlib.sha256()
    for index in range(20):
        first, again = (drawn("set", 1, index) for _ in range(2))
        np.testing.assert_array_equal(first.samples, again.samples)
        total.update(json.dumps(first.to_jams("a"), sort_keys=True).encode())
    assert total.hexdigest()[:16] == DIGEST
    assert not np.array_equal(first.samples, drawn("set", 2, 19).samples)


def test_mixtures_are_as_asked_for():
    counts, levels = set(), []
    for index in range(60):
        mixed = drawn(index, seconds=6.0, count=(2, 5), snr_db=(-3.0, 9.0))
        counts.add(len(mixed.events))
        levels += [event.snr_db for event in mixed.events]
        assert len(mixed.samples) == 6 * RATE
        for a, b in pairwise(mixed.events):
            assert b.onset - a.onset - a.duration >= APART - 1e-6
        assert mixed.events[-1].onset + mixed.events[-1].duration <= 6
    assert counts == {2, 3, 4, 5}
    assert (-3 <= min(levels) < -2) & (8 < max(levels) <= 9)


def test_events_overlap_if_they_may():
    pairs = [p for i in range(20) for p in pairwise(drawn(i, count=(4, 4), overlap=True).events)]
    assert sum(b.onset < a.onset + a.duration for a, b in pairs) > 5


def test_kinds_and_recordings_of_a_kind_come_alike():
    many = [*EVENTS, *(dataclasses.replace(EVENTS[0], id=f"bell/{i % 3}") for i in range(50))]
    taken = [
        event.kind
        for i in range(100)
        for event in draw_mixture(Draws(i), many, [], samples_of, rate=RATE).events
    ]
    assert 0.4 < taken.count("horn") / len(taken) < 0.6


def test_nothing_to_take_is_refused():
    with pytest.raises(ValueError, match="no recording to take events from"):
        draw_mixture(Draws(1), [], BEHIND, samples_of, rate=RATE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": 0}, r"^rate: expected 1000 to \d+ Hz, got 0$"),
        ({"seconds": 0.0}, r"^seconds: expected 0\.8 \(4 events side by side\) to 3600, got 0$"),
        ({"seconds": 0.1}, r"^seconds: .* got 0\.1$"),
        ({"seconds": 0.0, "overlap": True}, r"^seconds: expected 0\.1 to 3600, got 0$"),
        ({"seconds": math.nan}, r"^seconds: .* got nan$"),
        ({"seconds": math.inf}, r"^seconds: .* got inf$"),
        ({"count": (0, 0)}, r"^count: expected two numbers from 1 on, .* got 0 and 0$"),
        ({"count": (3, 1)}, r"^count: .* the least first, got 3 and 1$"),
        ({"snr_db": (math.nan, math.nan)}, r"^snr_db: .* got nan and nan$"),
        ({"snr_db": (20.0, 0.0)}, r"^snr_db: .* the least first, got 20 and 0$"),
        ({"snr_db": (0.0, math.inf)}, r"^snr_db: expected two levels from -100 to 100 dB"),
        ({"longest": 0.0}, r"^longest: expected seconds above 0, got 0$"),
    ],
)
def test_settings_without_a_mixture_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        draw_mixture(Draws(1), EVENTS, BEHIND, samples_of, **{"rate": RATE, **settings})


def test_least_length_holds_the_most_events():
    mixed = drawn(1, seconds=0.8, count=(4, 4))
    assert (len(mixed.events), len(mixed.samples)) == (4, round(0.8 * RATE))
