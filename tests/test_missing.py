"""A package that is not installed: one exception everywhere, with a command that installs it."""

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import reclap
from reclap import plotting
from reclap.audio import load
from reclap.errors import MissingDependencyError
from reclap.io import manifest
from reclap.llm.embedded import Embedded
from reclap.llm.server import Server


def draw():
    sys.modules.pop("reclap.plotting")
    import reclap.plotting  # noqa: F401


USES = {
    "huggingface_hub": lambda folder: reclap.load("hf:org/name"),
    "pyarrow": lambda folder: list(manifest.items(folder / "m.parquet")),
    "openai": lambda folder: Server("http://127.0.0.1:1/v1", "model"),
    "xllamacpp": lambda folder: Embedded(Path("m.gguf")),
    "matplotlib": lambda folder: draw(),
    "tokenizers": lambda folder: reclap.load(folder),
    "soxr": lambda folder: load(np.zeros(100), 8000, rate=16000),
}
MODULES = {
    "matplotlib": ["matplotlib.figure"],
    "pyarrow": ["pyarrow.parquet"],
    "tokenizers": ["reclap.text.vocabulary", "reclap.text.tokenizer_limits"],
}


@pytest.mark.parametrize("package", USES)
def test_missing_package_is_named_with_its_command(package, small_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "reclap.plotting", plotting)  # put back afterwards
    for name in MODULES.get(package, []):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        MissingDependencyError, match=f"needs {package}: pip install {package} "
    ) as e:
        USES[package](small_folder)
    assert isinstance(e.value, reclap.BackendError)
    assert isinstance(e.value, ImportError)
    assert str(pickle.loads(pickle.dumps(e.value))) == str(e.value)  # noqa: S301


def test_folder_that_hides_the_installed_package_is_named(tmp_path):
    clone, installed = tmp_path / "clone", tmp_path / "site"
    package = Path(reclap.__file__).parent
    without = shutil.ignore_patterns("_core.*", "models", "__pycache__")
    shutil.copytree(package, clone / "reclap", ignore=without)
    (installed / "reclap").mkdir(parents=True)
    (installed / "reclap" / "_core.x.so").touch()
    code = "from reclap.runtime.libraries import load_core; load_core()"
    run = subprocess.run(  # noqa: S603
        [sys.executable, "-S", "-c", code],  # without what an editable install finds
        cwd=clone,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    said = run.stderr.splitlines()[-1]
    assert f"{clone} hides the package that is installed at {installed / 'reclap'}" in said
    assert "-P" in said
