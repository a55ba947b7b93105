"""Adapters with random values for model folders."""

from pathlib import Path

import numpy as np

import reclap
from reclap.checkpoints import model_folder
from reclap.checkpoints.adapter import Adapter, AdapterConfig, names_of
from reclap.runtime.libraries import core


def weights_of(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the weights of linear layers, with shapes."""
    config = model_folder.read_config(folder)
    model = core.Model(**config.core_arguments(with_text=True))
    parameters = model.parameters()
    return {parameters[i][0]: parameters[i][1] for i in model.linear()}


def made_for(folder: Path, *, rank: int, alpha: float, seed: int = 0) -> Adapter:
    """Return an adapter of every linear weight of a model folder."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, (rows, columns) in weights_of(folder).items():
        for part, shape in zip(names_of(name), ((rank, columns), (rows, rank)), strict=True):
            tensors[part] = rng.standard_normal(shape).astype(np.float32) / 8
    digest = reclap.load(folder).digest
    return Adapter(AdapterConfig(digest, "small", rank, alpha, ("*",)), tensors)
