"""What a model is made of: front end, towers, heads, and how labels become prompts."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from reclap.audio import AudioConfig
from reclap.errors import FormatError
from reclap.settings import from_mapping

__all__ = ["ClapConfig", "HtsatConfig", "TextConfig"]

# The C core counts kinds in these orders.
HEADS = ("none", "linear", "mlp", "ms")
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
        Row of the table for the first token: 2 for RoBERTa.
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
        del fields["suffix"]  # the tokenizer's
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


@dataclasses.dataclass(frozen=True)
class ClapConfig:
    """A whole model.

    Parameters
    ----------
    name : str
        What `info` shows.
    front : AudioConfig
        From samples to log-mel.
    audio : HtsatConfig
        Audio tower.
    text : TextConfig
        Text tower.
    audio_head, text_head : {"none", "linear", "mlp", "ms"}
        Projection into the joint space: nothing, one linear layer, linear - ReLU - linear as
        LAION-CLAP, or MS-CLAP's residual one.
    dim : int
        Width of the joint space.
    template : str
        How a label becomes a prompt; ``{label}`` stands for the label.
    """

    name: str = "clap"
    front: AudioConfig = dataclasses.field(default_factory=AudioConfig)
    audio: HtsatConfig = dataclasses.field(default_factory=HtsatConfig)
    text: TextConfig = dataclasses.field(default_factory=TextConfig)
    audio_head: str = "mlp"
    text_head: str = "mlp"
    dim: int = 512
    template: str = "This is a sound of {label}."

    def check(self) -> None:
        """Refuse what cannot work.

        Raises
        ------
        ValueError
            Naming the field, its value and what is allowed; the C core checks sizes.
        """
        for name in ("audio_head", "text_head"):
            if getattr(self, name) not in HEADS:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {HEADS}")
        self.text.check()
        if "{label}" not in self.template:
            raise ValueError(f"template is {self.template!r}, it must contain {{label}}")
        if self.front.mels != self.audio.mels:
            raise ValueError(f"front.mels is {self.front.mels}, audio.mels is {self.audio.mels}")
        if self.front.frames > self.audio.frames:
            raise ValueError(
                f"a window has {self.front.frames} frames, "
                f"the audio tower takes {self.audio.frames}"
            )
        if self.audio.fusion != (self.front.truncation == "fusion"):
            raise ValueError(
                f"front.truncation is {self.front.truncation!r}, "
                f"audio.fusion is {self.audio.fusion}: fusion needs both"
            )
        self.front.check()

    def core_arguments(self, *, with_text: bool) -> dict[str, Any]:
        """Return the arguments of ``_core.Model``; without text the text tower is left out."""
        return {
            "audio": dataclasses.asdict(self.audio),
            "text": self.text.to_core() if with_text else None,
            "text_width": self.text.width,
            "audio_head": HEADS.index(self.audio_head),
            "text_head": HEADS.index(self.text_head),
            "dim": self.dim,
        }

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary that `from_json` takes."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Any, where: str = "model") -> "ClapConfig":
        """Build a checked configuration from a dictionary; absent fields keep their default.

        Raises
        ------
        FormatError
            If a key is unknown, or a value has the wrong type or is out of range.
        """
        if not isinstance(data, Mapping):
            raise FormatError(f"{where}: expected an object, got {type(data).__name__}")
        parts = dict(data)
        build: dict[str, Callable[[Any], Any]] = {
            "front": functools.partial(AudioConfig.from_json, where=f"{where}.front"),
            "audio": functools.partial(from_mapping, HtsatConfig, where=f"{where}.audio"),
            "text": functools.partial(from_mapping, TextConfig, where=f"{where}.text"),
        }
        built = {name: make(parts.pop(name)) for name, make in build.items() if name in parts}
        plain = from_mapping(_Plain, parts, where)
        config = cls(**dataclasses.asdict(plain), **built)
        try:
            config.check()
        except ValueError as error:
            raise FormatError(f"{where}: {error}") from error
        return config


@dataclasses.dataclass(frozen=True)
class _Plain:
    """The fields of `ClapConfig` that are not tables of their own."""

    name: str = ClapConfig.name
    audio_head: str = ClapConfig.audio_head
    text_head: str = ClapConfig.text_head
    dim: int = ClapConfig.dim
    template: str = ClapConfig.template
