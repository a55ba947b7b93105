"""Bulk work: embeddings and classifications one after the other, in bounded memory."""

import itertools
import threading

import numpy as np
import pytest
from folders import tone

import reclap
from reclap.audio.inputs import AHEAD
from reclap.errors import SkippedWarning
from reclap.model.batching import BATCH
from reclap.prompts.combine import RULES

pytestmark = pytest.mark.timeout(240)

LABELS = {"rain": ["soft rain", "hard rain"], "dog": ["a dog"], "bell": ["a bell", "bells"]}


@pytest.fixture
def mixed(tones, tmp_path):
    """Return files of which the third, fourth and last are bad."""
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"no sound")
    return [*tones[:2], bad, "none.wav", *tones[2:], bad]


def test_embeddings_come_one_after_the_other_and_are_the_same(small, tones):
    found = list(small.iter_embed(tones * 2))
    assert [e.index for e in found] == list(range(2 * len(tones)))
    assert [e.file for e in found] == [str(path) for path in tones] * 2
    assert {e.error for e in found} == {None}
    np.testing.assert_array_equal([e.row for e in found], small.embed_audio(tones * 2))


@pytest.mark.parametrize("explain", [False, True])
@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "entropy_batch"])
def test_classifications_come_one_after_the_other_and_are_the_same(small, mixed, rule, explain):
    options = {"combine": rule, "explain": explain, "errors": "skip", "top_k": 2}
    found = list(small.iter_classify(mixed, LABELS, **options))
    want = small.classify(mixed, LABELS, **options)
    assert [r.to_json() for r in found] == [r.to_json() for r in want]
    for one, other in zip(found, want, strict=True):
        np.testing.assert_array_equal(one.scores, other.scores)
        np.testing.assert_array_equal(one.order, other.order)


def test_a_rule_over_all_sounds_needs_them_all(small, tones):
    with pytest.raises(ValueError, match="use classify"):
        next(small.iter_classify(tones, LABELS, combine="entropy_batch"))
    with pytest.raises(ValueError, match="top_k is 0"):
        next(small.iter_classify(tones, LABELS, top_k=0))


def test_faults_are_values(small, mixed):
    found = list(small.iter_embed(mixed, errors="skip"))
    bad = [2, 3, len(mixed) - 1]
    assert [e.index for e in found if e.error is not None] == bad
    assert [e.file for e in found] == [str(path) for path in mixed]
    assert "none.wav: No such file" in found[3].error
    assert all(np.isnan(found[i].row).all() for i in bad)
    with pytest.warns(SkippedWarning) as caught:
        rows = small.embed_audio(mixed, errors="skip")
    assert list(caught[0].message.faults) == bad
    np.testing.assert_array_equal(rows, [e.row for e in found])


def test_results_before_a_bad_sound_come_first(small, mixed, tones):
    found = small.iter_embed(mixed)
    rows = [next(found).row for _ in range(2)]
    np.testing.assert_array_equal(rows, small.embed_audio(tones[:2]))
    with pytest.raises(reclap.FormatError, match=r"bad\.wav"):
        next(found)
    named = small.iter_classify(mixed, LABELS)
    assert [next(named).file for _ in range(2)] == [str(path) for path in tones[:2]]
    with pytest.raises(reclap.FormatError, match=r"bad\.wav"):
        next(named)


def test_bad_sounds_alone_are_told_as_they_come(small):
    endless = (f"none {i}.wav" for i in itertools.count())
    found = small.iter_embed(endless, errors="skip")
    assert [next(found).file for _ in range(3)] == [f"none {i}.wav" for i in range(3)]
    found.close()


def test_an_iterator_is_read_no_further_than_needed(small):
    read = []

    def sounds():
        for i in itertools.count():
            read.append(i)
            yield tone(200 + i, 0.2)

    found = small.iter_embed(sounds(), rate=16000)
    for n in range(40):
        assert next(found).file == f"audio[{n}]"
        assert len(read) <= n + AHEAD + small.threads + 2 * BATCH
    found.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("reclap-prefetch")]
    with pytest.raises(ValueError, match=r"audio\[0\]: an array does not know its rate"):
        next(small.iter_embed(iter([tone(200, 0.2)])))


def test_what_an_iterator_raises_comes_in_its_turn(small, tones):
    def sounds():
        yield from tones[:2]
        raise OSError("the tape ended")

    found = small.iter_embed(sounds())
    with pytest.raises(OSError, match="the tape ended"):
        list(found)


def test_nothing_gives_nothing(small):
    assert list(small.iter_embed([])) == []
    assert list(small.iter_classify([], LABELS)) == []
    assert small.embed_audio([]).shape == (0, small.config.dim)
    assert small.classify([], LABELS) == []


def test_a_timeline_of_a_bad_sound_keeps_its_fault(small, tones, tmp_path):
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"no sound")
    found = small.timeline(bad, LABELS, errors="skip")
    assert "bad.wav" in found.error
    assert found.scores.shape == (0, 3)
    assert found.seconds.shape == (0, 2)
    assert found.best == []
    assert found.to_json() == [{"file": str(bad), "error": found.error}]
    assert small.timeline(tones[0], LABELS, errors="skip").error is None
    with pytest.raises(reclap.FormatError):
        small.timeline(bad, LABELS)
    with pytest.raises(ValueError, match="errors is 'ignore'"):
        small.timeline(tones[0], LABELS, errors="ignore")


def test_explaining_takes_one_product_of_prompts(small, tones, monkeypatch):
    calls = []
    plain = reclap.model.classes.core.combine

    class Core:
        def __getattr__(self, name):
            return getattr(plain_core, name)

        def combine(self, *args):
            calls.append(args)
            return plain(*args)

    plain_core = reclap.model.classes.core
    monkeypatch.setattr(reclap.model.classes, "core", Core())
    [result] = small.classify(tones[0], LABELS, combine="max", explain=True)
    assert len(calls) == 1
    [want] = small.classify(tones[0], LABELS, combine="max")
    np.testing.assert_array_equal(result.scores, want.scores)
