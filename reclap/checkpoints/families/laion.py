"""LAION-CLAP's state dict, which ReCLAP and CompA-CLAP share."""

import dataclasses
from pathlib import Path
from typing import Any

from reclap.checkpoints.families import cnn14, htsat_names, mel_bank
from reclap.checkpoints.families.assemble import Found, Parts, assemble, below, without
from reclap.checkpoints.families.text_config import kind_of
from reclap.checkpoints.lazy import Tensors
from reclap.errors import FormatError

__all__ = ["TEXT_ACTIVATIONS", "read"]

TEXT_ACTIVATIONS = ("gelu", "quick_gelu")

# Tensors of CLIP's text transformer that LAION-CLAP keeps outside text_branch.
_CLIP_OUTSIDE = ("positional_embedding", "token_embedding.", "ln_final.")


def read(path: Path, tensors: Tensors, text_activation: str | None = None) -> Found:
    """LAION-CLAP, ReCLAP, CompA-CLAP; their inference rounds samples to 16 bits (hook.py).

    Parameters
    ----------
    path : Path
        File of the checkpoint, for messages.
    tensors : mapping of str to ndarray
        The state dict.
    text_activation : {"gelu", "quick_gelu"}, optional
        Activation of CLIP's text transformer (``tmodel`` "transformer"), which no tensor
        determines. "gelu", the default, is also that of LAION-CLAP (``quick_gelu=False`` of
        ``CLAP`` in ``clap_module/model.py``); towers initialised from OpenAI's ViT-B/16 have
        "quick_gelu".

    Raises
    ------
    FormatError
        If a tensor is missing, unknown or misshapen, or the stored mel bank another one.
    ValueError
        If `text_activation` is given for another text tower, or is another word.
    """
    branch = below(tensors, "audio_branch.")
    is_cnn = cnn14.is_cnn14(branch)
    tower, left = cnn14.from_panns(branch) if is_cnn else htsat_names.from_laion(branch)
    text = below(tensors, "text_branch.")
    others = without(tensors, ("audio_branch.", "text_branch."))
    if not text:
        raise FormatError(
            "LAION-CLAP without a text tower, as its linear probes are, not supported"
        )
    if any(name.startswith("resblocks.") for name in text):
        text |= {name: others.pop(name) for name in list(others) if name.startswith(_CLIP_OUTSIDE)}
    found = assemble(
        Parts(
            family="LAION-CLAP layout",
            where=str(path),
            audio=cnn14.config_of(tower) if is_cnn else htsat_names.config_of(tower),
            tower=tower,
            left=left,
            text=text,
            others=others,
            heads={"audio_projection": ("0", "2"), "text_projection": ("0", "2")},
            quantize=True,
            text_known=_text_known(kind_of(text), text_activation),
        )
    )
    upstream = dataclasses.replace(found.config.front, resampler="librosa")  # hook.py
    if found.config.audio.fusion:
        mel_bank.check_sizes(branch, found.config.front)
        upstream = dataclasses.replace(upstream, fusion_resize="antialias")  # torchvision's
    else:
        mel_bank.check(branch, found.config.front)
    return dataclasses.replace(found, upstream=upstream)


def _text_known(kind: str, activation: str | None) -> dict[str, Any]:
    """Return what LAION-CLAP does with a text tower of a kind (``clap_module/model.py``)."""
    if activation not in (None, *TEXT_ACTIVATIONS):
        raise ValueError(f"text_activation is {activation!r}, expected gelu or quick_gelu")
    if kind == "clip-text":
        return {"activation": activation or "gelu"}
    if activation is not None:
        raise ValueError(f"text_activation: the text tower is {kind}, expected CLIP's")
    return {"pool": "pooler", "max_tokens": 77} if kind == "bert-base" else {}
