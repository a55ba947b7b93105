"""Retrieval between sounds and captions: recall and mean average precision."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from reclap._types import Floats
from reclap.runtime.libraries import core

__all__ = ["retrieval", "scores_of_ranks"]

_DEPTHS = (1, 5, 10)


def retrieval(
    context: core.Context, audio: Floats, text: Floats, captions: Sequence[Sequence[int]]
) -> dict[str, dict[str, float]]:
    """Return how well sounds find their captions, and captions their sounds.

    Parameters
    ----------
    context : core.Context
        Where ranks are computed.
    audio, text : ndarray of float32, shape (clips, dim) and (texts, dim)
        Embeddings of unit length; each text once, and a caption of at least one clip.
    captions : sequence of sequence of int
        Texts of each clip, at least one.

    Returns
    -------
    dict
        ``text_to_audio`` and ``audio_to_text``, each as `scores_of_ranks` tells it: a text that
        several clips share has several right answers, as a clip with several captions.
    """
    clips: list[list[int]] = [[] for _ in range(len(text))]
    for clip, texts in enumerate(captions):
        for i in texts:
            clips[i].append(clip)
    return {
        "text_to_audio": scores_of_ranks(core.ranks(context, text, audio, _padded(clips))),
        "audio_to_text": scores_of_ranks(core.ranks(context, audio, text, _padded(captions))),
    }


def scores_of_ranks(ranks: npt.NDArray[np.int32]) -> dict[str, float]:
    """Return recall at 1, 5 and 10, and the mean average precision at 10.

    Parameters
    ----------
    ranks : ndarray of int32, shape (queries, m)
        Ranks of each query's right answers, from 1, in any order; 0 for none.

    Returns
    -------
    dict
        ``R@k``, the share of queries with a right answer among the first k; ``mAP@10``, the mean
        of the precision at each right answer among the first 10, a right answer that is not there
        counting 0 (of at most 10; with one right answer: 1 / rank).

    Examples
    --------
    >>> scores_of_ranks(np.array([[1, 0], [4, 2]], np.int32))
    {'R@1': 0.5, 'R@5': 1.0, 'R@10': 1.0, 'mAP@10': 0.75}
    """
    there = np.sort(np.where(ranks > 0, ranks, np.iinfo(np.int32).max), axis=1)
    precision = np.arange(1, there.shape[1] + 1) / there
    count = np.minimum((ranks > 0).sum(axis=1), _DEPTHS[-1])
    average = np.where(there <= _DEPTHS[-1], precision, 0).sum(axis=1) / count
    found = {f"R@{k}": float((there[:, 0] <= k).mean()) for k in _DEPTHS}
    return found | {"mAP@10": float(average.mean())}


def _padded(lists: Sequence[Sequence[int]]) -> npt.NDArray[np.int32]:
    """Return lists of indices as one array, filled up with -1."""
    filled = np.full((len(lists), max(map(len, lists))), -1, np.int32)
    for row, several in zip(filled, lists, strict=True):
        row[: len(several)] = several
    return filled
