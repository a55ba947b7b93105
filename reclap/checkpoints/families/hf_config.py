"""Settings of transformers' ClapModel: config.json and preprocessor_config.json.

One description serves both ways: a folder is written with it, and what config.json of a folder says
is compared with it, after the sizes were read off the tensors.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from reclap.audio.front import AudioConfig, Padding
from reclap.checkpoints.families.activations import NAMES
from reclap.config.model import ClapConfig
from reclap.config.towers import HtsatConfig
from reclap.errors import FormatError
from reclap.io.settings import from_mapping

__all__ = ["EPS", "Extractor", "contradictions", "described"]

EPS = 1e-5  # of the norms of the audio tower; layer_norm_eps is that of the blocks alone

_NAMES = {ours: theirs for theirs, ours in reversed(NAMES.items())}  # the first of several
_FREE = ("hidden_act",)  # not inferable from tensors; transformers has several names for one


@dataclasses.dataclass(frozen=True)
class Extractor:
    """Settings of preprocessor_config.json, with the defaults of ``ClapFeatureExtractor``."""

    feature_size: int = 64
    sampling_rate: int = 48000
    hop_length: int = 480
    max_length_s: float = 10.0
    fft_window_size: int = 1024
    frequency_min: float = 0.0
    frequency_max: float = 14000.0
    truncation: str = "fusion"
    padding: Padding = "repeatpad"

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: str) -> "Extractor":
        """Read the known settings of a file; FormatError if one is ill-typed."""
        known = {field.name for field in dataclasses.fields(cls)}
        return from_mapping(cls, {k: v for k, v in data.items() if k in known}, where)

    @classmethod
    def from_front(cls, front: AudioConfig) -> "Extractor":
        """Return the settings of a front end, as far as they can be expressed."""
        return cls(
            feature_size=front.mels,
            sampling_rate=front.rate,
            hop_length=front.hop,
            max_length_s=front.samples // front.rate,
            fft_window_size=front.n_fft,
            frequency_min=front.fmin,
            frequency_max=front.fmax,
            truncation="fusion" if front.truncation == "fusion" else "rand_trunc",
            padding=front.padding,
        )

    def to_front(self, *, fused: bool) -> AudioConfig:
        """Return the front end; ClapFeatureExtractor takes another mel bank for fusion.

        Raises
        ------
        FormatError
            If `truncation` is not that of a model with, or without, feature fusion.
        """
        expected = "fusion" if fused else "rand_trunc"
        if self.truncation != expected:
            raise FormatError(
                f"truncation is {self.truncation!r}, the weights are of a model "
                f"with{'' if fused else 'out'} fusion: {expected!r}"
            )
        return AudioConfig(
            rate=self.sampling_rate,
            samples=round(self.max_length_s * self.sampling_rate),
            n_fft=self.fft_window_size,
            hop=self.hop_length,
            mels=self.feature_size,
            fmin=self.frequency_min,
            fmax=self.frequency_max,
            mel_scale="htk" if fused else "slaney",
            mel_norm="none" if fused else "slaney",
            padding=self.padding,
            truncation="fusion" if fused else "windows",
        )


def described(config: ClapConfig) -> dict[str, Any]:
    """Return the config.json of a model that fits ClapModel."""
    if not isinstance(config.audio, HtsatConfig):
        raise TypeError(f"ClapModel has no audio tower {config.audio.kind}")
    return {
        "projection_dim": config.dim,
        "projection_hidden_act": "relu",
        "audio_config": _audio(config.audio),
        "text_config": {
            "vocab_size": config.text.vocab,
            "hidden_size": config.text.width,
            "num_hidden_layers": config.text.layers,
            "num_attention_heads": config.text.heads,
            "intermediate_size": config.text.mlp,
            "max_position_embeddings": config.text.positions,
            "type_vocab_size": config.text.types,
            "layer_norm_eps": config.text.eps,
            "hidden_act": _NAMES[config.text.activation],
            "pad_token_id": config.text.position_offset - 1,
        },
    }


def _audio(tower: HtsatConfig) -> dict[str, Any]:
    fused = {"aff_block_r": tower.fusion_ratio} if tower.fusion else {}
    return fused | {
        "depths": list(tower.depths),
        "num_attention_heads": list(tower.heads),
        "patch_embeds_hidden_size": tower.embed,
        "hidden_size": tower.width,
        "num_mel_bins": tower.mels,
        "spec_size": tower.spec_size,
        "patch_size": tower.patch,
        "patch_stride": [tower.patch] * 2,
        "window_size": tower.window,
        "mlp_ratio": float(tower.mlp_ratio),
        "layer_norm_eps": EPS if tower.block_eps is None else tower.block_eps,
        "hidden_act": _NAMES[tower.activation],
        "qkv_bias": tower.qkv_bias,
        "flatten_patch_embeds": True,
        "enable_patch_layer_norm": tower.patch_norm,
        "patch_embed_input_channels": 1,
        "enable_fusion": tower.fusion,
    }


def contradictions(config: ClapConfig, says: Mapping[str, Any]) -> list[str]:
    """Return the settings in which config.json and the tensors differ, with both values."""
    wrong = []
    for name, have in described(config).items():
        part = says.get(name)
        if isinstance(have, dict):
            inside = part if isinstance(part, Mapping) else {}
            wrong += [
                _both(f"{name}.{key}", inside[key], value)
                for key, value in have.items()
                if key in inside and key not in _FREE and not _same(inside[key], value)
            ]
        elif name in says and not _same(part, have):
            wrong.append(_both(name, part, have))
    return wrong


def _both(name: str, says: object, have: object) -> str:
    return f"{name} is {says!r}, the tensors have {have!r}"


def _same(says: object, have: object) -> bool:
    """Tell whether two values agree; one number may stand for equal ones."""
    return says == have or (isinstance(have, list) and [says] * len(have) == have)
