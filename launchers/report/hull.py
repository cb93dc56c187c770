"""The convex hull figure of the report: binary, ternary or any number of elements."""

from itertools import cycle, pairwise
from typing import Any

from ccdcgan.launchers.report.figures import (
    INK,
    Figure,
    Phase,
    axis,
    formula_html,
    layout,
    number,
    plotly_text,
)
from ccdcgan.launchers.report.points import (
    Group,
    formation,
    fractions,
    groups_of,
    selection,
    trace,
)

# A member of the hull has a distance of zero; relaxation arithmetic leaves rounding noise.
ON_HULL = 1e-8
# Phases far above the hull would squeeze the hull itself into a line at the bottom.
VIEW_TOP = 0.3
COLOUR_TOP = 0.5
SOLID = {"circle-open": "circle", "x-thin-open": "x-thin-open"}

Point = tuple[float, float]


def hull_figure(
    system: list[str], phases: list[Phase], thresholds: dict[str, float]
) -> tuple[Figure, str]:
    """Draw every phase that has a formation energy against the convex hull.

    Parameters
    ----------
    system
        The elements, two or more; their number chooses the kind of figure.
    phases
        All phase records; a point carries the index of its record as ``customdata``.
    thresholds
        The distances above the hull, in eV/atom, that count as stable and metastable.

    Returns
    -------
    tuple of dict and str
        The figure and its caption (plain text).
    """
    groups = groups_of([(i, p) for i, p in enumerate(phases) if formation(p) is not None])
    if len(system) == 2:
        figure, caption = _binary(system, groups, thresholds)
    elif len(system) == 3:
        figure, caption = _ternary(system, groups)
    else:
        figure, caption = _many(groups)
    missing = sum(formation(p) is None for p in phases)
    if missing:
        noun = "structure has" if missing == 1 else "structures have"
        caption += f" {missing} {noun} no formation energy (not converged) and no point here."
    return figure, caption


def _binary(
    system: list[str], groups: list[Group], thresholds: dict[str, float]
) -> tuple[Figure, str]:
    traces = []
    points: list[Point] = []
    vertices: dict[float, tuple[float, Phase]] = {}
    for group in groups:
        members = [p for _, p in group[2]]
        xs = [fractions(p, system)[1] for p in members]
        ys = [formation(p) or 0.0 for p in members]
        points += zip(xs, ys, strict=True)
        for x, y, phase in zip(xs, ys, members, strict=True):
            distance = number(phase.get("e_above_hull"))
            if distance is not None and distance <= ON_HULL and 0 < x < 1:
                vertices[x] = (y, phase)
        traces.append(trace("scatter", group, x=xs, y=ys))
    line = [(0.0, 0.0), *((x, vertices[x][0]) for x in sorted(vertices)), (1.0, 0.0)]
    low = min([y for _, y in points], default=0.0)
    top = min(max([y for _, y in points] + [0.05]), max(VIEW_TOP, -low))
    above = sum(y > top for _, y in points)
    pad = 0.06 * (top - low)
    first, second = (plotly_text(element) for element in system)
    frame = layout(
        height=560,
        hovermode="closest",
        xaxis=axis(f"x in {first}<sub>1−x</sub>{second}<sub>x</sub>", range=[-0.03, 1.03]),
        yaxis=axis("formation energy / eV per atom", range=[low - 2 * pad, top + pad]),
        annotations=[
            {
                "x": x,
                "y": y,
                "text": formula_html(phase.get("formula", "")),
                "showarrow": False,
                "yshift": -18,
                "font": {"size": 12, "color": INK},
            }
            for x, (y, phase) in sorted(vertices.items())
        ],
    )
    caption = (
        "Every phase with its formation energy; the line is the lower convex hull. The bands are "
        "the distances above it that count as stable and metastable."
    )
    if above:
        noun = "point lies" if above == 1 else "points lie"
        caption += f" {above} {noun} above the view: double-click to see all."
    bands = _bands(line, thresholds)
    return {
        "data": [*bands, _hull_line(line), *traces, selection("scatter")],
        "layout": frame,
    }, caption


def _height(line: list[Point], x: float) -> float:
    for (x0, y0), (x1, y1) in pairwise(line):
        if x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return line[-1][1]


def _bands(line: list[Point], thresholds: dict[str, float]) -> list[dict[str, Any]]:
    # Sampled, because the definitions also ask for E_f < 0, which cuts the shifted hull off.
    grid = sorted({*(i / 400 for i in range(401)), *(x for x, _ in line)})
    colours = {"metastable": "rgba(217,119,6,0.11)", "stable": "rgba(22,163,74,0.13)"}
    base = [_height(line, x) for x in grid]
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": f"{label} region",
            "x": grid + grid[::-1],
            "y": [min(y + thresholds[label], 0.0) for y in base] + base[::-1],
            "fill": "toself",
            "fillcolor": colour,
            "line": {"width": 0},
            "hoverinfo": "skip",
        }
        for label, colour in colours.items()
    ]


def _hull_line(line: list[Point]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "convex hull",
        "x": [x for x, _ in line],
        "y": [y for _, y in line],
        "line": {"color": INK, "width": 1.8},
        "hoverinfo": "skip",
    }


def _ternary(system: list[str], groups: list[Group]) -> tuple[Figure, str]:
    traces = []
    rounds = iter(cycle(("diamond", "square", "triangle-up", "pentagon", "star", "hexagon")))
    for name, marker, unsorted in groups:
        # Many phases share a composition; the lowest of them has to lie on top.
        members = sorted(unsorted, key=lambda m: -(number(m[1].get("e_above_hull")) or 0.0))
        shares = [fractions(p, system) for _, p in members]
        coloured = {
            **marker,
            # The colour is taken by the distance, so the shape has to tell the rounds apart.
            "symbol": next(rounds) if "distinct" in name else SOLID[marker["symbol"]],
            "color": [number(p.get("e_above_hull")) for _, p in members],
            "coloraxis": "coloraxis",
            "line": {"width": 1.2, "color": INK if "distinct" in name else "#cbd5e1"},
        }
        # An open cross has no area to colour but its line.
        if "x-thin" in marker["symbol"]:
            coloured["line"] = {"width": 1.6}
        columns = {axis_name: [share[i] for share in shares] for i, axis_name in enumerate("abc")}
        points = trace("scatterternary", (name, coloured, members), **columns)
        traces.append({**points, "cliponaxis": False})
    corners = {
        f"{name}axis": {
            "title": {"text": plotly_text(element)},
            "min": 0,
            "gridcolor": "#e2e8f0",
            "linecolor": "#94a3b8",
            "tickfont": {"size": 11},
        }
        for name, element in zip("abc", system, strict=True)
    }
    frame = layout(
        height=640,
        hovermode="closest",
        margin={"l": 40, "r": 40, "t": 20, "b": 20},
        ternary={"sum": 1, "bgcolor": "#ffffff", "domain": {"y": [0.03, 0.93]}, **corners},
        coloraxis={
            "cmin": 0,
            "cmax": COLOUR_TOP,
            "colorscale": "Viridis",
            "reversescale": True,
            "colorbar": {
                "title": {"text": "E<sub>hull</sub> / eV per atom", "side": "top"},
                "orientation": "h",
                "thickness": 12,
                "len": 0.7,
                "y": -0.06,
                "yanchor": "top",
            },
        },
    )
    caption = (
        "Every phase at its composition; the colour is the distance above the convex hull "
        f"({COLOUR_TOP} eV/atom and more share one colour)."
    )
    ring = {**selection("scatterternary"), "cliponaxis": False}
    return {"data": [*traces, ring], "layout": frame}, caption


def _many(groups: list[Group]) -> tuple[Figure, str]:
    members = [p for group in groups for _, p in group[2]]
    formulas = sorted({str(p.get("formula", "")) for p in members})
    places = {formula: i for i, formula in enumerate(formulas)}
    traces = [
        trace(
            "scatter",
            group,
            x=[places[str(p.get("formula", ""))] for _, p in group[2]],
            y=[number(p.get("e_above_hull")) for _, p in group[2]],
        )
        for group in groups
    ]
    ticks: dict[str, Any] = {}
    # More names than this would overlap; the hover has them.
    if len(formulas) <= 40:
        ticks = {
            "tickvals": list(places.values()),
            "ticktext": [formula_html(formula) for formula in formulas],
        }
    frame = layout(
        height=560,
        hovermode="closest",
        xaxis=axis("formula, in alphabetical order", **ticks),
        yaxis=axis("energy above hull / eV per atom", rangemode="tozero"),
    )
    caption = (
        "With more than three elements the composition has no plane to be drawn on: each formula "
        "has a place on the horizontal axis, and the vertical axis is the distance above the hull."
    )
    return {"data": [*traces, selection("scatter")], "layout": frame}, caption
