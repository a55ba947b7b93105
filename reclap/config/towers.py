"""The towers of a model: audio towers and the text tower, their settings and published sizes."""

import dataclasses
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, get_args

import msgspec

from reclap.io.settings import Fraction, Probability, Settings

__all__ = [
    "AUDIO",
    "DTYPES",
    "KINDS",
    "AudioTower",
    "Cnn14Config",
    "Dtype",
    "HtsatConfig",
    "TextConfig",
]

# Of the towers' products.
Dtype: TypeAlias = Literal["float32", "bfloat16", "int8", "float32x3", "float32x6"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)

# The C core counts kinds in these orders.
Norm: TypeAlias = Literal["layer", "rms"]
Place: TypeAlias = Literal["post", "pre"]
Position: TypeAlias = Literal["learned", "buckets", "none"]
Activation: TypeAlias = Literal["gelu", "gelu_tanh", "relu", "quick_gelu"]
Pool: TypeAlias = Literal["mean", "first", "pooler", "last", "mean_padded", "nonzero"]
KINDS: dict[str, tuple[str, ...]] = {  # of TextConfig's fields, one of HtsatConfig's too
    "norm": get_args(Norm),
    "place": get_args(Place),
    "position": get_args(Position),
    "activation": get_args(Activation),
    "pool": get_args(Pool),
}

# Sizes have the bounds of the C core.
Mels: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=1024)]
Width: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=16384)]
Rows: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=2**24)]
Tokens: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=2**20)]
Depth: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=64)]
Channels: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=8192)]
STAGES = msgspec.Meta(min_length=1, max_length=8)
Stripes: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=32)]
StripeWidth: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**20)]
Eps: TypeAlias = Annotated[float, msgspec.Meta(ge=1e-30, le=1)]


@dataclasses.dataclass(frozen=True)
class HtsatConfig(Settings):
    """The audio tower HTS-AT (Chen et al. 2022, arXiv 2202.00874); defaults are LAION's tiny.

    Parameters
    ----------
    mels : int
        Mel bands of the input.
    spec_size : int
        Side of the square image that the log-mel is folded into; a multiple of `mels`.
        The tower takes up to ``spec_size ** 2 // mels`` frames.
    patch : int
        Side of a patch and its stride; there are at most 512 patches a side.
    embed : int
        Width of the first stage; each stage doubles it.
    fusion : bool
        Attentional feature fusion ("aff_2d" of LAION-CLAP): the tower takes four log-mels of a
        clip and fuses those of a long one. Such models embed, but cannot be trained yet.
    depths, heads : tuple of int
        Blocks and attention heads of each stage.
    window : int
        Side of an attention window in tokens; a smaller grid is one window.
    mlp_ratio : float
        Hidden width of the MLP as a multiple of the stage's width, rounded down; 1/16 to 16.
    activation : {"gelu", "gelu_tanh", "relu", "quick_gelu"}
        Of the MLP.
    qkv_bias : bool
        Biases of queries, keys and values.
    patch_norm : bool
        A norm after the patch embedding.
    fusion_ratio : int
        The attention of fusion has ``embed // fusion_ratio`` channels inside; without fusion it
        counts for nothing.
    drop_path, dropout : float
        In training: stochastic depth of the last block (rising linearly from 0), and dropout
        after the attention projection and the MLP.
    time_stripes, time_width, freq_stripes, freq_width : int
        In training: SpecAugment stripes, their number and largest width in frames and bands.
    bn_momentum, eps : float
        Of the batch norm over mel bins; `eps` of all norms.
    block_eps : float, optional
        Of the layer norms inside blocks, where it is not `eps`.
    """

    kind: ClassVar[str] = "htsat"

    mels: Mels = 64
    spec_size: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 256
    patch: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 4
    embed: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 96
    fusion: bool = False
    depths: Annotated[tuple[Depth, ...], STAGES] = (2, 2, 6, 2)
    heads: Annotated[tuple[Width, ...], STAGES] = (4, 8, 16, 32)
    window: Annotated[int, msgspec.Meta(ge=1, le=64)] = 8
    mlp_ratio: Annotated[float, msgspec.Meta(ge=1 / 16, le=16)] = 4
    activation: Activation = "gelu"
    qkv_bias: bool = True
    patch_norm: bool = True
    fusion_ratio: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 4
    drop_path: Fraction = 0.1
    dropout: Fraction = 0.0
    time_stripes: Stripes = 2
    time_width: StripeWidth = 64
    freq_stripes: Stripes = 2
    freq_width: StripeWidth = 8
    bn_momentum: Probability = 0.1
    eps: Eps = 1e-5
    block_eps: Eps | None = None

    def __post_init__(self) -> None:
        """Check, and say what is the same in one way, as files and digests have it.

        A whole `mlp_ratio` is an integer; a `block_eps` that equals `eps` is none; without fusion
        its ratio is the default.
        """
        super().__post_init__()
        if self.mlp_ratio == int(self.mlp_ratio):
            object.__setattr__(self, "mlp_ratio", int(self.mlp_ratio))
        if self.block_eps == self.eps:
            object.__setattr__(self, "block_eps", None)
        if not self.fusion:
            object.__setattr__(self, "fusion_ratio", type(self).fusion_ratio)
        if len(self.heads) != len(self.depths):
            raise ValueError(f"heads has {len(self.heads)} stages, depths has {len(self.depths)}")

    @classmethod
    def preset(cls, name: str) -> "HtsatConfig":
        """Return LAION's ``tiny``, ``base`` or ``large``.

        Raises
        ------
        ValueError
            For another name.
        """
        if name == "tiny":
            return cls()
        if name in ("base", "large"):
            return cls(embed=128 if name == "base" else 256, depths=(2, 2, 12, 2))
        raise ValueError(f"audio preset is {name!r}, expected tiny, base or large")

    @property
    def width(self) -> int:
        """Width of the embedding before the head."""
        return self.embed << (len(self.depths) - 1)

    @property
    def frames(self) -> int:
        """Most spectrogram frames that the tower takes."""
        return self.spec_size**2 // self.mels

    @property
    def least_frames(self) -> int:
        """Fewest spectrogram frames that the tower takes."""
        return 1

    def to_core(self) -> dict[str, Any]:
        """Return kind and fields as the C core takes them."""
        chosen = {
            "kind": list(AUDIO).index(self.kind),
            "activation": KINDS["activation"].index(self.activation),
            "block_eps": self.eps if self.block_eps is None else self.block_eps,
        }
        return dataclasses.asdict(self) | chosen


@dataclasses.dataclass(frozen=True)
class Cnn14Config(Settings):
    """The audio tower Cnn14 (Kong et al. 2020, arXiv 1912.10211); the defaults are the paper's.

    MS-CLAP 2022 and LAION-CLAP's PANN-14 models have it. Such models embed, but cannot be trained
    yet.

    Parameters
    ----------
    mels : int
        Mel bands of the input, at least ``2 ** (len(widths) - 1)``.
    widths : tuple of int
        Channels of each block of two convolutions, 1 to 8 blocks; all but the last halve time and
        mel. The last is the width of the embedding, too.
    eps : float
        Of the batch norms.
    """

    kind: ClassVar[str] = "cnn14"
    fusion: ClassVar[bool] = False

    mels: Mels = 64
    widths: Annotated[tuple[Channels, ...], STAGES] = (64, 128, 256, 512, 1024, 2048)
    eps: Eps = 1e-5

    @property
    def width(self) -> int:
        """Width of the embedding before the head."""
        return self.widths[-1]

    @property
    def frames(self) -> int:
        """Most spectrogram frames that the tower takes, which bounds its memory."""
        return 8192

    @property
    def least_frames(self) -> int:
        """Fewest spectrogram frames that the tower takes: one is left for the last block."""
        return int(2 ** (len(self.widths) - 1))

    def to_core(self) -> dict[str, Any]:
        """Return kind and fields as the C core takes them."""
        return {"kind": list(AUDIO).index(self.kind)} | dataclasses.asdict(self)


AudioTower: TypeAlias = HtsatConfig | Cnn14Config
AUDIO: dict[str, type[AudioTower]] = {x.kind: x for x in (HtsatConfig, Cnn14Config)}


@dataclasses.dataclass(frozen=True)
class TextConfig(Settings):
    """The text tower: a transformer of which BERT, RoBERTa, T5, GPT-2 and CLIP are settings.

    Parameters
    ----------
    vocab, positions, types : int
        Rows of the token, position and segment tables; no types, no segment table. Without a
        table of positions `positions` is the most tokens of a text.
    width, layers, heads, mlp : int
        Width, layers, attention heads, hidden width of the MLP.
    eps : float
        Of the norms.
    pool : {"mean", "first", "pooler", "last", "mean_padded", "nonzero"}
        Mean over all tokens, as sentence-transformers; the first token; tanh of a dense layer of
        the first token, as BERT's pooler; the last token, as CLIP, whose last one ends the text;
        mean over `pad_to` positions, padding included, as ReCLAP with T5; the token whose place is
        the number of ids other than 0, less 1, as MS-CLAP 2023.
    max_tokens : int
        Longer texts are cut here, special tokens included.
    norm : {"layer", "rms"}
        Layer norm, or T5's: no mean, no bias.
    place : {"post", "pre"}
        Norms after the sums, or before the branches.
    position : {"learned", "buckets", "none"}
        A table; T5's bias of attention by bucketed distance; nothing.
    position_offset : int
        Row of the table for the first token: 2 for RoBERTa. Tokens of the id below, RoBERTa's
        padding, take the row below wherever they stand, and are not counted.
    buckets, max_distance : int
        Of T5's bias.
    activation : {"gelu", "gelu_tanh", "relu", "quick_gelu"}
        Of the MLP.
    gated : bool
        The activation multiplies a second linear layer, as T5 v1.1.
    causal : bool
        A token sees itself and earlier ones.
    biases : bool
        Of the linear layers.
    scaled : bool
        Scores are divided by the root of a head's width; not for T5.
    embed_norm, final_norm : bool
        Norms before the first and after the last layer.
    head_width : int
        Width of one head; 0 for ``width // heads``.
    pad_to, pad_id : int
        Positions and padding token of ``"mean_padded"``.
    suffix : str
        Appended to every text, as MS-CLAP 2023 does with `` <|endoftext|>``.
    whole : tuple of str
        Texts that are a token of their own wherever they stand: ``!``, the padding of MS-CLAP 2023.
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
        """Return the tower of a published text model, pooled as the CLAP models do that use it.

        Parameters
        ----------
        name : {"bert-base", "roberta-base", "flan-t5-large", "gpt2", "clip-text"}
            MS-CLAP 2022, LAION-CLAP, ReCLAP and CompA-CLAP, MS-CLAP 2023, LAION-CLAP's own.

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
        """Return the fields as the C core takes them."""
        kinds = {name: values.index(getattr(self, name)) for name, values in KINDS.items()}
        fields = dataclasses.asdict(self) | kinds
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
