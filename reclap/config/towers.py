"""Audio towers of a model: settings and published sizes; `text_tower` holds the text tower's."""

import dataclasses
from typing import Annotated, Any, ClassVar, TypeAlias

import msgspec

from reclap.config.ranges import (
    DTYPES,
    KINDS,
    STAGES,
    VIT_POOLS,
    Activation,
    Channels,
    Depth,
    Dtype,
    Eps,
    Mels,
    Stripes,
    StripeWidth,
    VitPool,
    Width,
)
from reclap.config.text_tower import TextConfig
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
    "VitConfig",
]


@dataclasses.dataclass(frozen=True)
class HtsatConfig(Settings):
    """Settings of HTS-AT (Chen et al. 2022, arXiv 2202.00874); the defaults are LAION's tiny.

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
        clip and fuses those of a long one.
    depths, heads : tuple of int
        Blocks and attention heads of each stage.
    window : int
        Side of an attention window in tokens; a smaller grid is one window.
    mlp_ratio : float
        Hidden width of the MLP as a multiple of the stage's width, rounded down; 1/16 to 16.
    activation : {"gelu", "gelu_tanh", "relu", "quick_gelu"}
        Activation of the MLP.
    qkv_bias : bool
        Whether queries, keys and values have biases.
    patch_norm : bool
        Whether a layer norm follows the patch embedding.
    fusion_ratio : int
        Reduction of the attention inside fusion, which has ``embed // fusion_ratio`` channels;
        without fusion it is ignored.
    drop_path, dropout : float
        In training: stochastic depth of the last block (rising linearly from 0), and dropout
        after the attention projection and the MLP.
    time_stripes, time_width, freq_stripes, freq_width : int
        In training: SpecAugment stripes, their number and largest width in frames and bands.
    bn_momentum : float
        Momentum of the batch norm over mel bins.
    eps : float
        Epsilon of all norms.
    block_eps : float, optional
        Epsilon of the layer norms inside blocks, where it is not `eps`.

    Raises
    ------
    ValueError, TypeError
        If a value is out of range or of the wrong type.

    Examples
    --------
    >>> base = HtsatConfig.preset("base")
    >>> base.width, base.frames
    (1024, 1024)
    >>> base.to_core()["depths"]
    (2, 2, 12, 2)
    """

    kind: ClassVar[str] = "htsat"
    same: ClassVar[tuple[str, ...]] = (  # as the tower had them whose weights one begins with
        *("mels", "patch", "embed", "depths", "heads", "window", "mlp_ratio", "activation"),
        *("qkv_bias", "patch_norm", "fusion"),
    )

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
        """Check, and normalise equivalent settings, for files and digests.

        A whole `mlp_ratio` becomes an integer; a `block_eps` that equals `eps` becomes None;
        `fusion_ratio` without fusion becomes the default.
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
        """Return the settings of a published size.

        Parameters
        ----------
        name : {"tiny", "base", "large"}
            LAION's name of the size.

        Returns
        -------
        HtsatConfig
            The settings.

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

    @property
    def summary(self) -> str:
        """Usual name of the tower, with its sizes."""
        return f"HTS-AT {self.embed} x {'-'.join(map(str, self.depths))}"

    def to_core(self) -> dict[str, Any]:
        """Return kind and fields as the C core takes them.

        Returns
        -------
        dict
            Field names to values, enumerations as indices.
        """
        chosen = {
            "kind": list(AUDIO).index(self.kind),
            "activation": KINDS["activation"].index(self.activation),
            "block_eps": self.eps if self.block_eps is None else self.block_eps,
        }
        return dataclasses.asdict(self) | chosen


@dataclasses.dataclass(frozen=True)
class Cnn14Config(Settings):
    """Settings of Cnn14 (Kong et al. 2020, arXiv 1912.10211); the defaults are the paper's.

    MS-CLAP 2022 and LAION-CLAP's PANN-14 models have it.

    Parameters
    ----------
    mels : int
        Mel bands of the input, at least ``2 ** (len(widths) - 1)``.
    widths : tuple of int
        Channels of each block of two convolutions, 1 to 8 blocks; all but the last halve time and
        mel. The last is the width of the embedding, too.
    dropout, fc_dropout : float
        In training: dropout after every block; before and after the last layer.
    bn_momentum : float
        Momentum of the running statistics of the batch norms.
    eps : float
        Epsilon of the batch norms.

    Raises
    ------
    ValueError, TypeError
        If a value is out of range or of the wrong type.

    Examples
    --------
    >>> tower = Cnn14Config()
    >>> tower.width, tower.least_frames, tower.to_core()["kind"]
    (2048, 32, 1)
    """

    kind: ClassVar[str] = "cnn14"
    fusion: ClassVar[bool] = False
    same: ClassVar[tuple[str, ...]] = ("mels", "widths")

    mels: Mels = 64
    widths: Annotated[tuple[Channels, ...], STAGES] = (64, 128, 256, 512, 1024, 2048)
    dropout: Fraction = 0.2
    fc_dropout: Fraction = 0.5
    bn_momentum: Probability = 0.1
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

    @property
    def summary(self) -> str:
        """Usual name of the tower, with its sizes."""
        return f"Cnn14 {'-'.join(map(str, self.widths))}"

    def to_core(self) -> dict[str, Any]:
        """Return kind and fields as the C core takes them.

        Returns
        -------
        dict
            Field names to values, the kind as its index.
        """
        return {"kind": list(AUDIO).index(self.kind)} | dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class VitConfig(Settings):
    """Settings of a plain vision transformer over patches of log-mels (Dosovitskiy et al. 2021).

    arXiv 2010.11929: patches that do not overlap, a CLS token, learned positions, pre-norm blocks,
    a final norm. It can be trained from scratch; no published checkpoint is read into it yet.

    Parameters
    ----------
    mels : int
        Mel bands of the input.
    frames : int
        Most frames of the input; shorter ones have fewer patches, and the first positions.
    patch_time, patch_mel : int
        Frames and bands of a patch; a remainder at the end is ignored.
    width, depth, heads, mlp : int
        Width, blocks, attention heads, hidden width of the MLP.
    activation : {"gelu", "gelu_tanh", "relu", "quick_gelu"}
        Activation of the MLP.
    pool : {"cls", "mean"}
        Pooling: the CLS token, or the mean of the patches.
    drop_path, dropout : float
        In training: stochastic depth of the last block (rising linearly from 0), and dropout
        after the attention projection and the MLP.
    eps : float
        Epsilon of the norms.

    Raises
    ------
    ValueError, TypeError
        If a value is out of range or of the wrong type, or settings do not fit each other.

    Examples
    --------
    >>> tower = VitConfig(width=192, depth=12, heads=3, mlp=768)
    >>> tower.least_frames, tower.to_core()["width"]
    (16, 192)
    """

    kind: ClassVar[str] = "vit"
    fusion: ClassVar[bool] = False
    same: ClassVar[tuple[str, ...]] = (
        *("mels", "frames", "patch_time", "patch_mel", "width", "depth", "heads", "mlp"),
        *("activation", "pool"),
    )

    mels: Mels = 64
    frames: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 1024
    patch_time: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 16
    patch_mel: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 16
    width: Channels = 768
    depth: Depth = 12
    heads: Channels = 12
    mlp: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 3072
    activation: Activation = "gelu"
    pool: VitPool = "cls"
    drop_path: Fraction = 0.0
    dropout: Fraction = 0.0
    eps: Eps = 1e-6

    def __post_init__(self) -> None:
        """Check."""
        super().__post_init__()
        if self.patch_mel > self.mels:
            raise ValueError(f"patch_mel is {self.patch_mel}, mels is {self.mels}")
        if self.patch_time > self.frames:
            raise ValueError(f"patch_time is {self.patch_time}, frames is {self.frames}")
        if self.width % self.heads:
            raise ValueError(f"heads is {self.heads}, which does not divide width {self.width}")

    @property
    def least_frames(self) -> int:
        """Fewest spectrogram frames that the tower takes: those of a patch."""
        return self.patch_time

    @property
    def summary(self) -> str:
        """Usual name of the tower, with its sizes."""
        return f"ViT {self.width} x {self.depth}"

    def to_core(self) -> dict[str, Any]:
        """Return kind and fields as the C core takes them.

        Returns
        -------
        dict
            Field names to values, enumerations as indices.
        """
        chosen = {
            "kind": list(AUDIO).index(self.kind),
            "channels": 1,
            "activation": KINDS["activation"].index(self.activation),
            "pool": VIT_POOLS.index(self.pool),
        }
        return dataclasses.asdict(self) | chosen


AudioTower: TypeAlias = HtsatConfig | Cnn14Config | VitConfig
AUDIO: dict[str, type[AudioTower]] = {x.kind: x for x in (HtsatConfig, Cnn14Config, VitConfig)}
