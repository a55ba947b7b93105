"""Training batches of models with feature fusion: four log-mels a clip, cuts drawn by the step."""

import dataclasses

import numpy as np
import pytest
import training
from folders import CONFIG, RATE, fused_config, tone, write_wav

import reclap
from reclap import audio
from reclap.audio import AudioConfig, fusion
from reclap.io import manifest
from reclap.training import loop
from reclap.training.augment import Augment
from reclap.training.data import Batches, Data
from reclap.training.recipe import Recipe

FRONT = AudioConfig.from_json(fused_config()["front"])
WINDOWS = dataclasses.replace(FRONT, truncation="windows")
SINGLE = Data("", batch=1)
LONG = 2.63  # seconds, in windows of one


@pytest.fixture(scope="module")
def set_of_two(tmp_path_factory):
    """Return a manifest of a short and a long sound."""
    folder = tmp_path_factory.mktemp("two")
    lines = ["path,caption,group"]
    rng = np.random.default_rng(4)
    for name, seconds in (("short", 0.6), ("long", LONG)):
        samples = tone(300, seconds) * np.linspace(0.2, 1, int(seconds * RATE))
        samples += 0.02 * rng.standard_normal(len(samples))
        write_wav(folder / f"{name}.wav", samples.astype(np.float32))
        lines.append(f"{name}.wav,A {name} tone.,{name}")
    path = folder / "manifest.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def by_name(batches, steps=range(4)):
    """Return one example of each sound: log-mels and flag."""
    found = {}
    for step in steps:
        batch = batches.batch(step)
        for rows, mel, flag in zip(batch.rows, batch.mel, batch.longer, strict=True):
            found[batches.rows[rows[0]].path.stem] = mel, bool(flag)
    return found


def test_unchanged_sounds_are_what_they_are_at_inference(set_of_two):
    """A long one but for the places of its cuts."""
    batches = Batches(manifest.read(set_of_two), SINGLE, Augment(), FRONT, 0)
    for name, (mel, flag) in by_name(batches).items():
        clip = audio.load(set_of_two.parent / f"{name}.wav", RATE)
        want, longer = fusion.fused_features(clip, FRONT)
        assert flag == longer == (name == "long")
        np.testing.assert_allclose(mel[0], want[0], atol=2e-3)
        if not longer:
            np.testing.assert_allclose(mel, want, atol=2e-3)


def test_cuts_of_a_long_sound_lie_in_their_thirds_and_are_drawn(set_of_two):
    batches = Batches(manifest.read(set_of_two), SINGLE, Augment(), FRONT, 0)
    whole = dataclasses.replace(WINDOWS, samples=int(LONG * RATE))
    clip = audio.load(set_of_two.parent / "long.wav", RATE)
    log_mel = audio.log_mel(audio.windows(clip, whole)[0], whole)
    ranges = fusion.cut_ranges(len(log_mel), FRONT.frames)
    seen = [set(), set(), set()]
    for step in range(40):
        batch = batches.batch(step)
        if not batch.longer[0]:
            continue
        for cut, part, places in zip(batch.mel[0, 1:], ranges, seen, strict=True):
            distance = [
                np.abs(cut - log_mel[at : at + len(cut)]).max()
                for at in range(len(log_mel) - len(cut) + 1)
            ]
            assert min(distance) < 2e-3
            assert int(np.argmin(distance)) in part
            places.add(int(np.argmin(distance)))
    assert all(len(places) > 5 for places in seen)


EVERYTHING = Augment(
    shift=True,
    speeds=(0.8, 1.0, 1.25),
    tilt_db=3.0,
    eq_db=3.0,
    band=0.5,
    noise=0.5,
    gain_db=6.0,
)


def test_a_batch_depends_on_the_step_alone(set_of_two):
    rows = manifest.read(set_of_two)
    first, second = (Batches(rows, SINGLE, EVERYTHING, FRONT, 3) for _ in range(2))
    made = list(first.prefetch(0, 12))
    assert any(batch.longer.any() for batch in made)
    for batch in reversed(made):
        again = second.batch(batch.step)
        np.testing.assert_array_equal(batch.mel, again.mel)
        np.testing.assert_array_equal(batch.longer, again.longer)


def test_all_else_is_drawn_as_without_fusion(set_of_two):
    """Short sounds are the same, four times; of long ones the changes."""
    rows = manifest.read(set_of_two)
    fused = Batches(rows, SINGLE, EVERYTHING, FRONT, 3)
    plain = Batches(rows, SINGLE, EVERYTHING, WINDOWS, 3)
    for step in range(12):
        one, other = fused.batch(step), plain.batch(step)
        assert (one.captions, one.rows) == (other.captions, other.rows)
        assert other.longer is None
        if not one.longer[0]:
            np.testing.assert_array_equal(one.mel[0], np.stack([other.mel[0]] * 4))


@pytest.mark.parametrize("splice", [0.0, 1.0])
def test_joined_sounds_are_windows(set_of_two, splice):
    how = Augment(same=1.0, splice=splice)
    data = Data("", batch=2, mixtures=1, group="group", per_group=1)
    batches = Batches(manifest.read(set_of_two), data, how, FRONT, 0)
    for step in range(4):
        batch = batches.batch(step)
        assert batch.mel.shape == (2, 4, FRONT.frames, FRONT.mels)
        assert not batch.longer.any()
        assert (batch.mel == batch.mel[:, :1]).all()


# ---- Runs --------------------------------------------------------------------------------------


def sections_of(manifest_path, text):
    sections = training.settings(manifest_path, text)
    config = fused_config()
    sections["model"] |= {"front": config["front"], "audio": training.AUDIO | {"fusion": True}}
    return sections


def test_a_recipe_trains_a_model_with_fusion(tmp_path, small_folder):
    """Twice the same model, whose fusion has learned."""
    sections = sections_of(training.write_set(tmp_path / "sounds"), small_folder)
    recipe = Recipe.from_mapping(sections)
    loop.train(recipe, tmp_path / "one")
    shorter = sections | {"run": sections["run"] | {"steps": 12, "keep": 9}}
    loop.train(Recipe.from_mapping(shorter), tmp_path / "two")
    assert training.read_run(tmp_path / "one") == training.read_run(tmp_path / "two")
    model = reclap.load(tmp_path / "one" / "last")
    assert model.config.audio.fusion
    first = reclap.load(tmp_path / "two" / "step-0000000004")
    for name in ("mel_conv2d.weight", "fusion_model.local_att.0.weight"):
        place = f"audio_branch.patch_embed.{name}"
        before, after = (np.asarray(m._weights.values[place]) for m in (first, model))
        assert np.abs(before - after).max() > 1e-4
    sounds = sorted((tmp_path / "sounds").glob("*.wav"))
    np.testing.assert_allclose(np.linalg.norm(model.embed_audio(sounds), axis=1), 1, rtol=1e-5)


def test_a_run_begins_with_a_model_that_has_fusion(tmp_path, fused_folder):
    """With a learning rate of 0 only running statistics move."""
    sections = training.settings(training.write_set(tmp_path / "sounds"), fused_folder)
    sections |= {"model": {"from": str(fused_folder)}, "optim": {"lr": 0.0}}
    sections["run"] |= {"steps": 2}
    loop.train(Recipe.from_mapping(sections), tmp_path / "run")
    before, after = reclap.load(fused_folder), reclap.load(tmp_path / "run" / "last")
    assert after.config.audio.fusion
    assert CONFIG["dim"] == after.config.dim
    moved = {
        name
        for name, x in before._weights.values.items()
        if not np.array_equal(np.asarray(x), np.asarray(after._weights.values[name]))
    }
    assert moved
    assert all("running_" in name for name in moved)
