"""Plots of timelines, training runs and similarity matrices; the extra ``plot`` (matplotlib)."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from reclap.errors import needs
from reclap.io import files
from reclap.io.files import StrPath
from reclap.training.folder import BEST, LOG
from reclap.training.run_log import read_log

with needs("matplotlib", "drawing", "plot"):
    from matplotlib.figure import Figure

if TYPE_CHECKING:
    from reclap.model.results import Timeline

__all__ = ["Plot", "curves", "require_format", "save", "save_timeline", "similarity"]

_SMOOTH = 50  # of the steps of a run, one part is averaged for the smooth line
_WRITTEN = 15  # rows and columns at most of a matrix whose values are written into its cells


class Plot(Figure):
    """Figure that a notebook shows as the value of a cell, whatever matplotlib is set to."""

    def _repr_png_(self) -> bytes:
        with io.BytesIO() as f:
            self.savefig(f, format="png")
            return f.getvalue()


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
    require_format(path)
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
    save(figure, path)


def _edges(seconds: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the edges between the columns of windows: half-way between their centres."""
    centre = seconds.mean(axis=1)
    return np.concatenate([seconds[:1, 0], (centre[1:] + centre[:-1]) / 2, seconds[-1:, 1]])


def save(figure: Figure, path: StrPath) -> None:
    """Write a figure.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        What `curves` or `similarity` returns.
    path : path
        Replaced; its suffix chooses the format.

    Raises
    ------
    ValueError
        If matplotlib does not know the format.
    OSError
        If the file cannot be written.
    """
    suffix = require_format(path)
    with files.atomic(Path(path)) as f:
        figure.savefig(f, format=suffix, dpi=150)


# ---- Curves of a run ---------------------------------------------------------------------------


def curves(run: StrPath) -> Plot:
    """Plot a training run: loss, evaluations, learning rate, clips per second, by step.

    Parameters
    ----------
    run : path
        Folder of the run, whose log is read; it may still be going on.

    Returns
    -------
    Plot
        A matplotlib figure, for `save`; a notebook shows it. Without evaluations it has the norm
        of the gradient instead. A dotted line marks the best checkpoint.

    Raises
    ------
    OSError
        If there is no log.
    ValueError
        If it has no step yet.
    """
    run = Path(run)
    lines = read_log(run / LOG)
    steps = [line for line in lines if "loss" in line]
    exams = [line for line in lines if "eval" in line]
    if not steps:
        raise ValueError(f"{run / LOG}: no step yet, nothing to draw")
    figure = Plot(figsize=(10, 6.4), layout="constrained")
    (loss, second), (rate, speed) = figure.subplots(2, 2, sharex=True)
    figure.suptitle(run.name, x=0.01, ha="left")
    _noisy(loss, steps, "loss", "training")
    _dots(loss, {"evaluation": [(x["step"], x["eval"].get("loss")) for x in exams]})
    loss.set_title("loss", loc="left")
    if exams:
        _dots(second, _measures(exams))
        second.set_ylim(bottom=-0.02)
        second.set_title("evaluation", loc="left")
    else:
        _noisy(second, steps, "grad_norm", "")
        second.set_yscale("log")
        second.set_title("norm of the gradient", loc="left")
    rate.plot([x["step"] for x in steps], [x["lr"] for x in steps])
    rate.set_ylim(bottom=0)
    rate.set_title("learning rate", loc="left")
    _noisy(speed, steps, "clips_per_s", "")
    speed.set_ylim(0, 1.1 * max(x["clips_per_s"] for x in steps))
    speed.set_title("clips per second", loc="left")
    _finish(figure, _best_step(run))
    return figure


def _noisy(axes: Any, lines: Sequence[Mapping[str, Any]], key: str, label: str) -> None:
    """Plot a value of each step, faint, and its mean over some steps."""
    steps = np.array([line["step"] for line in lines])
    values = np.array([line[key] for line in lines])
    axes.plot(steps, values, color="tab:blue", alpha=0.3, linewidth=0.8)
    width = min(len(steps), max(1, len(steps) // _SMOOTH))
    mean = np.convolve(values, np.full(width, 1 / width), mode="valid")
    middle = steps[(width - 1) // 2 : len(steps) - width // 2]
    axes.plot(middle, mean, color="tab:blue", label=label or None)


def _dots(axes: Any, series: Mapping[str, Sequence[tuple[int, float | None]]]) -> None:
    """Plot the values of evaluations."""
    colours = ("tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown")
    for colour, (label, pairs) in zip(colours, series.items(), strict=False):
        there = [(step, value) for step, value in pairs if value is not None]
        if there:
            axes.plot(*zip(*there, strict=True), "o-", color=colour, markersize=3, label=label)


def _measures(exams: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, float | None]]]:
    """Return the measures of evaluations that lie between 0 and 1."""
    found = {"accuracy": [(x["step"], x["eval"].get("accuracy")) for x in exams]}
    for way, name in (("text_to_audio", "text to audio"), ("audio_to_text", "audio to text")):
        for measure in ("R@1", "mAP@10"):
            found[f"{measure}, {name}"] = [
                (x["step"], x["eval"].get("retrieval", {}).get(way, {}).get(measure)) for x in exams
            ]
    return found


def _best_step(run: Path) -> int | None:
    """Return the step of the best checkpoint, if the run names one."""
    link = run / BEST
    return int(link.readlink().name.removeprefix("step-")) if link.is_symlink() else None


def _finish(figure: Figure, best: int | None) -> None:
    """Add what all axes of `curves` have: grid, legend, the best step."""
    for axes in figure.axes:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("step")
        axes.tick_params(labelbottom=True)
    for axes in figure.axes[:2]:
        if best is not None:
            axes.axvline(best, color="0.3", linestyle=":", label="best checkpoint")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small", frameon=False)


# ---- Similarity --------------------------------------------------------------------------------


def similarity(
    matrix: npt.ArrayLike,
    rows: Sequence[str],
    columns: Sequence[str] | None = None,
    title: str = "",
) -> Plot:
    """Plot a similarity matrix: cosines of sounds (rows) with texts (columns).

    Parameters
    ----------
    matrix : array of float, shape (rows, columns)
        Such as ``model.embed_audio(sounds) @ model.embed_text(texts).T``.
    rows, columns : sequence of str
        Names; the columns are the rows by default.
    title : str
        Title.

    Returns
    -------
    Plot
        A matplotlib figure, for `save`; a notebook shows it. The greatest value of each row is in
        bold, or has a ring where the matrix is too large to write values into it.

    Raises
    ------
    ValueError
        If names and matrix differ in size.
    """
    values = np.asarray(matrix, dtype=float)
    columns = rows if columns is None else columns
    if values.shape != (len(rows), len(columns)) or not values.size:
        raise ValueError(
            f"matrix: expected shape ({len(rows)}, {len(columns)}) by its names, at least 1 of "
            f"each, got {values.shape}"
        )
    cell = 0.4 if max(values.shape) <= _WRITTEN else 0.2  # inches
    width, height = min(3.2 + cell * len(columns), 24), min(2.4 + cell * len(rows), 24)
    figure = Plot(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    mesh = axes.imshow(values, cmap="Blues", aspect="auto")
    axes.set_xticks(np.arange(len(columns)), map(_short, columns), rotation=45, ha="right")
    axes.set_yticks(np.arange(len(rows)), map(_short, rows))
    axes.tick_params(length=0, labelsize="medium" if cell > 0.2 else "x-small")
    axes.set_xlabel("text")
    axes.set_ylabel("sound")
    axes.set_title(title, loc="left")
    if max(values.shape) <= _WRITTEN:
        _write_values(axes, values)
    else:
        best = values.argmax(axis=1)
        axes.plot(best, np.arange(len(rows)), "o", color="tab:orange", fillstyle="none", ms=4)
    figure.colorbar(mesh, label="cosine", pad=0.01)
    return figure


def _write_values(axes: Any, values: npt.NDArray[np.float64]) -> None:
    """Write each value into its cell, the greatest of a row in bold."""
    low, high = values.min(), values.max()
    for (i, j), value in np.ndenumerate(values):
        dark = value - low > 0.6 * (high - low)
        weight = "bold" if j == values[i].argmax() else "normal"
        style = {"color": "white" if dark else "black", "weight": weight, "fontsize": "small"}
        axes.text(j, i, f"{value:.2f}", ha="center", va="center", **style)


def _short(name: str) -> str:
    """Return a name as an axis can show it."""
    return name if len(name) <= 40 else f"{name[:39]}\N{HORIZONTAL ELLIPSIS}"
