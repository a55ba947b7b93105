"""Writing of a checkpoint as torch.save does, without torch.

A zip archive without compression: ``data.pkl``, which names tensors, and one entry of raw bytes for
each storage (``torch/serialization.py``). `reclap.pickles` reads it, and ``torch.load``, too, with
``weights_only=True``.
"""

import struct
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from reclap.checkpoints.lazy import Stored, Tensors, release
from reclap.io import files

__all__ = ["write_state"]

_STORAGES = {np.dtype("<f4"): "FloatStorage", np.dtype("<i8"): "LongStorage"}
_ROOT = "archive"
_ALIGNED = 64  # as torch, so that a mapped file can be viewed
_HEADER = 30  # of an entry, before its name

_PROTOCOL, _STOP = b"\x80\x02", b"."
_MARK, _TUPLE, _EMPTY_TUPLE, _DICT, _SET = b"(", b"t", b")", b"}", b"u"
_CALL, _PERSISTENT, _FALSE = b"R", b"Q", b"\x89"


def write_state(path: Path, tensors: Tensors, about: Mapping[str, str | int]) -> None:
    """Write a checkpoint atomically: a dictionary with ``state_dict`` beside other entries.

    Parameters
    ----------
    path : Path
        Replaced at the end.
    tensors : mapping of str to ndarray
        The state dict, float32 or int64. One tensor by two names is stored once.
    about : mapping of str to str or int
        The other entries.

    Raises
    ------
    TypeError
        If a tensor has another type.
    """
    for name, x in tensors.items():
        if x.dtype.newbyteorder("<") not in _STORAGES:
            raise TypeError(f"{name}: checkpoints of torch.save hold no {x.dtype} here")
    storages = {id(x): x for x in tensors.values()}
    keys = {identity: str(i) for i, identity in enumerate(storages)}
    with files.atomic(path) as f, zipfile.ZipFile(f, "w") as archive:
        _add(archive, "data.pkl", _pickled(tensors, keys, about))
        _add(archive, "byteorder", b"little")
        for identity, x in storages.items():
            values = np.ascontiguousarray(x, x.dtype.newbyteorder("<"))
            _add(archive, f"data/{keys[identity]}", values.reshape(-1).view(np.uint8).data)
            release(x)
        _add(archive, "version", b"3\n")


def _add(archive: zipfile.ZipFile, name: str, content: bytes | memoryview) -> None:
    info = zipfile.ZipInfo(f"{_ROOT}/{name}")  # of 1980, so equal models are equal files
    at = archive.fp.tell() + _HEADER + len(info.filename) + 4 if archive.fp else 0
    padding = -at % _ALIGNED
    info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    archive.writestr(info, content)


# ---- The pickle ----------------------------------------------------------------------------------


def _pickled(tensors: Tensors, keys: Mapping[int, str], about: Mapping[str, str | int]) -> bytes:
    state = ((name, _tensor(x, keys[id(x)])) for name, x in tensors.items())
    entries = [(name, _value(value)) for name, value in about.items()]
    return _PROTOCOL + _dict([*entries, ("state_dict", _dict(state))]) + _STOP


def _tensor(tensor: Stored, key: str) -> bytes:
    """Return a call of ``_rebuild_tensor_v2``: storage, offset, shape, strides, no gradient."""
    items = tensor.nbytes // tensor.dtype.itemsize
    storage = _global("torch", _STORAGES[tensor.dtype.newbyteorder("<")])
    where = [_text("storage"), storage, _text(key), _text("cpu"), _integer(items)]
    strides = [items]
    for size in tensor.shape:
        strides.append(strides[-1] // size)
    hooks = _global("collections", "OrderedDict") + _EMPTY_TUPLE + _CALL
    arguments = [
        _tuple(where) + _PERSISTENT,
        _integer(0),
        _tuple(map(_integer, tensor.shape)),
        _tuple(map(_integer, strides[1:])),
        _FALSE,
        hooks,
    ]
    return _global("torch._utils", "_rebuild_tensor_v2") + _tuple(arguments) + _CALL


def _dict(entries: Iterable[tuple[str, bytes]]) -> bytes:
    return _DICT + _MARK + b"".join(_text(name) + value for name, value in entries) + _SET


def _tuple(items: Iterable[bytes]) -> bytes:
    return _MARK + b"".join(items) + _TUPLE


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _value(value: str | int) -> bytes:
    return _integer(value) if isinstance(value, int) else _text(value)


def _text(text: str) -> bytes:
    content = text.encode()
    return b"X" + struct.pack("<I", len(content)) + content


def _integer(value: int) -> bytes:
    if 0 <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    content = value.to_bytes(9, "little", signed=True)
    return b"\x8a\x09" + content
