"""Review of generated texts by a person, on a local page or in a terminal."""

from typing import TYPE_CHECKING

from reclap._lazy import exports

if TYPE_CHECKING:
    from reclap.review.documents import Document, Item, open_document
    from reclap.review.session import Decision, Session

__all__ = ["Decision", "Document", "Item", "Session", "open_document"]

_HOMES = {
    "Decision": "reclap.review.session",
    "Document": "reclap.review.documents",
    "Item": "reclap.review.documents",
    "Session": "reclap.review.session",
    "open_document": "reclap.review.documents",
}

__getattr__, __dir__ = exports(__name__, _HOMES)
