"""Fixtures that all tests share."""

import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import folders
import numpy as np
import oracle as oracles
import pytest

import reclap
import reclap.checkpoints.model_folder
from reclap.errors import BackendError
from reclap.runtime import libraries

# A shell ignores ctrl-C for what it starts in the background, and children inherit that: tests of
# ctrl-C would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _find_shared() -> Path:
    """Return the folder of test data beside the checkout; it need not exist."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    return Path(os.environ.get("RECLAP_SHARED") or beside)


SHARED = _find_shared()


def pytest_configure() -> None:
    """Stop where the modules beside these sources were built of others: they are a riddle."""
    root = Path(__file__).resolve().parents[1]
    beside = Path(reclap.__file__).resolve().parent == root / "reclap" and (root / "csrc").is_dir()
    if beside and getattr(libraries.core, "sources", "") != _digest(root / "csrc"):
        pytest.exit(
            "reclap/_core was built of other sources than csrc/ holds: pip install -e . builds it, "
            "or, with the extra dev, python setup.py build_ext --inplace",
            returncode=3,
        )
    try:
        libraries.load_kernels()
    except BackendError as error:  # an installed reclap may lack them: many tests then skip
        if beside or os.environ.get("CI"):
            pytest.exit(str(error), returncode=3)


def _digest(sources: Path) -> str:
    """Return what setup.py calls these sources."""
    total = hashlib.sha256()
    for path in sorted(sources.glob("*/*.[ch]")):
        name = f"{path.parent.name}/{path.name}"
        total.update(name.encode() + b"\0" + path.read_bytes())
    return total.hexdigest()[:16]


@pytest.fixture
def rng() -> np.random.Generator:
    """Numbers that are the same in every run."""
    return np.random.default_rng(20240913)


@pytest.fixture(scope="session")
def oracle() -> Iterator[oracles.Oracle]:
    """Answers of PyTorch and transformers, live or recorded."""
    asked = oracles.Oracle()
    yield asked
    if oracles.RECORDING:
        asked.write()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that ask the oracle; skip those that need it live where it is absent."""
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(1800))
        if "oracle" in getattr(item, "fixturenames", ()):
            item.add_marker("oracle")
        elif item.get_closest_marker("oracle") and not oracles.LIVE:
            item.add_marker(pytest.mark.skip(reason=oracles.MISSING))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the tests out of the user's cache folder."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECLAP_CACHE", str(folder))
        yield folder


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


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a complete model folder of a few kilobytes with random weights; not to be changed."""
    return folders.write_folder(tmp_path_factory.mktemp("model") / "small")


@pytest.fixture(scope="session")
def fused_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of such a model with feature fusion; not to be changed."""
    folder = tmp_path_factory.mktemp("model") / "fused"
    return folders.write_folder(folder, data=folders.fused_config())


@pytest.fixture(scope="session")
def small(small_folder: Path) -> reclap.Model:
    """Return the model of that folder."""
    return reclap.load(small_folder, threads=2)


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return seven WAV files of 0.3 to 3.6 s, which is up to four windows of the small model."""
    folder = tmp_path_factory.mktemp("tones")
    return [
        folders.write_wav(folder / f"{i}.wav", folders.tone(200 * 1.5**i, 0.3 + 0.55 * (i * 3 % 7)))
        for i in range(7)
    ]


@pytest.fixture(scope="session")
def mini() -> reclap.Model:
    """Return the bundled model."""
    if not (reclap.checkpoints.model_folder.resolve("mini") / "model.safetensors").exists():
        pytest.skip("the bundled model's audio tower is not trained yet")
    return reclap.load("mini")
