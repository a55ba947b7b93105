"""Conversion of HTS-AT from the checkpoints of LAION-CLAP, its descendants and transformers."""

import math
import re
from typing import Any

from reclap.checkpoints.lazy import Stored, Tensors, joined, split
from reclap.config.towers import HtsatConfig
from reclap.errors import FormatError

__all__ = [
    "BRANCH",
    "config_of",
    "from_laion",
    "from_transformers",
    "shape_of",
    "to_transformers",
]


BRANCH = "audio_branch."

# Tensors of LAION's tower that embedding does not need (clap-family: front end, masks, tagging).
_IGNORED = re.compile(
    r"(spectrogram_extractor|logmel_extractor|tscam_conv|head)\..*"
    r"|layers\.\d+\.blocks\.\d+\.(attn_mask|attn\.relative_position_index)"
    r"|.*\.num_batches_tracked"
)

# transformers' fragments to LAION's, in order (convert_clap_original_pytorch_to_hf.py, reversed).
_FRAGMENTS = (
    ("batch_norm.", "bn0."),
    ("layernorm_before.", "norm1."),
    ("layernorm_after.", "norm2."),
    ("attention.self.", "attn."),
    ("attention.output.dense.", "attn.proj."),
    ("intermediate.dense.", "mlp.fc1."),
    ("output.dense.", "mlp.fc2."),
)
_BACK = sorted(_FRAGMENTS, key=lambda pair: -len(pair[1]))  # the longest of ours first
_PARTS = ("query", "key", "value")
_SPLIT = re.compile(rf"(.*\.attn\.)({'|'.join(_PARTS)})\.(weight|bias)")


def from_laion(tensors: Tensors) -> tuple[dict[str, Stored], list[str]]:
    """Return the tower's tensors by our names, which are LAION's, and the names left out.

    Parameters
    ----------
    tensors : mapping of str to ndarray
        Tensors by LAION's names without ``audio_branch.``, ``bn0.weight`` and so on.
    """
    left = [name for name in tensors if _IGNORED.fullmatch(name)]
    kept = {BRANCH + name: x for name, x in tensors.items() if not _IGNORED.fullmatch(name)}
    return kept, left


def from_transformers(tensors: Tensors) -> tuple[dict[str, Stored], list[str]]:
    """Return the tower of a ``ClapAudioModel`` by our names, and the names left out.

    Parameters
    ----------
    tensors : mapping of str to ndarray
        Without ``audio_model.audio_encoder.``, from ``batch_norm.weight`` on.

    Raises
    ------
    FormatError
        If a block has only some of query, key and value.
    """
    renamed: dict[str, Stored] = {}
    split: dict[str, dict[str, Stored]] = {}
    for name, x in tensors.items():
        ours = _renamed(name)
        if found := _SPLIT.fullmatch(ours):
            split.setdefault(f"{found[1]}qkv.{found[3]}", {})[found[2]] = x
        else:
            renamed[ours] = x
    for ours, parts in split.items():
        if len(parts) != 3:
            raise FormatError(f"audio tower: {ours} has only {', '.join(sorted(parts))}")
        stacked = [parts[k] for k in _PARTS]
        renamed[ours] = joined(f"audio tower: {ours}", stacked)
    return from_laion(renamed)


def _renamed(name: str) -> str:
    if "fusion_model." in name:  # the same names in both
        return name
    for theirs, ours in _FRAGMENTS:
        name = name.replace(theirs, ours)
    return name


def to_transformers(tensors: Tensors) -> dict[str, Stored]:
    """Return the tower as a ``ClapAudioModel`` names it; the inverse of `from_transformers`.

    Parameters
    ----------
    tensors : mapping of str to ndarray
        Tensors by our names, ``audio_branch.bn0.weight`` and so on.

    Returns
    -------
    dict of str to ndarray
        Without ``audio_model.audio_encoder.``.
    """
    renamed: dict[str, Stored] = {}
    for ours, x in tensors.items():
        name = ours.removeprefix(BRANCH)
        stem, qkv, kind = name.partition("attn.qkv.")
        names = [f"{stem}attn.{part}.{kind}" for part in _PARTS] if qkv else [name]
        theirs = map(_renamed_back, names)
        renamed |= zip(theirs, split(x, len(names)), strict=True)
    return renamed


def _renamed_back(name: str) -> str:
    if "fusion_model." in name:
        return name
    found = next((pair for pair in _BACK if pair[1] in name), None)
    return name if found is None else name.replace(found[1], found[0])


def config_of(tensors: Tensors, spec_size: int = 256, **told: Any) -> HtsatConfig:
    """Infer the geometry of the tower from its tensors.

    Parameters
    ----------
    tensors : mapping of str to ndarray
        Tensors by our names.
    spec_size : int
        The one size that no tensor tells; 256 in every published model.
    **told
        Further fields of `HtsatConfig`, which a configuration file gives.

    Raises
    ------
    FormatError
        If a tensor that tells a size is missing or has the wrong number of axes.
    """
    stages = re.compile(re.escape(BRANCH) + r"layers\.(\d{1,2})\.blocks\.(\d{1,3})\.norm1\.weight")
    found = [(int(m[1]), int(m[2])) for name in tensors if (m := stages.fullmatch(name))]
    count = 1 + max((stage for stage, _ in found), default=-1)
    depths = tuple(1 + max((j for i, j in found if i == s), default=-1) for s in range(count))
    if not count or min(depths) < 1:
        raise FormatError("audio tower: no blocks of HTS-AT, layers.0.blocks.0.norm1.weight on")
    table = "layers.{}.blocks.0.attn.relative_position_bias_table"
    positions, _ = shape_of(tensors, table.format(0), 2)
    embed, _, patch, _ = shape_of(tensors, "patch_embed.proj.weight", 4)
    fusion = f"{BRANCH}patch_embed.mel_conv2d.weight" in tensors
    fields: dict[str, Any] = {
        "mels": shape_of(tensors, "bn0.weight", 1)[0],
        "spec_size": spec_size,
        "patch": patch,
        "embed": embed,
        "fusion": fusion,
        "depths": depths,
        "heads": tuple(shape_of(tensors, table.format(s), 2)[1] for s in range(count)),
        "window": (math.isqrt(positions) + 1) // 2,
        "mlp_ratio": _mlp_ratio(tensors, count - 1),
        "fusion_ratio": _fusion_ratio(tensors, embed) if fusion else 4,
    }
    return HtsatConfig(**fields | told)


def _mlp_ratio(tensors: Tensors, stage: int) -> float:
    """Return the least ratio that gives the hidden widths, which are rounded down.

    The widest stage, the last, tells it best; what holds there holds in the others, whose widths
    are halves.
    """
    hidden, width = shape_of(tensors, f"layers.{stage}.blocks.0.mlp.fc1.weight", 2)
    ratio = hidden / max(1, width)
    return ratio if int(ratio * width) == hidden else math.nextafter(ratio, math.inf)


def _fusion_ratio(tensors: Tensors, embed: int) -> int:
    """Return a ratio that gives the channels inside fusion: LAION-CLAP's 4 wherever it does."""
    hidden = shape_of(tensors, "patch_embed.fusion_model.local_att.0.weight", 4)[0]
    return 4 if embed // 4 == hidden else max(1, embed // max(1, hidden))


def shape_of(tensors: Tensors, name: str, axes: int) -> tuple[int, ...]:
    """Return the shape of a tensor of the tower, by our name without ``audio_branch.``.

    Raises
    ------
    FormatError
        If it is missing or has another number of axes.
    """
    array = tensors.get(BRANCH + name)
    if array is None or array.ndim != axes:
        have = "is missing" if array is None else f"has shape {list(array.shape)}"
        raise FormatError(f"audio tower: {name} {have}, expected {axes} axes")
    return array.shape
