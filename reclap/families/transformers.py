"""A folder of transformers' ClapModel."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reclap import checkpoint, pickles
from reclap.config import HtsatConfig, TextConfig
from reclap.errors import FormatError
from reclap.families import audio
from reclap.families.parts import Array, Found, Parts, Tensors, assemble, below, without

__all__ = ["read"]


def read(folder: Path) -> Found:
    """Read a folder with config.json and model.safetensors or pytorch_model.bin."""
    config = checkpoint.read_json(folder / checkpoint.CONFIG)
    if config.get("model_type") != "clap":
        raise FormatError(
            f"{folder}: a {config.get('model_type')!r} model of transformers, expected 'clap'"
        )
    tensors = _weights(folder)
    audio_part, text_part = config.get("audio_config", {}), config.get("text_config", {})
    tower, left = audio.from_transformers(below(tensors, "audio_model.audio_encoder."))
    htsat = audio.config_of(tower, audio_part.get("spec_size", 256))
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
            text_known={
                "eps": text_part.get("layer_norm_eps", 1e-12),
                "heads": text_part.get("num_attention_heads", 12),
            },
        )
    )
    _refuse_contradictions(folder, htsat, found.config.text, audio_part, text_part)
    return found


def _weights(folder: Path) -> dict[str, Array]:
    for name, reader in _READERS.items():
        if (folder / name).is_file():
            return dict(reader(folder / name))
    raise FileNotFoundError(f"{folder}: expected one of {', '.join(_READERS)}")


_READERS: dict[str, Callable[[Path], Tensors]] = {
    "model.safetensors": checkpoint.read_tensors,
    "pytorch_model.bin": pickles.state_dict,
}


def _refuse_contradictions(
    folder: Path,
    htsat: HtsatConfig,
    text: TextConfig,
    audio_part: Mapping[str, Any],
    text_part: Mapping[str, Any],
) -> None:
    """Show what the tensors say beside what config.json says, where they differ."""
    pairs = {
        "audio_config.depths": (list(htsat.depths), audio_part.get("depths")),
        "audio_config.num_attention_heads": (
            list(htsat.heads),
            audio_part.get("num_attention_heads"),
        ),
        "audio_config.patch_embeds_hidden_size": (
            htsat.embed,
            audio_part.get("patch_embeds_hidden_size"),
        ),
        "audio_config.enable_fusion": (htsat.fusion, audio_part.get("enable_fusion")),
        "text_config.hidden_size": (text.width, text_part.get("hidden_size")),
        "text_config.num_hidden_layers": (text.layers, text_part.get("num_hidden_layers")),
        "text_config.vocab_size": (text.vocab, text_part.get("vocab_size")),
    }
    wrong = [
        f"{name} is {says!r}, the tensors have {have!r}"
        for name, (have, says) in pairs.items()
        if says is not None and says != have
    ]
    if wrong:
        raise FormatError(f"{folder}: config.json contradicts the weights: {'; '.join(wrong)}")
