"""Pieces of a batch: how many clips go through the towers at a time, by the memory there is."""

import dataclasses
import math

import numpy as np
import numpy.typing as npt

from reclap._types import Floats
from reclap.errors import ReclapError
from reclap.runtime.libraries import core
from reclap.training.tokens import Tokens

__all__ = ["Memory", "Whole", "gradients", "plan"]

_SHARE = 0.9  # of the available memory, of which others need some, too


@dataclasses.dataclass(frozen=True)
class Memory:
    """Memory that training needs, and the pieces that batches come in.

    Attributes
    ----------
    batch, piece : int
        Clips of a batch, and of a piece; equal where batches stay whole.
    buffers : int
        Bytes of weights, gradients and moments.
    scratch : int
        Bytes of activations of a piece, and of the loss.
    """

    batch: int
    piece: int
    buffers: int
    scratch: int

    def __str__(self) -> str:
        """Say it in words."""
        count = -(-self.batch // self.piece)
        whole = f"a batch of {self.batch}"
        cut = whole if count == 1 else f"{whole} in {count} pieces of at most {self.piece}"
        return (
            f"memory: {_gib(self.buffers)} for weights, gradients and moments, "
            f"{_gib(self.scratch)} for activations of {cut}"
        )


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.1f} MiB"


def plan(
    trainer: core.Trainer,
    batch: int,
    frames: int,
    texts: int,
    longest: int,
    *,
    piece: int = 0,
    available: int | None = None,
) -> Memory:
    """Choose the largest pieces whose activations fit into the available memory.

    Parameters
    ----------
    trainer : core.Trainer
        The trainer, whose buffers are there already.
    batch, texts : int
        Clips and texts of a batch.
    frames : int
        Frames of a log-mel.
    longest : int
        Most tokens of a text; 0 where features of texts are given.
    piece : int
        Clips of a piece; 0: as many as fit.
    available : int, optional
        Bytes that may be taken; None: any.

    Returns
    -------
    Memory
        The plan.

    Raises
    ------
    ReclapError
        If the pieces do not fit, or not even one clip does; says what is needed.
    """
    each = -(-texts // batch)  # texts of a clip
    wanted = [min(piece, batch)] if piece else _sizes(batch)
    for size in wanted:
        n = texts if size == batch else size * each
        loss = (batch, texts)
        whole = loss if size == batch else (0, 0)
        scratch, buffers = trainer.measure(size, frames, n, n * longest, longest, *whole)
        if size < batch:
            scratch = max(scratch, trainer.measure(0, 0, 0, 0, 0, *loss)[0])
        found = Memory(batch, size, buffers, scratch)
        if available is None or scratch <= _SHARE * available:
            return found
    raise ReclapError(
        f"{found}, but {_gib(available or 0)} are free: a smaller model, frozen parts, LoRA, "
        "shorter clips or fewer texts a clip need less"
    )


def _sizes(batch: int) -> list[int]:
    """Return the sizes of pieces to try: the batch cut into 1, 2, 3, 4, 6, 8, 12 ... parts."""
    parts, k = [1, 2, 3], 4
    while k < 2 * batch:
        parts += [k, k + k // 2]
        k *= 2
    return list(dict.fromkeys(-(-batch // n) for n in parts))


@dataclasses.dataclass(frozen=True, eq=False)
class Whole:
    """A batch that comes in pieces.

    Attributes
    ----------
    mel : ndarray of float32
        Log-mels.
    features : ndarray of float32 or Tokens
        Texts, as the trainer takes them.
    owner, role : ndarray of int32, optional
        Clip of each text, and what it is to it; see `reclap.training.data.Batch`.
    longer : ndarray of bool, optional
        Clips of which all log-mels of fusion count.
    teacher : tuple of ndarray of float32, optional
        A teacher's embeddings of the clips and of the texts.
    """

    mel: Floats
    features: Floats | Tokens
    owner: npt.NDArray[np.int32] | None = None
    role: npt.NDArray[np.int32] | None = None
    longer: npt.NDArray[np.bool_] | None = None
    teacher: tuple[Floats, Floats] | None = None

    def ordered(self) -> "Whole":
        """Return the batch with its texts in the order of their clips."""
        owner, features, role = self.owner, self.features, self.role
        if owner is None or (np.diff(owner) >= 0).all():
            return self
        order = np.argsort(owner, kind="stable")
        texts = features.take(order) if isinstance(features, Tokens) else features[order]
        role = None if role is None else role[order]
        teacher = self.teacher and (self.teacher[0], self.teacher[1][order])
        return dataclasses.replace(
            self, features=texts, owner=owner[order], role=role, teacher=teacher
        )

    def pieces(self, size: int) -> "list[_Piece]":
        """Return the pieces of `size` clips each, the last one smaller; texts are `ordered`."""
        n, found = len(self.mel), []
        of = np.arange(n, dtype=np.int32) if self.owner is None else self.owner
        for a in range(0, n, size):
            b = min(a + size, n)
            c, d = (int(i) for i in np.searchsorted(of, [a, b]))
            texts = self.features
            texts = texts.part(c, d) if isinstance(texts, Tokens) else texts[c:d]
            longer = None if self.longer is None else self.longer[a:b]
            found.append(_Piece(self.mel[a:b], texts, longer, slice(a, b), slice(c, d)))
        return found


@dataclasses.dataclass(frozen=True, eq=False)
class _Piece:
    mel: Floats
    features: Floats | Tokens
    longer: npt.NDArray[np.bool_] | None
    clips: slice
    texts: slice


def gradients(trainer: core.Trainer, whole: Whole, size: int, seed: int, step: int) -> float:
    """Leave the gradients of a batch in the trainer, piece by piece, and return its loss.

    They are those of the batch at once: random draws know their clip, the input norm works with
    the statistics of the whole batch. Deeper batch norms see their piece.

    Parameters
    ----------
    trainer : core.Trainer
        The trainer.
    whole : Whole
        The batch, its texts `ordered`.
    size : int
        Clips of a piece.
    seed, step : int
        Seed of the run, and step: what draws depend on.

    Returns
    -------
    float
        The loss.

    Raises
    ------
    ValueError
        If the loss is not finite.

    References
    ----------
    Gao et al. 2021, Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup
    (GradCache), arXiv 2101.06983.
    """
    parts = whole.pieces(size)
    for part in parts:
        trainer.moments(part.mel, part.longer, first=part.clips.start == 0)
    made = []
    for part in parts:
        a, c = part.clips.start, part.texts.start
        found = trainer.embed(part.mel, part.features, seed, step, a, part.longer, c)
        made.append(found)
    audio, text = (np.concatenate(x) for x in zip(*made, strict=True))
    loss, da, dt = trainer.loss(audio, text, whole.owner, whole.role, whole.teacher)
    if not math.isfinite(loss):
        raise ValueError(f"step {step}: loss {loss:g} is not finite; no update")
    for part in parts:
        a, c = part.clips.start, part.texts.start
        ways = da[part.clips], dt[part.texts]
        trainer.backward(*ways, part.mel, part.features, seed, step, a, part.longer, c)
    return loss
