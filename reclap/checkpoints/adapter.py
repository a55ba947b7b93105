"""Low-rank adapters (LoRA, Hu et al. 2021): small files that change a base model.

A file holds, for each adapted weight ``NAME.weight`` (out, in), ``NAME.lora_A.weight`` (rank, in)
and ``NAME.lora_B.weight`` (out, rank) in float32; the model then works with weight + alpha / rank
B A. Other tensors replace the base's parameters of their names. The header names the base model by
digest, so that an adapter is not used with another one.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, TypeAlias

import msgspec
import numpy as np

from reclap._types import Array, Floats
from reclap.checkpoints import model_folder
from reclap.checkpoints.lazy import Stored, Tensors
from reclap.checkpoints.safetensors import read_metadata, read_tensors, write_tensors
from reclap.config.model import ClapConfig
from reclap.errors import FormatError, shown_name, shown_names
from reclap.io import files
from reclap.io.settings import Settings, from_mapping

__all__ = ["Adapter", "AdapterConfig", "load", "merged", "merging", "names_of", "save"]

VERSION = 1
_KEY = "adapter"  # of the header's metadata
_SHORT = 12  # digits of a digest in messages
_BLOCK = 1 << 16  # values of a weight that are merged at a time, while they are in the cache

Rank: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=16384)]
Alpha: TypeAlias = Annotated[float, msgspec.Meta(gt=0, le=1e6)]
Shapes: TypeAlias = list[tuple[str, tuple[int, ...]]]


@dataclasses.dataclass(frozen=True)
class AdapterConfig(Settings):
    """Header of an adapter: what it was made for, and how it changes that.

    Parameters
    ----------
    base : str
        Digest of the base model in float32, 64 hexadecimal digits.
    base_name : str
        Name of the base model, for people.
    rank : int
        Rank of each update, 1 to 16384.
    alpha : float
        Numerator of the scale alpha / rank, above 0.
    targets : tuple of str
        Patterns that chose the weights, for people.
    """

    base: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    base_name: str
    rank: Rank
    alpha: Alpha
    targets: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Adapter:
    """Low-rank update of a base model.

    Parameters
    ----------
    config : AdapterConfig
        Base, rank and scale.
    tensors : mapping of str to ndarray
        A and B of each adapted weight, by `names_of`; whole parameters by their own names.
    path : str
        File, for messages.
    """

    config: AdapterConfig
    tensors: Tensors
    path: str = "adapter"

    def require_base(self, digest: str, name: str) -> None:
        """Raise FormatError unless a model with this digest and name is the base."""
        if digest != self.config.base:
            raise FormatError(f"{self._made_for()}, this is {digest[:_SHORT]}... ({name})")

    def require_fit(self, shapes: Shapes) -> None:
        """Raise FormatError unless all tensors belong to parameters of these names and shapes."""
        expected: dict[str, tuple[int, ...]] = dict(shapes)
        pairs = [(*names_of(name), shape) for name, shape in shapes if len(shape) == 2]
        for a, b, (rows, columns) in pairs:
            expected |= {a: (self.config.rank, columns), b: (rows, self.config.rank)}
        faults = [
            f"{shown_name(name)} is {list(x.shape)}, expected {_shown(expected.get(name))}"
            for name, x in self.tensors.items()
            if expected.get(name) != x.shape
        ]
        alone = [pair for *pair, _ in pairs if sum(name in self.tensors for name in pair) == 1]
        faults += [f"one of {' and '.join(map(shown_name, pair))} is missing" for pair in alone]
        if faults:
            raise FormatError(f"{self._made_for()}, does not fit this one: {shown_names(faults)}")

    def _made_for(self) -> str:
        base, name = self.config.base, self.config.base_name
        return f"{self.path}: made for model {base[:_SHORT]}... ({shown_name(name)})"


def _shown(shape: tuple[int, ...] | None) -> str:
    return "no such tensor" if shape is None else str(list(shape))


def names_of(weight: str) -> tuple[str, str]:
    """Return the names of A and B of a weight."""
    stem = weight.removesuffix(".weight")
    return f"{stem}.lora_A.weight", f"{stem}.lora_B.weight"


def merged(weight: Array, a: Stored, b: Stored, scale: float) -> Floats:
    """Return weight + scale B A in float32.

    Summed in float64 in the order of ranks, without a library of products, so that the digest of a
    merged model is the same on every machine.

    Parameters
    ----------
    weight : ndarray of float32, (out, in)
        Weight of the base.
    a, b : ndarray, (rank, in) and (out, rank)
        Matrices of the update.
    scale : float
        alpha / rank.
    """
    down, up = np.asarray(a, np.float64), scale * np.asarray(b, np.float64)
    result = np.empty(weight.shape, np.float32)
    rows = max(1, _BLOCK // weight.shape[1])
    for start in range(0, len(weight), rows):
        part = slice(start, start + rows)
        total = weight[part].astype(np.float64)
        for row, column in zip(down, up[part].T, strict=True):
            total += np.multiply.outer(column, row)
        result[part] = total
    return result


def merging(
    adapter: Adapter, config: ClapConfig, shapes: Shapes, arrays: Iterable[Array]
) -> Iterator[Array]:
    """Yield the parameters of a base model, with the adapter merged into them.

    Parameters
    ----------
    adapter : Adapter
        The update.
    config : ClapConfig
        Configuration of the base model.
    shapes : list of (name, shape)
        Its parameters.
    arrays : iterable of ndarray of float32
        Their values, in order.

    Raises
    ------
    FormatError
        If the tensors do not fit; after the last parameter, if what was read is another model than
        the adapter was made for.
    """
    adapter.require_fit(shapes)
    total = model_folder.digesting(config)
    for (name, _), array in zip(shapes, arrays, strict=True):
        model_folder.digest_one(total, name, array)
        yield _merge(adapter, name, array)
    adapter.require_base(total.hexdigest(), config.name)


def _merge(adapter: Adapter, name: str, array: Array) -> Array:
    tensors = adapter.tensors
    if name in tensors:
        return np.ascontiguousarray(tensors[name], np.float32).reshape(array.shape)
    a, b = names_of(name)
    if a not in tensors:
        return array
    return merged(array, tensors[a], tensors[b], adapter.config.alpha / adapter.config.rank)


# ---- Files -----------------------------------------------------------------------------------


def save(path: Path, adapter: Adapter) -> None:
    """Write an adapter as a safetensors file, atomically."""
    about = {"version": VERSION, **dataclasses.asdict(adapter.config)}
    write_tensors(path, adapter.tensors, {_KEY: json.dumps(about)})


def load(path: Path) -> Adapter:
    """Read an adapter.

    Raises
    ------
    OSError
        If it cannot be read.
    FormatError
        If it is damaged, no adapter, or one of another version.
    """
    tensors = read_tensors(path)
    said = read_metadata(path).get(_KEY)
    if not isinstance(said, str):
        raise FormatError(f"{path}: no adapter: the header has no metadata {_KEY!r}")
    where = f"{path}: {_KEY}"
    about = files.parse_json(where, said)
    version = about.pop("version", None) if isinstance(about, dict) else None
    if version != VERSION:
        raise FormatError(f"{where}: version: expected {VERSION}, got {version!r:.100}")
    for name, x in tensors.items():
        if x.dtype.kind != "f" or not np.isfinite(np.asarray(x)).all():
            raise FormatError(f"{path}: {shown_name(name)}: expected finite floating-point values")
    return Adapter(from_mapping(AdapterConfig, about, where), tensors, str(path))
