"""Assembly of a model from the towers and heads of another project's checkpoint."""

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reclap._types import Array
from reclap.audio.front import AudioConfig
from reclap.checkpoints.families.text_config import left_of, tower_of
from reclap.checkpoints.lazy import Stored, Tensors
from reclap.config.model import ClapConfig
from reclap.config.towers import AudioTower
from reclap.errors import FormatError, shown_name

__all__ = ["Array", "Found", "Parts", "Tensors", "assemble", "below", "scalar", "without"]


_TRANSFORM = re.compile(r"(audio|text)_transform\..*")
_TEMPLATE = "This is a sound of {label}."  # LAION: experiment_scripts, README


@dataclasses.dataclass(frozen=True)
class Found:
    """A checkpoint of another project.

    Attributes
    ----------
    family : str
        Configuration of the model.
    config : ClapConfig
        Inferred.
    tensors : dict of str to ndarray
        Tensors by our names.
    tokenizer : Path or None
        File of the tokenizer, if one lies beside the checkpoint.
    ignored : dict of str to str
        Tensors that are not used, and why.
    upstream : AudioConfig or None
        The front end that the project's own code is today, where `config` has another one.
    """

    family: str
    config: ClapConfig
    tensors: dict[str, Stored]
    tokenizer: Path | None
    ignored: dict[str, str]
    upstream: AudioConfig | None = None


@dataclasses.dataclass(frozen=True)
class Parts:
    """A checkpoint split into towers and other tensors.

    Attributes
    ----------
    left : list of str
        Names of the audio tower's tensors that embedding does not need.
    heads : dict of str to tuple of str
        Names of the two layers of each projection.
    text_kind : str, optional
        Preset of the text tower, where its tensors do not tell or are not asked.
    text_known : mapping of str to object
        Fields of the text tower's configuration that its tensors do not tell.
    front : AudioConfig, optional
        The front end; LAION-CLAP's by default.
    """

    family: str
    where: str
    audio: AudioTower
    tower: dict[str, Stored]
    left: list[str]
    text: dict[str, Stored]
    others: dict[str, Stored]
    heads: dict[str, tuple[str, str]]
    quantize: bool
    text_kind: str | None = None
    text_known: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    front: AudioConfig | None = None


def below(tensors: Tensors, prefix: str) -> dict[str, Stored]:
    """Return the tensors whose names begin with a prefix, by the rest of their names."""
    return {n.removeprefix(prefix): x for n, x in tensors.items() if n.startswith(prefix)}


def without(tensors: Tensors, prefixes: tuple[str, ...]) -> dict[str, Stored]:
    """Return the tensors whose names begin with none of the prefixes."""
    return {n: x for n, x in tensors.items() if not n.startswith(prefixes)}


def scalar(name: str, tensor: Stored) -> Array:
    """Return a tensor of one element without axes; FormatError names any other."""
    if math.prod(tensor.shape) != 1:
        raise FormatError(f"{name} has shape {list(tensor.shape)}, expected a single number")
    return np.reshape(np.asarray(tensor), ())


def assemble(parts: Parts) -> Found:
    """Assemble towers and heads of LAION-CLAP's kind.

    Raises
    ------
    FormatError
        If a tensor is missing, unknown or misshapen.
    """
    text_config, renamed = tower_of(parts.text, parts.text_kind, **parts.text_known)
    left = [f"audio_branch.{name}" for name in parts.left]
    left += [f"text_branch.{name}" for name in left_of(parts.text, renamed)]
    ignored = dict.fromkeys(left, "not needed to embed")
    heads, dim, extra = _heads(parts)
    config = ClapConfig(
        name=Path(parts.where).name,
        front=parts.front or _front(parts.audio, quantize=parts.quantize),
        audio=parts.audio,
        text=text_config,
        dim=dim,
        template=_TEMPLATE,
    )
    return Found(parts.family, config, parts.tower | renamed | heads, None, ignored | extra)


def _front(tower: AudioTower, *, quantize: bool) -> AudioConfig:
    """Return one of LAION-CLAP's two front ends: fused models have another mel bank."""
    if tower.fusion:
        return AudioConfig(mel_scale="htk", mel_norm="none", truncation="fusion", quantize=quantize)
    return AudioConfig(quantize=quantize)


def _heads(parts: Parts) -> tuple[dict[str, Stored], int, dict[str, str]]:
    """Return projections and temperature by our names, the joint width, and what is ignored."""
    heads: dict[str, Stored] = {}
    used = {"logit_scale_a"}
    for head, layers in parts.heads.items():
        for ours, theirs in zip(("0", "2"), layers, strict=True):
            for kind in ("weight", "bias"):
                name = f"{head}.{theirs}.{kind}"
                if name not in parts.others:
                    raise FormatError(f"{name} is missing")
                used.add(name)
                heads[f"{head}.{ours}.{kind}"] = parts.others[name]
    if "logit_scale_a" not in parts.others:
        raise FormatError("logit_scale_a is missing")
    heads["logit_scale"] = scalar("logit_scale_a", parts.others["logit_scale_a"])
    ignored = {}
    for name in sorted(set(parts.others) - used):
        if name == "logit_scale_t":
            ignored[name] = "a second temperature; logits are scaled by logit_scale_a"
        elif _TRANSFORM.fullmatch(name):
            ignored[name] = "only of the loss with transform MLPs"
        else:
            raise FormatError(f"{shown_name(name)} is unknown")
    return heads, heads["audio_projection.2.weight"].shape[0], ignored
