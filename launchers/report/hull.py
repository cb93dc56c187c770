"""The convex hull figure of the report: binary, ternary or any number of elements."""

from collections.abc import Mapping, Sequence
from itertools import cycle

from ccdcgan.dft.structures.hull import NEAR, Nearness
from ccdcgan.launchers.report.figures import (
    INK,
    Plotly,
    axis,
    formula_html,
    layout,
    plotly_text,
)
from ccdcgan.launchers.report.points import (
    Group,
    formation,
    fractions,
    groups_of,
    is_corner,
    selection,
    trace,
)
from ccdcgan.workflows.documents import Phase

# Phases far above the hull would squeeze the hull itself into a line at the bottom.
VIEW_TOP = 0.3
COLOUR_TOP = 0.5
SOLID = {"circle-open": "circle", "x-thin-open": "x-thin-open"}

Point = tuple[float, float]


def hull_figure(system: Sequence[str], phases: Sequence[Phase]) -> tuple[Plotly, str]:
    """Draw every phase that has a formation energy against the convex hull.

    Parameters
    ----------
    system
        The elements, two or more; their number chooses the kind of figure.
    phases
        All phases; a point carries the index of its own as ``customdata``.

    Returns
    -------
    tuple of dict and str
        The figure and its caption (plain text).
    """
    drawn = [(i, p) for i, p in enumerate(phases) if formation(p) is not None]
    groups = groups_of(drawn)
    if len(system) == 2:
        figure, caption = _binary(system, groups)
    elif len(system) == 3:
        figure, caption = _ternary(system, groups)
    else:
        figure, caption = _many(groups)
    missing = len(phases) - len(drawn)
    if missing:
        noun = "structure has" if missing == 1 else "structures have"
        caption += f" {missing} {noun} no formation energy (not converged) and no point here."
    return figure, caption


def _binary(system: Sequence[str], groups: Sequence[Group]) -> tuple[Plotly, str]:
    traces = []
    energies: list[float] = []
    vertices: dict[float, tuple[float, str]] = {}
    for group in groups:
        members = [p for _, p in group.members]
        xs = [fractions(p, system)[1] for p in members]
        ys = [formation(p) or 0.0 for p in members]
        energies += ys
        for x, y, phase in zip(xs, ys, members, strict=True):
            if is_corner(phase) and 0 < x < 1:
                vertices[x] = (y, phase.formula)
        traces.append(trace("scatter", group, x=xs, y=ys))
    vertices = dict(sorted(vertices.items()))
    line = [(0.0, 0.0), *((x, y) for x, (y, _) in vertices.items()), (1.0, 0.0)]
    low = min(energies, default=0.0)
    top = min(max([*energies, 0.05]), max(VIEW_TOP, -low))
    caption = (
        "Every phase with its formation energy; the line is the lower convex hull. The bands are "
        "what is within 0.025 and 0.10 eV/atom of it."
    )
    if above := sum(y > top for y in energies):
        noun = "point lies" if above == 1 else "points lie"
        caption += f" {above} {noun} above the view: double-click to see all."
    data = [*_bands(line), _hull_line(line), *traces, selection("scatter")]
    return {"data": data, "layout": _binary_frame(system, vertices, low, top)}, caption


def _binary_frame(
    system: Sequence[str], vertices: Mapping[float, tuple[float, str]], low: float, top: float
) -> Plotly:
    """Axes from the lowest formation energy to the top of the view, and the hull's formulas."""
    pad = 0.06 * (top - low)
    first, second = (plotly_text(element) for element in system)
    return layout(
        height=560,
        hovermode="closest",
        xaxis=axis(f"x in {first}<sub>1−x</sub>{second}<sub>x</sub>", range=[-0.03, 1.03]),
        yaxis=axis("formation energy / eV per atom", range=[low - 2 * pad, top + pad]),
        annotations=[
            {
                "x": x,
                "y": y,
                "text": formula_html(formula),
                "showarrow": False,
                "yshift": -18,
                "font": {"size": 12, "color": INK},
            }
            for x, (y, formula) in vertices.items()
        ],
    )


def _bands(line: Sequence[Point]) -> list[Plotly]:
    colours: dict[Nearness, str] = {
        "within 0.10": "rgba(217,119,6,0.11)",
        "within 0.025": "rgba(22,163,74,0.13)",
    }
    grid, base = ([point[i] for point in line] for i in (0, 1))
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": f"{label} eV/atom",
            "x": grid + grid[::-1],
            "y": [y + NEAR[label] for y in base] + base[::-1],
            "fill": "toself",
            "fillcolor": colour,
            "line": {"width": 0},
            "hoverinfo": "skip",
        }
        for label, colour in colours.items()
    ]


def _hull_line(line: Sequence[Point]) -> Plotly:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "convex hull",
        "x": [x for x, _ in line],
        "y": [y for _, y in line],
        "line": {"color": INK, "width": 1.8},
        "hoverinfo": "skip",
    }


def _ternary(system: Sequence[str], groups: Sequence[Group]) -> tuple[Plotly, str]:
    traces = []
    rounds = iter(cycle(("diamond", "square", "triangle-up", "pentagon", "star", "hexagon")))
    for name, marker, unsorted in groups:
        # Many phases share a composition; the lowest of them has to lie on top.
        members = sorted(unsorted, key=lambda m: -(m[1].e_above_hull or 0.0))
        shares = [fractions(p, system) for _, p in members]
        coloured = {
            **marker,
            # The colour is taken by the distance, so the shape has to tell the rounds apart.
            "symbol": next(rounds) if "distinct" in name else SOLID[marker["symbol"]],
            "color": [p.e_above_hull for _, p in members],
            "coloraxis": "coloraxis",
            "line": {"width": 1.2, "color": INK if "distinct" in name else "#cbd5e1"},
        }
        # An open cross has no area to colour but its line.
        if "x-thin" in marker["symbol"]:
            coloured["line"] = {"width": 1.6}
        columns = {axis_name: [share[i] for share in shares] for i, axis_name in enumerate("abc")}
        points = trace("scatterternary", Group(name, coloured, members), **columns)
        traces.append({**points, "cliponaxis": False})
    caption = (
        "Every phase at its composition; the colour is the distance above the convex hull "
        f"({COLOUR_TOP} eV/atom and more share one colour)."
    )
    ring = {**selection("scatterternary"), "cliponaxis": False}
    return {"data": [*traces, ring], "layout": _ternary_frame(system)}, caption


def _ternary_frame(system: Sequence[str]) -> Plotly:
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
    return layout(
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


def _many(groups: Sequence[Group]) -> tuple[Plotly, str]:
    formulas = sorted({p.formula for group in groups for _, p in group.members})
    places = {formula: i for i, formula in enumerate(formulas)}
    traces = [
        trace(
            "scatter",
            group,
            x=[places[p.formula] for _, p in group.members],
            y=[p.e_above_hull for _, p in group.members],
        )
        for group in groups
    ]
    ticks = {}
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
