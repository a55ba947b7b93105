"""LAION-CLAP's state dict, which ReCLAP and CompA-CLAP share."""

import dataclasses
from pathlib import Path

from reclap.families import audio
from reclap.families.parts import Found, Parts, Tensors, assemble, below, without

__all__ = ["read"]


def read(path: Path, tensors: Tensors) -> Found:
    """LAION-CLAP, ReCLAP, CompA-CLAP; their inference rounds samples to 16 bits (hook.py)."""
    tower, left = audio.from_laion(below(tensors, "audio_branch."))
    found = assemble(
        Parts(
            family="LAION-CLAP layout",
            where=str(path),
            audio=audio.config_of(tower),
            tower=tower,
            left=left,
            text=below(tensors, "text_branch."),
            rest=without(tensors, ("audio_branch.", "text_branch.")),
            heads={"audio_projection": ("0", "2"), "text_projection": ("0", "2")},
            quantize=True,
        )
    )
    if not found.config.audio.fusion:
        return found
    upstream = dataclasses.replace(found.config.front, fusion_resize="antialias")  # torchvision's
    return dataclasses.replace(found, upstream=upstream)
