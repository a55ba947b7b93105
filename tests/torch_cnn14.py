"""Cnn14 in plain PyTorch: the layers of the paper, to stand against the C tower.

Written from Kong et al. 2020 (arXiv 1912.10211) and the notes on it in upstream's code, with
PyTorch's own convolutions. The module's state dict has the names of upstream's.
"""

import torch
from torch import nn


class Block(nn.Module):
    """Two convolutions, each with norm and ReLU, then average pooling."""

    def __init__(self, c, n):
        super().__init__()
        self.conv1 = nn.Conv2d(c, n, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(n, n, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(n), nn.BatchNorm2d(n)

    def forward(self, x, pool):
        x = torch.relu(self.bn1(self.conv1(x)))
        return nn.functional.avg_pool2d(torch.relu(self.bn2(self.conv2(x))), pool)


def nothing(x, site):
    """Drop nothing of x, channels first, at a site: the block, or "pooled", or "features"."""
    return x


class Cnn14(nn.Module):
    """(b, frames, mels) in dB -> (b, widths[-1])."""

    def __init__(self, mels=64, widths=(64, 128, 256, 512, 1024, 2048)):
        super().__init__()
        self.bn0 = nn.BatchNorm2d(mels)
        for i, (c, n) in enumerate(zip((1, *widths), widths, strict=False)):
            self.add_module(f"conv_block{i + 1}", Block(c, n))
        self.fc1 = nn.Linear(widths[-1], widths[-1])
        self.blocks = len(widths)

    def forward(self, mel, drop=nothing):
        x = self.bn0(mel[:, None].transpose(1, 3)).transpose(1, 3)
        for i in range(self.blocks):
            x = getattr(self, f"conv_block{i + 1}")(x, 2 if i + 1 < self.blocks else 1)
            x = drop(x, i)
        x = x.mean(dim=3)
        x = drop(x.max(dim=2).values + x.mean(dim=2), "pooled")
        return drop(torch.relu(self.fc1(x)), "features")


def random_cnn14(seed=0, **sizes):
    """Return a tower in evaluation mode in which nothing is 0 or 1."""
    torch.manual_seed(seed)
    tower = Cnn14(**sizes).eval()
    with torch.no_grad():
        for name, x in tower.state_dict().items():
            first = name.startswith("bn0")
            if name.endswith("running_mean"):
                x.normal_(-40, 10) if first else x.normal_(0, 0.2)
            elif name.endswith("running_var"):
                x.uniform_(50, 300) if first else x.uniform_(0.2, 1.5)
            elif name.endswith("bias"):
                x.normal_(0, 0.2)
            elif x.ndim == 1:
                x.normal_(1, 0.2)
            elif x.is_floating_point():
                x.normal_(0, (2 / x[0].numel()) ** 0.5)
    return tower


def core_names(named):
    """Return tensors of the tower by the core's names, kernels as (out, 3, 3, in)."""
    return {
        f"audio_branch.{name}": (x.permute(0, 2, 3, 1) if x.ndim == 4 else x).contiguous()
        for name, x in named.items()
        if not name.endswith("num_batches_tracked")
    }


def to_core(tower):
    """Return the tower's parameters by the core's names."""
    return {name: x.numpy() for name, x in core_names(tower.state_dict()).items()}


def from_core(values):
    """Return a state dict of values by the core's names; the inverse of `to_core`."""
    state = {n.removeprefix("audio_branch."): torch.from_numpy(x) for n, x in values.items()}
    return {
        n: x.permute(0, 3, 1, 2) if x.ndim == 4 else x for n, x in state.items() if "logit" not in n
    }
