"""Captions of single recordings: what was measured, in phrases of what was measured."""

import itertools
import json
import re

import numpy as np
import pytest
from test_sounds_data import SOUNDS, script

from reclap.audio import load
from reclap.io.manifest import Caption, Row

ROWS = [
    json.loads(line)
    for line in (SOUNDS / "captions" / "recordings.jsonl").read_text("utf-8").splitlines()
]
RATE = 16000

measure = script("measure_recordings")
describe = script("describe_recordings")


def texts(row):
    return [row["caption"], *row["rewrites"]]


def phrases(fact):
    return [p for some in describe.PHRASES["facts"][fact].values() for p in some]


# ---- The table -------------------------------------------------------------------------------


def test_at_most_300_recordings_have_a_caption_and_eight_rewrites():
    assert 60 < len(ROWS) <= 300
    assert len({row["recording"] for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert set(row) == {"recording", "kind", "facts", "caption", "rewrites"}
        assert len(row["rewrites"]) == 8
        assert row["facts"]


def test_texts_say_the_facts_of_their_recording_and_no_other():
    for row in ROWS:
        own = {p for fact in row["facts"] for p in phrases(fact)}
        others = {p for fact in describe.PHRASES["facts"] for p in phrases(fact)} - own
        for text in texts(row):
            plain = f"{text[0].lower()}{text[1:]}"
            assert any(p in plain for p in own), text
            said = [p for p in others if p in plain and not any(p in o for o in own)]
            assert said == [], text


def test_nothing_is_said_that_training_may_take_away():
    """Band limits take treble or bass, noise and mixtures take silence."""
    taken = re.compile(r"\b(treble|bass(?! clarinet)|bright|dark|silen\w*|quiet|hush\w*|still)\b")
    found = [text for row in ROWS for text in texts(row) if taken.search(text.lower())]
    assert [text for text in found if "double bass" not in text and "holds still" not in text] == []


def test_speech_and_music_are_not_described():
    assert {row["kind"] for row in ROWS} & {"speech", "music"} == set()


# ---- Measurements ----------------------------------------------------------------------------


def bursts(count, seconds=0.2, every=0.8):
    samples = np.random.default_rng(1).normal(0, 1e-4, 5 * RATE)
    for i in range(count):
        at = round((0.3 + every * i) * RATE)
        samples[at : at + round(seconds * RATE)] += 0.3 * np.sin(np.arange(round(seconds * RATE)))
    return samples.astype("f4")


def tone(hertz, seconds, decay=0.0):
    t = np.arange(round(seconds * RATE)) / RATE
    shape = sum(np.sin(2 * np.pi * hertz * k * t) / k for k in (1, 2, 3))
    return (0.2 * shape * np.exp(-decay * t)).astype("f4")


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_events_are_counted(count):
    found = measure.measure(bursts(count))
    assert found["events"] == count
    assert found["longest event"] == pytest.approx(0.2, abs=0.04)
    words, facts = measure.event_facts("dog barking", found)
    assert words == ("", "one", "two", "three", "four", "five")[count]
    assert facts == (["moment"] if count == 1 else ["gaps"])


def test_a_count_that_depends_on_thresholds_is_none():
    close = bursts(4, 0.2, 0.45)  # pauses of 0.25 s
    assert measure.measure(close)["events"] is None
    assert measure.event_facts("dog barking", measure.measure(close)) == ("", [])


def test_long_events_are_no_counted_barks():
    assert measure.event_facts("dog barking", measure.measure(bursts(2, 0.6, 1.5))) == ("", [])


def test_level_is_even_or_not(rng):
    noise = 0.1 * rng.standard_normal(5 * RATE)
    swell = noise * (0.1 + np.sin(np.linspace(0, 2 * np.pi, len(noise))) ** 2)
    facts = [measure.texture_facts("rain", measure.measure(x.astype("f4"))) for x in (noise, swell)]
    assert facts == [["even"], ["uneven"]]


@pytest.mark.parametrize("rate", [1.0, 5.0, 14.3])
def test_ticks_are_timed(rate):
    samples = 1e-3 * np.random.default_rng(2).standard_normal(5 * RATE)
    for at in np.arange(0.1, 4.9, 1 / rate):
        samples[round(at * RATE) :][:320] += 0.3
    found = measure.measure(samples.astype("f4"))
    assert found["ticks_per_s"] == pytest.approx(rate, rel=0.03)
    assert found["tick_strength"] > 0.6


@pytest.mark.parametrize("hertz", [65.4, 220.0, 880.0])
def test_pitch_is_that_of_the_tone(hertz):
    found = measure.measure(tone(hertz, 2.0))
    assert abs(12 * np.log2(found["pitch_hz"] / hertz)) < 0.6
    assert found["pitch_spread"] < 0.1


def test_noise_has_no_pitch(rng):
    assert measure.measure(rng.standard_normal(RATE).astype("f4"))["pitch_hz"] is None


def test_a_note_whose_pitch_is_not_that_of_its_name_has_no_facts(tmp_path):
    extra = {"group": "instrument", "kind": "oboe", "register": "low", "pitch": "57"}
    row = Row(tmp_path / "oboe_A3_normal.ogg", (Caption("."),), extra)
    right, wrong = (measure.measure(tone(hertz, 2.0)) for hertz in (220.0, 330.0))
    assert measure.note_facts(row, right) == ["low note", "even", "fixed pitch"]
    assert measure.note_facts(row, wrong) == []


def test_strokes_are_dry_or_ring(tmp_path):
    extra = {"group": "percussion", "kind": "surdo"}
    row = Row(tmp_path / "surdo__05_forte_damped.ogg", (Caption("."),), extra)
    still = np.zeros(RATE, "f4")
    dry, ringing = (np.r_[tone(200, 3, d), still] for d in (20.0, 1.0))
    assert measure.stroke_facts(row, measure.measure(dry)) == ["dry"]
    assert measure.stroke_facts(row, measure.measure(ringing)) == ["ringing"]
    roll = Row(tmp_path / "surdo__phrase_forte_damped.ogg", (Caption("."),), extra)
    assert measure.stroke_facts(roll, measure.measure(dry)) == []


def test_real_recordings_have_the_facts_of_the_table(shared):
    make, audio = script("make_manifest"), shared / "audio"
    if not (audio / "kinds.csv").is_file():
        pytest.skip("the shared test data has no kinds.csv")
    items = {}
    for item in make.esc10(audio) + make.others(audio):
        make.name_kind(item)
        items[item["id"]] = item
    for row in ROWS[::6]:
        item = items[row["recording"]]
        extra = {name: str(value) for name, value in item.items()}
        measured = measure.measure(load(audio / item["path"], measure.RATE))
        of = Row(audio / item["path"], (Caption("."),), extra)
        _, facts = measure.facts_of(row["kind"], of, measured)
        assert facts == row["facts"], row["recording"]


# ---- Wording ---------------------------------------------------------------------------------


def test_a_writer_refuses_what_breaks_a_rule():
    writer = describe.Writer(["Rain falls steadily on the old roof."], ["It rains on a tin roof."])
    plain = "Rain falls."
    assert not writer.take("Rain falls steadily on the old roof.", [], plain)
    assert not writer.take("Softly it rains on a tin roof.", [], plain)  # as a prompt
    assert not writer.take("A dog barks at one unchanging level.", [], plain)  # no rain
    assert writer.take("Rain comes down, constant in loudness.", ["constant in loudness"], plain)
    assert not writer.take("Rain comes down constant in its loudness.", [], plain)  # alike
    for _ in range(describe.MOST_PHRASE):
        writer.used["at one level"] += 1
    assert not writer.take("Rain keeps falling, the volume at one level.", ["at one level"], plain)


def test_texts_depend_on_the_seed_alone():
    row = ROWS[0] | {"count": "one" if ROWS[0]["kind"] in measure.EVENTS else ""}
    made = [
        list(itertools.islice(describe.texts(row, np.random.default_rng(s)), 20)) for s in (1, 1, 2)
    ]
    assert made[0] == made[1] != made[2]


def test_a_recording_has_its_own_captions_before_those_of_its_kind():
    make = script("make_manifest")
    known = make.captions(SOUNDS / "captions")
    row = ROWS[0]
    name, listed = make.captions_of({"id": row["recording"], "kind": row["kind"]}, known)
    assert name == row["recording"]
    assert listed == [{k: row[k] for k in ("caption", "rewrites")}, *known[row["kind"]]]
    other = make.captions_of({"id": "other", "kind": row["kind"]}, known)
    assert other == (row["kind"], known[row["kind"]])
