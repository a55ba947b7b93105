"""Low-rank adapters in the core: gradients, embeddings and steps of the merged weights."""

import numpy as np
import pytest
from closeness import assert_close, f32
from models import AUDIO, CNN14, LINEAR, MLP, MS, VIT, decibels, draw_parameter
from needs import kernels, needs
from test_text_gradients import TINY
from test_text_towers import KINDS_OF_TOWERS, LENGTHS, texts

import reclap
from reclap.runtime.libraries import core

SIZES = [(1, 1, 1), (7, 5, 3), (65, 96, 97), (200, 130, 17), (129, 7, 288)]


# ---- One layer ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 4, 7])
@pytest.mark.parametrize(("n", "k", "out"), SIZES)
def test_layer_matches_formula(rng, n, k, out, rank):
    x, w, a, b = f32(rng, n, k), f32(rng, out, k), f32(rng, rank, k), f32(rng, out, rank)
    dy, scale = f32(rng, n, out), 1.5
    y, dx, da, db = kernels.adapter(x, w, a, b, scale, dy, 2, 48)
    x64, w64, a64, b64, dy64 = (v.astype(np.float64) for v in (x, w, a, b, dy))
    size = 4 * np.sqrt(max(rank, 2)) * np.sqrt(k)
    assert_close(y, x64 @ w64.T + scale * x64 @ a64.T @ b64.T, terms=k, magnitude=size)
    size = 4 * np.sqrt(max(rank, 2)) * np.sqrt(out)
    assert_close(dx, dy64 @ w64 + scale * dy64 @ b64 @ a64, terms=out, magnitude=size)
    assert_close(da, scale * (dy64 @ b64).T @ x64, terms=n + out)
    assert_close(db, scale * dy64.T @ (x64 @ a64.T), terms=n + k)


def test_layer_is_bitwise_equal_on_any_number_of_threads(rng):
    x, w, a, b = f32(rng, 300, 130), f32(rng, 97, 130), f32(rng, 5, 130), f32(rng, 97, 5)
    dy = f32(rng, 300, 97)
    one = kernels.adapter(x, w, a, b, 0.5, dy, 1, 48)
    for threads in (2, 3):
        for u, v in zip(one, kernels.adapter(x, w, a, b, 0.5, dy, threads, 48), strict=True):
            np.testing.assert_array_equal(u, v)


@pytest.mark.parametrize("place", ["x", "a", "b", "dy"])
def test_nan_passes_through(rng, place):
    given = {"x": f32(rng, 9, 6), "w": f32(rng, 5, 6), "a": f32(rng, 2, 6), "b": f32(rng, 5, 2)}
    dy = f32(rng, 9, 5)
    (given | {"dy": dy})[place][0, 0] = np.nan
    y, dx, da, db = kernels.adapter(*given.values(), 1.0, dy)
    reached = {"x": (y, da, db), "a": (y, dx, db), "b": (y, dx, da), "dy": (dx, da, db)}
    assert all(np.isnan(x).any() for x in reached[place])


# ---- A model -----------------------------------------------------------------------------------

CASES = {
    "htsat": (AUDIO, None, (MLP, MLP)),
    "htsat_ms_heads": (AUDIO, None, (MS, MS)),
    "vit": (VIT, None, (MLP, MLP)),
    "cnn14": (CNN14, None, (MLP, LINEAR)),
}


def adapted(rng, config, text, heads, rank=3, alpha=6.0, places=core.Model.linear, dim=20):
    """Return a model with adapters, its values by name, and the scale of each adapted weight."""
    width = text["width"] if text else 24
    model = core.Model(config, text, width, *heads, dim)
    scales = {}
    for place in places(model):
        name, shape, _ = model.parameters()[place]
        r = min(rank, *shape)
        model.adapt(place, r, alpha)
        scales[name] = alpha / r
    values = {name: draw_parameter(rng, name, shape) for name, shape, _ in model.parameters()}
    model.bind(list(values.values()))
    return model, values, scales


def stem(name):
    return name.removesuffix(".weight")


def merged(values, scales):
    """Return the values of the model without adapters, in float64 until the last."""
    found = {n: np.float64(x) for n, x in values.items() if ".lora_" not in n}
    for name, scale in scales.items():
        a, b = (np.float64(values[f"{stem(name)}.lora_{k}.weight"]) for k in "AB")
        found[name] = found[name] + scale * b @ a
    return {name: np.asarray(x, np.float32) for name, x in found.items()}


def rates_of(model):
    return np.array([".lora_" in name for name, _, _ in model.parameters()], np.float32)


def batch(rng, frames=60, b=3):
    return decibels(rng, b, frames), rng.standard_normal((b, 24)).astype(np.float32)


def whole(config, heads, values):
    model = core.Model(config, None, 24, *heads, 20)
    model.bind(list(values.values()))
    return model


def assert_of_merged(gradients, of_weights, values, scales):
    """Compare with what the chain rule makes of the gradients of merged weights."""
    largest = max(float(np.abs(of_weights[name]).max()) for name in scales)
    assert largest > 0
    for name, scale in scales.items():
        dw = np.float64(of_weights[name])
        a, b = (np.float64(values[f"{stem(name)}.lora_{k}.weight"]) for k in "AB")
        for kind, expected in (("A", scale * b.T @ dw), ("B", scale * dw @ a.T)):
            found = gradients[f"{stem(name)}.lora_{kind}.weight"]
            size = np.abs(expected).max()
            assert np.abs(found - expected).max() <= 1e-3 * size + 1e-6 * largest, name


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_the_merged_weights(rng, case, threads):
    config, text, heads = CASES[case]
    model, values, scales = adapted(rng, config, text, heads)
    given = batch(rng)
    trainer = core.Trainer(model, threads, rates_of(model))
    names = [n for n, _, _ in model.parameters()]
    got = trainer.gradients(*given, 0, 0)
    gradients = dict(zip(names, trainer.buffers(1), strict=True))

    other = whole(config, heads, merged(values, scales))
    rates = np.array([kind != 2 for _, _, kind in other.parameters()], np.float32)
    reference = core.Trainer(other, threads, rates)
    want = reference.gradients(*given, 0, 0)
    of_weights = dict(zip([n for n, _, _ in other.parameters()], reference.buffers(1), strict=True))
    assert got["loss"] == pytest.approx(want["loss"], rel=1e-5)
    assert_of_merged(gradients, of_weights, values, scales)


@pytest.mark.parametrize("case", CASES)
def test_embeddings_are_those_of_the_merged_model(rng, case):
    config, text, heads = CASES[case]
    model, values, scales = adapted(rng, config, text, heads)
    mel, features = batch(rng)
    other = whole(config, heads, merged(values, scales))
    context = core.Context(2)
    for got, want in (
        (model.audio(context, mel), other.audio(context, mel)),
        (model.text_head(context, features), other.text_head(context, features)),
        (core.Trainer(model, 2, rates_of(model)).embed(mel, features, 1, 1)[0],
         other.audio(context, mel)),
    ):  # fmt: skip
        np.testing.assert_allclose(got, want, atol=1e-5)


def text_weights(model):
    """Return the places of linear weights of the text tower."""
    names = [name for name, _, _ in model.parameters()]
    return [i for i in model.linear() if names[i].startswith("text_branch.")]


@pytest.mark.parametrize("name", ["roberta", "t5", "bert", "gpt2", "clip"])
def test_text_tower_learns_and_embeds_as_the_merged_one(rng, name):
    kind = KINDS_OF_TOWERS[name]
    text, width = kind.config.to_core(), kind.config.width
    model, values, scales = adapted(rng, TINY, text, (LINEAR, 0), places=text_weights, dim=width)
    other = core.Model(TINY, text, width, LINEAR, 0, width)
    other.bind(list(merged(values, scales).values()))
    _, packed, first = texts(rng, kind, LENGTHS)
    context, n = core.Context(2), len(LENGTHS)
    want = other.text(context, packed, first)
    np.testing.assert_allclose(model.text(context, packed, first), want, atol=1e-5)

    mel, dtext = decibels(rng, n, 40), f32(rng, n, width)
    found = []
    for each, rates in ((model, rates_of(model)), (other, None)):
        trainer = core.Trainer(each, 2, rates)
        trainer.loss(*trainer.embed(mel, (packed, first), 0, 0))
        trainer.backward(np.zeros_like(dtext), dtext, mel, (packed, first), 0, 0)
        names = [n for n, _, _ in each.parameters()]
        found.append(dict(zip(names, trainer.buffers(1), strict=True)))
    assert_of_merged(*found, values, scales)


def test_only_adapters_change_in_steps(rng):
    draws = AUDIO | {"drop_path": 0.2, "dropout": 0.1, "time_stripes": 1, "time_width": 9}
    model, values, _ = adapted(rng, draws, None, (MLP, MLP))
    trainer = core.Trainer(model, 2, rates_of(model))
    for step in range(3):
        trainer.step(*batch(rng), 0, step, lr=0.1, weight_decay=0.1, clip=1.0)
    for (name, _, _), now in zip(model.parameters(), trainer.buffers(0), strict=True):
        assert np.array_equal(now, np.float32(values[name])) != (".lora_" in name), name


def test_steps_are_bitwise_equal_on_any_number_of_threads(rng):
    found = []
    for threads in (1, 2, 3):
        g = np.random.default_rng(4)
        model, _, _ = adapted(g, AUDIO, None, (MLP, MLP))
        trainer = core.Trainer(model, threads, rates_of(model))
        for step in range(2):
            trainer.step(*batch(g, 250), 0, step, lr=0.01)
        found.append([x.copy() for x in trainer.buffers(0)])
    for other in found[1:]:
        for x, y in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(x, y)


def torch_steps(model, values, scales, batches, lr):
    """Return losses and values of ten steps of PyTorch's AdamW in float64 on the adapters."""
    torch = needs("torch", "oracle")
    import torch_htsat

    p = {n: torch.from_numpy(np.asarray(x, np.float64)) for n, x in values.items()}
    learns = [n for n in p if ".lora_" in n]
    for name in learns:
        p[name].requires_grad_(True)
    optimizer = torch.optim.AdamW([p[n] for n in learns], lr=lr, eps=1e-6, weight_decay=0.1)
    losses = []
    for mel, text in batches:
        q = {n: x for n, x in p.items() if ".lora_" not in n}
        for name, scale in scales.items():
            at = stem(name)
            q[name] = p[name] + scale * p[f"{at}.lora_B.weight"] @ p[f"{at}.lora_A.weight"]
        mel, text = (torch.from_numpy(x.astype(np.float64)) for x in (mel, text))
        audio = torch_htsat.head(q, "audio_projection", torch_htsat.features(q, mel, AUDIO), MLP)
        logits = (
            q["logit_scale"].exp() * audio @ torch_htsat.head(q, "text_projection", text, MLP).T
        )
        target = torch.arange(len(audio))
        entropy = torch.nn.functional.cross_entropy
        loss = (entropy(logits, target) + entropy(logits.T, target)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, {n: p[n].detach().numpy() for n in learns}


def test_ten_steps_follow_torch(rng):
    model, values, scales = adapted(rng, AUDIO, None, (MLP, MLP))
    batches = [batch(rng, 250, 6) for _ in range(10)]
    losses, want = torch_steps(model, values, scales, batches, 1e-3)
    trainer = core.Trainer(model, 2, rates_of(model))
    for step, given in enumerate(batches):
        got = trainer.step(*given, 0, step, lr=1e-3, eps=1e-6, weight_decay=0.1)
        assert got["loss"] == pytest.approx(losses[step], rel=1e-3)
    names = [n for n, _, _ in model.parameters()]
    for name, x in zip(names, trainer.buffers(0), strict=True):
        if name in want:
            assert np.abs(x - want[name]).max() <= 1e-4, name


def test_linear_weights_are_those_of_products():
    model = core.Model(AUDIO, None, 24, MLP, MLP, 20)
    shapes = [(n, s) for n, s, _ in model.parameters()]
    assert [shapes[i] for i in model.linear()] == [
        (n, s) for n, s in shapes if len(s) == 2 and n.endswith("weight")
    ]


def test_wrong_adapters_are_named():
    model = core.Model(AUDIO, None, 24, MLP, MLP, 20)
    names = [n for n, _, _ in model.parameters()]
    weight = names.index("audio_branch.layers.0.blocks.0.attn.qkv.weight")
    for place, rank, alpha, message in (
        (weight, 0, 1.0, r"attn.qkv.weight: rank: expected 1 to 12, got 0"),
        (weight, 13, 1.0, "rank: expected 1 to 12, got 13"),
        (weight, 4, 0.0, "alpha: expected above 0, to 1e6, got 0"),
        (weight, 4, np.nan, "alpha: expected above 0, to 1e6, got"),
        (names.index("logit_scale"), 1, 1.0, "logit_scale is not the weight of a linear layer"),
        (names.index("audio_branch.patch_embed.proj.weight"), 1, 1.0, "not the weight of a linear"),
        (len(names), 1, 1.0, "adapter: place: expected 0 to"),
        (-1, 1, 1.0, "adapter: place: expected 0 to"),
    ):
        with pytest.raises(ValueError, match=message):
            model.adapt(place, rank, alpha)
    assert [n for n, _, _ in model.parameters()] == names
    model.adapt(weight, 4, 8.0)
    with pytest.raises(ValueError, match=r"qkv\.weight has one already"):
        model.adapt(weight, 4, 8.0)
    assert [(n, s) for n, s, _ in model.parameters()][-2:] == [
        ("audio_branch.layers.0.blocks.0.attn.qkv.lora_A.weight", (4, 12)),
        ("audio_branch.layers.0.blocks.0.attn.qkv.lora_B.weight", (36, 4)),
    ]
    model.bind([np.zeros(s, np.float32) for _, s, _ in model.parameters()])
    with pytest.raises(ValueError, match="has its parameters already"):
        model.adapt(names.index("audio_projection.0.weight"), 4, 8.0)
    with pytest.raises(ValueError, match="has adapters, which are merged first"):
        model.pack()


@pytest.mark.parametrize("case", CASES)
def test_products_in_bfloat16_are_those_of_float32_rounded(rng, case):
    config, text, heads = CASES[case]
    found = []
    for dtype in ("float32", "bfloat16"):
        g = np.random.default_rng(8)
        model, _, _ = adapted(g, config, text, heads)
        try:
            trainer = core.Trainer(model, 2, rates_of(model), dtype=dtype)
        except reclap.BackendError as error:
            pytest.skip(str(error))
        trainer.gradients(*batch(g), 0, 0)
        found.append(np.concatenate([x.ravel() for x in trainer.buffers(1) if x is not None]))
    a, b = found
    assert 0 < np.linalg.norm(a - b) < 0.05 * np.linalg.norm(a)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_frozen_adapters_count(rng, dtype):
    """All of the tower is frozen, with its adapters, and runs as at inference."""
    model, values, scales = adapted(rng, AUDIO, None, (MLP, MLP))
    names = [name for name, _, _ in model.parameters()]
    rates = np.array([name == "logit_scale" for name in names], np.float32)
    mel, text = batch(rng)
    want = whole(AUDIO, (MLP, MLP), merged(values, scales)).audio(core.Context(1), mel)
    try:
        trainer = core.Trainer(model, 2, rates, dtype=dtype)
    except reclap.BackendError as error:
        pytest.skip(str(error))
    np.testing.assert_allclose(trainer.embed(mel, text, 0, 0)[0], want, atol=1e-5)
