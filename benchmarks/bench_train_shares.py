"""What part of a full training step does one take that trains less?

    python benchmarks/bench_train_shares.py [--threads N] [--rounds N] [--json]

A step of HTS-AT and both heads on fixed text features, float32, with low-rank adapters of rank 8 as
all that learns: of attention's layers, or of every linear layer. The other side is our own step in
which all parameters learn. Answers are not compared: batch norms of the full step work with the
statistics of the batch. tests/test_adapters.py follows torch.
"""

import dataclasses
import itertools
from typing import Any

import common
import hub_peer
import numpy as np
from bench_train_step import HOW, make_batch

RANK, ALPHA = 8, 16.0
TOWERS = {  # width, blocks and heads; clips
    "tiny": (96, (2, 2, 6, 2), (4, 8, 16, 32), 4),
    "base": (128, (2, 2, 12, 2), (4, 8, 16, 32), 2),
    "small": (24, (1, 1), (2, 4), 2),  # --quick
}
LAYERS = {"attention": (".attn.",), "every linear layer": ("",)}


def make_config(tower: str) -> Any:
    """Return a configuration with a tower of this size, in which nothing drops."""
    from reclap.config import ClapConfig

    embed, depths, heads, _ = TOWERS[tower]
    config = ClapConfig()
    still = {"drop_path": 0.0, "time_stripes": 0, "freq_stripes": 0}
    audio = dataclasses.replace(config.audio, embed=embed, depths=depths, heads=heads, **still)
    text = dataclasses.replace(config.text, width=config.dim)  # its features are given
    return dataclasses.replace(config, audio=audio, text=text, audio_head="mlp", text_head="none")


def make(tower: str, threads: int, layers: tuple[str, ...] | None) -> common.Call:
    """Return a step as a function that returns its loss; without `layers` all learns."""
    from reclap.runtime.libraries import core

    config = make_config(tower)
    model = core.Model(**config.core_arguments(with_text=False))
    values = hub_peer.random_weights(config)
    rng, rates = np.random.default_rng(3), None
    if layers:
        names = [name for name, _, _ in model.parameters()]
        for place in model.linear():
            if any(part in names[place] for part in layers):
                model.adapt(place, RANK, ALPHA)
        for name, shape, _ in model.parameters()[len(names) :]:
            scale = shape[1] ** -0.5 if "lora_A" in name else 0.0
            values[name] = scale * rng.standard_normal(shape, dtype=np.float32)
        rates = np.array([".lora_" in name for name in values], np.float32)
    model.bind([np.asarray(x, np.float32) for x in values.values()])
    trainer = core.Trainer(model, threads, rates)
    mel, features = make_batch(config, TOWERS[tower][-1])
    steps = itertools.count()
    return lambda: trainer.step(mel, features, 0, next(steps), **HOW | {"lr": 0.0})["loss"]


def main(argv: list[str] | None = None) -> int:
    """Run the script."""
    args = common.parse(argv, rounds=7, threads=common.processors(), about=__doc__)
    common.header(args)
    for tower in ("small",) if args.quick else ("tiny", "base"):
        full = common.Here(make(tower, args.threads, None))
        for name, layers in LAYERS.items():
            row = f"HTSAT {tower}, adapters of {name}"
            if args.only not in row:
                continue
            ours = common.Here(make(tower, args.threads, layers))
            costs = common.alternate(ours, full, args.rounds)
            common.report(row, *costs, "full step", args, per=TOWERS[tower][-1])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
