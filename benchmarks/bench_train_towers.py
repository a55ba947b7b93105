"""How fast is a step of both towers against PyTorch, and against its products alone?

    python benchmarks/bench_train_towers.py [--threads N] [--rounds N] [--only T5]
                                            [--dtype bfloat16]

HTSAT-base on batches of eight clips of 10 s, flan-T5-large's encoder on eight texts of 77 tokens,
and both with their heads: forward, backward, gradient clipping and AdamW, the same random weights,
nothing dropped. Three losses in a row must agree before anything is timed; the peer's AdamW is
PyTorch's fused one. The limit is the time of the products of towers alone: three times those of
forward, at the highest rate that one of them reaches by itself in this run. Also what a step need
not do: text that is frozen and given as features, and adapters of rank 16 alone.
"""

import dataclasses
import functools
import itertools
import statistics
from typing import Any

import bench_text_tower
import common
import hub_peer
import numpy as np

TOLERANCE = {"float32": 1e-3, "bfloat16": 3e-2}
HOW = {"lr": 1e-5, "beta1": 0.9, "beta2": 0.98, "eps": 1e-8, "weight_decay": 0.05, "clip": 1.0}
BATCH, TOKENS = 8, 77
CASES = {"HTSAT-base": (True, False), "flan-T5-large": (False, True), "both": (True, True)}
ADAPTED = ("attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight")


def make_config(audio: bool, text: bool, quick: bool) -> Any:
    """Return ReCLAP's configuration without fusion and dropping; small where not asked."""
    from reclap.checkpoints.model_folder import read_config, resolve
    from reclap.config import ClapConfig
    from reclap.config.towers import HtsatConfig

    front, tower = ClapConfig().front, HtsatConfig(embed=128, depths=(2, 2, 12, 2))
    if quick or not audio:
        mini = read_config(resolve("mini"))
        front, tower = mini.front, mini.audio
    tower = dataclasses.replace(tower, drop_path=0.0, time_stripes=0, freq_stripes=0)
    t5 = bench_text_tower.config_of("flan-t5-large", quick)
    t5 = t5 if text else dataclasses.replace(t5, width=512)  # its features are given
    head = "mlp" if text else "none"
    return ClapConfig(front=front, audio=tower, text=t5, audio_head="mlp", text_head=head)


def make_batch(config: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return log-mels, token ids (8, 77) and text features (8, dim)."""
    rng = np.random.default_rng(3)
    ids = rng.integers(3, 30000, (BATCH, TOKENS)).astype(np.int32)
    features = rng.standard_normal((BATCH, config.dim), dtype=np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return hub_peer.log_mels(BATCH, config.front.frames, config.front.mels), ids, features


def all_weights(config: Any, text: bool, quick: bool) -> dict[str, np.ndarray]:
    """Return weights of towers and heads by our names."""
    weights = hub_peer.random_weights(config)
    if text:
        t5 = bench_text_tower.config_of("flan-t5-large", quick)
        weights |= bench_text_tower.make_weights("flan-t5-large", t5)()
    return weights


def make_ours(case: str, kind: str, dtype: str, threads: int, quick: bool) -> tuple[Any, Any]:
    """Return our step and our gradients as functions that return the loss."""
    from reclap.runtime.libraries import core

    audio, text = CASES[case]
    text = text and kind != "frozen text"
    config = make_config(audio, text, quick)
    model = core.Model(**config.core_arguments(with_text=text))
    if kind == "adapters":
        for place, (name, _, _) in enumerate(model.parameters()):
            if name.endswith(ADAPTED):
                model.adapt(place, 16, 16.0)
    weights, values = all_weights(config, text, quick), []
    for name, shape, _ in model.parameters():
        value = weights.get(name, np.full(shape, 0.01))
        values.append(np.ascontiguousarray(value, np.float32).reshape(shape))
    model.bind(values)
    names = [name for name, _, _ in model.parameters()]
    rates = np.ones(len(names), np.float32)
    if kind == "adapters":
        rates[:] = ["lora" in name for name in names]
    if not audio:
        rates[[n.startswith("audio") for n in names]] = 0
    trainer = core.Trainer(model, threads, rates, dtype=dtype)
    mel, ids, features = make_batch(config)
    texts: Any = features
    if text:
        texts = ids.ravel(), np.arange(0, BATCH * TOKENS + 1, TOKENS, dtype=np.int32)
    steps = itertools.count()

    def step() -> float:
        return trainer.step(mel, texts, 0, next(steps), **HOW)["loss"]

    return step, lambda: trainer.gradients(mel, texts, 0, 0)["loss"]


def make_peer(case: str, dtype: str, threads: int, quick: bool) -> common.Call:
    """Return PyTorch's step as a function that returns its loss."""
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(threads)
    audio, text = CASES[case]
    config = make_config(audio, text, quick)
    sounds = hub_peer.load(config).train(audio)
    modules = [sounds] if audio else []
    if text:
        t5 = bench_text_tower.make_module(
            "flan-t5-large", bench_text_tower.config_of("flan-t5-large", quick)
        )
        weights = all_weights(config, text, quick)
        head = torch.nn.Sequential(
            torch.nn.Linear(t5.config.d_model, config.dim),
            torch.nn.ReLU(),
            torch.nn.Linear(config.dim, config.dim),
        )
        head.load_state_dict(
            {n: torch.from_numpy(weights[f"text_projection.{n}"]) for n in head.state_dict()}
        )
        modules += [t5, head]
    mel, ids, features = (torch.from_numpy(x) for x in make_batch(config))
    narrow = torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")

    def embed() -> tuple[Any, Any]:
        with narrow:
            with torch.set_grad_enabled(audio):
                a = F.normalize(sounds(input_features=mel[:, None]).audio_embeds.float(), dim=-1)
            if not text:
                return a, features
            t = head(t5(input_ids=ids.long()).last_hidden_state.mean(1))
            return a, F.normalize(t.float(), dim=-1)

    return hub_peer.make_step([p for m in modules for p in m.parameters()], embed, HOW)


# ---- Products alone --------------------------------------------------------------------------


def products(case: str, quick: bool) -> list[tuple[int, int, int]]:
    """Return rows, inputs and outputs of each linear layer of the towers, forward."""
    audio, text = CASES[case]
    config = make_config(audio, text, quick)
    found = []
    if audio:
        a, tokens = config.audio, (config.audio.spec_size // config.audio.patch) ** 2
        for stage, depth in enumerate(a.depths):
            rows, c = BATCH * tokens // 4**stage, a.embed << stage
            wide = int(c * a.mlp_ratio)
            found += [(rows, c, 3 * c), (rows, c, c), (rows, c, wide), (rows, wide, c)] * depth
            if stage + 1 < len(a.depths):
                found.append((rows // 4, 4 * c, 2 * c))
    if text:
        t, rows = config.text, BATCH * TOKENS
        c = t.width
        found += [
            (rows, c, 3 * c),
            (rows, c, c),
            *[(rows, c, t.mlp)] * 2,
            (rows, t.mlp, c),
        ] * t.layers
    return found


def limit(case: str, dtype: str, threads: int, quick: bool) -> tuple[float, float]:
    """Return seconds of the products of a step, and the rate that this is at, in GFLOP/s."""
    from reclap.runtime.libraries import kernels

    shapes, rate = products(case, quick), 0.0
    packed = None if dtype == "float32" else dtype
    for m, k, n in sorted(set(shapes)):
        x, w = (
            np.random.default_rng(0).standard_normal(s, dtype=np.float32) for s in ((m, k), (n, k))
        )
        rows = max(16, min(256, m // (4 * threads)))
        product = functools.partial(kernels.linear_forward, x, w, None, threads, rows, packed)
        seconds = [common.clock(product)[0] for _ in range(4)]
        rate = max(rate, 2e-9 * m * k * n / min(seconds))
    return 3 * sum(2e-9 * m * k * n for m, k, n in shapes) / rate, rate


def make_roberta(lengths: list[int], threads: int) -> common.Call:
    """Return a step of RoBERTa, beside a small frozen audio tower, on texts of these lengths."""
    from reclap.config.towers import TextConfig
    from reclap.runtime.libraries import core

    config = make_config(False, False, True)
    config = dataclasses.replace(config, text=TextConfig.preset("roberta-base"), text_head="mlp")
    model = core.Model(**config.core_arguments(with_text=True))
    rng, values = np.random.default_rng(0), []
    for _, shape, kind in model.parameters():
        x = np.ones(shape, np.float32)
        values.append(x if kind else rng.standard_normal(shape, dtype=np.float32) * 0.02)
    model.bind(values)
    rates = [float(n.startswith("text")) for n, _, _ in model.parameters()]
    trainer, count = core.Trainer(model, threads, rates), len(lengths)
    ids = rng.integers(3, 50000, sum(lengths)).astype(np.int32)
    texts = ids, np.cumsum([0, *lengths]).astype(np.int32)
    mel = hub_peer.log_mels(count, config.front.frames, config.front.mels)
    return lambda: trainer.gradients(mel, texts, 0, 0)["loss"]


def ragged(threads: int, rounds: int) -> None:
    """Print the time of captions at their own lengths, as a share of the same padded to 77."""
    config = bench_text_tower.config_of("roberta-base", False)
    texts = bench_text_tower.texts_of("roberta-base", config, False)
    if texts is None:
        print("  captions of unequal length: left out, none beside the checkout")
        return
    lengths = [len(x) for x in texts[:32]]
    own, full = (make_roberta(x, threads) for x in (lengths, [TOKENS] * len(lengths)))
    share = timed(own, rounds) / timed(full, rounds)
    mean = statistics.mean(lengths)
    print(f"  RoBERTa, captions of {mean:.1f} tokens: {share:.2f} of the same padded to {TOKENS}")


def timed(run: common.Call, rounds: int) -> float:
    """Return the median of some rounds, in seconds."""
    return statistics.median(common.clock(run)[0] for _ in range(rounds))


def main(argv: list[str] | None = None) -> int:
    """Run the script."""
    p = common.parser(__doc__, rounds=5, threads=common.processors())
    p.add_argument("--dtype", choices=list(TOLERANCE), default="float32")
    args = p.parse_args(argv)
    common.header(args)
    how = args.dtype, args.threads, args.quick
    for case in CASES:
        if args.only not in case or (args.quick and case != "both"):
            continue
        step, gradients = make_ours(case, "whole", *how)
        if not common.lacks(case, ["torch", "transformers"], args):
            with common.Peer(make_peer, case, *how, threads=args.threads) as peer:
                apart = [abs(step() / peer() - 1) for _ in range(3)]
                common.same(case, apart, 0, TOLERANCE[args.dtype])
                name = f"{case}, {args.dtype}"
                spread = {
                    "tolerance": TOLERANCE[args.dtype],
                    "gap": lambda a, b: a / b - 1,
                    "per": BATCH,
                }
                common.compare(name, common.Here(step), peer, "PyTorch", args, **spread)
        if args.quick:
            continue
        whole, back = timed(step, args.rounds), timed(gradients, args.rounds)
        least, rate = limit(case, *how)
        print(
            f"  products alone {least:.3f} s at {rate:.0f} GFLOP/s; forward and backward "
            f"{back:.3f} s, {least / back:.2f} of it; the update {whole - back:.3f} s"
        )
        del step, gradients
        for kind in ("frozen text", "adapters") if case == "both" else ():
            part, _ = make_ours(case, kind, *how)
            part()
            print(f"  {kind}: {timed(part, args.rounds) / whole:.2f} of the whole step")
            del part
    if not args.quick and args.only in "RoBERTa" and args.dtype == "float32":
        ragged(args.threads, args.rounds)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
