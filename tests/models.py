"""Small models with random weights, shared by the tests of towers, memory and threads."""

import numpy as np

from reclap.config import TextConfig
from reclap.runtime.libraries import core

# 16 x 16 tokens, then 8 x 8, then 4 x 4: windows of 4 are shifted in the first two stages only.
AUDIO = {
    "kind": 0,
    "mels": 16,
    "spec_size": 64,
    "patch": 4,
    "embed": 12,
    "fusion": False,
    "window": 4,
    "mlp_ratio": 4,
    "activation": 0,
    "qkv_bias": True,
    "patch_norm": True,
    "fusion_ratio": 4,
    "depths": [2, 2, 2],
    "heads": [1, 2, 4],
    "drop_path": 0.0,
    "dropout": 0.0,
    "time_stripes": 0,
    "time_width": 0,
    "freq_stripes": 0,
    "freq_width": 0,
    "bn_momentum": 0.1,
    "eps": 1e-5,
    "block_eps": 1e-5,
}
CNN14 = {
    "kind": 1,
    "mels": 16,
    "widths": [4, 6, 10],
    "dropout": 0.0,
    "fc_dropout": 0.0,
    "bn_momentum": 0.1,
    "eps": 1e-5,
}
VIT = {
    "kind": 2,
    "mels": 16,
    "channels": 1,
    "frames": 64,
    "patch_time": 4,
    "patch_mel": 8,
    "width": 24,
    "depth": 3,
    "heads": 2,
    "mlp": 40,
    "activation": 0,
    "pool": 0,
    "drop_path": 0.0,
    "dropout": 0.0,
    "eps": 1e-6,
}
TEXT = TextConfig(
    vocab=101, positions=77, max_tokens=77, width=48, layers=2, heads=2, mlp=96
).to_core()
LINEAR, MLP, MS = 1, 2, 3
WEIGHT, BIAS, STATISTIC = range(3)


def draw_parameter(rng, name, shape):
    """Return values for one parameter: nothing is 0 or 1, so that nothing hides."""
    x = rng.standard_normal(shape).astype(np.float32)
    if name == "logit_scale":
        return np.array(np.log(1 / 0.07), np.float32)
    if name.endswith("running_mean"):
        return x * 10 - 40 if ".bn0." in name else x / 5
    if name.endswith("running_var"):
        return x**2 * 100 + 50 if ".bn0." in name else x**2 + 0.2
    if name.endswith("relative_position_bias_table"):
        return x
    if name.endswith("norm.weight") or "norm1.weight" in name or "norm2.weight" in name:
        return 1 + x / 5
    if name.rsplit(".", 1)[0][-3:-1] == "bn" and name.endswith("weight"):
        return 1 + x / 5
    if name.endswith("bias"):
        return x / 5
    return x / np.sqrt(np.prod(shape[1:], dtype=float)).astype(np.float32)


def new_model(rng, audio=AUDIO, text=None, text_width=24, heads=(MLP, MLP), dim=20):
    """Return a bound model and its parameters by name."""
    model = core.Model(audio, text, text_width, *heads, dim)
    values = {name: draw_parameter(rng, name, shape) for name, shape, _ in model.parameters()}
    model.bind(list(values.values()))
    return model, values


def decibels(rng, b, frames=250, mels=16):
    """Return what looks like log-mel spectrograms."""
    loud = rng.uniform(-60, 0, (b, 1, 1))
    return (loud + 12 * rng.standard_normal((b, frames, mels))).astype(np.float32)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)
