"""Magnetic moments of the sites of a structure, μB: its site property ``magmom``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import numpy as np
from pymatgen.core import Species, Structure

#: A moment along one axis, or its three components.
Moment = float | list[float]

#: Moments below count as none, μB.
NOISE = 0.1

#: Moments that atoms of magnetic elements start with, μB: high spin of the 3d metals, as in the
#: Materials Project's input sets; of lanthanides the 4f electrons that Hund's rule leaves unpaired
#: in their ions of charge 3, of europium in that of charge 2.
STARTING_MOMENTS: Mapping[str, float] = MappingProxyType(
    {
        **dict.fromkeys(("V", "Cr", "Mn", "Fe", "Co", "Ni"), 5.0),
        **{"Ce": 1.0, "Pr": 2.0, "Nd": 3.0, "Pm": 4.0, "Sm": 5.0, "Eu": 7.0, "Gd": 7.0},
        **{"Tb": 6.0, "Dy": 5.0, "Ho": 4.0, "Er": 3.0, "Tm": 2.0, "Yb": 1.0},
    }
)

#: How moments are ordered.
MagneticOrder = Literal[
    "nonmagnetic", "ferromagnetic", "antiferromagnetic", "ferrimagnetic", "noncollinear"
]

#: Part of all moments that those of one sign are beyond the others, at most in an antiferromagnet
#: and at least in a ferromagnet, in which ligands may have small ones against those of the metal.
UNBALANCED, ALIGNED = 0.05, 0.8


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
    plain: list[Moment | None] = []
    for moment in given:
        # pymatgen has a class of its own for those of three components.
        value, axis = getattr(moment, "moment", moment), getattr(moment, "saxis", (0, 0, 1))
        plain.append(None if value is None else along_axis(np.asarray(value, float).tolist(), axis))
    return complete(plain)


def along_axis(moment: Moment, axis: Sequence[float]) -> Moment:
    """A moment whose z axis lies along another axis, in Cartesian components where it matters.

    Parameters
    ----------
    moment
        One number along the axis, or three components.
    axis
        Cartesian direction, of any length.
    """
    from pymatgen.electronic_structure.core import Magmom

    if not np.any(np.asarray(axis, float)[:2]) and axis[2] > 0:
        return moment
    turned: list[float] = Magmom(moment, saxis=axis).global_moment.tolist()
    return turned


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


def order_of(structure: Structure) -> MagneticOrder | None:
    """How the moments of a structure are ordered; None where it has none to tell of."""
    moments, z = moments_of(structure), along_z(structure)
    if moments is None or z is None:
        return None
    if not is_magnetic(structure):
        return "nonmagnetic"
    vectors = np.array(moments, float).reshape(len(z), -1)
    # Along whatever axis they lie: it is that of a larger cell, too.
    axis = np.linalg.svd(vectors, full_matrices=False)[2][0]
    along = vectors @ axis
    across = np.linalg.norm(vectors - np.outer(along, axis), axis=1)
    if (across > NOISE).any():
        return "noncollinear"
    net = abs(float(along.sum())) / float(np.abs(along).sum())
    if net >= ALIGNED:
        return "ferromagnetic"
    return "antiferromagnetic" if net <= UNBALANCED else "ferrimagnetic"
