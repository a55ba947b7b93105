"""Checkpoints of other projects: what they are, and their tensors by our names.

Three layouts are known: the state dicts of LAION-CLAP (also of ReCLAP and CompA-CLAP) and of
MS-CLAP in a file that torch.save or safetensors wrote, and a folder of transformers' ClapModel.
Kinds and sizes of the towers are read off the tensors; where a configuration file says otherwise,
both are shown.
"""

import dataclasses
from pathlib import Path

from reclap import checkpoint, pickles
from reclap.errors import FormatError
from reclap.families import htsat, laion, microsoft, transformers
from reclap.families.parts import Found, Tensors
from reclap.text import find_tokenizer

__all__ = ["Found", "contents_of", "read"]


def read(path: Path, compat: str | None = None, text_activation: str | None = None) -> Found:
    """Read a checkpoint of another project.

    Parameters
    ----------
    path : Path
        A ``.pt``, ``.pth``, ``.ckpt``, ``.bin`` or ``.safetensors`` file, or a folder.
    compat : {"upstream"}, optional
        Take the front end of the project's own code, `Found.upstream`.
    text_activation : {"gelu", "quick_gelu"}, optional
        See `reclap.families.laion.read`.

    Raises
    ------
    FormatError
        If it is none of the known layouts, or tensors contradict the configuration.
    """
    folder = path if path.is_dir() else path.parent
    try:
        found = transformers.read(path) if path.is_dir() else _file(path, text_activation)
    except ValueError as error:
        named = str(error).startswith(str(path))  # by who read the file
        raise FormatError(f"{error}" if named else f"{path}: {error}") from error
    config = found.config
    if compat == "upstream" and found.upstream is not None:
        config = dataclasses.replace(config, front=found.upstream)
    return dataclasses.replace(found, config=config, tokenizer=find_tokenizer(folder))


def contents_of(path: Path) -> tuple[Tensors, list[str]]:
    """Return the tensors of a file, by the names in it, and what else it holds; see `read`."""
    if path.suffix == ".safetensors":
        return checkpoint.read_tensors(path), []
    return pickles.weights(path)


def _file(path: Path, text_activation: str | None) -> Found:
    tensors, others = contents_of(path)
    found = _of_tensors(path, tensors, text_activation)
    beside = dict.fromkeys(others, "beside the weights")
    return dataclasses.replace(found, ignored=found.ignored | beside)


def _of_tensors(path: Path, tensors: Tensors, text_activation: str | None) -> Found:
    if any(name.startswith("audio_branch.") for name in tensors):
        return laion.read(path, tensors, text_activation)
    if text_activation is not None:
        raise ValueError("text_activation: only for files of LAION-CLAP")
    if any(name.startswith(microsoft.AUDIO) for name in tensors):
        return microsoft.read(path, tensors)
    if htsat.is_htsat(tensors):
        raise FormatError(
            f"{path}: an audio tower of HTS-AT alone; training can begin with it, as audio_from "
            "of a recipe"
        )
    raise FormatError(
        f"{path}: a layout of neither LAION-CLAP (audio_branch.*) nor MS-CLAP ({microsoft.AUDIO}*)"
    )
