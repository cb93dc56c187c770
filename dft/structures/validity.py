"""What can be a crystal: each predicate says in words why a structure is none.

The cheap ones come first: no search for neighbours is begun in a cell in which it would not end.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from numpy.typing import NDArray
from pymatgen.core import Structure
from pymatgen.optimization.neighbors import find_points_in_spheres

from ccdcgan.dft.structures.decoding import MOST_ATOMS
from ccdcgan.dft.systems import atomic_volume

#: Distance (Å) within which pairs are looked at.
CUTOFF = 3.5

#: Volume of a pure element in units of that of its solid, beyond which a potential is not believed:
#: at 2.3 and 2.4 SevenNet's checkpoints have molecules K2 and Rb2, 0.29 and 0.25 eV/atom below the
#: metals (docs/elements.md). Known elements have up to 1.4; sane random compounds have up to 3.
EXPANDED = 2.2

#: Shortest distance of a pair in units of the sum of its covalent radii (Cordero et al., Dalton
#: Trans. 2832 (2008)): the shortest known ones, of Cr-Cr quintuple bonds and of U=O, have 0.66.
SHORTEST = 0.625

#: Atoms closer than this, Å, are one atom written down twice; H2 has 0.74.
OVERLAP = 0.5

#: The same where a prototype may come in any unit of length: in edges of the cube of one atom.
COINCIDENT = 0.1

#: Lattice vectors of any crystal, Å.
LATTICE_VECTORS = (0.5, 500.0)

#: Least volume of an atom, Å³: a tenth of that of hydrogen under the pressure of planets.
DENSEST = 0.2

#: Largest volume of an atom, Å³: ten times that in the emptiest crystals known, metal-organic
#: frameworks of 0.13 g/cm³ (100 Å³); in picometres instead of Å it is 10⁶ times what it should be.
EMPTIEST = 1000.0

#: Volume of a cell of about equal edges and right angles is near to length times area; one of less
#: than this share of it is flat or skewed so much that to reduce and match it would never end.
FLATTEST = 0.01

#: Sums and differences of lattice vectors, one of each pair of opposite ones.
_SUMS = np.array([n for n in itertools.product((0, 1, -1), repeat=3) if n > (0, 0, 0)])


@dataclass(frozen=True)
class Geometry:
    """Lattice vectors (3, 3), Å, and coordinates (n, 3) of any kind."""

    matrix: NDArray[np.float64]
    coordinates: NDArray[np.float64]

    @classmethod
    def of(cls, crystal: Structure | Atoms) -> Geometry:
        if isinstance(crystal, Atoms):
            return cls(np.asarray(crystal.cell), crystal.positions)
        return cls(crystal.lattice.matrix, crystal.frac_coords)


def not_finite(crystal: Geometry) -> str | None:
    """Whether a number is NaN or infinite, or so large that a product of three of it is."""
    numbers = np.abs(np.concatenate([crystal.matrix, crystal.coordinates]))
    return None if (numbers < 1e100).all() else "cell or coordinates not finite"


def atoms_out_of_range(crystal: Geometry) -> str | None:
    """Whether there are no atoms, or more than a unit cell can have."""
    count = len(crystal.coordinates)
    return None if 0 < count <= MOST_ATOMS else f"no atoms or more than {MOST_ATOMS}"


def length_out_of_range(crystal: Geometry) -> str | None:
    """Whether an atom would lie on its own image, or the cell is larger than any."""
    short, long = LATTICE_VECTORS
    lengths = np.linalg.norm(_SUMS @ crystal.matrix, axis=1)
    if lengths.min() < short:
        return f"lattice vector shorter than {short} Å"
    longest = np.linalg.norm(crystal.matrix, axis=1).max()
    return None if longest <= long else f"lattice vector longer than {long:.0f} Å"


def flat(crystal: Geometry) -> str | None:
    """Whether reducing and matching the cell, or looking for neighbours in it, would not end."""
    matrix = crystal.matrix
    areas = np.linalg.norm(np.cross(matrix, np.roll(matrix, 1, axis=0)), axis=1)
    lengths = np.linalg.norm(matrix, axis=1)
    volume = abs(np.linalg.det(matrix))
    return "flat cell" if volume <= FLATTEST * lengths.max() * areas.max() else None


def too_dense(crystal: Geometry) -> str | None:
    """Whether atoms have less room than in any matter on earth."""
    volume = abs(np.linalg.det(crystal.matrix)) / len(crystal.coordinates)
    return f"less than {DENSEST} Å³ per atom" if volume < DENSEST else None


def too_empty(crystal: Geometry) -> str | None:
    """Whether atoms have more room than in any crystal."""
    volume = abs(np.linalg.det(crystal.matrix)) / len(crystal.coordinates)
    return f"more than {EMPTIEST:.0f} Å³ per atom" if volume > EMPTIEST else None


CHEAP: tuple[Callable[[Geometry], str | None], ...] = (
    not_finite,
    atoms_out_of_range,
    length_out_of_range,
    flat,
    too_dense,
    too_empty,
)


def fault(crystal: Structure | Atoms) -> str | None:
    """Why numbers cannot be those of a crystal, by the cheap predicates, or None."""
    geometry = Geometry.of(crystal)
    return next((reason for test in CHEAP if (reason := test(geometry))), None)


def is_degenerate(structure: Structure) -> bool:
    """Whether a structure has a `fault`: reducing and matching it might never end."""
    return fault(structure) is not None


def disordered(structure: Structure) -> str | None:
    """Whether sites are partly occupied, or by several elements."""
    return None if structure.is_ordered else "disordered"


def too_close(crystal: Structure | Atoms, least: float = OVERLAP) -> str | None:
    """Whether a pair of atoms, images included, is closer than a distance (Å).

    The crystal must have no `fault`.
    """
    distances = neighbours(crystal, max(least, 0.1))[2]
    return f"atoms closer than {least:.3g} Å" if (distances < least).any() else None


def coincident(structure: Structure) -> str | None:
    """Whether two atoms are in one place, in whatever unit of length the structure is."""
    edge = (structure.volume / len(structure)) ** (1 / 3)
    return "two atoms in one place" if too_close(structure, COINCIDENT * edge) else None


def neighbours(
    crystal: Structure | Atoms, cutoff: float = CUTOFF
) -> tuple[NDArray[np.int_], NDArray[np.int_], NDArray[np.float64]]:
    """Pairs of atoms at most a cutoff (Å) apart, periodic images included, and their distances."""
    if isinstance(crystal, Atoms):
        positions, cell = crystal.get_positions(wrap=True), crystal.cell.array
    else:
        cell = crystal.lattice.matrix
        positions = np.mod(crystal.frac_coords, 1.0) @ cell
    # A fortieth of the time of ASE's neighbour list, at each step of a relaxation.
    positions = np.ascontiguousarray(positions, float)
    first, second, images, distances = find_points_in_spheres(
        positions, positions, cutoff, np.ones(3, np.int64), np.ascontiguousarray(cell, float)
    )
    others = (first != second) | images.any(1)
    return first[others], second[others], distances[others]


def overlap(atoms: Atoms, most: float = np.inf) -> bool:
    """Whether a pair is closer than `SHORTEST` of its covalent radii, and than a distance (Å)."""
    first, second, distances = neighbours(atoms)
    radii = covalent_radii[atoms.numbers]
    least = np.minimum(most, SHORTEST * (radii[first] + radii[second]))
    return bool((distances < least).any())


def expanded(atoms: Atoms) -> bool:
    """Whether atoms are of one element, with more than `EXPANDED` times the volume of its solid."""
    symbols = atoms.get_chemical_symbols()
    solid = len(symbols) * atomic_volume(symbols[0])
    return len(set(symbols)) == 1 and bool(atoms.get_volume() > EXPANDED * solid)
