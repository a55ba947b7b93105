"""Training recipes: TOML files of what to train, on what, and how."""

import dataclasses
import functools
import json
import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from reclap.audio.front import AudioConfig
from reclap.checkpoints import model_folder
from reclap.config.model import ClapConfig, Dim, Head, audio_from_json
from reclap.config.towers import HtsatConfig, TextConfig
from reclap.errors import FormatError
from reclap.io import manifest
from reclap.io.files import StrPath
from reclap.io.settings import Count, Fraction, Positive, Settings, from_mapping
from reclap.training.augment import Augment
from reclap.training.data import Data
from reclap.training.identity import VERSION, joined_sha256, model_files, sha256

__all__ = [
    "Eval",
    "ModelPart",
    "Optim",
    "Recipe",
    "Run",
    "defaults",
    "front_differences",
    "load",
]

NotNegative: TypeAlias = Annotated[float, msgspec.Meta(ge=0)]

# Settings that hold a path, and settings that may change between a run and its continuation.
_PATHS = (("data", "manifest"), ("data", "root"), ("eval", "manifest"))
_MODELS = {  # of [model]: names, or paths that hold this
    "from": "",
    "text": model_folder.CONFIG,
    "audio_from": "",
}
_FREE = {
    "data": ("root", "threads", "ahead", "cache_mb"),
    "run": ("threads", "save_every", "save_first", "keep"),
}
_INHERITED = ("name", "audio_head", "text_head", "dim", "template")
# What an audio tower has been trained to hear; a model that begins with it must hear the same.
_HEARD = ("rate", "n_fft", "hop", "mels", "fmin", "fmax", "mel_scale", "mel_norm", "bank_rate")


@dataclasses.dataclass(frozen=True)
class ModelPart(Settings):
    """Section ``[model]``: what is trained.

    Parameters
    ----------
    source : str
        Key ``from``: a model that training goes on with, anything that `reclap.load` takes. It
        gives the front end, both towers, heads and temperature, and the values of all settings
        below that are not set. Empty: none, and they have the defaults of `ClapConfig`.
    text : str, optional
        What gives the text tower, frozen: a bundled model, a model folder, a folder of a plain
        BERT, RoBERTa, T5, GPT-2 or CLIP, or a hub id of one of these. "mini" by default.
    audio_from : str
        File or folder whose audio tower training begins with: HTS-AT's ``.ckpt``, or any model
        that `reclap.load` takes. Random values if empty.
    front, audio : dict
        Tables ``[model.front]`` (`AudioConfig`) and ``[model.audio]`` (`HtsatConfig`).
    name, audio_head, text_head, dim, template : optional
        As in `ClapConfig`.
    init : {"xavier_uniform", "trunc_normal"}
        First values of linear layers: uniform by their widths, which small towers learn much
        faster from, or normal with deviation 0.02 as LAION-CLAP.
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
        if self.audio.get("kind", HtsatConfig.kind) != HtsatConfig.kind:
            raise ValueError(f"audio.kind: {self.audio['kind']!r} cannot be trained yet")
        if self.audio.get("fusion"):
            raise ValueError("audio.fusion: a model with feature fusion cannot be trained yet")
        if not self.source:  # otherwise they are only a part
            AudioConfig.from_json(self.front, "front")
            audio_from_json(self.audio, "audio")
        if self.source and self.audio_from:
            raise ValueError("audio_from: from gives the audio tower; set one of them")

    def completed(self, source: ClapConfig | None = None) -> "ModelPart":
        """Return it with everything set: as `source`, the model of ``from``, or by default.

        Raises
        ------
        FormatError
            If the front end would not be what the tower of `source` was trained to hear.
        """
        known: ClapConfig | type[ClapConfig] = ClapConfig
        front, audio = self.front, self.audio
        if source is not None:
            known = source
            front = source.front.to_json() | self.front
            audio = dataclasses.asdict(source.audio) | self.audio
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
        """Return the configuration of the whole model; of one that is `completed`."""
        parts = dataclasses.asdict(self)
        del parts["init"], parts["source"], parts["audio_from"]
        return ClapConfig.from_json(parts | {"text": dataclasses.asdict(text)}, "model")


@dataclasses.dataclass(frozen=True)
class Optim(Settings):
    """Section ``[optim]``: AdamW with decoupled weight decay, cosine schedule with warm-up.

    Parameters
    ----------
    lr : float
        Greatest learning rate. Rises over `warmup` steps, ``lr (step + 1) / warmup``, then falls
        to zero with a half cosine.
    warmup : int
        Steps.
    beta1, beta2, eps : float
        Of AdamW.
    weight_decay : float
        For matrices and tables; biases, norms and the temperature have none.
    clip : float
        Largest norm of the whole gradient; 0: not clipped.
    ema : float
        Decay of a running mean of the weights, ``min(ema, (1 + step) / (10 + step))``. The model
        that is saved and evaluated is then the mean. 0: none.
    """

    lr: NotNegative = 1e-4
    warmup: Count = 0
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    eps: NotNegative = 1e-8
    weight_decay: NotNegative = 0.0
    clip: NotNegative = 0.0
    ema: Fraction = 0.0


@dataclasses.dataclass(frozen=True)
class Run(Settings):
    """Section ``[run]``.

    Parameters
    ----------
    steps : int
        Length of the run, and of the schedule.
    seed : int
        Of every random draw, below ``2 ** 64``.
    save_every : int
        Steps between checkpoints; the last step is always saved.
    save_first : bool
        Save a checkpoint, and evaluate, before the first step.
    keep : int
        Checkpoints that stay; older ones are removed.
    threads : int
        Threads of the core; 0: all processors. Products through oneDNN are the same bit for bit
        only for the same number.
    """

    steps: Positive
    seed: Count = 0
    save_every: Positive = 1000
    save_first: bool = False
    keep: Positive = 2
    threads: Count = 0

    def __post_init__(self) -> None:
        """Check."""
        super().__post_init__()
        if self.seed >= 2**64:
            raise ValueError(f"seed is {self.seed}, expected below 2 ** 64")


@dataclasses.dataclass(frozen=True)
class Eval(Settings):
    """Section ``[eval]``: zero-shot accuracy during training.

    Parameters
    ----------
    every : int
        Steps between evaluations; 0: none.
    manifest : str
        See `reclap.io.manifest.read`; the training manifest if empty. Captions are not used.
    where : dict of str to list
        Which of its rows.
    label : str
        Column that holds the truth.
    prompts : dict
        A text or list of texts for each label; the model's template where absent.
    """

    every: Count = 0
    manifest: str = ""
    where: dict[str, list[Any]] = dataclasses.field(default_factory=dict)
    label: str = "label"
    prompts: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check."""
        super().__post_init__()
        for label, texts in self.prompts.items():
            several = [texts] if isinstance(texts, str) else texts
            if not isinstance(several, list) or not several:
                raise ValueError(f"prompts.{label}: expected a text or a list of texts")
            if not all(isinstance(t, str) and t.strip() for t in several):
                raise ValueError(f"prompts.{label}: expected texts that are not empty")


@dataclasses.dataclass(frozen=True)
class Recipe(Settings):
    """A training run; see the parts."""

    data: Data
    run: Run
    model: ModelPart = dataclasses.field(default_factory=ModelPart)
    augment: Augment = dataclasses.field(default_factory=Augment)
    optim: Optim = dataclasses.field(default_factory=Optim)
    eval: Eval = dataclasses.field(default_factory=Eval)

    @classmethod
    def from_mapping(cls, data: Any, where: str = "recipe") -> "Recipe":
        """Build a checked recipe from nested dictionaries.

        Raises
        ------
        FormatError
            Naming a section or key that is unknown, missing, ill-typed or out of range.
        """
        if not isinstance(data, Mapping):
            raise FormatError(f"{where}: expected sections, got {type(data).__name__}")
        unknown = sorted(set(data) - set(_SECTIONS))
        if unknown:
            known = ", ".join(_SECTIONS)
            raise FormatError(f"{where}: unknown {', '.join(unknown)}; known are {known}")
        return cls(
            **{
                name: from_mapping(part, data.get(name, {}), f"{where}: {name}")
                for name, part in _SECTIONS.items()
            }
        )

    def to_json(self) -> dict[str, Any]:
        """Return nested dictionaries that `from_mapping` takes."""
        data = dataclasses.asdict(self)
        data["model"]["from"] = data["model"].pop("source")
        return data

    def identity(
        self,
        text: Path,
        audio: Path | None = None,
        source: Path | None = None,
        *,
        version: int = VERSION,
        progress: bool = False,
    ) -> dict[str, Any]:
        """Return what a continuation must share with the run: settings, and digests of files.

        Parameters
        ----------
        text : Path
            The folder of the text tower.
        audio, source : Path, optional
            What the audio tower, or the whole model, begins with.
        version : int
            1 has the digests of runs that were begun with the first versions.
        progress : bool
            Show progress bars where digests take longer than a second.
        """
        digest = functools.partial(joined_sha256 if version < 2 else sha256, progress=progress)
        data = self.to_json()
        del data["eval"]
        for key, path in (("audio_from", audio), ("from", source)):
            del data["model"][key]
            if path is not None:
                data["model"][key] = digest(*model_files(path))
        for section, keys in _FREE.items():
            for key in keys:
                del data[section][key]
        data["data"]["manifest"] = digest(*manifest.files(self.data.manifest))
        data["model"]["text"] = digest(text / model_folder.TEXT, text / model_folder.TOKENIZER)
        plain: dict[str, Any] = json.loads(json.dumps(data))  # tuples become lists, as in a file
        return plain


_SECTIONS: dict[str, type[Any]] = {
    "model": ModelPart,
    "data": Data,
    "augment": Augment,
    "optim": Optim,
    "run": Run,
    "eval": Eval,
}


def defaults() -> dict[str, Any]:
    """Return every setting that has a default, as an identity holds it; front end and tower too."""
    found: dict[str, Any] = {
        name: {
            f.name: f.default
            for f in dataclasses.fields(part)
            if f.default is not dataclasses.MISSING
        }
        for name, part in _SECTIONS.items()
    }
    found["model"] |= {"front": AudioConfig().to_json(), "audio": vars(HtsatConfig())}
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def front_differences(heard: AudioConfig, wanted: AudioConfig) -> list[str]:
    """Return where a front end differs from the one that an audio tower was trained with."""
    pairs = ((name, getattr(heard, name), getattr(wanted, name)) for name in _HEARD)
    return [f"{name} was {was!r}, now {now!r}" for name, was, now in pairs if was != now]


def load(path: StrPath, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe.

    Parameters
    ----------
    path : path
        TOML file. Relative paths in it start at its folder.
    overrides : iterable of str
        ``section.key=value``, the value in TOML, or else a text. Relative paths start at the
        working directory.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FormatError
        If it is no TOML, or a key is unknown, missing, ill-typed or out of range.
    """
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:  # also bytes that are no UTF-8
        raise FormatError(f"{path}: {error}") from error
    _absolute(data, path.parent)
    for text in overrides:
        _place(data, *_override(text))
    return Recipe.from_mapping(data, str(path))


def _absolute(data: dict[str, Any], folder: Path) -> None:
    """Let relative paths start at a folder."""
    for section, key in _PATHS:
        part = data.get(section)
        if isinstance(part, dict) and isinstance(part.get(key), str) and part[key]:
            part[key] = os.path.normpath(folder / part[key])
    model = data.get("model")
    if not isinstance(model, dict):
        return
    for key, inside in _MODELS.items():
        name = model.get(key)
        if isinstance(name, str) and name and (folder / name / inside).exists():
            model[key] = os.path.normpath(folder / name)


def _override(text: str) -> tuple[Sequence[str], Any]:
    name, equals, value = text.partition("=")
    keys = tuple(key.strip() for key in name.split("."))
    if not equals or len(keys) < 2 or not all(keys):
        raise FormatError(f"{text!r}: expected section.key=value")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except RecursionError as error:
        raise FormatError(f"{name}: {error}") from None
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    if keys in _PATHS and isinstance(parsed, str) and parsed:
        parsed = os.path.normpath(Path.cwd() / parsed)
    return keys, parsed


def _place(data: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    part = data
    for i, key in enumerate(keys[:-1]):
        part = part.setdefault(key, {})
        if not isinstance(part, dict):
            raise FormatError(f"{'.'.join(keys)}: {'.'.join(keys[: i + 1])} is not a table")
    part[keys[-1]] = value
