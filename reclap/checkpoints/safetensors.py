"""Reading (memory-mapped) and writing of safetensors files."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from reclap._types import Array
from reclap.checkpoints.lazy import Lazy, Stored, Tensors, release
from reclap.errors import FormatError, shown_name
from reclap.io import files

__all__ = ["FORMAT", "Tensors", "read_metadata", "read_tensors", "write_tensors", "write_to"]


FORMAT = "reclap-1"
_METADATA = "__metadata__"
_TYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("u1"),  # in a damaged file a byte may be neither 0 nor 1
}
_UNWRITTEN = ("BF16", "BOOL")  # types of which NumPy's are those of others
_LARGEST_HEADER = 100_000_000  # as the safetensors library


def read_tensors(path: Path) -> dict[str, Stored]:
    """Map a safetensors file into memory.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    dict of str to ndarray or Lazy
        Read-only views of the mapping; bfloat16 is widened to float32 when a tensor is asked for.

    Raises
    ------
    FormatError
        If the header is not what the format asks for, or the byte ranges do not cover the file one
        after the other.
    """
    header, at = _read_header(path)
    header.pop(_METADATA, None)
    data = np.memmap(path, np.uint8, "r", at) if path.stat().st_size > at else np.empty(0, "u1")
    found = {n: _tensor(f"{path}: {shown_name(n)}", x, data) for n, x in header.items()}
    _check_cover(path, header, len(data))
    return found


def read_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata in the header of a safetensors file, as far as there are any."""
    metadata = _read_header(path)[0].get(_METADATA)
    return metadata if isinstance(metadata, dict) else {}


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Return the header, and where the data begins."""
    size = path.stat().st_size
    with path.open("rb") as f:
        head = f.read(64)
        length = int.from_bytes(head[:8], "little")
        if size < 8 or length > min(size - 8, _LARGEST_HEADER):
            what = files.disguise(head) or f"{size} bytes, header of {length}"
            if head.startswith(b"PK\x03\x04"):
                what = "a zip file, as torch.save writes; call it .pt"
            raise FormatError(f"{path}: no safetensors file: {what}")
        f.seek(8)
        header = files.parse_json(f"{path}: header", f.read(length), unique=True)
    if not isinstance(header, dict):
        raise FormatError(f"{path}: the header is a {type(header).__name__}, expected an object")
    return header, 8 + length


def _check_cover(path: Path, header: Mapping[str, Any], size: int) -> None:
    """Refuse ranges with holes or overlaps, as the library does."""
    at = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        if begin != at:
            raise FormatError(f"{path}: {shown_name(name)} begins at byte {begin}, expected {at}")
        at = end
    if at != size:
        raise FormatError(f"{path}: tensors end at byte {at} of the data, expected {size}")


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _tensor(where: str, entry: Any, data: Array) -> Stored:
    if not isinstance(entry, dict):
        raise FormatError(f"{where}: expected an object, got {entry!r}")
    if entry.get("dtype") not in list(_TYPES):  # a list, because the value may be unhashable
        raise FormatError(
            f"{where}: dtype is {entry.get('dtype')!r}, known are {', '.join(_TYPES)}"
        )
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    if not isinstance(shape, list) or not all(map(_is_size, shape)):
        raise FormatError(f"{where}: shape is {shape!r}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
        raise FormatError(f"{where}: data_offsets is {offsets!r}")
    kind = _TYPES[entry["dtype"]]
    begin, end = offsets
    if end > len(data) or end - begin != math.prod(shape) * kind.itemsize:
        raise FormatError(
            f"{where}: bytes {begin} to {end} of {len(data)} do not hold {entry['dtype']} {shape}"
        )
    try:
        array: Array = data[begin:end].view(kind).reshape(shape)
    except ValueError as error:  # more axes than NumPy has
        raise FormatError(f"{where}: shape is {shape!r}: {error}") from error
    return _widened(array) if entry["dtype"] == "BF16" else array


def _widened(array: Array) -> Lazy:
    """Return bfloat16, of which `array` holds the bits, as float32."""

    def make() -> Array:
        wide = array.astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)

    return Lazy(array.shape, np.dtype(np.float32), make, [array])


def write_tensors(path: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file atomically.

    Parameters
    ----------
    path : Path
        Replaced at the end.
    tensors : mapping of str to ndarray
        Floating-point arrays, or integers of 8 to 64 bits.
    metadata : mapping of str to str, optional
        Kept in the header.
    """
    with files.atomic(path) as f:
        write_to(f, tensors, metadata)


def write_to(f: IO[bytes], tensors: Tensors, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file into an open one; see `write_tensors`."""
    kinds = {kind: name for name, kind in _TYPES.items() if name not in _UNWRITTEN}
    header: dict[str, Any] = {_METADATA: {"format": FORMAT, **(metadata or {})}}
    at = 0
    for name, array in tensors.items():
        kind = kinds.get(array.dtype.newbyteorder("<"))
        if kind is None:
            raise TypeError(f"{name}: safetensors files hold no {array.dtype} here")
        header[name] = {
            "dtype": kind,
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)  # data starts on a cache line, as float32 views need
    f.write(len(text).to_bytes(8, "little") + text)
    for array in tensors.values():
        f.write(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
        release(array)
