"""Both towers, their gradients and training steps against independent implementations."""

import threading
import weakref
from itertools import pairwise

import numpy as np
import pytest
from closeness import EPSILON
from models import (
    AUDIO,
    LINEAR,
    MLP,
    MS,
    STATISTIC,
    TEXT,
    WEIGHT,
    decibels,
    new_model,
    unit,
)
from needs import kernels

from reclap.errors import BackendError, FormatError
from reclap.runtime.libraries import core

# Between unit vectors of float32 towers; ten times what was measured (2.4e-7), far below what two
# clips of a random model are apart (2e-3).
UNIT = 2e-6

# ---- The audio tower at inference --------------------------------------------------------------

TINY = AUDIO | {"mels": 64, "spec_size": 256, "window": 8, "embed": 96, "depths": [2, 2, 6, 2]}
TINY["heads"] = [4, 8, 16, 32]
BASE = TINY | {"embed": 128, "depths": [2, 2, 12, 2]}

RENAMES = (  # LAION to transformers, in this order (convert_clap_original_pytorch_to_hf.py)
    ("audio_branch", "audio_model.audio_encoder"),
    ("attn", "attention.self"),
    ("self.proj", "output.dense"),
    ("mlp.fc1", "intermediate.dense"),
    ("mlp.fc2", "output.dense"),
    ("norm1", "layernorm_before"),
    ("norm2", "layernorm_after"),
    ("bn0", "batch_norm"),
    ("_projection.0.", "_projection.linear1."),
    ("_projection.2.", "_projection.linear2."),
)


def hf_names(name):
    """Return where transformers keeps a parameter; q, k and v one by one."""
    for ours, theirs in RENAMES:
        name = name.replace(ours, theirs)
    return (
        [name.replace("qkv", part) for part in ("query", "key", "value")]
        if "qkv" in name
        else [name]
    )


ACTS = ("gelu", "gelu_new", "relu", "quick_gelu")  # in the order of the core

# Options of transformers' tower: a fractional ratio is rounded down in every stage, eps is that of
# the blocks alone, and large enough to show.
OPTIONS = {
    "gelu_tanh": {"activation": 1},
    "relu": {"activation": 2},
    "quick_gelu": {"activation": 3},
    "no_qkv_bias": {"qkv_bias": False},
    "no_patch_norm": {"patch_norm": False},
    "block_eps": {"block_eps": 0.1},
    "fractional_mlp": {"mlp_ratio": 1.3},
    "narrow_mlp": {"mlp_ratio": 0.3},
}
ALL_OPTIONS = {
    "activation": 2,
    "qkv_bias": False,
    "patch_norm": False,
    "block_eps": 0.01,
    "mlp_ratio": 2.6,
    "fusion_ratio": 5,
}
SHORT = AUDIO | {"depths": [2, 1], "heads": [2, 3]}


def hf_audio(config, values):
    """Return transformers' tower with these weights."""
    import torch
    import transformers

    stages = len(config["depths"])
    tower = transformers.ClapAudioModelWithProjection(
        transformers.ClapAudioConfig(
            window_size=config["window"],
            num_mel_bins=config["mels"],
            spec_size=config["spec_size"],
            patch_size=config["patch"],
            patch_stride=[config["patch"]] * 2,
            patch_embeds_hidden_size=config["embed"],
            enable_fusion=config["fusion"],
            hidden_size=config["embed"] << (stages - 1),
            depths=config["depths"],
            num_attention_heads=config["heads"],
            num_hidden_layers=stages,
            projection_dim=512,
            mlp_ratio=float(config["mlp_ratio"]),
            hidden_act=ACTS[config["activation"]],
            qkv_bias=config["qkv_bias"],
            enable_patch_layer_norm=config["patch_norm"],
            aff_block_r=config["fusion_ratio"],
            layer_norm_eps=config["block_eps"],
        )
    ).eval()
    state = tower.state_dict()
    for name, x in values.items():
        names = [n for n in hf_names(name) if n in state]  # not those of the text side
        for theirs, part in zip(names, np.split(x, len(names)) if names else (), strict=True):
            state[theirs].copy_(torch.from_numpy(part.reshape(state[theirs].shape)))
    return tower


def hf_embeddings(config, values, mel, longer=None):
    """Return the unit embeddings of that tower."""
    import torch

    more = {} if longer is None else {"is_longer": torch.from_numpy(longer)[:, None]}
    x = torch.from_numpy(mel)
    with torch.no_grad():
        out = hf_audio(config, values)(x[:, None] if longer is None else x, **more)
    return unit(out.audio_embeds.numpy())


@pytest.mark.parametrize(
    ("config", "frames", "b"),
    [
        (AUDIO, 256, 3),
        (AUDIO, 250, 1),
        (AUDIO | {"depths": [1, 3], "heads": [3, 2], "window": 8}, 31, 2),
        *[(SHORT | option, 77, 3) for option in OPTIONS.values()],
        (AUDIO | ALL_OPTIONS, 77, 3),
        pytest.param(TINY, 1001, 2, marks=pytest.mark.slow),
        pytest.param(BASE, 1001, 2, marks=pytest.mark.slow),
    ],
    ids=["small", "stretched", "two_stages", *OPTIONS, "all_options", "tiny", "base"],
)
def test_audio_tower_matches_transformers(rng, request, oracle, config, frames, b):
    model, values = new_model(rng, config, None, 512, (MLP, 0), 512)
    mel = decibels(rng, b, frames, config["mels"])
    name = "audio_tower/" + request.node.callspec.id
    want = oracle(name, lambda: {"rows": hf_embeddings(config, values, mel)})["rows"]
    context = core.Context(2)
    plain = model.audio(context, mel)
    model.pack()
    packed = model.audio(context, mel)
    assert np.abs(plain - want).max() <= UNIT
    assert np.abs(packed - want).max() <= UNIT
    assert context.stats()["slow"] == 0


def doubles(values):
    import torch

    return {k: torch.from_numpy(np.asarray(v, np.float64)) for k, v in values.items()}


def formula(values, mel, config):
    """Return features and unit embeddings in float64."""
    import torch_htsat

    p = doubles(values | {"mel": mel})
    x = torch_htsat.features(p, p["mel"], config)
    return {"features": x, "rows": torch_htsat.head(p, "audio_projection", x, MLP)}


@pytest.mark.parametrize(
    "config",
    [
        AUDIO,
        AUDIO | {"depths": [1, 1], "heads": [2, 3]},
        AUDIO | {"patch": 2},
        AUDIO | {"patch": 16},
    ],
    ids=["small", "two_stages", "patch", "last_stage_of_one_token"],
)
def test_audio_tower_matches_its_formula_in_float64(rng, request, oracle, config):
    model, values = new_model(rng, config)
    mel = decibels(rng, 2)
    name = "audio_formula/" + request.node.callspec.id
    want = oracle(name, lambda: formula(values, mel, config))
    got = model.audio(core.Context(1), mel, features=True)
    assert np.abs(got - want["features"]).max() <= UNIT * np.abs(want["features"]).max()
    assert np.abs(model.audio(core.Context(1), mel) - want["rows"]).max() <= UNIT


def pack(model, dtype):
    try:
        model.pack(dtype=dtype)
    except BackendError as error:
        pytest.skip(str(error))  # a processor without such products


# Three to five times what was measured.
FAR = {"float32x6": UNIT, "float32x3": 1e-5, "bfloat16x1": 0.01, "bfloat16": 0.01, "int8": 0.03}


@pytest.mark.parametrize("dtype", FAR)
@pytest.mark.parametrize(
    "sizes",
    [
        {"embed": 12},
        {"depths": [1, 3], "heads": [3, 2], "window": 8},
        {"embed": 96, "depths": [1, 1], "heads": [2, 3]},  # sums that visit y more than once
        {"mlp_ratio": 0.3, "qkv_bias": False, "activation": 2},
        {"embed": 96, "depths": [1, 1], "heads": [2, 3], "mlp_ratio": 3.21, "activation": 3},
    ],
    ids=["odd", "windows_of_64", "wide", "narrow_mlp", "odd_mlp"],
)
def test_what_feeds_a_product_writes_its_form(rng, sizes, dtype):
    config = AUDIO | sizes
    model, _ = new_model(rng, config)
    mel = decibels(rng, 3)
    exact = model.audio(core.Context(1), mel)
    pack(model, dtype)
    for threads in (1, 2):
        got = model.audio(core.Context(threads), mel)
        assert np.abs(got - exact).max() <= FAR[dtype]
    np.testing.assert_array_equal(model.audio(core.Context(1), mel), got)


# ---- Heads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [0, LINEAR, MLP, MS])
@pytest.mark.parametrize("n", [1, 5, 65])
def test_heads_match_their_formula_in_float64(rng, oracle, kind, n):
    model, values = new_model(rng, None, TEXT, 48, (MLP, kind), 48)
    x = rng.standard_normal((n, 48)).astype(np.float32)

    def head():
        import torch_htsat

        p = doubles(values | {"x": x})
        return {"rows": torch_htsat.head(p, "text_projection", p["x"], kind)}

    want = oracle(f"head/{kind}_{n}", head)["rows"]
    assert np.abs(model.text_head(core.Context(2), x) - want).max() <= UNIT
    model.pack()
    assert np.abs(model.text_head(core.Context(1), x) - want).max() <= UNIT


# ---- Independence ------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [False, True], ids=["plain", "packed"])
def test_audio_embedding_does_not_depend_on_the_batch(rng, pack):
    model, _ = new_model(rng)
    if pack:
        model.pack()
    mel = decibels(rng, 7)
    context = core.Context(2)
    together = model.audio(context, mel)
    alone = np.concatenate([model.audio(context, m[None]) for m in mel])
    assert np.abs(together - alone).max() <= 1e-6
    others = np.concatenate([mel[:1], decibels(rng, 6)])
    assert np.abs(model.audio(context, others)[0] - together[0]).max() <= 1e-6


def test_text_embedding_does_not_depend_on_the_batch(rng):
    model, _ = new_model(rng, None, TEXT, 48)
    lengths = rng.integers(1, 78, 23)
    ids, first = rng.integers(0, 101, lengths.sum()), np.cumsum([0, *lengths])
    context = core.Context(2)
    together = model.text(context, ids, first)
    for i, (a, b) in enumerate(pairwise(first)):
        alone = model.text(context, ids[a:b], [0, b - a])[0]
        assert np.abs(together[i] - alone).max() <= 1e-6


@pytest.mark.parametrize("b", [1, 2, 7])
def test_embeddings_are_bitwise_equal_on_any_thread_count(rng, b):
    model, _ = new_model(rng, text=TEXT, text_width=48)
    mel, ids = decibels(rng, b), rng.integers(0, 101, 20 * b)
    first = np.arange(0, 20 * b + 1, 20)
    x = rng.standard_normal((b, 48))
    one, *more = (
        (model.audio(c, mel), model.text(c, ids, first), model.text_head(c, x))
        for c in map(core.Context, (1, 2, 3))
    )
    for other in more:
        for ours, theirs in zip(one, other, strict=True):
            np.testing.assert_array_equal(ours, theirs)


WIDE_AUDIO = AUDIO | {"embed": 64, "heads": [2, 4, 8]}
WIDE_TEXT = TEXT | {"width": 256, "heads": 4, "mlp": 1024}
WIDE_T5 = WIDE_TEXT | {
    "pool": 4,
    "pad_to": 40,
    "place": 1,
    "gated": True,
    "norm": 1,
    "biases": False,
}
NARROW_HEADS = WIDE_T5 | {"head_width": 10}  # 40 queries are no whole number of steps


@pytest.mark.parametrize("text", [WIDE_TEXT, WIDE_T5, NARROW_HEADS], ids=["bert", "t5", "narrow"])
@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16", "int8", "bfloat16x1"])
def test_one_of_many_is_what_it_is_alone_when_threads_share_its_layers(rng, text, dtype):
    """Layers of 256 x 1024 are shared up to 512 rows, so alone and not among fifty."""
    model, _ = new_model(rng, WIDE_AUDIO, text, 256)
    try:
        if dtype:
            model.pack(dtype=dtype)
    except BackendError as error:
        pytest.skip(str(error))  # a processor without such products
    mel, ids = decibels(rng, 33), rng.integers(0, 101, 50 * 11)
    audio = model.audio(core.Context(2), mel)
    texts = model.text(core.Context(2), ids, np.arange(0, 50 * 11 + 1, 11))
    near = 1e-3 if dtype in ("bfloat16", "int8", "bfloat16x1") else 1e-6  # rounding may flip
    contexts = [core.Context(threads) for threads in (1, 2, 3)]
    alone = [(model.audio(c, mel[-1:]), model.text(c, ids[-11:], [0, 11])) for c in contexts]
    for found in alone:
        for a, same, together in zip(found, alone[0], (audio, texts), strict=True):
            np.testing.assert_array_equal(a, same)
            assert np.abs(a[0] - together[-1]).max() <= near
    assert [c.stats()["slow"] for c in contexts] == [0, 0, 0]


def test_a_context_serves_models_of_any_size_in_turn(rng):
    small, _ = new_model(rng)
    large, _ = new_model(rng, AUDIO | {"embed": 24, "heads": [2, 2, 2]}, dim=40)
    mel, context = decibels(rng, 3), core.Context(2)
    want = small.audio(core.Context(2), mel), large.audio(core.Context(2), mel)
    for _ in range(3):
        np.testing.assert_array_equal(small.audio(context, mel), want[0])
        np.testing.assert_array_equal(large.audio(context, mel), want[1])


def test_one_model_serves_many_threads(rng):
    model, _ = new_model(rng)
    model.pack()
    mel = decibels(rng, 2)
    want = model.audio(core.Context(1), mel)
    got = [None] * 4

    def work(i):
        context = core.Context(1)
        got[i] = [model.audio(context, mel) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for results in got:
        for y in results:
            np.testing.assert_array_equal(y, want)


# ---- Gradients ---------------------------------------------------------------------------------

INACTIVE = AUDIO | {
    "window": 16
}  # a window as large as the grid: nothing is shifted, nothing masked
ONE_STAGE = AUDIO | {"depths": [3], "heads": [3]}


def torch_parameters(model, values):
    p = doubles(values)
    for name, _, kind in model.parameters():
        p[name].requires_grad_(kind != STATISTIC)
    return p


def autograd(p, mel, text, *more, **draws):
    """Return loss and gradients of autograd in float64, and running statistics afterwards."""
    import torch_htsat

    for x in p.values():
        x.grad = None
    x = doubles({"mel": mel, "text": text})
    loss = torch_htsat.loss(p, x["mel"], x["text"], *more, **draws)
    loss.backward()
    grads = {
        name: x.grad if x.grad is not None else 0 * x.detach()
        for name, x in p.items()
        if x.requires_grad
    }
    running = {name: x for name, x in p.items() if "running" in name}
    norm = np.sqrt(sum(float((g**2).sum()) for g in grads.values()))
    return {"loss": loss.detach(), "norm": norm} | grads | running


def assert_gradients_match(model, trainer, want, limit=1e-4):
    """A gradient that is 0 but for rounding, as that of a bias before a batch norm, stays so."""
    whole = abs(float(want.kept["norm"][0]))
    for (name, _, kind), got in zip(model.parameters(), trainer.buffers(1), strict=True):
        if kind == STATISTIC:
            assert not got.any()
            continue
        if want.kept[name][0] <= 1e-6 * whole:
            assert np.linalg.norm(got) <= 1e-5 * whole, name
            continue
        distance = want.distance(name, got)
        assert distance <= limit, f"{name}: {distance:.2e} apart"


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("config", "frames", "b", "kinds"),
    [
        (AUDIO, 250, 5, (MLP, MLP)),
        (AUDIO, 256, 2, (MLP, LINEAR)),
        (INACTIVE, 100, 3, (LINEAR, MLP)),
        (ONE_STAGE, 250, 3, (MLP, MLP)),
        (AUDIO | {"patch": 2, "depths": [1, 2], "heads": [2, 3]}, 7, 2, (MLP, MLP)),
        (AUDIO, 250, 3, (0, 0)),
        (AUDIO, 250, 5, (MS, MS)),
        (ONE_STAGE, 250, 2, (MLP, MS)),
        *[(SHORT | option, 77, 3, (MLP, MLP)) for option in OPTIONS.values()],
        (AUDIO | ALL_OPTIONS, 77, 3, (MLP, MLP)),
    ],
    ids=[
        "shifted",
        "linear_text_head",
        "unshifted",
        "one_stage",
        "seven_frames",
        "no_heads",
        "ms_heads",
        "ms_text_head",
        *OPTIONS,
        "all_options",
    ],
)
def test_gradients_match_autograd(rng, request, oracle, config, frames, b, kinds, threads):
    dim, text_width = (48, 48) if kinds == (0, 0) else (20, 24)
    model, values = new_model(rng, config, text_width=text_width, heads=kinds, dim=dim)
    mel, text = decibels(rng, b, frames), rng.standard_normal((b, text_width)).astype(np.float32)
    case = request.node.callspec.id.removesuffix(f"-{threads}")
    want = oracle.sketch(
        f"gradients/{case}",
        lambda: autograd(torch_parameters(model, values), mel, text, config, kinds),
    )
    trainer = core.Trainer(model, threads)
    got = trainer.gradients(mel, text, 0, 0)
    assert want.distance("loss", got["loss"]) <= 1e-5
    assert want.distance("norm", got["grad_norm"]) <= 1e-4
    assert_gradients_match(model, trainer, want)
    for (name, x), y in zip(values.items(), trainer.buffers(0), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=name)  # running statistics, too
    trainer.step(mel, text, 0, 0, lr=0.0)
    after = dict(zip(values, trainer.buffers(0), strict=True))
    for name in ("running_mean", "running_var"):
        name = "audio_branch.bn0." + name
        assert want.distance(name, after[name]) <= 1e-5


def test_gradients_are_bitwise_equal_on_any_thread_count(rng):
    results = []
    for threads in (1, 2, 3):
        model, _ = new_model(np.random.default_rng(1))
        trainer = core.Trainer(model, threads)
        local = np.random.default_rng(2)
        trainer.gradients(decibels(local, 5), local.standard_normal((5, 24)), 3, 4)
        results.append([x.copy() for x in trainer.buffers(1)])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_training_forgets_the_packed_weights(rng, oracle):
    model, values = new_model(rng)
    model.pack()
    mel, text = decibels(rng, 3), rng.standard_normal((3, 24)).astype(np.float32)
    trainer = core.Trainer(model, 1)
    for x in trainer.buffers(0):  # packed copies would not see this
        x *= 1.25
    larger = {name: np.float64(x) * 1.25 for name, x in values.items()}
    want = oracle.sketch(
        "gradients/larger", lambda: autograd(torch_parameters(model, larger), mel, text, AUDIO)
    )
    got = trainer.gradients(mel, text, 0, 0)
    assert want.distance("loss", got["loss"]) <= 1e-5
    assert_gradients_match(model, trainer, want)


# ---- Training ----------------------------------------------------------------------------------


def ten_steps(model, values, batches):
    """Return losses, gradient norms and final values of PyTorch's AdamW in float64."""
    import torch

    p = torch_parameters(model, values)
    decay = [p[name] for name, _, kind in model.parameters() if kind == WEIGHT]
    rest = [x for x in p.values() if x.requires_grad and not any(x is d for d in decay)]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), eps=1e-6)
    losses, norms = [], []
    for step in range(10):
        want = autograd(p, *batches[step % 3], AUDIO)
        losses.append(float(want["loss"]))
        norms.append(float(torch.nn.utils.clip_grad_norm_(p.values(), 1.0)))
        optimizer.step()
        with torch.no_grad():
            p["logit_scale"].clamp_(0, np.log(100))
    return {"loss": losses, "norm": norms} | {n: x.detach() for n, x in p.items()}


@pytest.mark.parametrize("threads", [1, 2])
def test_ten_steps_follow_torch(rng, oracle, threads):
    model, values = new_model(rng)
    batches = [
        (decibels(rng, 6), rng.standard_normal((6, 24)).astype(np.float32)) for _ in range(3)
    ]
    want = oracle.sketch("ten_steps", lambda: ten_steps(model, values, batches))
    losses, norms = [], []
    trainer = core.Trainer(model, threads)
    for step in range(10):
        got = trainer.step(
            *batches[step % 3], 0, step,
            lr=1e-3, beta1=0.9, beta2=0.99, eps=1e-6, weight_decay=0.1, clip=1.0,
        )  # fmt: skip
        losses.append(got["loss"])
        norms.append(got["grad_norm"])
    assert want.distance("loss", losses) <= 1e-4
    assert want.distance("norm", norms) <= 1e-3
    for x, name in zip(trainer.buffers(0), values, strict=True):
        assert want.distance(name, x) <= 1e-5, name  # five times what was measured


@pytest.mark.parametrize("threads", [1, 3])
def test_large_parameters_are_updated_whole(rng, threads):
    model, _ = new_model(
        rng, AUDIO | {"embed": 48}
    )  # a weight is then several pieces of the update
    trainer = core.Trainer(model, threads)
    assert max(x.size for x in trainer.buffers(0)) > 2 * 65536
    want = [x.copy() for x in trainer.buffers(0)]
    mel, text = decibels(rng, 2), rng.standard_normal((2, 24))
    trainer.step(mel, text, 0, 0, lr=0.01, weight_decay=0.1)
    kinds = [kind for _, _, kind in model.parameters()]
    for x, y, g, kind in zip(want, trainer.buffers(0), trainer.buffers(1), kinds, strict=True):
        if kind == STATISTIC:
            continue
        zero, decay = np.zeros_like(x), 0.1 if kind == WEIGHT else 0.0
        kernels.adamw_step(x, zero, zero.copy(), g, 1, 0.01, 0.9, 0.999, 1e-8, decay, 1.0)
        np.testing.assert_array_equal(x, y)


def test_logit_scale_stays_below_its_limit(rng):
    model, _ = new_model(rng)
    trainer = core.Trainer(model, 1)
    scale = trainer.buffers(0)[-1]
    for start, lr, want in ((4.6, 1.0, np.log(100)), (0.1, 1.0, 0.0)):
        scale[...] = start
        sign = 1 if want == 0 else -1  # whichever way the gradient points, one of two batches hits
        for step in range(2):
            mel, text = decibels(rng, 3), sign * rng.standard_normal((3, 24))
            trainer.step(mel, text, 0, step, lr=lr)
            assert 0 <= scale <= np.float32(np.log(100)) * (1 + EPSILON)


# ---- Draws in training -------------------------------------------------------------------------

DROPS = {
    "drop_path": {"drop_path": 0.4},
    "dropout": {"dropout": 0.3},
    "stripes": {"time_stripes": 2, "time_width": 64, "freq_stripes": 2, "freq_width": 8},
}
DROPS["all"] = DROPS["drop_path"] | DROPS["dropout"] | DROPS["stripes"]


@pytest.mark.parametrize("kind", DROPS)
def test_gradients_with_draws_match_autograd(rng, oracle, kind):
    config = AUDIO | DROPS[kind]
    model, values = new_model(rng, config)
    mel, text = decibels(rng, 4), rng.standard_normal((4, 24)).astype(np.float32)
    trainer = core.Trainer(model, 2)

    def torch_with_draws(seed, step):
        import torch_htsat

        draws = torch_htsat.CoreDraws(kernels, config, seed, step)
        return autograd(torch_parameters(model, values), mel, text, config, drop=draws)

    losses = set()
    for seed, step in ((1, 0), (1, 7), (2, 7)):
        want = oracle.sketch(
            f"draws/{kind}_{seed}_{step}", lambda at=(seed, step): torch_with_draws(*at)
        )
        got = trainer.gradients(mel, text, seed, step)
        assert want.distance("loss", got["loss"]) <= 1e-5
        assert_gradients_match(model, trainer, want)
        assert trainer.gradients(mel, text, seed, step)["loss"] == got["loss"]
        losses.add(got["loss"])
    assert len(losses) == 3


@pytest.mark.parametrize("kind", [*DROPS, "none"])
def test_gradient_with_draws_matches_finite_difference(rng, kind):
    """Along g weighted by random positive numbers.

    A direction of pure noise has a derivative of |g| / sqrt(n), which the rounding of a float32
    loss would drown; any factor that is wrong in one tensor still shows along this one.
    """
    model, _ = new_model(rng, AUDIO | DROPS.get(kind, {}))
    mel, text = decibels(rng, 4), rng.standard_normal((4, 24)).astype(np.float32)
    trainer = core.Trainer(model, 1)
    trainer.gradients(mel, text, 9, 3)
    g = [x.astype(np.float64) for x in trainer.buffers(1)]
    along = [x * rng.uniform(0.2, 1.8, x.shape) for x in g]
    length = np.sqrt(sum((x**2).sum() for x in along))
    along = [x / length for x in along]
    slope = sum((x * y).sum() for x, y in zip(g, along, strict=True))
    values = trainer.buffers(0)
    start = [x.copy() for x in values]

    def loss_at(h):
        for x, x0, d in zip(values, start, along, strict=True):
            x[...] = x0 + h * d
        return trainer.gradients(mel, text, 9, 3)["loss"]

    h = 3e-4  # larger steps cross the kinks of ReLU, smaller ones meet the rounding of the loss
    assert (loss_at(h) - loss_at(-h)) / (2 * h) == pytest.approx(slope, rel=1e-3)


def test_dropping_a_path_drops_the_whole_clip(rng):
    """With drop_path near 1 the last block passes its input on, scaled by nothing."""
    config = AUDIO | {"depths": [2], "heads": [1], "drop_path": 0.999999}
    model, values = new_model(rng, config)
    trainer = core.Trainer(model, 1)
    mel, text = decibels(rng, 3), rng.standard_normal((3, 24)).astype(np.float32)
    trainer.gradients(mel, text, 0, 0)
    for name, g in zip(values, trainer.buffers(1), strict=True):
        if "blocks.1." in name:
            assert not g.any()
        elif "blocks.0." in name and "weight" in name:
            assert g.any()


# ---- Refusals ----------------------------------------------------------------------------------


def test_model_names_what_is_wrong_with_its_configuration():
    cases = [
        ({"mels": 15}, "spec_size 64 must be a multiple of mels 15"),
        ({"patch": 5}, "audio.patch: 5 does not divide"),
        ({"heads": [5, 2, 4]}, r"audio.heads\[0\]: 5 does not divide the width 12"),
        ({"heads": [1, 2]}, "3 depths but 2 heads"),
        ({"window": 5}, "audio.window: 5 does not divide"),
        ({"depths": [0, 2, 2]}, r"audio.depths\[0\]: expected 1 to 64"),
        ({"depths": [1] * 9, "heads": [1] * 9}, "more than 8 entries"),
        ({"drop_path": 1.0}, r"drop_path 1 and dropout 0 must lie in \[0, 1\)"),
        ({"dropout": float("nan")}, "must lie in"),
        ({"freq_stripes": -1}, "stripes"),
        ({"freq_stripes": 1, "freq_width": -3}, "stripes"),
        ({"time_stripes": 200}, "stripes"),
    ]
    for change, message in cases:
        with pytest.raises(ValueError, match=message):
            core.Model(AUDIO | change, None, 24, MLP, MLP, 20)
    with pytest.raises(ValueError, match='"embed" is missing'):
        core.Model({k: v for k, v in AUDIO.items() if k != "embed"}, None, 24, MLP, MLP, 20)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((AUDIO, None, 24, 7, MLP, 20), "head: unknown kind 7"),
        ((AUDIO, None, 24, MLP, -1, 20), "head: unknown kind -1"),
        ((AUDIO, None, 24, 0, MLP, 20), "a tower without a head has another width"),
        ((None, TEXT, 24, MLP, MLP, 20), "text_width"),
        ((None, TEXT, 0, MLP, MLP, 20), "text_width"),
        ((AUDIO, None, 24, MLP, MLP, 0), "dim: expected 1 to 16384"),
        ((None, TEXT | {"heads": 5}, 48, MLP, MLP, 20), "text.heads: 5 does not divide"),
        ((None, TEXT | {"pool": 9}, 48, MLP, MLP, 20), "text.pool: unknown kind 9"),
    ],
)
def test_model_refuses_towers_and_heads_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        core.Model(*arguments)


def test_bind_names_the_parameter_that_does_not_fit(rng):
    model = core.Model(AUDIO, None, 24, MLP, MLP, 20)
    arrays = [np.zeros(shape, np.float32) for _, shape, _ in model.parameters()]
    with pytest.raises(RuntimeError, match="no parameters bound"):
        model.audio(core.Context(1), decibels(rng, 1))
    with pytest.raises(ValueError, match=f"expected {len(arrays)} arrays, got 1"):
        model.bind(arrays[:1])
    with pytest.raises(ValueError, match=r"audio_branch.bn0.weight: expected shape \(16,\)"):
        model.bind([np.zeros(3, np.float32), *arrays[1:]])
    with pytest.raises(TypeError, match=r"bn0\.weight: expected contiguous float32"):
        model.bind([arrays[0].astype(np.float64), *arrays[1:]])
    model.bind(arrays)


def test_packed_parameters_are_read_back_bit_for_bit(rng):
    model, values = new_model(rng, text=TEXT, text_width=48)
    model.pack()
    for place, (name, _, _) in enumerate(model.parameters()):
        np.testing.assert_array_equal(model.read(place), values[name], strict=True)
    with pytest.raises(IndexError, match=r"read: expected 0 to \d+, got -1"):
        model.read(-1)


def test_bind_takes_arrays_as_they_are_made_and_keeps_no_packed_one(rng):
    plain, values = new_model(rng, text=TEXT, text_width=48)
    made, kept = [], []

    def arrays():
        for x in values.values():
            array = x.copy()
            made.append(weakref.ref(array))
            yield array
            del array
            kept.append(made[-1]() is not None)

    model = core.Model(AUDIO, TEXT, 48, MLP, MLP, 20)
    model.bind(arrays(), pack=True)
    mel = decibels(rng, 2)
    plain.pack()
    np.testing.assert_array_equal(
        model.audio(core.Context(1), mel), plain.audio(core.Context(1), mel)
    )
    linear = [n.endswith("proj.weight") for n in values]
    assert not any(k for k, packed in zip(kept, linear, strict=True) if packed)
    assert any(kept)


def test_bind_passes_on_what_its_arrays_raise_and_may_be_called_again(rng):
    _, values = new_model(rng, text=TEXT, text_width=48)
    model = core.Model(AUDIO, TEXT, 48, MLP, MLP, 20)

    def arrays():
        yield from list(values.values())[:20]
        raise FormatError("damaged")

    with pytest.raises(FormatError, match="damaged"):
        model.bind(arrays(), pack=True)
    with pytest.raises(RuntimeError, match="no parameters bound"):
        model.pack()
    model.bind(values.values(), pack=True)
    with pytest.raises(ValueError, match="has its parameters already"):
        model.bind(values.values())


def test_towers_refuse_what_does_not_fit(rng):
    model, _ = new_model(rng, text=TEXT, text_width=48)
    context = core.Context(1)
    with pytest.raises(ValueError, match=r"mel: expected shape \(\*, \*, 16\)"):
        model.audio(context, decibels(rng, 1, 250, 15))
    with pytest.raises(ValueError, match="mel: 257 frames, this audio tower takes 1 to 256"):
        model.audio(context, decibels(rng, 1, 257))
    with pytest.raises(ValueError, match="mel: 0 frames"):
        model.audio(context, decibels(rng, 1, 0))
    with pytest.raises(ValueError, match="text 1: 78 tokens, expected 1 to 77"):
        model.text(context, np.zeros(79, np.int32), [0, 1, 79])
    with pytest.raises(ValueError, match="text 0: 0 tokens"):
        model.text(context, np.zeros(1, np.int32), [0, 0, 1])
    with pytest.raises(ValueError, match="text 0: token id 101 is outside the vocabulary"):
        model.text(context, [101], [0, 1])
    with pytest.raises(ValueError, match="first: must rise from 0"):
        model.text(context, [1, 2], [0, 1])
    with pytest.raises(ValueError, match=r"x: expected shape \(\*, 48\)"):
        model.text_head(context, np.zeros((1, 3)))
    assert model.audio(context, decibels(rng, 0)).shape == (0, 20)
    assert model.text(context, [], [0]).shape == (0, 20)
    with pytest.raises(ValueError, match="no text tower"):
        new_model(rng)[0].text(context, [1], [0, 1])
    with pytest.raises(ValueError, match="threads: expected 1 to 1024, got 0"):
        core.Context(0)


def test_trainer_refuses_what_does_not_fit(rng):
    model, _ = new_model(rng)
    with pytest.raises(ValueError, match="threads: expected 1 to 1024"):
        core.Trainer(model, 0)
    trainer = core.Trainer(model, 1)
    mel = decibels(rng, 2)
    with pytest.raises(ValueError, match=r"text: expected shape \(2, 24\)"):
        trainer.gradients(mel, np.zeros((3, 24)), 0, 0)
    with pytest.raises(ValueError, match="expected at least 1 clip of 1 to 256 frames"):
        trainer.gradients(mel[:0], np.zeros((0, 24)), 0, 0)
    with pytest.raises(ValueError, match="buffers: expected 0 to 3, got 4"):
        trainer.buffers(4)
    both = core.Trainer(new_model(rng, text=TEXT, text_width=48)[0], 1)
    for wrong, message in (
        (np.zeros((2, 48)), r"text: expected \(ids, first\), got .*ndarray"),
        (([1, 2], [0, 1, 2, 2]), r"first: expected shape \(3,\)"),
        (([1, 2], [0, 1, 3]), "first: must rise from 0 to the number of ids"),
        (([1, 101], [0, 1, 2]), "text 1: token id 101 is outside the vocabulary of 101"),
        (([1, 2], [0, 0, 2]), "text 0: 0 tokens, expected 1 to 77"),
        (([1.5, 2], [0, 1, 2]), "expected an array of integers, got dtype float64"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            both.gradients(mel, wrong, 0, 0)
    both.gradients(mel, ([1, 2], [0, 1, 2]), 0, 0)


@pytest.mark.parametrize("broken", ["mel", "text"])
def test_step_on_a_broken_batch_changes_nothing(rng, broken):
    model, _ = new_model(rng)
    trainer = core.Trainer(model, 1)
    mel, text = decibels(rng, 3), rng.standard_normal((3, 24)).astype(np.float32)
    trainer.step(mel, text, 0, 0)
    before = [[x.copy() for x in trainer.buffers(k)] for k in (0, 2, 3)]
    if broken == "mel":
        mel[1, 5, 3] = np.nan
    else:  # the batch's statistics are then as good as any
        text[1, 3] = np.nan
    with pytest.raises(ValueError, match="not finite; no update"):
        trainer.step(mel, text, 0, 1)
    for k, kept in zip((0, 2, 3), before, strict=True):
        for x, y in zip(trainer.buffers(k), kept, strict=True):
            np.testing.assert_array_equal(x, y)
