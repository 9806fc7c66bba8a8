"""Curves of a training as PNG: losses per step, average precision per epoch. Needs no display and no pyplot state."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from htc.errors import OutputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colors, distinguishable with color blindness, without yellow, which is too pale for a line.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
DASHES = ("-", "--", ":")
INK, PALE, GRID = "#222222", "#8FA7B8", "#E4E4E4"


def draw_losses(
    path: str | Path,
    steps: Sequence[int],
    losses: Mapping[str, Sequence[float]],
    evaluated: Sequence[int] = (),
    validation: Mapping[str, Sequence[float]] = MappingProxyType({}),
) -> None:
    """Draw the sum of the losses (left) and every term (right, logarithmic) over the steps.

    Each of `losses` has one value per step. Lines are running means over a fortieth of the run; the pale line shows
    every step. Each of `validation` has one value for each step in `evaluated`, drawn as dots in the term's color.
    Raises `OutputError` if the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.5), dpi=110, layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    x, width = np.asarray(steps), max(1, len(steps) // 40)
    total = (
        np.sum([np.asarray(values, dtype=float) for values in losses.values()], axis=0) if losses else np.zeros(len(x))
    )
    left.plot(x, total, color=PALE, linewidth=0.8, label="each step")
    left.plot(x, running_mean(total, width), color=INK, linewidth=2, label=f"mean of {width}" if width > 1 else "sum")
    validated = (
        np.sum([np.asarray(values, dtype=float) for values in validation.values()], axis=0)
        if validation
        else np.zeros(0)
    )
    if len(validated):
        left.plot(
            evaluated, validated, color=COLORS[1], marker="o", markersize=4, linewidth=1.6, label="validation images"
        )
    _style(left, "Loss (sum of all terms)", "step")
    if len(total):
        recent = validated[-len(validated) // 2 :]
        left.set_ylim(0, max(float(np.percentile(total, 99)), *recent[np.isfinite(recent)], 0.0) * 1.1 or 1)
    left.legend(frameon=False)
    for index, (name, values) in enumerate(losses.items()):
        color, dash = COLORS[index % len(COLORS)], DASHES[index // len(COLORS) % len(DASHES)]
        mean = running_mean(np.asarray(values, dtype=float), width)
        right.plot(x, np.where(mean > 0, mean, np.nan), color=color, linestyle=dash, linewidth=1.6, label=name)
        if name in validation:
            values = np.asarray(validation[name], dtype=float)
            right.plot(
                evaluated, np.where(values > 0, values, np.nan), color=color, linestyle="none", marker="o", markersize=3
            )
    _style(right, "Weighted loss terms" + ("; dots: validation" if validation else ""), "step")
    right.set_yscale("log")
    if losses:
        right.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _save(figure, path)


def draw_average_precision(path: str | Path, epochs: Sequence[float], metrics: Mapping[str, Sequence[float]]) -> None:
    """Draw each of `metrics` (values 0..1; -1 or NaN if undefined) over the epochs, with the last value at its line.

    Raises `OutputError` if the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=110, layout="constrained", facecolor="white")
    axes = figure.subplots()
    x, ends = np.asarray(epochs, dtype=float), []
    for index, (name, values) in enumerate(metrics.items()):
        y = np.where(np.asarray(values, dtype=float) < 0, np.nan, np.asarray(values, dtype=float))
        color, dash = COLORS[index % len(COLORS)], DASHES[index // len(COLORS) % len(DASHES)]
        axes.plot(x, y, color=color, linestyle=dash, marker="o", markersize=4, linewidth=2, label=name)
        if len(y) and np.isfinite(y[-1]):
            ends.append((float(y[-1]), f"{name} {y[-1]:.3f}", color))
    _style(axes, "Average precision on the validation images", "epoch")
    highest = max((end[0] for end in ends), default=0.0)
    axes.set_ylim(0, min(1.0, max(0.1, highest * 1.15)))
    bottom, top = axes.get_ylim()
    for (value, text, color), position in zip(
        sorted(ends), spread([end[0] for end in sorted(ends)], (top - bottom) * 0.055), strict=True
    ):
        axes.annotate(
            text,
            (x[-1], value),
            xytext=(1.02, (position - bottom) / (top - bottom)),
            textcoords="axes fraction",
            color=color,
            fontsize=9,
            va="center",
        )
    _save(figure, path)


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Return the mean of each value and up to `width - 1` values before it, with the same length."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - width)
    return (sums[ends] - sums[starts]) / (ends - starts)


def spread(positions: Sequence[float], distance: float) -> list[float]:
    """Move ascending positions up as little as needed for a `distance` between them, so that labels do not overlap."""
    moved: list[float] = []
    for position in positions:
        moved.append(max(position, moved[-1] + distance) if moved else position)
    return moved


def _style(axes: "Axes", title: str, x_label: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.set_xlabel(x_label, color=INK)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _save(figure: "Figure", path: str | Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        FigureCanvasAgg(figure).print_png(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}. Use another folder, or free disk space") from error
