"""Reading of transformers' ClapModel."""

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reclap.audio.front import AudioConfig
from reclap.checkpoints import model_folder
from reclap.checkpoints.families import htsat_names
from reclap.checkpoints.families.activations import activation_of
from reclap.checkpoints.families.assemble import Found, Parts, assemble, below, without
from reclap.checkpoints.families.hf_config import EPS, Extractor, contradictions
from reclap.checkpoints.families.shards import weights
from reclap.checkpoints.families.text_config import FEWEST_TOKENS
from reclap.checkpoints.lazy import Tensors
from reclap.config.ranges import Activation
from reclap.config.towers import HtsatConfig
from reclap.errors import FormatError
from reclap.io import files

__all__ = ["EXTRACTOR", "is_clap_model", "read", "read_file"]

EXTRACTOR = "preprocessor_config.json"
_TOKENIZER = "tokenizer_config.json"
_PROCESSOR = "processor_config.json"  # newer folders keep the extractor's settings in it


_PARTS = {  # model types of one side alone
    "clap_audio_model": "ClapAudioModel or ClapAudioModelWithProjection",
    "clap_text_model": "ClapTextModel or ClapTextModelWithProjection",
}
_AUDIO = "audio_model.audio_encoder."


def read(folder: Path) -> Found:
    """Read a folder with config.json and weights in one file or several.

    The front end is that of ``preprocessor_config.json``; LAION-CLAP's where there is none.

    Raises
    ------
    FormatError
        If config.json and the tensors contradict each other, showing both, or a tensor is missing
        or unknown.
    """
    config = files.read_json(folder / model_folder.CONFIG)
    kind = config.get("model_type")
    if isinstance(kind, str) and kind in _PARTS:
        raise FormatError(
            f"{folder}: one side alone of a ClapModel ({_PARTS[kind]}), expected a whole ClapModel"
        )
    if kind != "clap":
        raise FormatError(
            f"{folder}: a {kind!r} model of transformers, expected 'clap'; "
            "training can take the tower of a plain text model, as text of a recipe"
        )
    return _found(folder, config, weights(folder))


def is_clap_model(tensors: Tensors) -> bool:
    """Tell whether a state dict is that of a ClapModel."""
    return any(name.startswith(_AUDIO) for name in tensors)


def read_file(path: Path, tensors: Tensors) -> Found:
    """Read the state dict of a ClapModel, with config.json and front end if they lie beside it.

    Without config.json what no tensor tells is as in published models: heads 64 wide, 1e-12 in the
    norms of the text tower, a padding token 1.
    """
    config = path.with_name(model_folder.CONFIG)
    said = files.read_json(config) if config.is_file() else {}
    known = said if said.get("model_type") == "clap" else {}
    return _found(path.parent, known, tensors, name=path.name)


def _found(
    folder: Path, config: Mapping[str, Any], tensors: Tensors, name: str | None = None
) -> Found:
    path = folder / model_folder.CONFIG
    audio_part, text_part = (_table(path, config, f"{x}_config") for x in ("audio", "text"))
    tower, left = htsat_names.from_transformers(below(tensors, _AUDIO))
    htsat = _htsat(path, audio_part, tower)
    found = assemble(
        Parts(
            family="transformers ClapModel",
            where=name or str(folder),
            audio=htsat,
            tower=tower,
            left=left,
            text=below(tensors, "text_model."),
            others=without(tensors, ("audio_model.", "text_model.")),
            heads={
                "audio_projection": ("linear1", "linear2"),
                "text_projection": ("linear1", "linear2"),
            },
            quantize=False,
            text_kind="roberta-base",
            text_known={
                "eps": _number(path, text_part, "layer_norm_eps", 1e-12),
                "activation": _activation(path, "text_config", text_part),
                **_heads(path, text_part),
                "position_offset": _number(path, text_part, "pad_token_id", 1) + 1,
                "max_tokens": _most_tokens(folder),
            },
            front=_front(folder, fused=htsat.fusion),
        )
    )
    if wrong := contradictions(found.config, config):
        raise FormatError(f"{path}: contradicts the weights: {'; '.join(wrong)}")
    return found


def _htsat(path: Path, part: Mapping[str, Any], tower: Tensors) -> HtsatConfig:
    """Return the audio tower: from its tensors, and from config.json where they do not tell.

    Which parameters it lacks is read off the tensors only where config.json speaks of them; else
    a file that was cut off would be another model.
    """
    eps = _number(path, part, "layer_norm_eps", EPS)
    told: dict[str, Any] = {
        "activation": _activation(path, "audio_config", part),
        "block_eps": None if eps == EPS else eps,
    }
    if "qkv_bias" in part:
        told["qkv_bias"] = any(name.endswith(".attn.qkv.bias") for name in tower)
    if "enable_patch_layer_norm" in part:
        told["patch_norm"] = f"{htsat_names.BRANCH}patch_embed.norm.weight" in tower
    found = htsat_names.config_of(tower, _number(path, part, "spec_size", 256), **told)
    ratio, hidden = found.mlp_ratio, found.embed // found.fusion_ratio
    says = _number(path, part, "mlp_ratio", float(ratio))
    if int(ratio * found.width) <= says * found.width < int(ratio * found.width) + 1:
        ratio = says
    r = _number(path, part, "aff_block_r", 4)
    if not found.fusion or r < 1 or found.embed // r != hidden:
        r = found.fusion_ratio
    return dataclasses.replace(found, mlp_ratio=ratio, fusion_ratio=r)


def _activation(path: Path, name: str, part: Mapping[str, Any]) -> Activation:
    return activation_of(f"{path}: {name}.hidden_act", part.get("hidden_act", "gelu"))


def _heads(path: Path, text_part: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of heads in config.json; without one they are 64 wide."""
    return {"heads": _number(path, text_part, "num_attention_heads", 12)} if text_part else {}


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
    """Return the length at which the folder's tokenizer truncates, or the number of positions."""
    path = folder / _TOKENIZER
    said = files.read_json(path).get("model_max_length") if path.is_file() else None
    return said if type(said) is int and said >= FEWEST_TOKENS else sys.maxsize


def _front(folder: Path, *, fused: bool) -> AudioConfig | None:
    for name in (EXTRACTOR, _PROCESSOR):
        path = folder / name
        data = files.read_json(path) if path.is_file() else {}
        said = _table(path, data, "feature_extractor") if name == _PROCESSOR else data
        if said:
            try:
                return Extractor.from_json(said, str(path)).to_front(fused=fused)
            except (ValueError, OverflowError) as error:
                named = str(error).startswith(str(path))
                raise FormatError(f"{error}" if named else f"{path}: {error}") from error
    return None
