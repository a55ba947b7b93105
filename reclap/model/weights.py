"""Weights of a model in the core, in its compute type."""

import functools
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from reclap._types import Array, Floats
from reclap.checkpoints import model_folder
from reclap.checkpoints.adapter import Adapter, Shapes, merging
from reclap.checkpoints.lazy import Lazy
from reclap.config.model import ClapConfig
from reclap.config.ranges import DTYPES, Dtype
from reclap.errors import FormatError, ReclapError
from reclap.runtime.libraries import core, describe
from reclap.runtime.progress import byte_bar

__all__ = ["Weights", "choose_dtype"]


def choose_dtype(dtype: Dtype | Literal["auto"]) -> Dtype:
    """Return the compute type of a model.

    Parameters
    ----------
    dtype : {"float32", "bfloat16", "int8", "float32x3", "float32x6", "auto"}
        ``"auto"`` is bfloat16 where it takes about half of float32's time or less, on AMX and on
        AMD's AVX-512, and float32 elsewhere: Intel's AVX-512 takes nearly twice as long for it.

    Raises
    ------
    ValueError
        For another name, or bfloat16 on a processor without instructions for it.
    """
    if dtype not in (*DTYPES, "auto"):
        raise ValueError(f"dtype is {dtype!r}, expected one of {', '.join(DTYPES)}, auto")
    about: dict[str, Any] = describe() if dtype in ("auto", "bfloat16") else {"cpu": []}
    features = about["cpu"]
    able = "avx512_bf16" in features or "amx_bf16" in features
    if dtype == "bfloat16" and not able:
        raise ValueError(
            "dtype is bfloat16, this processor has no instructions for it (AMX or AVX-512 bf16); "
            f"it has {', '.join(features) or 'none that matter'}"
        )
    if dtype == "auto":
        fast = "amx_bf16" in features or (able and about["vendor"] == "AuthenticAMD")
        return "bfloat16" if fast else "float32"
    return dtype


class Weights:
    """Parameters of a model, packed for inference one by one as they are read.

    Parameters
    ----------
    config : ClapConfig
        Says which there are.
    where : Path
        File that errors name; for weights the folder of a ``config.json``.
    read : callable
        Maps names and shapes to arrays of float32, in order.
    dtype : {"float32", "bfloat16", "int8", "float32x3", "float32x6"}
        Type of the products inside the towers. Norms, attention, activations between products,
        heads and sums are float32; int8 has a scale for each row of activations and each output,
        and weights of seven bits on processors without VNNI.
        float32x3 and float32x6 split each factor into two or three bfloat16 parts and add three or
        six products of them: meant for AMX, slower than float32 without it.
    progress : bool
        Show a progress bar where reading, and later the digest, takes longer than a second.
    adapter : Adapter, optional
        Low-rank adapter of this model, which is merged into what is read.
    changes
        Arguments of ``core.Model`` that differ from what `config` says.

    Attributes
    ----------
    core : core.Model
        The model.
    adapter : str or None
        File of the adapter.
    kernel : str
        Engine of the products: ``"oneDNN"``, with ``", 7-bit weights"`` where int8 has these,
        or ``"amx"``, ``"avx512"``, ``"plain"`` for our own on tiles. ``RECLAP_AMX=0`` in the
        environment rules out ``"amx"``.
    values : dict of str to Lazy
        Each parameter, read back from the core where dtype is float32.

    Raises
    ------
    FormatError
        If the core refuses the sizes, what is read does not fit, or a weight is not finite.
    """

    def __init__(
        self,
        config: ClapConfig,
        where: Path,
        read: Callable[[Shapes], Iterable[Array]],
        dtype: Dtype = "float32",
        progress: bool = False,
        adapter: Adapter | None = None,
        **changes: Any,
    ) -> None:
        try:
            self.core = core.Model(**config.core_arguments(with_text=True) | changes)
        except (ValueError, OverflowError) as error:
            raise FormatError(f"{where}: {error}") from error
        self._where = where.parent if where.name == model_folder.CONFIG else where
        self.dtype, self._config = dtype, config
        self.shapes: Shapes = [(name, shape) for name, shape, _ in self.core.parameters()]
        arrays = read(self.shapes)
        if adapter is not None:
            arrays = merging(adapter, config, self.shapes, arrays)
        self.adapter = adapter and adapter.path
        self._total = None if dtype == "float32" else model_folder.digesting(config)
        self._progress = progress
        if self._total is not None or progress:
            arrays = self._watch(arrays)
        split = core.split_kind()
        own = dtype.startswith("float32x") or (dtype == "bfloat16" and split == "amx")
        self._coarse = dtype == "int8" and core.int8_weight() < 127
        self.kernel = split if own else "oneDNN, 7-bit weights" if self._coarse else "oneDNN"
        try:
            self.core.bind(
                arrays, pack=True, dtype="bfloat16x1" if own and dtype == "bfloat16" else dtype
            )
        except FormatError:  # of the reader, who names the file
            raise
        except ValueError as error:
            raise FormatError(f"{self._where}: {error}") from error
        self.values = {
            name: Lazy(shape, np.dtype(np.float32), functools.partial(self.core.read, index))
            for index, (name, shape) in enumerate(self.shapes)
        }

    def _watch(self, arrays: Iterable[Array]) -> Iterator[Array]:
        """Yield the arrays that are read, with progress; keep those that cannot be read back."""
        size = sum(4 * math.prod(shape) for _, shape in self.shapes)
        with byte_bar(size, "weights", shown=self._progress) as bar:
            for (name, shape), array in zip(self.shapes, arrays, strict=True):
                if self._total is not None:  # rounded weights cannot
                    model_folder.digest_one(self._total, name, array)
                yield array
                bar.update(4 * math.prod(shape))

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over weights, preprocessing, and the type where it is not float32."""
        if self._total is None:
            return model_folder.digest(self._config, self.values.items(), progress=self._progress)
        rounded = "int8, 7-bit weights" if self._coarse else self.dtype
        return hashlib.sha256(f"{self._total.hexdigest()} {rounded}".encode()).hexdigest()

    def require_exact(self) -> dict[str, Lazy]:
        """Return `values`; ReclapError where they were rounded to another type."""
        if self.dtype != "float32":
            raise ReclapError(
                f"this model was loaded in {self.dtype}, which rounds its weights; "
                "load it in float32 to save it"
            )
        return self.values

    @property
    def logit_scale(self) -> float:
        """Factor from cosines to logits; FormatError where it is not finite."""
        stored: Floats = np.asarray(self.values["logit_scale"])
        with np.errstate(over="ignore"):
            scale = float(np.exp(stored))
        if not math.isfinite(scale):
            raise FormatError(
                f"{self._where}: logit_scale is {stored}, whose exponential is {scale}"
            )
        return scale
