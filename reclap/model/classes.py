"""Zero-shot classes: prompts per label, their embeddings, scores by an aggregation rule."""

import dataclasses
import logging
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from reclap._types import Floats
from reclap.errors import shown_names
from reclap.model.results import Attribution
from reclap.prompts.bank import PromptBank
from reclap.prompts.combine import Rule, rule_index
from reclap.prompts.sampling import sample
from reclap.prompts.strategies import Labels, Prompts
from reclap.runtime.libraries import core
from reclap.text.tokenizer import Tokenizer, check_texts, prompt_of

__all__ = ["Classes", "Scores", "prompts_of", "warn_of_unknown"]

log = logging.getLogger(__name__)


def prompts_of(
    labels: Labels, template: str, n_prompts: int | None = None, seed: int = 0
) -> Prompts:
    """Return the prompts of each label.

    Parameters
    ----------
    labels : list of str, mapping of str to list of str, or PromptBank
        Labels that go through the template, or labels with their prompts.
    template : str
        Contains ``{label}``.
    n_prompts : int, optional
        Number of prompts of each label to draw; all by default.
    seed : int
        Seed of the draw, see `reclap.prompts.bank.sample`.

    Raises
    ------
    TypeError, ValueError
        If there is no label, one is empty or occurs twice, or one has too few prompts.
    """
    if "{label}" not in template:
        raise ValueError(f"template is {template!r}, it must contain {{label}}")
    if isinstance(labels, PromptBank):
        given: Mapping[str, Sequence[str]] = labels.prompts()
    elif isinstance(labels, Mapping):
        given = labels
    else:
        names = check_texts(labels, "labels")
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise ValueError(f"labels: {', '.join(map(repr, twice))} more than once")
        given = {name: [prompt_of(name, template)] for name in names}
    check_texts(list(given), "labels")
    prompts = {label: check_texts(p, f"labels[{label!r}]") for label, p in given.items()}
    return prompts if n_prompts is None else sample(prompts, n_prompts, seed)


def warn_of_unknown(tokenizer: Tokenizer, labels: Labels, prompts: Prompts) -> None:
    """Log the labels, or given prompts, of which the tokenizer knows no part."""
    given = isinstance(labels, Mapping | PromptBank)
    asked = prompts if given else {label: [label.replace("_", " ")] for label in prompts}
    unknown = iter(tokenizer.unknown([text for group in asked.values() for text in group]))
    lost = [label for label, group in asked.items() if all([next(unknown) for _ in group])]
    if lost:
        log.warning(
            "the tokenizer knows no part of %s: scores of such labels mean nothing",
            shown_names([repr(label) for label in lost], 5, ", "),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """Scores of sounds with classes.

    Attributes
    ----------
    scores : ndarray of float32, shape (n, labels)
        Scores in the scale of cosines.
    order : ndarray of int32, shape (n, k)
        The best labels of each sound, best first.
    attributions : list of Attribution or None
        Weights of the prompts for each sound, if asked for.
    """

    scores: Floats
    order: npt.NDArray[np.int32]
    attributions: list[Attribution | None]


@dataclasses.dataclass(frozen=True, eq=False)
class Classes:
    """Embedded prompts per label and the rule that aggregates their similarities.

    Attributes
    ----------
    prompts : dict of str to list of str
        Prompts by label.
    embeddings : ndarray of float32, shape (prompts, dim)
        Unit-length embeddings, label after label.
    rule : str
        One of `reclap.prompts.combine.RULES`.
    """

    prompts: Prompts
    embeddings: Floats
    rule: Rule = "mean_embedding"

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in order."""
        return tuple(self.prompts)

    @property
    def first(self) -> npt.NDArray[np.int32]:
        """Index of the first prompt of each label, and their total, shape (labels + 1,)."""
        return np.cumsum([0, *map(len, self.prompts.values())], dtype=np.int32)

    def vectors(self) -> Floats:
        """Return the normalised mean of each label's prompts, shape (labels, dim)."""
        return core.class_vectors(self.embeddings, self.first)

    def score(
        self,
        context: "core.Context",
        sounds: Floats,
        scale: float,
        k: int,
        *,
        explain: bool = False,
    ) -> Scores:
        """Score sounds.

        Parameters
        ----------
        context : Context
            Context of the core.
        sounds : ndarray of float32, shape (n, dim)
            Unit-length embeddings of sounds.
        scale : float
            Factor from cosines to logits.
        k : int
            Number of labels to order for each sound.
        explain : bool
            Whether to return the contribution of each prompt.

        Returns
        -------
        Scores
            Scores, the best labels, contributions.
        """
        by_mean = self.rule == "mean_embedding"  # one product by label instead of one by prompt
        prompts = (context, sounds, self.embeddings, self.first, rule_index(self.rule), scale, k)
        attributions: list[Attribution | None] = [None] * len(sounds)
        if explain:
            scores, _, order, cosines, weights = core.combine(*prompts, True)
            attributions = [
                Attribution(self.prompts, c, w) for c, w in zip(cosines, weights, strict=True)
            ]
        elif not by_mean:
            scores, _, order = core.combine(*prompts)
        if by_mean:
            scores, _, order = core.scores(context, sounds, self.vectors(), k)
        return Scores(scores, order, attributions)
