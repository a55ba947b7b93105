"""A folder of transformers' ClapModel."""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reclap import checkpoint, files, pickles
from reclap.audio import AudioConfig
from reclap.errors import FormatError
from reclap.families import audio
from reclap.families.clap_model import EPS, Extractor, contradictions
from reclap.families.parts import Found, Parts, Tensors, assemble, below, without
from reclap.families.text_config import FEWEST_TOKENS
from reclap.tensors import Stored

__all__ = ["EXTRACTOR", "read", "weights"]

EXTRACTOR = "preprocessor_config.json"
_TOKENIZER = "tokenizer_config.json"
_PROCESSOR = "processor_config.json"  # newer folders keep the extractor's settings in it


def read(folder: Path) -> Found:
    """Read a folder with config.json and model.safetensors or pytorch_model.bin.

    The front end is that of ``preprocessor_config.json``; LAION-CLAP's where there is none.

    Raises
    ------
    FormatError
        If config.json and the tensors contradict each other, showing both, or a tensor is missing
        or unknown.
    """
    path = folder / checkpoint.CONFIG
    config = files.read_json(path)
    if config.get("model_type") != "clap":
        raise FormatError(
            f"{folder}: a {config.get('model_type')!r} model of transformers, expected 'clap'; "
            "training can take the tower of a plain text model, as text of a recipe"
        )
    tensors = weights(folder)
    audio_part, text_part = (_table(path, config, f"{x}_config") for x in ("audio", "text"))
    tower, left = audio.from_transformers(below(tensors, "audio_model.audio_encoder."))
    htsat = audio.config_of(tower, _number(path, audio_part, "spec_size", 256))
    eps = _number(path, audio_part, "layer_norm_eps", EPS)
    if eps != EPS:
        raise FormatError(f"{path}: audio_config.layer_norm_eps is {eps}, expected {EPS}")
    found = assemble(
        Parts(
            family="transformers ClapModel",
            where=str(folder),
            audio=htsat,
            tower=tower,
            left=left,
            text=below(tensors, "text_model."),
            rest=without(tensors, ("audio_model.", "text_model.")),
            heads={
                "audio_projection": ("linear1", "linear2"),
                "text_projection": ("linear1", "linear2"),
            },
            quantize=False,
            text_kind="roberta-base",
            text_known={
                "eps": _number(path, text_part, "layer_norm_eps", 1e-12),
                "heads": _number(path, text_part, "num_attention_heads", 12),
                "position_offset": _number(path, text_part, "pad_token_id", 1) + 1,
                "max_tokens": _most_tokens(folder),
            },
        )
    )
    if wrong := contradictions(found.config, config):
        raise FormatError(f"{path}: contradicts the weights: {'; '.join(wrong)}")
    front = _front(folder, fused=htsat.fusion)
    if front is None:
        return found
    return dataclasses.replace(found, config=dataclasses.replace(found.config, front=front))


def weights(folder: Path) -> dict[str, Stored]:
    """Return the tensors of a folder of transformers, by their names in it.

    Raises
    ------
    FileNotFoundError
        If it holds neither ``model.safetensors`` nor ``pytorch_model.bin``.
    """
    for name, reader in _READERS.items():
        if (folder / name).is_file():
            return dict(reader(folder / name))
    raise FileNotFoundError(f"{folder}: expected one of {', '.join(_READERS)}")


_READERS: dict[str, Callable[[Path], Tensors]] = {
    "model.safetensors": checkpoint.read_tensors,
    "pytorch_model.bin": pickles.state_dict,
}


def _table(path: Path, config: Mapping[str, Any], name: str) -> dict[str, Any]:
    part = config.get(name, {})
    if not isinstance(part, dict):
        raise FormatError(f"{path}: {name} is {part!r}, expected an object")
    return part


def _number(path: Path, part: Mapping[str, Any], name: str, default: float) -> Any:
    """Return a number of the type of its default."""
    value = part.get(name, default)
    fits = type(value) in (int, float) if isinstance(default, float) else type(value) is int
    if not fits:
        raise FormatError(f"{path}: {name} is {value!r}, expected {type(default).__name__}")
    return value


def _most_tokens(folder: Path) -> int:
    """Return where the folder's tokenizer cuts texts; the positions bound it where it does not."""
    path = folder / _TOKENIZER
    said = files.read_json(path).get("model_max_length") if path.is_file() else None
    return said if type(said) is int and said >= FEWEST_TOKENS else sys.maxsize


def _front(folder: Path, *, fused: bool) -> AudioConfig | None:
    for name in (EXTRACTOR, _PROCESSOR):
        path = folder / name
        data = files.read_json(path) if path.is_file() else {}
        said = data.get("feature_extractor", {}) if name == _PROCESSOR else data
        if isinstance(said, dict) and said:
            try:
                return Extractor.from_json(said, str(path)).to_front(fused=fused)
            except FormatError as error:
                named = str(error).startswith(str(path))
                raise FormatError(f"{error}" if named else f"{path}: {error}") from error
    return None
