"""Bandwidth tells groups of recordings apart, but not the training examples of recipes/sounds."""

import dataclasses
from collections import defaultdict

import folders
import numpy as np
import pytest
from test_sounds_data import SOUNDS, script

from reclap.audio import AudioConfig
from reclap.audio.resample import resample
from reclap.io.manifest import Caption, Row
from reclap.training import Augment, recipe

PLAN = recipe.load(SOUNDS.parent / "sounds.toml")
FRONT = AudioConfig.from_json(PLAN.model.front)
SHORT = dataclasses.replace(FRONT, samples=FRONT.rate)
MOST = 1.3  # of chance

measure = script("measure_bandwidth")


def written(folder, name, samples, group):
    path = folders.write_wav(folder / f"{name}.wav", samples.astype("f4"), FRONT.rate)
    return Row(path, (Caption("A sound."),), {"group": group, "source": name})


@pytest.fixture(scope="module")
def noises(tmp_path_factory):
    """Return noises of six groups, six sources each; two groups have the band of a telephone."""
    folder, rng, rows = tmp_path_factory.mktemp("noises"), np.random.default_rng(3), []
    for i in range(36):
        samples = rng.uniform(-0.9, 0.9, FRONT.rate) * np.hanning(FRONT.rate)
        if i % 6 < 2:
            samples = resample(resample(samples.astype("f4"), FRONT.rate, 8000), 8000, FRONT.rate)
        rows.append(written(folder, f"noise {i}", samples, f"group {i % 6}"))
    return rows


def test_edge_is_the_highest_band_with_sound(noises):
    edges, used = measure.examples(noises, Augment(), SHORT, 1)
    narrow = np.array([noises[i].extra["group"] in ("group 0", "group 1") for i in used])
    assert (edges[~narrow] == FRONT.mels - 1).all()
    assert np.ptp(edges[narrow]) <= 1
    assert 40 <= edges[narrow].min() < 44  # about 4 kHz


def test_no_source_is_learned_from_and_tested_on():
    groups = np.repeat([0, 1], [12, 6])
    sources = [f"s{i % 6}" for i in range(12)] + [f"t{i % 3}" for i in range(6)]
    folds = measure.folds_of(groups, sources)
    homes = defaultdict(set)
    for source, fold in zip(sources, folds.tolist(), strict=True):
        homes[source].add(fold)
    assert all(len(f) == 1 for f in homes.values())
    assert set(folds[groups == 0]) == {0, 1, 2, 3, 4}
    assert set(folds[groups == 1]) == {0, 1, 2}


def test_recalls_are_those_of_the_likeliest_group():
    groups, folds = np.repeat([0, 1], 50), np.arange(100) % 5
    apart = np.where(groups == 0, 10.0, 40.0).astype("f4")
    assert measure.recalls(apart, groups, folds) == {0: 1.0, 1: 1.0}
    few = np.concatenate([groups, np.zeros(400, int)])  # a large group counts as much as others
    same = measure.recalls(np.full(500, 20, "f4"), few, np.arange(500) % 5)
    assert sum(same.values()) == pytest.approx(1)


def test_bandwidth_of_noises_tells_groups_only_without_band_limits(noises):
    ways = measure.ways(PLAN.augment)
    found = {name: measure.measure(noises, how, SHORT, 8) for name, how in ways.items()}
    assert {x["chance"] for x in found.values()} == {round(1 / 6, 4)}
    assert found["recordings"]["ratio to chance"] > 1.8  # 2 can be told from 4: 2 of 6 right
    assert found["without band limits"]["ratio to chance"] > MOST
    assert found["with band limits"]["ratio to chance"] <= MOST


@pytest.fixture(scope="module")
def recordings(shared):
    audio = shared / "audio"
    if not (audio / "kinds.csv").is_file():
        pytest.skip("the shared test data has no kinds.csv")
    make = script("make_manifest")
    groups = defaultdict(list)
    for item in make.esc10(audio) + make.others(audio):
        make.name_kind(item)
        extra = {"group": item["group"], "source": item["source"]}
        groups[item["group"]].append(Row(audio / item["path"], (Caption("A sound."),), extra))
    return groups


def test_bandwidth_of_real_recordings_tells_groups_only_without_band_limits(recordings):
    """A few of each group and speed: the ratio of so few varies by a tenth."""
    rows = [row for own in recordings.values() for row in own[:: -(-len(own) // 24)]]
    how = measure.ways(PLAN.augment)["with band limits"]
    how = dataclasses.replace(how, speeds=(0.8, 1.0, 1.25))
    before = measure.measure(rows, Augment(), FRONT, 1)
    after = measure.measure(rows, how, FRONT, 8)
    assert before["groups"] == after["groups"] == 12
    assert before["ratio to chance"] > 2
    assert after["ratio to chance"] <= MOST


@pytest.mark.slow
def test_bandwidth_of_all_recordings_tells_groups_only_without_band_limits(recordings):
    rows = [row for own in recordings.values() for row in own]
    ways = measure.ways(PLAN.augment)
    assert measure.measure(rows, ways["without band limits"], FRONT, 4)["ratio to chance"] > 1.5
    assert measure.measure(rows, ways["with band limits"], FRONT, 4)["ratio to chance"] <= MOST


def test_recipe_limits_bands():
    assert PLAN.augment.band > 0
    assert max(high for _, high in PLAN.augment.bands) == 4000
