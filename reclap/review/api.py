"""JSON interface of the review page."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reclap.review.neighbours import Near, Neighbours
from reclap.review.session import Session

__all__ = ["Review", "clip_of", "decide", "items", "nearest", "plain"]

_STATUS = {"accept": "accepted", "reject": "rejected", "reopen": "new"}


@dataclasses.dataclass(frozen=True)
class Review:
    """A review with its context, as the page and the terminal show it.

    Parameters
    ----------
    session : Session
        Items and decisions.
    neighbours : Neighbours
        Nearest neighbours of the items.
    clips : mapping of str to list of Path
        Sounds by label, as `reclap.review.example_sounds.clips_of` finds them.

    Examples
    --------
    >>> from reclap import PromptBank
    >>> from reclap.review import open_review
    >>> PromptBank.from_prompts({"dog": ["a dog barks"]}).save("bank.json")
    >>> with open_review("bank.json") as review:
    ...     review.labels()
    ['dog']
    """

    session: Session
    neighbours: Neighbours
    clips: Mapping[str, Sequence[Path]]

    def labels(self) -> list[str]:
        """Return the labels, in order.

        Returns
        -------
        list of str
            Each label once.
        """
        return list(dict.fromkeys(item.label for item in self.session.items))


def plain(value: Any) -> bytes:
    """Return JSON without characters that HTML would interpret."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").encode()


def items(review: Review, key: Callable[[int], str]) -> dict[str, Any]:
    """Return all items and their order; `key` gives the key to a label's clips."""
    session = review.session
    labels = {label: n for n, label in enumerate(review.labels())}
    definitions = {item.label: item.definition for item in session.items}
    return {
        **_now(session),  # first: a decision taken meanwhile then makes the page look again
        "name": session.document.name,
        "file": session.document.path.name,
        "can_ask": session.can_ask,
        "labels": [
            {"name": x, "definition": definitions[x], **_clips(review, x, n, key)}
            for x, n in labels.items()
        ],
        "items": [
            {"kind": item.kind, "label": labels[item.label], "parent": item.parent}
            | _state(session, index)
            for index, item in enumerate(session.items)
        ],
        "queue": session.queue(),
    }


def _clips(
    review: Review, label: str, index: int, key: Callable[[int], str]
) -> dict[str, int | str]:
    count = len(review.clips.get(label, ()))
    return {"clips": count, "key": key(index)} if count else {"clips": 0}


def _state(session: Session, index: int) -> dict[str, Any]:
    """Return the fields of an item that a decision can change."""
    prompt = session.items[index].prompt
    return {
        "text": prompt.text,
        "status": prompt.status,
        "flags": prompt.flags,
        "edited_from": str(prompt.origin.get("edited_from", "")),
    }


def _now(session: Session) -> dict[str, Any]:
    return {
        "revision": session.revision,
        "problem": session.problem,
        "can_undo": session.can_undo,
        "can_redo": session.can_redo,
    }


def decide(review: Review, request: Any) -> dict[str, Any]:
    """Apply a decision; return the items that it changed.

    Parameters
    ----------
    review : Review
    request : dict
        ``do``: accept, reject, reopen, edit, ask, undo, redo; ``revision`` that the page shows;
        ``items``: indices; ``text`` of an edit.

    Raises
    ------
    ValueError
        If the request is not that.
    ReclapError, OSError
        As for the methods of `Session`.
    """
    request = request if isinstance(request, dict) else {}
    do, revision = request.get("do"), request.get("revision")
    indices, text = request.get("items", []), request.get("text", "")
    is_text = isinstance(do, str) and isinstance(text, str)
    if not is_text or type(revision) is not int or not isinstance(indices, list):
        raise ValueError("expected an object with do, revision, and items or text where needed")
    if not all(type(index) is int for index in indices):
        raise ValueError("items: expected numbers")
    session = review.session
    if do in ("edit", "ask") and len(indices) != 1:
        raise ValueError(f"{do}: {len(indices)} items; expected 1")
    if do in _STATUS:
        decision = session.decide(indices, _STATUS[do], revision)
    elif do == "edit":
        decision = session.edit(indices[0], text, revision)
    elif do == "ask":
        decision = session.ask_again(indices[0], revision)
    elif do in ("undo", "redo"):
        decision = session.undo(revision) if do == "undo" else session.redo(revision)
    else:
        raise ValueError("do: expected accept, reject, reopen, edit, ask, undo or redo")
    changed = {index: _state(session, index) for index in decision.changed}
    return {"changed": changed, **_now(session), "revision": decision.revision}


def nearest(review: Review, index: int) -> dict[str, Any]:
    """Return the nearest items of an item; see `Neighbours.nearest`."""
    if index >= len(review.session.items):
        raise ValueError(f"item {index}; expected 0 to {len(review.session.items) - 1}")
    found = review.neighbours.nearest(index)
    near = {"other": _near(found.other), "own": _near(found.own)}
    return {**near, "share": found.share, "problem": found.problem}


def _near(near: Near | None) -> dict[str, Any] | None:
    return None if near is None else dataclasses.asdict(near)


def clip_of(review: Review, label: int, clip: int) -> Path:
    """Return a sound of a label by number: no path ever comes from a browser."""
    labels = review.labels()
    clips = review.clips.get(labels[label], ()) if label < len(labels) else ()
    if clip >= len(clips):
        raise ValueError("there is no such clip")
    return clips[clip]
