"""Checkpoints of other projects: what they are, and their tensors by our names.

Three layouts are known: the state dicts of LAION-CLAP (also of ReCLAP and CompA-CLAP) and of
MS-CLAP 2023 in a file that torch.save or safetensors wrote, and a folder of transformers'
ClapModel. Kinds and sizes of the
towers are read off the tensors; where a configuration file says otherwise, both are shown.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reclap import checkpoint, pickles
from reclap.audio import AudioConfig
from reclap.config import ClapConfig, HtsatConfig, TextConfig
from reclap.errors import FormatError
from reclap.families import audio, text

__all__ = ["Found", "is_foreign", "read"]

Array = npt.NDArray[Any]
Tensors = Mapping[str, Array]

_TENSOR_FILES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
_TRANSFORM = re.compile(r"(audio|text)_transform\..*")
_TEMPLATE = "This is a sound of {label}."  # LAION: experiment_scripts, README


@dataclasses.dataclass(frozen=True)
class Found:
    """A checkpoint of another project.

    Attributes
    ----------
    family : str
        What it is.
    config : ClapConfig
        Inferred.
    tensors : dict of str to ndarray
        By our names.
    tokenizer : Path or None
        tokenizer.json beside it, if there is one.
    ignored : dict of str to str
        Tensors that are not used, and why.
    """

    family: str
    config: ClapConfig
    tensors: dict[str, Array]
    tokenizer: Path | None
    ignored: dict[str, str]


def is_foreign(path: Path) -> bool:
    """Tell whether a path is a file of tensors, or a folder that another project wrote."""
    if path.is_file():
        return path.suffix in _TENSOR_FILES
    config = path / checkpoint.CONFIG
    return config.is_file() and "model_type" in _json(config)


def read(path: Path) -> Found:
    """Read a checkpoint of another project.

    Parameters
    ----------
    path : Path
        A ``.pt``, ``.pth``, ``.ckpt``, ``.bin`` or ``.safetensors`` file, or a folder.

    Raises
    ------
    FormatError
        If it is none of the known layouts, or tensors contradict the configuration.
    """
    found = _transformers(path) if path.is_dir() else _file(path)
    try:
        found.config.check()
    except ValueError as error:
        raise FormatError(f"{path}: {error}") from error
    return found


def _json(path: Path) -> dict[str, Any]:
    data = checkpoint.parse_json(str(path), path.read_bytes())
    return data if isinstance(data, dict) else {}


# ---- Files -------------------------------------------------------------------------------------


def _file(path: Path) -> Found:
    if path.suffix == ".safetensors":
        tensors: Tensors = checkpoint.read_tensors(path)
    else:
        tensors = pickles.state_dict(path)
    if any(name.startswith("audio_branch.") for name in tensors):
        found = _laion(path, tensors)
    elif any(name.startswith("audio_encoder.base.htsat.") for name in tensors):
        found = _microsoft(path, tensors)
    else:
        raise FormatError(
            f"{path}: a layout of neither LAION-CLAP (audio_branch.*) nor MS-CLAP 2023 "
            "(audio_encoder.base.htsat.*)"
        )
    return dataclasses.replace(found, tokenizer=_beside(path.parent))


def _laion(path: Path, tensors: Tensors) -> Found:
    """LAION-CLAP, ReCLAP, CompA-CLAP; their inference rounds samples to 16 bits (hook.py)."""
    return _assemble(
        _Parts(
            family="LAION-CLAP layout",
            where=str(path),
            audio=audio.from_laion(_below(tensors, "audio_branch.")),
            text=_below(tensors, "text_branch."),
            rest=_without(tensors, ("audio_branch.", "text_branch.")),
            heads={"audio_projection": ("0", "2"), "text_projection": ("0", "2")},
            quantize=True,
        )
    )


def _microsoft(path: Path, tensors: Tensors) -> Found:
    """MS-CLAP 2023: HTSAT-tiny and GPT-2 with heads of their own (msclap/models/clap.py).

    Its mel bank is laid out for 32 kHz, whatever its YAML file says, and applied at 44.1 kHz; short
    clips are repeated to seven seconds (CLAPWrapper.py).
    """
    tower, left = audio.from_laion(_below(tensors, "audio_encoder.base.htsat."))
    renamed = text.from_gpt2(_below(tensors, "caption_encoder.base."))
    heads: dict[str, Array] = {}
    for ours, theirs in (("audio", "audio_encoder"), ("text", "caption_encoder")):
        part = _below(tensors, f"{theirs}.projection.")
        heads |= {f"{ours}_projection.{name}": x for name, x in part.items()}
    known = tuple(f"{t}_encoder.{p}." for t in ("audio", "caption") for p in ("base", "projection"))
    rest = _without(tensors, known)
    name = "audio_projection.linear1.weight"
    if set(rest) != {"logit_scale"} or name not in heads:
        raise FormatError(f"{path}: expected logit_scale and {name}, got {sorted(rest)[:5]}")
    htsat = audio.config_of(tower)
    vocab, width = _rows(renamed, "token.weight")
    config = ClapConfig(
        name=path.name,
        front=AudioConfig(rate=44100, samples=308700, hop=320, bank_rate=32000, padding="repeat"),
        audio=htsat,
        text=dataclasses.replace(
            TextConfig.preset("gpt2"),
            vocab=vocab,
            width=width,
            positions=_rows(renamed, "position.weight")[0],
            layers=_layers(renamed),
            heads=max(1, width // 64),
            mlp=_rows(renamed, "layers.0.mlp.fc1.weight")[0],
            max_tokens=77,
            suffix=" <|endoftext|>",
        ),
        audio_head="ms",
        text_head="ms",
        dim=heads[name].shape[0],
        template="this is the sound of {label}",  # examples/zero_shot_classification.py
    )
    scale = {"logit_scale": np.reshape(rest["logit_scale"], ())}
    ignored = dict.fromkeys((f"audio_encoder.base.htsat.{n}" for n in left), "not needed to embed")
    return Found("MS-CLAP 2023", config, tower | renamed | heads | scale, None, ignored)


def _beside(folder: Path) -> Path | None:
    path = folder / checkpoint.TOKENIZER
    return path if path.is_file() else None


# ---- transformers' folder ----------------------------------------------------------------------


def _transformers(folder: Path) -> Found:
    config = _json(folder / checkpoint.CONFIG)
    if config.get("model_type") != "clap":
        raise FormatError(
            f"{folder}: a {config.get('model_type')!r} model of transformers, expected 'clap'"
        )
    tensors = _weights(folder)
    audio_part, text_part = config.get("audio_config", {}), config.get("text_config", {})
    found = _assemble(
        _Parts(
            family="transformers ClapModel",
            where=str(folder),
            audio=audio.from_transformers(_below(tensors, "audio_model.audio_encoder.")),
            text=_below(tensors, "text_model."),
            rest=_without(tensors, ("audio_model.", "text_model.")),
            heads={
                "audio_projection": ("linear1", "linear2"),
                "text_projection": ("linear1", "linear2"),
            },
            quantize=False,
            spec_size=audio_part.get("spec_size", 256),
            text_eps=text_part.get("layer_norm_eps", 1e-12),
            text_heads=text_part.get("num_attention_heads", 0),
        )
    )
    _refuse_contradictions(folder, found.config, audio_part, text_part)
    return dataclasses.replace(found, tokenizer=_beside(folder))


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
    folder: Path, config: ClapConfig, audio_part: Mapping[str, Any], text_part: Mapping[str, Any]
) -> None:
    """Show what the tensors say beside what config.json says, where they differ."""
    pairs = {
        "audio_config.depths": (list(config.audio.depths), audio_part.get("depths")),
        "audio_config.num_attention_heads": (
            list(config.audio.heads),
            audio_part.get("num_attention_heads"),
        ),
        "audio_config.patch_embeds_hidden_size": (
            config.audio.embed,
            audio_part.get("patch_embeds_hidden_size"),
        ),
        "audio_config.enable_fusion": (config.audio.fusion, audio_part.get("enable_fusion")),
        "text_config.hidden_size": (config.text.width, text_part.get("hidden_size")),
        "text_config.num_hidden_layers": (config.text.layers, text_part.get("num_hidden_layers")),
        "text_config.vocab_size": (config.text.vocab, text_part.get("vocab_size")),
    }
    wrong = [
        f"{name} is {says!r}, the tensors have {have!r}"
        for name, (have, says) in pairs.items()
        if says is not None and says != have
    ]
    if wrong:
        raise FormatError(f"{folder}: config.json contradicts the weights: {'; '.join(wrong)}")


# ---- Both --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Parts:
    """A checkpoint, cut into towers and the rest."""

    family: str
    where: str
    audio: tuple[dict[str, Array], list[str]]
    text: dict[str, Array]
    rest: dict[str, Array]
    heads: dict[str, tuple[str, str]]
    quantize: bool
    spec_size: int = 256
    text_eps: float = 1e-5
    text_heads: int = 0


def _below(tensors: Tensors, prefix: str) -> dict[str, Array]:
    return {n.removeprefix(prefix): x for n, x in tensors.items() if n.startswith(prefix)}


def _without(tensors: Tensors, prefixes: tuple[str, ...]) -> dict[str, Array]:
    return {n: x for n, x in tensors.items() if not n.startswith(prefixes)}


def _assemble(parts: _Parts) -> Found:
    tower, left = parts.audio
    ignored = dict.fromkeys((f"audio_branch.{n}" for n in left), "not needed to embed")
    try:
        htsat = audio.config_of(tower, parts.spec_size)
        text_config, renamed = _text_tower(parts)
        heads, dim, more = _heads(parts)
    except FormatError as error:
        raise FormatError(f"{parts.where}: {error}") from error
    config = ClapConfig(
        name=Path(parts.where).name,
        front=_front(htsat, quantize=parts.quantize),
        audio=htsat,
        text=text_config,
        dim=dim,
        template=_TEMPLATE,
    )
    return Found(parts.family, config, tower | renamed | heads, None, ignored | more)


def _front(htsat: HtsatConfig, *, quantize: bool) -> AudioConfig:
    """Return one of LAION-CLAP's two front ends: fused models have another mel bank."""
    if htsat.fusion:
        return AudioConfig(mel_scale="htk", mel_norm="none", truncation="fusion", quantize=quantize)
    return AudioConfig(quantize=quantize)


def _text_tower(parts: _Parts) -> tuple[TextConfig, dict[str, Array]]:
    names = parts.text
    if "encoder.block.0.layer.0.SelfAttention.q.weight" in names:
        renamed = text.from_t5(names)
        return _t5_config(renamed), renamed
    if "embeddings.word_embeddings.weight" in names:
        renamed = text.from_roberta(names)
        return _roberta_config(renamed, parts.text_eps, parts.text_heads), renamed
    raise FormatError("text tower: neither T5 nor RoBERTa")


def _layers(renamed: Tensors) -> int:
    numbers = (re.match(r"text_branch\.layers\.(\d+)\.", n) for n in renamed)
    return 1 + max((int(m[1]) for m in numbers if m), default=-1)


def _rows(renamed: Tensors, name: str) -> tuple[int, int]:
    array = renamed.get(f"text_branch.{name}")
    if array is None or array.ndim != 2:
        raise FormatError(f"text tower: {name} is missing or no matrix")
    return array.shape[0], array.shape[1]


def _roberta_config(renamed: Tensors, eps: float, heads: int) -> TextConfig:
    vocab, width = _rows(renamed, "token.weight")
    return dataclasses.replace(
        TextConfig.preset("roberta-base"),
        vocab=vocab,
        width=width,
        positions=_rows(renamed, "position.weight")[0],
        types=_rows(renamed, "type.weight")[0],
        layers=_layers(renamed),
        heads=heads or max(1, width // 64),  # no tensor tells; 64 a head in every RoBERTa
        mlp=_rows(renamed, "layers.0.mlp.fc1.weight")[0],
        eps=eps,
    )


def _t5_config(renamed: Tensors) -> TextConfig:
    vocab, width = _rows(renamed, "token.weight")
    buckets, heads = _rows(renamed, "relative_position_bias_table")
    joined, _ = _rows(renamed, "layers.0.attn.qkv.weight")
    return dataclasses.replace(
        TextConfig.preset("flan-t5-large"),
        vocab=vocab,
        width=width,
        layers=_layers(renamed),
        heads=heads,
        head_width=joined // 3 // max(1, heads),
        mlp=_rows(renamed, "layers.0.mlp.fc1.weight")[0],
        buckets=buckets,
        gated="text_branch.layers.0.mlp.gate.weight" in renamed,
        activation="gelu_tanh" if "text_branch.layers.0.mlp.gate.weight" in renamed else "relu",
    )


def _heads(parts: _Parts) -> tuple[dict[str, Array], int, dict[str, str]]:
    """Return projections and temperature by our names, the joint width, and what is ignored."""
    heads: dict[str, Array] = {}
    used = {"logit_scale_a"}
    for head, layers in parts.heads.items():
        for ours, theirs in zip(("0", "2"), layers, strict=True):
            for kind in ("weight", "bias"):
                name = f"{head}.{theirs}.{kind}"
                if name not in parts.rest:
                    raise FormatError(f"{name} is missing")
                used.add(name)
                heads[f"{head}.{ours}.{kind}"] = parts.rest[name]
    if "logit_scale_a" not in parts.rest:
        raise FormatError("logit_scale_a is missing")
    heads["logit_scale"] = np.reshape(parts.rest["logit_scale_a"], ())
    ignored = {}
    for name in sorted(set(parts.rest) - used):
        if name == "logit_scale_t" or _TRANSFORM.fullmatch(name):
            ignored[name] = "only of the loss with transform MLPs"
        else:
            raise FormatError(f"{name} is unknown")
    return heads, heads["audio_projection.2.weight"].shape[0], ignored
