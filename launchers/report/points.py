"""Points of the hull figure: who belongs to which group, and what hovering shows."""

from collections import Counter
from typing import Any

from ccdcgan.launchers.report.figures import (
    ROUND_COLOURS,
    Phase,
    energy,
    formula_html,
    is_generated,
    number,
    origin_text,
    plotly_text,
)

DATABASE_COLOUR = "#64748b"

Group = tuple[str, dict[str, Any], list[tuple[int, Phase]]]


def formation(phase: Phase) -> float | None:
    """Return the formation energy in eV/atom, or None where there is none to be believed."""
    if phase.get("label") == "untrusted":
        return None
    return number(phase.get("formation_energy_per_atom"))


def fractions(phase: Phase, system: list[str]) -> list[float]:
    """Return the atomic fraction of each element of the system."""
    counts: Counter[str] = Counter()
    for site in phase["structure"]["sites"]:
        for species in site["species"]:
            counts[species["element"]] += species.get("occu", 1)
    total = sum(counts[element] for element in system)
    return [round(counts[element] / total, 6) if total else 0.0 for element in system]


def groups_of(drawn: list[tuple[int, Phase]]) -> list[Group]:
    """Sort the drawn phases, each with its index, by where they come from."""
    generated = [(i, p) for i, p in drawn if is_generated(p)]
    rounds: dict[int, list[tuple[int, Phase]]] = {}
    unnumbered = -1
    for i, phase in generated:
        if phase.get("distinct"):
            index = phase["origin"].get("round")
            key = unnumbered if index is None else int(index)
            rounds.setdefault(key, []).append((i, phase))
    groups: list[Group] = [
        (
            "database",
            {"symbol": "circle-open", "size": 8, "color": DATABASE_COLOUR, "line": {"width": 1.6}},
            [(i, p) for i, p in drawn if not is_generated(p)],
        ),
        (
            "generated, duplicate",
            {"symbol": "x-thin-open", "size": 6, "color": "#94a3b8", "line": {"width": 1.2}},
            [(i, p) for i, p in generated if not p.get("distinct")],
        ),
    ]
    for key, members in sorted(rounds.items()):
        marker = {
            "symbol": "diamond",
            "size": 11,
            "color": ROUND_COLOURS[(key - 1) % len(ROUND_COLOURS)],
            "line": {"width": 1, "color": "#ffffff"},
        }
        name = "generated, distinct" + ("" if key == unnumbered else f", round {key}")
        groups.append((name, marker, members))
    return [group for group in groups if group[2]]


def _hover(phase: Phase) -> str:
    lines = [
        f"<b>{formula_html(phase.get('formula', ''))}</b>",
        plotly_text(phase.get("spacegroup", "")),
        f"E<sub>f</sub> = {energy(phase.get('formation_energy_per_atom'))} eV/atom",
        f"E<sub>hull</sub> = {energy(phase.get('e_above_hull'))} eV/atom",
        plotly_text(f"{phase.get('label', '')} · {origin_text(phase)}"),
    ]
    return "<br>".join(lines)


def trace(kind: str, group: Group, **coordinates: list[Any]) -> dict[str, Any]:
    """Return the points of one group, marked so that the page can count them."""
    name, marker, members = group
    return {
        "type": kind,
        "mode": "markers",
        "name": name,
        "marker": marker,
        "text": [_hover(p) for _, p in members],
        "customdata": [i for i, _ in members],
        "hovertemplate": "%{text}<extra></extra>",
        # The page counts the points of the traces that carry this mark, and only of those.
        "meta": {"phases": True},
        **coordinates,
    }


def selection(kind: str) -> dict[str, Any]:
    """Return the ring that the page puts around the structure shown in the viewer."""
    names = ("a", "b", "c") if kind == "scatterternary" else ("x", "y")
    return {
        "type": kind,
        "mode": "markers",
        **{name: [None] for name in names},
        "marker": {
            "symbol": "circle-open",
            "size": 20,
            "color": "#0ea5e9",
            "line": {"width": 2.5},
        },
        "hoverinfo": "skip",
        "showlegend": False,
        "meta": {"selection": list(names)},
    }
