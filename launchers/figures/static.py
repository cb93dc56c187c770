"""Figures for print, by matplotlib."""

from __future__ import annotations

import io
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator
from pymatgen.core import Structure

from ccdcgan.launchers.figures.chart import Chart, Figure, Portraits, Series
from ccdcgan.launchers.figures.crystal import balls, edges

Format = Literal["pdf", "svg", "png"]

#: Markers of matplotlib, their areas, and whether they are filled.
_MARKERS = {
    "circle": ("o", 10.0, True),
    "ring": ("o", 16.0, False),
    "star": ("*", 26.0, True),
    "triangle": ("^", 46.0, False),
    "filled triangle": ("^", 46.0, True),
}

#: Text of an SVG stays text, and the same figure gives the same bytes.
_STYLE: Any = {
    "font.size": 8,
    "font.family": "DejaVu Sans",
    "svg.fonttype": "none",
    "svg.hashsalt": "ccdcgan",
    "pdf.fonttype": 42,
    "axes.linewidth": 0.7,
    "legend.framealpha": 0.85,
    "legend.edgecolor": "none",
    # A formula from a file is no formula of TeX.
    "text.parse_math": False,
}


def drawn(figure: Figure, kind: Format) -> bytes:
    """A figure as a file of this kind, 8.5 cm wide, portraits 17 cm."""
    with mpl.rc_context(_STYLE):
        canvas = _chart(figure) if isinstance(figure, Chart) else _portraits(figure)
        stream = io.BytesIO()
        date = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}[kind]
        FigureCanvasAgg(canvas)
        canvas.savefig(stream, format=kind, dpi=200, metadata=date)
        return stream.getvalue()


def _chart(chart: Chart) -> Canvas:
    canvas = Canvas(figsize=(3.6, 3.0), layout="constrained")
    axes = canvas.add_subplot()
    coloured = None
    for series in chart.series:
        if series.symbol is None:
            axes.plot(series.x, series.y, color=series.colour, lw=1.0, label=series.name)
        else:
            coloured = _points(axes, series, chart.value_range) or coloured
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    if all(float(x).is_integer() for s in chart.series for x in s.x if s.symbol is None):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if chart.log_y:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    if chart.y_range is not None:
        axes.set_ylim(*chart.y_range)
    if coloured is not None:
        beyond = max(v for s in chart.series for v in s.values or ()) > chart.value_range[1]
        canvas.colorbar(
            coloured,
            ax=axes,
            label=chart.value_label or "",
            extend="max" if beyond else "neither",
        )
    if len(chart.series) > 1:
        axes.legend(fontsize=6.5, handlelength=1.4)
    return canvas


def _points(axes: Any, series: Series, limits: tuple[float, float]) -> Any:
    """Draw points; what a colour bar is made of where they have values."""
    marker, area, filled = _MARKERS[series.symbol or "circle"]
    if series.values is not None:
        return axes.scatter(
            series.x,
            series.y,
            c=series.values,
            s=area,
            marker=marker,
            cmap="viridis",
            vmin=limits[0],
            vmax=limits[1],
            linewidths=0.3,
            edgecolors="black" if marker == "*" else "none",
            label=series.name,
        )
    axes.scatter(
        series.x,
        series.y,
        s=area,
        marker=marker,
        facecolors=series.colour if filled else "none",
        edgecolors=series.colour,
        linewidths=0.6,
        label=series.name,
    )
    return None


def _portraits(figure: Portraits) -> Canvas:
    count = len(figure.crystals)
    rows = 2 if any(c.graph is not None for c in figure.crystals) else 1
    canvas = Canvas(figsize=(1.75 * max(count, 2), 1.9 * rows), layout="constrained")
    for i, crystal in enumerate(figure.crystals):
        axes: Any = canvas.add_subplot(rows, count, i + 1, projection="3d")
        _crystal(axes, crystal.structure)
        axes.set_title("\n".join(crystal.label.split(", ")), fontsize=6.5, pad=0)
        if crystal.graph is not None:
            below = canvas.add_subplot(rows, count, count + i + 1)
            below.imshow(crystal.graph, cmap="RdBu_r", vmin=-1, vmax=1)
            below.set_xticks([])
            below.set_yticks([])
    return canvas


def _crystal(axes: Any, structure: Structure) -> None:
    for edge in edges(structure):
        axes.plot(*edge.T, color="#94a3b8", lw=0.6)
    for ball in balls(structure):
        axes.scatter(
            *ball.place,
            s=55 * ball.radius**2,
            color=[ball.rgb],
            edgecolors="#334155",
            linewidths=0.3,
            depthshade=False,
        )
    corners = np.concatenate(edges(structure))
    low, high = corners.min(0), corners.max(0)
    for set_limits, bounds in zip(
        (axes.set_xlim, axes.set_ylim, axes.set_zlim), zip(low, high, strict=True), strict=True
    ):
        set_limits(*bounds)
    axes.set_axis_off()
    axes.set_box_aspect(high - low, zoom=0.95)
    axes.view_init(elev=12, azim=-62)
