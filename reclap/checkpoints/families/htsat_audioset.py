"""Audio towers of HTS-AT trained on AudioSet, in Lightning's checkpoints."""

import dataclasses

from reclap.checkpoints.families import htsat_names
from reclap.checkpoints.families.assemble import below
from reclap.checkpoints.lazy import Stored, Tensors
from reclap.config.towers import HtsatConfig

__all__ = ["AudioTower", "is_htsat", "read"]

_PREFIX = "sed_model."


@dataclasses.dataclass(frozen=True)
class AudioTower:
    """An audio tower: configuration, tensors by our names, and the names of those left out."""

    config: HtsatConfig
    tensors: dict[str, Stored]
    ignored: list[str]


def is_htsat(tensors: Tensors) -> bool:
    """Tell whether a state dict is that of an HTS-AT checkpoint."""
    return any(name.startswith(f"{_PREFIX}layers.") for name in tensors)


def read(tensors: Tensors) -> AudioTower:
    """Read the tower off HTS-AT's state dict (``model/htsat.py`` of RetroCirce's repository).

    Raises
    ------
    FormatError
        If a tensor that tells a size is missing.
    """
    inside = below(tensors, _PREFIX)
    kept, left = htsat_names.from_laion(inside)
    others = [name for name in tensors if not name.startswith(_PREFIX)]
    return AudioTower(htsat_names.config_of(kept), kept, [*(_PREFIX + n for n in left), *others])
