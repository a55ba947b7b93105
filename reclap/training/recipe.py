"""Training recipes: TOML files with the settings of a run."""

import dataclasses
import functools
import json
import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reclap.audio.front import AudioConfig
from reclap.checkpoints import model_folder
from reclap.config.towers import AUDIO, HtsatConfig
from reclap.errors import FormatError
from reclap.io import files, manifest
from reclap.io.files import StrPath
from reclap.io.settings import Settings, from_mapping
from reclap.model.loading import locate
from reclap.training.augment import Augment
from reclap.training.identity import (
    VERSION,
    completed,
    differences,
    joined_sha256,
    model_files,
    sha256,
)
from reclap.training.lora import Lora
from reclap.training.model_section import ModelPart, front_differences
from reclap.training.sections import Data, Eval, Loss, Optim, Run, Train

__all__ = [
    "Eval",
    "Lora",
    "Loss",
    "ModelPart",
    "Optim",
    "Recipe",
    "Run",
    "Train",
    "changes",
    "defaults",
    "front_differences",
    "load",
]

# Settings that hold a path, and settings that may change between a run and its continuation.
_PATHS = (("data", "manifest"), ("data", "root"), ("eval", "manifest"))
_MODELS = {  # names or folders; files, too?
    ("model", "from"): True,
    ("model", "text"): False,
    ("model", "audio_from"): True,
    ("loss", "teacher"): True,
}
_FREE = {
    "data": ("root", "threads", "ahead", "cache_mb"),
    "run": ("threads", "save_every", "save_first", "keep", "tensorboard", "piece", "checkpointing"),
}


@dataclasses.dataclass(frozen=True)
class Recipe(Settings):
    """Recipe of a training run; ``docs/training.md`` specifies its sections.

    Parameters
    ----------
    data : Data
        Section ``[data]``.
    run : Run
        Section ``[run]``.
    model : ModelPart
        Section ``[model]``.
    augment : Augment
        Section ``[augment]``.
    optim : Optim
        Section ``[optim]``.
    eval : Eval
        Section ``[eval]``.
    train : Train
        Section ``[train]``.
    lora : Lora
        Section ``[lora]``.
    loss : Loss
        Section ``[loss]``.

    Raises
    ------
    ValueError, TypeError
        If a value is out of range or of the wrong type.

    Examples
    --------
    >>> recipe = Recipe.from_mapping({"data": {"manifest": "train.jsonl"}, "run": {"steps": 100}})
    >>> recipe.optim.lr, recipe.to_json()["run"]["steps"]
    (0.0001, 100)
    >>> identity = recipe.identity(Path("text-tower"))  # doctest: +SKIP
    """

    data: Data
    run: Run
    model: ModelPart = dataclasses.field(default_factory=ModelPart)
    augment: Augment = dataclasses.field(default_factory=Augment)
    optim: Optim = dataclasses.field(default_factory=Optim)
    eval: Eval = dataclasses.field(default_factory=Eval)
    train: Train = dataclasses.field(default_factory=Train)
    lora: Lora = dataclasses.field(default_factory=Lora)
    loss: Loss = dataclasses.field(default_factory=Loss)

    @classmethod
    def from_mapping(cls, data: Any, where: str = "recipe") -> "Recipe":
        """Build a checked recipe from nested dictionaries.

        Parameters
        ----------
        data : mapping
            Sections by name, each a mapping of keys to values.
        where : str
            Name of the recipe in messages.

        Returns
        -------
        Recipe
            The recipe.

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
        """Return the recipe as nested dictionaries.

        Returns
        -------
        dict
            Sections that `from_mapping` takes.
        """
        data = dataclasses.asdict(self)
        data["model"]["from"] = data["model"].pop("source")
        return data

    def save(self, path: StrPath) -> None:
        """Write the recipe, with all settings and absolute paths, as JSON that `load` reads.

        Parameters
        ----------
        path : path
            File to write or replace, atomically.

        Examples
        --------
        >>> recipe = Recipe(Data("train.jsonl"), Run(steps=100))
        >>> recipe.save("recipe.json")
        >>> load("recipe.json").data.manifest == str(Path("train.jsonl").resolve())
        True
        """
        data = self.to_json()
        _absolute(data, Path.cwd())
        files.write_text(Path(path), json.dumps(data, indent=1, ensure_ascii=False) + "\n")

    def identity(
        self,
        text: Path,
        audio: Path | None = None,
        source: Path | None = None,
        *,
        rows: Iterable[manifest.Row] = (),
        version: int = VERSION,
        progress: bool = False,
    ) -> dict[str, Any]:
        """Return the identity of a run, which resuming compares: settings, and digests of files.

        Parameters
        ----------
        text : Path
            Folder of the text tower.
        audio, source : Path, optional
            Model that initialises the audio tower, or the whole model.
        rows : iterable of Row
            Rows of the manifest that train, of which it counts whether any is an excerpt.
        version : int
            Format of the identity; 1 has the digests of runs begun with the first versions.
        progress : bool
            Show progress bars where digests take longer than a second.

        Returns
        -------
        dict
            Sections without settings that may change between a run and its continuation.

        Raises
        ------
        OSError, FormatError
            If a file cannot be read.
        """
        digest = functools.partial(joined_sha256 if version < 2 else sha256, progress=progress)
        data = self.to_json()
        del data["eval"]
        for key, path in (("audio_from", audio), ("from", source)):
            del data["model"][key]
            if path is not None:
                data["model"][key] = digest(*model_files(path))
        if self.loss.teacher:
            data["loss"]["teacher"] = digest(*model_files(locate(self.loss.teacher)))
        for section, keys in _FREE.items():
            for key in keys:
                del data[section][key]
        if not self.augment.band:
            data["augment"]["bands"] = Augment().bands  # none is drawn
        data["data"]["manifest"] = digest(*manifest.files(self.data.manifest))
        if any(row.excerpt for row in rows):
            data["data"]["excerpts"] = True  # runs begun earlier heard whole files
        data["model"]["text"] = digest(text / model_folder.TEXT, text / model_folder.TOKENIZER)
        plain: dict[str, Any] = json.loads(json.dumps(data))  # tuples become lists, as in a file
        return plain


_SECTIONS: dict[str, type[Any]] = {
    "model": ModelPart,
    "data": Data,
    "augment": Augment,
    "train": Train,
    "lora": Lora,
    "loss": Loss,
    "optim": Optim,
    "run": Run,
    "eval": Eval,
}


def defaults(kind: str = HtsatConfig.kind) -> dict[str, Any]:
    """Return the defaults of all settings, as an identity holds them, with front end and tower."""
    found: dict[str, Any] = {
        name: {f.name: _default(f) for f in dataclasses.fields(part) if _has_default(f)}
        for name, part in _SECTIONS.items()
    }
    tower = {"kind": kind} | vars(AUDIO[kind]())
    found["model"] |= {"front": AudioConfig().to_json(), "audio": tower}
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def _has_default(field: "dataclasses.Field[Any]") -> bool:
    absent = dataclasses.MISSING
    return field.default is not absent or field.default_factory is not absent


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the differences of two identities, each completed by the defaults of its tower.

    Of towers of two kinds the kind comes first, then differences of settings that both have.
    """
    a, b = (completed(identity, defaults(_kind(identity))) for identity in (old, new))
    if _kind(old) == _kind(new):
        return differences(a, b)
    x, y = a["model"].pop("audio"), b["model"].pop("audio")
    shared = [name for name in x if name in y and name != "kind"]
    kind = f"model.audio.kind: {_kind(old)!r}, now {_kind(new)!r}"
    x, y = ({name: tower[name] for name in shared} for tower in (x, y))
    return [kind, *differences(x, y, "model.audio."), *differences(a, b)]


def _kind(identity: Mapping[str, Any]) -> str:
    kind: str = identity.get("model", {}).get("audio", {}).get("kind", HtsatConfig.kind)
    return kind if kind in AUDIO else HtsatConfig.kind


def load(path: StrPath, overrides: Iterable[str] = ()) -> Recipe:
    r"""Read a recipe.

    Parameters
    ----------
    path : path
        TOML file, or JSON (``.json``) as `Recipe.save` writes it. Relative paths in it start at
        its folder.
    overrides : iterable of str
        ``section.key=value``, the value in TOML, or else a text. Relative paths start at the
        working directory.

    Returns
    -------
    Recipe
        The checked recipe.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FormatError
        If it is no TOML or JSON, or a key is unknown, missing, ill-typed or out of range.
    TypeError
        If `overrides` is one text.

    Examples
    --------
    >>> _ = Path("run.toml").write_text('[data]\nmanifest = "train.jsonl"\n[run]\nsteps = 100')
    >>> load("run.toml", ["run.steps=200", "optim.lr=5e-4"]).run.steps
    200
    """
    if isinstance(overrides, str):
        raise TypeError(f"overrides: expected a list of section.key=value, got {overrides!r}")
    path = Path(path)
    data = files.read_json(path) if path.suffix == ".json" else _read_toml(path)
    _absolute(data, path.parent)
    for text in overrides:
        _place(data, *_override(text))
    return Recipe.from_mapping(data, str(path))


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:  # also bytes that are no UTF-8
        raise FormatError(f"{path}: expected a TOML recipe: {error}") from error


def _absolute(data: dict[str, Any], folder: Path) -> None:
    """Let relative paths start at a folder."""
    for section, key in _PATHS:
        part = data.get(section)
        if isinstance(part, dict) and isinstance(part.get(key), str) and part[key]:
            part[key] = os.path.normpath(folder / part[key])
    for (section, key), may_be_file in _MODELS.items():
        part = data.get(section)
        name = part.get(key) if isinstance(part, dict) else None
        if part is None or not isinstance(name, str) or not name:
            continue
        path = folder / name  # a folder of that name need not be a model's: "mini" is bundled
        if (path / model_folder.CONFIG).exists() or (may_be_file and path.is_file()):
            part[key] = os.path.normpath(path)


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
