"""Charts for HTML pages as SVG text: sharp at any size, with colors for light and dark pages, without scripts."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from htc.visual.curves import COLORS, DASHES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GRID = "#010203", "#030201"
"""Placeholder colors that are replaced by CSS variables for text and grid lines."""
STYLE = """<style>:root{--ink:#1d2329;--grid:#e2e5e9}
@media (prefers-color-scheme:dark){:root{--ink:#d5dade;--grid:#343b42}}
@media print{:root{--ink:#000;--grid:#ccc}}</style>"""

Points = tuple[Sequence[float], Sequence[float]]


def line_chart(
    series: Mapping[str, Points],
    title: str,
    axes: tuple[str, str],
    *,
    limits: tuple[float, float, float, float] | None = None,
    diagonal: bool = False,
    size: tuple[float, float] = (5.6, 3.8),
) -> str:
    """Draw a line for each of `series` (name -> x and y values; NaN leaves a gap) and return the SVG text.

    `axes`: labels of x and y. `limits`: minimum and maximum of x, then of y. `diagonal` draws y = x. `size` is in
    inches.
    """
    figure, plot = _plot(title, axes, size)
    if diagonal:
        plot.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (4, 4)), alpha=0.6)
    for index, (name, (x, y)) in enumerate(series.items()):
        color, dash = COLORS[index % len(COLORS)], DASHES[index // len(COLORS) % len(DASHES)]
        plot.plot(
            np.asarray(x, float),
            np.asarray(y, float),
            color=color,
            linestyle=dash,
            linewidth=1.8,
            label=name,
            marker="o" if len(x) < 15 else None,
            markersize=4,
        )
    if limits is not None:
        plot.set_xlim(limits[0], limits[1])
        plot.set_ylim(limits[2], limits[3])
    if len(series) > 1:
        plot.legend(frameon=False, fontsize=8.5, labelcolor=INK)
    return _svg(figure)


def bar_chart(
    names: Sequence[str],
    values: Sequence[float] | Mapping[str, Sequence[float]],
    title: str,
    axes: tuple[str, str],
    *,
    size: tuple[float, float] = (5.6, 3.8),
    horizontal: bool = False,
    logarithmic: bool = False,
) -> str:
    """Draw a bar for each name, or several side by side if `values` maps series to values, and return the SVG text."""
    figure, plot = _plot(title, axes, size)
    groups = dict(values) if isinstance(values, Mapping) else {"": values}
    width = 0.82 / max(1, len(groups))
    positions = np.arange(len(names))
    for index, (name, heights) in enumerate(groups.items()):
        at = positions + (index - (len(groups) - 1) / 2) * width
        (plot.barh if horizontal else plot.bar)(
            at, np.asarray(heights, float), width, color=COLORS[index % len(COLORS)], label=name
        )
    ticks = [_short(name) for name in names]
    if horizontal:
        plot.set_yticks(positions, ticks)
        plot.invert_yaxis()
        plot.grid(axis="y", visible=False)
    else:
        crowded = sum(map(len, ticks)) > 11 * size[0]
        plot.set_xticks(
            positions,
            ticks,
            rotation=50 if crowded else 0,
            ha="right" if crowded else "center",
            rotation_mode="anchor" if crowded else "default",
        )
        plot.grid(axis="x", visible=False)
    if logarithmic:
        (plot.set_xscale if horizontal else plot.set_yscale)("symlog", linthresh=1)
        # The scale's own labels are formulas, which are not rendered here.
        (plot.xaxis if horizontal else plot.yaxis).set_major_formatter("{x:g}")
    if len(groups) > 1:
        plot.legend(frameon=False, fontsize=8.5, labelcolor=INK)
    return _svg(figure)


def _short(name: str, most: int = 24) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _plot(title: str, axes: tuple[str, str], size: tuple[float, float]) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    figure.patch.set_alpha(0)
    plot = figure.subplots()
    plot.patch.set_alpha(0)
    plot.set_title(title, loc="left", fontsize=11, color=INK, parse_math=False)
    plot.set_xlabel(axes[0], color=INK, fontsize=9.5, parse_math=False)
    plot.set_ylabel(axes[1], color=INK, fontsize=9.5, parse_math=False)
    plot.grid(color=GRID, linewidth=0.8)
    plot.set_axisbelow(True)
    plot.tick_params(colors=INK, labelsize=8.5, length=0)
    for side, spine in plot.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(GRID)
    return figure, plot


def _svg(figure: "Figure") -> str:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    # Class names are plain text, not formulas: a $ in them stays a $.
    stream = io.StringIO()
    with rc_context({"svg.hashsalt": "htc", "text.parse_math": False, "svg.fonttype": "path"}):
        FigureCanvasSVG(figure).print_svg(
            stream, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    text = stream.getvalue()
    start = text.index("<svg")
    body = text[start:].replace(INK, "var(--ink)").replace(GRID, "var(--grid)")
    end_of_tag = body.index(">") + 1
    return body[:end_of_tag] + STYLE + body[end_of_tag:]
