"""How good a set of structures is: the funnel from samples to new crystals near the hull."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, Field
from pymatgen.core import Structure
from scipy.stats import binomtest

from ccdcgan.dft.structures.hull import NOISE, Hull
from ccdcgan.dft.structures.matching import (
    TOLERANCES,
    SeenStructures,
    displacement,
    distinct,
    smallest,
)
from ccdcgan.workflows.documents import RelaxationDocument

#: Distances to the hull, eV/atom, that crystals are counted by.
DISTANCES = (0.0, 0.05, 0.10, 0.15)

#: Distance to the hull of what is metastable for LeMat-GenBench and stable for MatterGen, eV/atom.
METASTABLE = 0.1

#: Tolerances of LeMat-GenBench's StructureMatcher; those of MatterGen's are `TOLERANCES`.
LEMAT_TOLERANCES = {**TOLERANCES, "ltol": 0.1}


class Share(BaseModel):
    """A count with its denominator, and Wilson's interval (95%) of their ratio."""

    count: int
    of: int
    fraction: float | None = None
    low: float | None = None
    high: float | None = None


def share(count: int, of: int) -> Share:
    """`count` of `of`; without a fraction of nothing."""
    if not of:
        return Share(count=count, of=of)
    interval = binomtest(count, of).proportion_ci(method="wilson")
    return Share(
        count=count,
        of=of,
        fraction=count / of,
        low=float(interval.low),
        high=float(interval.high),
    )


class Yield(BaseModel):
    """What became of relaxed structures.

    unique: converged, and matches none of the set before it; new: unique, and matches nothing
    known; below: new, of negative formation energy, and within a distance (eV/atom) of the hull.
    """

    relaxed: int
    converged: Share
    unique: Share
    new: Share
    untrusted: int = Field(0, description="Converged, but set aside as false minima.")
    below: dict[str, Share] = Field(description="By distance to the hull, of the relaxed.")
    displacement: float | None = Field(
        description="Root mean square over the converged of the atoms' displacements on "
        "relaxation, Å, where a crystal stays itself."
    )
    mean_displacement: float | None = Field(
        description="Mean over the same crystals of each one's root mean square, Å, as others "
        "report it."
    )
    stayed: Share = Field(description="Converged that match what they were relaxed from.")
    mean_formation_energy: float | None = Field(description="Of the converged, eV/atom.")


#: What becomes of a relaxed structure: see `Yield`.
Fate = Literal["not converged", "not unique", "known", "new"]


def fates(documents: Sequence[RelaxationDocument], known: SeenStructures) -> list[Fate]:
    """What became of relaxed structures, in their order. `known` learns what is new."""
    own = SeenStructures()
    found: list[Fate] = []
    for document in documents:
        if not document.converged:
            found.append("not converged")
            continue
        structure = document.structure
        if not own.add_if_new(structure):
            found.append("not unique")
        else:
            found.append("new" if known.add_if_new(structure) else "known")
    return found


def yield_of(
    documents: Sequence[RelaxationDocument],
    known: Sequence[Structure],
    hull: Hull,
    distances: Sequence[float] = DISTANCES,
    untrusted: Container[str] = (),
) -> Yield:
    """Count relaxations.

    Parameters
    ----------
    documents
        Relaxations of the set, in their order.
    known
        Crystals that do not count as new.
    hull
        What distances are measured from; at the documents' level of theory.
    distances
        Distances to the hull, eV/atom.
    untrusted
        Keys of documents that cannot be believed: they are never near the hull.
    """
    converged = [d for d in documents if d.converged]
    judged = fates(documents, SeenStructures(known))
    new = [d for d, fate in zip(documents, judged, strict=True) if fate == "new"]
    n = len(documents)
    below = {}
    places = [place(d, hull) for d in new if d.key not in untrusted]
    for distance in distances:
        count = sum(e < 0 and above <= distance + 1e-9 for e, above in places)
        below[f"{distance:.2f}"] = share(count, n)
    moved = [displacement(d.initial_structure, d.structure) for d in converged]
    stayed = np.array([m for m in moved if m is not None])
    energies = [place(d, hull)[0] for d in converged]
    return Yield(
        relaxed=n,
        converged=share(len(converged), n),
        unique=share(judged.count("known") + len(new), n),
        new=share(len(new), n),
        untrusted=sum(d.key in untrusted for d in converged),
        below=below,
        displacement=float(np.sqrt((stayed**2).mean())) if len(stayed) else None,
        mean_displacement=float(stayed.mean()) if len(stayed) else None,
        stayed=share(len(stayed), len(converged)),
        mean_formation_energy=float(np.mean(energies)) if energies else None,
    )


class Sun(BaseModel):
    """Crystals that are stable, unique and new, by the definitions of others: see `sun_of`."""

    lemat_sun: Share = Field(description="S.U.N. of LeMat-GenBench, of the valid.")
    lemat_metasun: Share = Field(description="MetaSUN of LeMat-GenBench, of the valid.")
    mattergen_sun: Share = Field(description="S.U.N. of MatterGen, of the sampled.")


def sun_of(
    structures: Sequence[Structure],
    distances: Sequence[float | None],
    known: Sequence[Structure],
    copied: Sequence[bool],
    *,
    valid: int,
    sampled: int,
) -> Sun:
    """Count S.U.N. as LeMat-GenBench and MatterGen do.

    LeMat-GenBench (Betala et al., arXiv:2512.04562; its code of February 2026) asks for stability
    first, then which are unique among the stable, and apart from those among the metastable, which
    are not stable, and of these which are new; of the valid. MatterGen (Zeni et al., Nature 639,
    624 (2025); its code of July 2026) calls the first of equal crystals in the whole set unique,
    and counts those that are also new, and at most `METASTABLE` above the hull, of all sampled.

    Parameters
    ----------
    structures
        Relaxed crystals in their order.
    distances
        Of each from the hull of what is known, eV/atom, negative below it; None of one that is not
        to be believed.
    known
        What is not new.
    copied
        Of each whether it matches one of these within `TOLERANCES`.
    valid, sampled
        What shares are of.
    """
    stable, metastable = (
        [i for i, d in enumerate(distances) if d is not None and low < d <= high]
        for low, high in ((-np.inf, NOISE), (NOISE, METASTABLE + NOISE))
    )
    near = {*stable, *metastable}
    cells = [smallest(structure) for structure in structures]
    formulas = {cells[i].composition.reduced_formula for i in near}
    seen = SeenStructures(
        (smallest(s) for s in known if s.composition.reduced_formula in formulas), LEMAT_TOLERANCES
    )

    def lemat(some: Sequence[int]) -> Share:
        count, before = 0, SeenStructures(tolerances=LEMAT_TOLERANCES)
        for cell in (cells[i] for i in some):
            # Unlike all before it, also those that are not unique themselves.
            count += cell not in before and cell not in seen
            before.add(cell)
        return share(count, valid)

    return Sun(
        lemat_sun=lemat(stable),
        lemat_metasun=lemat(metastable),
        mattergen_sun=share(sum(i in near and not copied[i] for i in distinct(cells)), sampled),
    )


def place(document: RelaxationDocument, hull: Hull) -> tuple[float, float]:
    """Formation energy and distance to the hull of a document with an energy, eV/atom."""
    energy = document.energy_per_atom
    assert energy is not None
    found = hull.place(document.structure, energy)
    return found.formation_energy, found.e_above_hull
