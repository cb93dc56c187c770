"""Points of the hull figure: who belongs to which group, and what hovering shows."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, get_args

from ccdcgan.launchers.report.figures import (
    ROUND_COLOURS,
    NumberedPhase,
    Plotly,
    energy,
    formula_html,
    is_generated,
    origin_text,
    plotly_text,
)
from ccdcgan.workflows.documents import NoPlace, Phase

DATABASE_COLOUR = "#64748b"
#: A member of the hull has a distance of zero; relaxation arithmetic leaves rounding noise.
ON_HULL = 1e-8


class Group(NamedTuple):
    """Phases that share a name in the legend and a marker."""

    name: str
    marker: Plotly
    members: list[NumberedPhase]


def formation(phase: Phase) -> float | None:
    """Return the formation energy in eV/atom, or None where there is none to be believed."""
    return None if phase.label == "untrusted" else phase.formation_energy_per_atom


def is_corner(phase: Phase) -> bool:
    """Whether a compound is a corner of the convex hull.

    What ran out of steps, or is untrusted, may lie below the hull and is no part of it.
    """
    distance = phase.e_above_hull
    return distance is not None and distance <= ON_HULL and phase.label not in get_args(NoPlace)


def amounts(phase: Phase) -> Counter[str]:
    """Return the number of atoms of each element in the cell."""
    return Counter(phase.structure.composition.get_el_amt_dict())


def fractions(phase: Phase, system: Sequence[str]) -> list[float]:
    """Return the atomic fraction of each element of the system."""
    counts = amounts(phase)
    total = sum(counts[element] for element in system)
    return [round(counts[element] / total, 6) if total else 0.0 for element in system]


def groups_of(drawn: Iterable[NumberedPhase]) -> list[Group]:
    """Sort the drawn phases, each with its index, by where they come from."""
    database: list[NumberedPhase] = []
    duplicates: list[NumberedPhase] = []
    rounds: dict[int, list[NumberedPhase]] = {}
    unnumbered = -1
    for i, phase in drawn:
        if not is_generated(phase):
            database.append((i, phase))
        elif not phase.distinct:
            duplicates.append((i, phase))
        else:
            number = phase.origin.round
            rounds.setdefault(unnumbered if number is None else number, []).append((i, phase))
    groups = [
        Group(
            "database",
            {"symbol": "circle-open", "size": 8, "color": DATABASE_COLOUR, "line": {"width": 1.6}},
            database,
        ),
        Group(
            "generated, duplicate",
            {"symbol": "x-thin-open", "size": 6, "color": "#94a3b8", "line": {"width": 1.2}},
            duplicates,
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
        groups.append(Group(name, marker, members))
    return [group for group in groups if group.members]


def _hover(phase: Phase) -> str:
    lines = [
        f"<b>{formula_html(phase.formula)}</b>",
        plotly_text(phase.spacegroup),
        f"E<sub>f</sub> = {energy(phase.formation_energy_per_atom)} eV/atom",
        f"E<sub>hull</sub> = {energy(phase.e_above_hull)} eV/atom",
        plotly_text(f"{phase.label} · {origin_text(phase)}"),
    ]
    return "<br>".join(lines)


def trace(kind: str, group: Group, **coordinates: list[Any]) -> Plotly:
    """Return the points of one group, marked so that the page can count them."""
    return {
        "type": kind,
        "mode": "markers",
        "name": group.name,
        "marker": group.marker,
        "text": [_hover(p) for _, p in group.members],
        "customdata": [i for i, _ in group.members],
        "hovertemplate": "%{text}<extra></extra>",
        # The page counts the points of the traces that carry this mark, and only of those.
        "meta": {"phases": True},
        **coordinates,
    }


def selection(kind: str) -> Plotly:
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
