"""Fingerprints: copies are found whatever was done to the file, other recordings are not."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from reclap.audio import load
from reclap.audio.fingerprint import (
    COHERENT,
    INVERTED,
    RATE,
    Fingerprint,
    Index,
    coherence,
    fingerprint,
    hashed,
    matches,
)
from reclap.audio.peaks import peaks
from reclap.audio.resample import resample

SOUNDS = Path(__file__).parents[1] / "recipes" / "sounds"


def bursts(seed, seconds=3.0):
    """Return coloured noise whose loudness moves: a sound with a shape."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(int(seconds * RATE))
    smooth = np.convolve(noise, np.hanning(5), "same")
    loudness = np.repeat(rng.uniform(0.02, 1, len(noise) // 400 + 1), 400)[: len(noise)]
    return (0.1 * smooth * loudness).astype(np.float32)


def note(seed, hertz=220.0, seconds=1.5):
    """Return a take of a note: the same partials, other phases, a little noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * RATE)) / RATE
    wander = np.cumsum(rng.standard_normal(len(t))) * 2e-3
    tone = sum(
        np.sin(2 * np.pi * hertz * k * t + k * wander + rng.uniform(0, 6)) / k for k in range(1, 10)
    )
    return (0.1 * tone * np.exp(-t) + 1e-3 * rng.standard_normal(len(t))).astype(np.float32)


@pytest.fixture(scope="module")
def clips():
    return [*(bursts(i) for i in range(8)), *(note(i) for i in range(8))]


CHANGES = {
    "same": lambda x: x,
    "softer": lambda x: x * np.float32(0.05),
    "inverted": lambda x: -x,
    "inverted, inside": lambda x: -0.2 * x[3001:9077],
    "inside": lambda x: x[3001:9077],
    "resampled": lambda x: resample(resample(x, RATE, 11025), 11025, RATE),
    "16 bits": lambda x: np.round(x * 3000).astype(np.float32) / 3000,
    "between others": lambda x: np.concatenate([bursts(90, 1), x, bursts(91, 1)]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_is_found_and_nothing_else(clips, change):
    index = Index([fingerprint(x) for x in clips])
    for i, clip in enumerate(clips):
        copy = CHANGES[change](clip)
        found = index.candidates(fingerprint(copy))
        assert [j for j in found if coherence(clips[j], copy) >= COHERENT] == [i]


def test_takes_of_one_note_are_not_coherent(clips):
    assert max(coherence(clips[8], other) for other in clips[9:]) < COHERENT
    assert coherence(clips[8], clips[8]) == pytest.approx(1, abs=1e-6)


def test_inverted_polarity_takes_its_share_from_coherence(clips):
    for clip, other in (clips[0], clips[0][3000:9000]), (clips[8], clips[8]):
        assert coherence(clip, -other) == pytest.approx(coherence(clip, other) - INVERTED)


def test_coherence_does_not_depend_on_order(clips):
    part = clips[0][4000:15000]
    assert coherence(clips[0], part) == coherence(part, clips[0]) > 0.99


def test_overlap_of_two_parts_is_enough(clips):
    long = bursts(5, 6.0)
    assert coherence(long[: 4 * RATE], long[2 * RATE :]) > 0.95
    assert coherence(long[: 3 * RATE], long[3 * RATE :]) < 0.3


def test_long_clips_are_compared_by_their_loudest_part():
    long = bursts(7, 20.0)
    quiet = np.concatenate([1e-3 * bursts(8, 11.0), long])
    assert coherence(quiet, long) > 0.95


def test_matches_come_once_each(clips):
    several = [clips[0], clips[1], clips[0][5000:], clips[2], clips[0][:15000]]
    asked = []

    def given(i):
        asked.append(i)
        return several[i]

    found = list(matches([fingerprint(x) for x in several], given))
    assert [(m.first, m.second) for m in found] == [(0, 2), (0, 4), (2, 4)]
    assert all(m.coherence > 0.9 for m in found)
    assert sorted(asked) == [0, 2, 4]  # others are no candidates, and each is loaded once


def test_silence_matches_nothing():
    silence, sound = np.zeros(RATE, np.float32), bursts(1)
    empty = fingerprint(silence)
    assert len(empty.hashes) == len(empty.frames) == 0
    assert (
        list(matches([empty, empty, fingerprint(sound)], [silence, silence, sound].__getitem__))
        == []
    )
    assert coherence(silence, sound) == coherence(silence, silence) == 0


@pytest.mark.parametrize("length", [1, 2, 100, 511, 600])
def test_shortest_clips_have_a_fingerprint(length):
    clip = bursts(3)[:length]
    print_ = fingerprint(clip)
    assert isinstance(print_, Fingerprint)
    assert Index([print_]).candidates(print_) in ([], [0])
    assert 0 <= coherence(clip, clip) <= 1


def test_an_index_of_nothing_finds_nothing():
    assert Index([]).candidates(fingerprint(bursts(0))) == []


@pytest.mark.parametrize("bad", [np.zeros((8, 2)), np.zeros(0), np.array([np.nan] * 9)])
def test_bad_samples_are_refused(bad):
    with pytest.raises(ValueError, match="samples"):
        fingerprint(bad)
    with pytest.raises(ValueError, match="samples"):
        coherence(bursts(0), bad)


@pytest.mark.slow
def test_copies_of_real_recordings_are_found(shared):
    spec = importlib.util.spec_from_file_location("m", SOUNDS / "measure_fingerprints.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    paths = sorted(p for p in (shared / "audio").rglob("*") if p.suffix in (".ogg", ".mp3"))[::13]
    found = script.measure(paths)
    assert found["copies"] > 90
    assert found["recall"] >= 0.95
    assert found["precision"] >= 0.99


def test_a_recording_shared_by_two_clips_of_esc10_is_found(shared):
    folder = shared / "audio" / "esc10" / "fire_crackling"
    a, b, other = (
        load(folder / f"{name}.ogg", RATE) for name in ("2-28314-A", "2-30322-A", "2-30322-B")
    )
    assert coherence(a, b) > 0.9
    assert coherence(a, other) < COHERENT


def test_a_common_hash_votes_where_the_next_peak_is_the_same():
    rng = np.random.default_rng(0)
    clips = [(np.cumsum(rng.integers(1, 4, 300)), 20 * rng.integers(1, 7, 300)) for _ in range(120)]
    index = Index([hashed(*clip) for clip in clips])  # each hash some 500 times
    for i in (3, 80, 119):
        print_ = hashed(clips[i][0][200:], clips[i][1][200:])
        first, count = index._found(print_)
        votes = [
            ((index._clips[a : a + n] == i) & (index._frames[a : a + n] == frame)).any()
            for a, n, frame in zip(first, count, print_.frames, strict=True)
        ]
        assert np.mean(votes) > 0.98  # the last pairs of the part have another peak behind


def test_long_clips_take_fewer_votes_of_each_hash(monkeypatch):
    clips = [bursts(i) for i in range(8)]
    index = Index([fingerprint(clip) for clip in clips])
    monkeypatch.setattr(f"{Index.__module__}._WORK", 10)
    print_ = fingerprint(clips[5])
    _, count = index._found(print_)
    assert count.max() == 1
    assert 5 in index.candidates(print_)


def test_an_index_of_sorted_arrays_is_the_same(clips):
    prints = [fingerprint(clip) for clip in clips]
    keys = np.concatenate([p.keys for p in prints])
    order = np.argsort(keys, kind="stable")
    sizes = np.array([len(p.hashes) for p in prints])
    of_clip = np.repeat(np.arange(len(prints), dtype=np.uint32), sizes)
    frames = np.concatenate([p.frames for p in prints]).astype(np.uint32)
    index = Index.of(keys[order], frames[order], of_clip[order], sizes)
    whole = Index(prints)
    for print_ in prints:
        assert index.candidates(print_) == whole.candidates(print_)


def test_a_fingerprint_is_that_of_its_peaks(clips):
    frames, bins = peaks(clips[0])
    assert (np.diff(frames) >= 0).all()
    assert bins.min() >= 0
    assert bins.max() < 232
    again, whole = hashed(frames, bins), fingerprint(clips[0])
    assert np.array_equal(again.keys, whole.keys)
    assert np.array_equal(whole.keys >> 16, whole.hashes)
    assert np.array_equal(again.frames, whole.frames)
