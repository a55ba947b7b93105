"""The audio tower with feature fusion against transformers, and models that use it."""

import dataclasses

import numpy as np
import pytest
from models import AUDIO, MLP, STATISTIC, decibels, new_model
from test_towers import ALL_OPTIONS, BASE, SHORT, TINY, hf_embeddings

import reclap
from reclap import FormatError, audio
from reclap.config import ClapConfig
from reclap.runtime.libraries import core

FUSED = AUDIO | {"fusion": True}
NARROW = FUSED | {"patch": 2, "depths": [1, 2], "heads": [2, 7], "embed": 14, "window": 8}
RATIOS = (1, 2, 5, 12)  # channels inside the attention of 12: all, half, 2 and 1
# Between unit vectors; measured 2e-7, and clips of these random models are 0.01 apart or more.
UNIT = 2e-6
FLAGS = {"mixed": [1, 0, 1, 1, 0], "all": [1] * 5, "none": [0] * 5}


def views(rng, b, frames=250, mels=16):
    """Four different log-mels a clip, whether it is flagged or not: only the flag may decide."""
    return decibels(rng, 4 * b, frames, mels).reshape(b, 4, frames, mels)


def flags(kind):
    return np.array(FLAGS[kind], bool)


# ---- Against transformers ----------------------------------------------------------------------


def assert_matches(rng, oracle, name, config, mel, longer):
    """Compare the fused tower at these flags with transformers; one model for all of `longer`."""
    model, values = new_model(rng, config, None, 512, (MLP, 0), 512)
    context = core.Context(2)
    for packed in (False, True):
        if packed:
            model.pack()
        for case, flag in longer.items():
            want = oracle(
                f"{name}_{case}", lambda x=flag: {"rows": hf_embeddings(config, values, mel, x)}
            )
            worst = np.abs(model.audio(context, mel, longer=flag) - want["rows"]).max()
            assert worst <= UNIT, f"{case}: {worst:.2e} apart"
    assert context.stats()["slow"] == 0


@pytest.mark.parametrize(
    ("config", "frames"),
    [
        (FUSED, 250),
        (FUSED, 256),
        (NARROW, 31),
    ],
    ids=["small", "full", "narrow"],
)
def test_fused_tower_matches_transformers(rng, request, oracle, config, frames):
    name = "fused_tower/" + request.node.callspec.id
    assert_matches(
        rng, oracle, name, config, views(rng, 5, frames), {kind: flags(kind) for kind in FLAGS}
    )


@pytest.mark.parametrize(
    "option",
    [*({"fusion_ratio": r} for r in RATIOS), ALL_OPTIONS],
    ids=[*(f"ratio_{r}" for r in RATIOS), "all_options"],
)
def test_fused_tower_with_options_matches_transformers(rng, request, oracle, option):
    name = "fused_options/" + request.node.callspec.id
    config = SHORT | {"fusion": True} | option
    assert_matches(rng, oracle, name, config, views(rng, 5, 77), {"mixed": flags("mixed")})


@pytest.mark.slow
@pytest.mark.parametrize("config", [TINY, BASE], ids=["tiny", "base"])
def test_fused_tower_of_full_size_matches_transformers(rng, request, oracle, config):
    cases = {"mixed": [True, False], "all": [True, True], "none": [False, False]}
    name = "fused_tower/" + request.node.callspec.id
    longer = {case: np.array(x) for case, x in cases.items()}
    config = config | {"fusion": True}
    assert_matches(rng, oracle, name, config, views(rng, 2, 1001, 64), longer)


def test_parameters_are_named_as_in_laions_state_dict():
    model = core.Model(FUSED, None, 24, MLP, MLP, 20)
    plain = {name for name, _, _ in core.Model(AUDIO, None, 24, MLP, MLP, 20).parameters()}
    added = {n: (s, k) for n, s, k in model.parameters() if n not in plain}
    at = "audio_branch.patch_embed."
    shapes = {f"{at}mel_conv2d.weight": (12, 1, 4, 12), f"{at}mel_conv2d.bias": (12,)}
    for branch, first in (("local_att", 0), ("global_att", 1)):
        name = f"{at}fusion_model.{branch}."
        for number, (out, into) in ((0, (3, 12)), (3, (12, 3))):
            shapes[f"{name}{first + number}.weight"] = (out, into, 1, 1)
            shapes[f"{name}{first + number}.bias"] = (out,)
            for part in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"{name}{first + number + 1}.{part}"] = (out,)
    assert {name: shape for name, (shape, _) in added.items()} == shapes
    for name, (_, kind) in added.items():
        assert (kind == STATISTIC) == ("running" in name)


def test_fused_sizes_have_laions_number_of_parameters():
    for preset, plain, fused in (
        ("tiny", 31_325_143, 31_339_783),
        ("base", 72_424_535, 72_448_151),
    ):
        counts = []
        for fusion in (False, True):
            config = reclap.config.HtsatConfig.preset(preset)
            config = dataclasses.replace(config, fusion=fusion)
            model = core.Model(config.to_core(), None, 0, 0, 0, config.width)
            own = [np.prod(s) for n, s, k in model.parameters() if k != STATISTIC]
            counts.append(int(sum(own)))
        assert counts[1] - counts[0] == fused - plain


# ---- Independence ------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [False, True], ids=["plain", "packed"])
def test_fused_embedding_does_not_depend_on_the_batch(rng, pack):
    model, _ = new_model(rng, FUSED)
    if pack:
        model.pack()
    mel, longer, context = views(rng, 5), flags("mixed"), core.Context(2)
    together = model.audio(context, mel, longer=longer)
    for i in range(5):
        alone = model.audio(context, mel[i : i + 1], longer=longer[i : i + 1])[0]
        assert np.abs(together[i] - alone).max() <= 1e-6
    others = np.concatenate([mel[:1], views(rng, 4)])
    for kind in FLAGS:
        company = np.concatenate([longer[:1], flags(kind)[1:]])
        row = model.audio(context, others, longer=company)[0]
        assert np.abs(row - together[0]).max() <= 1e-6


def test_fused_embeddings_are_bitwise_equal_on_any_thread_count(rng):
    model, _ = new_model(rng, FUSED)
    mel, longer = views(rng, 5), flags("mixed")
    one, *more = (model.audio(core.Context(n), mel, longer=longer) for n in (1, 2, 3))
    for other in more:
        np.testing.assert_array_equal(one, other)


def test_a_clip_that_is_not_longer_is_its_first_log_mel_alone(rng):
    model, values = new_model(rng, FUSED)
    plain = core.Model(AUDIO, None, 24, MLP, MLP, 20)
    plain.bind([values[name] for name, _, _ in plain.parameters()])
    mel, context = views(rng, 3), core.Context(1)
    want = plain.audio(context, mel[:, 0])
    got = model.audio(context, mel, longer=np.zeros(3, bool))
    np.testing.assert_array_equal(got, want)
    fused = model.audio(context, mel, longer=np.ones(3, bool))
    assert (np.abs(fused - want).max(axis=1) > 1e-3).all()


# ---- Refusals ----------------------------------------------------------------------------------


def test_fused_tower_refuses_what_does_not_fit(rng):
    model, _ = new_model(rng, FUSED)
    context, mel = core.Context(1), views(rng, 2)
    with pytest.raises(ValueError, match="longer: this audio tower has fusion and needs a flag"):
        model.audio(context, mel)
    with pytest.raises(
        ValueError, match=r"mel: expected shape \(\*, 4, \*, 16\), got \(2, 250, 16"
    ):
        model.audio(context, mel[:, 0], longer=[True, False])
    with pytest.raises(ValueError, match=r"longer: expected shape \(2,\), got \(3,\)"):
        model.audio(context, mel, longer=[True] * 3)
    with pytest.raises(TypeError, match="bool"):
        model.audio(context, mel, longer=[1.0, 0.0])
    plain, _ = new_model(rng)
    with pytest.raises(ValueError, match="longer: this audio tower has no fusion"):
        plain.audio(context, mel[:, 0], longer=[True, False])
    assert model.audio(context, mel[:0], longer=np.zeros(0, bool)).shape == (0, 20)


def test_sizes_too_small_for_fusion_are_refused():
    with pytest.raises(ValueError, match="fusion_ratio: expected 1 to 4096, got 0"):
        core.Model(FUSED | {"fusion_ratio": 0}, None, 24, MLP, MLP, 20)
    with pytest.raises(ValueError, match="an embed of at least 13, got 16 and 12"):
        core.Model(FUSED | {"fusion_ratio": 13}, None, 24, MLP, MLP, 20)
    small = {"spec_size": 32, "patch": 16, "window": 2, "depths": [1], "heads": [1]}
    for change in (small, {"embed": 3, "heads": [1, 1, 1]}):
        core.Model(AUDIO | change, None, 24, MLP, MLP, 20)
        with pytest.raises(ValueError, match="fusion: needs at least 3 patches a side"):
            core.Model(FUSED | change, None, 24, MLP, MLP, 20)


# ---- Models ------------------------------------------------------------------------------------


def test_tower_and_front_end_must_agree_about_fusion():
    for part in ({"audio": {"fusion": True}}, {"front": {"truncation": "fusion"}}):
        with pytest.raises(FormatError, match="fusion needs both"):
            ClapConfig.from_json(part)
    ClapConfig.from_json({"audio": {"fusion": True}, "front": {"truncation": "fusion"}})


def test_fused_model_embeds_any_clip_as_one_input(fused_folder, tones):
    model = reclap.load(fused_folder, threads=2)
    rows = model.embed_audio(tones)  # up to four windows long
    for path, row in zip(tones, rows, strict=True):
        clip = audio.load(path, model.config.front.rate)
        mel, longer = reclap.audio.fusion.fused_features(clip, model.config.front)
        assert longer == (len(clip) >= 16000 + 160)
        tower = reload_tower(model)
        want = tower.audio(core.Context(1), mel[np.newaxis], longer=[longer])[0]
        assert np.abs(row - want).max() <= 1e-6
        alone = model.embed_audio(path)[0]
        assert np.abs(row - alone).max() <= 1e-6


def reload_tower(model):
    tower = core.Model(**model.config.core_arguments(with_text=True))
    tower.bind([np.asarray(x) for x in model._weights.values.values()])
    return tower


def test_fused_model_saves_and_gives_timelines(fused_folder, tones, tmp_path):
    model = reclap.load(fused_folder, threads=1)
    model.save(tmp_path / "copy")
    again = reclap.load(tmp_path / "copy", threads=1)
    np.testing.assert_array_equal(again.embed_audio(tones[:2]), model.embed_audio(tones[:2]))
    assert again.digest == model.digest
    line = model.timeline(tones[1], ["a", "b"], window=0.5)
    assert np.isfinite(line.scores).all()
