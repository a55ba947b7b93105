"""Optional parts: a test that needs one skips where it is absent, and says how to get it."""

from typing import TYPE_CHECKING, Any

import pytest

from reclap.errors import BackendError
from reclap.runtime import libraries

if TYPE_CHECKING:
    from reclap import _kernels as kernels

__all__ = ["kernels", "needs"]


def needs(module: str, extra: str) -> Any:
    """Return a module, or skip: `extra` is the extra of this project that installs it."""
    reason = f"needs {module.split('.')[0]}: pip install -e '.[{extra}]'"
    return pytest.importorskip(module, reason=reason, exc_type=ImportError)


def __getattr__(name: str) -> Any:
    """Return kernels as plain functions at ``from needs import kernels``, or skip the module."""
    if name != "kernels":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return libraries.load_kernels()
    except BackendError as error:
        pytest.skip(str(error), allow_module_level=True)
