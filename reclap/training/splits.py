"""Splits of a recipe: the rows that train, and those that evaluate."""

from collections.abc import Iterable
from pathlib import Path

from reclap.datasets.splits import Split
from reclap.io.files import StrPath
from reclap.training.recipe import load

__all__ = ["recipe_splits"]


def recipe_splits(
    path: StrPath, overrides: Iterable[str] = (), *, name: str = "", root: StrPath | None = None
) -> list[Split]:
    r"""Return the splits of a recipe, for `reclap.datasets.audit` and its siblings.

    Parameters
    ----------
    path : path
        The recipe, a TOML file.
    overrides : iterable of str
        ``section.key=value``, as for `reclap.training.load`.
    name : str
        Name before those of the splits, with a slash; that of the file by default.
    root : path, optional
        Folder that relative sound paths start from, in place of the recipe's.

    Returns
    -------
    list of Split
        ``train``, and ``eval`` if the recipe evaluates.

    Raises
    ------
    FileNotFoundError, FormatError
        As `reclap.training.load`.

    Examples
    --------
    >>> text = '[data]\nmanifest = "a.csv"\n[run]\nsteps = 9\n[eval]\nevery = 3\nmanifest = "b.csv"'
    >>> _ = Path("try.toml").write_text(text)
    >>> [split.name for split in recipe_splits("try.toml")]
    ['try/train', 'try/eval']
    """
    recipe = load(path, overrides)
    title = name or Path(path).stem
    folder = root or recipe.data.root or None
    data, part = recipe.data, recipe.eval
    found = [Split(f"{title}/train", data.manifest, folder, data.where)]
    if part.every:
        own = part.manifest or data.manifest
        found.append(Split(f"{title}/eval", own, folder, part.where))
    return found
