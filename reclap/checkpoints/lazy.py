"""Lazy tensors, and release of memory-mapped pages after use."""

import math
import mmap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from reclap._types import Array
from reclap.errors import FormatError

__all__ = ["Array", "Lazy", "Stored", "Tensors", "joined", "release", "split"]


class Lazy:
    """A tensor that ``numpy.asarray`` computes anew each time.

    Parameters
    ----------
    shape : tuple of int
        Shape of the array.
    dtype : numpy.dtype
        Type of the array.
    make : callable
        Computes the array.
    parts : sequence of ndarray or Lazy
        Tensors that it depends on.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        make: Callable[[], Array],
        parts: "Sequence[Stored]" = (),
    ) -> None:
        self.shape, self.dtype, self.ndim = shape, dtype, len(shape)
        self.nbytes = math.prod(shape) * dtype.itemsize
        self._make, self.parts = make, parts

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        """Make the array."""
        return np.asarray(self._make(), dtype)


Stored: TypeAlias = Array | Lazy
Tensors: TypeAlias = Mapping[str, Stored]


def joined(name: str, parts: Sequence[Stored], *, transposed: bool = False) -> Lazy:
    """Return tensors stacked along their first axis, copied when needed.

    So that the matrices of queries, keys and values of a whole model are never in memory at once.

    Parameters
    ----------
    name : str
        Name of the whole in messages.
    parts : sequence of ndarray or Lazy
        Tensors of one shape and type, with at least one axis.
    transposed : bool
        Whether the axes of the result are swapped.

    Raises
    ------
    FormatError
        If the parts do not fit each other.
    """
    if len({(x.shape, x.dtype) for x in parts}) != 1 or parts[0].ndim == 0:
        raise FormatError(f"{name}: its parts have shapes {[x.shape for x in parts]}")

    def make() -> Array:
        whole = np.concatenate([np.asarray(part) for part in parts])
        return np.ascontiguousarray(whole.T) if transposed else whole

    first, *rest = parts[0].shape
    shape = (len(parts) * first, *rest)
    return Lazy(shape[::-1] if transposed else shape, parts[0].dtype, make, parts)


def split(tensor: Stored, count: int) -> list[Stored]:
    """Return equal parts of a tensor along its first axis, each copied when needed."""
    rows = tensor.shape[0] // count
    shape = (rows, *tensor.shape[1:])

    def part(i: int) -> Callable[[], Array]:
        return lambda: np.array(np.asarray(tensor)[i * rows : (i + 1) * rows])

    return [tensor] if count == 1 else [Lazy(shape, tensor.dtype, part(i)) for i in range(count)]


def release(tensor: Stored) -> None:
    """Release the memory-mapped pages behind a tensor; they are read again when needed."""
    if isinstance(tensor, Lazy):
        for part in tensor.parts:
            release(part)
        return
    mapping = _mapping(tensor)
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):  # not everywhere
        mapping.madvise(mmap.MADV_DONTNEED)


def _mapping(owner: Any) -> mmap.mmap | None:
    """Return the mapping that an array views, or None."""
    while isinstance(owner, np.ndarray | memoryview):
        owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
    return owner if isinstance(owner, mmap.mmap) else None
