"""Training of the audio tower Cnn14 against autograd."""

import numpy as np
import pytest
import training
from folders import CONFIG
from models import CNN14, MLP, STATISTIC, decibels, new_model
from needs import kernels
from test_cnn14 import ODD, ONE
from test_towers import assert_gradients_match

import reclap
from reclap.config import Cnn14Config
from reclap.runtime.libraries import core
from reclap.training import loop
from reclap.training.recipe import Recipe

DROPS = {"dropout": 0.2, "fc_dropout": 0.5}
ROW = CNN14 | {"mels": 2, "widths": [3, 5]}  # one mel is left


def texts(rng, b):
    return rng.standard_normal((b, 24)).astype(np.float32)


class Draws:
    """What the core drops at (seed, step); its pixels are (clips, frames, mels, channels)."""

    def __init__(self, config, seed, step):
        self.config, self.at = config, (seed, step)

    def __call__(self, x, site):
        import torch

        order = (0, 2, 3, 1) if x.ndim == 4 else (0, 1)
        place = {"pooled": 1, "features": 2}.get(site, 16 + site if site in range(8) else 0)
        p = self.config["dropout" if x.ndim == 4 else "fc_dropout"]
        kept = kernels.draws("uniform", x.numel(), *self.at, place) >= np.float32(p)
        shape = [x.shape[axis] for axis in order]
        back = torch.from_numpy(kept.reshape(shape)).permute(*np.argsort(order).tolist())
        return x * back / (1 - p)


class Twin:
    """The tower, its heads and the loss in torch, float64, in train mode."""

    def __init__(self, config, values):
        import torch
        from torch_cnn14 import Cnn14, from_core

        rest = {n: x for n, x in values.items() if not n.startswith("audio_branch")}
        self.tower = Cnn14(mels=config["mels"], widths=tuple(config["widths"]))
        own = {n: x for n, x in values.items() if n not in rest}
        self.tower.load_state_dict(from_core(own), strict=False)
        self.tower.double().train()
        self.rest = {
            n: torch.tensor(x, dtype=torch.float64, requires_grad=True) for n, x in rest.items()
        }

    def parameters(self):
        return [*self.tower.parameters(), *self.rest.values()]

    def loss(self, mel, text, **draws):
        import torch
        import torch_htsat

        rows = self.tower(torch.from_numpy(mel).double(), **draws)
        a = torch_htsat.head(self.rest, "audio_projection", rows, MLP)
        t = torch_htsat.head(self.rest, "text_projection", torch.from_numpy(text).double(), MLP)
        logits, target = self.rest["logit_scale"].exp() * a @ t.T, torch.arange(len(a))
        entropy = torch.nn.functional.cross_entropy
        return (entropy(logits, target) + entropy(logits.T, target)) / 2

    def statistics(self):
        from torch_cnn14 import core_names

        return {n: x for n, x in core_names(self.tower.state_dict()).items() if "running" in n}

    def autograd(self, mel, text, **draws):
        """Return loss and gradients, and running statistics afterwards."""
        from torch_cnn14 import core_names

        for x in self.parameters():
            x.grad = None
        loss = self.loss(mel, text, **draws)
        loss.backward()
        grads = core_names({n: x.grad for n, x in self.tower.named_parameters()})
        grads |= {n: x.grad for n, x in self.rest.items()}
        norm = sum(float((g**2).sum()) for g in grads.values()) ** 0.5
        return {"loss": loss.detach(), "norm": norm} | grads | self.statistics()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("config", "frames", "b"),
    [(CNN14, 31, 3), (CNN14, 64, 2), (ODD, 50, 5), (ODD, 8, 4), (ONE, 7, 3), (ROW, 9, 11)],
    ids=["odd_frames", "even", "odd", "one_frame_left", "one_block", "row"],
)
def test_gradients_match_autograd(rng, request, oracle, config, frames, b, threads):
    model, values = new_model(rng, config)
    mel, text = decibels(rng, b, frames, config["mels"]), texts(rng, b)
    case = request.node.callspec.id.removesuffix(f"-{threads}")
    want = oracle.sketch(
        f"cnn14_gradients/{case}", lambda: Twin(config, values).autograd(mel, text)
    )
    trainer = core.Trainer(model, threads)
    got = trainer.gradients(mel, text, 0, 0)
    assert want.distance("loss", got["loss"]) <= 1e-5
    assert want.distance("norm", got["grad_norm"]) <= 1e-4
    assert_gradients_match(model, trainer, want, 1e-3)
    for (name, x), y in zip(values.items(), trainer.buffers(0), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=name)  # running statistics, too
    trainer.step(mel, text, 0, 0, lr=0.0)
    for (name, _, kind), x in zip(model.parameters(), trainer.buffers(0), strict=True):
        if kind == STATISTIC:
            assert want.distance(name, x) <= 1e-5, name


@pytest.mark.slow
def test_gradients_of_full_size_match_autograd(rng, oracle):
    """A ReLU that rounding turns over moves all gradients below it by 1e-3 or so, in torch too."""
    config = CNN14 | {"mels": 64, "widths": list(Cnn14Config().widths)}
    model, values = new_model(rng, config)
    mel, text = decibels(rng, 3, 256, 64), texts(rng, 3)
    want = oracle.sketch(
        "cnn14_gradients/full_size", lambda: Twin(config, values).autograd(mel, text)
    )
    trainer = core.Trainer(model, 2)
    got = trainer.gradients(mel, text, 0, 0)
    assert want.distance("loss", got["loss"]) <= 1e-5
    assert_gradients_match(model, trainer, want, 4.5e-3)  # a cosine of 0.99999


def test_gradients_with_draws_match_autograd(rng, oracle):
    config = ODD | DROPS
    model, values = new_model(rng, config)
    mel, text = decibels(rng, 5, 50, 13), texts(rng, 5)
    trainer = core.Trainer(model, 2)
    losses = set()
    for seed, step in ((1, 0), (1, 7), (2, 7)):
        draws = Draws(config, seed, step)
        want = oracle.sketch(
            f"cnn14_gradients/draws_{seed}_{step}",
            lambda drop=draws: Twin(config, values).autograd(mel, text, drop=drop),
        )
        got = trainer.gradients(mel, text, seed, step)
        assert want.distance("loss", got["loss"]) <= 1e-5
        assert_gradients_match(model, trainer, want, 1e-3)
        assert trainer.gradients(mel, text, seed, step) == got
        losses.add(got["loss"])
    assert len(losses) == 3


def ten_steps(config, values, batches):
    """Return losses and final values of PyTorch's Adam in float64."""
    import torch
    from torch_cnn14 import core_names

    twin = Twin(config, values)
    optimizer = torch.optim.Adam(twin.parameters(), lr=1e-3, eps=1e-6)
    losses = []
    for step in range(10):
        losses.append(float(twin.autograd(*batches[step % 3])["loss"]))
        optimizer.step()
        with torch.no_grad():
            twin.rest["logit_scale"].clamp_(0, np.log(100))
    named = core_names(dict(twin.tower.named_parameters())) | twin.rest | twin.statistics()
    return {"loss": losses} | {n: x.detach() for n, x in named.items()}


def test_ten_steps_follow_torch(rng, oracle):
    model, values = new_model(rng, CNN14)
    batches = [(decibels(rng, 6, 60), texts(rng, 6)) for _ in range(3)]
    want = oracle.sketch("cnn14_steps", lambda: ten_steps(CNN14, values, batches))
    trainer = core.Trainer(model, 2)
    losses = [trainer.step(*batches[i % 3], 0, i, lr=1e-3, eps=1e-6)["loss"] for i in range(10)]
    assert want.distance("loss", losses) <= 1e-4
    for x, name in zip(trainer.buffers(0), values, strict=True):
        assert want.distance(name, x) <= 1e-3, name


def test_gradients_are_bitwise_equal_on_any_thread_count():
    results = []
    for threads in (1, 2, 3):
        rng = np.random.default_rng(1)
        model, _ = new_model(rng, ODD | DROPS)
        trainer = core.Trainer(model, threads)
        trainer.step(decibels(rng, 5, 50, 13), texts(rng, 5), 3, 4)
        results.append([x.copy() for k in (0, 1) for x in trainer.buffers(k)])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_frozen_kernels_and_norms_change_no_other_gradient():
    found = []
    for frozen in ((), ("conv2.weight", "bn1.bias", "fc1")):
        rng = np.random.default_rng(2)
        model, _ = new_model(rng, ODD | DROPS)
        rates = [
            float(kind == STATISTIC or not any(part in n for part in frozen))
            for n, _, kind in model.parameters()
        ]
        trainer = core.Trainer(model, 2, np.array(rates, np.float32))
        trainer.gradients(decibels(rng, 5, 50, 13), texts(rng, 5), 0, 0)
        found.append(trainer.buffers(1))
    assert sum(x is None for x in found[1]) == 10
    for whole, part in zip(*found, strict=True):
        if part is not None:
            np.testing.assert_array_equal(part, whole)


def test_a_log_mel_that_is_not_finite_shows_in_the_loss(rng):
    model, _ = new_model(rng, CNN14)
    trainer, mel, text = core.Trainer(model, 2), decibels(rng, 3, 40), texts(rng, 3)
    mel[1, 5, 3] = np.nan
    assert np.isnan(trainer.gradients(mel, text, 0, 0)["loss"])
    with pytest.raises(ValueError, match="not finite; no update"):
        trainer.step(mel, text, 0, 0)


def test_trained_statistics_serve_inference(rng):
    model, _ = new_model(rng, CNN14 | DROPS)
    mel, text = decibels(rng, 5, 60), texts(rng, 5)
    before = model.audio(core.Context(1), mel)
    trainer = core.Trainer(model, 1)
    for step in range(3):
        trainer.step(mel, text, 0, step, lr=0.0)
    values = [x.copy() for x in trainer.buffers(0)]
    del trainer
    after = model.audio(core.Context(1), mel)
    assert (np.abs(after - before).max(axis=1) > 1e-4).all()
    again = core.Model(CNN14, None, 24, MLP, MLP, 20)
    again.bind(values)
    np.testing.assert_array_equal(again.audio(core.Context(1), mel), after)


# ---- From Python -------------------------------------------------------------------------------


def test_a_recipe_trains_it(tmp_path, small_folder):
    """Two runs give the same model, which loads and goes on from where it was."""
    sizes = {"mels": CONFIG["front"]["mels"], "widths": [4, 8, 12], "dropout": 0.1}
    sections = training.settings(training.write_set(tmp_path / "sounds"), small_folder)
    sections["model"] = sections["model"] | {"audio": {"kind": "cnn14"} | sizes}
    recipe = Recipe.from_mapping(sections)
    for name in ("one", "two"):
        loop.train(recipe, tmp_path / name)
    losses = [row["loss"] for row in training.read_log(tmp_path / "one") if "loss" in row]
    assert losses[-1] < losses[0]
    assert training.read_run(tmp_path / "one") == training.read_run(tmp_path / "two")
    model = reclap.load(tmp_path / "one" / "last")
    assert model.config.audio == Cnn14Config(**sizes | {"widths": (4, 8, 12)})
    more = sections | {"model": {"from": str(tmp_path / "one" / "last")}, "optim": {"lr": 0.0}}
    loop.train(Recipe.from_mapping(more | {"run": {"steps": 1}}), tmp_path / "more")
    again = reclap.load(tmp_path / "more" / "last")
    assert again.config.audio == model.config.audio
    sounds = sorted((tmp_path / "sounds").glob("*.wav"))
    rows = model.embed_audio(sounds), again.embed_audio(sounds)
    assert 0 < np.abs(rows[0] - rows[1]).max() < 0.5  # running statistics moved, and nothing else
