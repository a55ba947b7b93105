"""Retrieval: files of embeddings and nearest-neighbour search."""

from typing import TYPE_CHECKING

from reclap._lazy import exports

if TYPE_CHECKING:
    from reclap.retrieval.embeddings import Embeddings, Nearest, nearest

__all__ = ["Embeddings", "Nearest", "nearest"]

_HOMES = dict.fromkeys(__all__, "reclap.retrieval.embeddings")

__getattr__, __dir__ = exports(__name__, _HOMES)
