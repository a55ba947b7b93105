"""transformers' audio tower with the same random weights as ours, for the benchmarks of it."""

from typing import TYPE_CHECKING, Any

import common
import numpy as np

if TYPE_CHECKING:
    from reclap.config import ClapConfig

AT = "audio_model.audio_encoder."
BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "attn.relative_position_bias_table": "attention.self.relative_position_bias_table",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def log_mels(clips: int, frames: int = 1001, mels: int = 64) -> np.ndarray:
    """Return decibels of a plausible range, (clips, frames, mels)."""
    x = np.random.default_rng(1).standard_normal((clips, frames, mels), dtype=np.float32)
    return x * 10 - 40


def random_weights(config: "ClapConfig") -> dict[str, np.ndarray]:
    """Draw weights of which every one matters for the output; the same in every process."""
    from reclap.runtime.libraries import core

    rng = np.random.default_rng(0)
    weights = {}
    for name, shape, kind in core.Model(**config.core_arguments(with_text=False)).parameters():
        x = rng.standard_normal(shape, dtype=np.float32)
        if name == "logit_scale":
            x = np.log(1 / 0.07)
        elif name.endswith("running_var"):
            x = 100 + np.abs(x)
        elif name.endswith("running_mean"):
            x = x - 40
        elif kind == 1 and name.endswith("weight"):  # of a norm
            x = 1 + 0.1 * x
        else:
            x = x * (shape[1] ** -0.5 if len(shape) == 2 else 0.1)
        weights[name] = np.asarray(x, np.float32)
    return weights


def hub_names(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the audio side under transformers' names; ours are LAION's."""
    out: dict[str, np.ndarray] = {}
    for name, x in weights.items():
        parts = name.split(".")
        if parts[0] == "audio_projection":
            out[f"audio_projection.linear{1 + int(parts[1]) // 2}.{parts[2]}"] = x
        elif parts[0] == "audio_branch" and "blocks" not in parts:
            out[AT + ".".join(parts[1:]).replace("bn0", "batch_norm")] = x
        elif parts[0] == "audio_branch":
            out |= _block(".".join(parts[1:5]), ".".join(parts[5:]), x)
    return out


def _block(at: str, inner: str, x: np.ndarray) -> dict[str, np.ndarray]:
    if inner.startswith("attn.qkv"):
        kinds = zip(("query", "key", "value"), np.split(x, 3), strict=True)
        return {f"{AT}{at}.attention.self.{k}.{inner.split('.')[-1]}": v for k, v in kinds}
    ours = next(name for name in BLOCK if inner.startswith(name))
    return {f"{AT}{at}.{inner.replace(ours, BLOCK[ours])}": x}


def load(config: "ClapConfig") -> Any:
    """Return a ClapAudioModelWithProjection that computes what `config` describes.

    Nothing is dropped in training: the port drops in other places than LAION's code.
    """
    import torch
    from transformers import ClapAudioConfig, ClapAudioModelWithProjection

    theirs = ClapAudioConfig(
        spec_size=config.audio.spec_size,
        patch_embeds_hidden_size=config.audio.embed,
        hidden_size=config.audio.width,
        depths=list(config.audio.depths),
        num_attention_heads=list(config.audio.heads),
        projection_dim=config.dim,
        hidden_dropout_prob=0.0,
        drop_path_rate=0.0,
        enable_fusion=False,
    )
    model = ClapAudioModelWithProjection(theirs)
    weights = hub_names(random_weights(config))
    state = {name: torch.from_numpy(np.array(x)) for name, x in weights.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [n for n in missing if not n.endswith(("position_index", "batches_tracked"))]
    if missing or unexpected:
        raise ValueError(f"missing {missing}, unexpected {unexpected}")
    return model


def make_step(parameters: list[Any], embed: common.Call, how: dict[str, float]) -> common.Call:
    """Return PyTorch's step as a function that returns its loss.

    Fused AdamW with decay of matrices only, clipping, and a temperature of its own; `embed` returns
    unit rows of sounds and of as many texts, `how` holds lr, beta1, beta2, eps, weight_decay, clip.
    """
    import torch
    import torch.nn.functional as F

    scale = torch.nn.Parameter(torch.tensor(float(np.log(1 / 0.07))))
    learns = [*parameters, scale]
    groups = [
        {"params": [p for p in learns if p.ndim > 1], "weight_decay": how["weight_decay"]},
        {"params": [p for p in learns if p.ndim <= 1], "weight_decay": 0.0},
    ]
    betas = (how["beta1"], how["beta2"])
    optimizer = torch.optim.AdamW(groups, lr=how["lr"], betas=betas, eps=how["eps"], fused=True)

    def run() -> float:
        optimizer.zero_grad()
        sound, text = embed()
        logits = scale.exp() * sound @ text.T
        target = torch.arange(len(logits))
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learns, how["clip"])
        optimizer.step()
        with torch.no_grad():
            scale.clamp_(0, float(np.log(100)))
        return loss.item()

    return run
