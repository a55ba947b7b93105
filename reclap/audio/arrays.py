"""Conversion of arrays and tensors of any type to float32 amplitudes."""

from typing import Any

import numpy as np
import numpy.typing as npt

from reclap._types import Array, Samples
from reclap.errors import BadSound, BadSoundType
from reclap.runtime.libraries import core

__all__ = ["LARGEST", "amplitudes", "refuse_non_finite"]


# Integers of 32 bits that were not scaled stay below it, which `reclap.audio.levels` warns of; its
# power over the longest transform, 2^32 times its square, stays far below float32's largest.
LARGEST = 1e10
_MOST_CHANNELS = 64  # more axes are taken for samples


def amplitudes(source: Any, *, channels_first: bool = False) -> Samples:
    """Return an array as (T, channels) in float32, integers from their full range to [-1, 1).

    Parameters
    ----------
    source : array_like or torch.Tensor
        Shape (T,) or (T, channels). Tensors may need gradients, or be of type bfloat16.
    channels_first : bool
        Arrays of two axes are (channels, T).

    Raises
    ------
    BadSound
        If there is no sample, another number of axes, channels where samples should be, or
        if a sample is NaN, infinite or beyond `LARGEST`.
    BadSoundType
        If the type is complex, boolean, text, or an integer of 64 bits.
    """
    array = _as_array(source)
    if array.ndim == 0 and array.dtype.kind == "O":
        kind = "None" if source is None else type(source).__name__
        raise BadSoundType(f"audio: expected a path, bytes, a file object or an array, got {kind}")
    if array.ndim not in (1, 2):
        hint = "; of a batch, pass a list of its clips" if array.ndim > 2 else ""
        raise BadSound(
            f"audio array: expected shape (T,) or (T, channels), got {array.shape}{hint}"
        )
    if array.size == 0:
        raise BadSound(f"audio array: no samples, shape is {array.shape}")
    if array.ndim == 2:
        array = _channels_last(array, channels_first=channels_first)
    samples = _as_float(array)
    refuse_non_finite(samples, "audio array")
    return samples.reshape(len(samples), -1)


def _as_array(source: Any) -> Array:
    if hasattr(source, "detach"):  # torch's
        source = source.detach().cpu()
        if str(source.dtype) == "torch.bfloat16":  # which NumPy does not know
            source = source.float()
    return np.asarray(source)


def _channels_last(array: Array, *, channels_first: bool) -> Array:
    given = array.shape
    array = array.T if channels_first else array
    if array.shape[1] <= max(_MOST_CHANNELS, array.shape[0]):
        return array
    if channels_first:
        hint = "without channels_first=True the last axis is that of channels"
    else:
        hint = (
            "channels come last: pass its transpose, or channels_first=True; of a batch, pass a "
            "list of its clips"
        )
    raise BadSound(f"audio array: shape {given} means {array.shape[1]} channels; {hint}")


def _as_float(array: Array) -> Samples:
    """Convert to contiguous float32, integers from their full range to [-1, 1)."""
    kind, bits = array.dtype.kind, 8 * array.dtype.itemsize
    if kind == "f":
        with np.errstate(over="ignore"):  # becomes infinite and is refused as such
            return np.ascontiguousarray(array, np.float32)
    if kind == "i" and bits <= 32:
        return np.ascontiguousarray(array * np.float32(2.0 ** (1 - bits)), np.float32)
    if kind == "u" and bits == 8:
        return np.ascontiguousarray(array * np.float32(2.0**-7) - np.float32(1), np.float32)
    raise BadSoundType(
        f"audio array: expected floating point, int8, int16, int32 or uint8, got {array.dtype}"
    )


def refuse_non_finite(samples: Samples, name: str, at: int = 0) -> None:
    """Raise BadSound that names the first frame with NaN, infinity or a sample beyond `LARGEST`.

    Frames are counted from `at`.
    """
    if not core.all_finite(samples):
        bad = at + _first(~np.isfinite(samples))
        raise BadSound(f"{name}: NaN or infinite samples, the first at frame {bad}")
    if samples.size and max(peak := float(samples.max()), -float(samples.min())) > LARGEST:
        bad = at + _first(np.abs(samples) > LARGEST)
        peak = max(peak, -float(samples.min()))
        raise BadSound(
            f"{name}: samples reach {peak:.3g}, expected -1 to 1 and at most {LARGEST:g}, the "
            f"first at frame {bad}"
        )


def _first(wrong: npt.NDArray[np.bool_]) -> int:
    return int(np.argmax(wrong.reshape(len(wrong), -1).any(axis=1)))
