"""The plain vision transformer, both ways, against PyTorch; and a step in three calls."""

from itertools import pairwise

import numpy as np
import pytest
import training
from folders import CONFIG
from models import MLP, STATISTIC, VIT, decibels, new_model, unit
from needs import kernels

import reclap
from reclap import cli
from reclap.config import VitConfig
from reclap.errors import FormatError
from reclap.runtime.libraries import core
from reclap.training import loop
from reclap.training.recipe import Recipe

UNIT = 2e-6  # between unit vectors of float32 towers

# Odd sizes: three channels, patches that leave bands and frames over, heads of 7.
ODD = VIT | {"mels": 23, "channels": 3, "patch_time": 3, "patch_mel": 5, "width": 21, "heads": 3}
ONE = VIT | {"depth": 1, "width": 5, "heads": 1, "mlp": 3, "patch_time": 1, "patch_mel": 16}
LONG = VIT | {"frames": 700, "patch_time": 1}  # 601 rows a clip: more than a chunk
CONFIGS = {
    "even": (VIT, 64),
    "shorter": (VIT, 33),
    "odd": (ODD, 41),
    "odd_mean": (ODD | {"pool": 1, "activation": 1, "eps": 0.01}, 3),
    "one": (ONE, 9),
    "long": (LONG, 150),
}
DROPS = {"drop_path": 0.4, "dropout": 0.3}


def log_mels(rng, config, b, frames):
    """Return what looks like log-mels, scaled as such towers want them."""
    several = (config["channels"],) if config["channels"] > 1 else ()
    return rng.standard_normal((b, *several, frames, config["mels"])).astype(np.float32)


def torch_values(values, mel, text=None):
    import torch

    p = {n: torch.tensor(x, dtype=torch.float64, requires_grad=True) for n, x in values.items()}
    x = torch.tensor(mel, dtype=torch.float64)
    more = None if text is None else torch.tensor(text, dtype=torch.float64)
    return p, x if x.ndim == 4 else x[:, None], more


def torch_features(config, values, mel):
    import torch_vit

    p, x, _ = torch_values(values, mel)
    return {
        "features": torch_vit.features(p, x, config).detach().numpy(),
        "tokens": torch_vit.tokens(p, x, config)[:, 1:].detach().numpy(),
    }


def autograd(config, values, mel, text, drop=None):
    import torch_vit

    p, x, more = torch_values(values, mel, text)
    value = torch_vit.loss(p, x, more, config, drop)
    value.backward()
    return {"loss": value.detach()} | {name: x.grad for name, x in p.items()}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("b", [1, 3])
def test_embeddings_match_torch(rng, oracle, name, b):
    config, frames = CONFIGS[name]
    model, values = new_model(rng, config, None, 0, (0, 0), config["width"])
    mel = log_mels(rng, config, b, frames)
    answer = oracle(f"vit/{name}_{b}", lambda: torch_features(config, values, mel))
    want = answer["features"]
    for pack in (False, True):
        if pack:
            model.pack()
        for threads in (1, 2, 3):
            got = model.audio(core.Context(threads), mel)
            assert np.abs(got - unit(want)).max() <= UNIT
        features = model.audio(core.Context(1), mel, features=True)
        np.testing.assert_allclose(features, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())
        tokens = model.tokens(core.Context(2), mel)
        assert tokens.shape == answer["tokens"].shape
        np.testing.assert_allclose(tokens, answer["tokens"], rtol=1e-4, atol=1e-4)


def test_a_tower_without_features_of_tokens_says_so(rng):
    model, _ = new_model(rng)
    with pytest.raises(ValueError, match="audio tower has no features of tokens"):
        model.tokens(core.Context(1), decibels(rng, 2))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_an_embedding_does_not_depend_on_threads_or_on_the_batch(rng, dtype):
    config = VIT | {"width": 256, "mlp": 1024, "heads": 4}  # large enough to share layers
    model, _ = new_model(rng, config)
    model.pack(dtype=dtype)
    mel = log_mels(rng, config, 40, 64)
    alone = [model.audio(core.Context(threads), mel[-1:]) for threads in (1, 2, 3)]
    together = [model.audio(core.Context(threads), mel) for threads in (1, 2, 3)]
    for parts in (alone, together):
        for a, b in pairwise(parts):
            np.testing.assert_array_equal(a, b)
    near = 1e-6 if dtype == "float32" else 1e-3  # rounding may flip
    assert np.abs(alone[0][0] - together[0][-1]).max() <= near


@pytest.mark.parametrize("drops", [{}, DROPS], ids=["plain", "draws"])
@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_match_autograd(rng, oracle, name, drops):
    config, frames = CONFIGS[name]
    config = config | drops
    model, values = new_model(rng, config)
    mel, text = log_mels(rng, config, 3, frames), rng.standard_normal((3, 24)).astype(np.float32)

    def answer():
        import torch_vit

        draws = torch_vit.CoreDraws(kernels, config, 5, 2)
        return autograd(config, values, mel, text, draws.branch if drops else None)

    want = oracle.sketch(f"vit/gradients_{name}_{'draws' if drops else 'plain'}", answer)
    found = []
    for threads in (1, 2):
        trainer = core.Trainer(new_model(np.random.default_rng(0), config)[0], threads)
        for x, y in zip(trainer.buffers(0), values.values(), strict=True):
            x[...] = y
        got = trainer.gradients(mel, text, 5, 2)
        assert want.distance("loss", got["loss"]) <= 1e-5
        found.append([x.copy() for x in trainer.buffers(1)])
    for (parameter, _, kind), one, two in zip(model.parameters(), *found, strict=True):
        np.testing.assert_array_equal(one, two)
        assert kind != STATISTIC
        assert want.distance(parameter, one) <= 1e-4, parameter


@pytest.mark.parametrize("drops", [{}, DROPS], ids=["plain", "draws"])
def test_gradient_is_the_slope_along_a_random_direction(rng, drops):
    config = ODD | drops
    model, _ = new_model(rng, config)
    mel, text = log_mels(rng, config, 4, 20), rng.standard_normal((4, 24)).astype(np.float32)
    trainer = core.Trainer(model, 1)
    trainer.gradients(mel, text, 9, 3)
    g = [x.astype(np.float64) for x in trainer.buffers(1)]
    along = [x * rng.uniform(0.2, 1.8, x.shape) for x in g]
    length = np.sqrt(sum((x**2).sum() for x in along))
    values, start = trainer.buffers(0), [x.copy() for x in trainer.buffers(0)]

    def loss_at(h):
        for x, x0, d in zip(values, start, along, strict=True):
            x[...] = x0 + h * d / length
        return trainer.gradients(mel, text, 9, 3)["loss"]

    slope = sum((x * y).sum() for x, y in zip(g, along, strict=True)) / length
    h = 3e-4
    assert (loss_at(h) - loss_at(-h)) / (2 * h) == pytest.approx(slope, rel=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_mel": 17}, "audio.patch_mel: expected 1 to 16, got 17"),
        ({"frames": 3}, "audio.frames: expected 4 to 65536, got 3"),
        ({"heads": 5}, "audio.heads: 5 does not divide the width 24"),
        ({"pool": 2}, "audio.pool: expected 0 to 1, got 2"),
        ({"channels": 0}, "audio.channels: expected 1 to 16, got 0"),
        ({"drop_path": 1.0}, "audio: drop_path 1 and dropout 0 must lie in"),
        ({"eps": 0.0}, "audio.eps"),
        ({"kind": 9}, "unknown kind 9 of audio tower"),
    ],
)
def test_settings_out_of_range_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        core.Model(VIT | change, None, 24, MLP, MLP, 20)


def test_log_mels_that_do_not_fit_are_refused(rng):
    model, _ = new_model(rng, ODD)
    context, trainer = core.Context(1), core.Trainer(model, 1)
    text = np.zeros((2, 24), np.float32)
    with pytest.raises(ValueError, match="mel"):
        model.audio(context, np.zeros((2, 20, 23), np.float32))  # no channels
    with pytest.raises(ValueError, match="mel: 2 frames, this audio tower takes 3 to 64"):
        model.audio(context, np.zeros((2, 3, 2, 23), np.float32))
    with pytest.raises(ValueError, match="1 clip of 3 to 64 frames, got 2 of 65"):
        trainer.gradients(np.zeros((2, 3, 65, 23), np.float32), text, 0, 0)


# ---- A step in three calls ---------------------------------------------------------------------


@pytest.fixture
def batch(rng):
    """Return a tower with draws, six clips and their texts."""
    config = ODD | DROPS
    model, _ = new_model(rng, config)
    return model, log_mels(rng, config, 6, 20), rng.standard_normal((6, 24)).astype(np.float32)


def test_three_calls_are_the_gradients_of_one(batch):
    model, mel, text = batch
    trainer = core.Trainer(model, 2)
    want = trainer.gradients(mel, text, 3, 4)
    whole = [x.copy() for x in trainer.buffers(1)]
    audio, captions = trainer.embed(mel, text, 3, 4)
    loss, daudio, dcaptions = trainer.loss(audio, captions)
    trainer.backward(daudio, dcaptions, mel, text, 3, 4)
    assert loss == want["loss"]
    for x, y in zip(trainer.buffers(1), whole, strict=True):
        np.testing.assert_array_equal(x, y)


def test_pieces_of_a_batch_have_the_draws_and_the_gradients_of_the_whole(batch):
    model, mel, text = batch
    trainer = core.Trainer(model, 1)
    want = trainer.gradients(mel, text, 3, 4)
    whole = [x.copy() for x in trainer.buffers(1)]
    pieces = [(0, 2), (2, 5), (5, 6)]
    parts = [trainer.embed(mel[a:b], text[a:b], 3, 4, clip=a) for a, b in pieces]
    other = trainer.embed(mel[2:5], text[2:5], 3, 4)  # as if the batch began there
    assert np.abs(other[0] - parts[1][0]).max() > 1e-3
    audio, captions = (np.concatenate(x) for x in zip(*parts, strict=True))
    loss, daudio, dcaptions = trainer.loss(audio, captions)
    assert loss == pytest.approx(want["loss"], rel=1e-6)
    for a, b in pieces:
        trainer.backward(daudio[a:b], dcaptions[a:b], mel[a:b], text[a:b], 3, 4, clip=a)
    for x, y in zip(trainer.buffers(1), whole, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5 * max(1e-3, np.abs(y).max()))


def test_update_takes_the_step(batch):
    model, mel, text = batch
    one, two = core.Trainer(model, 1), None
    values = [x.copy() for x in one.buffers(0)]
    want = one.step(mel, text, 3, 4, lr=1e-2, clip=0.5)
    stepped = [x.copy() for x in one.buffers(0)]
    del one
    two = core.Trainer(model, 1)
    for x, y in zip(two.buffers(0), values, strict=True):
        x[...] = y
    two.gradients(mel, text, 3, 4)
    got = two.update(4, lr=1e-2, clip=0.5)
    assert got == {name: want[name] for name in got}
    for x, y in zip(two.buffers(0), stepped, strict=True):
        np.testing.assert_array_equal(x, y)


def test_the_calls_of_a_step_have_an_order(batch):
    """Gradients are those of one whole step, and are taken once."""
    model, mel, text = batch
    trainer = core.Trainer(model, 1)
    needs = "update: needs the gradients of a step, from backward"
    with pytest.raises(ValueError, match=needs):
        trainer.update(0)
    audio, captions = trainer.embed(mel, text, 3, 4)
    with pytest.raises(ValueError, match="backward: the gradients of a step begin with loss"):
        trainer.backward(audio, captions, mel, text, 3, 4)
    _, daudio, dcaptions = trainer.loss(audio, captions)
    with pytest.raises(ValueError, match=needs):
        trainer.update(0)
    trainer.backward(daudio, dcaptions, mel, text, 3, 4)
    trainer.update(0)
    with pytest.raises(ValueError, match=needs):
        trainer.update(0)
    trainer.step(mel, text, 3, 4)
    with pytest.raises(ValueError, match=needs):
        trainer.update(1)


@pytest.mark.parametrize("name", ["gradients", "backward"])
def test_what_a_refused_call_left_is_never_taken(batch, name):
    model, mel, text = batch
    trainer = core.Trainer(model, 1)
    _, daudio, dcaptions = trainer.loss(*trainer.embed(mel, text, 3, 4))
    bad = np.zeros((6, 3, 65, 23), np.float32)  # too many frames
    given = (daudio, dcaptions) if name == "backward" else ()
    if given:  # half of a step is there
        trainer.backward(*given, mel, text, 3, 4)
    with pytest.raises(ValueError, match="mel: expected"):
        getattr(trainer, name)(*given, bad, text, 3, 4)
    with pytest.raises(ValueError, match="update: needs the gradients of a step"):
        trainer.update(0)


def test_update_refuses_gradients_that_are_not_finite(batch):
    model, mel, text = batch
    trainer = core.Trainer(model, 1)
    trainer.gradients(mel, text, 3, 4)
    trainer.buffers(1)[0][0] = np.nan
    before = [x.copy() for x in trainer.buffers(0)]
    with pytest.raises(ValueError, match="step 4: the gradient norm nan is not finite; no update"):
        trainer.update(4)
    for x, y in zip(trainer.buffers(0), before, strict=True):
        np.testing.assert_array_equal(x, y)


def test_calls_of_a_step_refuse_what_does_not_fit(batch):
    model, mel, text = batch
    trainer = core.Trainer(model, 1)
    unit_rows = np.ones((6, 20), np.float32)
    with pytest.raises(ValueError, match="text"):
        trainer.loss(unit_rows, unit_rows[:5])
    with pytest.raises(ValueError, match="the batch is empty"):
        trainer.loss(unit_rows[:0], unit_rows[:0])
    with pytest.raises(ValueError, match="audio"):
        trainer.backward(unit_rows[:5], unit_rows[:5], mel, text, 3, 4)
    with pytest.raises(ValueError, match="clip: expected 0 to 16777216, got -1"):
        trainer.embed(mel, text, 3, 4, clip=-1)


# ---- From Python -------------------------------------------------------------------------------


def test_a_recipe_trains_it(tmp_path, small_folder):
    """Two runs give the same model, which loads, names sounds, and is another than at its start."""
    tower = {"kind": "vit", "mels": CONFIG["front"]["mels"], "patch_time": 5, "patch_mel": 4}
    tower |= {"frames": 200, "width": 24, "depth": 2, "heads": 2, "mlp": 48, "drop_path": 0.1}
    sections = training.settings(training.write_set(tmp_path / "sounds"), small_folder)
    sections["model"] = sections["model"] | {"audio": tower}
    recipe = Recipe.from_mapping(sections)
    for name in ("one", "two"):
        loop.train(recipe, tmp_path / name)
    losses = [row["loss"] for row in training.read_log(tmp_path / "one") if "loss" in row]
    assert losses[-1] < losses[0]
    assert training.read_run(tmp_path / "one") == training.read_run(tmp_path / "two")
    model = reclap.load(tmp_path / "one" / "last")
    assert model.config.audio == VitConfig(**{k: v for k, v in tower.items() if k != "kind"})
    sounds = sorted((tmp_path / "sounds").glob("*.wav"))
    rows = model.embed_audio(sounds)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    model.save(tmp_path / "saved")
    again = reclap.load(tmp_path / "saved")
    assert again.info()["digest"] == model.info()["digest"]
    np.testing.assert_array_equal(again.embed_audio(sounds), rows)


def test_a_run_begins_with_it(tmp_path, small_folder, capsys):
    """As ``from``, as ``audio_from``, and shown by ``info``; other sizes and kinds are refused."""
    tower = {"kind": "vit", "mels": CONFIG["front"]["mels"], "patch_time": 5, "patch_mel": 4}
    tower |= {"frames": 200, "width": 24, "depth": 1, "heads": 2, "mlp": 48}
    sections = training.settings(training.write_set(tmp_path / "sounds"), small_folder)
    sections["run"] = sections["run"] | {"steps": 1}
    sections["model"] = sections["model"] | {"audio": tower}
    loop.train(Recipe.from_mapping(sections), tmp_path / "one")
    first = str(tmp_path / "one" / "last")
    assert cli.main(["info", first]) == 0
    assert "ViT 24 x 1" in capsys.readouterr().out
    towers = []
    for name, model in (
        ("from", {"from": first}),
        ("audio_from", sections["model"] | {"audio_from": first}),
    ):
        changed = sections | {"model": model, "optim": {"lr": 1e-9}}
        loop.train(Recipe.from_mapping(changed), tmp_path / name)
        towers.append(reclap.load(tmp_path / name / "last").config.audio)
    assert towers == [VitConfig(**{k: v for k, v in tower.items() if k != "kind"})] * 2
    other = sections["model"] | {"audio_from": first, "audio": tower | {"width": 48}}
    with pytest.raises(FormatError, match="width is 24, the tower in training has 48"):
        loop.train(Recipe.from_mapping(sections | {"model": other}), tmp_path / "other")
    kind = {"from": first, "audio": {"kind": "htsat"}}
    with pytest.raises(
        FormatError, match=r"model.audio.kind is 'htsat', the audio tower of .* is vit"
    ):
        loop.train(Recipe.from_mapping(sections | {"model": kind}), tmp_path / "kind")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch_mel": 65}, "patch_mel is 65, mels is 64"),
        ({"patch_time": 20, "frames": 10}, "patch_time is 20, frames is 10"),
        ({"width": 100}, "heads is 12, which does not divide width 100"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        VitConfig(**settings)


def test_the_core_has_the_settings_and_the_bounds_of_the_configuration():
    config = VitConfig(mels=20, frames=100, patch_time=7, patch_mel=3, width=12, heads=3, mlp=5)
    model = core.Model(config.to_core(), None, 0, 0, 0, 12)
    shapes = {name: shape for name, shape, _ in model.parameters()}
    assert shapes["audio_branch.pos_embed"] == (1 + 14 * 6, 12)
    assert shapes["audio_branch.patch_embed.proj.weight"] == (12, 1, 7, 3)
    assert config.least_frames == 7
