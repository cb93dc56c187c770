"""What was learnt and brought: parity, the latent space, yield by round and source, provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import StringIO

from ruamel.yaml import YAML

from ccdcgan.launchers.report.figures import (
    INK,
    MAX_ROUNDS_AS_BARS,
    ROUND_COLOURS,
    NumberedPhase,
    Plotly,
    axis,
    formula_html,
    is_generated,
    layout,
    plotly_text,
)
from ccdcgan.launchers.report.points import formation
from ccdcgan.launchers.report.sections import text
from ccdcgan.workflows.documents import Outcome, Phase, RoundCounts
from ccdcgan.workflows.insight import LatentMap, Parity

COLOURS = ("#1d4ed8", "#c2410c", "#0f766e")

#: Energies at and beyond which points of the latent map have the last colour, eV/atom.
COLOUR_TOP = 0.3


def parity_figure(parity: Parity, number: int) -> Plotly:
    """Predicted against true energies, with the line on which both are equal; one of several."""
    true, predicted = zip(*parity.pairs, strict=True)
    low, high = min(*true, *predicted), max(*true, *predicted)
    pad = 0.05 * (high - low or 1.0)
    ends = [low - pad, high + pad]
    points = {
        "type": "scatter",
        "mode": "markers",
        "name": plotly_text(parity.title),
        "x": true,
        "y": predicted,
        "marker": {"size": 6, "color": COLOURS[number % len(COLOURS)], "opacity": 0.7},
        "hovertemplate": "true %{x:.3f}, predicted %{y:.3f}<extra></extra>",
        "showlegend": False,
    }
    equal = {
        "type": "scatter",
        "mode": "lines",
        "x": ends,
        "y": ends,
        "line": {"color": "#94a3b8", "width": 1.2, "dash": "dot"},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    frame = layout(
        dragmode=False,
        height=340,
        xaxis=axis("true / eV per atom", range=ends),
        yaxis=axis("predicted / eV per atom", range=ends, scaleanchor="x"),
    )
    return {"data": [equal, points], "layout": frame}


def latent_figure(latent: LatentMap, phases: Sequence[Phase]) -> Plotly | None:
    """Crystals in the plane of the two principal components, coloured by distance to the hull."""
    places = dict(zip(latent.ids, latent.points, strict=True))
    drawn = [
        (i, p)
        for i, p in enumerate(phases)
        if p.id in places and formation(p) is not None and p.e_above_hull is not None
    ]
    if not drawn:
        return None
    groups: dict[str, list[NumberedPhase]] = {"known": [], "generated": []}
    for numbered in drawn:
        groups["generated" if is_generated(numbered[1]) else "known"].append(numbered)
    traces = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": [places[p.id][0] for _, p in members],
            "y": [places[p.id][1] for _, p in members],
            "customdata": [i for i, _ in members],
            "text": [
                f"<b>{formula_html(p.formula)}</b><br>{plotly_text(p.label)}" for _, p in members
            ],
            "hovertemplate": "%{text}<extra></extra>",
            "marker": {
                "symbol": "circle" if name == "known" else "diamond",
                "size": 8 if name == "known" else 10,
                "color": [p.e_above_hull for _, p in members],
                "coloraxis": "coloraxis",
                "line": {"width": 1, "color": "#cbd5e1" if name == "known" else INK},
            },
        }
        for name, members in groups.items()
        if members
    ]
    first, second = (f"{100 * share:.0f}%" for share in latent.explained)
    frame = layout(
        dragmode=False,
        height=440,
        hovermode="closest",
        xaxis=axis(f"first principal component ({first} of the variance)"),
        yaxis=axis(f"second ({second})"),
        coloraxis={
            "cmin": 0,
            "cmax": COLOUR_TOP,
            "colorscale": "Viridis",
            "reversescale": True,
            "colorbar": {"title": {"text": "E<sub>hull</sub><br>eV/atom"}, "thickness": 12},
        },
    )
    return {"data": traces, "layout": frame}


def yield_figure(rounds: Sequence[RoundCounts]) -> Plotly | None:
    """Share of the relaxations that gave a new crystal within 0.10 eV/atom, by round and source."""
    names = list(dict.fromkeys(name for counts in rounds for name in counts.sources))
    if not any(c.relaxed for counts in rounds for c in counts.sources.values()):
        return None
    numbers = list(range(1, len(rounds) + 1))
    lines = len(rounds) > MAX_ROUNDS_AS_BARS
    traces = []
    for i, name in enumerate(names):
        found = [counts.sources.get(name) for counts in rounds]
        near = [c.within.get("0.1", 0) if c else 0 for c in found]
        relaxed = [c.relaxed if c else 0 for c in found]
        colour = ROUND_COLOURS[i % len(ROUND_COLOURS)]
        traces.append(
            {
                "type": "scatter" if lines else "bar",
                "name": plotly_text(name),
                "x": numbers,
                "y": [100 * n / r if r else None for n, r in zip(near, relaxed, strict=True)],
                "text": [f"{n} of {r}" for n, r in zip(near, relaxed, strict=True)],
                "hovertemplate": "round %{x}: %{text}<extra>" + plotly_text(name) + "</extra>",
                "marker": {"color": colour},
                **({} if lines else {"textposition": "auto"}),
            }
        )
    frame = layout(
        dragmode=False,
        height=300,
        barmode="group",
        xaxis=axis("round", dtick=1),
        yaxis=axis("yield / %", rangemode="tozero"),
    )
    return {"data": traces, "layout": frame}


def yields(figures: Mapping[str, Plotly]) -> str:
    """The place of the figure of yields; nothing where there is none."""
    if "yield" not in figures:
        return ""
    return (
        "<h3>Yield by round and source</h3>"
        '<div id="yield" class="plot"></div><p class="caption">Of the crystals that a source had '
        "relaxed in a round, the share that became new crystals within 0.10 eV/atom of the last "
        "hull.</p>"
    )


def learnt(outcome: Outcome, figures: Mapping[str, Plotly]) -> str:
    """The section of predictions and of the latent space; nothing where neither is known."""
    plots = "".join(
        f'<div><h3>{text(parity.title.capitalize())}</h3><div id="parity-{i}" class="plot"></div>'
        f'<p class="caption">{len(parity.pairs)} of them, mean absolute error '
        f"{_mean_error(parity):.3f} eV/atom.</p></div>"
        for i, parity in enumerate(outcome.parity)
    )
    parts = [f'<div class="two">{plots}</div>'] if plots else []
    if "latent" in figures:
        parts.append(
            '<h3>Latent space</h3><div id="latent" class="plot"></div><p class="caption">Crystals '
            "of the last round as the crystal graphs that the generator learns from: what it knew, "
            "and what was chosen to be relaxed, as it was before that. Two principal components "
            "of many: what lies together here may be far apart.</p>"
        )
    if not parts:
        return ""
    return (
        '<section aria-labelledby="h-learnt"><h2 id="h-learnt">What was learnt</h2>'
        f"{''.join(parts)}</section>"
    )


def _mean_error(parity: Parity) -> float:
    return sum(abs(a - b) for a, b in parity.pairs) / len(parity.pairs)


def provenance(outcome: Outcome) -> str:
    """Versions, and the campaign's settings as a file; nothing of earlier versions."""
    found = outcome.provenance
    if found is None:
        return ""
    stream = StringIO()
    YAML().dump(found.campaign, stream)
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    return (
        f'<p class="caption">Campaign {text(found.digest)}, by {text(versions)}.</p>'
        "<details><summary>The campaign's settings, as a file that makes the same again</summary>"
        f'<pre tabindex="0">{text(stream.getvalue())}</pre></details>'
    )
