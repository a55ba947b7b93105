"""Draws of prompts, the same on any machine."""

import hashlib
from collections.abc import Mapping, Sequence

__all__ = ["sample"]


def sample(prompts: Mapping[str, Sequence[str]], n: int = 2, seed: int = 0) -> dict[str, list[str]]:
    """Draw prompts of each label without replacement.

    Parameters
    ----------
    prompts : mapping of str to list of str
        All prompts of each label.
    n : int
        Number of prompts of each label; ReCLAP (arXiv 2409.09213) found 2 best.
    seed : int
        Seed of the draw; equal seeds draw equally on any machine. The draw of a label does not
        depend on other labels, and a larger `n` extends the draw of a smaller one.

    Returns
    -------
    dict of str to list of str
        Texts by label.

    Raises
    ------
    ValueError
        If `n` is below 1, or a label has fewer prompts.
    """
    if n < 1:
        raise ValueError(f"prompts of each label: {n}, expected at least 1")
    few = [f"{label!r} has {len(texts)}" for label, texts in prompts.items() if len(texts) < n]
    if few:
        raise ValueError(f"{n} prompts of each label wanted, but {', '.join(few)}")
    return {
        label: [texts[i] for i in _order(len(texts), label, seed)[:n]]
        for label, texts in prompts.items()
    }


def _order(count: int, label: str, seed: int) -> list[int]:
    """Return a random order as a pure function, so that no library's generator can change it."""
    return sorted(
        range(count), key=lambda i: hashlib.sha256(f"{seed}\0{label}\0{i}".encode()).digest()
    )
