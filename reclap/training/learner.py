"""Trainable state (parameters, moments of the optimizer, EMA), and initialisation."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reclap._types import Floats
from reclap.checkpoints import adapter as adapters
from reclap.checkpoints import model_folder
from reclap.checkpoints.adapter import Adapter, AdapterConfig
from reclap.checkpoints.lazy import Tensors
from reclap.config.model import ClapConfig
from reclap.model.batching import TEXT_BATCH
from reclap.model.weights import choose_dtype
from reclap.runtime.libraries import core
from reclap.training import lora
from reclap.training.pieces import Memory, Whole, gradients, plan
from reclap.training.rates import rates
from reclap.training.recipe import Recipe
from reclap.training.rng import INIT, generator
from reclap.training.schedule import learning_rate
from reclap.training.sections import Loss
from reclap.training.teacher import Teacher
from reclap.training.tokens import Tokens

__all__ = ["STATE", "Learner", "initial_values"]


STATE = "state.safetensors"


_LOSSES = ("contrastive", "sigmoid", "distillation")  # as the core counts them
_BIAS = "logit_bias"  # of the loss: a model keeps it in its configuration
_OF_LOSS = "logit_"  # how the names of its parameters begin
_POSITIONS = ("relative_position_bias_table", "pos_embed")


def initial_values(
    parameters: Sequence[tuple[str, tuple[int, ...], int]], seed: int, init: str
) -> list[Floats]:
    """Return the initial values of a model's parameters.

    Parameters
    ----------
    parameters : sequence of (name, shape, kind)
        Parameters, as ``core.Model.parameters()`` lists them.
    seed : int
        Seed; each parameter has a random stream of its own, so adding one changes no other.
    init : {"xavier_uniform", "trunc_normal"}
        See `reclap.training.recipe.ModelPart`.

    Returns
    -------
    list of ndarray of float32
        One for each parameter, in order.

    Notes
    -----
    Linear layers and Cnn14's convolutions by `init`, their biases 0; norms 1 and 0; running mean 0
    and variance 1; tables of positions normal with standard deviation 0.02 (timm truncates at 2, a
    hundred deviations away); convolutions of HTS-AT uniform within 1 / sqrt(fan-in), bias too, as
    torch's default; logit scale ln(1 / 0.07). Of adapters A uniform within 1 / sqrt(fan-in), B 0.
    """
    fan_in = {
        name.removesuffix("weight"): math.prod(s[1:]) for name, s, _ in parameters if len(s) == 4
    }
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
    if lora.is_adapter(name):  # as peft: B A is 0, A is torch's default for linear layers
        bound = shape[1] ** -0.5 if ".lora_A." in name else 0.0
        return rng.uniform(-bound, bound, shape).astype(np.float32)
    if name.startswith("text_branch."):  # always begins with another model's
        return np.zeros(shape, np.float32)
    convolution = name.removesuffix("weight").removesuffix("bias")
    if ".patch_embed." in name and convolution in fan_in:
        bound = fan_in[convolution] ** -0.5
        return rng.uniform(-bound, bound, shape).astype(np.float32)
    if len(shape) < 2:
        return np.full(shape, name.endswith((".weight", ".running_var")), np.float32)
    if init == "trunc_normal" or name.endswith(_POSITIONS):
        return (0.02 * rng.standard_normal(shape)).astype(np.float32)
    # A kernel of Cnn14 is (out, 3, 3, in), and each of its taps counts.
    fans = math.prod(shape[1:-1]) * (shape[0] + shape[-1])
    bound = math.sqrt(6 / fans)
    return rng.uniform(-bound, bound, shape).astype(np.float32)


class Learner:
    """Trainable state of a model: parameters, AdamW moments and, if wanted, the EMA of parameters.

    Parameters
    ----------
    config : ClapConfig
        Configuration of the model; a frozen text tower is left out.
    recipe : Recipe
        Gives seed, initialisation, what is trained, optimizer and number of steps.
    threads : int
        Threads of the core.
    start : int
        Step at which the schedule of the learning rate begins.
    adapter : AdapterConfig, optional
        What the adapters of the recipe are made for.
    teacher : Teacher, optional
        The teacher of the recipe.

    Attributes
    ----------
    model : core.Model
        The model that is saved and evaluated: with the EMA weights, or else the trained ones.
    """

    def __init__(
        self,
        config: ClapConfig,
        recipe: Recipe,
        threads: int,
        start: int = 0,
        adapter: AdapterConfig | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        self.config, self.recipe, self.start = config, recipe, start
        self._adapter = adapter
        self.with_text = recipe.train.text == "trained"
        trained = self._new_model(recipe.train.text_dropout)
        parameters = trained.parameters()
        self.names = [name for name, _, _ in parameters]
        values = initial_values(parameters, recipe.run.seed, recipe.model.init)
        for name, value in _initial_logits(config, recipe.loss).items():
            if name in self.names:
                values[self.names.index(name)][...] = value
        trained.bind(values)
        rate, decay = rates(self.names, recipe.train)
        if adapter is not None:
            lora.freeze_base(rate, self.names, recipe.lora)
        dtype = choose_dtype(recipe.run.precision)
        losses = [(_LOSSES.index(recipe.loss.kind), 1.0)]
        if teacher is not None:
            losses.append((_LOSSES.index("distillation"), recipe.loss.distillation))
        width, log_scale = (0, 0.0) if teacher is None else (teacher.width, teacher.log_scale)
        again = recipe.run.checkpointing
        self._trainer = core.Trainer(
            trained,
            threads,
            rate,
            decay,
            losses,
            width,
            log_scale,
            dtype=dtype,
            checkpointing=again,
        )
        self.piece = 0  # clips that go through the towers at a time; 0: all of a batch
        self._values = self._trainer.buffers(0)
        self._m, self._v = self._trainer.buffers(2), self._trainer.buffers(3)
        self._context = core.Context(threads)
        self.model = trained
        self._ema: list[Floats] = []
        if recipe.optim.ema:  # what is frozen is its own mean, and the bias that no model has
            known = zip(self.names, self._values, self._m, strict=True)
            own = [m is None or name == _BIAS for name, _, m in known]
            pairs = zip(own, self._values, strict=True)
            self._ema = [x if is_own else np.array(x) for is_own, x in pairs]
            self.model = self._new_model(0.0)
            self.model.bind(self._ema)

    def _new_model(self, dropout: float) -> core.Model:
        arguments = self.config.core_arguments(with_text=self.with_text)
        if self.with_text:
            arguments["text"]["dropout"] = dropout
        is_sigmoid = self.recipe.loss.kind == "sigmoid"
        model = core.Model(**arguments, logit_bias=is_sigmoid)
        if self._adapter is not None:
            lora.adapt(model, self.recipe.lora)
        return model

    def plan(self, batch: int, frames: int, texts: int, available: int | None) -> Memory:
        """Choose the pieces of batches by the memory there is; see `reclap.training.pieces`."""
        longest = self.config.text.max_tokens if self.with_text else 0
        found = plan(
            self._trainer,
            batch,
            frames,
            texts,
            longest,
            piece=self.piece or self.recipe.run.piece,
            available=available,
        )
        self.piece = found.piece
        return found

    def step(
        self,
        step: int,
        mel: Floats,
        features: Floats | Tokens,
        owner: npt.NDArray[np.int32] | None = None,
        role: npt.NDArray[np.int32] | None = None,
        longer: npt.NDArray[np.bool_] | None = None,
        teacher: tuple[Floats, Floats] | None = None,
    ) -> dict[str, float]:
        """Take one step; return loss, learning rate, gradient norm and logit scale.

        Texts belong to the clips that `owner` says, as what `role` says; without it text i belongs
        to clip i. `longer` says which clips have all four log-mels of fusion; `teacher` has
        a teacher's embeddings of clips and texts.
        """
        optim = self.recipe.optim
        lr = learning_rate(step - self.start, self.recipe.run.steps - self.start, optim)
        how: dict[str, Any] = {
            "lr": lr,
            "beta1": optim.beta1,
            "beta2": optim.beta2,
            "eps": optim.eps,
            "weight_decay": optim.weight_decay,
            "clip": optim.clip,
            "coupled": optim.algorithm == "adam",
        }
        seed, trainer = self.recipe.run.seed, self._trainer
        batch = Whole(mel, features, owner, role, longer, teacher)
        batch = batch.ordered()  # draws know their place in it
        if 0 < self.piece < len(mel):
            loss = gradients(trainer, batch, self.piece, seed, step)
            found = {"loss": loss, **trainer.update(step, **how)}
        else:
            targets: dict[str, Any] = {"owner": batch.owner, "role": batch.role}
            targets["teacher"] = batch.teacher
            found = trainer.step(mel, batch.features, seed, step, **how, longer=longer, **targets)
        weight = np.float32(1 - min(optim.ema, (1 + step) / (10 + step)))  # with a warm-up
        for mean, value in zip(self._ema, self._values, strict=False):
            if mean is not value:
                mean += weight * (value - mean)
        bias = self._bias()
        return {
            "loss": found["loss"],
            "lr": lr,
            "grad_norm": found["grad_norm"],
            "logit_scale": math.exp(found["logit_scale"]),
            **({} if bias is None else {"logit_bias": bias}),
        }

    def embed(self, mel: Floats, longer: npt.NDArray[np.bool_] | None = None) -> Floats:
        """Embed log-mels (b, frames, mels) with the EMA weights, which are what is saved.

        With fusion they have shape (b, 4, frames, mels), and `longer` says of which clips all
        four count.
        """
        embeddings: Floats = self.model.audio(self._context, mel, longer=longer)
        return embeddings

    def embed_text(self, features: Floats | Tokens) -> Floats:
        """Embed texts: features (b, width) of a frozen tower, or tokens for the one in training."""
        if isinstance(features, Tokens):
            starts = range(0, len(features), TEXT_BATCH)
            parts = [features.part(i, min(i + TEXT_BATCH, len(features))) for i in starts]
            return np.concatenate([self.model.text(self._context, *part) for part in parts])
        embeddings: Floats = self.model.text_head(self._context, features)
        return embeddings

    def untouched(self) -> list[str]:
        """Return the names of matrices whose gradient was 0 throughout in the last step."""
        pairs = zip(self.names, self._trainer.buffers(1), strict=True)
        touched = (lora.A,)  # in a first step B is 0, and so is the gradient of A
        return [
            name
            for name, g in pairs
            if g is not None and g.ndim > 1 and not g.any() and not name.endswith(touched)
        ]

    def loss(self, audio: Floats, text: Floats) -> float:
        """Return the loss of pairs of embeddings (b, dim), with the EMA temperature.

        It is without that of a teacher.
        """
        values = zip(self.names, self._values, strict=True)
        kept = {name: x for name, x in values if name.startswith(_OF_LOSS)}
        trained = {name: x.copy() for name, x in kept.items()}
        means = self._kept()
        for name, x in kept.items():
            x[...] = means[name]
        try:
            found: float = self._trainer.loss(audio, text, teacher=())[0]
        finally:
            for name, x in kept.items():
                x[...] = trained[name]
        return found

    def tensors(self) -> dict[str, Floats]:
        """Return the tensors of the model that would be saved, with adapters merged."""
        kept = {name: x for name, x in self._kept().items() if name != _BIAS}
        return kept if self._adapter is None else lora.merge(kept, self.recipe.lora)

    def saved_config(self) -> ClapConfig:
        """Return the configuration of the model that would be saved, with the bias as it is now."""
        return dataclasses.replace(self.config, logit_bias=self._bias())

    def _bias(self) -> float | None:
        """Return the bias of logits as it is now; None where the loss has none."""
        if _BIAS not in self.names:
            return self.config.logit_bias
        return float(self._values[self.names.index(_BIAS)])

    def adapter(self) -> Adapter | None:
        """Return the adapter of `tensors`: all that learns, if the recipe asks for adapters."""
        if self._adapter is None:
            return None
        return Adapter(self._adapter, self._learnt())

    def _kept(self) -> dict[str, Floats]:
        """Return the parameters with the EMA weights, where there are any."""
        return dict(zip(self.names, self._ema or self._values, strict=True))

    def _learnt(self) -> dict[str, Floats]:
        pairs = zip(self._kept().items(), self._m, strict=True)
        return {name: x for (name, x), m in pairs if m is not None and name != _BIAS}

    def state(self) -> dict[str, Floats]:
        """Return the state that resuming needs beside `tensors`: parameters and AdamW moments.

        Beside adapters what is frozen is the base's.
        """
        values: Sequence[Floats | None] = self._values
        if self._adapter is not None:
            values = [None if m is None else x for x, m in zip(values, self._m, strict=True)]
        buffers = {"values": values, "m": self._m, "v": self._v}
        return {
            f"{kind}.{name}": x
            for kind, arrays in buffers.items()
            for name, x in zip(self.names, arrays, strict=True)
            if x is not None  # frozen
        }

    def begin(self, have: Tensors, path: Path, parts: Sequence[str]) -> None:
        """Initialise parts from another model.

        Parameters
        ----------
        have : mapping of str to ndarray
            All tensors of these parts, by our names.
        path : Path
            Their file, for messages.
        parts : sequence of str
            Prefixes of their names.
        """
        for values in filter(None, (self._values, self._ema)):
            named = dict(zip(self.names, values, strict=True))
            inside = {
                n: x
                for n, x in named.items()
                if n.startswith(tuple(parts)) and not lora.is_adapter(n)
            }
            _copy_all(inside, {n: x for n, x in have.items() if n.startswith(tuple(parts))}, path)
        self._trainer.refresh()

    def load(self, folder: Path) -> None:
        """Resume from a checkpoint."""
        _copy_all(self.state(), model_folder.read_tensors(folder / STATE), folder / STATE)
        if self._ema and self._adapter is not None:
            path = folder / lora.ADAPTER
            _copy_all(self._learnt(), adapters.load(path).tensors, path)
        elif self._ema:
            have = dict(model_folder.read_tensors(folder / model_folder.MODEL))
            if self.with_text:
                have |= model_folder.read_tensors(folder / model_folder.TEXT)
            _copy_all(self.tensors(), have, folder)
        self._trainer.refresh()


def _initial_logits(config: ClapConfig, loss: Loss) -> dict[str, float]:
    bias = loss.bias if config.logit_bias is None else config.logit_bias
    return {"logit_scale": math.log(loss.initial_scale), _BIAS: bias}


def _copy_all(targets: Mapping[str, Floats], have: Tensors, path: Path) -> None:
    arrays = model_folder.match(have, [(name, x.shape) for name, x in targets.items()], str(path))
    for target, array in zip(targets.values(), arrays, strict=True):
        target[...] = array
