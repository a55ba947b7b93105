"""How fast is a training step with bfloat16 products, and where does its time go?

    python benchmarks/bench_train_types.py [--threads N] [--rounds N] [--only base] [--json]

HTSAT-base with 8 clips of 10 s, and the first 4 layers of flan-t5-large with 8 texts of 77 tokens;
random weights, no peer. Least processor time of embedding, of a gradient (embedding, loss and
backward), of a step (with clipping and AdamW), and of rounding all weights anew; float32 and
bfloat16 in turns.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import common
import hub_peer
import numpy as np

from reclap.config import ClapConfig, HtsatConfig, TextConfig
from reclap.runtime.libraries import core

CLIPS, TOKENS, LAYERS = 8, 77, 4


def small_audio() -> HtsatConfig:
    """Return a tower that costs next to nothing beside a text tower."""
    return HtsatConfig(embed=4, depths=(1,), heads=(1,))


def make(kind: str) -> tuple[Any, Any]:
    """Return a bound model and a batch of its pairs."""
    rng = np.random.default_rng(0)
    config, still = ClapConfig(), {"drop_path": 0.0, "time_stripes": 0, "freq_stripes": 0}
    if kind == "base":
        audio = HtsatConfig(embed=128, depths=(2, 2, 12, 2), **still)
        text = dataclasses.replace(config.text, width=config.dim)
        config = dataclasses.replace(config, audio=audio, text=text, text_head="none")
        mel = hub_peer.log_mels(CLIPS, config.front.frames, config.front.mels)
        pairs: Any = mel, rng.standard_normal((CLIPS, config.dim), dtype=np.float32)
    else:
        text = dataclasses.replace(TextConfig.preset("flan-t5-large"), layers=LAYERS)
        config = dataclasses.replace(config, audio=small_audio(), text=text)
        ids = rng.integers(3, text.vocab - 1, CLIPS * TOKENS).astype(np.int32)
        first = np.arange(0, CLIPS * TOKENS + 1, TOKENS, dtype=np.int32)
        pairs = hub_peer.log_mels(CLIPS, 40, config.front.mels), (ids, first)
    model = core.Model(**config.core_arguments(with_text=kind != "base"))
    model.bind([_value(rng, name, shape) for name, shape, _ in model.parameters()])
    return model, pairs


def _value(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> Any:
    if len(shape) > 1:
        return rng.standard_normal(shape, dtype=np.float32) / 2 / np.float32(shape[-1] ** 0.5)
    one = name.endswith(("weight", "running_var")) or name == "logit_scale"
    return np.full(shape, float(one), np.float32)


def calls(kind: str, dtype: str, threads: int) -> dict[str, Callable[[], Any]]:
    """Return what is timed, by name."""
    model, pairs = make(kind)
    trainer = core.Trainer(model, threads, dtype=dtype)
    return {
        "embed": lambda: trainer.embed(*pairs, 0, 0),
        "gradients": lambda: trainer.gradients(*pairs, 0, 0),
        "step": lambda: trainer.step(*pairs, 0, 0, lr=1e-6, clip=1.0),
        "rounding weights": trainer.refresh,
    }


def main(argv: list[str] | None = None) -> int:
    """Run the script."""
    args = common.parse(argv, rounds=3, threads=1, about=__doc__)
    common.header(args)
    if args.quick:
        return 0  # there is no answer to compare
    for kind in ("base", "t5"):
        if args.only not in kind:
            continue
        both = {dtype: calls(kind, dtype, args.threads) for dtype in ("float32", "bfloat16")}
        for name in both["float32"]:
            found = {dtype: [] for dtype in both}
            for _ in range(args.rounds + 1):
                for dtype, timed in both.items():
                    found[dtype].append(common.clock(timed[name])[1])
            a, b = (1e3 * min(x[1:]) for x in found.values())
            ratio = f", ratio {b / a:.2f}" if a > 1 else ""  # float32 has nothing to round
            print(f"{kind}, {name}: float32 {a:.0f} ms, bfloat16 {b:.0f} ms{ratio}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
