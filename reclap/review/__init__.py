"""Review of generated texts by a person, on a local page or in a terminal."""

from typing import TYPE_CHECKING

from reclap._lazy import exports

if TYPE_CHECKING:
    from reclap.review.api import Review
    from reclap.review.documents import Document, Item, open_document
    from reclap.review.opening import open_review
    from reclap.review.server import Server
    from reclap.review.session import Decision, Session
    from reclap.review.terminal import Terminal

__all__ = [
    "Decision",
    "Document",
    "Item",
    "Review",
    "Server",
    "Session",
    "Terminal",
    "open_document",
    "open_review",
]

_HOMES = {
    "Decision": "reclap.review.session",
    "Document": "reclap.review.documents",
    "Item": "reclap.review.documents",
    "Review": "reclap.review.api",
    "Server": "reclap.review.server",
    "Session": "reclap.review.session",
    "Terminal": "reclap.review.terminal",
    "open_document": "reclap.review.documents",
    "open_review": "reclap.review.opening",
}

__getattr__, __dir__ = exports(__name__, _HOMES)
