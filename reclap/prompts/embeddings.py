"""Embeddings of prompt banks, kept by the digests of model and bank."""

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

__all__ = ["BankEmbeddings", "Encoder"]

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]

KEPT = 8  # banks of one model in memory


class Encoder(Protocol):
    """What embeds: a `Model`."""

    @property
    def text_digest(self) -> str:
        """Equal digests give equal embeddings of texts."""

    def embed_text(self, texts: Sequence[str]) -> Floats:
        """Return unit rows."""


class BankEmbeddings:
    """Embeddings of the prompts of banks: the last ones in memory, all in the cache folder.

    A file is written under a temporary name and renamed, so processes may share the folder: at
    worst two of them make the same file. One that cannot be read is made anew, one that cannot be
    written is done without; both are logged.
    """

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, Floats]] = {}

    def rows(self, model: Encoder, bank: PromptBank, texts: Sequence[str]) -> Floats:
        """Return the embeddings (texts, dim) of some prompts in use of a bank."""
        by_text = self._kept.get(bank.digest) or self._keep(model, bank)
        return np.stack([by_text[text] for text in texts])

    def _keep(self, model: Encoder, bank: PromptBank) -> dict[str, Floats]:
        # Each text once: equal texts have equal embeddings.
        texts = list(dict.fromkeys(t for group in bank.prompts().values() for t in group))
        by_text = dict(zip(texts, _stored(model, bank, texts), strict=True))
        kept = [*self._kept.items(), (bank.digest, by_text)][-KEPT:]
        self._kept = dict(kept)  # a new one, because other threads may look at the old
        return by_text


def _stored(model: Encoder, bank: PromptBank, texts: list[str]) -> Floats:
    """Return embeddings from the cache folder, or make and store them."""
    try:
        path = cache_folder() / "prompts" / f"{model.text_digest}-{bank.digest}.safetensors"
    except RuntimeError as error:
        log.warning("embeddings of prompts are not kept: %s", error)
        return model.embed_text(texts)
    rows = _read(path, len(texts))
    if rows is None:
        rows = model.embed_text(texts)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            checkpoint.write_tensors(path, {"embeddings": rows}, {"bank": bank.name})
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
