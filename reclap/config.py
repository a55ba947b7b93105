"""What a model is made of: front end, towers, heads, and how labels become prompts."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from reclap.audio import AudioConfig
from reclap.errors import FormatError
from reclap.settings import from_mapping
from reclap.towers import AUDIO, AudioTower, Cnn14Config, HtsatConfig, TextConfig

__all__ = [
    "AudioTower",
    "ClapConfig",
    "Cnn14Config",
    "HtsatConfig",
    "TextConfig",
]

# The C core counts kinds in this order.
HEADS = ("none", "linear", "mlp", "ms")


@dataclasses.dataclass(frozen=True)
class ClapConfig:
    """A whole model.

    Parameters
    ----------
    name : str
        What `info` shows.
    front : AudioConfig
        From samples to log-mel.
    audio : HtsatConfig or Cnn14Config
        Audio tower.
    text : TextConfig
        Text tower.
    audio_head, text_head : {"none", "linear", "mlp", "ms"}
        Projection into the joint space: nothing, one linear layer, linear - ReLU - linear as
        LAION-CLAP, or MS-CLAP's residual one.
    dim : int
        Width of the joint space.
    template : str
        How a label becomes a prompt; ``{label}`` stands for the label.
    """

    name: str = "clap"
    front: AudioConfig = dataclasses.field(default_factory=AudioConfig)
    audio: AudioTower = dataclasses.field(default_factory=HtsatConfig)
    text: TextConfig = dataclasses.field(default_factory=TextConfig)
    audio_head: str = "mlp"
    text_head: str = "mlp"
    dim: int = 512
    template: str = "This is a sound of {label}."

    def check(self) -> None:
        """Refuse what cannot work.

        Raises
        ------
        ValueError
            Naming the field, its value and what is allowed; the C core checks sizes.
        """
        for name in ("audio_head", "text_head"):
            if getattr(self, name) not in HEADS:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {HEADS}")
        self.text.check()
        if "{label}" not in self.template:
            raise ValueError(f"template is {self.template!r}, it must contain {{label}}")
        if self.front.mels != self.audio.mels:
            raise ValueError(f"front.mels is {self.front.mels}, audio.mels is {self.audio.mels}")
        least, most = self.audio.least_frames, self.audio.frames
        if not least <= self.front.frames <= most:
            raise ValueError(
                f"a window has {self.front.frames} frames, the audio tower takes {least} to {most}"
            )
        if self.audio.fusion != (self.front.truncation == "fusion"):
            raise ValueError(
                f"front.truncation is {self.front.truncation!r}, "
                f"audio.fusion is {self.audio.fusion}: fusion needs both"
            )
        self.front.check()

    def core_arguments(self, *, with_text: bool) -> dict[str, Any]:
        """Return the arguments of ``_core.Model``; without text the text tower is left out."""
        return {
            "audio": {"kind": list(AUDIO).index(self.audio.kind)} | dataclasses.asdict(self.audio),
            "text": self.text.to_core() if with_text else None,
            "text_width": self.text.width,
            "audio_head": HEADS.index(self.audio_head),
            "text_head": HEADS.index(self.text_head),
            "dim": self.dim,
        }

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary that `from_json` takes."""
        data = dataclasses.asdict(self)
        return data | {"audio": {"kind": self.audio.kind} | data["audio"]}

    @classmethod
    def from_json(cls, data: Any, where: str = "model") -> "ClapConfig":
        """Build a checked configuration from a dictionary; absent fields keep their default.

        Raises
        ------
        FormatError
            If a key is unknown, or a value has the wrong type or is out of range.
        """
        if not isinstance(data, Mapping):
            raise FormatError(f"{where}: expected an object, got {type(data).__name__}")
        parts = dict(data)
        build: dict[str, Callable[[Any], Any]] = {
            "front": functools.partial(AudioConfig.from_json, where=f"{where}.front"),
            "audio": functools.partial(_audio, where=f"{where}.audio"),
            "text": functools.partial(from_mapping, TextConfig, where=f"{where}.text"),
        }
        built = {name: make(parts.pop(name)) for name, make in build.items() if name in parts}
        plain = from_mapping(_Plain, parts, where)
        config = cls(**dataclasses.asdict(plain), **built)
        try:
            config.check()
        except ValueError as error:
            raise FormatError(f"{where}: {error}") from error
        return config


def _audio(data: Any, where: str) -> AudioTower:
    """Build the settings of an audio tower; without a kind it is HTS-AT, as in older folders."""
    if not isinstance(data, Mapping):
        raise FormatError(f"{where}: expected a table of settings, got {type(data).__name__}")
    kind = data.get("kind", HtsatConfig.kind)
    if kind not in list(AUDIO):  # a list, because the value may be unhashable
        raise FormatError(f"{where}.kind is {kind!r}, expected one of {', '.join(AUDIO)}")
    return from_mapping(AUDIO[kind], {n: x for n, x in data.items() if n != "kind"}, where)


@dataclasses.dataclass(frozen=True)
class _Plain:
    """The fields of `ClapConfig` that are not tables of their own."""

    name: str = ClapConfig.name
    audio_head: str = ClapConfig.audio_head
    text_head: str = ClapConfig.text_head
    dim: int = ClapConfig.dim
    template: str = ClapConfig.template
