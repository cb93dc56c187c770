"""Figures to look at: one page of plotly's, readable offline."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from plotly.offline import get_plotlyjs

from ccdcgan.dft.files import to_json
from ccdcgan.launchers.figures.chart import Chart, Figure, Portraits
from ccdcgan.launchers.figures.crystal import balls, edges
from ccdcgan.launchers.report.figures import Plotly, axis, layout, plotly_text

_SYMBOLS = {
    "circle": "circle",
    "ring": "circle-open",
    "star": "star",
    "triangle": "triangle-up-open",
    "filled triangle": "triangle-up",
}

_SCRIPT = """
const figures = JSON.parse(document.getElementById("data").textContent);
for (const [name, figure] of Object.entries(figures))
  Plotly.newPlot("figure-" + name, figure.data, figure.layout, {responsive: true});
"""

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;
color:#1e293b}section{margin:2rem 0}h2{font-size:1.1rem}"""


def page(title: str, figures: Sequence[Figure], lacking: Sequence[str]) -> str:
    """The page as HTML: nothing in it is fetched, and no script runs but its own."""
    # A browser normalises newlines before it hashes a script for the policy.
    plotly = get_plotlyjs().replace("\r\n", "\n").replace("\r", "\n")
    sources = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'"
        for s in (plotly, _SCRIPT)
    )
    policy = (
        f"default-src 'none'; script-src {sources}; style-src 'unsafe-inline'; img-src data: blob:"
    )
    data = to_json({f.name: _plotly(f) for f in figures}, ensure_ascii=False)
    for character in "&<>":
        data = data.replace(character, f"\\u{ord(character):04x}")
    sections = "".join(
        f"<section><h2>{html.escape(f.name)}: {html.escape(f.title)}</h2>"
        f'<div id="figure-{html.escape(f.name)}"></div></section>'
        for f in figures
    )
    notes = "".join(f"<li>{html.escape(line)}</li>" for line in lacking)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{html.escape(title)}</h1>{sections}<ul>{notes}</ul>"
        f'<script type="application/json" id="data">{data}</script>'
        f"<script>{plotly}</script><script>{_SCRIPT}</script></body></html>"
    )


def _plotly(figure: Figure) -> Plotly:
    return _chart(figure) if isinstance(figure, Chart) else _portraits(figure)


def _chart(chart: Chart) -> Plotly:
    traces = []
    for series in chart.series:
        trace: dict[str, Any] = {
            "type": "scatter",
            "mode": "lines" if series.symbol is None else "markers",
            "name": plotly_text(series.name),
            "x": list(series.x),
            "y": [None if y != y else y for y in series.y],
        }
        if series.symbol is None:
            trace["line"] = {"color": series.colour, "width": 1.8}
        else:
            trace["marker"] = {"symbol": _SYMBOLS[series.symbol], "color": series.colour, "size": 8}
        if series.values is not None:
            trace["marker"] |= {"color": list(series.values), "coloraxis": "coloraxis"}
        if series.labels is not None:
            trace["text"] = [plotly_text(label) for label in series.labels]
            trace["hovertemplate"] = "%{text}<extra></extra>"
        traces.append(trace)
    y: dict[str, Any] = {"type": "log"} if chart.log_y else {}
    if chart.y_range is not None:
        y["range"] = list(chart.y_range)
    frame = layout(
        height=520,
        hovermode="closest",
        xaxis=axis(plotly_text(chart.x_label)),
        yaxis=axis(plotly_text(chart.y_label), **y),
    )
    if chart.value_label is not None:
        title = {"text": plotly_text(chart.value_label), "side": "right"}
        low, high = chart.value_range
        frame["coloraxis"] = {
            "colorscale": "Viridis",
            "cmin": low,
            "cmax": high,
            "colorbar": {"title": title},
        }
    return {"data": traces, "layout": frame}


def _portraits(figure: Portraits) -> Plotly:
    count = max(len(figure.crystals), 1)
    has_graphs = any(c.graph is not None for c in figure.crystals)
    low = 0.5 if has_graphs else 0.0
    frame = layout(height=640 if has_graphs else 380, showlegend=False, annotations=[])
    traces = []
    for i, crystal in enumerate(figure.crystals):
        scene, across = f"scene{i + 1}", [i / count, (i + 0.96) / count]
        atoms, cell = balls(crystal.structure), edges(crystal.structure)
        x, y, z = np.array([atom.place for atom in atoms]).T.round(4).tolist()
        traces.append(
            {
                "type": "scatter3d",
                "mode": "markers",
                "scene": scene,
                "x": x,
                "y": y,
                "z": z,
                "text": [atom.symbol for atom in atoms],
                "hovertemplate": "%{text}<extra></extra>",
                "marker": {
                    "size": [9 * atom.radius for atom in atoms],
                    "color": ["rgb({:.0%},{:.0%},{:.0%})".format(*atom.rgb) for atom in atoms],
                    "line": {"width": 1, "color": "#334155"},
                },
            }
        )
        # A gap after each edge.
        x, y, z = (
            [v for edge in cell for v in (*edge[:, k].round(4).tolist(), None)] for k in range(3)
        )
        traces.append(
            {
                "type": "scatter3d",
                "mode": "lines",
                "scene": scene,
                "x": x,
                "y": y,
                "z": z,
                "hoverinfo": "skip",
                "line": {"color": "#94a3b8", "width": 2},
            }
        )
        hidden = {"visible": False}
        frame[scene] = {
            "domain": {"x": across, "y": [low, 0.94]},
            "aspectmode": "data",
            "camera": {"eye": {"x": 1.2, "y": -2.1, "z": 0.6}},
            **dict.fromkeys(("xaxis", "yaxis", "zaxis"), hidden),
        }
        frame["annotations"].append(
            {
                "text": "<br>".join(plotly_text(t) for t in crystal.label.split(", ")),
                "x": sum(across) / 2,
                "y": 1.0,
                "xref": "paper",
                "yref": "paper",
                "yanchor": "top",
                "showarrow": False,
                "font": {"size": 11},
            }
        )
        if crystal.graph is not None:
            number = "" if i == 0 else str(i + 1)
            traces.append(
                {
                    "type": "heatmap",
                    "z": [
                        [None if v != v else round(v, 4) for v in r] for r in crystal.graph.tolist()
                    ],
                    "zmin": -1,
                    "zmax": 1,
                    "colorscale": [[0, "#2166ac"], [0.5, "#f7f7f7"], [1, "#b2182b"]],
                    "showscale": False,
                    "xaxis": f"x{number}",
                    "yaxis": f"y{number}",
                }
            )
            frame[f"xaxis{number}"] = {"domain": across, "visible": False, "anchor": f"y{number}"}
            frame[f"yaxis{number}"] = {
                "domain": [0.0, 0.46],
                "visible": False,
                "autorange": "reversed",
                "scaleanchor": f"x{number}",
                "anchor": f"x{number}",
            }
    return {"data": traces, "layout": frame}


def _rounded(graph: NDArray[np.float32]) -> list[list[float | None]]:
    return [[None if v != v else round(v, 4) for v in row] for row in graph.tolist()]
