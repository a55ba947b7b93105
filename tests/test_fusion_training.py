"""Training of the audio tower with feature fusion against autograd."""

import numpy as np
import pytest
from models import AUDIO, STATISTIC, decibels, new_model
from needs import kernels
from test_fusion import FUSED, NARROW, views
from test_towers import (
    ALL_OPTIONS,
    BASE,
    DROPS,
    SHORT,
    assert_gradients_match,
    autograd,
    torch_parameters,
)

from reclap.runtime.libraries import core

LONGER = {
    "mixed": [True, False, True, True, False],
    "all": [True] * 5,
    "none": [False] * 5,
    "one": [False, False, False, True, False],
}


def in_train_mode(model, values, mel, text, config, longer, **draws):
    """Return loss and gradients of autograd in float64, and running statistics afterwards."""
    import torch

    p = torch_parameters(model, values)
    return autograd(p, mel, text, config, longer=torch.tensor(longer), **draws)


def texts(rng, b):
    return rng.standard_normal((b, 24)).astype(np.float32)


def assert_statistics_follow(trainer, values, want, limit=1e-5):
    after = dict(zip(values, trainer.buffers(0), strict=True))
    for name, x in after.items():
        if "running" in name:
            distance = want.distance(name, x)
            assert distance <= limit, f"{name}: {distance:.2e} apart"


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("config", "frames", "longer"),
    [
        (FUSED, 250, "mixed"),
        (FUSED, 256, "all"),
        (FUSED, 77, "none"),
        (FUSED, 77, "one"),
        (NARROW, 31, "mixed"),
        (SHORT | {"fusion": True} | ALL_OPTIONS, 77, "mixed"),
        (SHORT | {"fusion": True, "fusion_ratio": 12}, 77, "all"),
    ],
    ids=["mixed", "all", "none", "one", "narrow", "options", "ratio"],
)
def test_gradients_match_autograd(rng, request, oracle, config, frames, longer, threads):
    model, values = new_model(rng, config)
    mel, text, longer = views(rng, 5, frames), texts(rng, 5), LONGER[longer]
    case = request.node.callspec.id.removesuffix(f"-{threads}")
    want = oracle.sketch(
        f"fused_gradients/{case}",
        lambda: in_train_mode(model, values, mel, text, config, longer),
    )
    trainer = core.Trainer(model, threads)
    got = trainer.gradients(mel, text, 0, 0, longer=longer)
    assert want.distance("loss", got["loss"]) <= 1e-5
    assert want.distance("norm", got["grad_norm"]) <= 1e-4
    # Norms of the pooled sums see as many rows as there are longer clips.
    assert_gradients_match(model, trainer, want, 1e-3)
    for (name, x), y in zip(values.items(), trainer.buffers(0), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=name)  # running statistics, too
    trainer.step(mel, text, 0, 0, lr=0.0, longer=longer)
    assert_statistics_follow(trainer, values, want)


@pytest.mark.slow
def test_gradients_of_full_size_match_autograd(rng, oracle):
    """HTSAT-base; a cosine of 0.99999 would be a distance of 4.5e-3. Measured: 8e-5."""
    config = BASE | {"fusion": True}
    model, values = new_model(rng, config)
    mel, text, longer = views(rng, 3, 1001, 64), texts(rng, 3), [True, True, False]
    want = oracle.sketch(
        "fused_gradients/base",
        lambda: in_train_mode(model, values, mel, text, config, longer),
    )
    trainer = core.Trainer(model, 2)
    got = trainer.gradients(mel, text, 0, 0, longer=longer)
    assert want.distance("loss", got["loss"]) <= 1e-5
    assert_gradients_match(model, trainer, want, 1e-3)


def test_gradients_with_draws_match_autograd(rng, oracle):
    config = FUSED | DROPS["all"]
    model, values = new_model(rng, config)
    mel, text, longer = views(rng, 5), texts(rng, 5), LONGER["mixed"]

    def with_draws():
        import torch_htsat

        draws = torch_htsat.CoreDraws(kernels, config, 3, 7)
        return in_train_mode(model, values, mel, text, config, longer, drop=draws)

    want = oracle.sketch("fused_gradients/draws", with_draws)
    trainer = core.Trainer(model, 2)
    got = trainer.gradients(mel, text, 3, 7, longer=longer)
    assert want.distance("loss", got["loss"]) <= 1e-5
    assert_gradients_match(model, trainer, want)
    assert trainer.gradients(mel, text, 3, 7, longer=longer) == got


def ten_steps(model, values, batches, config, longer):
    """Return losses and final values of PyTorch's Adam in float64."""
    import torch

    p, flags = torch_parameters(model, values), torch.tensor(longer)
    optimizer = torch.optim.Adam([x for x in p.values() if x.requires_grad], lr=1e-3, eps=1e-6)
    losses = []
    for step in range(10):
        losses.append(float(autograd(p, *batches[step % 3], config, longer=flags)["loss"]))
        optimizer.step()
        with torch.no_grad():
            p["logit_scale"].clamp_(0, np.log(100))
    return {"loss": losses} | {n: x.detach() for n, x in p.items()}


def test_ten_steps_follow_torch(rng, oracle):
    model, values = new_model(rng, FUSED)
    batches = [(views(rng, 5), texts(rng, 5)) for _ in range(3)]
    longer = LONGER["mixed"]
    want = oracle.sketch("fused_steps", lambda: ten_steps(model, values, batches, FUSED, longer))
    trainer = core.Trainer(model, 2)
    losses = [
        trainer.step(*batches[i % 3], 0, i, lr=1e-3, eps=1e-6, longer=longer)["loss"]
        for i in range(10)
    ]
    assert want.distance("loss", losses) <= 1e-4
    for x, name in zip(trainer.buffers(0), values, strict=True):
        # Adam takes steps of full length along the rounding of a gradient that is 0.
        before_norm = name.endswith((*(f"_att.{n}.bias" for n in (0, 1, 3, 4)),))
        assert want.distance(name, x) <= (1e-2 if before_norm else 1e-3), name


def test_gradients_are_bitwise_equal_on_any_thread_count():
    results = []
    for threads in (1, 2, 3):
        rng = np.random.default_rng(1)
        model, _ = new_model(rng, FUSED | DROPS["all"])
        trainer = core.Trainer(model, threads)
        trainer.step(views(rng, 5), texts(rng, 5), 3, 4, longer=LONGER["mixed"])
        results.append([x.copy() for k in (0, 1) for x in trainer.buffers(k)])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_batch_without_longer_clips_trains_as_the_tower_without_fusion(rng):
    model, values = new_model(rng, FUSED)
    plain = core.Model(AUDIO, None, 24, 2, 2, 20)
    plain.bind([values[name].copy() for name, _, _ in plain.parameters()])
    mel, text = views(rng, 5), texts(rng, 5)
    fused, other = core.Trainer(model, 1), core.Trainer(plain, 1)
    got = fused.step(mel, text, 0, 0, longer=LONGER["none"], lr=0.01)
    assert got["loss"] == pytest.approx(
        other.step(mel[:, 0], text, 0, 0, lr=0.01)["loss"], rel=1e-6
    )
    for (name, _, kind), x, before in zip(
        model.parameters(), fused.buffers(0), values.values(), strict=True
    ):
        if "fusion_model" in name or "mel_conv2d" in name:
            np.testing.assert_array_equal(x, before, name)
        elif kind == STATISTIC:
            assert not np.array_equal(x, before), name


def test_log_mels_that_are_not_heard_do_not_matter(rng):
    model, _ = new_model(rng, FUSED)
    mel, text, longer = views(rng, 5), texts(rng, 5), np.array(LONGER["mixed"])
    trainer = core.Trainer(model, 2)
    want = trainer.gradients(mel, text, 0, 0, longer=longer)
    gradients = [x.copy() for x in trainer.buffers(1)]
    mel[~longer, 1:] = np.nan
    assert trainer.gradients(mel, text, 0, 0, longer=longer) == want
    for a, b in zip(gradients, trainer.buffers(1), strict=True):
        np.testing.assert_array_equal(a, b)
    mel[0, 2, 5, 3] = np.nan
    assert np.isnan(trainer.gradients(mel, text, 0, 0, longer=longer)["loss"])


def test_frozen_parts_of_fusion_change_no_other_gradient(rng):
    found = []
    for frozen in ((), ("fusion_model.local_att", "mel_conv2d.weight", "bn0.bias")):
        local = np.random.default_rng(2)
        model, _ = new_model(local, FUSED)
        rates = [
            float(kind == STATISTIC or not any(part in n for part in frozen))
            for n, _, kind in model.parameters()
        ]
        trainer = core.Trainer(model, 2, np.array(rates, np.float32))
        trainer.gradients(views(local, 5), texts(local, 5), 0, 0, longer=LONGER["mixed"])
        found.append(trainer.buffers(1))
    assert sum(x is None for x in found[1]) > 8
    for whole, part in zip(*found, strict=True):
        if part is not None:
            np.testing.assert_array_equal(part, whole)


def test_trained_statistics_serve_inference(rng):
    model, _ = new_model(rng, FUSED)
    mel, text, longer = views(rng, 5), texts(rng, 5), np.array(LONGER["mixed"])
    before = model.audio(core.Context(1), mel, longer=longer)
    trainer = core.Trainer(model, 1)
    for step in range(3):
        trainer.step(mel, text, 0, step, lr=0.0, longer=longer)
    values = [x.copy() for x in trainer.buffers(0)]
    del trainer
    after = model.audio(core.Context(1), mel, longer=longer)
    assert (np.abs(after - before).max(axis=1) > 1e-4).all()
    again = core.Model(FUSED, None, 24, 2, 2, 20)
    again.bind(values)
    np.testing.assert_array_equal(again.audio(core.Context(1), mel, longer=longer), after)


def test_trainer_needs_a_flag_a_clip(rng):
    model, _ = new_model(rng, FUSED)
    trainer = core.Trainer(model, 1)
    with pytest.raises(ValueError, match="longer: this audio tower has fusion and needs a flag"):
        trainer.gradients(views(rng, 2), texts(rng, 2), 0, 0)
    plain, _ = new_model(rng)
    with pytest.raises(ValueError, match="longer: this audio tower has no fusion"):
        core.Trainer(plain, 1).gradients(
            decibels(rng, 2), texts(rng, 2), 0, 0, longer=[True, False]
        )


def test_frozen_statistics_stay_and_norms_work_with_them(rng, oracle):
    """As torch's batch norms in evaluation mode inside a model that trains."""
    model, values = new_model(rng, FUSED)
    mel, text, longer = views(rng, 5), texts(rng, 5), LONGER["mixed"]

    def evaluated():
        import torch
        import torch_htsat

        p = torch_parameters(model, values)
        x, t = torch.tensor(mel, dtype=torch.float64), torch.tensor(text, dtype=torch.float64)
        rows = torch_htsat.features(p, x, FUSED, longer=torch.tensor(longer))
        a = torch_htsat.head(p, "audio_projection", rows, 2)
        b = torch_htsat.head(p, "text_projection", t, 2)
        logits, target = p["logit_scale"].exp() * a @ b.T, torch.arange(5)
        entropy = torch.nn.functional.cross_entropy
        loss = (entropy(logits, target) + entropy(logits.T, target)) / 2
        loss.backward()
        grads = {n: x.grad for n, x in p.items() if x.requires_grad}
        norm = sum(float((g**2).sum()) for g in grads.values()) ** 0.5
        return {"loss": loss.detach(), "norm": norm} | grads

    want = oracle.sketch("fused_gradients/frozen_statistics", evaluated)
    rates = [float(kind != STATISTIC) for _, _, kind in model.parameters()]
    trainer = core.Trainer(model, 2, np.array(rates, np.float32))
    got = trainer.step(mel, text, 0, 0, lr=0.0, longer=longer)
    assert want.distance("loss", got["loss"]) <= 1e-5
    gradients = zip(model.parameters(), trainer.buffers(1), trainer.buffers(0), strict=True)
    for (name, _, kind), g, x in gradients:
        np.testing.assert_array_equal(x, values[name])
        if kind != STATISTIC:
            assert want.distance(name, g) <= 1e-4, name
