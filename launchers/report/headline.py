"""The result of a run in one sentence and in a row of key numbers."""

from collections.abc import Iterable, Mapping
from typing import Any

from ccdcgan.launchers.report.figures import Phase, energy, is_generated, number, stage_totals
from ccdcgan.launchers.report.sections import count, duration, text


def headline(
    system: Iterable[str], phases: list[Phase], best: list[Phase], limits: Mapping[str, float]
) -> str:
    """State the result in one sentence, also where there is none.

    Parameters
    ----------
    system
        The elements.
    phases
        All phase records.
    best
        The distinct generated phases by distance above the hull.
    limits
        The thresholds in eV/atom by label.
    """
    name = text("–".join(system))
    low = [p for p in best if p.get("label") in ("stable", "metastable")]
    if low:
        noun = "crystal" if len(low) == 1 else "crystals"
        return f"{len(low)} new low-energy {name} {noun}, best {_place(low[0])}."
    made = sum(is_generated(p) for p in phases)
    if not made:
        return f"No generated {name} crystal was relaxed; this report shows the database only."
    if not best:
        return (
            f"No new {name} crystal: none of the {made} generated and relaxed structures "
            "converged to one that is not known already."
        )
    return (
        f"No new low-energy {name} crystal: of {len(best)} distinct generated structures none is "
        f"within {limits['metastable']:.3f} eV/atom of the hull with a negative formation energy; "
        f"the best is {_place(best[0])}."
    )


def _place(phase: Phase) -> str:
    distance = number(phase.get("e_above_hull")) or 0.0
    if distance < 5e-4:
        return "on the convex hull"
    return f"{distance:.3f} eV/atom above the hull"


def cards(summary: Mapping[str, Any], best: list[Phase]) -> str:
    """Return the row of key numbers."""
    database = summary.get("database") or {}
    autoencoder = summary.get("autoencoder") or {}
    constraint = summary.get("constraint") or {}
    tested = count(constraint.get("held_out"))
    labels = [p.get("label") for p in best]
    match = number(autoencoder.get("match_fraction"))
    times = [number(t) for t in (summary.get("wall_seconds") or {}).values()]
    known = [t for t in times if t is not None]
    sampled = stage_totals(summary.get("rounds") or [])["sampled"]
    items = [
        (count(sampled), "", "crystals sampled by the generator"),
        (count(labels.count("stable")), "", "new stable structures"),
        (count(labels.count("metastable")), "", "new metastable structures"),
        (energy(best[0].get("e_above_hull")) if best else "–", "eV/atom", "best above the hull"),
        (count(database.get("converged")), "", "relaxed structures in the database"),
        (
            "–" if match is None else f"{100 * match:.0f}",
            "%",
            f"reconstructed by the autoencoder, {count(autoencoder.get('held_out'))} held out",
        ),
        (
            energy(constraint.get("mae_ev_per_atom")),
            "eV/atom",
            f"MAE of the constraint, R² {energy(constraint.get('r2'), 2)}, {tested} held out",
        ),
        (duration(sum(known)) if known else "–", "", "wall time"),
    ]
    if potential := summary.get("potential"):
        items.insert(
            -1,
            (
                energy(potential.get("force_mae"), 2),
                "eV/Å",
                "MAE of forces of the potential learnt on the way"
                f"{'' if potential.get('used', True) else ' (not used)'}, mean force "
                f"{energy(potential.get('mean_force'), 2)}, {count(potential.get('held_out'))} "
                "geometries held out",
            ),
        )
    return '<div class="cards">' + "".join(_card(*item) for item in items) + "</div>"


def _card(value: str, unit: str, what: str) -> str:
    suffix = f' <span class="unit">{unit}</span>' if unit and value != "–" else ""
    return (
        f'<div class="card"><div class="value">{value}{suffix}</div>'
        f'<div class="what">{what}</div></div>'
    )
