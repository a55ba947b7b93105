"""How fast is the audio tower against transformers' ClapAudioModelWithProjection?

    python benchmarks/bench_audio_tower.py [--threads N] [--rounds N] [--json]

Log-mel in, unit embedding out: HTSAT tiny and base, 1 and 8 clips of 10 s, float32, the same random
weights on both sides. The answers must agree to 2e-5 before anything is timed.
"""

import numpy as np

import common

TOLERANCE = 2e-5
CASES = [("tiny", 1), ("tiny", 8), ("base", 1), ("base", 8)]
HF_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "attn.relative_position_bias_table": "attention.self.relative_position_bias_table",
}


def clip_config(preset: str):
    from reclap.config import ClapConfig, HtsatConfig

    return ClapConfig(audio=HtsatConfig.preset(preset))


def picture(clips: int) -> np.ndarray:
    """Return decibels of a plausible range, (clips, 1001, 64)."""
    x = np.random.default_rng(1).standard_normal((clips, 1001, 64), dtype=np.float32)
    return x * 10 - 40


def random_weights(shapes: list[tuple[str, tuple[int, ...], int]]) -> dict[str, np.ndarray]:
    """Draw weights of which every one matters for the output."""
    rng = np.random.default_rng(0)
    weights = {}
    for name, shape, kind in shapes:
        x = rng.standard_normal(shape, dtype=np.float32)
        if name.endswith("running_var"):
            x = 100 + np.abs(x)
        elif name.endswith("running_mean"):
            x = x - 40
        elif kind == 1 and name.endswith("weight"):  # of a norm
            x = 1 + np.float32(0.1) * x
        else:
            x = x * np.float32(shape[1] ** -0.5 if len(shape) == 2 else 0.1)
        weights[name] = np.asarray(x, np.float32)
    return weights


def ours(preset: str, clips: int, threads: int) -> common.Call:
    from reclap._libraries import core

    model = core.Model(**clip_config(preset).core_arguments(with_text=False))
    weights = random_weights(model.parameters())
    model.bind(list(weights.values()))
    model.pack()
    context, mel = core.Context(threads), picture(clips)
    return lambda: model.audio(context, mel)


def hub_names(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return LAION's names (ours) as transformers spells them."""
    out = {}
    for name, x in weights.items():
        parts = name.replace("audio_branch.", "").replace("bn0", "batch_norm").split(".")
        short = ".".join(parts)
        if name.startswith("audio_projection"):
            layer = {"0": "linear1", "2": "linear2"}[parts[1]]
            out[f"audio_projection.{layer}.{parts[2]}"] = x
            continue
        if name.startswith(("text_", "logit")):
            continue
        at = "audio_model.audio_encoder."
        if "blocks" not in parts:
            out[at + short] = x
            continue
        block, inner = ".".join(parts[:4]), ".".join(parts[4:])
        if inner.startswith("attn.qkv"):
            for piece, theirs in zip(np.split(x, 3), ("query", "key", "value"), strict=True):
                out[f"{at}{block}.attention.self.{theirs}.{parts[-1]}"] = piece
            continue
        for a, b in HF_BLOCK.items():
            if inner.startswith(a):
                out[f"{at}{block}.{inner.replace(a, b)}"] = x
    return out


def peer(preset: str, clips: int, threads: int) -> common.Call:
    import torch
    from transformers import ClapAudioConfig, ClapAudioModelWithProjection

    from reclap._libraries import core

    torch.set_num_threads(threads)
    config = clip_config(preset)
    shapes = core.Model(**config.core_arguments(with_text=False)).parameters()
    theirs = ClapAudioConfig(
        patch_embeds_hidden_size=config.audio.embed,
        hidden_size=config.audio.width,
        depths=list(config.audio.depths),
        num_attention_heads=list(config.audio.heads),
        projection_dim=config.dim,
        enable_fusion=False,
    )
    model = ClapAudioModelWithProjection(theirs).eval()
    state = {k: torch.from_numpy(v) for k, v in hub_names(random_weights(shapes)).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [k for k in missing if "relative_position_index" not in k and "num_batches" not in k]
    if missing or unexpected:
        raise ValueError(f"missing {missing}, unexpected {unexpected}")
    mel = torch.from_numpy(picture(clips))[:, None]

    def run() -> np.ndarray:
        with torch.inference_mode():
            x = model(input_features=mel).audio_embeds
            return torch.nn.functional.normalize(x, dim=-1).numpy()

    return run


def main(argv: list[str] | None = None) -> int:
    args = common.parse(argv, rounds=15, threads=common.processors(), about=__doc__)
    common.header(args)
    for preset, clips in CASES:
        name = f"HTSAT {preset} forward, batch {clips}"
        if args.only not in name:
            continue
        run = ours(preset, clips, args.threads)
        with common.Peer(peer, preset, clips, args.threads, threads=args.threads) as other:
            gap = float(np.abs(run() - other()).max())
            if gap > TOLERANCE:
                raise SystemExit(f"{name}: answers differ by {gap:.1e}, allowed {TOLERANCE:.0e}")
            a, b = common.alternate(run, other, args.rounds)
            common.report(
                name, a, b, "transformers", args,
                per=clips, difference=gap, memory_mb=common.memory(), peer_memory_mb=other.memory(),
            )  # fmt: skip
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
