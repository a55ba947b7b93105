"""Texts of a batch: further captions, modules and hard negatives, and whose they are."""

import collections
import dataclasses

import numpy as np
import pytest
import training
from test_data import EVERYTHING, make, same

from reclap.errors import FormatError
from reclap.io import manifest
from reclap.io.manifest import Caption
from reclap.training.augment import Augment, compose
from reclap.training.texts import NEGATIVE, OWN, SHARED, _composed

PLAIN = {"batch": 5, "mixtures": 0, "per_group": 0}


@pytest.fixture
def rows(tmp_path):
    return manifest.read(training.write_set(tmp_path))


@pytest.fixture
def rich(rows):
    """Return rows with two captions each, three negatives and two modules of the first."""
    return [
        dataclasses.replace(
            row,
            captions=(
                dataclasses.replace(
                    row.captions[0],
                    negatives=tuple(f"not {i} {k}" for k in range(3)),
                    modules=tuple(f"part {i} {k}" for k in range(2)),
                ),
                Caption(f"another {i}"),
            ),
        )
        for i, row in enumerate(rows)
    ]


def by_role(batch):
    """Return the texts of each clip by role."""
    found = [collections.defaultdict(list) for _ in batch.mel]
    for text, clip, role in zip(batch.texts, batch.owner, batch.role, strict=True):
        found[clip][int(role)].append(text)
    return found


def test_by_default_the_texts_are_the_captions(rich):
    batch = make(rich, **PLAIN).batch(2)
    assert batch.texts == batch.captions
    np.testing.assert_array_equal(batch.owner, np.arange(5))
    assert not batch.role.any()
    assert (batch.owner.dtype, batch.role.dtype) == (np.int32, np.int32)


def test_captions_come_first_then_the_others_by_clip(rich):
    batch = make(rich, **PLAIN, captions=2, negatives=3, modules=2).batch(0)
    assert batch.texts[:5] == batch.captions
    np.testing.assert_array_equal(batch.owner[:5], np.arange(5))
    assert (np.diff(batch.owner[5:]) >= 0).all()
    for (row, *_), texts in zip(batch.rows, by_role(batch), strict=True):
        first, second = rich[row].captions
        says_first = texts[SHARED][0] in (first.text, *first.rewrites)
        assert {says_first} == {texts[SHARED][1] == second.text}
        assert set(texts[OWN]) == (set(first.modules) if says_first else set())
        assert set(texts[NEGATIVE]) == (set(first.negatives) if says_first else set())


def test_counts_limit_what_is_drawn(rich):
    batches = make(rich, **PLAIN, captions=7, negatives=2, modules=1)
    drawn = collections.Counter()
    for step in range(40):
        for texts in by_role(batches.batch(step)):
            assert len(texts[SHARED]) == 2
            assert len(texts[OWN]) in (0, 1)
            assert len(texts[NEGATIVE]) == len(set(texts[NEGATIVE])) == 2 * len(texts[OWN])
            drawn.update(text.rsplit(" ", 1)[1] for text in texts[NEGATIVE])
    assert set(drawn) == {"0", "1", "2"}


def test_further_texts_change_nothing_else(rich):
    settings = {"mixtures": 3, "batch": 8}
    plain = make(rich, **settings)
    more = make(rich, **settings, captions=2, negatives=2, modules=2)
    for step in range(3):
        assert same(plain.batch(step), more.batch(step))


def test_texts_depend_on_seed_and_step_alone(rich):
    settings = {"captions": 2, "negatives": 2, "modules": 1, "mixtures": 3}
    here, there = make(rich, **settings), make(rich, **settings, threads=4)
    for step, batch in zip(range(5), there.prefetch(0, 5), strict=True):
        expected = here.batch(step)
        assert batch.texts == expected.texts
        np.testing.assert_array_equal(batch.owner, expected.owner)
        np.testing.assert_array_equal(batch.role, expected.role)
    assert make(rich, seed=4, **settings).batch(0).texts != here.batch(0).texts


@pytest.mark.parametrize("compositions", [0, 2])
def test_a_mixture_has_its_parts_and_what_is_wrong_of_it(rows, compositions):
    how = dataclasses.replace(EVERYTHING, compositions=compositions)
    batches = make(rows, how, batch=8, mixtures=8, per_group=0, negatives=2, modules=2)
    for step in range(6):
        for texts in by_role(batches.batch(step)):
            (caption,), parts = texts[SHARED], texts[OWN]
            assert len(parts) == 2
            of = {
                (a, b, kind): compose(a, b, sequence=kind)
                for a, b in (parts, parts[::-1])
                for kind in (False, True)
            }
            ((a, b, kind),) = [key for key, text in of.items() if text == caption]
            assert set(texts[NEGATIVE]) == {of[a, b, not kind], of[b, a, True]}


def test_a_mixture_of_like_sounds_is_not_its_own_negative():
    """The other order says the same."""
    for sequence in (False, True):
        said = _composed(("A dog barks.", "A dog barks."), sequence)
        assert said.modules == ("A dog barks.",)
        assert len(said.negatives) == 1
        assert said.caption not in said.negatives


def test_known_texts_are_all_that_are_drawn(rich):
    how = dataclasses.replace(EVERYTHING, compositions=2)
    settings = {"captions": 2, "negatives": 3, "modules": 2, "mixtures": 3}
    batches = make(rich, how, **settings)
    known = batches.texts()
    assert len(known) == len(set(known))
    assert {t for step in range(10) for t in batches.batch(step).texts} <= set(known)
    fewer = make(rich, how, mixtures=3).texts()
    assert set(fewer) < set(known)
    assert not [t for t in fewer if t.startswith(("not", "part"))]


@pytest.mark.parametrize("name", ["negatives", "modules"])
def test_texts_that_no_row_has_are_refused(rows, name):
    with pytest.raises(FormatError, match=rf"data\.{name} is 2: no row of the manifest has any"):
        make(rows, Augment(), **PLAIN, **{name: 2})
