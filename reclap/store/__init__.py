"""Stores of embeddings: appendable folders that survive a kill.

The format is specified in ``docs/store.md``. Stores keep what ``reclap embed`` computes, features
of captions during training, and embeddings of prompts between calls.
"""

from reclap.store.layout import Header
from reclap.store.reader import Store, is_store
from reclap.store.writer import Writer, fill

__all__ = ["SUFFIX", "Header", "Store", "Writer", "fill", "is_store"]

SUFFIX = ".store"
