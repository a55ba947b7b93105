"""Aliases of renamed modules, for pickles that were written under their old names."""

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["MOVED", "install"]

MOVED = {
    "reclap.clips": "reclap.audio.decode",
    "reclap.embeddings": "reclap.retrieval.embeddings",
    "reclap.loading": "reclap.model.loading",
    "reclap.manifest": "reclap.io.manifest",
    "reclap.plots": "reclap.plotting",
    "reclap.results": "reclap.model.results",
    "reclap.text_encoder": "reclap.training.text_encoder",
    "reclap.towers": "reclap.config.towers",
}


class _Finder:
    """Finder of the old names, asked after the usual finders."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(name, _Loader) if name in MOVED else None  # type: ignore[arg-type]


class _Loader:
    """Loader of the renamed module under its old name."""

    @staticmethod
    def create_module(spec: ModuleSpec) -> None:
        return None

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        sys.modules[module.__name__] = importlib.import_module(MOVED[module.__name__])


def install() -> None:
    """Make the old names importable, for this process."""
    if _Finder not in sys.meta_path:
        sys.meta_path.append(_Finder)
