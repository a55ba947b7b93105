"""Cnn14 of PyTorch's own layers, as its users run it, with the same random weights as ours."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hub_peer
import numpy as np

if TYPE_CHECKING:
    from reclap.config import ClapConfig

TESTS = Path(__file__).resolve().parents[1] / "tests"


def load(config: "ClapConfig") -> Any:
    """Return a module that computes what the audio side of `config` describes."""
    import torch
    from torch import nn

    sys.path.append(str(TESTS))
    from torch_cnn14 import Cnn14

    width, dim = config.audio.width, config.dim
    layers = [Cnn14(), nn.Linear(width, dim), nn.ReLU(), nn.Linear(dim, dim)]
    model = nn.Sequential(*layers)
    state = {}
    for name, x in hub_peer.random_weights(config).items():
        if name.startswith("audio_"):
            kernel = x.transpose(0, 3, 1, 2) if x.ndim == 4 else x
            state[_name(name)] = torch.from_numpy(np.array(kernel))
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [n for n in missing if not n.endswith("batches_tracked")]
    if missing or unexpected:
        raise ValueError(f"missing {missing}, unexpected {unexpected}")
    return model.eval()


def _name(ours: str) -> str:
    if ours.startswith("audio_projection."):
        _, number, kind = ours.split(".")
        return f"{1 + int(number)}.{kind}"
    return ours.replace("audio_branch.", "0.")
