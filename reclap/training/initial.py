"""Initialisation of training from another model, or from one of its towers."""

import logging
from pathlib import Path

from reclap.audio.front import AudioConfig
from reclap.checkpoints import model_folder
from reclap.checkpoints.families import detect, htsat_audioset, text_folder
from reclap.checkpoints.lazy import Stored, Tensors
from reclap.config.towers import AudioTower
from reclap.errors import FormatError
from reclap.model.loading import load, locate
from reclap.training.identity import sha256
from reclap.training.model_section import front_differences

__all__ = ["TEXT", "audio_tower", "text_tower", "whole_model"]

log = logging.getLogger(__name__)

TEXT = (
    "text-"  # in the folder of a run: the tower of a plain text model, with a digest of its files
)


def text_tower(source: str, out: Path, *, progress: bool = False) -> Path:
    """Return the model folder whose text tower a run takes, making it of a plain text model.

    Parameters
    ----------
    source : str
        Bundled model, model folder, folder of a plain text model
        (`reclap.checkpoints.families.text_folder`), or hub id of either.
    out : Path
        Folder of the run, which then holds a model folder with the tower of a plain model.
    progress : bool
        Show a progress bar where digests take longer than a second.

    Raises
    ------
    FormatError
        If it is neither.
    """
    path = locate(source)
    if (path / model_folder.TEXT).is_file():
        return path
    if not text_folder.is_text_folder(path):
        raise FormatError(
            f"{path}: neither a model folder, which holds {model_folder.TEXT}, nor a plain text "
            "model; reclap convert makes a model folder of another project's checkpoint"
        )
    made = out / f"{TEXT}{sha256(*text_folder.sources(path), progress=progress)[:12]}"
    if not (made / model_folder.CONFIG).is_file():
        text_folder.convert(path, made)
    return made


def whole_model(source: str, out: Path, *, progress: bool = False) -> Path:
    """Return the model folder to continue from, converting another project's checkpoint.

    Parameters
    ----------
    source : str
        Anything that `reclap.load` takes, with its tokenizer.
    out : Path
        Folder of the run, which then holds another project's checkpoint as a model folder.
    progress : bool
        Show a progress bar where digests and weights take longer than a second.
    """
    path = locate(source)
    if path.is_dir() and not model_folder.is_foreign(path):
        return path
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file())
    made = out / f"{TEXT}{sha256(*files, progress=progress)[:12]}"
    if not (made / model_folder.CONFIG).is_file():
        load(source, progress=progress).save(made)
    return made


def audio_tower(path: Path, wanted: AudioTower, front: AudioConfig) -> dict[str, Stored]:
    """Return the tensors of an audio tower, by our names, to begin training with.

    Parameters
    ----------
    path : Path
        HTS-AT's ``.ckpt``, or any model that `reclap.load` takes: its audio tower.
    wanted : AudioTower
        The tower in training.
    front : AudioConfig
        Front end of the model.

    Raises
    ------
    FormatError
        If the file holds another tower, or one of other sizes; both are shown.

    Notes
    -----
    A front end or an epsilon that differs from that of a model is allowed, with a warning: HTS-AT
    was trained on sounds at 32 kHz with a hop of 320 samples, and LAION-CLAP went on at 48 kHz with
    480: 1001 frames of 10 s, 64 bands from 50 to 14 000 Hz either way.
    """
    config, tensors, trained = _tower_of(path)
    if config.kind != wanted.kind:
        raise FormatError(
            f"{path}: the audio tower is {config.kind}, the tower in training is {wanted.kind}"
        )
    wrong = [
        f"{name} is {getattr(config, name)}, the tower in training has {getattr(wanted, name)}"
        for name in wanted.same
        if getattr(config, name) != getattr(wanted, name)
    ]
    if wrong:
        raise FormatError(f"{path}: {'; '.join(wrong)}")
    other = front_differences(trained, front) if trained else []
    if other:
        log.warning("%s: its audio tower was trained with another front end: %s", path, other)
    for name in ("eps", "block_eps"):
        was, now = config.to_core().get(name), wanted.to_core().get(name)
        if was != now:
            log.warning("%s: its audio tower was trained with %s %g, now %g", path, name, was, now)
    return {name: x for name, x in tensors.items() if name.startswith("audio_branch.")}


def _tower_of(path: Path) -> tuple[AudioTower, Tensors, AudioConfig | None]:
    """Return an audio tower, its tensors, and the front end that it was trained with if known."""
    if path.is_dir() and not model_folder.is_foreign(path):
        config = model_folder.read_config(path)
        return config.audio, model_folder.read_tensors(path / model_folder.MODEL), config.front
    if path.is_file():
        tensors, _ = detect.contents_of(path)
        if htsat_audioset.is_htsat(tensors):
            tower = htsat_audioset.read(tensors)
            return tower.config, tower.tensors, None
    found = detect.read(path)
    return found.config.audio, found.tensors, found.config.front
