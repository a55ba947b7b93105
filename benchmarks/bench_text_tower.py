"""How fast are the text towers against other engines?

    python benchmarks/bench_text_tower.py [--threads N] [--rounds N] [--only T5] [--json]

flan-T5-large's encoder on 8 texts of 77 tokens, of which every one counts, against PyTorch and
OpenVINO; RoBERTa and BERT (base) on real captions of unequal length, ours packed without padding
and transformers' padded to the longest of a batch, both in batches of 64; one of the texts alone.
Random weights, the same on both sides, pooled rows before the head; captions are cut into tokens by
the bundled model's tokenizer. Answers must agree to `TOLERANCE` of their standard deviation before
anything is timed.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
import engines
import numpy as np

if TYPE_CHECKING:
    from reclap.config.towers import TextConfig

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.2}
BATCH = 64
ROWS = (  # tower, our type, engine of the peer, texts
    ("flan-t5-large", "float32", "PyTorch", "many"),
    ("flan-t5-large", "float32", "OpenVINO", "many"),
    ("flan-t5-large", "bfloat16", "OpenVINO bf16", "many"),
    ("flan-t5-large", "float32", "PyTorch", "one"),
    ("roberta-base", "float32", "PyTorch", "many"),
    ("roberta-base", "float32", "PyTorch", "one"),
    ("bert-base", "float32", "PyTorch", "many"),
    ("bert-base", "bfloat16", "PyTorch", "many"),
)
FROM = {"flan-t5-large": "from_t5", "roberta-base": "from_roberta", "bert-base": "from_bert"}


def config_of(tower: str, quick: bool) -> "TextConfig":
    """Return the tower; two layers of it where it must be quick."""
    from reclap.config.towers import TextConfig

    config = TextConfig.preset(tower)
    return dataclasses.replace(config, layers=2, vocab=30522) if quick else config


def make_module(tower: str, config: "TextConfig") -> Any:
    """Return transformers' module with weights of which every one matters."""
    import torch
    import transformers as hub

    common_names = {"vocab_size": config.vocab, "layer_norm_eps": config.eps}
    if tower == "flan-t5-large":
        theirs = hub.T5Config(
            vocab_size=config.vocab,
            d_model=config.width,
            d_kv=config.width // config.heads,
            d_ff=config.mlp,
            num_layers=config.layers,
            num_heads=config.heads,
            feed_forward_proj="gated-gelu",
        )
        kind = hub.T5EncoderModel
    else:
        bert = tower == "bert-base"
        theirs = (hub.BertConfig if bert else hub.RobertaConfig)(
            num_hidden_layers=config.layers,
            max_position_embeddings=config.positions,
            type_vocab_size=config.types,
            **common_names,
        )
        kind = hub.BertModel if bert else hub.RobertaModel
    torch.manual_seed(0)
    module = kind(theirs).eval()
    with torch.no_grad():
        for x in module.parameters():
            if x.ndim == 1:
                x.add_(0.1 * torch.randn_like(x))
    return module


def make_weights(tower: str, config: "TextConfig") -> common.Call:
    """Return a function that gives the module's weights by our names."""
    from reclap.checkpoints.families import text_names

    state = {n: x.numpy() for n, x in make_module(tower, config).state_dict().items()}
    return lambda: {n: np.asarray(x) for n, x in getattr(text_names, FROM[tower])(state).items()}


def make_ours(
    config: "TextConfig", weights: dict[str, np.ndarray], texts: list[Any], dtype: str, threads: int
) -> common.Call:
    """Return our tower as a function."""
    from reclap.config import ClapConfig
    from reclap.model.weights import Weights
    from reclap.runtime.libraries import core

    whole, zero = ClapConfig(text=config), np.zeros((), np.float32)
    model = Weights(
        whole,
        Path("random weights"),
        lambda wanted: (weights.get(name, zero) for name, _ in wanted),
        dtype,
        audio=None,
        text_head=0,
        dim=config.width,
    ).core
    context, batches = core.Context(threads), [_packed(part) for part in _batches(texts)]
    return lambda: np.concatenate([model.text(context, *b, features=True) for b in batches])


def _batches(texts: list[Any]) -> list[list[Any]]:
    return [texts[i : i + BATCH] for i in range(0, len(texts), BATCH)]


def _packed(texts: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    first = np.cumsum([0, *map(len, texts)])
    return np.concatenate(texts).astype(np.int32), first.astype(np.int32)


def make_peer(
    tower: str, config: "TextConfig", texts: list[list[int]], engine: str, threads: int
) -> common.Call:
    """Return the peer's tower as a function."""
    import torch

    inner = make_module(tower, config)

    class Pooled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            out = self.inner(input_ids=ids, attention_mask=mask)
            if tower == "flan-t5-large":
                return out.last_hidden_state.mean(dim=1)
            if tower == "roberta-base":
                return out.pooler_output
            return out.last_hidden_state[:, 0]

    module = Pooled()
    runs = [engines.start(engine, module, _padded(part), threads) for part in _batches(texts)]
    return lambda: np.concatenate([run() for run in runs])


def _padded(texts: list[list[int]]) -> Any:
    import torch

    longest = max(map(len, texts))
    ids = torch.tensor([[*t, *[1] * (longest - len(t))] for t in texts])
    mask = torch.tensor([[1] * len(t) + [0] * (longest - len(t)) for t in texts])
    return ids, mask


def texts_of(tower: str, config: "TextConfig", quick: bool) -> list[list[int]] | None:
    """Return token ids: full lengths for T5, real captions for the others, None without these."""
    if tower == "flan-t5-large":
        return np.random.default_rng(0).integers(2, config.vocab, (8, config.pad_to)).tolist()
    folder = common.shared()
    if folder is None:
        return None
    from tokenizers import Tokenizer

    from reclap.checkpoints.model_folder import resolve

    captions = common.captions()[:: 300 if quick else 19]
    tokenizer = Tokenizer.from_file(str(resolve("mini") / "tokenizer.json"))
    tokenizer.no_padding()
    return [e.ids for e in tokenizer.encode_batch(captions)]


def run(
    name: str, tower: str, dtype: str, engine: str, count: str, args: argparse.Namespace
) -> None:
    """Time one row."""
    config, n = config_of(tower, args.quick), args.threads
    texts = texts_of(tower, config, args.quick)
    if count == "one" and texts is not None:
        texts = texts[:1]
    if texts is None:
        common.skip(name, "no captions beside the checkout", args)
        return
    with common.Peer(make_weights, tower, config, threads=n) as source:
        weights = source()
    ours = common.Here(make_ours(config, weights, texts, dtype, n))
    spread = float(np.std(ours()))
    with common.Peer(make_peer, tower, config, texts, engine, n, threads=n) as peer:
        common.compare(
            name,
            ours,
            peer,
            engine,
            args,
            tolerance=TOLERANCE[dtype] * spread,
            per=len(texts),
            tokens=sum(map(len, texts)) / len(texts),
        )


def main(argv: list[str] | None = None) -> int:
    """Run the script."""
    args = common.parse(argv, rounds=7, threads=common.processors(), about=__doc__)
    common.header(args)
    for row in ROWS:
        name, engine = ", ".join((*row[:2], row[3])), row[2]
        if args.only in f"{name} {engine}" and not common.lacks(name, engines.NEEDS[engine], args):
            run(name, *row, args)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
