"""Training: recipes, batches, steps, the training loop."""

from typing import TYPE_CHECKING

from reclap._lazy import exports

if TYPE_CHECKING:
    from reclap.training.augment import Augment
    from reclap.training.callbacks import Callback
    from reclap.training.loop import train
    from reclap.training.model_section import ModelPart
    from reclap.training.recipe import Recipe, load
    from reclap.training.run_log import read_log
    from reclap.training.running import Result
    from reclap.training.sections import Data, Eval, Loss, Optim, Run, Train
    from reclap.training.similarity import Similarity, run_similarity
    from reclap.training.splits import recipe_splits
    from reclap.training.tensorboard import TensorBoard
    from reclap.training.text_encoder import TextEncoder

__all__ = [
    "Augment",
    "Callback",
    "Data",
    "Eval",
    "Loss",
    "ModelPart",
    "Optim",
    "Recipe",
    "Result",
    "Run",
    "Similarity",
    "TensorBoard",
    "TextEncoder",
    "Train",
    "load",
    "read_log",
    "recipe_splits",
    "run_similarity",
    "train",
]

_HOMES = {
    "Augment": "reclap.training.augment",
    "Callback": "reclap.training.callbacks",
    "Data": "reclap.training.sections",
    "Eval": "reclap.training.sections",
    "Loss": "reclap.training.sections",
    "ModelPart": "reclap.training.model_section",
    "Optim": "reclap.training.sections",
    "Recipe": "reclap.training.recipe",
    "Result": "reclap.training.running",
    "Run": "reclap.training.sections",
    "Similarity": "reclap.training.similarity",
    "TensorBoard": "reclap.training.tensorboard",
    "TextEncoder": "reclap.training.text_encoder",
    "Train": "reclap.training.sections",
    "load": "reclap.training.recipe",
    "read_log": "reclap.training.run_log",
    "run_similarity": "reclap.training.similarity",
    "recipe_splits": "reclap.training.splits",
    "train": "reclap.training.loop",
}

__getattr__, __dir__ = exports(__name__, _HOMES)
