"""HTS-AT, projection heads and loss in plain PyTorch: the formulas, in the order of the paper.

Written from the papers and LAION's clap_module/htsat.py, to stand against the C towers. Parameters
are a dictionary by LAION's names. Random draws of training are asked from an object, so that both
sides can drop the same things.
"""

import numpy as np
import reference
import torch
import torch.nn.functional as F

AUDIO = "audio_branch."


class NoDraws:
    """Training without dropping anything."""

    def stripes(self, x):
        return x

    def dropout(self, branch, block, which):
        return branch

    def drop_path(self, branch, block, which):
        return branch


class CoreDraws:
    """What the C core drops at (seed, step), from its numbers draws(kind, n, seed, step, site)."""

    def __init__(self, kernels, config, seed, step):
        self.kernels, self.config, self.at = kernels, config, (seed, step)
        self.blocks = sum(config["depths"])

    def uniform(self, n, site):
        return self.kernels.draws("uniform", int(n), *self.at, site)

    def stripes(self, x):
        c, x = self.config, x.clone()
        u = self.uniform(256 * len(x), 1)
        kinds = [(0, c["time_width"])] * c["time_stripes"] + [(1, c["freq_width"])] * c[
            "freq_stripes"
        ]
        for clip in range(len(x)):
            for k, (axis, most) in enumerate(kinds):
                length = x.shape[1 + axis]
                first, second = u[clip * 256 + 2 * k], u[clip * 256 + 2 * k + 1]
                width = int(first * np.float32(min(most, length)))
                start = int(second * np.float32(length - width))
                x[clip].narrow(axis, start, width).zero_()
        return x

    def dropout(self, branch, block, which):
        """Over (b, windows, window^2, c): the order of the C core."""
        p = self.config["dropout"]
        kept = self.uniform(branch.numel(), 16 + 4 * block + which) >= np.float32(p)
        return branch * torch.from_numpy(kept.reshape(branch.shape)) / (1 - p)

    def drop_path(self, branch, block, which):
        p = self.config["drop_path"] * block / max(1, self.blocks - 1)
        kept = self.uniform(len(branch), 16 + 4 * block + which + 1) >= np.float32(p)
        return branch * torch.from_numpy(kept)[:, None, None, None] / (1 - p)


def partition(x, window):
    """(b, side, side, c) -> (b, windows, window^2, c)."""
    b, side, _, c = x.shape
    a = side // window
    x = x.reshape(b, a, window, a, window, c).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(b, a * a, window * window, c)


def reverse(x, window, side):
    b, c, a = len(x), x.shape[-1], side // window
    x = x.reshape(b, a, a, window, window, c).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(b, side, side, c)


ACTS = (
    F.gelu,
    lambda x: F.gelu(x, approximate="tanh"),
    F.relu,
    lambda x: x * (1.702 * x).sigmoid(),
)


def norm(p, name, x, eps):
    return F.layer_norm(x, x.shape[-1:], p[name + ".weight"], p[name + ".bias"], eps)


def linear(p, name, x):
    return F.linear(x, p[name + ".weight"], p.get(name + ".bias"))


def attention(p, at, x, heads, window, mask):
    """Over (b, windows, t, c)."""
    b, n, t, c = x.shape
    q, k, v = linear(p, at + "qkv", x).reshape(b, n, t, 3, heads, -1).permute(3, 0, 1, 4, 2, 5)
    index = torch.from_numpy(reference.relpos_index(window))
    bias = p[at + "relative_position_bias_table"][index].permute(2, 0, 1)
    s = q @ k.transpose(-1, -2) * (c // heads) ** -0.5 + bias
    if mask is not None:
        s = s + mask[:, None]
    return linear(p, at + "proj", (s.softmax(-1) @ v).transpose(2, 3).reshape(b, n, t, c))


def block(p, at, x, heads, window, shift, config, drop, number):
    eps, side = config["block_eps"], x.shape[1]
    mask = torch.from_numpy(reference.window_mask(side, window, shift)) if shift else None
    x = partition(torch.roll(x, (-shift, -shift), (1, 2)), window)

    def dropped(branch, which):
        return drop.drop_path(drop.dropout(branch, number, which), number, which)

    x = x + dropped(
        attention(p, at + "attn.", norm(p, at + "norm1", x, eps), heads, window, mask), 0
    )
    hidden = ACTS[config["activation"]](linear(p, at + "mlp.fc1", norm(p, at + "norm2", x, eps)))
    x = x + dropped(linear(p, at + "mlp.fc2", hidden), 2)
    return torch.roll(reverse(x, window, side), (shift, shift), (1, 2))


def merge(p, at, x, eps):
    four = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]  # row first: (0,0) (1,0) (0,1) (1,1)
    return linear(p, at + "reduction", norm(p, at + "norm", torch.cat(four, -1), eps))


def batch_norm(p, at, x, config, train):
    """Over the last axis; running statistics are updated in place, as nn.BatchNorm2d does."""
    if not train:
        mean, var = p[at + "running_mean"], p[at + "running_var"]
    else:
        rows = x.reshape(-1, x.shape[-1])
        mean, var = rows.mean(0), rows.var(0, unbiased=False)
        n = len(rows)
        with torch.no_grad():
            momentum = config["bn_momentum"]
            p[at + "running_mean"].lerp_(mean, momentum)
            p[at + "running_var"].lerp_(var * n / max(1, n - 1), momentum)
    return (x - mean) / torch.sqrt(var + config["eps"]) * p[at + "weight"] + p[at + "bias"]


def fold(x, config):
    """(b, frames, mels) stretched and folded to (b, 1, spec, spec)."""
    spec, mels = config["spec_size"], config["mels"]
    frames = spec * spec // mels
    x = torch.from_numpy(reference.stretch_matrix(x.shape[1], frames)).to(x.dtype) @ x
    # Quarter r of the time axis becomes rows r * mels .. of the square.
    return x.reshape(-1, spec // mels, spec, mels).transpose(2, 3).reshape(-1, 1, spec, spec)


def attend_to(p, at, first, x, config, train):
    """One branch of the attention of feature fusion over (n, side, side, c)."""

    def conv(number, x):
        return F.linear(x, p[f"{at}{number}.weight"][:, :, 0, 0], p[f"{at}{number}.bias"])

    x = batch_norm(p, f"{at}{first + 1}.", conv(first, x), config, train)
    return batch_norm(p, f"{at}{first + 4}.", conv(first + 3, x.relu()), config, train)


def fuse(p, x, local, config, train):
    """Patches x (n, side, side, c) of whole log-mels with local ones, folded (n, 3, spec, spec).

    Dai et al. 2021 as LAION's clap_module/feature_fusion.py, class AFF.
    """
    at, side, patch = AUDIO + "patch_embed.", x.shape[1], config["patch"]
    y = F.conv2d(
        local.flatten(0, 1)[:, None],
        p[at + "mel_conv2d.weight"],
        p[at + "mel_conv2d.bias"],
        stride=(patch, 3 * patch),
    )
    y = y.unflatten(0, local.shape[:2]).permute(0, 3, 1, 4, 2).flatten(2, 3)
    y = F.pad(y, (0, 0, 0, side - y.shape[2]))
    both, at = x + y, at + "fusion_model."
    w = attend_to(p, at + "local_att.", 0, both, config, train)
    mean = both.mean((1, 2), keepdim=True)
    w = (w + attend_to(p, at + "global_att.", 1, mean, config, train)).sigmoid()
    return 2 * x * w + 2 * y * (1 - w)


def patches(p, mel, config, train, drop, longer):
    """Patch embeddings (b, side, side, embed) of log-mels, (b, 4, frames, mels) with fusion."""
    views = mel if config["fusion"] else mel[:, None]
    if longer is not None:  # of a clip that is not longer all four are the same
        views = torch.where(longer[:, None, None, None], views, views[:, :1])
    x = batch_norm(p, AUDIO + "bn0.", views, config, train)
    if train:
        x = torch.stack([drop.stripes(view) for view in x.unbind(1)], 1)
    x = torch.stack([fold(view, config)[:, 0] for view in x.unbind(1)], 1)
    at = AUDIO + "patch_embed."
    y = F.conv2d(x[:, :1], p[at + "proj.weight"], p[at + "proj.bias"], stride=config["patch"])
    y = y.permute(0, 2, 3, 1)
    if longer is not None and longer.any():
        fused = fuse(p, y[longer], x[longer, 1:], config, train)
        y = y.index_put((torch.where(longer)[0],), fused)
    return norm(p, at + "norm", y, config["eps"]) if config["patch_norm"] else y


def features(p, mel, config, train=False, drop=None, longer=None):
    """(b, frames, mels) in dB, with fusion (b, 4, frames, mels) -> (b, width)."""
    drop, eps = drop or NoDraws(), config["eps"]
    x = patches(p, mel, config, train, drop, longer)
    number = 0
    for i, (depth, heads) in enumerate(zip(config["depths"], config["heads"], strict=True)):
        side = x.shape[1]
        window = min(config["window"], side)
        for j in range(depth):
            shift = window // 2 if j % 2 and side > window else 0
            at = f"{AUDIO}layers.{i}.blocks.{j}."
            x = block(p, at, x, heads, window, shift, config, drop, number)
            number += 1
        if i + 1 < len(config["depths"]):
            x = merge(p, f"{AUDIO}layers.{i}.downsample.", x, eps)
    return norm(p, AUDIO + "norm", x, eps).mean((1, 2))


def head(p, name, x, kind):
    if kind == 1:
        x = linear(p, name + ".0", x)
    if kind == 2:
        x = linear(p, name + ".2", F.relu(linear(p, name + ".0", x)))
    if kind == 3:
        e = linear(p, name + ".linear1", x)
        x = norm(p, name + ".layer_norm", e + linear(p, name + ".linear2", F.gelu(e)), 1e-5)
    return F.normalize(x, dim=-1)


def loss(p, mel, text, config, kinds=(2, 2), drop=None, longer=None):
    """Loss in train mode."""
    a = head(p, "audio_projection", features(p, mel, config, True, drop, longer), kinds[0])
    t = head(p, "text_projection", text, kinds[1])
    logits = p["logit_scale"].exp() * a @ t.T
    target = torch.arange(len(a))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
