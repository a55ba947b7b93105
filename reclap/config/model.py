"""Configuration of a model: front end, towers, heads, prompt template."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeAlias, get_args

import msgspec

from reclap.audio.front import AudioConfig
from reclap.config.text_tower import TextConfig
from reclap.config.towers import AUDIO, AudioTower, HtsatConfig
from reclap.errors import FormatError
from reclap.io.settings import Settings, from_mapping

__all__ = ["ClapConfig", "audio_from_json"]

# The C core counts kinds in this order.
Head: TypeAlias = Literal["none", "linear", "mlp", "ms"]
HEADS: tuple[Head, ...] = get_args(Head)
Dim: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=16384)]


@dataclasses.dataclass(frozen=True)
class ClapConfig(Settings):
    """Configuration of a model.

    Parameters
    ----------
    name : str
        Name that `reclap.Model.info` shows.
    front : AudioConfig
        Front end, from samples to log-mel.
    audio : HtsatConfig, Cnn14Config or VitConfig
        Audio tower.
    text : TextConfig
        Text tower.
    audio_head, text_head : {"none", "linear", "mlp", "ms"}
        Projection into the joint space: nothing, one linear layer, linear - ReLU - linear as
        LAION-CLAP, or MS-CLAP's residual one.
    dim : int
        Width of the joint space.
    template : str
        Prompt of a label; ``{label}`` stands for the label.
    logit_bias : float, optional
        Bias of the logits that a model trained by the sigmoid loss has learned; embeddings and
        cosines do not depend on it.

    Raises
    ------
    ValueError, TypeError
        If a value is out of range or of the wrong type, or parts do not fit together.

    Examples
    --------
    >>> config = ClapConfig(name="small", dim=256)
    >>> config.to_json()["audio"]["kind"]
    'htsat'
    >>> ClapConfig.from_json(config.to_json()) == config
    True
    >>> sorted(config.core_arguments(with_text=False))
    ['audio', 'audio_head', 'dim', 'text', 'text_head', 'text_width']
    """

    name: str = "clap"
    front: AudioConfig = dataclasses.field(default_factory=AudioConfig)
    audio: AudioTower = dataclasses.field(default_factory=HtsatConfig)
    text: TextConfig = dataclasses.field(default_factory=TextConfig)
    audio_head: Head = "mlp"
    text_head: Head = "mlp"
    dim: Dim = 512
    template: str = "This is a sound of {label}."
    logit_bias: Annotated[float, msgspec.Meta(ge=-1000, le=1000)] | None = None

    def __post_init__(self) -> None:
        """Check; the C core checks which sizes fit together."""
        super().__post_init__()
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

    def core_arguments(self, *, with_text: bool) -> dict[str, Any]:
        """Return the arguments of ``_core.Model``.

        Parameters
        ----------
        with_text : bool
            Whether the core gets the text tower.

        Returns
        -------
        dict
            Names to values.
        """
        return {
            "audio": self.audio.to_core(),
            "text": self.text.to_core() if with_text else None,
            "text_width": self.text.width,
            "audio_head": HEADS.index(self.audio_head),
            "text_head": HEADS.index(self.text_head),
            "dim": self.dim,
        }

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary that `from_json` takes.

        Returns
        -------
        dict
            Field names to values, those of the parts nested.
        """
        data = dataclasses.asdict(self)
        return data | {"audio": {"kind": self.audio.kind} | data["audio"]}

    @classmethod
    def from_json(cls, data: Any, where: str = "model") -> "ClapConfig":
        """Build a configuration from a dictionary; absent fields keep their default.

        Parameters
        ----------
        data : mapping
            Field names to values, as `to_json` writes them.
        where : str
            Name of this mapping in messages.

        Returns
        -------
        ClapConfig
            The configuration.

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
            "audio": functools.partial(audio_from_json, where=f"{where}.audio"),
            "text": functools.partial(from_mapping, TextConfig, where=f"{where}.text"),
        }
        built = {name: make(parts.pop(name)) for name, make in build.items() if name in parts}
        return from_mapping(cls, parts | built, where)


def audio_from_json(data: Any, where: str) -> AudioTower:
    """Build the configuration of an audio tower from a dictionary.

    Parameters
    ----------
    data : mapping
        Field names to values, and ``kind``: "htsat" (also if absent, as in older folders),
        "cnn14" or "vit".
    where : str
        Name of this mapping in messages.

    Returns
    -------
    HtsatConfig, Cnn14Config or VitConfig
        The configuration.

    Raises
    ------
    FormatError
        If the kind or a key is unknown, or a value has the wrong type or is out of range.

    Examples
    --------
    >>> audio_from_json({"kind": "cnn14"}, "model.audio").kind
    'cnn14'
    """
    if not isinstance(data, Mapping):
        raise FormatError(f"{where}: expected a table of settings, got {type(data).__name__}")
    kind = data.get("kind", HtsatConfig.kind)
    if kind not in list(AUDIO):  # a list, because the value may be unhashable
        raise FormatError(f"{where}.kind is {kind!r}, expected one of {', '.join(AUDIO)}")
    return from_mapping(AUDIO[kind], {n: x for n, x in data.items() if n != "kind"}, where)
