"""Single towers, as ``reclap info`` describes them."""

import math
from pathlib import Path
from typing import Any

from reclap.checkpoints import model_folder
from reclap.checkpoints.families import detect, htsat_audioset, text_folder
from reclap.checkpoints.lazy import Tensors
from reclap.config.model import ClapConfig
from reclap.io import files
from reclap.text.tokenizer import Tokenizer

__all__ = ["describe"]


def describe(path: Path, *, progress: bool = False) -> dict[str, Any] | None:
    """Describe a file or folder of a single tower; None for anything else.

    Parameters
    ----------
    path : Path
        HTS-AT's ``.ckpt``, or a folder of a plain text model.
    progress : bool
        Show a progress bar where the digest takes longer than a second.

    Returns
    -------
    dict or None
        ``family``, ``use``, ``parameters``, ``digest``, ``tokenizer``, ``ignored``, ``config``:
        what `reclap.Model.info` has too, and how training takes it.
    """
    if path.is_dir() and text_folder.is_text_folder(path):
        return _text(path, progress)
    if path.is_file() and model_folder.is_foreign(path):
        tensors, others = detect.contents_of(path)
        if htsat_audioset.is_htsat(tensors):
            return _audio(path, htsat_audioset.read(tensors), others, progress)
    return None


def _text(path: Path, progress: bool) -> dict[str, Any]:
    tower = text_folder.read(path)
    config = ClapConfig(name=path.name, text=tower.config)
    kind = files.read_json(path / model_folder.CONFIG)["model_type"]
    tokenizer = Tokenizer(tower.tokenizer, tower.config)
    return _info(path, config, tower.tensors, tower.ignored, progress) | {
        "family": f"plain text model {kind}, a text tower alone",
        "use": "training takes it as text of a recipe's [model]",
        "tokenizer": tokenizer.describe(),
        "config": {"text": config.to_json()["text"]},
    }


def _audio(
    path: Path, tower: htsat_audioset.AudioTower, others: list[str], progress: bool
) -> dict[str, Any]:
    config = ClapConfig(name=path.name, audio=tower.config)
    return _info(path, config, tower.tensors, [*tower.ignored, *others], progress) | {
        "family": "HTS-AT trained on AudioSet, an audio tower alone",
        "use": "training takes it as audio_from of a recipe's [model]",
        "tokenizer": None,
        "config": {"audio": config.to_json()["audio"]},
    }


def _info(
    path: Path,
    config: ClapConfig,
    tensors: Tensors,
    ignored: list[str],
    progress: bool,
) -> dict[str, Any]:
    part = "text" if any(name.startswith("text_branch.") for name in tensors) else "audio"
    count = sum(math.prod(x.shape) for x in tensors.values())
    return {
        "name": config.name,
        "source": str(path),
        "parameters": {part: count, "total": count},
        "digest": model_folder.digest(config, tensors.items(), progress=progress),
        "ignored": dict.fromkeys(ignored, "not part of the tower"),
    }
