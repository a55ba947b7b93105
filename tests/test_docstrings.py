"""Docstrings of the public names are complete: numpydoc's rules, for what users import.

Two of numpydoc's codes do not count: ES01 (one line may say all) and SA01 (nor does everything have
a "See Also"). EX01 counts for functions and classes; the examples of a class also stand for its
methods, but each method is shown somewhere. Exceptions and protocols need no example, and the
fields of a protocol are no parameters (PR01).
"""

import ast
import functools
import importlib
import inspect
import re
import textwrap

import pytest
from needs import needs

PACKAGES = (
    "reclap",
    "reclap.audio",
    "reclap.checks",
    "reclap.datasets",
    "reclap.config",
    "reclap.llm",
    "reclap.model",
    "reclap.pickles",
    "reclap.prompts",
    "reclap.retrieval",
    "reclap.review",
    "reclap.store",
    "reclap.text",
    "reclap.training",
)
PROPERTIES = (property, functools.cached_property)


def is_ours(value):
    return (inspect.isfunction(value) or inspect.isclass(value)) and value.__module__.startswith(
        "reclap"
    )


def members(cls):
    """Return our public methods and properties of a class; overrides of others' are no news."""
    found = {}
    ours = [c for c in cls.__mro__ if c.__module__.startswith("reclap")]
    theirs = {name for c in set(cls.__mro__) - set(ours) for name in vars(c)}
    for owner in reversed(ours):
        found |= {n: v for n, v in vars(owner).items() if not n.startswith("_") and n not in theirs}
    methods = (classmethod, staticmethod, *PROPERTIES)
    return {n: v for n, v in found.items() if inspect.isfunction(v) or isinstance(v, methods)}


def public():
    """Return functions and classes that users import, and members of the classes, by name."""
    found = {}
    for package in map(importlib.import_module, PACKAGES):
        values = [getattr(package, name) for name in package.__all__]
        found |= {f"{v.__module__}.{v.__qualname__}": v for v in values if is_ours(v)}
    for name, value in list(found.items()):
        if inspect.isclass(value):
            found |= {f"{name}.{member}": part for member, part in members(value).items()}
    return found


PUBLIC = public()


def left_out(name):
    """Return the codes that do not count for a name."""
    value, owner = PUBLIC[name], PUBLIC.get(name.rpartition(".")[0])
    codes = {"ES01", "SA01"}
    if isinstance(value, PROPERTIES) or is_told_elsewhere(value) or is_told_elsewhere(owner):
        codes.add("EX01")
    if owner is not None and f".{name.rpartition('.')[2]}(" in (owner.__doc__ or ""):
        codes.add("EX01")
    if getattr(value, "_is_protocol", False):
        codes.add("PR01")
    return codes


def is_told_elsewhere(value):
    is_error = inspect.isclass(value) and issubclass(value, Exception)
    return is_error or getattr(value, "_is_protocol", False)


@pytest.mark.extra
@pytest.mark.parametrize("name", PUBLIC)
def test_docstring_is_complete(name):
    found = needs("numpydoc.validate", "dev").validate(name)["errors"]
    assert [text for code, text in found if code not in left_out(name)] == []


def functions_of(value):
    """Return the functions of ours that a name runs: its own, or what makes objects of a class."""
    if inspect.isclass(value):
        makers = [vars(value).get(name) for name in ("__init__", "__post_init__")]
        written = [
            f for f in makers if inspect.isfunction(f) and f.__code__.co_filename != "<string>"
        ]
        return [f for f in written if is_ours(f)]
    value = getattr(value, "__func__", None) or getattr(value, "func", None) or value
    return [value.fget if isinstance(value, property) else value]


@pytest.mark.parametrize("name", PUBLIC)
def test_what_raises_says_so(name):
    value = PUBLIC[name]
    for function in functions_of(value):
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        raised = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Raise) and n.exc]
        wanted = "Error" if isinstance(value, PROPERTIES) else r"^ *Raises$"
        told = re.search(wanted, inspect.getdoc(value) or "", re.MULTILINE)
        assert told or not raised
