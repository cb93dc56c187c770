"""Phases: relaxation documents judged by one convex hull."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pymatgen.core import Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from ccdcgan.dft.engines.corrections import warnings_of as engine_warnings
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.hull import Hull
from ccdcgan.dft.matching import SeenStructures
from ccdcgan.dft.sources import primitive_cell
from ccdcgan.dft.structures.decoding import decode_structure
from ccdcgan.dft.structures.elements import off_the_table
from ccdcgan.dft.structures.moments import is_magnetic
from ccdcgan.models.goals import FORMATION_ENERGY
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.documents import (
    DatabaseCounts,
    Entry,
    Phase,
    RelaxationDocument,
    RoundCounts,
    SecondPlace,
)
from ccdcgan.workflows.failures import grouped
from ccdcgan.workflows.trust import lowest_elements, untrusted

#: By so much (eV/atom) an end member may miss the table of elements.
OFF_THE_TABLE = 0.005

#: Distances to the hull below this, eV/atom, are noise of the arithmetic.
NOISE = 1e-9


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
    """The convex hull of all converged documents that can be believed.

    A pure element whose lowest structure ran out of steps has that as its end member all the same:
    a higher one would be wrong by more.
    """
    return _hull_of(_hull_documents(documents, untrusted(documents)), campaign)


def _hull_documents(
    documents: Sequence[RelaxationDocument], aside: Mapping[str, str]
) -> list[RelaxationDocument]:
    """What makes the hull: converged, or the lowest of an element, and not set aside."""
    placed = [d for d in documents if d.energy_per_atom is not None and d.key not in aside]
    lowest = {d.key for d in lowest_elements(placed).values()}
    return [d for d in placed if d.converged or d.key in lowest]


def _hull_of(
    documents: Sequence[RelaxationDocument], campaign: Campaign, second: bool = False
) -> Hull:
    """The hull of documents, or of their second opinions."""
    structures = [decode_structure(d.structure) for d in documents]
    corrections = campaign.corrections
    energies, levels = [], []
    for document, structure in zip(documents, structures, strict=True):
        given = document.second_opinion if second else document
        assert given is not None and given.energy_per_atom is not None
        correction = corrections.per_atom(structure) if corrections else 0.0
        energies.append(given.energy_per_atom + correction)
        levels.append(given.level_of_theory)
    compositions = [s.composition for s in structures]
    return Hull(compositions, energies, levels, campaign.elements, corrections)


def training_set(documents: Mapping[str, RelaxationDocument], campaign: Campaign) -> list[Sample]:
    """Distinct converged crystals that hold every element, in the order of their keys.

    Were a crystal there twice, a model would be tested on what it has learnt.
    """
    aside = untrusted(documents.values())
    used = _hull_documents([documents[k] for k in sorted(documents)], aside)
    hull = _hull_of(used, campaign)
    samples: list[Sample] = []
    seen = SeenStructures()
    for key in sorted(documents):
        document = documents[key]
        structure = decode_structure(document.structure)
        energy = document.energy_per_atom
        if not document.converged or energy is None or key in aside:
            continue
        composition = structure.composition
        if len(composition) < len(campaign.elements):
            continue
        start = {key: decode_structure(document.initial_structure)}
        number = seen.number(structure)
        if number < len(samples):
            samples[number].starts.update(start)
            continue
        place = hull.place(structure, energy)
        properties = {
            **document.properties,
            FORMATION_ENERGY: place.formation_energy,
            "e_above_hull": place.e_above_hull,
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
    ``not converged``; one that was rejected has no energy and no place. One that cannot be believed
    is ``untrusted``, with its distance to a hull that it is not part of.
    """
    own = [documents[e.key] for e in entries]
    aside = untrusted(own)
    used = _hull_documents(own, aside)
    hull = _hull_of(used, campaign)
    second = _second_hull(used, campaign)
    seen = SeenStructures()
    first: dict[int, Phase] = {}
    phases = []
    for entry in entries:
        document = documents[entry.key]
        structure = decode_structure(document.structure)
        phase = unplaced(entry, document, structure)
        phase.level_of_theory = phase.level_of_theory.model_copy(
            update={"corrections": hull.level.corrections}
        )
        if document.energy_per_atom is not None:
            place = hull.place(structure, document.energy_per_atom)
            distance = _without_noise(place.e_above_hull)
            phase.correction_per_atom = (
                None if campaign.corrections is None else place.energy - document.energy_per_atom
            )
            phase.energy_per_atom = place.energy
            phase.formation_energy_per_atom = place.formation_energy
            phase.e_above_hull = distance
            phase.second_opinion = _second_place(document, structure, second)
            if document.key in aside:
                phase.label, phase.reason = "untrusted", aside[document.key]
            elif document.converged:
                phase.label = campaign.thresholds.label(place.formation_energy, distance)
                if len(structure.composition) == 1 and not distance:
                    # Formation energies cannot tell: those of elements count from it.
                    phase.label = "stable"
                met = first.setdefault(seen.number(structure), phase)
                phase.distinct = met is phase or _is_its_ground_state(phase, met, structure)
                if phase.distinct and met is not phase:
                    met.distinct = False
                    first[seen.number(structure)] = phase
        phases.append(phase)
    return phases


def _is_its_ground_state(phase: Phase, met: Phase, structure: Structure) -> bool:
    """Whether a crystal that was met with other magnetic moments is met with its lowest ones."""
    assert phase.e_above_hull is not None and met.e_above_hull is not None
    lower = phase.e_above_hull < met.e_above_hull - 0.001
    alike = phase.origin.kind == met.origin.kind
    return (
        lower and alike and is_magnetic(structure) and is_magnetic(decode_structure(met.structure))
    )


def unplaced(entry: Entry, document: RelaxationDocument, structure: Structure) -> Phase:
    """A phase that is on no hull yet, with its relaxed crystal."""
    return Phase(
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
        failure=document.failure,
        said=document.said,
        host=document.host,
        folder=document.folder,
        distinct=False,
        origin=entry.origin,
        level_of_theory=document.level_of_theory,
    )


def _without_noise(distance: float) -> float:
    return 0.0 if abs(distance) < NOISE else distance


def _second_hull(documents: Sequence[RelaxationDocument], campaign: Campaign) -> Hull | None:
    """The hull by the second opinions; None where there are none of all end members."""
    both = [d for d in documents if d.second_opinion is not None]
    if not both:
        return None
    try:
        return _hull_of(both, campaign, second=True)
    except UserError:
        return None


def _second_place(
    document: RelaxationDocument, structure: Structure, hull: Hull | None
) -> SecondPlace | None:
    opinion = document.second_opinion
    if opinion is None:
        return None
    place = hull.place(structure, opinion.energy_per_atom) if hull else None
    return SecondPlace(
        engine=opinion.level_of_theory.name,
        energy_per_atom=place.energy if place else opinion.energy_per_atom,
        e_above_hull=_without_noise(place.e_above_hull) if place else None,
    )


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
    if foreign := sum(not d.has_own_frames for d in documents.values()):
        found.append(
            f"the geometries on the way of {foreign} relaxations have energies that are not theirs "
            "(VASP 5 with earlier versions of ccdcgan): no potential was learnt from them"
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
    return DatabaseCounts(
        candidates=len(own),
        relaxed=sum(p.energy_per_atom is not None for p in own),
        converged=sum(p.converged for p in own),
        rejected=grouped(p.reason or "not converged" for p in own if not p.converged),
        references=sum(p.origin.kind == "reference" for p in phases),
        adopted=sum(p.origin.kind == "adopted" for p in phases),
        untrusted=sum(p.label == "untrusted" for p in own),
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
