"""Configurations of models: front end, towers, heads, prompt template."""

from typing import TYPE_CHECKING

from reclap._lazy import exports

if TYPE_CHECKING:
    from reclap.config.model import ClapConfig, audio_from_json
    from reclap.config.text_tower import TextConfig
    from reclap.config.towers import AudioTower, Cnn14Config, HtsatConfig, VitConfig

__all__ = [
    "AudioTower",
    "ClapConfig",
    "Cnn14Config",
    "HtsatConfig",
    "TextConfig",
    "VitConfig",
    "audio_from_json",
]

_HOMES = {
    "AudioTower": "reclap.config.towers",
    "ClapConfig": "reclap.config.model",
    "Cnn14Config": "reclap.config.towers",
    "HtsatConfig": "reclap.config.towers",
    "TextConfig": "reclap.config.text_tower",
    "VitConfig": "reclap.config.towers",
    "audio_from_json": "reclap.config.model",
}

__getattr__, __dir__ = exports(__name__, _HOMES)
