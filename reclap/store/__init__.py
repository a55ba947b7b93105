"""Stores of embeddings: folders that grow row by row and survive being killed.

The format is specified in ``docs/store.md``. Stores keep what ``reclap embed`` computes, features
of captions during training, and embeddings of prompts between calls.
"""

from reclap.store.layout import Header
from reclap.store.reader import Store, is_store
from reclap.store.writer import Writer, fill

__all__ = ["SUFFIX", "Header", "Store", "Writer", "fill", "is_store"]

SUFFIX = ".store"
