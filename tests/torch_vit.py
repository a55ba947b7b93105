"""A plain vision transformer over log-mels in PyTorch, to stand against the C tower.

Written from Dosovitskiy et al. 2021 (arXiv 2010.11929) with PyTorch's own convolution, attention
and norms; parameters come by the core's names.
"""

import torch
import torch_htsat
from torch.nn import functional as F

ACTS = (
    F.gelu,
    lambda x: F.gelu(x, approximate="tanh"),
    F.relu,
    lambda x: x * (1.702 * x).sigmoid(),
)


class CoreDraws(torch_htsat.CoreDraws):
    """What the C core drops, in (b, rows, width)."""

    def __init__(self, core, config, seed, step):
        super().__init__(core, config | {"depths": [config["depth"]]}, seed, step)

    def branch(self, x, block, which):
        """Return a branch after dropout and stochastic depth."""
        x = self.dropout(x, block, which)
        return self.drop_path(x[:, None], block, which)[:, 0]


def tokens(p, mel, config, drop=None):
    """(b, channels, frames, mels) in dB -> (b, 1 + patches, width), after the final norm."""
    c = config
    kernel = p["audio_branch.patch_embed.proj.weight"]
    x = F.conv2d(mel, kernel, p["audio_branch.patch_embed.proj.bias"], stride=kernel.shape[2:])
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([p["audio_branch.cls_token"].expand(len(x), 1, -1), x], 1)
    x = x + p["audio_branch.pos_embed"][: x.shape[1]]
    drop = drop or (lambda branch, *_: branch)
    for i in range(c["depth"]):

        def layer(name, y, at=f"audio_branch.blocks.{i}."):
            return F.linear(y, p[f"{at}{name}.weight"], p[f"{at}{name}.bias"])

        def norm(name, y, at=f"audio_branch.blocks.{i}."):
            weight, bias = p[f"{at}{name}.weight"], p[f"{at}{name}.bias"]
            return F.layer_norm(y, weight.shape, weight, bias, c["eps"])

        parts = layer("attn.qkv", norm("norm1", x)).unflatten(-1, (3, c["heads"], -1))
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        o = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + drop(layer("attn.proj", o), i, 0)
        hidden = ACTS[c["activation"]](layer("mlp.fc1", norm("norm2", x)))
        x = x + drop(layer("mlp.fc2", hidden), i, 2)
    weight, bias = p["audio_branch.norm.weight"], p["audio_branch.norm.bias"]
    return F.layer_norm(x, weight.shape, weight, bias, c["eps"])


def features(p, mel, config, drop=None):
    """Return (b, width): the CLS token, or the mean of the patches."""
    x = tokens(p, mel, config, drop)
    return x[:, 1:].mean(1) if config["pool"] else x[:, 0]


def loss(p, mel, text, config, drop=None):
    """Loss in train mode."""
    a = torch_htsat.head(p, "audio_projection", features(p, mel, config, drop), 2)
    t = torch_htsat.head(p, "text_projection", text, 2)
    logits = p["logit_scale"].exp() * a @ t.T
    target = torch.arange(len(a))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
