"""Audio front end: inputs, decoding, resampling, windows, log-mel features.

>>> import numpy as np
>>> from reclap import audio
>>> audio.log_mel(np.zeros(48000, np.float32)).shape
(101, 64)
"""

from typing import TYPE_CHECKING

from reclap._lazy import exports

if TYPE_CHECKING:
    from reclap.audio.decode import Clip, load, read
    from reclap.audio.features import log_mel, window_features
    from reclap.audio.front import AudioConfig, load_front, open_front
    from reclap.audio.windowing import windows

__all__ = [
    "AudioConfig",
    "Clip",
    "load",
    "load_front",
    "log_mel",
    "open_front",
    "read",
    "window_features",
    "windows",
]

_HOMES = {
    "AudioConfig": "reclap.audio.front",
    "Clip": "reclap.audio.decode",
    "load": "reclap.audio.decode",
    "load_front": "reclap.audio.front",
    "log_mel": "reclap.audio.features",
    "open_front": "reclap.audio.front",
    "read": "reclap.audio.decode",
    "window_features": "reclap.audio.features",
    "windows": "reclap.audio.windowing",
}

__getattr__, __dir__ = exports(__name__, _HOMES)
