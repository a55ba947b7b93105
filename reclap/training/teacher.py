"""Embeddings of a teacher, which a student learns from, kept in the folder of a run."""

import itertools
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reclap._types import Floats
from reclap.errors import Errors, FormatError
from reclap.io.excerpts import Excerpt
from reclap.io.manifest import Row
from reclap.model.clap import Model
from reclap.runtime.progress import bar as progress_bar
from reclap.store import Header, Store
from reclap.training.captions import Captions, fill_blocks

__all__ = ["Teacher"]

_BLOCK = 64  # sounds that are embedded together
SOUNDS, TEXTS = "teacher-sounds.store", "teacher-texts.store"


class Teacher:
    """Embeddings of a model for the sounds and texts of a run.

    Parameters
    ----------
    model : Model
        The teacher; its width may be another than the student's.
    rows : sequence of Row
        Rows of the manifest. Their sounds are embedded whole and as they are, without augmentation,
        once.
    texts : sequence of str
        Known texts, embedded once; others are embedded when they come.
    folder : Path
        Folder of the run, for two stores.
    errors : {"raise", "skip"}
        Effect of an unreadable sound: an exception, here or when a batch has it.
    progress : bool
        Show progress bars.

    Attributes
    ----------
    log_scale : float
        Logarithm of the teacher's factor from cosines to logits.
    width : int
        Width of its embeddings.

    Raises
    ------
    OSError, FormatError
        If a sound cannot be read.
    """

    def __init__(
        self,
        model: Model,
        rows: Sequence[Row],
        texts: Sequence[str],
        folder: Path,
        *,
        errors: Errors = "raise",
        progress: bool,
    ) -> None:
        self.log_scale, self.width = math.log(model.logit_scale), model.config.dim
        self._texts = Captions(_TextSide(model), texts, folder / TEXTS, progress=progress)
        sounds: dict[str, Path | Excerpt] = {name_of(row): row.sound for row in rows}
        names, path = list(sounds), folder / SOUNDS

        def embed(block: Sequence[str]) -> Floats:
            found = model.embed_audio([sounds[name] for name in block], errors=errors)
            return np.nan_to_num(found)  # a store holds finite rows; 0 is no embedding

        header = Header(model.digest, self.width, "audio embeddings", model.config.name)
        with progress_bar(len(names), "teacher", shown=progress) as bar:
            fill_blocks(path, header, names, _BLOCK, embed, bar)
        store = Store(path)
        at = dict(zip(store.items, itertools.count()))
        self._sounds: Floats = store.rows
        self._of_row = np.array([at[name_of(row)] for row in rows])
        self._rows = rows

    def __call__(
        self, rows: Sequence[tuple[int, ...]], texts: Sequence[str]
    ) -> tuple[Floats, Floats]:
        """Return the embeddings of clips, by their rows of the manifest, and of texts."""
        first = [row[0] for row in rows]
        sounds = np.ascontiguousarray(self._sounds[self._of_row[first]])
        for row, sound in zip(first, sounds, strict=True):
            if not sound.any():
                error = FormatError("the teacher could not read it")
                raise FormatError(self._rows[row].fault(error))
        return sounds, self._texts(texts)


class _TextSide:
    """A whole model in place of the text encoder of `Captions`."""

    def __init__(self, model: Model) -> None:
        self.digest, self.width, self.name = model.digest, model.config.dim, model.config.name
        self.features = model.embed_text


def name_of(row: Row) -> str:
    """Return the name of a row's sound in the store: its file, and which part of it."""
    excerpt, file = row.excerpt, os.fspath(row.path)
    return file if excerpt is None else f"{file} {excerpt.start!r} {excerpt.seconds!r}"
