"""Regeneration by a language model of a text that a reviewer did not like."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

from reclap.checks import Sense
from reclap.checks.form import check_injection
from reclap.checks.labels import phrase
from reclap.errors import ReclapError
from reclap.llm import instructions
from reclap.llm.acceptance import (
    Criterion,
    description_criterion,
    prompt_criterion,
    rewrite_criterion,
)
from reclap.llm.collect import Sampling, collect
from reclap.llm.session import Session
from reclap.llm.step import Step
from reclap.prompts.entries import Prompt
from reclap.review.documents import Item

__all__ = ["regenerator"]


def regenerator(
    llm: Session, sampling: Sampling, labels: Sequence[str], sense: Sense | None
) -> Callable[[Item, str, Sequence[str]], Prompt]:
    """Return the `ask` argument of `reclap.review.Session`.

    Parameters
    ----------
    llm : Session
        Session with the language model.
    sampling : Sampling
        Temperature, seed and attempts.
    labels : sequence of str
        All labels under review.
    sense : Sense, optional
        Similarity in meaning, for the checks.

    Returns
    -------
    callable
        Maps an item, the text of its description, and texts to avoid to a prompt; ReclapError if no
        text is accepted. A text already proposed for a label is never proposed again.
    """
    given: dict[tuple[str, str], list[str]] = {}
    asked = itertools.count()

    def ask(item: Item, about: str, taken: Sequence[str]) -> Prompt:
        if doubts := check_injection("\n".join((item.label, item.definition, about))):
            raise ReclapError(f"not asked: {doubts[0]}")
        before = given.setdefault((item.kind, item.label), [])
        steps, criterion = _task(llm, item, about, labels, sense)
        # Other seeds each time: the cache would repeat what the reviewer did not want.
        seed = sampling.seed + next(asked) * sampling.attempts
        fresh = dataclasses.replace(sampling, seed=seed)
        found = collect(llm, steps, criterion, fresh, [*taken, *before])
        if not found.accepted:
            reasons = [reason for rejected in found.rejected for reason in rejected.reasons]
            why = found.failure or "; ".join(reasons[-2:]) or "no usable reply"
            raise ReclapError(f"no other text from {llm.name}: {why}")
        (new,) = found.accepted
        before.append(new.text)
        return Prompt(new.text, "new", new.flags, {**new.origin, "by": llm.name})

    return ask


def _task(
    llm: Session, item: Item, about: str, labels: Sequence[str], sense: Sense | None
) -> tuple[list[Step], Criterion]:
    if item.kind == "rewrite":
        steps = instructions.rewrite_steps(item.label, 1, small=llm.small)
        return steps, rewrite_criterion(item.label, sense)
    others = [label for label in labels if label != item.label]
    words, meaning = phrase(item.label), item.definition
    if item.kind == "description":
        steps = instructions.description_steps(words, meaning, 1, small=llm.small)
        return steps, description_criterion(item.label, meaning, others, sense)
    steps = instructions.caption_steps(words, meaning, about or words, 1, small=llm.small)
    return steps, prompt_criterion(item.label, meaning, others, sense)
