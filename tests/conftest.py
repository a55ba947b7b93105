"""Fixtures that all tests share."""

import os
from pathlib import Path

import numpy as np
import pytest


def _find_shared() -> Path:
    """Return the folder of test data beside the checkout; it need not exist."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    return Path(os.environ.get("RECLAP_SHARED") or beside)


SHARED = _find_shared()


@pytest.fixture
def rng() -> np.random.Generator:
    """Numbers that are the same in every run."""
    return np.random.default_rng(20240913)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Data that is not part of the project: real clips, captions, labels."""
    if not SHARED.is_dir():
        pytest.skip("no shared test data: set RECLAP_SHARED or put shared/ beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def real_clips(shared: Path) -> list[Path]:
    """Return twenty real clips, two of every class of ESC-10, and the stereo recordings."""
    ogg = sorted((shared / "audio" / "esc10").glob("*/*.ogg"))[::16]
    return [*ogg, *sorted((shared / "audio" / "stereo").glob("*.wav"))]
