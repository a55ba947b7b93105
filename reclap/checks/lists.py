"""Word lists that the checks use, one file each."""

from importlib import resources

__all__ = ["read_lines", "read_list"]


def read_lines(name: str) -> list[str]:
    """Return the lines of a list, without remarks and empty ones."""
    text = resources.files("reclap.checks").joinpath(f"data/{name}.txt").read_text("utf-8")
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def read_list(name: str) -> list[str]:
    """Return the words of a list."""
    return [word for line in read_lines(name) for word in line.split()]
