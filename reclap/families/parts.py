"""A checkpoint of another project, cut into towers and heads, and put together as ours."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from reclap.audio import AudioConfig
from reclap.config import AudioTower, ClapConfig, TextConfig
from reclap.errors import FormatError
from reclap.families import text
from reclap.tensors import Array, Stored

__all__ = ["Array", "Found", "Parts", "Tensors", "assemble", "below", "layers", "rows", "without"]

Tensors = Mapping[str, Array]

_TRANSFORM = re.compile(r"(audio|text)_transform\..*")
_TEMPLATE = "This is a sound of {label}."  # LAION: experiment_scripts, README


@dataclasses.dataclass(frozen=True)
class Found:
    """A checkpoint of another project.

    Attributes
    ----------
    family : str
        What it is.
    config : ClapConfig
        Inferred.
    tensors : dict of str to ndarray
        By our names.
    tokenizer : Path or None
        tokenizer.json beside it, if there is one.
    ignored : dict of str to str
        Tensors that are not used, and why.
    upstream : AudioConfig or None
        The front end that the project's own code is today, where `config` has another one.
    """

    family: str
    config: ClapConfig
    tensors: dict[str, Stored]
    tokenizer: Path | None
    ignored: dict[str, str]
    upstream: AudioConfig | None = None


@dataclasses.dataclass(frozen=True)
class Parts:
    """A checkpoint, cut into towers and the rest; `left` names what `tower` does not need."""

    family: str
    where: str
    audio: AudioTower
    tower: dict[str, Stored]
    left: list[str]
    text: dict[str, Array]
    rest: dict[str, Array]
    heads: dict[str, tuple[str, str]]
    quantize: bool
    text_eps: float = 1e-5
    text_heads: int = 0


def below(tensors: Tensors, prefix: str) -> dict[str, Array]:
    """Return the tensors whose names begin with a prefix, by the rest of their names."""
    return {n.removeprefix(prefix): x for n, x in tensors.items() if n.startswith(prefix)}


def without(tensors: Tensors, prefixes: tuple[str, ...]) -> dict[str, Array]:
    """Return the tensors whose names begin with none of the prefixes."""
    return {n: x for n, x in tensors.items() if not n.startswith(prefixes)}


def assemble(parts: Parts) -> Found:
    """Put towers and heads of LAION-CLAP's kind together.

    Raises
    ------
    FormatError
        If a tensor is missing, unknown or misshapen.
    """
    ignored = dict.fromkeys((f"audio_branch.{n}" for n in parts.left), "not needed to embed")
    text_config, renamed = _text_tower(parts)
    heads, dim, more = _heads(parts)
    config = ClapConfig(
        name=Path(parts.where).name,
        front=_front(parts.audio, quantize=parts.quantize),
        audio=parts.audio,
        text=text_config,
        dim=dim,
        template=_TEMPLATE,
    )
    return Found(parts.family, config, parts.tower | renamed | heads, None, ignored | more)


def _front(tower: AudioTower, *, quantize: bool) -> AudioConfig:
    """Return one of LAION-CLAP's two front ends: fused models have another mel bank."""
    if tower.fusion:
        return AudioConfig(mel_scale="htk", mel_norm="none", truncation="fusion", quantize=quantize)
    return AudioConfig(quantize=quantize)


def _text_tower(parts: Parts) -> tuple[TextConfig, dict[str, Stored]]:
    names = parts.text
    if "encoder.block.0.layer.0.SelfAttention.q.weight" in names:
        renamed = text.from_t5(names)
        return _t5_config(renamed), renamed
    if "embeddings.word_embeddings.weight" in names:
        renamed = text.from_roberta(names)
        return _roberta_config(renamed, parts.text_eps, parts.text_heads), renamed
    raise FormatError("text tower: neither T5 nor RoBERTa")


def layers(renamed: Mapping[str, Stored]) -> int:
    """Return how many layers a renamed text tower has."""
    numbers = (re.match(r"text_branch\.layers\.(\d+)\.", n) for n in renamed)
    return 1 + max((int(m[1]) for m in numbers if m), default=-1)


def rows(renamed: Mapping[str, Stored], name: str) -> tuple[int, int]:
    """Return the shape of a matrix of a renamed text tower; FormatError if it is none."""
    array = renamed.get(f"text_branch.{name}")
    if array is None or array.ndim != 2:
        raise FormatError(f"text tower: {name} is missing or no matrix")
    return array.shape[0], array.shape[1]


def _roberta_config(renamed: Mapping[str, Stored], eps: float, heads: int) -> TextConfig:
    vocab, width = rows(renamed, "token.weight")
    return dataclasses.replace(
        TextConfig.preset("roberta-base"),
        vocab=vocab,
        width=width,
        positions=rows(renamed, "position.weight")[0],
        types=rows(renamed, "type.weight")[0],
        layers=layers(renamed),
        heads=heads or max(1, width // 64),  # no tensor tells; 64 a head in every RoBERTa
        mlp=rows(renamed, "layers.0.mlp.fc1.weight")[0],
        eps=eps,
    )


def _t5_config(renamed: Mapping[str, Stored]) -> TextConfig:
    vocab, width = rows(renamed, "token.weight")
    buckets, heads = rows(renamed, "relative_position_bias_table")
    joined, _ = rows(renamed, "layers.0.attn.qkv.weight")
    return dataclasses.replace(
        TextConfig.preset("flan-t5-large"),
        vocab=vocab,
        width=width,
        layers=layers(renamed),
        heads=heads,
        head_width=joined // 3 // max(1, heads),
        mlp=rows(renamed, "layers.0.mlp.fc1.weight")[0],
        buckets=buckets,
        gated="text_branch.layers.0.mlp.gate.weight" in renamed,
        activation="gelu_tanh" if "text_branch.layers.0.mlp.gate.weight" in renamed else "relu",
    )


def _heads(parts: Parts) -> tuple[dict[str, Stored], int, dict[str, str]]:
    """Return projections and temperature by our names, the joint width, and what is ignored."""
    heads: dict[str, Stored] = {}
    used = {"logit_scale_a"}
    for head, layers in parts.heads.items():
        for ours, theirs in zip(("0", "2"), layers, strict=True):
            for kind in ("weight", "bias"):
                name = f"{head}.{theirs}.{kind}"
                if name not in parts.rest:
                    raise FormatError(f"{name} is missing")
                used.add(name)
                heads[f"{head}.{ours}.{kind}"] = parts.rest[name]
    if "logit_scale_a" not in parts.rest:
        raise FormatError("logit_scale_a is missing")
    heads["logit_scale"] = np.reshape(parts.rest["logit_scale_a"], ())
    ignored = {}
    for name in sorted(set(parts.rest) - used):
        if name == "logit_scale_t" or _TRANSFORM.fullmatch(name):
            ignored[name] = "only of the loss with transform MLPs"
        else:
            raise FormatError(f"{name} is unknown")
    return heads, heads["audio_projection.2.weight"].shape[0], ignored
