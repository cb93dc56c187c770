"""The result of a run in one sentence and in a row of key numbers."""

from collections.abc import Sequence

from ccdcgan.dft.structures.hull import NEAR, Nearness
from ccdcgan.launchers.report.figures import energy, is_generated
from ccdcgan.launchers.report.sections import count, duration, text
from ccdcgan.models.energy.potential import PotentialErrors
from ccdcgan.workflows.documents import Phase, Summary
from ccdcgan.workflows.phases import within

#: A key number: value, unit, what it is.
Card = tuple[str, str, str]


def headline(summary: Summary, phases: Sequence[Phase], best: Sequence[Phase]) -> str:
    """State the result in one sentence, also where there is none.

    Parameters
    ----------
    phases
        All phases.
    best
        The distinct generated phases by distance above the hull.
    """
    name = text("–".join(summary.system))
    near = within(best)["0.1"]
    if near:
        noun = "crystal" if near == 1 else "crystals"
        return (
            f"{near} new {name} {noun} within 0.10 eV/atom of the convex hull, the best "
            f"{_place(best[0])}; new: {text(summary.newness)}."
        )
    made = sum(is_generated(p) for p in phases)
    if not made:
        return f"No generated {name} crystal was relaxed; this report shows the database only."
    if not best:
        return (
            f"No new {name} crystal: none of the {made} generated and relaxed structures "
            "converged to one that is not known already."
        )
    return (
        f"No new {name} crystal near the hull: of {len(best)} distinct generated structures none "
        f"is within 0.10 eV/atom of it; the best is {_place(best[0])}."
    )


def _place(phase: Phase) -> str:
    distance = phase.e_above_hull or 0.0
    if phase.label == "on the hull":
        return "on it"
    return f"{distance:.3f} eV/atom above it"


def cards(summary: Summary, best: Sequence[Phase]) -> str:
    """Return the row of key numbers."""
    match, constraint = summary.autoencoder.match_fraction, summary.constraint
    items = [
        (count(sum(r.sampled for r in summary.rounds)), "", "candidates proposed"),
        *((count(within(best)[f"{most:g}"]), "", _near(word)) for word, most in NEAR.items()),
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


def _near(word: Nearness) -> str:
    return f"new crystals {word}" if word == "on the hull" else f"new crystals {word} eV/atom of it"


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
