"""MS-CLAP's state dict."""

import dataclasses
from pathlib import Path

import numpy as np

from reclap.audio import AudioConfig
from reclap.config import ClapConfig
from reclap.errors import FormatError
from reclap.families import audio
from reclap.families.parts import Found, Tensors, below, without
from reclap.families.text_config import tower_of
from reclap.tensors import Stored

__all__ = ["read"]


def read(path: Path, tensors: Tensors) -> Found:
    """MS-CLAP 2023: HTSAT-tiny and GPT-2 with heads of their own (msclap/models/clap.py).

    Its mel bank is laid out for 32 kHz, whatever its YAML file says, and applied at 44.1 kHz; short
    clips are repeated to seven seconds (CLAPWrapper.py).
    """
    tower, left = audio.from_laion(below(tensors, "audio_encoder.base.htsat."))
    text_config, renamed = tower_of(
        below(tensors, "caption_encoder.base."), "gpt2", max_tokens=77, suffix=" <|endoftext|>"
    )
    heads: dict[str, Stored] = {}
    for ours, theirs in (("audio", "audio_encoder"), ("text", "caption_encoder")):
        part = below(tensors, f"{theirs}.projection.")
        heads |= {f"{ours}_projection.{name}": x for name, x in part.items()}
    known = tuple(f"{t}_encoder.{p}." for t in ("audio", "caption") for p in ("base", "projection"))
    rest = without(tensors, known)
    name = "audio_projection.linear1.weight"
    if set(rest) != {"logit_scale"} or name not in heads:
        raise FormatError(f"{path}: expected logit_scale and {name}, got {sorted(rest)[:5]}")
    htsat = audio.config_of(tower)
    config = ClapConfig(
        name=path.name,
        front=AudioConfig(rate=44100, samples=308700, hop=320, bank_rate=32000, padding="repeat"),
        audio=htsat,
        text=text_config,
        audio_head="ms",
        text_head="ms",
        dim=heads[name].shape[0],
        template="this is the sound of {label}",  # examples/zero_shot_classification.py
    )
    scale: dict[str, Stored] = {"logit_scale": np.reshape(rest["logit_scale"], ())}
    ignored = dict.fromkeys((f"audio_encoder.base.htsat.{n}" for n in left), "not needed to embed")
    upstream = dataclasses.replace(config.front, channels="concatenate", resampler="sinc")
    return Found("MS-CLAP 2023", config, tower | renamed | heads | scale, None, ignored, upstream)
