"""Phases: relaxation documents judged by one convex hull."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pymatgen.core import Structure

from ccdcgan.dft.engines.corrections import warnings_of as engine_warnings
from ccdcgan.dft.structures.elements import off_the_table
from ccdcgan.dft.structures.hull import DEPTHS, NOISE, Hull, Thresholds
from ccdcgan.dft.structures.moments import order_of
from ccdcgan.dft.structures.spacegroups import spacegroup
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.documents import (
    Claim,
    DatabaseCounts,
    Funnel,
    Phase,
    RelaxationDocument,
    RoundCounts,
    SecondPlace,
    SourceCounts,
)
from ccdcgan.workflows.failures import grouped
from ccdcgan.workflows.trust import lowest_elements
from ccdcgan.workflows.uncertainty import probability_within, uncertainties

#: By so much (eV/atom) an end member may miss the table of elements.
OFF_THE_TABLE = 0.005


@dataclass(frozen=True)
class Sample:
    """A relaxed crystal to learn from: its primitive cell and all its numbers by name.

    Energies are in eV/atom, ``volume_per_atom`` in Å³, ``density`` in g/cm³. ``starts`` are the
    geometries, by the keys of their relaxations, that became this crystal.
    """

    key: str
    structure: Structure
    properties: dict[str, float]
    starts: dict[str, Structure] = field(default_factory=dict)


def unplaced(claim: Claim, document: RelaxationDocument, group: str | None = None) -> Phase:
    """A phase that is on no hull yet, with its relaxed crystal and, if known, its space group."""
    structure = document.structure
    return Phase(
        id=claim.key,
        structure=structure,
        formula=structure.composition.reduced_formula,
        spacegroup=group or spacegroup(structure),
        energy_per_atom=document.energy_per_atom,
        formation_energy_per_atom=None,
        e_above_hull=None,
        label="not converged",
        converged=document.converged,
        reason=document.reason,
        failure=document.failure,
        said=document.said,
        host=document.host,
        folder=document.folder,
        distinct=False,
        magnetic_order=order_of(structure),
        origin=claim.origin,
        level_of_theory=document.level_of_theory,
    )


def without_noise(distance: float) -> float:
    """A distance to the hull, eV/atom, 0 where only the arithmetic makes it another."""
    return 0.0 if abs(distance) < NOISE else distance


def second_place(
    document: RelaxationDocument, structure: Structure, hull: Hull | None
) -> SecondPlace | None:
    """Where the second opinion puts a crystal on the hull of such opinions."""
    opinion = document.second_opinion
    if opinion is None:
        return None
    place = hull.place(structure, opinion.energy_per_atom) if hull else None
    return SecondPlace(
        engine=opinion.level_of_theory.name,
        energy_per_atom=place.energy if place else opinion.energy_per_atom,
        e_above_hull=without_noise(place.e_above_hull) if place else None,
    )


def set_uncertainties(phases: Sequence[Phase]) -> None:
    """Give phases the uncertainty of their distance, and the probability to be within 0.025."""
    own = [p.e_above_hull if p.label != "untrusted" else None for p in phases]
    second = [p.second_opinion.e_above_hull if p.second_opinion else None for p in phases]
    compounds = [p.distinct and len(p.structure.composition) > 1 for p in phases]
    for phase, found in zip(phases, uncertainties(own, second, compounds), strict=True):
        phase.e_above_hull_uncertainty = found
        phase.probability_within = probability_within(phase.e_above_hull, found)


def warnings_of(
    phases: Sequence[Phase], documents: Mapping[str, RelaxationDocument], campaign: Campaign
) -> list[str]:
    """What a user should know before believing a hull, a line each."""
    engine = campaign.relaxation.engine
    found = engine_warnings(engine, campaign.corrections is not None, campaign.elements)
    aside = [p for p in phases if p.label == "untrusted"]
    if aside:
        found.append(
            f"{len(aside)} of {len(phases)} crystals are set aside as untrusted, the lowest is "
            f"{min(aside, key=lambda p: p.e_above_hull or 0.0).formula}: see the label untrusted"
        )
    kept = {p.id for p in phases if p.label != "untrusted"}
    ends = lowest_elements([d for key, d in documents.items() if key in kept])
    for symbol, document in sorted(ends.items()):
        if not document.converged:
            found.append(
                f"the end member {symbol} is lower than all that converged, and has itself "
                f"{document.reason}: raise relaxation.max_steps"
            )
        missed = off_the_table(symbol, document.energy_per_atom or 0.0, document.level_of_theory)
        if missed is not None and missed > OFF_THE_TABLE:
            found.append(
                f"the end member {symbol} lies {1e3 * missed:.0f} meV/atom above its ground state "
                "(docs/elements.md): raise database.own_element_sites, or give its structure in "
                "references"
            )
    for phase in phases:
        if phase.label == "not converged" and (phase.e_above_hull or 0.0) < -NOISE:
            found.append(
                f"{phase.formula} ({phase.origin.id}) ran out of steps "
                f"{-1e3 * (phase.e_above_hull or 0.0):.0f} meV/atom below the hull: raise "
                "relaxation.max_steps"
            )
    return found


def database_counts(phases: Sequence[Phase], thresholds: Thresholds) -> DatabaseCounts:
    """Stage 1 in numbers."""
    own = [p for p in phases if p.origin.kind == "prototype"]
    crystals = [
        p for p in phases if p.distinct and p.origin.kind in {"prototype", "reference", "adopted"}
    ]
    words = [paper_word(p, thresholds) for p in crystals]
    return DatabaseCounts(
        candidates=len(own),
        relaxed=sum(p.energy_per_atom is not None for p in own),
        converged=sum(p.converged for p in own),
        rejected=grouped(p.reason or "not converged" for p in own if not p.converged),
        references=sum(p.origin.kind == "reference" for p in phases),
        adopted=sum(p.origin.kind == "adopted" for p in phases),
        untrusted=sum(p.label == "untrusted" for p in own),
        distinct=len(crystals),
        distinct_within=within(crystals),
        stable=words.count("stable"),
        metastable=words.count("stable") + words.count("metastable"),
    )


def records(phases: Sequence[Phase]) -> dict[str, int]:
    """Of how many formulas of compounds each source holds the lowest crystal, most first.

    A crystal is its first relaxation's, and so is its energy: no source takes a formula by a copy.
    """
    lowest: dict[str, Phase] = {}
    for phase in phases:
        if not phase.distinct or len(phase.structure.composition) == 1:
            continue
        holder = lowest.setdefault(phase.formula, phase)
        if (phase.energy_per_atom or 0.0) < (holder.energy_per_atom or 0.0):
            lowest[phase.formula] = phase
    return dict(Counter(p.origin.source_name for p in lowest.values()).most_common())


def new_to(phases: Sequence[Phase]) -> dict[str, int]:
    """Distinct crystals that were not generated, by what they are."""
    kinds = Counter(p.origin.kind for p in phases if p.distinct)
    return {
        "prototypes": kinds["prototype"],
        "references": kinds["reference"],
        "adopted": kinds["adopted"],
    }


def within(phases: Sequence[Phase]) -> dict[str, int]:
    """How many crystals are on the hull (0), and within each other distance of `DEPTHS`."""
    distances = [p.e_above_hull for p in phases if p.e_above_hull is not None]
    counts = {f"{depth:g}": sum(d <= depth + NOISE for d in distances) for depth in DEPTHS}
    return {**counts, "0": sum(p.label == "on the hull" for p in phases)}


def paper_word(phase: Phase, thresholds: Thresholds) -> str | None:
    """What the paper calls a phase: stable, metastable or unstable; None without a place."""
    if phase.formation_energy_per_atom is None or phase.e_above_hull is None:
        return None
    return thresholds.label(phase.formation_energy_per_atom, phase.e_above_hull)


def round_counts(
    phases: Sequence[Phase], number: int, funnel: Funnel, thresholds: Thresholds
) -> RoundCounts:
    """The funnel of one round; `funnel` holds what was counted before the relaxations."""
    own = [p for p in phases if p.origin.kind == "generated" and p.origin.round == number]
    new = [p for p in own if p.distinct]
    words = [paper_word(p, thresholds) for p in new]
    names = {**dict.fromkeys([p.origin.source_name for p in own], 0), **funnel.proposed}
    return RoundCounts(
        **funnel.model_dump(),
        relaxed=sum(p.energy_per_atom is not None for p in own),
        converged=sum(p.converged for p in own),
        distinct=len(new),
        distinct_within=within(new),
        distinct_metastable=words.count("stable") + words.count("metastable"),
        distinct_stable=words.count("stable"),
        sources={
            name: _source_counts([p for p in own if p.origin.source_name == name], proposed)
            for name, proposed in names.items()
        },
    )


def _source_counts(own: Sequence[Phase], proposed: int) -> SourceCounts:
    new = [p for p in own if p.distinct]
    return SourceCounts(
        proposed=proposed,
        relaxed=sum(p.energy_per_atom is not None for p in own),
        new=len(new),
        within=within(new),
    )


def sources_of(rounds: Sequence[RoundCounts]) -> dict[str, SourceCounts]:
    """What each source has brought in all rounds together."""
    found: dict[str, SourceCounts] = {}
    for counts in rounds:
        for name, here in counts.sources.items():
            total = found.get(name, SourceCounts())
            found[name] = SourceCounts(
                proposed=total.proposed + here.proposed,
                relaxed=total.relaxed + here.relaxed,
                new=total.new + here.new,
                within={d: n + total.within.get(d, 0) for d, n in here.within.items()},
            )
    return found


def ranked(phases: Sequence[Phase], thresholds: Thresholds) -> list[Phase]:
    """Distinct generated phases that are metastable at least, nearest to the hull first."""
    new = [p for p in phases if p.origin.kind == "generated" and p.distinct]
    chosen = [p for p in new if paper_word(p, thresholds) in {"stable", "metastable"}]
    return sorted(chosen, key=lambda p: p.e_above_hull or 0.0)
