"""History of a review: decisions applied to items, taken back and repeated."""

import dataclasses
from typing import Any, TypeAlias

from reclap.prompts.entries import Prompt
from reclap.review.documents import Item

__all__ = ["Change", "History", "change_to"]

Change: TypeAlias = tuple[int, dict[str, Any], dict[str, Any]]  # index, old fields, new fields


class History:
    """Items as the decisions so far have left them.

    Parameters
    ----------
    items : list of Item
        Items under review; decisions change the list.

    Attributes
    ----------
    past, future : list of list of Change
        Decisions that stand, and those that were taken back, last ones last.
    revision : int
        Number of steps so far.
    """

    def __init__(self, items: list[Item]) -> None:
        self.items, self.revision = items, 0
        self.past: list[list[Change]] = []
        self.future: list[list[Change]] = []

    def follow(self, step: dict[str, Any], *, is_in_file: bool = False) -> list[int]:
        """Apply a step of the journal to the history, and to the items unless they have it already.

        Parameters
        ----------
        step : dict
            ``{"do": changes}``, ``{"undo": True}`` or ``{"redo": True}``.
        is_in_file : bool
            The items are as the step left them.

        Returns
        -------
        list of int
            Indices of its items.
        """
        if "do" in step:
            changes, new = step["do"], True
            self.past.append(changes)
            self.future.clear()
        elif "undo" in step:
            changes, new = self.past.pop(), False
            self.future.append(changes)
        else:
            changes, new = self.future.pop(), True
            self.past.append(changes)
        self.revision += 1
        for index, before, after in changes:
            if not is_in_file:
                self.items[index] = _changed(self.items[index], after if new else before)
        return [index for index, _, _ in changes]


def change_to(index: int, item: Item, after: Prompt) -> Change:
    """Return the fields that differ, as the journal keeps them."""
    before, now = _record(item.prompt), _record(after)
    differing = [name for name in before if before[name] != now[name]]
    return index, {n: before[n] for n in differing}, {n: now[n] for n in differing}


def _record(prompt: Prompt) -> dict[str, Any]:
    return {
        "text": prompt.text,
        "status": prompt.status,
        "flags": list(prompt.flags),
        "origin": dict(prompt.origin),
    }


def _changed(item: Item, fields: dict[str, Any]) -> Item:
    prompt = Prompt.from_json(_record(item.prompt) | fields)
    return dataclasses.replace(item, prompt=prompt)
