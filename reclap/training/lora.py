"""Low-rank adapters in training: which weights have one, what learns, what is saved."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reclap._types import Floats
from reclap.checkpoints import model_folder
from reclap.checkpoints.adapter import AdapterConfig, Alpha, Rank, merged, names_of
from reclap.config.model import ClapConfig
from reclap.errors import FormatError
from reclap.io.settings import Settings
from reclap.runtime.libraries import core
from reclap.training.rates import matching

__all__ = ["ADAPTER", "A", "B", "Lora", "adapt", "base_of", "freeze_base", "is_adapter", "merge"]

ADAPTER = "adapter.safetensors"
A, B = ".lora_A.weight", ".lora_B.weight"


@dataclasses.dataclass(frozen=True)
class Lora(Settings):
    """Section ``[lora]``: low-rank adapters (Hu et al., arXiv 2106.09685), trained alone.

    Parameters
    ----------
    targets : list of str
        Patterns of names of linear layers that have an adapter; empty: none, and all of the model
        is trained.
    rank : int
        Rank of each update.
    alpha : float
        Numerator of the scale alpha / rank.
    train : list of str
        Patterns of names of parameters that are trained whole beside the adapters.

    Raises
    ------
    ValueError, TypeError
        If a value is out of range or of the wrong type.

    Examples
    --------
    >>> Lora(targets=["audio_branch.layers.*.attn.qkv"], rank=4).alpha
    16.0
    """

    targets: list[str] = dataclasses.field(default_factory=list)
    rank: Rank = 8
    alpha: Alpha = 16.0
    train: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        """Check."""
        super().__post_init__()
        if self.train and not self.targets:
            raise ValueError("train: needs targets, the layers that have an adapter")


def is_adapter(name: str) -> bool:
    """Tell whether a parameter belongs to an adapter."""
    return name.endswith((A, B))


def adapt(model: Any, part: Lora) -> None:
    """Give a model's linear layers the adapters of a recipe.

    Parameters
    ----------
    model : core.Model
        Model without values.
    part : Lora
        Section ``[lora]``.

    Raises
    ------
    FormatError
        If a pattern matches no linear layer, or the rank is larger than one of them allows.
    """
    parameters = model.parameters()
    layers = {place: parameters[place][0].removesuffix(".weight") for place in model.linear()}
    places, names = list(layers), list(layers.values())
    if not any(name.startswith("text_branch.") for name in names):
        wrong = [p for p in part.targets if p.startswith("text_branch")]
        if wrong:
            raise FormatError(
                f"lora.targets: {wrong[0]!r}: the text tower is frozen, its features are computed "
                "once; adapters in it need train.text = 'trained'"
            )
    chosen: set[int] = set()
    for pattern in part.targets:
        plain = pattern.removesuffix(".weight")
        chosen |= {places[i] for i in matching(names, plain, "lora.targets", "linear layer")}
    for place in sorted(chosen):
        try:
            model.adapt(place, part.rank, part.alpha)
        except ValueError as error:
            raise FormatError(f"lora: {error}") from error


def freeze_base(rate: Floats, names: Sequence[str], part: Lora) -> None:
    """Set the rates of all that is neither in an adapter nor trained whole beside them to 0."""
    learns = np.array([is_adapter(name) for name in names])
    for pattern in part.train:
        learns[matching(names, pattern, "lora.train")] = True
    rate[~learns] = 0


def merge(values: Mapping[str, Floats], part: Lora) -> dict[str, Floats]:
    """Return the parameters of the model without adapters: these are merged into the weights."""
    found = {name: x for name, x in values.items() if not is_adapter(name)}
    for name in [n for n in found if names_of(n)[0] in values]:
        a, b = names_of(name)
        found[name] = merged(found[name], values[a], values[b], part.alpha / part.rank)
    return found


def base_of(
    part: Lora, config: ClapConfig, known: ClapConfig | None, source: Path | None, text: Path
) -> AdapterConfig:
    """Return what a run's adapter is made for.

    Parameters
    ----------
    part : Lora
        Section ``[lora]``.
    config : ClapConfig
        Configuration of the model in training.
    known : ClapConfig, optional
        That of the model that the run begins with.
    source, text : Path
        Folders of that model and of the text tower.

    Raises
    ------
    FormatError
        If the run does not begin with a whole model, or changes it.
    """
    if source is None or known is None or text != source:
        raise FormatError(
            "lora.targets: adapters belong to a model; [model] needs from, and no other text"
        )
    if model_folder.digesting(config).digest() != model_folder.digesting(known).digest():
        raise FormatError(
            f"lora.targets: adapters belong to {source} as it is; [model] changes its sizes, heads "
            "or front end"
        )
    digest = _digest(known, source)
    return AdapterConfig(digest, known.name, part.rank, part.alpha, tuple(part.targets))


def _digest(config: ClapConfig, folder: Path) -> str:
    """Return the digest of a model folder, as that of the model when it is loaded."""
    model = core.Model(**config.core_arguments(with_text=True))
    shapes = [(name, shape) for name, shape, _ in model.parameters()]
    total = model_folder.digesting(config)
    for (name, _), array in zip(shapes, model_folder.read_parameters(folder, shapes), strict=True):
        model_folder.digest_one(total, name, array)
    return total.hexdigest()
