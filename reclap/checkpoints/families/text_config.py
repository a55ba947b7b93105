"""Configuration of a text tower, inferred from its tensors."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from reclap.checkpoints.families import text_names
from reclap.checkpoints.lazy import Lazy, Stored, Tensors
from reclap.config.text_tower import TextConfig
from reclap.errors import FormatError

__all__ = ["FEWEST_TOKENS", "kind_of", "left_of", "tower_of"]


FEWEST_TOKENS = 3  # beginning, end, and one between them

_READERS: dict[str, Callable[[Tensors], dict[str, Stored]]] = {
    "bert-base": text_names.from_bert,
    "roberta-base": text_names.from_roberta,
    "flan-t5-large": text_names.from_t5,
    "gpt2": text_names.from_gpt2,
    "clip-text": text_names.from_clip,
}
# A tensor that only towers of one kind have; BERT's and RoBERTa's names are the same.
_SIGNS = {
    "encoder.block.0.layer.0.SelfAttention.q.weight": "flan-t5-large",
    "wte.weight": "gpt2",
    "resblocks.0.attn.in_proj_weight": "clip-text",
    "embeddings.token_embedding.weight": "clip-text",
}
_BERT_SIGN, _SEGMENTS = (
    "embeddings.word_embeddings.weight",
    "embeddings.token_type_embeddings.weight",
)
_BART_SIGN = "encoder.embed_positions.weight"


def kind_of(tensors: Tensors) -> str:
    """Return the preset of `TextConfig` for a tower.

    Parameters
    ----------
    tensors : mapping of str to ndarray
        Tensors by upstream's names, without the prefix of a wrapper.

    Raises
    ------
    FormatError
        If it is of another kind; BART by name.
    """
    for sign, kind in _SIGNS.items():
        if sign in tensors:
            return kind
    if _BERT_SIGN in tensors:  # BERT has two segments, RoBERTa one
        segments = tensors.get(_SEGMENTS)
        is_roberta = segments is not None and segments.shape[:1] == (1,)
        return "roberta-base" if is_roberta else "bert-base"
    if _BART_SIGN in tensors:
        raise FormatError("text tower: BART, which reclap does not have")
    raise FormatError("text tower: none of BERT, RoBERTa, T5, GPT-2, CLIP")


def tower_of(
    tensors: Tensors, kind: str | None = None, **known: Any
) -> tuple[TextConfig, dict[str, Stored]]:
    """Return configuration and tensors of a text tower.

    Parameters
    ----------
    tensors : mapping of str to ndarray
        As for `kind_of`.
    kind : str, optional
        Name of the preset that gives what no tensor tells; `kind_of` by default.
    **known
        Fields of `TextConfig` that a configuration file gives.

    Returns
    -------
    config : TextConfig
        Pooled as the CLAP models do that use this kind, and cut at their length, or at that of the
        table of positions where it is shorter. Heads are 64 wide, where the tensors do not tell, as
        in every published model of these kinds.
    tensors : dict of str to ndarray
        Tensors by our names.

    Raises
    ------
    FormatError
        If a tensor is missing or unknown, or has no shape that tells the sizes.
    """
    kind = kind or kind_of(tensors)
    renamed = _READERS[kind](tensors)
    told = _t5_sizes(renamed) if kind == "flan-t5-large" else _table_sizes(renamed)
    preset = TextConfig.preset(kind)
    most = known.get("max_tokens", preset.max_tokens)
    config = dataclasses.replace(preset, **told | known | {"max_tokens": FEWEST_TOKENS})
    return dataclasses.replace(config, max_tokens=min(most, config.longest)), renamed


def left_of(tensors: Tensors, renamed: Tensors) -> list[str]:
    """Return the names of tensors that a tower does not use: buffers, second copies."""
    used = {id(part) for x in renamed.values() for part in _made_of(x)}
    return [name for name, x in tensors.items() if id(x) not in used]


def _made_of(tensor: Stored) -> list[Stored]:
    inside = tensor.parts if isinstance(tensor, Lazy) else []
    return [tensor] + [x for part in inside for x in _made_of(part)]


def _sizes(renamed: Tensors) -> dict[str, Any]:
    vocab, width = _rows(renamed, "token.weight")
    mlp, _ = _rows(renamed, "layers.0.mlp.fc1.weight")
    return {"vocab": vocab, "width": width, "layers": _layers(renamed), "mlp": mlp}


def _table_sizes(renamed: Tensors) -> dict[str, Any]:
    """Return the sizes of a tower with a table of positions."""
    sizes = _sizes(renamed) | {"positions": _rows(renamed, "position.weight")[0]}
    if "text_branch.type.weight" in renamed:
        sizes["types"] = _rows(renamed, "type.weight")[0]
    return sizes | {"heads": max(1, sizes["width"] // 64)}


def _t5_sizes(renamed: Tensors) -> dict[str, Any]:
    buckets, heads = _rows(renamed, "relative_position_bias_table")
    stacked, _ = _rows(renamed, "layers.0.attn.qkv.weight")
    gated = "text_branch.layers.0.mlp.gate.weight" in renamed
    return _sizes(renamed) | {
        "heads": heads,
        "head_width": stacked // 3 // max(1, heads),
        "buckets": buckets,
        "gated": gated,
        "activation": "gelu_tanh" if gated else "relu",
    }


def _layers(renamed: Tensors) -> int:
    numbers = (re.match(r"text_branch\.layers\.(\d+)\.", n) for n in renamed)
    return 1 + max((int(m[1]) for m in numbers if m), default=-1)


def _rows(renamed: Tensors, name: str) -> tuple[int, int]:
    array = renamed.get(f"text_branch.{name}")
    if array is None or array.ndim != 2:
        raise FormatError(f"text tower: {name} is missing or no matrix")
    return array.shape[0], array.shape[1]
