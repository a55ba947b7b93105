"""Optional packages: a test that needs one skips where it is absent, and says how to get it."""

from typing import Any

import pytest


def needs(module: str, extra: str) -> Any:
    """Return a module, or skip: `extra` is the extra of this project that installs it."""
    reason = f"needs {module.split('.')[0]}: pip install -e '.[{extra}]'"
    return pytest.importorskip(module, reason=reason, exc_type=ImportError)
