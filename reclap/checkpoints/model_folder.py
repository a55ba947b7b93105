"""Model folders: config.json, safetensors files, tokenizer; read by mapping, written atomically.

A folder holds ``config.json`` (`ClapConfig`), ``model.safetensors`` (audio tower, heads,
temperature), ``text.safetensors`` (text tower, kept apart because it is often frozen and shared)
and ``tokenizer.json``. Tensors are float32, float16, bfloat16, or int8 rows with a tensor
``<name>.scale`` beside them.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from reclap._types import Array
from reclap.audio.front import AudioConfig
from reclap.checkpoints.lazy import Stored, Tensors, release
from reclap.checkpoints.safetensors import FORMAT, read_tensors, write_tensors, write_to
from reclap.config.model import ClapConfig
from reclap.errors import FormatError, shown_name, shown_names
from reclap.io import files
from reclap.io.files import StrPath
from reclap.runtime.progress import byte_bar

__all__ = [
    "TENSOR_FILES",
    "digest",
    "digest_one",
    "digesting",
    "is_foreign",
    "read_config",
    "read_parameters",
    "read_tensors",
    "require_own",
    "resolve",
    "save",
    "save_all",
    "save_text",
    "write_tensors",
]

MODEL = "model.safetensors"
TEXT = "text.safetensors"
TOKENIZER = "tokenizer.json"
CONFIG = "config.json"
TENSOR_FILES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")  # of other projects

_TRAINING = ("drop_path", "dropout", "fc_dropout", "bn_momentum")
_STRIPES = ("time_stripes", "time_width", "freq_stripes", "freq_width")
_USUAL_ONCE = {"silence": "keep"}  # settings whose default changed: their digests did, too
# Settings of the front end that every folder says; later ones stand at their defaults.
_FRONT = (
    *("rate", "samples", "n_fft", "hop", "mels", "fmin", "fmax", "mel_scale", "mel_norm"),
    *("bank_rate", "padding", "quantize", "window_hop", "level_db"),
)
_NOT_IN_DIGEST = frozenset({"name", "template", "logit_bias", *_TRAINING, *_STRIPES})


def resolve(name: StrPath) -> Path:
    """Return the path of a bundled model, or a path that exists.

    Raises
    ------
    FileNotFoundError
        If it is neither; the message lists the bundled names, or says what a URL is.
    """
    bundled = Path(__file__).parents[1] / "models"
    names = sorted(p.parent.name for p in bundled.glob(f"*/{CONFIG}"))
    if isinstance(name, str) and name in names:
        return bundled / name
    path = Path(name)
    if os.fspath(name) and path.exists():  # an empty name would be this folder
        return path
    if "://" in os.fspath(name):
        raise FileNotFoundError(
            f"{os.fspath(name)!r} is a URL: download the file and give its path, "
            "or say hf:org/name for a repository of the Hugging Face hub"
        )
    raise FileNotFoundError(
        f"no model named or at {os.fspath(name)!r}; bundled: {', '.join(names)}; "
        "a repository of the Hugging Face hub is hf:org/name"
    )


def is_foreign(path: Path) -> bool:
    """Tell whether a path is a file of tensors, or a folder that another project wrote."""
    if path.is_file():
        return path.suffix in TENSOR_FILES
    config = path / CONFIG
    return config.is_file() and "model_type" in files.read_json(config)


def require_own(folder: Path, format: Literal["reclap", "hf", "laion"]) -> None:
    """Raise FileExistsError for a folder whose config.json is not that of a model of a format.

    LAION-CLAP's has none.
    """
    path = folder / CONFIG
    if not path.exists():
        return
    try:
        said = files.read_json(path)
    except FormatError:
        said = {}
    key, value = ("model_type", "clap") if format == "hf" else ("format", FORMAT)
    if format == "laion" or said.get(key) != value:
        raise FileExistsError(
            f"{path}: is of something else, which is not replaced unless asked for (overwrite)"
        )


# ---- Reading ---------------------------------------------------------------------------------


def read_config(folder: Path) -> ClapConfig:
    """Read and check config.json of a model folder.

    Raises
    ------
    FormatError
        If it is not a configuration, or lacks a setting of the front end; the message names the
        file and the key.
    """
    path = folder / CONFIG
    data = files.parse_json(str(path), path.read_bytes())
    if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
        raise FormatError(f'{path}: expected a model configuration with "format": "{FORMAT}"')
    front = data.get("front", {})
    AudioConfig.from_json(front, f"{path}.front")  # wrong values are reported before missing ones
    absent = [name for name in _FRONT if name not in front]
    if absent:
        raise FormatError(
            f"{path}: front: {', '.join(absent)} missing, without which log-mels would differ"
        )
    return ClapConfig.from_json(data, str(path))


def read_parameters(folder: Path, wanted: Iterable[tuple[str, tuple[int, ...]]]) -> Iterator[Array]:
    """Read the parameters of a model folder in a given order.

    Parameters
    ----------
    folder : Path
        Holds `MODEL` and, where the model has a text tower, `TEXT`.
    wanted : iterable of (name, shape)
        Names and shapes that the configuration implies.

    Returns
    -------
    iterator of ndarray of float32
        Contiguous, each made when its turn comes; views of the mapped file where it holds float32
        already. When the next one is asked for, the memory behind the last is given back, to be
        read again should anybody still look at it.

    Raises
    ------
    FormatError
        Listing the missing, unexpected and misshapen tensors at once, up to 50 of each.
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
        f"{shown_name(n)} is {list(have[n].shape)}, expected {list(shape)}"
        for n, shape in wanted
        if n in have and have[n].shape != shape
    ]
    faults = [
        f"{len(items)} {kind}: {shown_names(items)}"
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
        Made whole if absent; else its files are replaced, and only once all are on disk.
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
    with files.staged_folder(folder, *names) as new:
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
    others = {name: x for name, x in tensors.items() if name not in text}
    names = (TOKENIZER, TEXT, MODEL, CONFIG)
    with files.staged_folder(folder, *names) as new:
        new[0].write_bytes(tokenizer)
        _write_files(new[1:], (text, others), config)


def save_text(folder: Path, config: ClapConfig, tensors: Tensors, tokenizer: bytes) -> None:
    """Write the text side of a model folder, to train an audio tower beside it; see `save_all`."""
    names = (TOKENIZER, TEXT, CONFIG)
    with files.staged_folder(folder, *names) as new:
        new[0].write_bytes(tokenizer)
        _write_files(new[1:], (tensors,), config)


def _write_files(paths: list[Path], parts: Iterable[Tensors], config: ClapConfig) -> None:
    """Write tensors into all files but the last, which becomes config.json."""
    for path, tensors in zip(paths[:-1], parts, strict=True):
        with path.open("wb") as f:
            write_to(f, tensors)
    data = {"format": FORMAT, **config.to_json()}
    paths[-1].write_text(json.dumps(data, indent=2) + "\n", "utf-8")


def _take_file(source: Path, target: Path, *, link: bool) -> None:
    if link:
        with contextlib.suppress(OSError):
            target.hardlink_to(source)
            return
    shutil.copyfile(source, target)


def digest(
    config: ClapConfig, parameters: Iterable[tuple[str, Stored]], *, progress: bool = False
) -> str:
    """Return a SHA-256 over weights and preprocessing: equal digests give equal embeddings.

    Settings at their default are left out, so that a new one changes no digest of older models. The
    names of the weights tell which kind of audio tower it is.
    """
    total, given = digesting(config), list(parameters)
    with byte_bar(sum(x.nbytes for _, x in given), "digest", shown=progress) as bar:
        for name, array in given:
            digest_one(total, name, array)
            bar.update(array.nbytes)
    return total.hexdigest()


def digesting(config: ClapConfig) -> "hashlib._Hash":
    """Return a SHA-256 object seeded with the configuration; feed tensors with `digest_one`."""
    usual = ClapConfig(audio=type(config.audio)()).to_json()
    usual["front"] |= _USUAL_ONCE
    data = _unusual(config.to_json(), usual)
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode())


def digest_one(total: "hashlib._Hash", name: str, array: Stored) -> None:
    """Feed one parameter to a digest."""
    total.update(name.encode())
    total.update(np.ascontiguousarray(array).data)


def _unusual(data: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that differ from the default and change embeddings."""
    return {
        name: _unusual(value, default[name]) if isinstance(value, dict) else value
        for name, value in data.items()
        if value != default[name] and name not in _NOT_IN_DIGEST
    }
