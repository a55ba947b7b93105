"""Scripts of recipes/sounds: none takes an option that it does not read."""

import ast
from pathlib import Path

import pytest

SOUNDS = Path(__file__).parents[1] / "recipes" / "sounds"
SCRIPTS = sorted(path.name for path in SOUNDS.glob("*.py"))


def options(tree):
    """Return the names that a script's parsers give to their arguments."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    adding = (
        c for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr == "add_argument"
    )
    return {call.args[0].value.lstrip("-").replace("-", "_") for call in adding}


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_option_is_read(name):
    tree = ast.parse((SOUNDS / name).read_text("utf-8"))
    read = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert options(tree)
    assert options(tree) <= read
