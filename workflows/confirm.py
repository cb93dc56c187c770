"""Confirming: the best crystals of a campaign relaxed again at another level of theory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pymatgen.core import Composition
from scipy.stats import kendalltau

from ccdcgan.dft.structures.hull import NOISE, Thresholds
from ccdcgan.dft.structures.matching import displacement
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.documents import (
    Agreement,
    Candidate,
    Claim,
    Confirmation,
    Phase,
    Place,
    RelaxationDocument,
)
from ccdcgan.workflows.jobs import document_job
from ccdcgan.workflows.knowledge import Knowledge
from ccdcgan.workflows.outputs import RoundsOutput
from ccdcgan.workflows.phases import ranked, unplaced
from ccdcgan.workflows.uncertainty import probability_within, uncertainties

#: Structures of an element within this energy of its lowest one (eV/atom) are end members of the
#: other hull, too: which of them is lowest may change with the level.
ELEMENT_WINDOW = 0.05


def confirmed_campaign(campaign: Campaign) -> Campaign:
    """The campaign with the relaxation of its confirmation, and as many at a time."""
    chosen = campaign.confirm
    assert chosen is not None
    workers = chosen.workers
    both = (chosen.relaxation.engine, campaign.relaxation.engine)
    # As many runs of a DFT code at a time as of a potential would be too many.
    if workers is None and both[0].is_potential == both[1].is_potential:
        workers = campaign.workers
    return campaign.model_copy(update={"relaxation": chosen.relaxation, "workers": workers})


def to_confirm(phases: Sequence[Phase], count: int, thresholds: Thresholds) -> list[Phase]:
    """What another level must know: the best crystals, those that make the hull, the elements.

    Parameters
    ----------
    phases
        All of the campaign.
    count
        New crystals, nearest to the hull first.
    thresholds
        Beyond those, none is taken.
    """
    chosen = [p for p in phases if p.distinct and p.e_above_hull is not None]
    lowest: dict[str, float] = {}
    for phase in chosen:
        if phase.origin.kind == "element" and phase.energy_per_atom is not None:
            energy = lowest.get(phase.formula, phase.energy_per_atom)
            lowest[phase.formula] = min(energy, phase.energy_per_atom)
    ends = [
        p
        for p in chosen
        if p.formula in lowest
        and p.energy_per_atom is not None
        and p.energy_per_atom <= lowest[p.formula] + ELEMENT_WINDOW
    ]
    hull = [p for p in phases if p.label == "on the hull" and (p.e_above_hull or 0.0) <= NOISE]
    unique = {p.id: p for p in [*ends, *hull, *ranked(phases, thresholds)[:count]]}
    return list(unique.values())


@document_job("light")
def propose_confirmation(outcome: RoundsOutput, campaign: Campaign) -> list[Candidate]:
    """Candidates for the confirming relaxations: the relaxed crystals as they are."""
    assert campaign.confirm is not None
    phases = Knowledge.of_job(outcome.entries, campaign).phases
    return [
        Candidate(origin=p.origin, structure=p.structure)
        for p in to_confirm(phases, campaign.confirm.count, campaign.thresholds)
    ]


def confirmations(
    phases: Sequence[Phase],
    claims: Sequence[Claim],
    documents: Mapping[str, RelaxationDocument],
    campaign: Campaign,
) -> list[Confirmation]:
    """Both levels side by side, each with its own hull, nearest to the confirming hull first.

    Parameters
    ----------
    phases
        All of the campaign, at its own level.
    claims, documents
        Of the confirming relaxations.

    Raises
    ------
    UserError
        An element has no converged structure at the confirming level; the message names it.
    """
    confirmed = Knowledge(confirmed_campaign(campaign), documents, claims)
    return _side_by_side(phases, confirmed.phases)


def without_hull(
    phases: Sequence[Phase],
    claims: Sequence[Claim],
    documents: Mapping[str, RelaxationDocument],
) -> list[Confirmation]:
    """What was confirmed where the other level has no hull: crystals and displacements alone."""
    found = [unplaced(c, documents[c.key]) for c in claims]
    nowhere = Place(formation_energy_per_atom=None, e_above_hull=None, label="no hull")
    return [
        c.model_copy(update={"after": nowhere}) if c.converged else c
        for c in _side_by_side(phases, found)
    ]


def _side_by_side(phases: Sequence[Phase], confirmed: Sequence[Phase]) -> list[Confirmation]:
    own = {_name(p): p for p in reversed(phases)} | {_start(p): p for p in phases}
    found = []
    for phase in confirmed:
        before = own.get(_start(phase)) or own[_name(phase)]
        moved = None
        if phase.energy_per_atom is not None:
            moved = displacement(before.structure, phase.structure)
        found.append(
            Confirmation(
                id=before.id,
                key=phase.id,
                formula=phase.formula,
                spacegroup=phase.spacegroup,
                magnetic_order=phase.magnetic_order,
                structure=phase.structure,
                before=Place.of(before),
                after=Place.of(phase),
                converged=phase.converged,
                reason=phase.reason,
                displacement=moved,
                level_of_theory=phase.level_of_theory,
            )
        )
    _set_uncertainties(found)
    last = float("inf")
    return sorted(
        found, key=lambda c: last if c.after.e_above_hull is None else c.after.e_above_hull
    )


def _set_uncertainties(found: Sequence[Confirmation]) -> None:
    """Give the places at the confirming level their uncertainty between both levels."""
    own = [c.after.e_above_hull for c in found]
    other = [c.before.e_above_hull for c in found]
    compounds = [len(c.structure.composition) > 1 for c in found]
    for crystal, between in zip(found, uncertainties(own, other, compounds), strict=True):
        crystal.after.e_above_hull_uncertainty = between
        crystal.after.probability_within = probability_within(crystal.after.e_above_hull, between)


def agreement(found: Sequence[Confirmation]) -> Agreement:
    """How far the two levels agree on compounds."""
    compounds = [
        c
        for c in found
        if c.before.e_above_hull is not None
        and c.after.e_above_hull is not None
        and len(Composition(c.formula)) > 1
    ]
    # Compounds, levels, energies.
    values = np.array(
        [
            [(p.e_above_hull, p.formation_energy_per_atom) for p in (c.before, c.after)]
            for c in compounds
        ],
        float,
    ).reshape(-1, 2, 2)
    tau = kendalltau(*values[:, :, 0].T).statistic if len(compounds) > 1 else np.nan
    distance, energy = np.abs(values[:, 0] - values[:, 1]).mean(0) if compounds else (None, None)
    return Agreement(
        crystals=len(compounds),
        same_label=sum(c.before.label == c.after.label for c in compounds),
        converged=sum(c.converged for c in compounds),
        kendall=float(tau) if np.isfinite(tau) else None,
        e_above_hull=distance,
        formation_energy=energy,
    )


def _name(phase: Phase) -> tuple[str, ...]:
    return phase.origin.kind, phase.origin.id


def _start(phase: Phase) -> tuple[str, ...]:
    """Its name with the magnetic order that it started in, which may be new to this level."""
    return (*_name(phase), phase.origin.magnetic_order or "")
