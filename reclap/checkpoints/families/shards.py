"""Weights of a transformers folder: one file, or several shards with an index."""

from collections.abc import Iterator
from pathlib import Path

from reclap.checkpoints import model_folder
from reclap.checkpoints.lazy import Stored
from reclap.errors import FormatError, shown_name, shown_names
from reclap.io import files
from reclap.pickles import state_dict

__all__ = ["NAMES", "weight_files", "weights"]

NAMES = (  # the first that is there counts
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "model.fp16.safetensors",
)


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold the weights of a folder, an index first.

    Raises
    ------
    FileNotFoundError
        If there is none; ONNX files are named where they are all there is.
    FormatError
        If an index is none.
    """
    path = next((folder / name for name in NAMES if (folder / name).is_file()), None)
    if path is None:
        onnx = next((p.relative_to(folder) for p in sorted(_onnx(folder))), None)
        only = f"; it holds {onnx}, and ONNX is not read" if onnx else ""
        raise FileNotFoundError(f"{folder}: expected one of {', '.join(NAMES)}{only}")
    if path.suffix != ".json":
        return [path]
    return [path, *(folder / name for name in dict.fromkeys(_index(path).values()))]


def weights(folder: Path) -> dict[str, Stored]:
    """Return the tensors of a folder of transformers, by their names in it.

    Raises
    ------
    FileNotFoundError
        If it holds no weights, or not all files of an index.
    FormatError
        If a file is damaged, or index and files contradict each other.
    """
    first, *shards = weight_files(folder)
    if not shards and first.suffix != ".json":
        return _read(first)
    found: dict[str, Stored] = {}
    for shard in shards:
        tensors = _read(shard)
        if twice := sorted(set(tensors) & set(found)):
            raise FormatError(f"{shard}: {shown_name(twice[0])} is in another shard too")
        found |= tensors
    index = _index(first)
    if wrong := sorted(set(index) ^ set(found)):
        raise FormatError(f"{first}: index and shards differ in {shown_names(wrong, 5)}")
    return found


def _read(path: Path) -> dict[str, Stored]:
    if path.suffix == ".safetensors":
        return model_folder.read_tensors(path)
    return dict(state_dict(path))


def _index(path: Path) -> dict[str, str]:
    """Return the file of each tensor; only files beside the index count."""
    names = files.read_json(path).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise FormatError(f"{path}: expected a weight_map of tensors and their files")
    for name in names.values():
        if not isinstance(name, str) or Path(name).name != name or name in (".", ".."):
            raise FormatError(f"{path}: expected names of files beside it, got {name!r}")
    return names


def _onnx(folder: Path) -> Iterator[Path]:
    yield from folder.glob("*.onnx")
    yield from folder.glob("*/*.onnx")
