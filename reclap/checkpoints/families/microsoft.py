"""MS-CLAP's state dict."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

from reclap.audio.front import AudioConfig
from reclap.checkpoints.families import cnn14, htsat_names, mel_bank
from reclap.checkpoints.families.assemble import Found, below, scalar, without
from reclap.checkpoints.families.text_config import left_of, tower_of
from reclap.checkpoints.lazy import Stored, Tensors
from reclap.config.model import ClapConfig
from reclap.config.text_tower import TextConfig
from reclap.config.towers import AudioTower
from reclap.errors import FormatError, shown_names

__all__ = ["AUDIO", "BERT", "GPT2", "read"]

# How the two releases use their text towers (msclap/CLAPWrapper.py).
BERT = {"max_tokens": 100}
GPT2 = {"max_tokens": 77, "suffix": " <|endoftext|>", "whole": ("!",)}

AUDIO = "audio_encoder.base."
_CAPTION = "caption_encoder.base."


class _Release(NamedTuple):
    """Differences of the two releases; `ignored` by upstream's names."""

    year: int
    front: AudioConfig
    audio: AudioTower
    text: TextConfig
    tensors: dict[str, Stored]
    ignored: dict[str, str]


def read(path: Path, tensors: Tensors) -> Found:
    """MS-CLAP 2022 and 2023: towers, and heads of their own (msclap/models/clap.py).

    Raises
    ------
    FormatError
        If a tensor is missing or unknown, or the stored mel bank another one.
    """
    base, caption = below(tensors, AUDIO), below(tensors, _CAPTION)
    release = _of_2022(base, caption) if cnn14.is_cnn14(base) else _of_2023(base, caption)
    mel_bank.check(below(base, "htsat.") or base, release.front)
    heads: dict[str, Stored] = {}
    for ours, theirs in (("audio", "audio_encoder"), ("text", "caption_encoder")):
        part = below(tensors, f"{theirs}.projection.")
        heads |= {f"{ours}_projection.{name}": x for name, x in part.items()}
    projections = tuple(f"{tower}_encoder.projection." for tower in ("audio", "caption"))
    others = without(tensors, (AUDIO, _CAPTION, *projections))
    name = "audio_projection.linear1.weight"
    if set(others) != {"logit_scale"} or name not in heads:
        raise FormatError(
            f"{path}: expected logit_scale and {name}, got {shown_names(sorted(others), 5)}"
        )
    config = ClapConfig(
        name=path.name,
        front=release.front,
        audio=release.audio,
        text=release.text,
        audio_head="ms",
        text_head="ms",
        dim=heads[name].shape[0],
        template="this is the sound of {label}",  # examples/zero_shot_classification.py
    )
    scale: dict[str, Stored] = {"logit_scale": scalar("logit_scale", others["logit_scale"])}
    upstream = dataclasses.replace(config.front, channels="concatenate", resampler="sinc")
    family = f"MS-CLAP {release.year}"
    return Found(family, config, release.tensors | heads | scale, None, release.ignored, upstream)


def _of_2022(base: Tensors, caption: Tensors) -> _Release:
    """Cnn14 and BERT, whose first token counts; five seconds (configs/config_2022.yml).

    Its text is padded to 100 tokens and never cut: longer ones fail upstream.
    """
    tower, left = cnn14.from_panns(base)
    text, renamed = tower_of(caption, "bert-base", **BERT)
    ignored = _ignored(left, left_of(caption, renamed))
    for kind in ("weight", "bias"):
        if renamed.pop(f"text_branch.pooler.{kind}", None) is not None:
            ignored[f"{_CAPTION}pooler.dense.{kind}"] = "the first token counts as it is"
    front = AudioConfig(rate=44100, samples=220500, hop=320, padding="repeat")
    return _Release(2022, front, cnn14.config_of(tower), text, tower | renamed, ignored)


def _of_2023(base: Tensors, caption: Tensors) -> _Release:
    """HTSAT-tiny and GPT-2; seven seconds.

    Its mel bank is laid out for 32 kHz, whatever its YAML file says, and applied at 44.1 kHz; short
    clips are repeated (CLAPWrapper.py).
    """
    tower, left = htsat_names.from_laion(below(base, "htsat."))
    text, renamed = tower_of(caption, "gpt2", **GPT2)
    ignored = _ignored([f"htsat.{name}" for name in left], left_of(caption, renamed))
    front = AudioConfig(rate=44100, samples=308700, hop=320, bank_rate=32000, padding="repeat")
    return _Release(2023, front, htsat_names.config_of(tower), text, tower | renamed, ignored)


def _ignored(audio_left: list[str], text_left: list[str]) -> dict[str, str]:
    names = [f"{AUDIO}{name}" for name in audio_left] + [f"{_CAPTION}{name}" for name in text_left]
    return dict.fromkeys(names, "not needed to embed")
