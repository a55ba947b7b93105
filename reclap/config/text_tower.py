"""Text tower of a model: settings and published sizes."""

import dataclasses
from typing import Annotated, Any

import msgspec

from reclap.config.ranges import (
    KINDS,
    Activation,
    Eps,
    Norm,
    Place,
    Pool,
    Position,
    Rows,
    Tokens,
    Width,
)
from reclap.io.settings import Settings

__all__ = ["TextConfig"]


@dataclasses.dataclass(frozen=True)
class TextConfig(Settings):
    """Settings of the text tower, a transformer that covers BERT, RoBERTa, T5, GPT-2 and CLIP.

    Parameters
    ----------
    vocab, positions, types : int
        Rows of the token, position and segment tables; no types, no segment table. Without a
        table of positions `positions` is the most tokens of a text.
    width, layers, heads, mlp : int
        Width, layers, attention heads, hidden width of the MLP.
    eps : float
        Epsilon of the norms.
    pool : {"mean", "first", "pooler", "last", "mean_padded", "nonzero"}
        Pooling: mean over all tokens, as sentence-transformers; the first token; tanh of a dense
        layer of the first token, as BERT's pooler; the last token, as CLIP, whose last one ends the
        text; mean over `pad_to` positions, padding included, as ReCLAP with T5; the token at index
        ``count_nonzero(ids) - 1``, as MS-CLAP 2023.
    max_tokens : int
        Length at which texts are truncated, special tokens included.
    norm : {"layer", "rms"}
        Layer norm, or T5's: no mean, no bias.
    place : {"post", "pre"}
        Norms after the residual sums, or before the branches.
    position : {"learned", "buckets", "none"}
        Position embedding: a table; T5's bias of attention by bucketed distance; none.
    position_offset : int
        Row of the table for the first token: 2 for RoBERTa. Tokens of the id below, RoBERTa's
        padding, take the row below at any position, and are not counted.
    buckets, max_distance : int
        Number of buckets and largest distance of T5's bias.
    activation : {"gelu", "gelu_tanh", "relu", "quick_gelu"}
        Activation of the MLP.
    gated : bool
        Whether the activation multiplies a second linear layer, as in T5 v1.1.
    causal : bool
        Whether a token attends only to itself and earlier ones.
    biases : bool
        Whether linear layers have biases.
    scaled : bool
        Whether attention scores are divided by the root of a head's width; not for T5.
    embed_norm, final_norm : bool
        Norms before the first and after the last layer.
    head_width : int
        Width of one head; 0 for ``width // heads``.
    pad_to, pad_id : int
        Positions and padding token of ``"mean_padded"``.
    suffix : str
        Text appended to every text, as MS-CLAP 2023 does with `` <|endoftext|>``.
    whole : tuple of str
        Strings that are always tokenised as one token: ``!``, the padding of MS-CLAP 2023.

    Raises
    ------
    ValueError, TypeError
        If a value is out of range or of the wrong type.

    Examples
    --------
    >>> tower = TextConfig.preset("roberta-base")
    >>> tower.width, tower.longest, tower.to_core()["pool"]
    (768, 512, 2)
    """

    vocab: Rows = 30522
    positions: Tokens = 512
    types: Annotated[int, msgspec.Meta(ge=0, le=2**20)] = 2
    width: Width = 384
    layers: Annotated[int, msgspec.Meta(ge=1, le=256)] = 6
    heads: Width = 12
    mlp: Annotated[int, msgspec.Meta(ge=1, le=2**20)] = 1536
    eps: Eps = 1e-12
    pool: Pool = "mean"
    max_tokens: Tokens = 256
    norm: Norm = "layer"
    place: Place = "post"
    position: Position = "learned"
    position_offset: Annotated[int, msgspec.Meta(ge=0, le=2**20)] = 0
    buckets: Annotated[int, msgspec.Meta(ge=0, le=2**16)] = 32
    max_distance: Annotated[int, msgspec.Meta(ge=0, le=2**20)] = 128
    activation: Activation = "gelu"
    gated: bool = False
    causal: bool = False
    biases: bool = True
    scaled: bool = True
    embed_norm: bool = True
    final_norm: bool = False
    head_width: Annotated[int, msgspec.Meta(ge=0, le=16384)] = 0
    pad_to: Annotated[int, msgspec.Meta(ge=0, le=2**20)] = 77
    pad_id: Annotated[int, msgspec.Meta(ge=0, lt=2**24)] = 0
    suffix: str = ""
    whole: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check."""
        super().__post_init__()
        if not 2 < self.max_tokens <= self.longest:
            raise ValueError(f"max_tokens is {self.max_tokens}, expected 3 to {self.longest}")

    @classmethod
    def preset(cls, name: str) -> "TextConfig":
        """Return the tower of a published text model, pooled as in the CLAP models with it.

        Parameters
        ----------
        name : {"bert-base", "roberta-base", "flan-t5-large", "gpt2", "clip-text"}
            Text model of MS-CLAP 2022; of LAION-CLAP; of ReCLAP and CompA-CLAP; of MS-CLAP 2023;
            LAION-CLAP's own.

        Returns
        -------
        TextConfig
            The settings.

        Raises
        ------
        ValueError
            For another name.
        """
        if name not in _TEXT_PRESETS:
            raise ValueError(f"text preset is {name!r}, expected one of {', '.join(_TEXT_PRESETS)}")
        return _TEXT_PRESETS[name]

    @property
    def longest(self) -> int:
        """Most tokens of a text."""
        offset = self.position_offset if self.position == "learned" else 0
        most = self.positions - offset
        return min(most, self.pad_to) if self.pool == "mean_padded" else most

    def to_core(self) -> dict[str, Any]:
        """Return kind and fields as the C core takes them.

        Returns
        -------
        dict
            Field names to values, enumerations as indices.
        """
        kinds = {name: values.index(getattr(self, name)) for name, values in KINDS.items()}
        fields = dataclasses.asdict(self) | kinds | {"kind": 0, "dropout": 0.0}  # of training
        del fields["suffix"], fields["whole"]  # the tokenizer's
        return fields


_BASE = TextConfig(width=768, layers=12, heads=12, mlp=3072)
_PRE_NORM = dataclasses.replace(
    _BASE, types=0, eps=1e-5, place="pre", causal=True, embed_norm=False, final_norm=True
)
_TEXT_PRESETS = {
    "bert-base": dataclasses.replace(_BASE, pool="first", max_tokens=512),
    "roberta-base": dataclasses.replace(
        _BASE,
        vocab=50265,
        positions=514,
        position_offset=2,
        types=1,
        eps=1e-5,
        pool="pooler",
        max_tokens=77,
    ),
    "flan-t5-large": TextConfig(
        vocab=32128,
        types=0,
        width=1024,
        layers=24,
        heads=16,
        mlp=2816,
        eps=1e-6,
        pool="mean_padded",
        max_tokens=77,
        norm="rms",
        place="pre",
        position="buckets",
        activation="gelu_tanh",
        gated=True,
        biases=False,
        scaled=False,
        embed_norm=False,
        final_norm=True,
    ),
    "gpt2": dataclasses.replace(
        _PRE_NORM,
        vocab=50257,
        positions=1024,
        activation="gelu_tanh",
        pool="nonzero",
        max_tokens=1024,
    ),
    "clip-text": dataclasses.replace(
        _PRE_NORM,
        vocab=49408,
        positions=77,
        width=512,
        heads=8,
        mlp=2048,
        activation="quick_gelu",
        pool="last",
        max_tokens=77,
    ),
}
