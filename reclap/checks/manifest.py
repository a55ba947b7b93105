"""Checks of all rewrites of a manifest."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from reclap.checks.report import Flagged, Report
from reclap.checks.rewrites import check_rewrites
from reclap.checks.similarity import Sense
from reclap.io import manifest
from reclap.io.files import StrPath

__all__ = ["check_manifest"]

_BATCH = 4096  # rewrites in one call of the checks


def check_manifest(path: StrPath, sense: Sense | None = None) -> Report:
    """Check all rewrites of a manifest; only those with findings are kept in memory.

    Parameters
    ----------
    path : path
        CSV, JSON lines or Parquet with captions and ``rewrites``.
    sense : Sense, optional
        Similarity in meaning; without it only words are compared.

    Returns
    -------
    Report
        Rewrites with findings, by their captions.

    Raises
    ------
    OSError
        If a file cannot be read.
    FormatError
        Naming file and line of a bad row.

    Examples
    --------
    >>> _ = Path("captions.jsonl").write_text(
    ...     '{"caption": "A dog barks", "rewrites": ["A hound barks gruffly.", "A cat meows."]}'
    ... )
    >>> report = check_manifest("captions.jsonl")
    >>> report.texts, [item.text for item in report.fatal]
    (2, ['A cat meows.'])
    """
    flagged, count = [], 0
    remaining = _pairs(Path(path))
    while pairs := list(itertools.islice(remaining, _BATCH)):
        count += len(pairs)
        results = check_rewrites(pairs, sense=sense)
        for (caption, rewrite), found in zip(pairs, results, strict=True):
            if found:
                flagged.append(Flagged(caption, "rewrite", rewrite, tuple(found)))
    return Report(os.fspath(path), count, tuple(flagged))


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    """Yield captions and their rewrites, row by row."""
    shared = manifest.SharedCaptions(path.parent)
    for line, item in manifest.items(path):
        for caption in manifest.take_captions(f"{path}:{line}", item, shared):
            yield from ((caption.text, rewrite) for rewrite in caption.rewrites)
