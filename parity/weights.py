"""Random weights in which no zero and no one hides an error, and files as upstream saves them."""

import itertools
import re
from pathlib import Path

import numpy as np
import torch

# The front end is frozen; a mask is no weight.
_FIXED = re.compile(r"spectrogram_extractor|logmel_extractor|attn_mask")
_FIRST_NORM = re.compile(r"(bn0|audio_encoder\.batch_norm)\.")  # it sees decibels
_TABLE = re.compile(r"relative_(position|attention)_bias(_table|\.weight)$")


@torch.no_grad()
def redraw(model: torch.nn.Module) -> torch.nn.Module:
    """Draw anew what upstream starts at 0 or 1, and the matrices of the audio tower.

    Those start so small that attention is all but even and every sound gives the same embedding;
    here a layer keeps the size of what it takes.
    """
    generator = torch.Generator().manual_seed(20240913)
    for name, x in itertools.chain(model.named_parameters(), model.named_buffers()):
        if not x.is_floating_point() or _FIXED.search(name):
            continue
        noise = torch.randn(x.shape, generator=generator)
        if (drawn := _drawn(name, x, noise)) is not None:
            x.copy_(drawn)
    return model.eval()


def _drawn(name: str, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor | None:
    first = _FIRST_NORM.search(name)
    if name.endswith("running_mean"):
        return 5 * noise - 40 if first else noise / 5
    if name.endswith("running_var"):
        return 50 * noise**2 + 200 if first else noise**2 / 5 + 1
    if "logit_scale" in name:
        return x + noise / 5
    if name.endswith("bias"):
        return noise / 5
    if _TABLE.search(name):
        return noise
    if x.ndim == 1:  # of a norm
        return 1 + noise / 5
    if re.match(r"audio_(branch|model|encoder\.base)\.", name):
        gain = 2.0 if x.ndim == 4 else 1.0  # what rectifiers and pooling take away
        return noise * gain * x[0].numel() ** -0.5
    return None


def save_laion(model: torch.nn.Module, path: Path, more: dict[str, torch.Tensor]) -> None:
    """Save as LAION-CLAP's training does: names of a wrapped model, moments of Adam, and all.

    Its scheduler leaves NumPy's float64 in the optimizer's state.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)
    for p in trained:
        p.grad = torch.randn_like(p)
    optimizer.step()
    optimizer.zero_grad()
    for group in optimizer.param_groups:
        group["lr"] = np.float64(9.5e-6)
    state = {f"module.{name}": x for name, x in {**more, **model.state_dict()}.items()}
    torch.save(
        {"epoch": 45, "name": "x", "state_dict": state, "optimizer": optimizer.state_dict()}, path
    )
