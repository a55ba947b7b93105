"""The audio tower Cnn14 against PyTorch, and what reclap promises about it."""

import numpy as np
import pytest
from models import CNN14, LINEAR, MLP, MS, STATISTIC, decibels, new_model, unit

from reclap.config import ClapConfig, Cnn14Config
from reclap.errors import FormatError
from reclap.runtime.libraries import core

ODD = CNN14 | {"mels": 13, "widths": [3, 5, 7, 9]}  # 13 mels become 6, 3, 1
ONE = CNN14 | {"mels": 5, "widths": [11]}
# Between unit vectors; measured 3e-7 at full size.
UNIT = 2e-6


def torch_features(config, values, mel):
    import torch
    from torch_cnn14 import Cnn14, from_core

    tower = Cnn14(mels=config["mels"], widths=tuple(config["widths"])).eval()
    tower.load_state_dict(from_core(values), strict=False)
    with torch.no_grad():
        return {"features": tower(torch.from_numpy(mel))}


def assert_matches(rng, oracle, name, config, b, frames):
    model, values = new_model(rng, config, None, 0, (0, 0), config["widths"][-1])
    mel = decibels(rng, b, frames, config["mels"])
    want = oracle(name, lambda: torch_features(config, values, mel))["features"]
    context = core.Context(2)
    for _ in ("plain", "packed"):
        worst = np.abs(model.audio(context, mel) - unit(want)).max()
        assert worst <= UNIT, f"{worst:.2e} apart"
        features = model.audio(context, mel, features=True)
        np.testing.assert_allclose(features, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())
        model.pack()
    assert context.stats()["slow"] == 0


@pytest.mark.parametrize("frames", [8, 9, 31, 130])
@pytest.mark.parametrize("config", [CNN14, ODD, ONE], ids=["even", "odd", "one"])
@pytest.mark.parametrize("b", [1, 3])
def test_small_towers_match_torch(rng, request, oracle, config, b, frames):
    assert_matches(rng, oracle, "cnn14/" + request.node.callspec.id, config, b, frames)


@pytest.mark.slow
@pytest.mark.parametrize("frames", [690, 1001], ids=["microsoft", "laion"])
def test_tower_of_full_size_matches_torch(rng, request, oracle, frames):
    config = CNN14 | {"mels": 64, "widths": list(Cnn14Config().widths)}
    assert_matches(rng, oracle, "cnn14/" + request.node.callspec.id, config, 2, frames)


def test_parameters_are_named_as_in_laions_state_dict():
    model = core.Model(CNN14, None, 0, 0, 0, 10)
    have = {n: (s, k) for n, s, k in model.parameters()}
    shapes = {f"bn0.{part}": (16,) for part in ("weight", "bias", "running_mean", "running_var")}
    for block, (c, n) in enumerate([(1, 4), (4, 6), (6, 10)], 1):
        for i, into in ((1, c), (2, n)):
            shapes[f"conv_block{block}.conv{i}.weight"] = (n, 3, 3, into)
            for part in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"conv_block{block}.bn{i}.{part}"] = (n,)
    shapes |= {"fc1.weight": (10, 10), "fc1.bias": (10,)}
    assert {n.removeprefix("audio_branch."): s for n, (s, _) in have.items() if "." in n} == shapes
    assert {n for n, (_, kind) in have.items() if kind == STATISTIC} == {
        n for n in have if "running" in n
    }


# ---- Independence ------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("head", [LINEAR, MLP, MS])
def test_embedding_does_not_depend_on_the_batch(rng, pack, head):
    model, _ = new_model(rng, ODD, heads=(head, MLP))
    if pack:
        model.pack()
    mel, context = decibels(rng, 9, 50, 13), core.Context(2)
    together = model.audio(context, mel)
    alone = np.concatenate([model.audio(context, m[None]) for m in mel])
    assert np.abs(together - alone).max() <= 1e-6
    others = np.concatenate([mel[:1], decibels(rng, 4, 50, 13)])
    assert np.abs(model.audio(context, others)[0] - together[0]).max() <= 1e-6


def test_embeddings_are_bitwise_equal_on_any_thread_count(rng):
    model, _ = new_model(rng, CNN14)
    mel = decibels(rng, 5)
    one, *more = (model.audio(core.Context(n), mel) for n in (1, 2, 3))
    for other in more:
        np.testing.assert_array_equal(one, other)


def test_one_context_serves_both_kinds_of_towers(rng):
    plain, _ = new_model(rng)
    model, _ = new_model(rng, CNN14)
    mel, context = decibels(rng, 2), core.Context(2)
    want = plain.audio(core.Context(1), mel), model.audio(core.Context(1), mel)
    for _ in range(2):
        np.testing.assert_array_equal(plain.audio(context, mel), want[0])
        np.testing.assert_array_equal(model.audio(context, mel), want[1])


# ---- Refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": []}, r"audio\.widths: expected 1 to 8, got 0"),
        ({"widths": [1] * 9}, r'"widths" has more than 8 entries'),
        ({"widths": [4, 0, 4]}, r"audio\.widths\[1\]: expected 1 to 8192, got 0"),
        ({"widths": [4, 8193]}, r"audio\.widths\[1\]: expected 1 to 8192, got 8193"),
        ({"mels": 3}, r"audio\.mels: 3 blocks need 4 to 1024, got 3"),
        ({"mels": 2000}, r"audio\.mels: 3 blocks need 4 to 1024, got 2000"),
        ({"kind": 9}, "unknown kind 9 of audio tower"),
        ({"dropout": 1.0}, r"dropout 1 and fc_dropout 0 must lie in \[0, 1\)"),
        ({"fc_dropout": float("nan")}, "must lie in"),
        ({"bn_momentum": 1.5}, r"audio\.bn_momentum: expected 0 to 1, got 1\.5"),
    ],
)
def test_sizes_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        core.Model(CNN14 | change, None, 24, MLP, MLP, 20)


@pytest.mark.parametrize("key", CNN14)
def test_a_missing_setting_is_named(key):
    config = {name: value for name, value in CNN14.items() if name != key}
    with pytest.raises(ValueError, match=f'"{key}" is missing'):
        core.Model(config, None, 24, MLP, MLP, 20)


def test_log_mels_that_do_not_fit_are_refused(rng):
    model, _ = new_model(rng, CNN14)
    context = core.Context(1)
    with pytest.raises(ValueError, match="mel: 3 frames, this audio tower takes 4 to 8192"):
        model.audio(context, decibels(rng, 1, 3))
    with pytest.raises(ValueError, match="mel: 8193 frames"):
        model.audio(context, np.zeros((1, 8193, 16), np.float32))
    with pytest.raises(ValueError, match=r"mel: expected shape \(\*, \*, 16\), got \(1, 50, 15\)"):
        model.audio(context, decibels(rng, 1, 50, 15))
    with pytest.raises(ValueError, match="longer: this audio tower has no fusion"):
        model.audio(context, decibels(rng, 1), longer=[True])
    assert model.audio(context, decibels(rng, 0)).shape == (0, 20)
    assert model.audio(context, decibels(rng, 1, 4)).shape == (1, 20)


# ---- Configurations ----------------------------------------------------------------------------


def test_configuration_tells_the_kinds_apart():
    config = ClapConfig(audio=Cnn14Config(widths=(8, 16)))
    data = config.to_json()
    training = {"dropout": 0.2, "fc_dropout": 0.5, "bn_momentum": 0.1}
    sizes = {"kind": "cnn14", "mels": 64, "widths": (8, 16), "eps": 1e-5}
    assert data["audio"] == sizes | training
    assert ClapConfig.from_json({"audio": sizes}) == config  # as folders had them before
    assert ClapConfig.from_json(data) == config
    htsat = ClapConfig()
    assert htsat.to_json()["audio"]["kind"] == "htsat"
    assert ClapConfig.from_json({"audio": {"embed": 96}}) == htsat
    for audio, message in (
        ({"kind": "resnet"}, r"model\.audio\.kind is 'resnet', expected one of htsat, cnn14"),
        ({"kind": ["cnn14"]}, r"model\.audio\.kind is \['cnn14'\]"),
        ({"kind": "cnn14", "embed": 96}, r"model\.audio: unknown embed; known are mels, widths"),
        ({"kind": "cnn14", "fc_dropout": 1.0}, r"model\.audio\.fc_dropout: expected"),
        (
            {"kind": "cnn14", "widths": [1.5]},
            r"model\.audio\.widths: expected a list of int from 1 to 8192",
        ),
        ([], r"model\.audio: expected a table of settings, got list"),
    ):
        with pytest.raises(FormatError, match=message):
            ClapConfig.from_json({"audio": audio})


def test_window_must_fit_the_tower():
    front = {"samples": 480 * 30, "rate": 48000}
    with pytest.raises(FormatError, match="31 frames, the audio tower takes 32 to 8192"):
        ClapConfig.from_json({"audio": {"kind": "cnn14"}, "front": front})
