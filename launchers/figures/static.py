"""Figures for print, by matplotlib."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from ase.data import atomic_numbers, covalent_radii
from ase.data.colors import jmol_colors
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from pymatgen.core import Structure

from ccdcgan.launchers.figures.chart import Chart, Figure, Portraits, Series

Format = Literal["pdf", "svg", "png"]

#: Markers of matplotlib, their areas, and whether they are filled.
_MARKERS = {
    "circle": ("o", 10.0, True),
    "ring": ("o", 16.0, False),
    "star": ("*", 34.0, True),
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
    "legend.frameon": False,
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
    limits = [v for s in chart.series for v in s.values or ()]
    coloured = None
    for series in chart.series:
        if series.symbol is None:
            axes.plot(series.x, series.y, color=series.colour, lw=1.0, label=series.name)
        else:
            coloured = _points(axes, series, limits) or coloured
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    if chart.log_y:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    if chart.y_range is not None:
        axes.set_ylim(*chart.y_range)
    if coloured is not None:
        canvas.colorbar(coloured, ax=axes, label=chart.value_label or "")
    if len(chart.series) > 1:
        axes.legend(fontsize=6.5, handlelength=1.4)
    return canvas


def _points(axes: Any, series: Series, limits: Sequence[float]) -> Any:
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
            vmin=min(limits),
            vmax=max(limits),
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
    """Atoms as balls in the edges of their cell, atoms of faces and corners on each."""
    corners = np.array(list(itertools.product((0, 1), repeat=3)))
    for a, b in itertools.combinations(corners, 2):
        if abs(a - b).sum() == 1:
            edge = np.array([a, b]) @ structure.lattice.matrix
            axes.plot(*edge.T, color="#94a3b8", lw=0.6)
    for site in structure:
        number = atomic_numbers[site.specie.symbol]
        inside = np.mod(site.frac_coords, 1.0)
        inside[inside > 0.99] = 0.0
        images = [inside + c for c in corners if ((inside + c) <= 1.01).all()]
        places = np.array(images) @ structure.lattice.matrix
        axes.scatter(
            *places.T,
            s=55 * float(covalent_radii[number]) ** 2,
            color=[tuple(jmol_colors[number])],
            edgecolors="#334155",
            linewidths=0.3,
            depthshade=False,
        )
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.view_init(elev=12, azim=-62)
