"""Buffers of HTS-AT that checkpoints of other projects hold beside its weights."""

import numpy as np

from reclap.checkpoints.lazy import Stored
from reclap.config.towers import HtsatConfig

__all__ = ["FUSED_NORMS", "relative_index", "shift_mask"]

FUSED_NORMS = ("local_att.1", "local_att.4", "global_att.2", "global_att.5")
_ACROSS = -100.0  # added to scores of tokens that only the shift made neighbours


def relative_index(window: int) -> Stored:
    """Return the row of the bias table for each pair of tokens of a window."""
    y, x = np.divmod(np.arange(window * window, dtype=np.int64), window)
    down, right = (np.subtract.outer(axis, axis) + window - 1 for axis in (y, x))
    index: Stored = down * (2 * window - 1) + right
    return index


def shift_mask(tower: HtsatConfig, stage: int) -> Stored | None:
    """Return the mask of a stage's shifted blocks, (windows, window^2, window^2) of float32.

    0 inside one region of the shifted map, -100 across; None where one window covers the map.
    """
    side, window = (tower.spec_size // tower.patch) >> stage, tower.window
    if side <= window:
        return None
    place = np.arange(side)
    region = (place >= side - window).astype(np.int64) + (place >= side - window // 2)
    regions = 3 * region[:, None] + region[None, :]
    count = side // window
    windows = regions.reshape(count, window, count, window).swapaxes(1, 2)
    tokens = windows.reshape(count * count, window * window)
    across = tokens[:, :, None] != tokens[:, None, :]
    mask: Stored = np.where(across, np.float32(_ACROSS), np.float32(0))
    return mask
