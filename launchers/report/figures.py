"""Funnel and learning curves of the report, and what all its figures share."""

import html
import math
import re
from collections.abc import Mapping
from typing import Any

Figure = dict[str, Any]
Phase = dict[str, Any]

ROUND_COLOURS = ("#c2410c", "#0f766e", "#7c3aed", "#be185d", "#1d4ed8", "#a16207")
FONT = "Inter, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
INK = "#1e293b"
GRID = "#e8ecf1"
# Beyond this many rounds grouped bars are too thin to read, and the table has the numbers.
MAX_ROUNDS_AS_BARS = 4
STAGES = {
    "sampled": "sampled",
    "decoded": "decoded",
    "valid": "valid",
    "screened": "screened",
    "relaxed": "relaxed",
    "converged": "converged",
    "distinct": "distinct",
    "distinct_metastable": "metastable",
    "distinct_stable": "stable",
}


def number(value: Any) -> float | None:
    """Return a finite float, or None for anything that is not one.

    Parameters
    ----------
    value
        A Python or NumPy number, None, or a NaN left by a failed calculation.
    """
    try:
        result = float(value)
    except (TypeError, ValueError):
        return None
    return result if math.isfinite(result) else None


def energy(value: Any, digits: int = 3) -> str:
    """Format an energy with a typographic minus, or a dash where there is none."""
    result = number(value)
    # Adding zero turns the -0.0 that rounding can leave into 0.0.
    return "–" if result is None else f"{round(result, digits) + 0.0:.{digits}f}".replace("-", "−")


def is_generated(phase: Phase) -> bool:
    """Tell whether the network made this phase, rather than the prototype database."""
    return bool((phase.get("origin") or {}).get("kind") == "generated")


def origin_text(phase: Phase) -> str:
    """Describe in one line where a phase came from (not escaped)."""
    origin = phase.get("origin") or {}
    parts = [str(origin.get("kind", "unknown")), str(origin.get("id", "–"))]
    if origin.get("round") is not None:
        parts.append(f"round {origin['round']}")
    return " · ".join(parts)


def formula_html(formula: Any) -> str:
    """Escape a formula and set its numbers as subscripts (plotly.js knows the same tag)."""
    return re.sub(r"(?<=[A-Za-z)\]])(\d+(?:\.\d+)?)", r"<sub>\1</sub>", plotly_text(formula))


def funnel_figure(rounds: list[dict[str, Any]]) -> Figure:
    """Draw how many structures survive each stage, per round and in total."""
    traces = []
    if len(rounds) <= MAX_ROUNDS_AS_BARS:
        for i, counts in enumerate(rounds):
            traces.append(_bars(f"round {i + 1}", ROUND_COLOURS[i], counts))
    if len(rounds) != 1:
        traces.append(_bars("total", INK, stage_totals(rounds)))
    counted = [x for trace in traces for x in trace["x"] if x]
    top = math.log10(max(counted, default=10.0)) + 0.25
    frame = layout(
        dragmode=False,
        height=180 + 9 * (16 + 14 * len(traces)),
        barmode="group",
        bargap=0.3,
        xaxis=axis("structures (logarithmic)", type="log", range=[math.log10(0.7), top], dtick=1),
        yaxis=axis("", autorange="reversed", showgrid=False, ticks=""),
    )
    return {"data": traces, "layout": frame}


def stage_totals(rounds: list[dict[str, Any]]) -> dict[str, int | None]:
    """Sum each stage over the rounds; None where no round counted it."""
    totals: dict[str, int | None] = {}
    for stage in STAGES:
        counts = [int(r[stage]) for r in rounds if number(r.get(stage)) is not None]
        totals[stage] = sum(counts) if counts else None
    return totals


def curve_figure(curve: dict[str, Any]) -> Figure:
    """Draw one learning curve with a line for each of its series."""
    colours = ("#1d4ed8", "#c2410c", "#0f766e", "#7c3aed")
    traces: list[dict[str, Any]] = []
    for i, (name, values) in enumerate((curve.get("series") or {}).items()):
        traces.append(
            {
                "type": "scatter",
                "mode": "lines" if len(values) > 1 else "markers",
                "name": plotly_text(name),
                "x": [number(x) for x in curve.get("x") or []],
                "y": [number(y) for y in values],
                "line": {"color": colours[i % len(colours)], "width": 1.8},
                # Validation is often evaluated at some steps only; its line should not vanish.
                "connectgaps": True,
            }
        )
    finite = [y for trace in traces for y in trace["y"] if y is not None]
    # Losses fall over decades; a linear axis would show only the first few steps.
    wide = bool(finite) and min(finite) > 0 and max(finite) > 100 * min(finite)
    frame = layout(
        dragmode=False,
        height=300,
        xaxis=axis(plotly_text(curve.get("x_label", ""))),
        yaxis=axis(
            plotly_text(curve.get("y_label", "")), **({"type": "log", "dtick": 1} if wide else {})
        ),
    )
    return {"data": traces, "layout": frame}


def plotly_text(value: Any) -> str:
    """Escape a text for plotly.js, which reads a subset of HTML in every label."""
    # It decodes &lt; &gt; &amp; back to characters, but not &quot;.
    return html.escape(str(value), quote=False)


def axis(title: str, **extra: Any) -> dict[str, Any]:
    """Return an axis in the style of the report; ``title`` is plotly markup."""
    return {
        "title": {"text": title, "standoff": 12, "font": {"size": 14}},
        "automargin": True,
        "gridcolor": GRID,
        "zeroline": False,
        "linecolor": "#94a3b8",
        "ticks": "outside",
        "tickcolor": "#94a3b8",
        "ticklen": 4,
        **extra,
    }


def layout(**extra: Any) -> dict[str, Any]:
    """Return a plotly layout in the style of the report."""
    return {
        "font": {"family": FONT, "size": 13, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "#ffffff",
        "margin": {"l": 60, "r": 16, "t": 16, "b": 50},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#94a3b8", "activecolor": INK},
        "hoverlabel": {
            "bgcolor": "#ffffff",
            "bordercolor": "#94a3b8",
            "align": "left",
            "font": {"color": INK},
        },
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "showlegend": True,
        **extra,
    }


def _bars(name: str, colour: str, counts: Mapping[str, Any]) -> dict[str, Any]:
    values = [number(counts.get(stage)) for stage in STAGES]
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "y": list(STAGES.values()),
        # A logarithmic axis has no zero: no bar, and the table below the figure says 0.
        "x": [value if value else None for value in values],
        "text": [f"{value:.0f}" if value else "" for value in values],
        "textposition": "outside",
        "textfont": {"size": 11},
        "cliponaxis": False,
        "marker": {"color": colour},
        "hovertemplate": "%{y}: %{x}<extra>" + name + "</extra>",
    }
