"""Phases: relaxation documents judged by one convex hull."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pymatgen.core import Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from ccdcgan.dft.hull import Hull
from ccdcgan.dft.matching import SeenStructures
from ccdcgan.dft.sources import primitive_cell
from ccdcgan.models.goals import FORMATION_ENERGY
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.documents import (
    DatabaseCounts,
    Entry,
    Phase,
    RelaxationDocument,
    RoundCounts,
)


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


def build_hull(documents: Sequence[RelaxationDocument], campaign: Campaign) -> Hull:
    """The convex hull of all converged documents."""
    used = [d for d in documents if d.converged and d.energy_per_atom is not None]
    structures = [Structure.from_dict(d.structure) for d in used]
    return Hull(
        [s.composition for s in structures],
        [d.energy_per_atom or 0.0 for d in used],
        [d.level_of_theory for d in used],
        campaign.elements,
    )


def training_set(documents: Mapping[str, RelaxationDocument], campaign: Campaign) -> list[Sample]:
    """Distinct converged crystals that hold every element, in the order of their keys.

    Were a crystal there twice, a model would be tested on what it has learnt.
    """
    hull = build_hull([documents[k] for k in sorted(documents)], campaign)
    samples: list[Sample] = []
    seen = SeenStructures()
    for key in sorted(documents):
        document = documents[key]
        structure = Structure.from_dict(document.structure)
        energy = document.energy_per_atom
        if not document.converged or energy is None:
            continue
        composition = structure.composition
        if len(composition) < len(campaign.elements):
            continue
        start = {key: Structure.from_dict(document.initial_structure)}
        number = seen.number(structure)
        if number < len(samples):
            samples[number].starts.update(start)
            continue
        properties = {
            **document.properties,
            FORMATION_ENERGY: hull.formation_energy(composition, energy),
            "e_above_hull": hull.e_above_hull(composition, energy),
            "volume_per_atom": structure.volume / len(structure),
            "density": float(structure.density),
        }
        samples.append(Sample(key, primitive_cell(structure), properties, start))
    return samples


def judge(
    entries: Sequence[Entry], documents: Mapping[str, RelaxationDocument], campaign: Campaign
) -> list[Phase]:
    """Phases of a campaign in the order of its entries: database first, then round by round.

    Converged entries make the hull. One that ran out of steps is placed on it all the same, as
    ``not converged``; one that was rejected has no energy and no place.
    """
    hull = build_hull([documents[e.key] for e in entries], campaign)
    seen = SeenStructures()
    phases = []
    for entry in entries:
        document = documents[entry.key]
        structure = Structure.from_dict(document.structure)
        phase = Phase(
            id=entry.key,
            structure=document.structure,
            formula=structure.composition.reduced_formula,
            spacegroup=spacegroup(structure),
            energy_per_atom=document.energy_per_atom,
            formation_energy_per_atom=None,
            e_above_hull=None,
            label="not converged",
            converged=document.converged,
            reason=document.reason,
            distinct=False,
            origin=entry.origin,
            level_of_theory=document.level_of_theory,
        )
        if document.energy_per_atom is not None:
            composition = structure.composition
            formation = hull.formation_energy(composition, document.energy_per_atom)
            distance = max(0.0, hull.e_above_hull(composition, document.energy_per_atom))
            phase.formation_energy_per_atom = formation
            phase.e_above_hull = distance
            if document.converged:
                phase.label = campaign.thresholds.label(formation, distance)
                phase.distinct = seen.add_if_new(structure)
        phases.append(phase)
    return phases


def spacegroup(structure: Structure) -> str:
    """Symbol and number of a crystal's space group, as R-3m (166), within 0.1 Å."""
    try:
        analyzer = SpacegroupAnalyzer(structure, symprec=0.1)
        return f"{analyzer.get_space_group_symbol()} ({analyzer.get_space_group_number()})"
    except Exception:  # noqa: BLE001  spglib finds no symmetry in a degenerate cell
        return "P1 (1)"


def database_counts(phases: Sequence[Phase], n_elements: int) -> DatabaseCounts:
    """Stage 1 in numbers, from the phases whose origin is a prototype."""
    own = [p for p in phases if p.origin.kind == "prototype"]
    reasons = Counter(p.reason or "not converged" for p in own if not p.converged)
    return DatabaseCounts(
        candidates=len(own),
        relaxed=sum(p.energy_per_atom is not None for p in own),
        converged=sum(p.converged for p in own),
        rejected=dict(sorted(reasons.items())),
        stable=sum(p.label == "stable" for p in own),
        metastable=sum(p.label in {"stable", "metastable"} for p in own),
    )


def round_counts(phases: Sequence[Phase], number: int, funnel: Mapping[str, int]) -> RoundCounts:
    """The funnel of one round; `funnel` holds what was counted before the relaxations."""
    own = [p for p in phases if p.origin.kind == "generated" and p.origin.round == number]
    new = [p for p in own if p.distinct]
    return RoundCounts(
        **funnel,
        relaxed=sum(p.energy_per_atom is not None for p in own),
        converged=sum(p.converged for p in own),
        distinct=len(new),
        distinct_metastable=sum(p.label in {"stable", "metastable"} for p in new),
        distinct_stable=sum(p.label == "stable" for p in new),
    )


def ranked(phases: Sequence[Phase]) -> list[Phase]:
    """Distinct generated (meta)stable phases, nearest to the hull first."""
    chosen = [
        p
        for p in phases
        if p.origin.kind == "generated" and p.distinct and p.label in {"stable", "metastable"}
    ]
    return sorted(chosen, key=lambda p: p.e_above_hull or 0.0)
