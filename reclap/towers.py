"""The towers of a model: audio towers and the text tower, their settings and published sizes."""

import dataclasses
from typing import Any, ClassVar, TypeAlias

__all__ = ["AUDIO", "DTYPES", "KINDS", "AudioTower", "Cnn14Config", "HtsatConfig", "TextConfig"]

DTYPES = ("float32", "bfloat16", "int8", "float32x3", "float32x6")  # of the towers' products

# The C core counts kinds in these orders.
KINDS = {  # of TextConfig's fields
    "norm": ("layer", "rms"),
    "place": ("post", "pre"),
    "position": ("learned", "buckets", "none"),
    "activation": ("gelu", "gelu_tanh", "relu", "quick_gelu"),
    "pool": ("mean", "first", "pooler", "last", "mean_padded", "nonzero"),
}


@dataclasses.dataclass(frozen=True)
class HtsatConfig:
    """The audio tower HTS-AT (Chen et al. 2022, arXiv 2202.00874); defaults are LAION's tiny.

    Parameters
    ----------
    mels : int
        Mel bands of the input.
    spec_size : int
        Side of the square picture that the spectrogram is folded into; a multiple of `mels`.
        The tower takes up to ``spec_size ** 2 // mels`` frames.
    patch : int
        Side of a patch and its stride.
    embed : int
        Width of the first stage; each stage doubles it.
    fusion : bool
        Attentional feature fusion ("aff_2d" of LAION-CLAP): the tower takes four pictures of a
        clip and fuses those of a long one. Such models embed, but cannot be trained yet.
    depths, heads : tuple of int
        Blocks and attention heads of each stage.
    window : int
        Side of an attention window in tokens; a smaller grid is one window.
    mlp_ratio : int
        Hidden width of the MLP as a multiple of the stage's width.
    drop_path, dropout : float
        In training: stochastic depth of the last block (rising linearly from 0), and dropout
        after the attention projection and the MLP.
    time_stripes, time_width, freq_stripes, freq_width : int
        In training: SpecAugment stripes, their number and largest width in frames and bands.
    bn_momentum, eps : float
        Of the batch norm over mel bins; `eps` of all norms.
    """

    kind: ClassVar[str] = "htsat"

    mels: int = 64
    spec_size: int = 256
    patch: int = 4
    embed: int = 96
    fusion: bool = False
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (4, 8, 16, 32)
    window: int = 8
    mlp_ratio: int = 4
    drop_path: float = 0.1
    dropout: float = 0.0
    time_stripes: int = 2
    time_width: int = 64
    freq_stripes: int = 2
    freq_width: int = 8
    bn_momentum: float = 0.1
    eps: float = 1e-5

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


@dataclasses.dataclass(frozen=True)
class Cnn14Config:
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

    mels: int = 64
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)
    eps: float = 1e-5

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


AudioTower: TypeAlias = HtsatConfig | Cnn14Config
AUDIO: dict[str, type[AudioTower]] = {x.kind: x for x in (HtsatConfig, Cnn14Config)}


@dataclasses.dataclass(frozen=True)
class TextConfig:
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

    vocab: int = 30522
    positions: int = 512
    types: int = 2
    width: int = 384
    layers: int = 6
    heads: int = 12
    mlp: int = 1536
    eps: float = 1e-12
    pool: str = "mean"
    max_tokens: int = 256
    norm: str = "layer"
    place: str = "post"
    position: str = "learned"
    position_offset: int = 0
    buckets: int = 32
    max_distance: int = 128
    activation: str = "gelu"
    gated: bool = False
    causal: bool = False
    biases: bool = True
    scaled: bool = True
    embed_norm: bool = True
    final_norm: bool = False
    head_width: int = 0
    pad_to: int = 77
    pad_id: int = 0
    suffix: str = ""
    whole: tuple[str, ...] = ()

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

    def check(self) -> None:
        """Refuse unknown kinds and lengths that do not fit; the C core checks sizes.

        Raises
        ------
        ValueError
            Naming the field, its value and what is allowed.
        """
        for name, kinds in KINDS.items():
            if getattr(self, name) not in kinds:
                raise ValueError(f"text.{name} is {getattr(self, name)!r}, expected one of {kinds}")
        if not 2 < self.max_tokens <= self.longest:
            raise ValueError(f"text.max_tokens is {self.max_tokens}, expected 3 to {self.longest}")

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
