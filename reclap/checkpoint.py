"""Model folders: config.json, safetensors files, tokenizer; read by mapping, written atomically.

A folder holds ``config.json`` (`ClapConfig`), ``model.safetensors`` (audio tower, heads,
temperature), ``text.safetensors`` (text tower, kept apart because it is often frozen and shared)
and ``tokenizer.json``. Tensors are float32, float16, bfloat16, or int8 rows with a tensor
``<name>.scale`` beside them.
"""

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from reclap import files
from reclap.config import ClapConfig
from reclap.errors import FormatError
from reclap.tensors import Array, Stored, release

__all__ = [
    "TENSOR_FILES",
    "digest",
    "digest_one",
    "digesting",
    "is_foreign",
    "read_config",
    "read_parameters",
    "read_tensors",
    "resolve",
    "save",
    "save_all",
    "save_text",
    "write_tensors",
]

Tensors = Mapping[str, Stored]

MODEL = "model.safetensors"
TEXT = "text.safetensors"
TOKENIZER = "tokenizer.json"
CONFIG = "config.json"
FORMAT = "reclap-1"
TENSOR_FILES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")  # of other projects

_TYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
}
_TRAINING = ("drop_path", "dropout", "bn_momentum")
_STRIPES = ("time_stripes", "time_width", "freq_stripes", "freq_width")
_OF_NO_EMBEDDING = frozenset({"name", "template", *_TRAINING, *_STRIPES})
_LARGEST_HEADER = 100_000_000  # as the safetensors library


def resolve(name: str | os.PathLike[str]) -> Path:
    """Return the path of a bundled model, or a path that exists.

    Raises
    ------
    FileNotFoundError
        If it is neither; the message lists the bundled names.
    """
    bundled = Path(__file__).parent / "models"
    names = sorted(p.parent.name for p in bundled.glob(f"*/{CONFIG}"))
    if isinstance(name, str) and name in names:
        return bundled / name
    path = Path(name)
    if os.fspath(name) and path.exists():  # an empty name would be this folder
        return path
    raise FileNotFoundError(
        f"no model named or at {os.fspath(name)!r}; bundled: {', '.join(names)}"
    )


def is_foreign(path: Path) -> bool:
    """Tell whether a path is a file of tensors, or a folder that another project wrote."""
    if path.is_file():
        return path.suffix in TENSOR_FILES
    config = path / CONFIG
    return config.is_file() and "model_type" in files.read_json(config)


# ---- Reading ---------------------------------------------------------------------------------


def read_tensors(path: Path) -> dict[str, Array]:
    """Map a safetensors file into memory.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    dict of str to ndarray
        Read-only views of the mapping; bfloat16 is widened to float32.

    Raises
    ------
    FormatError
        If the header or a byte range is not what the format asks for.
    """
    size = path.stat().st_size
    with path.open("rb") as f:
        length = int.from_bytes(f.read(8), "little")
        if size < 8 or length > min(size - 8, _LARGEST_HEADER):
            raise FormatError(f"{path}: no safetensors file: {size} bytes, header of {length}")
        header = _parse_header(path, f.read(length))
    data = np.memmap(path, np.uint8, "r", 8 + length) if size > 8 + length else np.empty(0, "u1")
    return {name: _tensor(f"{path}: {name}", entry, data) for name, entry in header.items()}


def _parse_header(path: Path, text: bytes) -> dict[str, Any]:
    header = files.parse_json(f"{path}: header", text)
    if not isinstance(header, dict):
        raise FormatError(f"{path}: the header is a {type(header).__name__}, expected an object")
    header.pop("__metadata__", None)
    return header


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _tensor(where: str, entry: Any, data: Array) -> Array:
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
    if entry["dtype"] == "BF16":
        wide: Array = (array.astype(np.uint32) << 16).view(np.float32)
        return wide
    return array


def read_config(folder: Path) -> ClapConfig:
    """Read and check config.json of a model folder.

    Raises
    ------
    FormatError
        If it is not a configuration; the message names the file and the key.
    """
    path = folder / CONFIG
    data = files.parse_json(str(path), path.read_bytes())
    if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
        raise FormatError(f'{path}: expected a model configuration with "format": "{FORMAT}"')
    return ClapConfig.from_json(data, str(path))


def read_parameters(folder: Path, wanted: Iterable[tuple[str, tuple[int, ...]]]) -> Iterator[Array]:
    """Read the parameters of a model folder in a given order.

    Parameters
    ----------
    folder : Path
        Holds `MODEL` and, where the model has a text tower, `TEXT`.
    wanted : iterable of (name, shape)
        What the configuration implies.

    Returns
    -------
    iterator of ndarray of float32
        Contiguous, each made when its turn comes; views of the mapped file where it holds float32
        already. When the next one is asked for, the memory behind the last is given back, to be
        read again should anybody still look at it.

    Raises
    ------
    FormatError
        Listing every missing, unexpected and misshapen tensor at once.
    """
    wanted = list(wanted)
    have: dict[str, Stored] = {}
    if any(name.startswith("text_branch.") for name, _ in wanted):
        have |= read_tensors(folder / TEXT)
    if any(not name.startswith("text_branch.") for name, _ in wanted):
        have |= read_tensors(folder / MODEL)
    return match(have, wanted, str(folder))


def match(have: Tensors, wanted: list[tuple[str, tuple[int, ...]]], where: str) -> Iterator[Array]:
    """Order tensors as wanted and widen them to float32; see `read_parameters`."""
    names = {name for name, _ in wanted}
    scales = {f"{n}.scale" for n in names if n in have and have[n].dtype == np.int8}
    missing = [n for n, _ in wanted if n not in have]
    unexpected = [n for n in have if n not in names and n not in scales]
    shapes = [
        f"{n} is {list(have[n].shape)}, expected {list(shape)}"
        for n, shape in wanted
        if n in have and have[n].shape != shape
    ]
    faults = [
        f"{len(items)} {kind}: {'; '.join(items)}"
        for kind, items in (("missing", missing), ("unexpected", unexpected), ("misshapen", shapes))
        if items
    ]
    if faults:
        raise FormatError(
            f"{where}: the tensors do not fit the configuration. " + ". ".join(faults)
        )
    return _each_wide(have, [name for name, _ in wanted], where)


def _each_wide(have: Tensors, names: list[str], where: str) -> Iterator[Array]:
    for name in names:
        yield _widen(f"{where}: {name}", np.asarray(have[name]), have.get(f"{name}.scale"))
        release(have[name])


def _widen(where: str, array: Array, scale: Stored | None) -> Array:
    if array.dtype == np.int8:
        if scale is None or array.ndim == 0 or scale.shape != array.shape[:1]:
            raise FormatError(f"{where}: int8 without one scale a row")
        rows = np.asarray(scale, np.float32).reshape(-1, *[1] * (array.ndim - 1))
        return np.ascontiguousarray(array * rows)
    if array.dtype.kind != "f":
        raise FormatError(f"{where}: expected a floating-point tensor, got {array.dtype}")
    wide = np.ascontiguousarray(array, np.float32).reshape(array.shape)
    return wide if wide.flags.aligned else wide.copy()


# ---- Writing ---------------------------------------------------------------------------------


def write_tensors(path: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file atomically.

    Parameters
    ----------
    path : Path
        Replaced at the end.
    tensors : mapping of str to ndarray
        Floating-point, int8, uint8, int32 or int64 arrays.
    metadata : mapping of str to str, optional
        Kept in the header.
    """
    with files.atomic(path) as f:
        _write_tensors(f, tensors, metadata or {})


def _write_tensors(f: IO[bytes], tensors: Tensors, metadata: Mapping[str, str]) -> None:
    kinds = {kind: name for name, kind in _TYPES.items() if name != "BF16"}
    header: dict[str, Any] = {"__metadata__": {"format": FORMAT, **metadata}}
    at = 0
    for name, array in tensors.items():
        kind = kinds.get(array.dtype.newbyteorder("<"))
        size = math.prod(array.shape) * array.dtype.itemsize
        if kind is None:
            raise TypeError(f"{name}: safetensors files hold no {array.dtype} here")
        header[name] = {
            "dtype": kind,
            "shape": list(array.shape),
            "data_offsets": [at, at + size],
        }
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)  # data starts on a cache line, as float32 views need
    f.write(len(text).to_bytes(8, "little") + text)
    for array in tensors.values():
        f.write(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
        release(array)


def save(
    folder: Path,
    config: ClapConfig,
    tensors: Tensors,
    text_from: Path,
    *,
    link: bool = False,
) -> None:
    """Write a model folder.

    Parameters
    ----------
    folder : Path
        Made if absent. Its files are replaced together, and only once all are on disk.
    config : ClapConfig
        Becomes config.json.
    tensors : mapping of str to ndarray
        Audio tower, heads, temperature.
    text_from : Path
        Folder whose text tower and tokenizer the model uses.
    link : bool
        Hard-link them instead of copying, where the file system can; for the checkpoints of one
        training run among themselves. Never with a folder that is not the caller's own: who edits
        one file in place edits both.
    """
    inside = folder.resolve() == text_from.resolve()
    shared = [] if inside else [TEXT, TOKENIZER]
    names = (*shared, MODEL, CONFIG)
    with files.made(folder), files.staged(*(folder / name for name in names)) as new:
        for name, path in zip(shared, new, strict=False):
            _take_file(text_from / name, path, link=link)
        _write_files(new[-2:], (tensors,), config)


def save_all(folder: Path, config: ClapConfig, tensors: Tensors, tokenizer: bytes) -> None:
    """Write a model folder with both towers from memory; see `save`.

    Parameters
    ----------
    tensors : mapping of str to ndarray
        Everything.
    tokenizer : bytes
        Becomes tokenizer.json.
    """
    text = {name: x for name, x in tensors.items() if name.startswith("text_branch.")}
    rest = {name: x for name, x in tensors.items() if name not in text}
    names = (TOKENIZER, TEXT, MODEL, CONFIG)
    with files.made(folder), files.staged(*(folder / name for name in names)) as new:
        new[0].write_bytes(tokenizer)
        _write_files(new[1:], (text, rest), config)


def save_text(folder: Path, config: ClapConfig, tensors: Tensors, tokenizer: bytes) -> None:
    """Write what of a model folder concerns texts, to train beside; see `save_all`."""
    names = (TOKENIZER, TEXT, CONFIG)
    with files.made(folder), files.staged(*(folder / name for name in names)) as new:
        new[0].write_bytes(tokenizer)
        _write_files(new[1:], (tensors,), config)


def _write_files(paths: list[Path], parts: Iterable[Tensors], config: ClapConfig) -> None:
    """Write tensors into all files but the last, which becomes config.json."""
    for path, tensors in zip(paths[:-1], parts, strict=True):
        with path.open("wb") as f:
            _write_tensors(f, tensors, {})
    data = {"format": FORMAT, **config.to_json()}
    paths[-1].write_text(json.dumps(data, indent=2) + "\n", "utf-8")


def _take_file(source: Path, target: Path, *, link: bool) -> None:
    if link:
        with contextlib.suppress(OSError):
            target.hardlink_to(source)
            return
    shutil.copyfile(source, target)


def digest(config: ClapConfig, parameters: Iterable[tuple[str, Stored]]) -> str:
    """Return a SHA-256 over weights and preprocessing: equal digests give equal embeddings.

    Settings at their default are left out, so that a new one changes no digest of older models. The
    names of the weights tell which kind of audio tower it is.
    """
    total = digesting(config)
    for name, array in parameters:
        digest_one(total, name, array)
    return total.hexdigest()


def digesting(config: ClapConfig) -> "hashlib._Hash":
    """Return the digest of a configuration, to be gone on with by `digest_one`."""
    data = _unusual(config.to_json(), ClapConfig(audio=type(config.audio)()).to_json())
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode())


def digest_one(total: "hashlib._Hash", name: str, array: Stored) -> None:
    """Take one parameter into a digest."""
    total.update(name.encode())
    total.update(np.ascontiguousarray(array).data)


def _unusual(data: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that differ from the default, but for those that change no embedding."""
    return {
        name: _unusual(value, default[name]) if isinstance(value, dict) else value
        for name, value in data.items()
        if value != default[name] and name not in _OF_NO_EMBEDDING
    }
