"""Contrastive language-audio models on CPUs.

>>> import reclap
>>> model = reclap.load("mini")
>>> text = model.embed_text(["rain on a tin roof", "a dog barks"])
"""

from typing import TYPE_CHECKING

from reclap import _moved
from reclap._lazy import exports
from reclap.errors import (
    BackendError,
    FormatError,
    MissingDependencyError,
    ReclapError,
    SkippedWarning,
)

if TYPE_CHECKING:
    from reclap.config.model import ClapConfig
    from reclap.model.clap import Model
    from reclap.model.loading import load
    from reclap.model.results import Classification, Embedding, Timeline
    from reclap.prompts.bank import PromptBank
    from reclap.retrieval.embeddings import Embeddings, nearest
    from reclap.tasks import describe, rewrite, train

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "ClapConfig",
    "Classification",
    "Embedding",
    "Embeddings",
    "FormatError",
    "MissingDependencyError",
    "Model",
    "PromptBank",
    "ReclapError",
    "SkippedWarning",
    "Timeline",
    "describe",
    "load",
    "nearest",
    "rewrite",
    "train",
]

_HOMES = {
    "Classification": "reclap.model.results",
    "ClapConfig": "reclap.config.model",
    "Embedding": "reclap.model.results",
    "Embeddings": "reclap.retrieval.embeddings",
    "Model": "reclap.model.clap",
    "PromptBank": "reclap.prompts.bank",
    "Timeline": "reclap.model.results",
    "describe": "reclap.tasks",
    "load": "reclap.model.loading",
    "nearest": "reclap.retrieval.embeddings",
    "rewrite": "reclap.tasks",
    "train": "reclap.tasks",
}

__getattr__, __dir__ = exports(__name__, _HOMES)
_moved.install()
