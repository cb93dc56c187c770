"""What people see of a campaign that has been run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from ccdcgan.dft.structures.hull import DEPTHS, depth_name
from ccdcgan.launchers.cli.terminal import Console, tell
from ccdcgan.workflows.documents import (
    Agreement,
    Confirmation,
    Outcome,
    Phase,
    RoundCounts,
    Summary,
)
from ccdcgan.workflows.phases import sources_of

#: Most crystals that are listed.
MOST = 10

#: Counts of a round that a sentence tells.
PAPER_WORDS = ("distinct_metastable", "distinct_stable")


def print_outcome(outcome: Outcome, workdir: Path) -> None:
    """The rounds in numbers, the best crystals, what was confirmed, and where the report is."""
    summary, out = outcome.summary, Console()
    out.print(_rounds(f"{'–'.join(summary.system)}: generated crystals", summary.rounds))
    if any(counts.sources for counts in summary.rounds):
        out.print(_sources(summary))
    if summary.rounds:
        out.print(f"new: {summary.newness}; {summary.paper_words}")
    for line in summary.warnings:
        tell("note", "yellow", line, out)
    best = [p for p in outcome.phases if p.file]
    best.sort(key=lambda p: p.e_above_hull or 0.0)
    for phase in best[:MOST]:
        out.print(
            f"{phase.formula:>8}  {phase.spacegroup:<14} "
            f"E_f {phase.formation_energy_per_atom or 0.0:+.3f}  "
            f"E_hull {phase.e_above_hull or 0.0:.3f}{_uncertainty(phase)} eV/atom  {phase.label}"
        )
    for crystal in outcome.confirmed.crystals[:MOST]:
        out.print(_both_levels(summary.level_of_theory.engine, crystal))
    if agreement := outcome.confirmed.agreement:
        out.print(_agreement(agreement))
    if outcome.confirmed.problem:
        tell("not confirmed:", "red", outcome.confirmed.problem)
    out.print(f"report: {workdir / 'report.html'}")


def _uncertainty(phase: Phase) -> str:
    between = phase.e_above_hull_uncertainty
    return "" if between is None else f" ± {between:.3f}"


def _rounds(title: str, rounds: Sequence[RoundCounts]) -> Table:
    table = Table(title=title)
    table.add_column("round")
    for number in range(1, len(rounds) + 1):
        table.add_column(str(number), justify="right")
    # Of what is left out, the warnings tell.
    for stage in RoundCounts.model_fields:
        counts = [getattr(counts, stage) for counts in rounds]
        if all(isinstance(number, int) for number in counts) and stage not in PAPER_WORDS:
            table.add_row(stage, *map(str, counts))
    for depth in reversed(rounds[0].distinct_within if rounds else {}):
        numbers = [str(counts.distinct_within.get(depth, "–")) for counts in rounds]
        table.add_row(f"distinct, {depth_name(depth)}", *numbers)
    return table


def _sources(summary: Summary) -> Table:
    """What each source has brought, all rounds together."""
    table = Table(
        title="new crystals by source, within eV/atom of the hull; lowest: formulas of which it "
        "holds the lowest crystal"
    )
    for name in ("source", "proposed", "relaxed", "new"):
        table.add_column(name, justify="left" if name == "source" else "right")
    depths = [f"{depth:g}" for depth in DEPTHS]
    for depth in depths:
        table.add_column("on it" if depth == "0" else depth, justify="right")
    table.add_column("lowest", justify="right")
    for name, counts in sources_of(summary.rounds).items():
        numbers = [counts.proposed, counts.relaxed, counts.new]
        numbers += [counts.within.get(depth, 0) for depth in depths]
        numbers.append(summary.records.get(name, 0))
        table.add_row(name, *map(str, numbers))
    return table


def _both_levels(engine: str, crystal: Confirmation) -> str:
    # Both may have one name, as two settings of VASP.
    places = ((engine, crystal.before), (crystal.level_of_theory.engine, crystal.after))
    distances = (
        f"{level} {'–' if place.e_above_hull is None else f'{place.e_above_hull:.3f}'}"
        for level, place in places
    )
    order = crystal.magnetic_order
    told = "" if order in (None, "nonmagnetic") else f", {order}"
    return f"{crystal.formula:>10}  E_hull {', '.join(distances)} eV/atom{told}"


def _agreement(found: Agreement) -> str:
    return (
        f"both levels agree on the label of {found.same_label} of {found.crystals} compounds; "
        f"mean difference of E_f {found.formation_energy or 0.0:.3f} eV/atom"
    )
