"""Contrastive language-audio models on CPUs.

>>> import reclap
>>> model = reclap.load("mini")
>>> text = model.embed_text(["rain on a tin roof", "a dog barks"])
"""

from typing import TYPE_CHECKING

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
    from reclap.embeddings import Embeddings, nearest
    from reclap.loading import load
    from reclap.model import Model
    from reclap.prompts.bank import PromptBank
    from reclap.results import Classification, Embedding, Timeline

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
    "load",
    "nearest",
]

_HOMES = {
    "Classification": "reclap.results",
    "ClapConfig": "reclap.config",
    "Embedding": "reclap.results",
    "Embeddings": "reclap.embeddings",
    "Model": "reclap.model",
    "PromptBank": "reclap.prompts.bank",
    "Timeline": "reclap.results",
    "load": "reclap.loading",
    "nearest": "reclap.embeddings",
}


__getattr__, __dir__ = exports(__name__, _HOMES)
