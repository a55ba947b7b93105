"""Conversion of text towers: BERT, RoBERTa, T5's encoder, GPT-2, CLIP's text transformer.

Each function takes the tensors of one tower by upstream's names, without the prefix of the model
around it, and returns ours by their names in `reclap._core.Model.parameters`. Buffers that hold no
weights are dropped. A pooler is kept where there is one, also where the pooling does not use it.
"""

import dataclasses
import re
from collections.abc import Mapping

from reclap.checkpoints.lazy import Stored, Tensors, joined, split
from reclap.errors import FormatError, shown_names

__all__ = [
    "from_bert",
    "from_clip",
    "from_gpt2",
    "from_roberta",
    "from_t5",
    "to_clip",
    "to_roberta",
    "to_t5",
]


BRANCH = "text_branch."


@dataclasses.dataclass(frozen=True)
class Layout:
    """Tensor names of one kind of tower.

    Parameters
    ----------
    model : str
        Name of the model in messages.
    outside : dict of str to tuple of str
        Our name to upstream's names, of which the first present counts, outside layers.
    layer : str
        Prefix of upstream's layer; ``{}`` stands for its number.
    inside : dict of str to tuple of str
        Our name to upstream's parts inside a layer, stacked along their first axis.
    optional : frozenset of str
        Our names that may be absent.
    transposed : frozenset of str
        Our names whose matrices upstream stores (in, out).
    ignored : str
        Expression for names of tensors without weights of ours.
    """

    model: str
    outside: dict[str, tuple[str, ...]]
    layer: str
    inside: dict[str, tuple[str, ...]]
    optional: frozenset[str] = frozenset()
    transposed: frozenset[str] = frozenset()
    ignored: str = r"(?!)"


def _with(
    kinds: tuple[str, ...], names: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """Return names of modules with each of their parameters."""
    return {
        f"{o}.{k}": tuple(f"{t}.{k}" for t in theirs) for o, theirs in names.items() for k in kinds
    }


_WEIGHT, _BOTH = ("weight",), ("weight", "bias")
_TABLES = {
    "token": ("embeddings.word_embeddings",),
    "position": ("embeddings.position_embeddings",),
    "type": ("embeddings.token_type_embeddings",),
}
_BERT = Layout(
    model="BERT",
    outside=_with(_WEIGHT, _TABLES)
    | _with(_BOTH, {"norm": ("embeddings.LayerNorm",), "pooler": ("pooler.dense",)}),
    layer="encoder.layer.{}.",
    inside=_with(
        _BOTH,
        {
            "attn.qkv": tuple(f"attention.self.{x}" for x in ("query", "key", "value")),
            "attn.proj": ("attention.output.dense",),
            "norm1": ("attention.output.LayerNorm",),
            "mlp.fc1": ("intermediate.dense",),
            "mlp.fc2": ("output.dense",),
            "norm2": ("output.LayerNorm",),
        },
    ),
    optional=frozenset({"pooler.weight", "pooler.bias"}),
    ignored=r"embeddings\.(position_ids|token_type_ids)|(cls|lm_head)\..*",
)
_ROBERTA = dataclasses.replace(_BERT, model="RoBERTa")
_T5 = Layout(
    model="T5 encoder",
    outside={
        "token.weight": ("shared.weight", "encoder.embed_tokens.weight"),
        "relative_position_bias_table": (
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        ),
        "final_norm.weight": ("encoder.final_layer_norm.weight",),
    },
    layer="encoder.block.{}.layer.",
    inside=_with(
        _WEIGHT,
        {
            "attn.qkv": tuple(f"0.SelfAttention.{x}" for x in "qkv"),
            "attn.proj": ("0.SelfAttention.o",),
            "norm1": ("0.layer_norm",),
            "mlp.fc1": ("1.DenseReluDense.wi_0",),
            "mlp.gate": ("1.DenseReluDense.wi_1",),
            "mlp.fc2": ("1.DenseReluDense.wo",),
            "norm2": ("1.layer_norm",),
        },
    ),
    ignored=r"(decoder|lm_head)\..*",
)
_T5_PLAIN = dataclasses.replace(  # v1.0 has one wi
    _T5,
    inside={k: v for k, v in _T5.inside.items() if "gate" not in k}
    | {"mlp.fc1.weight": ("1.DenseReluDense.wi.weight",)},
)
_GPT2 = Layout(
    model="GPT-2",
    outside={"token.weight": ("wte.weight",), "position.weight": ("wpe.weight",)}
    | _with(_BOTH, {"final_norm": ("ln_f",)}),
    layer="h.{}.",
    inside=_with(
        _BOTH,
        {
            "norm1": ("ln_1",),
            "attn.qkv": ("attn.c_attn",),
            "attn.proj": ("attn.c_proj",),
            "norm2": ("ln_2",),
            "mlp.fc1": ("mlp.c_fc",),
            "mlp.fc2": ("mlp.c_proj",),
        },
    ),
    transposed=frozenset(
        {"attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight"}
    ),
    ignored=r"h\.\d+\.attn\.(bias|masked_bias)|lm_head\..*",
)
_CLIP = Layout(  # transformers' CLIPTextModel
    model="CLIP text",
    outside={
        "token.weight": ("embeddings.token_embedding.weight",),
        "position.weight": ("embeddings.position_embedding.weight",),
    }
    | _with(_BOTH, {"final_norm": ("final_layer_norm",)}),
    layer="encoder.layers.{}.",
    inside=_with(
        _BOTH,
        {
            "norm1": ("layer_norm1",),
            "attn.qkv": tuple(f"self_attn.{x}_proj" for x in "qkv"),
            "attn.proj": ("self_attn.out_proj",),
            "norm2": ("layer_norm2",),
            "mlp.fc1": ("mlp.fc1",),
            "mlp.fc2": ("mlp.fc2",),
        },
    ),
    ignored=r"embeddings\.position_ids",
)
_CLIP_OPEN = Layout(  # OpenAI's, as LAION's models hold it
    model="CLIP text",
    outside={
        "token.weight": ("token_embedding.weight",),
        "position.weight": ("positional_embedding",),
    }
    | _with(_BOTH, {"final_norm": ("ln_final",)}),
    layer="resblocks.{}.",
    inside={
        "attn.qkv.weight": ("attn.in_proj_weight",),
        "attn.qkv.bias": ("attn.in_proj_bias",),
    }
    | _with(
        _BOTH,
        {
            "norm1": ("ln_1",),
            "attn.proj": ("attn.out_proj",),
            "norm2": ("ln_2",),
            "mlp.fc1": ("mlp.c_fc",),
            "mlp.fc2": ("mlp.c_proj",),
        },
    ),
    ignored=r"attn_mask|text_projection",
)


def from_bert(tensors: Tensors) -> dict[str, Stored]:
    """Return the tower of a ``BertModel``.

    Parameters
    ----------
    tensors : mapping of str to ndarray
        Tensors by upstream's names, ``embeddings.word_embeddings.weight`` and so on.

    Returns
    -------
    dict of str to ndarray
        By our names, from ``text_branch.token.weight`` on.

    Raises
    ------
    FormatError
        If names are missing, or there are others than this tower has.
    """
    return _renamed(tensors, _BERT)


def from_roberta(tensors: Tensors) -> dict[str, Stored]:
    """Return the tower of a ``RobertaModel``; as `from_bert`."""
    return _renamed(tensors, _ROBERTA)


def from_t5(tensors: Tensors) -> dict[str, Stored]:
    """Return the encoder of a T5 model, gated or not; as `from_bert`.

    A decoder and a language-model head are left out.
    """
    plain = "encoder.block.0.layer.1.DenseReluDense.wi.weight" in tensors
    return _renamed(tensors, _T5_PLAIN if plain else _T5)


def from_gpt2(tensors: Tensors) -> dict[str, Stored]:
    """Return the tower of a ``GPT2Model``, its matrices transposed; as `from_bert`."""
    return _renamed(tensors, _GPT2)


def from_clip(tensors: Tensors) -> dict[str, Stored]:
    """Return CLIP's text transformer, in OpenAI's layout or transformers'; as `from_bert`.

    OpenAI's has ``resblocks.0.attn.in_proj_weight``, transformers' ``encoder.layers.0.…``.
    """
    return _renamed(tensors, _CLIP_OPEN if "positional_embedding" in tensors else _CLIP)


def to_roberta(tensors: Tensors) -> dict[str, Stored]:
    """Return a tower as a ``RobertaModel`` names it; the inverse of `from_roberta`."""
    return _renamed_back(tensors, _ROBERTA)


def to_t5(tensors: Tensors) -> dict[str, Stored]:
    """Return a tower as a T5 encoder names it, the token table by both names; of `from_t5`."""
    gated = f"{BRANCH}layers.0.mlp.gate.weight" in tensors
    return _renamed_back(tensors, _T5 if gated else _T5_PLAIN)


def to_clip(tensors: Tensors) -> dict[str, Stored]:
    """Return a tower as OpenAI's CLIP names it; the inverse of `from_clip`."""
    return _renamed_back(tensors, _CLIP_OPEN)


def _renamed_back(tensors: Tensors, layout: Layout) -> dict[str, Stored]:
    """Return a tower by upstream's names; one with several names comes by each."""
    renamed: dict[str, Stored] = {}
    for ours, x in tensors.items():
        name = ours.removeprefix(BRANCH)
        found = re.fullmatch(r"layers\.(\d+)\.(.+)", name)
        if found:
            theirs = [layout.layer.format(found[1]) + n for n in layout.inside[found[2]]]
            renamed |= zip(theirs, split(x, len(theirs)), strict=True)
        else:
            renamed |= dict.fromkeys(layout.outside[name], x)
    return renamed


def _renamed(tensors: Tensors, layout: Layout) -> dict[str, Stored]:
    wanted = _sources(tensors, layout)
    missing = sorted(
        n
        for ours, theirs in wanted.items()
        if ours not in layout.optional
        for n in theirs
        if n not in tensors
    )
    used = {n for theirs in wanted.values() for n in theirs}
    used |= {n for theirs in layout.outside.values() for n in theirs}
    unknown = sorted(n for n in tensors if n not in used and not re.fullmatch(layout.ignored, n))
    if missing or unknown:
        raise FormatError(f"{layout.model}: " + "; ".join(_complaints(missing, unknown)))
    return {
        BRANCH + ours: _stacked([tensors[n] for n in theirs], ours, layout)
        for ours, theirs in wanted.items()
        if all(n in tensors for n in theirs)
    }


def _sources(tensors: Tensors, layout: Layout) -> dict[str, tuple[str, ...]]:
    """Return our names to the names whose tensors are stacked."""
    sources: dict[str, tuple[str, ...]] = {
        ours: (next((n for n in theirs if n in tensors), theirs[0]),)
        for ours, theirs in layout.outside.items()
    }
    number = re.compile(re.escape(layout.layer).replace(r"\{\}", r"(\d{1,4})"))
    found = (number.match(n) for n in tensors)
    layers = 1 + max((int(m[1]) for m in found if m), default=0)
    for i in range(layers):
        at = layout.layer.format(i)
        for ours, theirs in layout.inside.items():
            sources[f"layers.{i}.{ours}"] = tuple(at + n for n in theirs)
    return sources


def _complaints(missing: list[str], unknown: list[str]) -> list[str]:
    kinds = {"missing": missing, "unknown": unknown}
    return [
        f"{len(names)} {kind} ({shown_names(names, 5, ', ')})"
        for kind, names in kinds.items()
        if names
    ]


def _stacked(parts: list[Stored], ours: str, layout: Layout) -> Stored:
    inside = ours.split(".", 2)[-1] if ours.startswith("layers.") else ours
    transposed = inside in layout.transposed
    if len(parts) == 1 and not transposed:
        return parts[0]
    return joined(f"{layout.model}: {ours}", parts, transposed=transposed)
