"""Funnel and learning curves of the report, and what all its figures share."""

import html
import math
import re
from collections.abc import Sequence
from typing import Any

from ccdcgan.dft.structures.hull import depth_name
from ccdcgan.workflows.documents import Curve, Phase, RoundCounts

#: A figure of plotly.js, or a part of one, as the JSON that it reads: it has no types in Python.
Plotly = dict[str, Any]

#: A phase with its number among all phases, by which the page knows it.
NumberedPhase = tuple[int, Phase]

ROUND_COLOURS = ("#c2410c", "#0f766e", "#7c3aed", "#be185d", "#1d4ed8", "#a16207")
FONT = "Inter, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
INK = "#1e293b"
GRID = "#e8ecf1"
# Beyond this many rounds grouped bars are too thin to read, and the table has the numbers.
MAX_ROUNDS_AS_BARS = 4
#: Counts of a round that the funnel shows, and their names.
STAGES = {
    "sampled": "sampled",
    "decoded": "decoded",
    "valid": "valid",
    "screened": "screened",
    "relaxed": "relaxed",
    "converged": "converged",
    "distinct": "distinct",
}


def energy(value: float | None, digits: int = 3) -> str:
    """Format an energy with a typographic minus, or a dash where there is none."""
    # Adding zero turns the -0.0 that rounding can leave into 0.0.
    return "–" if value is None else f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def is_generated(phase: Phase) -> bool:
    """Whether the network made this phase, rather than the prototype database."""
    return phase.origin.kind == "generated"


def origin_text(phase: Phase) -> str:
    """Describe in one line where a phase came from (not escaped)."""
    origin = phase.origin
    parts = [origin.kind, origin.id]
    if origin.round is not None:
        parts.append(f"round {origin.round}")
    return " · ".join(parts)


def formula_html(formula: str) -> str:
    """Escape a formula and set its numbers as subscripts (plotly.js knows the same tag)."""
    return re.sub(r"(?<=[A-Za-z)\]])(\d+(?:\.\d+)?)", r"<sub>\1</sub>", plotly_text(formula))


def funnel_figure(rounds: Sequence[RoundCounts]) -> Plotly:
    """Draw how many structures survive each stage, per round and in total."""
    traces = []
    if len(rounds) <= MAX_ROUNDS_AS_BARS:
        for i, counts in enumerate(rounds):
            traces.append(_bars(f"round {i + 1}", ROUND_COLOURS[i], stages(counts)))
    if len(rounds) != 1:
        traces.append(_bars("total", INK, stage_totals(rounds)))
    counted = [x for trace in traces for x in trace["x"] if x]
    top = math.log10(max(counted, default=10.0)) + 0.25
    frame = layout(
        dragmode=False,
        height=180 + 11 * (16 + 14 * len(traces)),
        barmode="group",
        bargap=0.3,
        xaxis=axis("structures (logarithmic)", type="log", range=[math.log10(0.7), top], dtick=1),
        yaxis=axis("", autorange="reversed", showgrid=False, ticks=""),
    )
    return {"data": traces, "layout": frame}


def stages(counts: RoundCounts) -> dict[str, int]:
    """The counts of `STAGES` in a round, and of the distinct by distance, by their names."""
    found = {name: getattr(counts, stage) for stage, name in STAGES.items()}
    near = reversed(counts.distinct_within.items())
    return found | {depth_name(depth): number for depth, number in near}


def stage_totals(rounds: Sequence[RoundCounts]) -> dict[str, int]:
    """The same over all rounds."""
    found = [stages(counts) for counts in rounds]
    return {name: sum(counts[name] for counts in found) for name in (found[0] if found else ())}


def curve_figure(curve: Curve) -> Plotly:
    """Draw one learning curve with a line for each of its series."""
    colours = ("#1d4ed8", "#c2410c", "#0f766e", "#7c3aed")
    traces = [
        {
            "type": "scatter",
            "mode": "lines" if len(values) > 1 else "markers",
            "name": plotly_text(name),
            "x": curve.x,
            "y": values,
            "line": {"color": colours[i % len(colours)], "width": 1.8},
            # Validation is often evaluated at some steps only; its line should not vanish.
            "connectgaps": True,
        }
        for i, (name, values) in enumerate(curve.series.items())
    ]
    finite = [y for values in curve.series.values() for y in values if y is not None]
    # Losses fall over decades; a linear axis would show only the first few steps.
    wide = bool(finite) and min(finite) > 0 and max(finite) > 100 * min(finite)
    frame = layout(
        dragmode=False,
        height=300,
        xaxis=axis(plotly_text(curve.x_label)),
        yaxis=axis(plotly_text(curve.y_label), **({"type": "log", "dtick": 1} if wide else {})),
    )
    return {"data": traces, "layout": frame}


def plotly_text(value: str) -> str:
    """Escape a text for plotly.js, which reads a subset of HTML in every label."""
    # It decodes &lt; &gt; &amp; back to characters, but not &quot;.
    return html.escape(value, quote=False)


def axis(title: str, **extra: Any) -> Plotly:
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


def layout(**extra: Any) -> Plotly:
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


def _bars(name: str, colour: str, counts: dict[str, int]) -> Plotly:
    values = counts.values()
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "y": list(counts),
        # A logarithmic axis has no zero: no bar, and the table below the figure says 0.
        "x": [value or None for value in values],
        "text": [str(value or "") for value in values],
        "textposition": "outside",
        "textfont": {"size": 11},
        "cliponaxis": False,
        "marker": {"color": colour},
        "hovertemplate": "%{y}: %{x}<extra>" + name + "</extra>",
    }
