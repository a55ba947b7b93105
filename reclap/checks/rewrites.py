"""Checks of rewritten captions: same sources, order and relations."""

import functools
from collections.abc import Sequence

from reclap.checks.compare import compare
from reclap.checks.finding import Finding
from reclap.checks.form import check_form, is_readable
from reclap.checks.similarity import Sense

__all__ = ["check_rewrite", "check_rewrites"]

_MEANING = 0.2  # cosine of sentence embeddings below which two captions have nothing in common


def check_rewrite(caption: str, rewrite: str, *, sense: Sense | None = None) -> list[Finding]:
    """Check a rewrite against the caption that it replaces.

    Parameters
    ----------
    caption : str
        The original, by a person.
    rewrite : str
        The text of a language model.
    sense : Sense, optional
        Similarity of meaning; for many pairs see `check_rewrites`.

    Returns
    -------
    list of Finding
        Empty for a good one.

    Examples
    --------
    >>> check_rewrite("A dog barks", "A hound lets out sharp, gruff barks.")
    []
    """
    return check_rewrites([(caption, rewrite)], sense=sense)[0]


def check_rewrites(
    pairs: Sequence[tuple[str, str]], *, sense: Sense | None = None
) -> list[list[Finding]]:
    """Check many rewrites at once; see `check_rewrite`.

    Parameters
    ----------
    pairs : sequence of (str, str)
        Captions and their rewrites.
    sense : Sense, optional
        Similarity in meaning; asked once for all pairs.

    Returns
    -------
    list of list of Finding
        Faults of each pair.

    Examples
    --------
    >>> pairs = [("A dog barks", "A hound barks gruffly."), ("Rain falls", "A dog barks at night.")]
    >>> [[finding.check for finding in found] for found in check_rewrites(pairs)]
    [[], ['lost', 'invented']]
    """
    found = [_check(caption, rewrite) for caption, rewrite in pairs]
    if sense is not None:
        _add_meaning(pairs, found, sense)
    return found


def _check(caption: str, rewrite: str) -> list[Finding]:
    own = check_form(rewrite, "rewrite")
    given = _check_caption(caption)
    if not is_readable(own) or not is_readable(given):
        return own
    faults = {f.check for f in given} - {"length"}
    own = [f for f in own if f.check not in faults]  # the caption is no better
    return [*own, *compare(caption, rewrite)]


@functools.lru_cache(1024)
def _check_caption(caption: str) -> list[Finding]:
    return check_form(caption, "rewrite")


def _add_meaning(
    pairs: Sequence[tuple[str, str]], found: list[list[Finding]], sense: Sense
) -> None:
    """Compare the meaning of the pairs that can be read."""
    asked = [
        i
        for i, (caption, _) in enumerate(pairs)
        if is_readable(found[i]) and is_readable(_check_caption(caption))
    ]
    if not asked:
        return
    left = sense.rows([pairs[i][0] for i in asked])
    right = sense.rows([pairs[i][1] for i in asked])
    for i, score in zip(asked, (left * right).sum(axis=1), strict=True):
        if score < _MEANING:
            found[i].append(Finding("meaning", f"similarity {score:.2f} with the caption"))
