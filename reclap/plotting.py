"""Plots of timelines; they need matplotlib, the extra ``plot``."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from reclap.errors import needs
from reclap.io import files
from reclap.io.files import StrPath

with needs("matplotlib", "drawing a timeline", "plot"):
    from matplotlib.figure import Figure

if TYPE_CHECKING:
    from reclap.model.results import Timeline

__all__ = ["require_format", "save_timeline"]


def require_format(path: StrPath) -> str:
    """Return the image format that a suffix names, PNG where there is none.

    Raises
    ------
    ValueError
        If matplotlib does not know it.
    """
    name = Path(path).suffix[1:].lower() or "png"
    known = sorted(Figure().canvas.get_supported_filetypes())
    if name not in known:
        raise ValueError(f"{path}: expected a suffix of {', '.join(known)}, got {name}")
    return name


def save_timeline(timeline: "Timeline", path: StrPath) -> None:
    """Plot the probability of each label over time.

    Parameters
    ----------
    timeline : Timeline
        Result of `Model.timeline`.
    path : path
        Replaced; its suffix chooses the format.

    Raises
    ------
    ValueError
        If matplotlib does not know the format.
    OSError
        If the file cannot be written.
    """
    path, suffix = Path(path), require_format(path)
    count = len(timeline.labels)
    figure = Figure(figsize=(9, 1.4 + 0.3 * count), layout="constrained")
    axes = figure.add_subplot()
    edges = _edges(timeline.seconds)
    values = timeline.probabilities.T
    mesh = axes.pcolormesh(edges, np.arange(count + 1), values, vmin=0, vmax=1, cmap="Blues")
    axes.set_yticks(np.arange(count) + 0.5, timeline.labels)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("seconds")
    axes.set_title(Path(timeline.file).name, loc="left")
    figure.colorbar(mesh, label="probability", pad=0.01)
    with files.atomic(path) as f:
        figure.savefig(f, format=suffix, dpi=150)


def _edges(seconds: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the edges between the columns of windows: half-way between their centres."""
    centre = seconds.mean(axis=1)
    return np.concatenate([seconds[:1, 0], (centre[1:] + centre[:-1]) / 2, seconds[-1:, 1]])
