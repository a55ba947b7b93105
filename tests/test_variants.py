"""Builds for older processors compute the same.

The core holds its hot loops three times, and the loader chooses; `.ci/run variants` builds it with
one of them alone, for these tests. oneDNN is held to the same instruction set.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".ci" / "build"
BUILDS = {"x86-64": "SSE41", "x86-64-v3": "AVX2"}  # and what oneDNN calls it
pytestmark = pytest.mark.skipif(
    not all((FOLDER / target / "reclap").is_dir() for target in BUILDS),
    reason="no core for other processors: .ci/run variants builds it",
)


def results(out: Path, *arguments: str, **environment: str) -> dict[str, np.ndarray]:
    """Return what tests/variants.py finds in a process of its own."""
    command = [sys.executable, str(ROOT / "tests" / "variants.py"), str(out), *arguments]
    subprocess.run(command, check=True, env=os.environ | environment)  # noqa: S603
    with np.load(out) as found:
        return dict(found)


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """Return what the core computes with the best loops for this processor."""
    return results(tmp_path_factory.mktemp("best") / "best.npz")


@pytest.mark.parametrize("target", BUILDS)
def test_instruction_sets_agree(target, best, tmp_path):
    limit = {"ONEDNN_MAX_CPU_ISA": BUILDS[target]}
    other = results(tmp_path / "other.npz", str(FOLDER / target), **limit)
    assert other.keys() == best.keys()
    for name, want in best.items():
        gap = np.abs(other[name] - want).max() / max(1, np.abs(want).max())
        assert gap <= 1e-6, name
