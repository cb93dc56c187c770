"""The result of a run in one sentence and in a row of key numbers."""

from collections.abc import Iterable, Mapping, Sequence

from ccdcgan.launchers.report.figures import energy, is_generated, stage_totals
from ccdcgan.launchers.report.sections import count, duration, text
from ccdcgan.models.energy.potential import PotentialErrors
from ccdcgan.workflows.documents import Phase, Summary

#: A key number: value, unit, what it is.
Card = tuple[str, str, str]


def headline(
    system: Iterable[str],
    phases: Sequence[Phase],
    best: Sequence[Phase],
    limits: Mapping[str, float],
) -> str:
    """State the result in one sentence, also where there is none.

    Parameters
    ----------
    system
        The elements.
    phases
        All phases.
    best
        The distinct generated phases by distance above the hull.
    limits
        The thresholds in eV/atom by label.
    """
    name = text("–".join(system))
    low = [p for p in best if p.label in ("stable", "metastable")]
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
    distance = phase.e_above_hull or 0.0
    if distance < 5e-4:
        return "on the convex hull"
    return f"{distance:.3f} eV/atom above the hull"


def cards(summary: Summary, best: Sequence[Phase]) -> str:
    """Return the row of key numbers."""
    labels = [p.label for p in best]
    match, constraint = summary.autoencoder.match_fraction, summary.constraint
    items = [
        (count(stage_totals(summary.rounds)["sampled"]), "", "candidates proposed"),
        (count(labels.count("stable")), "", "new stable structures"),
        (count(labels.count("metastable")), "", "new metastable structures"),
        (energy(best[0].e_above_hull if best else None), "eV/atom", "best above the hull"),
        (count(summary.database.converged), "", "relaxed structures in the database"),
        (
            "–" if match is None else f"{100 * match:.0f}",
            "%",
            f"reconstructed by the autoencoder, {count(summary.autoencoder.held_out)} held out",
        ),
        (
            energy(constraint.mae_ev_per_atom),
            "eV/atom",
            f"MAE of the constraint, R² {energy(constraint.r2, 2)}, "
            f"{count(constraint.held_out)} held out",
        ),
        *([_potential(summary.potential)] if summary.potential else []),
        (duration(sum(summary.wall_seconds.values())), "", "wall time"),
    ]
    return '<div class="cards">' + "".join(_card(*item) for item in items) + "</div>"


def _potential(errors: PotentialErrors) -> Card:
    return (
        energy(errors.force_mae, 2),
        "eV/Å",
        "MAE of forces of the potential learnt on the way"
        f"{'' if errors.used else ' (not used)'}, mean force {energy(errors.mean_force, 2)}, "
        f"{count(errors.held_out)} geometries held out",
    )


def _card(value: str, unit: str, what: str) -> str:
    suffix = f' <span class="unit">{unit}</span>' if unit and value != "–" else ""
    return (
        f'<div class="card"><div class="value">{value}{suffix}</div>'
        f'<div class="what">{what}</div></div>'
    )
