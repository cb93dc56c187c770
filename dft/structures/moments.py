"""Magnetic moments of the sites of a structure, μB: its site property ``magmom``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pymatgen.core import Species, Structure

#: A moment along one axis, or its three components.
Moment = float | list[float]

#: Moments below count as none, μB.
NOISE = 0.1


def complete(moments: Sequence[Moment | None]) -> list[Moment] | None:
    """A moment for each site, all of one kind: none where others have one is zero.

    None where no site has one.
    """
    if all(moment is None for moment in moments):
        return None
    if any(isinstance(moment, list) for moment in moments):
        return [m if isinstance(m, list) else [0.0, 0.0, m or 0.0] for m in moments]
    return [0.0 if moment is None else moment for moment in moments]


def moments_of(structure: Structure) -> list[Moment] | None:
    """Moments in the order of the sites, or spins of their species; None where there are none."""
    given = [
        site.properties.get("magmom", getattr(site.specie, "spin", None))
        if site.is_ordered
        else None
        for site in structure
    ]
    # pymatgen has a class of its own for those of three components.
    given = [getattr(moment, "moment", moment) for moment in given]
    return complete([None if m is None else np.asarray(m, float).tolist() for m in given])


def along_z(structure: Structure) -> list[float] | None:
    """Moments, or their components along z; None where there are none."""
    moments = moments_of(structure)
    return None if moments is None else [m[2] if isinstance(m, list) else m for m in moments]


def with_moments(structure: Structure, moments: Sequence[Moment] | None) -> Structure:
    """The structure with other moments; None for none."""
    return Structure(
        structure.lattice,
        structure.species_and_occu,
        structure.frac_coords,
        site_properties=None if moments is None else {"magmom": list(moments)},
    )


def standard(moments: Sequence[Moment]) -> list[Moment]:
    """Moments to two decimals, the first that is not zero upwards: energies need no direction."""
    rounded = np.round(np.array(moments, float), 2)
    first = rounded.flat[np.flatnonzero(rounded)[:1]]
    turned: list[Moment] = (rounded * (np.sign(first[0]) if len(first) else 1.0) + 0.0).tolist()
    return turned


def is_magnetic(structure: Structure) -> bool:
    """Whether a site has a moment, of more than the noise of a calculation."""
    moments = moments_of(structure)
    return moments is not None and bool((np.abs(np.array(moments, float)) > NOISE).any())


def as_species(structure: Structure) -> Structure:
    """The structure with its moments along z as spins of species, which a matcher tells apart.

    Without moments they have no spins, which is another start of the electrons, too.
    """
    moments = moments_of(structure)
    spins: Sequence[float | None] = [None] * len(structure)
    if moments is not None:
        spins = along_z(with_moments(structure, standard(moments))) or spins
    species = [
        Species(site.specie.symbol, 0, spin=None if spin is None else round(spin, 1) + 0.0)
        for site, spin in zip(structure, spins, strict=True)
    ]
    return Structure(structure.lattice, species, structure.frac_coords)
