"""Scripts of recipes/sounds that make mixtures: held-out sources only, the same by seed."""

import argparse
import hashlib
import importlib
import json
import sys
import wave
from pathlib import Path

import folders
import numpy as np
import pytest
from test_mixture import MS, RATE, begins, hiss, rms_db, tone

from reclap import audio
from reclap.audio.mixture import Sound, Taken, find_event, mix
from reclap.io import manifest

SOUNDS = Path(__file__).parents[1] / "recipes" / "sounds"
DIGEST = "f0a978e646b1eb8c"  # of the annotations of the set that `made` makes


@pytest.fixture
def scripts(monkeypatch):
    """Return the script as a module; pairs import it by name."""
    monkeypatch.syspath_prepend(str(SOUNDS))
    import make_mixtures

    return make_mixtures


def row(path, kind, group, source, **more):
    caption = f"A {kind} sounds in a room"
    columns = {"id": path.removesuffix(".wav"), "path": path, "kind": kind, "group": group}
    return {**columns, "source": source, "caption": caption, **more}


@pytest.fixture
def recordings(tmp_path):
    """Write recordings, four of each of two instruments, and backgrounds; return the folder."""
    rows = []
    for i in range(4):
        for hz, kind in ((300, "oboe"), (900, "flute")):
            name = f"{kind}{i}.wav"
            folders.write_wav(tmp_path / name, tone(hz + 20 * i, 0.3 + 0.3 * i, 0.1 * i))
            rows.append(row(name, kind, "instrument", f"{kind} {i // 2}"))
    for i, kind in enumerate(("rain", "wind")):
        folders.write_wav(tmp_path / f"{kind}.wav", hiss(i, 7.0))
        rows.append(row(f"{kind}.wav", kind, "nature", kind, start=0, seconds=6))
    folders.write_wav(tmp_path / "bird.wav", tone(5000))
    rows.append(row("bird.wav", "birds", "animals", "bird"))
    folders.write_wav(tmp_path / "dog.wav", tone(5000))
    rows.append(row("dog.wav", "dog barking", "animals", "dog", start=0.1))
    (tmp_path / "sounds.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in rows))
    return tmp_path


IDS = ["oboe2", "oboe3", "flute2", "flute3", "rain", "wind", "bird", "dog"]


@pytest.fixture
def made(recordings, scripts, monkeypatch, capsys):
    """Run the script; return the folder of mixtures and what it printed."""
    (recordings / "splits" / "heard").mkdir(parents=True)
    (recordings / "splits" / "heard" / "fold1.txt").write_text("\n".join(IDS) + "\n")
    monkeypatch.setattr(scripts, "HERE", recordings)
    out = recordings / "mixtures"
    command = ["x", str(recordings / "sounds.jsonl"), str(recordings), str(out)]
    monkeypatch.setattr(
        "sys.argv", [*command, *f"--split heard/fold1 --count 12 --rate {RATE} --seconds 6".split()]
    )
    scripts.main()
    return out, json.loads(capsys.readouterr().out)


def read_wav(path):
    with wave.open(str(path)) as f:
        assert (f.getframerate(), f.getsampwidth(), f.getnchannels()) == (RATE, 2, 1)
        return np.frombuffer(f.readframes(f.getnframes()), "<i2").astype(np.float64)


def annotations(folder):
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.jams"))}


def test_annotations_of_a_seed_are_these_bytes(made):
    out, said = made
    total = hashlib.sha256(b"".join(p.read_bytes() for p in sorted(out.glob("*.jams")))).hexdigest()
    assert said["sha256"] == total
    assert total[:16] == DIGEST


def test_samples_are_what_the_annotations_say(made, recordings):
    """Within one step of 16 bits of a sum that needs the annotations and the recordings alone."""
    out, said = made
    count = 0
    for name, jams in annotations(out).items():
        expected = np.zeros(6 * RATE)
        behind = audio.load(recordings / f"{jams['sandbox']['background']['id']}.wav", RATE)
        loudness = np.sqrt(np.mean(np.square(behind[: 6 * RATE], dtype=np.float64)))
        expected += behind[: 6 * RATE] / loudness * 10 ** (-30 / 20)
        for event in jams["annotations"][0]["sandbox"]["events"]:
            samples = audio.load(recordings / f"{event['id']}.wav", RATE)
            start, size, onset = (
                round(event[key] * RATE) for key in ("start", "duration", "onset")
            )
            part = samples[start : start + size].astype(np.float64)
            gain = 10 ** ((event["snr_db"] - 30) / 20) / np.sqrt(np.mean(part**2))
            expected[onset : onset + size] += gain * part
            count += 1
        expected *= 10 ** (jams["sandbox"]["gain_db"] / 20)
        assert np.abs(read_wav(out / f"{name}.wav") - 32767 * expected).max() <= 1
    assert count == said["events"] > 12


def test_only_held_out_events_are_taken(made):
    out, said = made
    taken, behind = set(), set()
    for jams in annotations(out).values():
        events = jams["annotations"][0]["sandbox"]["events"]
        assert [e["kind"] for e in events] == [d["value"] for d in jams["annotations"][0]["data"]]
        taken |= {event["id"] for event in events}
        behind.add(jams["sandbox"]["background"]["id"])
        assert jams["sandbox"]["split"] == "heard/fold1"
    assert taken == {"oboe2", "oboe3", "flute2", "flute3"}  # no bird, and no window of a dog
    assert behind == {"rain", "wind"}
    assert set(said["kinds"]) == {"oboe", "flute"}


def test_a_list_of_another_manifest_is_refused(recordings, scripts):
    rows = manifest.read(recordings / "sounds.jsonl")
    with pytest.raises(ValueError, match="1 ids of the split are not in the manifest: harp"):
        scripts.HeldOut(rows, [*IDS, "harp"], RATE)


# ---- Requests that are refused ---------------------------------------------------------------


@pytest.fixture
def tried(made, recordings, scripts, monkeypatch, capsys):
    """Return a function that runs a script into a new folder: its one line of refusal."""
    import make_pairs

    def run(script, *more, out="new", source="sounds.jsonl"):
        scripts_main = {"mixtures": scripts.main, "pairs": make_pairs.main}[script]
        base = ["x", *(str(recordings / name) for name in (source, ".", out))]
        small = f"--split heard/fold1 --count 2 --rate {RATE} --seconds 6".split()
        test = ["--test", "order"] if script == "pairs" else []
        monkeypatch.setattr("sys.argv", [*base, *small, *test, *more])
        before = sorted(recordings.rglob("*"))
        with pytest.raises(SystemExit) as left:
            scripts_main()
        assert left.value.code == 2
        assert sorted(recordings.rglob("*")) == before
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1
        return said.err

    return run


@pytest.mark.parametrize("script", ["mixtures", "pairs"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--count -1", "--count: expected at least 1, got -1"),
        ("--count x", "argument --count: invalid int value: 'x'"),
        ("--seconds 0", "--seconds: expected 0."),
        ("--seconds 0.1", "got 0.1"),
        ("--seconds nan", "got nan"),
        ("--rate 0", "--rate: expected 1000 to "),
        ("--split heard/fold9", "--split: expected one of heard/fold1, got 'heard/fold9'"),
        ("--split ../splits/heard/fold1", "--split: expected one of heard/fold1, got"),
    ],
)
def test_nonsense_is_one_line_and_nothing_written(tried, script, options, message):
    assert message in tried(script, *options.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--snr nan nan", "--snr: expected two levels from -100 to 100 dB"),
        ("--snr 20 0", "--snr: expected two levels from -100 to 100 dB, the least first, got 20"),
        ("--events 3 1", "--events: expected two numbers from 1 on, the least first, got 3 and 1"),
        ("--events 0 0", "--events: expected two numbers from 1 on"),
    ],
)
def test_nonsense_of_mixtures_is_one_line(tried, options, message):
    assert message in tried("mixtures", *options.split())


@pytest.mark.parametrize("script", ["mixtures", "pairs"])
def test_what_is_not_there_or_in_the_way_is_one_line(tried, recordings, script):
    assert "none.jsonl" in tried(script, source="none.jsonl")
    plain = recordings / "plain.jsonl"
    plain.write_text('{"path": "bird.wav", "caption": "A bird"}\n')
    assert "plain.jsonl:1: no id, kind, group, source" in tried(script, source="plain.jsonl")
    assert "mixtures: exists; --force" in tried(script, out="mixtures").replace("'", "")
    assert "bird.wav" in tried(script, "--force", out="bird.wav")
    (recordings / "mine").mkdir()
    (recordings / "mine" / "notes.txt").touch()
    assert "notes.txt: of no set" in tried(script, "--force", out="mine")


def test_failure_on_the_way_leaves_nothing(tried, recordings):
    for i in range(4):
        folders.write_wav(recordings / f"oboe{i}.wav", np.zeros(4000, np.float32))
    assert "no event" in tried("mixtures", "--count", "40")
    assert "exists" in tried("mixtures", out="mixtures")


def test_list_with_too_few_kinds_is_one_line(tried, recordings):
    path = recordings / "splits" / "heard" / "fold1.txt"
    path.write_text("flute2\nflute3\n")
    assert "--split: expected events of 2 kinds, got 1" in tried("pairs")
    path.write_text("rain\n")
    assert "no recording to take events from" in tried("mixtures")


def test_smaller_set_replaces_all_of_a_larger_one(made, scripts, monkeypatch):
    out, _ = made
    monkeypatch.setattr("sys.argv", [*sys.argv, "--count", "3", "--force", "--no-background"])
    scripts.main()
    names = {f"{i:04d}" for i in range(3)}
    assert {path.stem for path in out.iterdir()} == names
    assert [jams["sandbox"]["background"] for jams in annotations(out).values()] == [None] * 3


@pytest.mark.parametrize("test", ["order", "attribute"])
def test_two_seconds_hold_a_pair(scripts, recordings, test):
    import make_pairs

    rows = manifest.read(recordings / "sounds.jsonl")
    made = make_pairs.Pairs(scripts.HeldOut(rows, IDS, RATE), make_pairs.LEAST)
    for _, (a, b, _) in make_pairs.pairs(made, test, "any", 1, 12):
        assert len(a[0].samples) == len(b[0].samples) == 2 * RATE


# ---- Options ---------------------------------------------------------------------------------


def test_without_background_there_is_silence(made, recordings, scripts, monkeypatch, capsys):
    out = recordings / "silent"
    command = ["x", str(recordings / "sounds.jsonl"), str(recordings), str(out)]
    more = f"--split heard/fold1 --count 6 --rate {RATE} --seconds 6 --no-background"
    monkeypatch.setattr("sys.argv", [*command, *more.split()])
    scripts.main()
    assert json.loads(capsys.readouterr().out)["backgrounds"] == {}
    for name, jams in annotations(out).items():
        assert jams["sandbox"]["background"] is None
        samples = read_wav(out / f"{name}.wav")
        for event in jams["annotations"][0]["data"]:
            first, size = (round(event[key] * RATE) for key in ("time", "duration"))
            assert samples[first : first + size].any()
            samples[max(0, first - 2 * MS) : first + size + 10 * MS] = 0
        assert not samples.any()


OTHER = {
    "--split": "heard/fold2",
    "--seed": "2",
    "--count": "4",
    "--rate": "8000",
    "--seconds": "5",
    "--events": "5 5",
    "--snr": "1 2",
    "--overlap": "",
    "--no-background": "",
    "--test": "attribute",
}


@pytest.mark.parametrize(("script", "more"), [("make_mixtures", ""), ("make_pairs", "order")])
def test_every_option_changes_what_is_written(made, recordings, monkeypatch, script, more):
    parsers, parse = [], argparse.ArgumentParser.parse_args
    monkeypatch.setattr(
        argparse.ArgumentParser, "parse_args", lambda self: parsers.append(self) or parse(self)
    )
    (recordings / "splits" / "heard" / "fold2.txt").write_text("\n".join(IDS[1:]) + "\n")
    module = importlib.import_module(script)
    usual = f"--split heard/fold1 --count 3 --rate {RATE} --seconds 6".split()
    usual += ["--test", more] if more else []

    def written(*options):
        out = recordings / f"out{len(parsers)}"
        command = ["x", str(recordings / "sounds.jsonl"), str(recordings), str(out)]
        monkeypatch.setattr("sys.argv", [*command, *usual, *options])
        module.main()
        return {path.name: path.read_bytes() for path in out.iterdir()}

    plain = written()
    assert written() == plain
    actions = [
        a for a in parsers[0]._actions if a.option_strings and a.dest not in ("help", "force")
    ]
    assert len(actions) > 5
    for (option,) in (action.option_strings for action in actions):
        assert written(option, *OTHER[option].split()) != plain, option


# ---- Pairs -----------------------------------------------------------------------------------


@pytest.fixture
def pairs_of(made, recordings, monkeypatch, capsys):
    """Return a function that runs the script of pairs: its lines, and annotations by name."""
    import make_pairs

    def run(test):
        out = recordings / test
        command = ["x", str(recordings / "sounds.jsonl"), str(recordings), str(out)]
        more = f"--split heard/fold1 --count 12 --rate {RATE} --seconds 6 --test {test}"
        monkeypatch.setattr("sys.argv", [*command, *more.split()])
        make_pairs.main()
        lines = [json.loads(line) for line in (out / "pairs.jsonl").read_text().splitlines()]
        assert json.loads(capsys.readouterr().out)["pairs"] == len(lines) == 12
        return out, lines, annotations(out)

    return run


def facts(event, *without):
    return {k: v for k, v in event.items() if k not in without}


def test_pairs_of_order_differ_in_order_alone(pairs_of):
    out, lines, notes = pairs_of("order")
    forms = set()
    for line in lines:
        a, b = (notes[Path(path).stem] for path in line["paths"])
        first, second = (jams["annotations"][0]["sandbox"]["events"] for jams in (a, b))
        assert [e["kind"] for e in first] == line["kinds"] == [e["kind"] for e in second][::-1]
        assert [facts(e, "onset") for e in first] == [facts(e, "onset") for e in second[::-1]]
        assert a["sandbox"]["background"] == b["sandbox"]["background"]
        assert first[0]["onset"] == second[0]["onset"]
        assert first[0]["onset"] + first[0]["duration"] < first[1]["onset"]
        for caption, events in zip(line["captions"], (first, second), strict=True):
            named = [kind for kind in caption.replace(".", "").split() if kind in ("oboe", "flute")]
            heard = [event["kind"] for event in events]
            assert named == (heard[::-1] if " after a" in caption else heard)
            assert caption[0] == "A"
            assert caption.endswith("in a room.")
            forms.add(caption.replace("oboe", "flute"))
        assert len(read_wav(out / line["paths"][0])) == 6 * RATE
    assert len(forms) > 2
    assert forms <= {
        "A flute sounds in a room, then a flute sounds in a room.",
        "A flute sounds in a room, and after that a flute sounds in a room.",
        "A flute sounds in a room before a flute sounds in a room.",
        "A flute sounds in a room after a flute sounds in a room.",
    }


def test_pairs_of_an_attribute_differ_in_it_alone(pairs_of):
    _, lines, notes = pairs_of("attribute")
    assert {line["attribute"] for line in lines} == {"loudness", "pitch", "distance"}
    for line in lines:
        a, b = (notes[Path(path).stem] for path in line["paths"])
        (first,), (second,) = (jams["annotations"][0]["sandbox"]["events"] for jams in (a, b))
        for key in ("kind", "id", "source", "onset"):
            assert first[key] == second[key]
        words = {
            "loudness": ("loudly", "softly"),
            "pitch": ("at a high pitch", "at a low pitch"),
            "distance": ("close by", "far away"),
        }[line["attribute"]]
        text = f"A {first['kind']} sounds in a room"
        assert line["captions"] == [f"{text}, {side}." for side in words]
        levels = {"loudness": 16, "pitch": 0, "distance": 12}[line["attribute"]]
        assert first["snr_db"] - second["snr_db"] == pytest.approx(levels)
        longer = 2 ** (8 / 12) if line["attribute"] == "pitch" else 1
        assert second["duration"] / first["duration"] == pytest.approx(longer, rel=0.02)


@pytest.mark.parametrize("test", ["order", "attribute"])
def test_backgrounds_of_a_pair_are_equal(pairs_of, monkeypatch, test):
    import make_pairs

    monkeypatch.setattr(make_pairs, "SNR", (20.0, 28.0))  # so loud that most would clip
    out, lines, notes = pairs_of(test)
    softer = 0
    for line in lines:
        sides = [read_wav(out / path) for path in line["paths"]]
        about = [notes[Path(path).stem] for path in line["paths"]]
        behind = np.ones(len(sides[0]), bool)
        for event in (event for jams in about for event in jams["annotations"][0]["data"]):
            first = round(event["time"] * RATE) - 2 * MS
            behind[max(0, first) : first + round(event["duration"] * RATE) + 12 * MS] = False
        assert behind.sum() > RATE
        assert np.abs(sides[0][behind]).max() > 100
        assert np.abs(sides[0] - sides[1])[behind].max() <= 1
        gains = {jams["sandbox"]["gain_db"] for jams in about}
        assert len(gains) == 1
        softer += gains != {0.0}
    assert softer > 6


@pytest.mark.parametrize(("attribute", "levels"), [("loudness", 16.0), ("distance", 12.0)])
def test_events_of_a_pair_differ_by_the_amount_stated(
    scripts, recordings, monkeypatch, attribute, levels
):
    import make_pairs

    monkeypatch.setattr(make_pairs, "SNR", (20.0, 28.0))
    rows = manifest.read(recordings / "sounds.jsonl")
    held = scripts.HeldOut(rows, IDS, RATE)
    made, softer = make_pairs.Pairs(held, 6.0), 0
    for index in range(12):
        sides = [mixed for mixed, _ in made.attribute(make_pairs.Draws(index), attribute)[:2]]
        loudness = []
        for mixed in sides:
            (event,), of = mixed.events, mixed.background
            plain = mix(Sound(of, held.load(of)), [], [], [], rate=RATE, length=6 * RATE).samples
            alone = mixed.samples - plain * 10 ** (mixed.gain_db / 20)
            first, size = round(event.onset * RATE), round(event.duration * RATE)
            loudness.append(rms_db(alone[first : first + size]))
        assert loudness[0] - loudness[1] == pytest.approx(levels, abs=0.01)
        softer += sides[0].gain_db < 0
    assert softer > 6


@pytest.mark.parametrize(
    ("test", "digest"), [("order", "20abbb64c259fee6"), ("attribute", "218cb76c0c79462b")]
)
def test_pairs_of_a_seed_are_these_bytes(pairs_of, test, digest):
    out, _, notes = pairs_of(test)
    files = [out / "pairs.jsonl", *(out / f"{name}.jams" for name in sorted(notes))]
    total = hashlib.sha256(b"".join(path.read_bytes() for path in files))
    assert total.hexdigest()[:16] == digest


def test_changed_events_begin_at_their_onsets(scripts, recordings):
    import make_pairs

    rows = manifest.read(recordings / "sounds.jsonl")
    made = make_pairs.Pairs(scripts.HeldOut(rows, ["flute3", "oboe2"], RATE), 6.0)
    for index in range(12):
        for name in make_pairs.ATTRIBUTES:
            a, b, _ = made.attribute(make_pairs.Draws(index), name)
            for mixed, _ in (a, b):
                onset = round(mixed.events[0].onset * RATE)
                assert abs(begins(mixed.samples) - onset) <= 10 * MS


def test_captions_of_single_recordings_and_of_order_or_attributes_are_left_out(scripts, recordings):
    import make_pairs

    lines = make_pairs.RECORDINGS.read_text("utf-8").splitlines()
    texts = [json.loads(line)["caption"] for line in lines]
    own = next(text for text in texts if not make_pairs.WORDS.search(text))
    text = (recordings / "sounds.jsonl").read_text()
    for said in ("A flute is heard, then a cough", "A low flute", "A flute in the distance", own):
        plain = '"A flute sounds in a room"'
        changed = recordings / "changed.jsonl"
        changed.write_text(text.replace(plain, json.dumps(said)))
        held = scripts.HeldOut(manifest.read(changed), IDS, RATE)
        kinds = {taken.kind for taken in make_pairs.Pairs(held, 6.0)._events}
        assert kinds == {"oboe"}


def test_kinds_of_the_table_exist(scripts):
    kinds = json.loads((SOUNDS / "kinds.json").read_text("utf-8"))
    page = (SOUNDS.parents[1] / "docs" / "data.md").read_text("utf-8")
    table = kinds["mixtures"]
    for kind in (*table["event kinds"], *table["no events"], *table["backgrounds"]):
        assert f"\n| {kind} |" in page
    assert set(table["event kinds"]).isdisjoint(table["backgrounds"])


def test_events_of_real_recordings_begin_at_their_onsets(shared):
    folder = shared / "audio"
    split = (SOUNDS / "splits" / "heard" / "fold1.txt").read_text("utf-8").splitlines()
    groups = ("instruments/", "speech/", "esc10/dog_bark", "esc10/person_sneeze", "esc10/rooster")
    paths = [i for i in split if i.startswith(groups)][::4]
    assert len(paths) > 30
    paths += ["instruments/ratchet/ratchet__long_forte_roll"]  # something is heard long before them
    paths += ["instruments/bass_drum/bass-drum__05_mezzo-forte_rute"]
    for name in paths:
        (path,) = folder.glob(f"{name}.*")
        samples = audio.load(path, RATE)
        event = Sound(Taken(name, "any", "any"), samples, find_event(samples, RATE))
        mixed = mix(None, [event], [RATE], [0.0], rate=RATE, length=6 * RATE).samples
        assert np.flatnonzero(mixed)[0] >= RATE - 2 * MS
        assert begins(mixed) - RATE <= 10 * MS
