"""Rates of parameters: what is frozen, and factors of the learning rate and of the weight decay."""

import difflib
import fnmatch
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reclap._types import Floats
from reclap.errors import FormatError
from reclap.training.sections import Train

__all__ = ["depths", "matching", "rates"]

_BLOCK = re.compile(r"^(audio|text)_branch\.layers\.(\d+)(?:\.blocks\.(\d+))?\.")
_BOTTOM = re.compile(
    r"_branch\.(patch_embed|bn0|cls|pos_embed|token|position|type|norm\.|relative_position)"
)


def matching(names: Sequence[str], pattern: str, where: str, what: str = "parameter") -> list[int]:
    """Return the indices of the names that a pattern matches.

    Parameters
    ----------
    names : sequence of str
        Names of parameters.
    pattern : str
        As of `fnmatch`: ``*`` stands for any text, dots included. It is that of whole names, or of
        their beginning up to a dot, such as ``"text_branch"``.
    where : str
        Name of the setting, for the message.
    what : str
        What the names are of, for the message.

    Raises
    ------
    FormatError
        If it matches none: nothing would be frozen, or trained, that somebody meant to be.
    """
    found = [
        i
        for i, name in enumerate(names)
        if fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"{pattern}.*")
    ]
    if not found:
        near = difflib.get_close_matches(pattern, names, 3, 0.3)
        raise FormatError(f"{where}: {pattern!r} matches no {what}; near: {', '.join(near)}")
    return found


def depths(names: Sequence[str]) -> list[int]:
    """Return how far below the top of its tower each parameter is, in blocks; 0 for heads.

    Notes
    -----
    Blocks count through the stages of HTS-AT; patch merging belongs to the stage before it, the
    embedding lies below the first block, the final norm at the top (BEiT, arXiv 2106.08254,
    section 3.2, and open_clip count alike).
    """
    keys = [_block(name) for name in names]
    towers: dict[str, list[tuple[int, int]]] = {}
    for key in keys:
        if key and key[1] not in towers.setdefault(key[0], []):
            towers[key[0]].append(key[1])
    order = {tower: sorted(blocks) for tower, blocks in towers.items()}
    found = []
    for name, key in zip(names, keys, strict=True):
        tower = name.partition("_branch.")[0]
        blocks = order.get(tower, [])
        if key:
            found.append(len(blocks) - blocks.index(key[1]))
        else:
            found.append(len(blocks) + 1 if _is_bottom(name, bool(blocks)) else 0)
    return found


def _block(name: str) -> tuple[str, tuple[int, int]] | None:
    match = _BLOCK.match(name)
    if not match:
        return None
    tower, layer, block = match.groups()
    inside = ".downsample." in name
    return tower, (int(layer), 1 << 30 if inside else int(block or 0))


def _is_bottom(name: str, is_tower: bool) -> bool:
    top = name.startswith("audio_branch.norm.")
    return is_tower and not top and bool(_BOTTOM.search(name))


def rates(names: Sequence[str], part: Train) -> tuple[Floats, Floats]:
    """Return the factors of the learning rate and of the weight decay, by parameter.

    Parameters
    ----------
    names : sequence of str
        Names of all parameters.
    part : Train
        Section ``[train]`` of a recipe.

    Returns
    -------
    rates, decays : ndarray of float32
        A rate of 0 means frozen.

    Raises
    ------
    FormatError
        If a pattern matches no parameter, or nothing is left to train.
    """
    rate = np.array([part.layer_decay**depth for depth in depths(names)], np.float32)
    decay = np.ones(len(names), np.float32)
    _scale(rate, names, part.rates, "train.rates")
    _scale(decay, names, part.decays, "train.decays")
    for pattern in part.freeze:
        rate[matching(names, pattern, "train.freeze")] = 0
    if not rate.any():
        raise FormatError("train: all parameters are frozen, so there is nothing to train")
    return rate, decay


def _scale(target: Floats, names: Sequence[str], factors: Mapping[str, Any], where: str) -> None:
    for pattern, factor in factors.items():
        target[matching(names, pattern, where)] *= np.float32(factor)
