"""Download from the Hugging Face hub, by the ``huggingface_hub`` package (extra ``hub``).

A hub id is ``hf:org/name`` for a folder (of transformers' ClapModel or of ours), and
``hf:org/name:FILE`` for a file of tensors in it, such as ``hf:org/name:sub/model.pt``. The same
without ``hf:`` could be a path with a typing error, so it is taken for one where its first part is
a local folder, and announced otherwise before anything is fetched. What is downloaded once stays in
the package's cache. Nothing here touches the network before a hub id is asked for.
"""

import logging
import os
import re
from pathlib import Path

from reclap.checkpoints import model_folder
from reclap.errors import ReclapError, needs, one_line
from reclap.io.files import StrPath
from reclap.text.tokenizer import TOKENIZERS

__all__ = ["OFFLINE", "PREFIX", "is_hub_id", "locate"]

log = logging.getLogger(__name__)

PREFIX = "hf:"

OFFLINE = "RECLAP_OFFLINE"  # environment: anything but empty and 0 forbids network connections

_PART = r"\w[\w.-]*"
_ID = re.compile(rf"({_PART}/{_PART})(?::({_PART}(?:/{_PART})*))?", re.ASCII)
_TEXTS = (*TOKENIZERS, "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
_FOLDER = (
    model_folder.CONFIG,
    model_folder.MODEL,
    f"{model_folder.MODEL}.index.json",
    "model-*-of-*.safetensors",
    model_folder.TEXT,
    "preprocessor_config.json",
    "processor_config.json",
    *_TEXTS,
)
_OTHER_WEIGHTS = (  # taken where there is no model.safetensors
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "pytorch_model-*-of-*.bin",
    "model.fp16.safetensors",
)


def is_hub_id(name: StrPath) -> bool:
    """Tell whether a name is, or without ``hf:`` can be, a hub id.

    Without it a name that exists as a path is none, nor one in a local folder, nor
    ``folder/model.pt``: most likely a path with a typing error, which is nobody else's business.
    """
    if not isinstance(name, str):
        return False
    if name.startswith(PREFIX):
        return True
    found = _ID.fullmatch(name)
    if found is None or Path(found[1]).suffix in model_folder.TENSOR_FILES:
        return False
    return not Path(name).exists() and not Path(found[1]).parent.exists()


def locate(name: str, revision: str | None = None, *, offline: bool = False) -> Path:
    """Return the local folder or file of a hub id, downloading what is needed of it.

    Parameters
    ----------
    name : str
        ``hf:org/name`` or ``hf:org/name:FILE``; without ``hf:`` it is announced by a warning.
    revision : str, optional
        Branch, tag or commit; the newest of the default branch without.
    offline : bool
        Look into the local cache only; so does ``RECLAP_OFFLINE=1`` in the environment.

    Returns
    -------
    Path
        In the cache; its folder is named by the commit.

    Raises
    ------
    FileNotFoundError
        If the hub, or offline the cache, does not hold it.
    MissingDependencyError
        If ``huggingface_hub`` is not installed.
    ReclapError
        If the hub refuses.
    """
    found = _ID.fullmatch(name.removeprefix(PREFIX))
    if found is None:
        raise ValueError(f"hub id is {name!r}, expected hf:org/name or hf:org/name:FILE")
    repository, file = found.groups()
    offline = offline or os.environ.get(OFFLINE, "") not in ("", "0")
    if not offline and not name.startswith(PREFIX):
        log.warning(
            "no such path: %s; asking the Hugging Face hub for it (%s%s says so)",
            name,
            PREFIX,
            name,
        )
    wanted = _FOLDER if file is None else (file, *(str(Path(file).with_name(n)) for n in _TEXTS))
    folder = _snapshot(repository, revision, wanted, offline=offline)
    newer = (model_folder.MODEL, f"{model_folder.MODEL}.index.json")
    if file is None and not any((folder / name).exists() for name in newer):
        folder = _snapshot(repository, revision, _OTHER_WEIGHTS, offline=offline)
    path = folder if file is None else folder / file
    if not path.exists() or (file is None and not (path / model_folder.CONFIG).exists()):
        where = "the local cache of the hub (offline)" if offline else "the hub"
        raise FileNotFoundError(f"{name}: {where} has no {file or model_folder.CONFIG} of it")
    return path


def _snapshot(
    repository: str, revision: str | None, patterns: tuple[str, ...], *, offline: bool
) -> Path:
    with needs("huggingface_hub", f"no model named or at {repository!r}; the hub", "hub"):
        import huggingface_hub
    try:
        folder = huggingface_hub.snapshot_download(
            repository,
            revision=revision,
            allow_patterns=list(patterns),
            local_files_only=offline,
        )
    except FileNotFoundError as error:
        at = f" at revision {revision}" if revision else ""
        why = "offline" if offline else "the Hugging Face hub cannot be reached"
        raise FileNotFoundError(
            f"no model named or at {repository!r}; as a hub id: {why}, and its cache does not "
            f"hold it{at}"
        ) from error
    except Exception as error:  # the hub's answer, or the transport's, whose kinds vary by version
        raise ReclapError(f"{repository}: {one_line(error)}") from error
    return Path(folder)
