"""Training: recipes, batches, steps, the training loop."""

from typing import TYPE_CHECKING

from reclap._lazy import exports

if TYPE_CHECKING:
    from reclap.training.loop import Result, train
    from reclap.training.recipe import Recipe
    from reclap.training.text_encoder import TextEncoder

__all__ = ["Recipe", "Result", "TextEncoder", "train"]

_HOMES = {
    "Recipe": "reclap.training.recipe",
    "Result": "reclap.training.loop",
    "TextEncoder": "reclap.training.text_encoder",
    "train": "reclap.training.loop",
}

__getattr__, __dir__ = exports(__name__, _HOMES)
