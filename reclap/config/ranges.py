"""Ranges of tower settings: enumerations in the order of the C core, sizes within its bounds."""

from typing import Annotated, Literal, TypeAlias, get_args

import msgspec

__all__ = [
    "DTYPES",
    "KINDS",
    "STAGES",
    "VIT_POOLS",
    "Activation",
    "Channels",
    "Depth",
    "Dtype",
    "Eps",
    "Mels",
    "Norm",
    "Place",
    "Pool",
    "Position",
    "Rows",
    "StripeWidth",
    "Stripes",
    "Tokens",
    "VitPool",
    "Width",
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
VitPool: TypeAlias = Literal["cls", "mean"]
VIT_POOLS: tuple[VitPool, ...] = get_args(VitPool)
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
