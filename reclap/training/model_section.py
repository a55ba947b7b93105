"""Section of a recipe that says which model is trained, and what it begins with."""

import dataclasses
from typing import Any, Literal

from reclap.audio.front import AudioConfig
from reclap.config.model import ClapConfig, Dim, Head, audio_from_json
from reclap.config.text_tower import TextConfig
from reclap.config.towers import AudioTower
from reclap.errors import FormatError
from reclap.io.settings import Settings

__all__ = ["ModelPart", "front_differences"]

_INHERITED = ("name", "audio_head", "text_head", "dim", "template")
# Settings of the front end that an audio tower was trained with; a model initialised from it needs
# the same.
_TRAINED = ("rate", "n_fft", "hop", "mels", "fmin", "fmax", "mel_scale", "mel_norm", "bank_rate")


@dataclasses.dataclass(frozen=True)
class ModelPart(Settings):
    """Section ``[model]``: the model to train.

    Parameters
    ----------
    source : str
        Key ``from``: a model to continue training from, anything that `reclap.load` takes. It
        gives the front end, both towers, heads and temperature, and the values of all settings
        below that are not set. Empty: none, and they have the defaults of `ClapConfig`.
    text : str, optional
        Source of the text tower, which is frozen: a bundled model, a model folder, a folder of a
        plain BERT, RoBERTa, T5, GPT-2 or CLIP, or a hub id of one of these. "mini" by default.
    audio_from : str
        File or folder whose audio tower initialises the audio tower: HTS-AT's ``.ckpt``, or any
        model that `reclap.load` takes. Random initialisation if empty.
    front, audio : dict
        Tables ``[model.front]`` (`AudioConfig`) and ``[model.audio]``: ``kind`` and the settings of
        `HtsatConfig`, which is the default, `Cnn14Config` or `VitConfig`.
    name, audio_head, text_head, dim, template : optional
        See `ClapConfig`.
    init : {"xavier_uniform", "trunc_normal"}
        Initialisation of linear layers: uniform by their widths, from which small towers learn
        much faster, or normal with standard deviation 0.02 as LAION-CLAP.

    Raises
    ------
    ValueError, TypeError
        If a value is out of range or of the wrong type.

    Examples
    --------
    >>> part = ModelPart(source="mini")
    >>> part.completed().config(TextConfig()).dim
    512
    """

    source: str = dataclasses.field(default="", metadata={"key": "from"})
    text: str | None = None
    audio_from: str = ""
    front: dict[str, Any] = dataclasses.field(default_factory=dict)
    audio: dict[str, Any] = dataclasses.field(default_factory=dict)
    name: str | None = None
    audio_head: Head | None = None
    text_head: Head | None = None
    dim: Dim | None = None
    template: str | None = None
    init: Literal["xavier_uniform", "trunc_normal"] = "xavier_uniform"

    def __post_init__(self) -> None:
        """Check; `config` checks the rest."""
        super().__post_init__()
        if not self.source:  # otherwise they are only a part
            AudioConfig.from_json(self.front, "front")
            audio_from_json(self.audio, "audio")
        if self.source and self.audio_from:
            raise ValueError("audio_from: from gives the audio tower; set one of them")

    def _tower_of(self, tower: AudioTower) -> dict[str, Any]:
        """Return the settings of the tower of the ``from`` model, with those of the recipe."""
        kind = self.audio.get("kind", tower.kind)
        if kind != tower.kind:
            raise FormatError(
                f"model.audio.kind is {kind!r}, the audio tower of {self.source} is {tower.kind}"
            )
        audio = {"kind": tower.kind} | dataclasses.asdict(tower) | self.audio
        wanted = audio_from_json(audio, "model.audio")
        wrong = [
            f"model.audio.{name} is {getattr(wanted, name)!r}, the model has {value!r}"
            for name in tower.same
            if getattr(wanted, name) != (value := getattr(tower, name))
        ]
        if wrong:
            raise FormatError(f"{self.source}: {'; '.join(wrong)}")
        return audio

    def completed(self, source: ClapConfig | None = None) -> "ModelPart":
        """Return the section with all settings: those of `source`, the ``from`` model, or defaults.

        Parameters
        ----------
        source : ClapConfig, optional
            Configuration of the ``from`` model.

        Returns
        -------
        ModelPart
            The section without unset values.

        Raises
        ------
        FormatError
            If the front end would differ from the one that the tower of `source` was trained with,
            or that tower is of another kind or has other sizes.
        """
        known: ClapConfig | type[ClapConfig] = ClapConfig
        front, audio = self.front, self.audio
        if source is not None:
            known = source
            front = source.front.to_json() | self.front
            audio = self._tower_of(source.audio)
            wanted = AudioConfig.from_json(front, "model.front")
            wrong = front_differences(source.front, wanted)
            if wrong:
                raise FormatError(
                    f"model: {self.source} was trained with another front end: {', '.join(wrong)}"
                )
        given = {name: getattr(known, name) for name in _INHERITED if getattr(self, name) is None}
        text = self.text or self.source or "mini"
        return dataclasses.replace(self, text=text, front=front, audio=audio, **given)

    def config(self, text: TextConfig) -> ClapConfig:
        """Return the configuration of the whole model; for a `completed` section.

        Parameters
        ----------
        text : TextConfig
            Configuration of the text tower.

        Returns
        -------
        ClapConfig
            The configuration.

        Raises
        ------
        FormatError
            If values do not fit together.
        """
        parts = dataclasses.asdict(self)
        del parts["init"], parts["source"], parts["audio_from"]
        return ClapConfig.from_json(parts | {"text": dataclasses.asdict(text)}, "model")


def front_differences(trained: AudioConfig, wanted: AudioConfig) -> list[str]:
    """Return the differences of a front end from the one that an audio tower was trained with."""
    pairs = ((name, getattr(trained, name), getattr(wanted, name)) for name in _TRAINED)
    return [f"{name} was {was!r}, now {now!r}" for name, was, now in pairs if was != now]
