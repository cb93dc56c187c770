"""What can be a crystal: distances between atoms and their images, volumes."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from numpy.typing import NDArray
from pymatgen.optimization.neighbors import find_points_in_spheres

#: Distance (Å) within which pairs are looked at.
CUTOFF = 3.5

#: Shortest distance of a pair in units of the sum of its covalent radii (Cordero et al., Dalton
#: Trans. 2832 (2008)): the shortest known ones, of Cr-Cr quintuple bonds and of U=O, have 0.66.
SHORTEST = 0.625


def neighbours(
    atoms: Atoms, cutoff: float = CUTOFF
) -> tuple[NDArray[np.int_], NDArray[np.int_], NDArray[np.float64]]:
    """Pairs of atoms at most a cutoff (Å) apart, periodic images included, and their distances."""
    # A fortieth of the time of ASE's neighbour list, at each step of a relaxation.
    positions = np.ascontiguousarray(atoms.get_positions(wrap=True), float)
    cell = np.ascontiguousarray(atoms.cell.array, float)
    first, second, images, distances = find_points_in_spheres(
        positions, positions, cutoff, np.ones(3, np.int64), cell
    )
    others = (first != second) | images.any(1)
    return first[others], second[others], distances[others]


def shortest_distance(atoms: Atoms) -> float:
    """Shortest distance in Å between atoms, periodic images included; at most 3.5 Å."""
    distances = neighbours(atoms)[2]
    return float(distances.min()) if len(distances) else CUTOFF


def overlap(atoms: Atoms, most: float = np.inf) -> bool:
    """Whether a pair is closer than `SHORTEST` of its covalent radii, and than a distance (Å)."""
    first, second, distances = neighbours(atoms)
    radii = covalent_radii[atoms.numbers]
    least = np.minimum(most, SHORTEST * (radii[first] + radii[second]))
    return bool((distances < least).any())
