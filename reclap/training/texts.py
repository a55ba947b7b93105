"""Texts of a batch: captions, further positives and hard negatives, drawn by seed."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from reclap.errors import FormatError
from reclap.io.manifest import Caption, Row
from reclap.training import augment
from reclap.training.augment import Augment
from reclap.training.rng import POOL, generator
from reclap.training.sections import Data

__all__ = ["NEGATIVE", "OWN", "SHARED", "ClipTexts", "TextDraws", "joined"]

SHARED, OWN, NEGATIVE = range(3)  # roles, as csrc/train/loss.h counts them


@dataclasses.dataclass(frozen=True)
class ClipTexts:
    """Texts of one clip.

    Attributes
    ----------
    caption : str
        Its caption.
    others : tuple of str
        Further captions, positives that all clips see.
    modules : tuple of str
        Texts of its parts, positives that it alone sees.
    negatives : tuple of str
        Hard negatives, which it alone sees.
    """

    caption: str
    others: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()


def joined(
    clips: Sequence[ClipTexts],
) -> tuple[tuple[str, ...], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return the texts of a batch, the clip of each, and its role.

    The captions of all clips come first, in their order; then the other texts clip by clip.
    """
    found = [(clip.caption, i, SHARED) for i, clip in enumerate(clips)]
    for i, clip in enumerate(clips):
        found += [(text, i, SHARED) for text in clip.others]
        found += [(text, i, OWN) for text in clip.modules]
        found += [(text, i, NEGATIVE) for text in clip.negatives]
    texts, owner, role = zip(*found, strict=True)
    return texts, np.array(owner, np.int32), np.array(role, np.int32)


class TextDraws:
    """Draws of texts for clips and mixtures.

    Parameters
    ----------
    rows : sequence of Row
        See `reclap.io.manifest.read`.
    data, how : Data, Augment
        How many texts of each kind; composition of mixtures.
    members : sequence of sequence of int
        Rows of each group.
    seed : int
        Seed of the run.

    Raises
    ------
    FormatError
        If texts are asked for that no row has.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        data: Data,
        how: Augment,
        members: Sequence[Sequence[int]],
        seed: int,
    ) -> None:
        self.rows, self.data, self.how, self.seed = rows, data, how, seed
        self._members = members
        self._group_of: Mapping[int, int] = {
            row: group for group, among in enumerate(members) for row in among
        }
        self._check()

    def _check(self) -> None:
        for name in ("negatives", "modules"):
            count = getattr(self.data, name)
            has_some = any(getattr(c, name) for row in self.rows for c in row.captions)
            if count and not has_some and not self.data.mixtures:
                raise FormatError(
                    f"data.{name} is {count}: no row of the manifest has any; they stand in a "
                    f"column {name} (and mixtures have some)"
                )

    # ---- Of one clip ---------------------------------------------------------------------------

    def of_clip(self, rng: np.random.Generator, more: np.random.Generator, row: int) -> ClipTexts:
        """Draw the texts of a clip: the caption by `rng`, all others by `more`."""
        captions = self.rows[row].captions
        index = int(rng.integers(len(captions)))
        text = self._worded(rng, captions[index])
        left = [i for i in range(len(captions)) if i != index]
        others = [captions[int(i)] for i in more.permutation(left)[: self.data.captions - 1]]
        return ClipTexts(
            text,
            tuple(self._worded(more, caption) for caption in others),
            _some(more, captions[index].modules, self.data.modules),
            _some(more, captions[index].negatives, self.data.negatives),
        )

    def _worded(self, rng: np.random.Generator, caption: Caption) -> str:
        """Draw the original of a caption or one of its rewrites."""
        if rng.random() < self.data.original or not caption.rewrites:
            return caption.text
        return caption.rewrites[int(rng.integers(len(caption.rewrites)))]

    def _caption(self, rng: np.random.Generator, row: int) -> str:
        captions = self.rows[row].captions
        return self._worded(rng, captions[int(rng.integers(len(captions)))])

    # ---- Of a mixture --------------------------------------------------------------------------

    def of_mixture(
        self,
        rng: np.random.Generator,
        more: np.random.Generator,
        rows: tuple[int, int],
        *,
        sequence: bool,
    ) -> ClipTexts:
        """Draw the texts of two clips at once, or one after the other."""
        if self.how.compositions:
            k = int(rng.integers(self.how.compositions))
            a, b = (self._group_of[row] for row in rows)
            parts = self._pooled(a, b, sequence, k)
        else:
            parts = self._caption(rng, rows[0]), self._caption(rng, rows[1])
        whole = _composed(parts, sequence)
        return ClipTexts(
            whole.caption,
            (),
            _some(more, whole.modules, self.data.modules),
            _some(more, whole.negatives, self.data.negatives),
        )

    def _pooled(self, a: int, b: int, sequence: bool, k: int) -> tuple[str, str]:
        """Return the captions of the k-th composition of two groups."""
        rng = generator(self.seed, POOL, a, b, 2 * k + sequence)
        first, second = (self._caption(rng, self._member(rng, g)) for g in (a, b))
        return first, second

    def _member(self, rng: np.random.Generator, group: int) -> int:
        members = self._members[group]
        return members[int(rng.integers(len(members)))]

    # ---- All -----------------------------------------------------------------------------------

    def all(self) -> list[str]:
        """Return all texts that can occur, except those of mixtures with ``compositions = 0``."""
        texts = itertools.chain.from_iterable(map(self._of, self._possible()))
        return list(dict.fromkeys(texts))

    def _possible(self) -> Iterator[ClipTexts]:
        """Yield all captions, and all compositions, with everything that may go with them."""
        for caption in itertools.chain.from_iterable(row.captions for row in self.rows):
            yield ClipTexts(caption.text, caption.rewrites, caption.modules, caption.negatives)
        if self.data.mixtures:
            pairs = itertools.permutations(range(len(self._members)), 2)
            kinds = [kind for kind in (False, True) if abs(self.how.sequence - kind) < 1]
            for (a, b), kind in itertools.product(pairs, kinds):
                for k in range(self.how.compositions):
                    yield _composed(self._pooled(a, b, kind, k), kind)

    def _of(self, clip: ClipTexts) -> Iterable[str]:
        """Return those of a clip's possible texts that these settings draw."""
        modules = clip.modules if self.data.modules else ()
        return (
            clip.caption,
            *clip.others,
            *modules,
            *(clip.negatives if self.data.negatives else ()),
        )


def _composed(parts: tuple[str, str], sequence: bool) -> ClipTexts:
    """Compose the texts of two sounds.

    Modules are the captions of the parts. Negatives have the other connective, and the other order
    where there is one.
    """
    first, second = parts
    caption = augment.compose(first, second, sequence=sequence)
    wrong = [
        augment.compose(first, second, sequence=not sequence),
        augment.compose(second, first, sequence=True),
    ]
    negatives = [text for text in dict.fromkeys(wrong) if text != caption]
    return ClipTexts(caption, (), tuple(dict.fromkeys(parts)), tuple(negatives))


def _some(rng: np.random.Generator, texts: Sequence[str], count: int) -> tuple[str, ...]:
    """Draw up to `count` of some texts, each once."""
    return tuple(texts[int(i)] for i in rng.permutation(len(texts))[:count]) if count else ()
