"""Public signatures: paths are str or os.PathLike, choices Literal types, sounds typed."""

import importlib
import inspect
import os
import pathlib
import types
import typing

import numpy as np
import pytest
from needs import needs

import reclap
from reclap.model.results import Timeline
from reclap.training.data import Data
from reclap.training.text_encoder import TextEncoder

# Modules whose public names people call; a class stands for its constructor and public methods.
MODULES = (
    "reclap",
    "reclap.audio",
    "reclap.checks",
    "reclap.datasets",
    "reclap.llm",
    "reclap.llm.cache",
    "reclap.llm.embedded",
    "reclap.io.manifest",
    "reclap.pickles",
    "reclap.plotting",
    "reclap.training.text_encoder",
    "reclap.training.loop",
    "reclap.training.recipe",
)
_INNER = {  # given what was found before, or made by reclap itself
    "joined_sha256",
    "sha256",
    "Recipe.identity",
    "Model.__init__",
    "Result.__init__",
    "Row.__init__",
    "SharedCaptions.__init__",
}


def callables():
    for module in map(importlib.import_module, MODULES):
        for name in module.__all__:
            value = getattr(module, name)
            if isinstance(value, types.FunctionType):
                yield name, value
            elif inspect.isclass(value) and value.__module__.startswith("reclap"):
                for method, found in inspect.getmembers(value, callable):
                    function = getattr(found, "__func__", found)
                    public = not method.startswith("_") or method == "__init__"
                    if public and isinstance(function, types.FunctionType):
                        yield f"{name}.{method}", function


def hints_of(function):
    return typing.get_type_hints(function, localns={"Timeline": Timeline})  # for type checkers


@pytest.mark.parametrize(("name", "function"), list(dict(callables()).items()))
def test_parameters_that_take_paths_take_strings_too(name, function):
    for parameter, kind in hints_of(function).items():
        kinds = [kind, *typing.get_args(kind)]
        paths = [k for k in kinds if k is pathlib.Path or typing.get_origin(k) is os.PathLike]
        if paths and parameter != "return" and name not in _INNER:
            assert str in kinds, parameter
            assert os.PathLike[str] in kinds, parameter


CHOICES = {"channels", "combine", "compat", "dtype", "errors", "format", "resampler", "status"}


@pytest.mark.parametrize(("name", "function"), list(dict(callables()).items()))
def test_choices_are_literal_types(name, function):
    for parameter, kind in hints_of(function).items():
        if parameter in CHOICES:
            assert any(
                typing.get_origin(k) is typing.Literal for k in (kind, *typing.get_args(kind))
            )
        assert parameter != "source" or kind is not typing.Any


@pytest.mark.parametrize("kind", [str, pathlib.Path])
def test_paths_of_either_kind_work(kind, small_folder, tmp_path, small):
    assert TextEncoder(kind(small_folder)).features(["rain"]).shape[0] == 1
    small.save(kind(tmp_path / "model"))
    assert reclap.load(kind(tmp_path / "model")).digest == small.digest
    assert Data(kind("m.jsonl"), root=kind("sounds")).root == "sounds"


@pytest.mark.parametrize("kind", [str, pathlib.Path])
def test_timelines_are_drawn_to_paths_of_either_kind(kind, tmp_path):
    plots = needs("reclap.plotting", "plot")
    scores = np.zeros((2, 1), np.float32)
    seconds = np.array([[0.0, 1.0], [1.0, 2.0]])
    plots.save_timeline(Timeline("a.wav", ("dog",), seconds, scores, 1.0), kind(tmp_path / "a.png"))
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
