from os import PathLike
from typing import final

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

_F32 = npt.NDArray[np.float32]

@final
class SndFile:
    def __new__(cls, path: str | PathLike[str]) -> SndFile: ...
    def decode(self, data: Buffer, /) -> tuple[_F32, int]: ...

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
