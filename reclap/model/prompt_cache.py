"""Cache of prompt embeddings, by the digest of the text tower."""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from reclap._types import Floats
from reclap.errors import FormatError, ReclapError
from reclap.io.cache_dir import cache_folder, prune
from reclap.model.batching import batches
from reclap.prompts.bank import PromptBank
from reclap.runtime.progress import bar
from reclap.store import SUFFIX, Header, Store, Writer

__all__ = ["Encoder", "PromptEmbeddings"]

log = logging.getLogger(__name__)


IN_MEMORY = 8  # banks and lists of one model in memory
BLOCK = 256  # prompts of a list that goes into the cache folder, and of a block that is kept
MAX_BYTES = 10**9  # bytes of all embeddings of prompts in the cache folder


class Encoder(Protocol):
    """A `Model`, as far as the cache needs it."""

    @property
    def text_digest(self) -> str:
        """Equal digests give equal embeddings of texts."""

    def embed_text(self, texts: Sequence[str]) -> Floats:
        """Return unit-length embeddings."""


class PromptEmbeddings:
    """Cache of prompt embeddings: recent banks in memory, large ones in the cache folder.

    Every bank goes into the folder, and lists of `BLOCK` prompts or more: below it embedding takes
    less than the digest of a model. A store (``docs/store.md``) of each model holds its prompts,
    appended block by block. Processes may share the folder: while one writes, others keep nothing.
    A store that cannot be read is rebuilt, one that cannot be written is not used; both are
    logged. Beyond `MAX_BYTES` bytes the stores that were used least recently are removed.
    """

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, Floats]] = {}

    def embed(
        self,
        model: Encoder,
        texts: Sequence[str],
        bank: PromptBank | None = None,
        *,
        progress: bool,
    ) -> Floats:
        """Return the embeddings (texts, dim) of a list, or of some prompts in use of a bank."""
        if bank is None:
            key, whole = _digest(texts), list(texts)
        else:
            key = bank.digest
            whole = [text for group in bank.prompts().values() for text in group]
        by_text = self._kept.get(key)
        if by_text is None:
            unique = list(dict.fromkeys(whole))  # equal texts have equal embeddings
            if bank is None and len(unique) < BLOCK:
                by_text = dict(zip(unique, model.embed_text(unique), strict=True))
            else:
                by_text = _stored(model, unique, progress=progress)
            kept = [*self._kept.items(), (key, by_text)][-IN_MEMORY:]
            self._kept = dict(kept)  # a new one, because other threads may look at the old
        return np.stack([by_text[text] for text in texts])


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()


def _stored(model: Encoder, texts: list[str], *, progress: bool) -> dict[str, Floats]:
    """Return embeddings by text, from the cache folder where they are there."""
    path = None
    try:
        path = cache_folder() / "prompts" / f"{model.text_digest}{SUFFIX}"
    except RuntimeError as error:
        log.warning("embeddings of prompts are not cached: %s", error)
    found, damaged = _read(path, texts) if path else ({}, False)
    missing = [text for text in texts if text not in found]
    shown = bar(len(missing), "prompt", shown=progress and bool(missing))
    with shown, contextlib.closing(_CacheWriter(model, path, damaged=damaged)) as writer:
        for part in batches(missing, BLOCK):
            embeddings = model.embed_text(part)
            writer.append(embeddings, part)
            found |= zip(part, embeddings, strict=True)
            shown.update(len(part))
    return found


def _read(path: Path, texts: Sequence[str]) -> tuple[dict[str, Floats], bool]:
    """Return the embeddings of cached texts, and whether the store is damaged."""
    try:
        store = Store(path)
        store.verify()
        if store.header.dtype != np.float32:
            raise FormatError(f"{path}: {store.header.describe()}")
        wanted = set(texts)
        embeddings = {
            text: np.array(store.rows[i]) for i, text in enumerate(store.items) if text in wanted
        }
        os.utime(path)  # used, see `reclap.io.cache_dir.prune`
    except FileNotFoundError:
        return {}, False
    except (OSError, FormatError) as error:
        log.warning("the cache is rebuilt: %s", error)
        return {}, True
    return embeddings, False


class _CacheWriter:
    """Writer of the store of a model, as long as it can be written."""

    def __init__(self, model: Encoder, path: Path | None, *, damaged: bool) -> None:
        self._model, self._path, self._damaged = model, path, damaged
        self._writer: Writer | None = None

    def append(self, embeddings: Floats, texts: list[str]) -> None:
        """Append embeddings."""
        if self._path is None:
            return
        try:
            if self._writer is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                header = Header(self._model.text_digest, embeddings.shape[1], "text")
                self._writer = Writer(self._path, header, force=self._damaged)
            self._writer.append(embeddings, texts)
        except (OSError, ReclapError) as error:
            log.warning("embeddings of prompts are not cached: %s", error)
            self._path = None

    def close(self) -> None:
        """Flush the store, and prune the cache folder."""
        if self._writer is not None:
            try:
                self._writer.close()
                prune(self._writer.path.parent, MAX_BYTES)
            except OSError as error:
                log.warning("embeddings of prompts are not cached: %s", error)
