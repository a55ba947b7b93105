"""Detection of the family of another project's checkpoint, and reading by it.

Three layouts are known: the state dicts of LAION-CLAP (also of ReCLAP and CompA-CLAP), of MS-CLAP
and of transformers' ClapModel, in a file that torch.save or safetensors wrote, and a folder of
ClapModel. What wraps a model (``module.``, ``_orig_mod.``, ``clap_model.``) is taken off its names.
Kinds and sizes of the towers are read off the tensors; where a configuration file says otherwise,
both are shown.
"""

import dataclasses
from pathlib import Path

from reclap.checkpoints import model_folder
from reclap.checkpoints.families import hf_clap, laion, microsoft
from reclap.checkpoints.families.assemble import Found, below
from reclap.checkpoints.lazy import Tensors
from reclap.errors import FormatError, shown_names
from reclap.pickles import weights
from reclap.text.tokenizer import find_tokenizer

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
        See `reclap.checkpoints.families.laion.read`.

    Raises
    ------
    FormatError
        If it is none of the known layouts, or tensors contradict the configuration.
    """
    folder = path if path.is_dir() else path.parent
    try:
        found = hf_clap.read(path) if path.is_dir() else _file(path, text_activation)
    except ValueError as error:
        named = str(error).startswith(str(path))  # by who read the file
        raise FormatError(f"{error}" if named else f"{path}: {error}") from error
    config = found.config
    if compat == "upstream":
        front = dataclasses.replace(found.upstream or config.front, silence="keep")
        config = dataclasses.replace(config, front=front)
    return dataclasses.replace(found, config=config, tokenizer=find_tokenizer(folder))


def contents_of(path: Path) -> tuple[Tensors, list[str]]:
    """Return the tensors of a file by the names in it, and its other entries; see `read`."""
    if path.suffix == ".safetensors":
        return model_folder.read_tensors(path), []
    return weights(path)


def _file(path: Path, text_activation: str | None) -> Found:
    tensors, others = contents_of(path)
    inside, outside = _unwrapped(path, tensors)
    found = _of_tensors(path, inside, text_activation)
    ignored = dict.fromkeys(outside, "outside the model") | dict.fromkeys(
        others, "beside the weights"
    )
    return dataclasses.replace(found, ignored=found.ignored | ignored)


def _unwrapped(path: Path, tensors: Tensors) -> tuple[Tensors, list[str]]:
    """Return the tensors without the prefix of a wrapper, and other names."""
    prefixes = {
        name[:at]
        for name in tensors
        for at in [name.find(sign) for sign in _SIGNS if sign in name][:1]
        if at == 0 or name[at - 1] == "."
    }
    if len(prefixes) > 1:
        raise FormatError(
            f"{path}: expected one model, got several: {shown_names(sorted(prefixes), 5)}"
        )
    prefix = prefixes.pop() if prefixes else ""
    return below(tensors, prefix), [name for name in tensors if not name.startswith(prefix)]


def _of_tensors(path: Path, tensors: Tensors, text_activation: str | None) -> Found:
    if any(name.startswith(_LAION) for name in tensors):
        return laion.read(path, tensors, text_activation)
    if text_activation is not None:
        raise ValueError("text_activation: only for files of LAION-CLAP")
    if any(name.startswith(microsoft.AUDIO) for name in tensors):
        return microsoft.read(path, tensors)
    if hf_clap.is_clap_model(tensors):
        return hf_clap.read_file(path, tensors)
    for sign, what in _KNOWN.items():
        if any(name.startswith(sign) for name in tensors):
            raise FormatError(f"{path}: {what}")
    raise FormatError(
        f"{path}: a layout of neither LAION-CLAP ({_LAION}*) nor MS-CLAP ({microsoft.AUDIO}*) "
        "nor transformers' ClapModel (audio_model.*)"
    )


_LAION = "audio_branch."
_SIGNS = (_LAION, microsoft.AUDIO, "audio_model.audio_encoder.")
_KNOWN = {  # layouts that are refused by name
    "sed_model.layers.": "an audio tower of HTS-AT alone; training can begin with it, as "
    "audio_from of a recipe",
    "clap_project.": "MS-CLAP's captioning model (clapcap), which has no text tower; "
    "CLAP_weights_2023.pth has one beside the same audio tower",
    "text_model.": "the text side alone of transformers' ClapModel",
    "audio.encoder.": "a CLAP of open_clip, whose layout is not read; its source in the layout of "
    "LAION-CLAP or transformers is",
}
