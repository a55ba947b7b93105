"""Training batches: pure functions of the step, whatever threads make them."""

import collections
import dataclasses
import itertools
import re
import threading
import time

import folders
import numpy as np
import pytest
import training
from folders import RATE

from reclap import audio
from reclap.audio import AudioConfig
from reclap.errors import FormatError
from reclap.io import manifest
from reclap.training import augment, spectra
from reclap.training.augment import Augment
from reclap.training.data import Batches, Data, _unrank

FRONT = AudioConfig.from_json(folders.CONFIG["front"])
EVERYTHING = Augment(
    shift=True,
    speeds=(0.8, 1.0, 1.25),
    tilt_db=3.0,
    eq_db=3.0,
    band=0.5,
    same=0.5,
    noise=0.5,
    gain_db=6.0,
)
MIXED = {"batch": 8, "mixtures": 3, "group": "group", "per_group": 1}


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Return a manifest of ten tones in five groups."""
    return training.write_set(tmp_path_factory.mktemp("sounds"))


@pytest.fixture
def rows(sounds):
    return manifest.read(sounds)


def make(rows, how=EVERYTHING, seed=3, front=FRONT, **data):
    return Batches(rows, Data("", **(MIXED | data)), how, front, seed)


def same(a, b):
    return np.array_equal(a.mel, b.mel) and a.captions == b.captions and a.rows == b.rows


# ---- Purity ----------------------------------------------------------------------------------


def test_batch_depends_on_the_step_alone(rows):
    forward, backward = make(rows), make(rows)
    made = [forward.batch(step) for step in range(6)]
    again = [backward.batch(step) for step in reversed(range(6))][::-1]
    assert all(map(same, made, again))


def test_seed_and_step_change_the_batch(rows):
    first = make(rows).batch(0)
    assert not same(first, make(rows).batch(1))
    assert not same(first, make(rows, seed=4).batch(0))


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("ahead", [1, 5])
def test_prefetching_keeps_order_and_content(rows, threads, ahead):
    batches = make(rows, threads=threads, ahead=ahead)
    expected = make(rows)
    for step, batch in zip(range(2, 14), batches.prefetch(2, 14), strict=True):
        assert batch.step == step
        assert same(batch, expected.batch(step))


def test_no_more_batches_are_begun_than_may_be_ahead(rows, monkeypatch):
    begun, plan = [], Batches.plan

    def counting(self, step):
        begun.append(step)
        return plan(self, step)

    monkeypatch.setattr(Batches, "plan", counting)
    found = make(rows, threads=3, ahead=4).prefetch(0, 100)
    for step in range(10):
        next(found)
        assert len(begun) <= step + 4
    found.close()


def test_cache_size_changes_nothing(rows):
    assert same(make(rows, cache_mb=0).batch(5), make(rows).batch(5))


# ---- Which rows ------------------------------------------------------------------------------


def test_every_row_occurs_once_an_epoch(rows):
    batches = make(rows, batch=4, mixtures=0, per_group=0)
    drawn = [row for step in range(10) for (row,) in batches.plan(step)]
    epochs = [drawn[i : i + 10] for i in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 4
    assert [batches.epoch(step) for step in (0, 2, 3, 9)] == [0, 0, 1, 3]


@pytest.mark.parametrize("most", [1, 2])
def test_group_occurs_at_most_so_often(rows, most):
    batches = make(rows, batch=5, mixtures=0, per_group=most)
    for step in range(20):
        groups = collections.Counter(rows[i].extra["group"] for (i,) in batches.plan(step))
        assert max(groups.values()) <= most


def test_drawn_rows_cover_all(rows):
    batches = make(rows)
    assert {i for step in range(40) for item in batches.plan(step) for i in item} == set(range(10))


def test_mixtures_join_different_groups_each_pair_once(rows):
    for step in range(20):
        pairs = [item for item in make(rows, mixtures=4).plan(step) if len(item) == 2]
        groups = [frozenset(rows[i].extra["group"] for i in pair) for pair in pairs]
        assert len(pairs) == 4
        assert all(len(g) == 2 for g in groups)
        assert len(set(groups)) == 4


def test_too_few_groups_are_refused(rows):
    with pytest.raises(FormatError, match="a batch of 6 with at most 1 of a group"):
        make(rows, batch=6, mixtures=0)
    with pytest.raises(FormatError, match="11 mixtures a batch: 5 groups are too few"):
        make(rows, batch=12, mixtures=11)
    with pytest.raises(FormatError, match="no column 'kind'"):
        make(rows, group="kind")
    with pytest.raises(FormatError, match="at most 200000 make sense"):
        make(rows, dataclasses.replace(EVERYTHING, compositions=10_001))
    make(rows, dataclasses.replace(EVERYTHING, compositions=10_000))  # 200,000 of 20 pairs
    make(rows, batch=15, mixtures=10)


def test_pairs_are_counted_without_rounding():
    assert [_unrank(i) for i in range(4)] == [(1, 0), (2, 0), (2, 1), (3, 0)]
    many = 10**18
    first = many * (many - 1) // 2
    assert [_unrank(first + i) for i in (-1, 0)] == [(many - 1, many - 2), (many, 0)]


def test_batches_stay_what_they_are(rows):
    """A run that began with an earlier version goes on as it would have."""
    batch = make(rows, dataclasses.replace(EVERYTHING, band=0.0, compositions=3)).batch(1)
    assert batch.rows == ((9, 9), (2, 2), (5,), (7,), (0, 0), (5, 9), (3, 4), (2, 8))
    assert batch.captions[3:] == (
        "The horn high.",
        "The bell low.",
        "flute low told loudly, followed by wind high told again.",
        "drone high told again while the flute low.",
        "The drone high while wind low told again.",
    )
    means = [-36.15, -36.34, -68.7, -17.86, -46.58, -69.56, -11.07, -26.26]
    assert batch.mel.mean(axis=(1, 2)) == pytest.approx(means, abs=0.05)
    dealt = make(rows, batch=4, mixtures=0, per_group=0)
    plans = [[row for (row,) in dealt.plan(step)] for step in range(3)]
    assert plans == [[2, 4, 0, 5], [8, 1, 3, 9], [7, 6, 7, 1]]


# ---- What is said ----------------------------------------------------------------------------


def test_original_caption_is_drawn_with_p_and_rewrites_alike(rows):
    batches = make(rows, Augment(), batch=5, mixtures=0, per_group=0)
    drawn = collections.Counter(c for step in range(400) for c in batches.batch(step).captions)
    original = sum(n for caption, n in drawn.items() if caption.endswith("."))
    # 2,000 draws: five standard deviations are 0.055 and 0.045.
    assert abs(original / 2000 - 0.4) < 0.055
    for word in ("shortly", "loudly", "again"):
        share = sum(n for caption, n in drawn.items() if caption.endswith(word)) / 2000
        assert abs(share - 0.2) < 0.045


@pytest.mark.parametrize(("original", "ending"), [(1.0, True), (0.0, False)])
def test_draw_may_be_certain(rows, original, ending):
    batches = make(rows, Augment(), original=original, mixtures=0, batch=5)
    assert {c.endswith(".") for step in range(9) for c in batches.batch(step).captions} == {ending}


def test_caption_without_rewrites_is_always_itself(rows):
    bare = [dataclasses.replace(r, captions=(manifest.Caption("A"),)) for r in rows]
    assert set(make(bare, mixtures=0, batch=5).batch(0).captions) == {"A"}


def test_several_captions_are_all_used(rows):
    several = tuple(manifest.Caption(f"A{k}") for k in range(3))
    many = [dataclasses.replace(r, captions=several) for r in rows]
    batches = make(many, mixtures=0, batch=5)
    assert {c for s in range(9) for c in batches.batch(s).captions} == {"A0", "A1", "A2"}


def test_caption_belongs_to_its_sound(rows):
    batch = make(rows, mixtures=0, batch=5).batch(7)
    for (row, *_), caption in zip(batch.rows, batch.captions, strict=True):
        known = rows[row].captions[0]
        assert caption in (known.text, *known.rewrites)


@pytest.mark.parametrize(("sequence", "joint"), [(0.0, " while "), (1.0, ", followed by ")])
def test_mixture_is_described_by_both(rows, sequence, joint):
    how = dataclasses.replace(EVERYTHING, sequence=sequence)
    batch = make(rows, how).batch(3)
    for row, caption in list(zip(batch.rows, batch.captions, strict=True))[5:]:
        first, second = caption.split(joint)
        assert rows[row[0]].extra["group"] in first
        assert rows[row[1]].extra["group"] in second


def test_composed_captions_come_from_a_fixed_pool(rows):
    how = dataclasses.replace(EVERYTHING, compositions=2)
    batches = make(rows, how)
    known = batches.texts()
    assert len(known) == len(set(known))
    assert sum(" while " in t or ", followed by " in t for t in known) > 60  # of 80, some alike
    assert {c for step in range(20) for c in batches.batch(step).captions} <= set(known)
    for step in range(5):
        batch = batches.batch(step)
        for (a, b), caption in list(zip(batch.rows, batch.captions, strict=True))[5:]:
            first, second = re.split(" while |, followed by ", caption)
            assert rows[a].extra["group"] in first
            assert rows[b].extra["group"] in second
    for sequence, absent in ((0.0, ", followed by "), (1.0, " while ")):
        found = make(rows, dataclasses.replace(how, sequence=sequence)).texts()
        assert not [text for text in found if absent in text]


@pytest.mark.parametrize(
    ("a", "b", "sequence", "expected"),
    [
        ("A dog barks.", "Rain falls.", False, "A dog barks while rain falls."),
        ("A dog barks", "Rain falls..", True, "A dog barks, followed by rain falls."),
        ("A dog barks.", "TV noise", False, "A dog barks while TV noise."),
        ("Rain falls.", "A dog barks.", False, "Rain falls while a dog barks."),
    ],
)
def test_compose(a, b, sequence, expected):
    assert augment.compose(a, b, sequence=sequence) == expected


# ---- What is heard ---------------------------------------------------------------------------


def test_without_changes_a_log_mel_is_that_of_inference(rows):
    short = [row for row in rows if len(audio.load(row.path, RATE)) <= FRONT.samples]
    batch = make(short, Augment(), batch=len(short), mixtures=0, per_group=0).batch(0)
    for (row,), mel in zip(batch.rows, batch.mel, strict=True):
        (expected,) = audio.window_features(audio.load(short[row].path, RATE), FRONT)
        # Above the floor, where powers below 1e-10 were lost: rounding of 10 log10 and back.
        assert np.abs(mel - expected).max() < 2e-4


def test_level_of_the_front_end_is_kept(rows):
    front = dataclasses.replace(FRONT, level_db=5.0)
    short = [row for row in rows if len(audio.load(row.path, RATE)) <= FRONT.samples]
    batch = make(short, Augment(), front=front, batch=3, mixtures=0, per_group=0).batch(0)
    for (row,), mel in zip(batch.rows, batch.mel, strict=True):
        (expected,) = audio.window_features(audio.load(short[row].path, RATE), front)
        assert np.abs(mel - expected).max() < 2e-3
        assert abs(10 * np.log10(augment.level_of(augment.from_db(mel))) - 5) < 1e-3


def test_long_clip_gives_windows_at_random_places(rows, tmp_path):
    ramp = np.repeat(10.0 ** np.linspace(-3, 0, 40), RATE // 10) * np.sin(np.arange(4 * RATE))
    folders.write_wav(tmp_path / "long.wav", ramp * 0.9)
    long = [manifest.Row(tmp_path / "long.wav", rows[0].captions)]
    batches = make(long, Augment(), batch=1, mixtures=0, per_group=0, group="")
    loud = {round(float(batches.batch(step).mel.max())) for step in range(12)}
    assert len(loud) > 4


def test_long_clip_is_never_wrapped_around(rows, tmp_path):
    """A clip of two frames more than a window gives three windows, and no fourth."""
    loud = np.linspace(0.05, 0.9, FRONT.samples + 2 * FRONT.hop)
    ramp = loud * np.sin(np.arange(len(loud)))
    long = [manifest.Row(folders.write_wav(tmp_path / "long.wav", ramp), rows[0].captions)]
    batches = make(long, Augment(), batch=1, mixtures=0, per_group=0, group="")
    power = spectra.load(long[0].path, 1.0, FRONT, wrap=False).power
    assert len(power) == FRONT.frames + 2
    windows = {k: augment.to_db(power[k : k + FRONT.frames]) for k in range(3)}
    found = collections.Counter()
    for step in range(60):
        (mel,) = batches.batch(step).mel
        (k,) = [k for k, window in windows.items() if np.abs(window - mel).max() < 1e-3]
        found[k] += 1
    assert min(found[k] for k in range(3)) > 5


def test_endless_repetition_starts_anywhere(tmp_path, rng):
    clip = 0.3 * rng.standard_normal(40 * FRONT.hop)
    paths = [folders.write_wav(tmp_path / f"{k}.wav", np.roll(clip, k * FRONT.hop)) for k in (0, 7)]
    a, b = (spectra.load(path, 1.0, FRONT, wrap=True).power for path in paths)
    assert a.shape == (40, FRONT.mels)
    np.testing.assert_allclose(np.roll(a, 7, axis=0), b, rtol=1e-3)


def test_speed_shortens_and_raises(tmp_path):
    path = folders.write_wav(tmp_path / "a.wav", folders.tone(1000, 1.5))
    slow, fast = (spectra.load(path, s, FRONT, wrap=True).power for s in (1.0, 1.25))
    assert len(fast) == round(len(slow) / 1.25)
    assert fast.sum(axis=0).argmax() > slow.sum(axis=0).argmax()


def test_powers_add_like_sounds():
    a, b = (0.2 * folders.tone(hz) for hz in (300, 4000))
    alone = [augment.from_db(audio.log_mel(x, FRONT)) for x in (a, b)]
    both = audio.log_mel(a + b, FRONT)
    heard = both[4:-4] > both.max() - 20  # elsewhere their skirts meet, in phase or not
    assert np.abs(augment.to_db(alone[0] + alone[1]) - both)[4:-4][heard].max() < 0.2


def test_splice_keeps_the_beginning(rng):
    a, b = np.ones((40, 3), np.float32), np.full((40, 3), 2, np.float32)
    joined = augment.splice(rng, a, b, 6.0)
    cut = int((joined[:, 0] == 1).sum())
    assert 10 <= cut <= 30
    assert len(set(joined[cut:, 0])) == 1


def test_level_does_not_depend_on_silence_around(rng):
    loud = rng.uniform(1, 2, (20, 4)).astype(np.float32)
    quiet = np.zeros((60, 4), np.float32)
    assert augment.level_of(np.concatenate([loud, quiet])) == pytest.approx(augment.level_of(loud))


def test_silence_stays_at_the_floor(tmp_path, rows):
    folders.write_wav(tmp_path / "silent.wav", np.zeros(RATE))
    silent = [dataclasses.replace(rows[0], path=tmp_path / "silent.wav")]
    how = dataclasses.replace(EVERYTHING, noise=0.0)
    front = dataclasses.replace(FRONT, level_db=5.0)
    batch = make(silent, how, front=front, batch=1, mixtures=0).batch(0)
    assert (batch.mel == -100).all()


def test_column_of_groups_that_is_not_there_is_named(rows):
    known = ", ".join(rows[0].extra)
    with pytest.raises(
        FormatError, match=rf"^data\.group: \S*manifest\.jsonl: .*'nogroup'.*{known}"
    ):
        make(rows, group="nogroup")
    some = [dataclasses.replace(rows[0], extra=rows[0].extra | {"sub": "a"}), *rows[1:]]
    with pytest.raises(FormatError, match=r"^data\.group: \S*manifest\.jsonl:2: no column 'sub'"):
        make(some, group="sub")


# ---- Bad sounds ------------------------------------------------------------------------------


@pytest.fixture
def damaged(rows, tmp_path):
    """Return rows whose second and third sound, a group's second and another's first, are bad."""
    (tmp_path / "bad.wav").write_bytes(b"RIFF of nothing")
    bad = {1, 2}
    return [
        dataclasses.replace(r, path=tmp_path / "bad.wav") if i in bad else r
        for i, r in enumerate(rows)
    ]


def test_bad_sound_ends_the_run_and_is_named(damaged):
    batches = make(damaged, batch=10, mixtures=0, per_group=0)
    with pytest.raises(FormatError, match=r"manifest\.jsonl:\d: .*bad\.wav"):
        list(batches.prefetch(0, 3))


def test_skipped_sound_is_replaced_by_the_next_of_its_group_and_reported_once(damaged, caplog):
    batches = make(damaged, errors="skip", how=Augment(), batch=10, mixtures=0, per_group=0)
    good = make(damaged, errors="skip", how=Augment(), batch=10, mixtures=0, per_group=0)
    for step in range(3):
        batch = batches.batch(step)
        planned = [row for (row,) in batches.plan(step)]
        used = [row for (row,) in batch.rows]
        assert used == [{1: 0, 2: 3}.get(row, row) for row in planned]
        assert all(
            damaged[r].captions[0].text[4:-1] in c.removeprefix("The ")
            for r, c in zip(used, batch.captions, strict=True)
        )
    assert same(good.batch(2), batch)
    assert len([r for r in caplog.records if "bad.wav" in r.message]) == 4  # two rows, two objects


def test_group_without_any_good_sound_is_an_error(damaged, tmp_path):
    lost = [dataclasses.replace(r, path=tmp_path / "bad.wav") for r in damaged[:2]]
    batches = make(lost, errors="skip", batch=2, mixtures=0, per_group=0)
    with pytest.raises(FormatError, match="nor any other of its group"):
        batches.batch(0)


def test_leaving_early_leaves_no_thread(rows):
    found = make(rows, ahead=8).prefetch(0, 1000)
    assert len(list(itertools.islice(found, 3))) == 3
    assert _prefetching()
    found.close()
    assert not _prefetching()


def test_leaving_early_waits_for_the_example_in_hand_alone(rows, monkeypatch):
    begun, go, example = [], threading.Event(), Batches._example

    def slow(self, step, item, picked):
        if step:
            begun.append((step, item))
            assert go.wait(60)
        return example(self, step, item, picked)

    monkeypatch.setattr(Batches, "_example", slow)
    found = make(rows, threads=1).prefetch(0, 10)
    next(found)
    while not begun:
        time.sleep(0.001)
    buffer = _buffer_of(found)
    closing = threading.Thread(target=found.close)
    closing.start()
    while not buffer._closed:
        time.sleep(0.001)
    go.set()
    closing.join()
    assert begun == [(1, 0)]


def _buffer_of(found):
    return found.gi_frame.f_locals["found"].gi_frame.f_locals["buffer"]


def _prefetching():
    return [t for t in threading.enumerate() if t.name.startswith("reclap-prefetch")]


def test_cache_drops_what_was_not_used_for_longest():
    item = spectra.Spectrum(np.zeros((2, 3), np.float32), 1.0)  # 24 bytes
    cache = spectra.Cache(48)
    cache.put("a", item)
    cache.put("b", item)
    assert cache.get("a") is item
    cache.put("c", item)
    assert cache.get("b") is None
    assert cache.get("a") is cache.get("c") is item
