"""Outputs of PyTorch and transformers, computed where both are installed, else read from a record.

``python tests/record_oracle.py`` writes the record, ``tests/data/oracle.npz``. Where both packages
are installed (extra ``oracle``) a test compares with what they compute now, and the record is
compared with it too, so that it cannot go out of date. Large arrays are kept as sketches: products
with a few random directions, which tell how far two arrays are apart without holding either.
"""

import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = Mapping[str, Any]

RECORD = Path(__file__).parent / "data" / "oracle.npz"
LIVE = all(find_spec(name) for name in ("torch", "transformers"))
if LIVE:
    import torch

    torch.set_num_threads(1)  # idle ones of its pool spin and take the cores from ours
RECORDING = os.environ.get("RECLAP_RECORD_ORACLE", "")  # "some" or "all" answers
MISSING = "needs PyTorch and transformers: pip install -e '.[oracle]'"
DIRECTIONS = 8
STALE = 1e-3  # of the largest number; other processors round otherwise, a change shows as more


class Oracle:
    """Arrays by name, of the packages themselves or of the record."""

    def __init__(self) -> None:
        self.recorded: dict[str, npt.NDArray[Any]] = {}
        if RECORD.exists() and RECORDING != "all":
            with np.load(RECORD) as file:
                self.recorded = {name: file[name] for name in file.files}
        self.fresh: dict[str, npt.NDArray[Any]] = {}

    def __call__(self, name: str, compute: Callable[[], Arrays]) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays of `compute`, which imports the packages itself, or their record."""
        if not LIVE:
            prefix = name + "/"
            found = {
                k.removeprefix(prefix): v for k, v in self.recorded.items() if k.startswith(prefix)
            }
            assert found, f"{RECORD.name} has no {name}: run python tests/record_oracle.py"
            return found
        arrays = {key: np.asarray(value) for key, value in compute().items()}
        for key, value in arrays.items():
            self._keep(f"{name}/{key}", value)
        return arrays

    def sketch(self, name: str, compute: Callable[[], Arrays]) -> "Sketches":
        """Return the arrays of `compute` as sketches, whose record is small."""

        def stacked() -> Arrays:
            arrays = compute()
            return {"names": list(arrays), "sketches": [sketch(x) for x in arrays.values()]}

        kept = self(name, stacked)
        return Sketches(dict(zip(kept["names"].tolist(), kept["sketches"], strict=True)))

    def _keep(self, name: str, value: npt.NDArray[Any]) -> None:
        if RECORDING:
            self.fresh[name] = value.astype(np.float32) if value.dtype == np.float64 else value
            return
        assert name in self.recorded, (
            f"{RECORD.name} has no {name}: run python tests/record_oracle.py"
        )
        old = self.recorded[name]
        if old.dtype.kind == "U":
            assert old.tolist() == value.tolist(), f"the record of {name} is out of date"
            return
        assert old.shape == value.shape, f"the record of {name} is out of date"
        apart = float(np.abs(old.astype(np.float64) - value).max(initial=0))
        assert apart <= STALE * float(np.abs(old).max(initial=1e-30)), (
            f"the record of {name} is out of date"
        )

    def write(self) -> None:
        """Write the record of this run."""
        RECORD.parent.mkdir(exist_ok=True)
        with RECORD.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **(self.recorded | self.fresh))


def sketch(x: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the length of an array and its products with DIRECTIONS random directions."""
    flat = np.asarray(x, np.float64).ravel()
    directions = np.random.default_rng(flat.size).standard_normal((DIRECTIONS, flat.size))
    return np.concatenate([[np.linalg.norm(flat)], directions @ flat])


class Sketches:
    """Sketches of arrays by name."""

    def __init__(self, kept: Mapping[str, npt.NDArray[Any]]) -> None:
        self.kept = kept

    def distance(self, name: str, x: npt.ArrayLike) -> float:
        """Return about how far `x` is from the array of that name, relative to its length.

        A product with a random direction is on average (root mean square) as large as the vector.
        """
        want = self.kept[name].astype(np.float64)
        apart = sketch(x)[1:] - want[1:]
        return float(np.sqrt((apart**2).mean()) / max(want[0], 1e-12))
