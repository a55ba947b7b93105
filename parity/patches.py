"""The upstream packages, imported beside a torch that they were not made for.

Nothing of theirs is copied or changed on disk. Attributes are replaced before they are used:

- torchaudio and torchvision from the package index are linked against CUDA. Their Python code
  works without their compiled part, which is kept from loading.
- laion_clap and msclap fetch weights and tokenizers by name. They get random weights of the
  published configuration, and tokenizers that `inputs` trained on real captions.
- Their random crops, where `middle_cuts` or `crop_at` is in force, are at known places.
"""

import contextlib
import importlib
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any
from unittest import mock

import soundfile
import torch
import transformers

# An operator lives as long as its library.
_TORCHVISION = torch.library.Library("torchvision", "DEF")


def _load(path: str) -> tuple[torch.Tensor, int]:
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return torch.from_numpy(samples.T.copy()), rate


def _import_torchaudio() -> None:
    """Import torchaudio without its compiled part; `load` reads by soundfile, not TorchCodec."""
    with mock.patch("pathlib.Path.glob", return_value=[]):  # how it looks for its library
        importlib.import_module("torchaudio").load = _load


def _import_torchvision() -> ModuleType:
    """Import torchvision without its compiled part; two operators that it expects are declared."""
    for name in ("nms", "qnms"):
        _TORCHVISION.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("torchvision.transforms")


_import_torchaudio()  # before transformers looks for them
transforms = _import_torchvision()


def serve(cls: type, made: Any) -> None:
    """Let ``cls.from_pretrained(name)`` return `made`, whatever the name."""
    cls.from_pretrained = classmethod(lambda *_, **__: made)


def import_laion(text_tower: torch.nn.Module, tokenizer: Any) -> ModuleType:
    """Return laion_clap, whose RoBERTa and tokenizer are the given ones."""
    serve(transformers.RobertaModel, text_tower)
    serve(transformers.BertTokenizer, None)
    serve(transformers.BartTokenizer, tokenizer)  # the same class as RobertaTokenizer
    serve(transformers.RobertaTokenizer, tokenizer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("laion_clap")


def import_msclap(text_tower: torch.nn.Module, tokenizer: Any) -> ModuleType:
    """Return msclap, whose text tower and tokenizer are the given ones."""
    serve(transformers.AutoModel, text_tower)
    serve(transformers.AutoTokenizer, tokenizer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("msclap.CLAPWrapper")


@contextlib.contextmanager
def crop_at(start: int) -> Iterator[None]:
    """Crop at `start`, and cut for fusion in the middle of each part, where upstream draws.

    The middle is the place that `reclap.audio.fusion.fused_features` documents.
    """
    with (
        mock.patch("numpy.random.randint", return_value=start),
        mock.patch("random.randrange", return_value=start),
        mock.patch("numpy.random.choice", lambda places: places[(len(places) - 1) // 2]),
    ):
        yield
