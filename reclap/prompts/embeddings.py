"""Embeddings of prompts, kept by the digests of model and of bank or list."""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from reclap import checkpoint
from reclap.caching import cache_folder
from reclap.errors import FormatError
from reclap.prompts.bank import PromptBank

__all__ = ["Encoder", "PromptEmbeddings"]

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]

KEPT = 8  # banks and lists of one model in memory
STORED = 256  # prompts of a list that goes into the cache folder


class Encoder(Protocol):
    """What embeds: a `Model`."""

    @property
    def text_digest(self) -> str:
        """Equal digests give equal embeddings of texts."""

    def embed_text(self, texts: Sequence[str]) -> Floats:
        """Return unit rows."""


class PromptEmbeddings:
    """Embeddings of prompts: the last banks and lists in memory, what is large in the cache folder.

    Every bank goes into the folder, and lists of `STORED` prompts or more: below it embedding takes
    less than the digest of a model. A file is written under a temporary name and renamed, so
    processes may share the folder: at worst two of them make the same file. One that cannot be
    read is made anew, one that cannot be written is done without; both are logged.
    """

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, Floats]] = {}

    def rows(self, model: Encoder, texts: Sequence[str], bank: PromptBank | None = None) -> Floats:
        """Return the embeddings (texts, dim) of a list, or of some prompts in use of a bank."""
        if bank is None:
            name, key, whole = "", _digest(texts), list(texts)
        else:
            whole = [text for group in bank.prompts().values() for text in group]
            name, key = bank.name, bank.digest
        by_text = self._kept.get(key)
        if by_text is None:
            unique = list(dict.fromkeys(whole))  # equal texts have equal embeddings
            if bank is None and len(unique) < STORED:
                rows = model.embed_text(unique)
            else:
                rows = _stored(model, name, key, unique)
            by_text = dict(zip(unique, rows, strict=True))
            kept = [*self._kept.items(), (key, by_text)][-KEPT:]
            self._kept = dict(kept)  # a new one, because other threads may look at the old
        return np.stack([by_text[text] for text in texts])


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()


def _stored(model: Encoder, name: str, key: str, texts: list[str]) -> Floats:
    """Return embeddings from the cache folder, or make and store them."""
    try:
        path = cache_folder() / "prompts" / f"{model.text_digest}-{key}.safetensors"
    except RuntimeError as error:
        log.warning("embeddings of prompts are not kept: %s", error)
        return model.embed_text(texts)
    rows = _read(path, len(texts))
    if rows is None:
        rows = model.embed_text(texts)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            checkpoint.write_tensors(path, {"embeddings": rows}, {"bank": name})
        except OSError as error:
            log.warning("embeddings of prompts are not kept: %s", error)
    return rows


def _read(path: Path, count: int) -> Floats | None:
    try:
        stored = checkpoint.read_tensors(path).get("embeddings")
    except FileNotFoundError:
        return None
    except (OSError, FormatError) as error:
        log.warning("made anew: %s", error)
        return None
    if stored is None or stored.dtype != np.float32 or stored.shape[:1] != (count,):
        log.warning("made anew: %s does not hold %d embeddings", path, count)
        return None
    return np.array(stored, np.float32)
