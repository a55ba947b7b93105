from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal, final, overload

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

_F32 = npt.NDArray[np.float32]
_I32 = npt.NDArray[np.int32]

sources: str

@final
class SndFile:
    def __new__(cls, path: str | PathLike[str]) -> SndFile: ...
    def open(self, data: Buffer, /) -> Reader: ...
    def open_file(self, fd: int, size: int, /) -> Reader: ...

@final
class Reader:
    @property
    def rate(self) -> int: ...
    @property
    def channels(self) -> int: ...
    def read(self, frames: int = -1, /) -> _F32: ...

@final
class Mel:
    def __new__(
        cls,
        *,
        rate: int,
        n_fft: int,
        hop: int,
        mels: int,
        fmin: float,
        fmax: float,
        htk: bool,
        area_norm: bool,
    ) -> Mel: ...
    def __call__(self, samples: npt.ArrayLike) -> _F32: ...
    def filters(self) -> _F32: ...

def downmix(samples: npt.ArrayLike, /) -> _F32: ...
def repeat_pad(samples: npt.ArrayLike, length: int, /) -> _F32: ...
def all_finite(samples: npt.ArrayLike, /) -> bool: ...

@final
class Context:
    def __new__(cls, threads: int) -> Context: ...
    def stats(self) -> dict[str, int]: ...

@final
class Model:
    def __new__(
        cls,
        audio: Mapping[str, Any] | None,
        text: Mapping[str, Any] | None,
        text_width: int,
        audio_head: int,
        text_head: int,
        dim: int,
        logit_bias: bool = False,
    ) -> Model: ...
    def parameters(self) -> list[tuple[str, tuple[int, ...], int]]: ...
    def bind(
        self, arrays: Iterable[_F32], *, pack: bool = False, dtype: str = "float32"
    ) -> None: ...
    def pack(self, dtype: str = "float32") -> None: ...
    def read(self, place: int, /) -> _F32: ...
    def linear(self) -> list[int]: ...
    def adapt(self, place: int, rank: int, alpha: float, /) -> None: ...
    def audio(
        self,
        context: Context,
        mel: npt.ArrayLike,
        features: bool = False,
        longer: npt.ArrayLike | None = None,
    ) -> _F32: ...
    def tokens(self, context: Context, mel: npt.ArrayLike, /) -> _F32: ...
    def text(
        self, context: Context, ids: npt.ArrayLike, first: npt.ArrayLike, features: bool = False
    ) -> _F32: ...
    def text_head(self, context: Context, x: npt.ArrayLike) -> _F32: ...

@final
class Trainer:
    def __new__(
        cls,
        model: Model,
        threads: int,
        rates: npt.ArrayLike | None = None,
        decays: npt.ArrayLike | None = None,
        losses: Sequence[tuple[int, float]] | None = None,
        teacher: int = 0,
        teacher_log_scale: float = 0,
        dtype: str = "float32",
        checkpointing: bool = False,
    ) -> Trainer: ...
    def step(
        self,
        mel: npt.ArrayLike,
        text: npt.ArrayLike,
        seed: int,
        step: int,
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0,
        clip: float = 0,
        coupled: bool = False,
        longer: npt.ArrayLike | None = None,
        owner: npt.ArrayLike | None = None,
        role: npt.ArrayLike | None = None,
        teacher: tuple[npt.ArrayLike, npt.ArrayLike] | tuple[()] | None = None,
    ) -> dict[str, float]: ...
    def gradients(
        self,
        mel: npt.ArrayLike,
        text: npt.ArrayLike,
        seed: int,
        step: int,
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0,
        clip: float = 0,
        coupled: bool = False,
        longer: npt.ArrayLike | None = None,
        owner: npt.ArrayLike | None = None,
        role: npt.ArrayLike | None = None,
        teacher: tuple[npt.ArrayLike, npt.ArrayLike] | tuple[()] | None = None,
    ) -> dict[str, float]: ...
    def embed(
        self,
        mel: npt.ArrayLike,
        text: npt.ArrayLike,
        seed: int,
        step: int,
        clip: int = 0,
        longer: npt.ArrayLike | None = None,
        caption: int = -1,
    ) -> tuple[_F32, _F32]: ...
    def loss(
        self,
        audio: npt.ArrayLike,
        text: npt.ArrayLike,
        owner: npt.ArrayLike | None = None,
        role: npt.ArrayLike | None = None,
        teacher: tuple[npt.ArrayLike, npt.ArrayLike] | tuple[()] | None = None,
        factor: float = 1,
        more: bool = False,
    ) -> tuple[float, _F32, _F32]: ...
    def moments(
        self, mel: npt.ArrayLike, longer: npt.ArrayLike | None = None, first: bool = False
    ) -> None: ...
    def measure(
        self, clips: int, frames: int, texts: int, tokens: int, longest: int, na: int, nt: int
    ) -> tuple[int, int]: ...
    def backward(
        self,
        daudio: npt.ArrayLike,
        dtext: npt.ArrayLike,
        mel: npt.ArrayLike,
        text: npt.ArrayLike,
        seed: int,
        step: int,
        clip: int = 0,
        longer: npt.ArrayLike | None = None,
        caption: int = -1,
    ) -> None: ...
    def update(
        self,
        step: int,
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0,
        clip: float = 0,
        coupled: bool = False,
    ) -> dict[str, float]: ...
    def refresh(self) -> None: ...
    @overload
    def buffers(self, which: Literal[0], /) -> list[_F32]: ...
    @overload
    def buffers(self, which: int, /) -> list[_F32 | None]: ...

def class_vectors(prompts: npt.ArrayLike, first: npt.ArrayLike, /) -> _F32: ...
@overload
def scores(
    context: Context, x: npt.ArrayLike, classes: npt.ArrayLike, k: int, all: Literal[True] = True
) -> tuple[_F32, _F32, _I32]: ...
@overload
def scores(
    context: Context, x: npt.ArrayLike, classes: npt.ArrayLike, k: int, all: Literal[False]
) -> tuple[None, _F32, _I32]: ...
@overload
def combine(
    context: Context,
    x: npt.ArrayLike,
    prompts: npt.ArrayLike,
    first: npt.ArrayLike,
    rule: int,
    scale: float,
    k: int,
    explain: Literal[False] = False,
    all: Literal[True] = True,
) -> tuple[_F32, _F32, _I32]: ...
@overload
def combine(
    context: Context,
    x: npt.ArrayLike,
    prompts: npt.ArrayLike,
    first: npt.ArrayLike,
    rule: int,
    scale: float,
    k: int,
    explain: Literal[False] = False,
    *,
    all: Literal[False],
) -> tuple[None, _F32, _I32]: ...
@overload
def combine(
    context: Context,
    x: npt.ArrayLike,
    prompts: npt.ArrayLike,
    first: npt.ArrayLike,
    rule: int,
    scale: float,
    k: int,
    explain: Literal[True],
) -> tuple[_F32, _F32, _I32, _F32, _F32]: ...
def ranks(
    context: Context, queries: npt.ArrayLike, items: npt.ArrayLike, pair: npt.ArrayLike, /
) -> _I32: ...
def split_kind(most: str | None = None, /) -> str: ...
def int8_weight() -> int: ...
