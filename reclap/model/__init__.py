"""Models: loading, embedding of sounds and texts, zero-shot classification, timelines."""

from typing import TYPE_CHECKING

from reclap._lazy import exports

if TYPE_CHECKING:
    from reclap.model.clap import Model
    from reclap.model.loading import load
    from reclap.model.results import Classification, Embedding, Timeline

__all__ = ["Classification", "Embedding", "Model", "Timeline", "load"]

_HOMES = {
    "Classification": "reclap.model.results",
    "Embedding": "reclap.model.results",
    "Model": "reclap.model.clap",
    "Timeline": "reclap.model.results",
    "load": "reclap.model.loading",
}

__getattr__, __dir__ = exports(__name__, _HOMES)
