"""Similarity matrix of a checkpoint over the sounds that its run evaluates with."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reclap._types import Floats
from reclap.io.files import StrPath
from reclap.io.manifest import Row
from reclap.model.clap import Model
from reclap.model.loading import load as load_model
from reclap.training.evaluate import prompts_of, rows_of
from reclap.training.folder import BEST, LAST, RECIPE
from reclap.training.recipe import Recipe, load

__all__ = ["Similarity", "run_similarity"]


@dataclasses.dataclass(frozen=True, eq=False)
class Similarity:
    """Similarity matrix: cosines of sounds with texts.

    Parameters
    ----------
    matrix : ndarray of float32, shape (rows, columns)
        Cosines; of a label's sounds, their mean.
    rows : tuple of str
        What was heard: labels, or names of clips.
    columns : tuple of str
        What it was compared with: labels through their prompts, or captions. The right one of a
        row stands in the column of the same index.
    checkpoint : str
        Name of the checkpoint's folder.

    Examples
    --------
    >>> matrix = np.eye(2, dtype=np.float32)
    >>> Similarity(matrix, ("rain", "dog"), ("rain", "dog")).matrix.shape
    (2, 2)
    """

    matrix: Floats
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    checkpoint: str = ""


def run_similarity(
    run: StrPath, checkpoint: str = "", *, most: int = 40, threads: int | None = None
) -> Similarity:
    """Return the similarity matrix of a checkpoint over the sounds of ``[eval]``.

    Parameters
    ----------
    run : path
        Folder of a run; its ``recipe.json`` says which sounds.
    checkpoint : str
        Name of the checkpoint within it; ``best`` if there is one, else ``last``, by default.
    most : int
        Clips at most where there is no label, evenly chosen.
    threads : int, optional
        Most threads; all processors by default.

    Returns
    -------
    Similarity
        Labels with labels, or where `eval.label` is empty, or a column that is not there, clips
        with their first captions.

    Raises
    ------
    FileNotFoundError
        If there is no such run, checkpoint or sound.
    FormatError
        If a file is at fault.

    Examples
    --------
    >>> run_similarity("runs/first").matrix.shape  # doctest: +SKIP
    (10, 10)
    """
    run = Path(run)
    recipe = load(run / RECIPE)
    name = checkpoint or (BEST if (run / BEST).exists() else LAST)
    if not (run / name).is_dir():
        raise FileNotFoundError(f"{run / name}: no such checkpoint")
    rows = rows_of(recipe)
    model = load_model(run / name, threads=threads)
    if recipe.eval.label and all(recipe.eval.label in row.extra for row in rows):
        found = _of_labels(model, recipe, rows)
    else:
        found = _of_captions(model, rows, most)
    return dataclasses.replace(found, checkpoint=(run / name).resolve().name)


def _of_labels(model: Model, recipe: Recipe, rows: Sequence[Row]) -> Similarity:
    prompts = prompts_of(recipe, rows, model.config)
    labels, classes = model.class_vectors(prompts)
    sounds = model.embed_audio([row.sound for row in rows])
    truth = np.array([labels.index(row.extra[recipe.eval.label]) for row in rows])
    cosines = sounds @ classes.T
    matrix = np.stack([cosines[truth == i].mean(axis=0) for i in range(len(labels))])
    return Similarity(matrix, labels, labels)


def _of_captions(model: Model, rows: Sequence[Row], most: int) -> Similarity:
    chosen = np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int)
    rows = [rows[i] for i in chosen]
    captions = [row.captions[0].text for row in rows]
    sounds = model.embed_audio([row.sound for row in rows])
    matrix: Floats = sounds @ model.embed_text(captions).T
    return Similarity(matrix, tuple(row.path.stem for row in rows), tuple(captions))
