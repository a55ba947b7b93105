"""How fast is a training step against PyTorch with transformers' audio tower?

    python benchmarks/bench_train_step.py [--threads N] [--rounds N] [--json]

Forward, backward, gradient clipping and AdamW of audio tower, head and temperature on fixed text
features; float32, the same random weights, nothing dropped, weight decay on matrices only. Five
losses in a row must agree to 1e-4 relative before anything is timed. The peer's AdamW is PyTorch's
fused one.
"""

import dataclasses
import itertools
from typing import Any

import common
import hub_peer
import numpy as np

TOLERANCE = 1e-4
HOW = {"lr": 1e-4, "beta1": 0.9, "beta2": 0.98, "eps": 1e-8, "weight_decay": 0.05, "clip": 1.0}
CASES = {"HTSAT tiny step, batch 8": ("tiny", 8), "bundled geometry step, batch 14": ("mini", 14)}


def make_config(kind: str) -> Any:
    """Return LAION's tiny, or the geometry of the bundled model, without dropping."""
    from reclap.checkpoints.model_folder import read_config, resolve
    from reclap.config import ClapConfig

    config = ClapConfig() if kind == "tiny" else read_config(resolve("mini"))
    audio = dataclasses.replace(config.audio, drop_path=0.0, time_stripes=0, freq_stripes=0)
    text = dataclasses.replace(config.text, width=config.dim)  # its features are given
    return dataclasses.replace(config, audio=audio, text=text, audio_head="mlp", text_head="none")


def make_batch(config: Any, clips: int) -> tuple[np.ndarray, np.ndarray]:
    """Return log-mels (clips, frames, mels) and unit text features (clips, dim)."""
    text = np.random.default_rng(2).standard_normal((clips, config.dim), dtype=np.float32)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    return hub_peer.log_mels(clips, config.front.frames, config.front.mels), text


def make_ours(kind: str, clips: int, threads: int) -> common.Call:
    """Return our step as a function that returns its loss."""
    from reclap.runtime.libraries import core

    config = make_config(kind)
    model = core.Model(**config.core_arguments(with_text=False))
    model.bind(list(hub_peer.random_weights(config).values()))
    trainer = core.Trainer(model, threads)
    mel, features = make_batch(config, clips)
    steps = itertools.count()
    return lambda: trainer.step(mel, features, 0, next(steps), **HOW)["loss"]


def make_peer(kind: str, clips: int, threads: int) -> common.Call:
    """Return PyTorch's step as a function that returns its loss."""
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(threads)
    config = make_config(kind)
    model = hub_peer.load(config).train()
    mel, text = (torch.from_numpy(x) for x in make_batch(config, clips))

    def embed() -> tuple[Any, Any]:
        return F.normalize(model(input_features=mel[:, None]).audio_embeds, dim=-1), text

    return hub_peer.make_step(list(model.parameters()), embed, HOW)


def main(argv: list[str] | None = None) -> int:
    """Run the script."""
    args = common.parse(argv, rounds=9, threads=common.processors(), about=__doc__)
    common.header(args)
    for name, (kind, clips) in CASES.items():
        if args.only not in name:
            continue
        ours = make_ours(kind, clips, args.threads)
        with common.Peer(make_peer, kind, clips, args.threads, threads=args.threads) as peer:
            common.same(name, [ours() / peer() for _ in range(4)], 1, TOLERANCE)
            how = {"tolerance": TOLERANCE, "gap": lambda a, b: a / b - 1, "per": clips}
            common.compare(name, common.Here(ours), peer, "PyTorch", args, **how)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
