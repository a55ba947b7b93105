"""Trainable state (values, AdamW moments, EMA), its initialisation, and the schedule."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from reclap._types import Floats
from reclap.checkpoints import model_folder
from reclap.checkpoints.lazy import Tensors
from reclap.config.model import ClapConfig
from reclap.runtime.libraries import core
from reclap.training.recipe import Optim, Recipe
from reclap.training.rng import INIT, generator

__all__ = ["STATE", "Learner", "initial_values", "learning_rate"]


STATE = "state.safetensors"


def learning_rate(step: int, steps: int, optim: Optim) -> float:
    """Return the learning rate of a step, counted from 0.

    Examples
    --------
    >>> [learning_rate(s, 4, Optim(lr=1.0, warmup=2)) for s in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    if step < optim.warmup:
        return optim.lr * (step + 1) / optim.warmup
    done = (step - optim.warmup) / max(1, steps - optim.warmup)
    return optim.lr * 0.5 * (1 + math.cos(math.pi * done))


def initial_values(
    parameters: Sequence[tuple[str, tuple[int, ...], int]], seed: int, init: str
) -> list[Floats]:
    """Return the first values of a model's parameters.

    Parameters
    ----------
    parameters : sequence of (name, shape, kind)
        As ``core.Model.parameters()`` lists them.
    seed : int
        Each parameter has random numbers of its own, so adding one changes no other.
    init : {"xavier_uniform", "trunc_normal"}
        See `reclap.training.recipe.ModelPart`.

    Returns
    -------
    list of ndarray of float32

    Notes
    -----
    Linear layers by `init`, their biases 0; norms 1 and 0; running mean 0 and variance 1; tables
    of relative positions normal with deviation 0.02 (timm truncates at 2, a hundred deviations
    away); the patch convolution uniform within 1 / sqrt(fan-in), bias too, as torch's default;
    temperature ln(1 / 0.07).
    """
    fan_in = {name.removesuffix("weight"): math.prod(s[1:]) for name, s, _ in parameters if s}
    return [
        _initial(generator(seed, INIT, i), name, shape, init, fan_in)
        for i, (name, shape, _) in enumerate(parameters)
    ]


def _initial(
    rng: np.random.Generator,
    name: str,
    shape: tuple[int, ...],
    init: str,
    fan_in: Mapping[str, int],
) -> Floats:
    if name == "logit_scale":
        return np.full(shape, math.log(1 / 0.07), np.float32)
    if ".patch_embed.proj." in name:
        bound = fan_in[name.removesuffix("weight").removesuffix("bias")] ** -0.5
        return rng.uniform(-bound, bound, shape).astype(np.float32)
    if len(shape) < 2:
        return np.full(shape, name.endswith((".weight", ".running_var")), np.float32)
    if init == "trunc_normal" or name.endswith("relative_position_bias_table"):
        return (0.02 * rng.standard_normal(shape)).astype(np.float32)
    bound = math.sqrt(6 / sum(shape))
    return rng.uniform(-bound, bound, shape).astype(np.float32)


class Learner:
    """A model in training: values, moments, and the running mean of the values if wanted.

    Parameters
    ----------
    config : ClapConfig
        Its text tower is not part of it.
    recipe : Recipe
        Gives seed, first values, optimizer, length.
    threads : int
        Of the core.
    start : int
        Step at which the schedule of the learning rate begins.

    Attributes
    ----------
    model : core.Model
        The model that is saved and evaluated: the mean, or the values themselves.
    """

    def __init__(self, config: ClapConfig, recipe: Recipe, threads: int, start: int = 0) -> None:
        self.config, self.recipe, self.start = config, recipe, start
        live = core.Model(**config.core_arguments(with_text=False))
        parameters = live.parameters()
        self.names = [name for name, _, _ in parameters]
        live.bind(initial_values(parameters, recipe.run.seed, recipe.model.init))
        self._trainer = core.Trainer(live, threads)
        self._values, _, self._m, self._v = (self._trainer.buffers(k) for k in range(4))
        self._context = core.Context(threads)
        self.model = live
        self._mean: list[Floats] = []
        if recipe.optim.ema:
            self._mean = [np.array(x) for x in self._values]
            self.model = core.Model(**config.core_arguments(with_text=False))
            self.model.bind(self._mean)

    def step(self, step: int, mel: Floats, features: Floats) -> dict[str, float]:
        """Take one step; return loss, gradient norm, learning rate, factor of the cosines."""
        optim = self.recipe.optim
        lr = learning_rate(step - self.start, self.recipe.run.steps - self.start, optim)
        made = self._trainer.step(
            mel,
            features,
            self.recipe.run.seed,
            step,
            lr=lr,
            beta1=optim.beta1,
            beta2=optim.beta2,
            eps=optim.eps,
            weight_decay=optim.weight_decay,
            clip=optim.clip,
        )
        rest = np.float32(1 - min(optim.ema, (1 + step) / (10 + step)))
        for mean, value in zip(self._mean, self._values, strict=False):
            mean += rest * (value - mean)
        return {
            "loss": made["loss"],
            "lr": lr,
            "grad_norm": made["grad_norm"],
            "logit_scale": math.exp(made["logit_scale"]),
        }

    def embed(self, mel: Floats) -> Floats:
        """Embed log-mels (b, frames, mels) with the EMA weights, which are what is saved."""
        rows: Floats = self.model.audio(self._context, mel)
        return rows

    def embed_text(self, features: Floats) -> Floats:
        """Take text features through the text head."""
        rows: Floats = self.model.text_head(self._context, features)
        return rows

    def tensors(self) -> dict[str, Floats]:
        """Return the tensors of the model that would be saved."""
        return dict(zip(self.names, self._mean or self._values, strict=True))

    def state(self) -> dict[str, Floats]:
        """Return what a continuation needs beside `tensors`."""
        buffers = {"values": self._values, "m": self._m, "v": self._v}
        return {
            f"{kind}.{name}": x
            for kind, arrays in buffers.items()
            for name, x in zip(self.names, arrays, strict=True)
        }

    def begin(self, have: Tensors, path: Path, parts: Sequence[str]) -> None:
        """Take parts of another model as first values.

        Parameters
        ----------
        have : mapping of str to ndarray
            Every tensor of these parts, by our names.
        path : Path
            Where they come from, for messages.
        parts : sequence of str
            What their names begin with.
        """
        for values in filter(None, (self._values, self._mean)):
            named = dict(zip(self.names, values, strict=True))
            inside = {n: x for n, x in named.items() if n.startswith(tuple(parts))}
            _copy_all(inside, {n: x for n, x in have.items() if n.startswith(tuple(parts))}, path)

    def load(self, folder: Path) -> None:
        """Continue from a checkpoint."""
        _copy_all(self.state(), model_folder.read_tensors(folder / STATE), folder / STATE)
        if self._mean:
            path = folder / model_folder.MODEL
            _copy_all(self.tensors(), model_folder.read_tensors(path), path)


def _copy_all(targets: Mapping[str, Floats], have: Tensors, path: Path) -> None:
    arrays = model_folder.match(have, [(name, x.shape) for name, x in targets.items()], str(path))
    for target, array in zip(targets.values(), arrays, strict=True):
        target[...] = array
