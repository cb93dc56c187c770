"""Other stackings of layered crystals, and two crystals stacked on each other where they fit.

Many families of phases are simple ones grown together in some order, as the homologous series
(Bi₂)ₘ(Bi₂Se₃)ₙ is of bismuth and Bi₂Se₃. Their cells are long, and few of the orders in which the
layers of such a cell can lie are low in energy.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

from ccdcgan.dft.structures.validity import is_degenerate

FloatArray = NDArray[np.float64]

#: Largest principal strain (its logarithm) between two planes; that of bismuth and Bi₂Se₃ is 0.09.
STRAIN = 0.15

#: Crystals are cut between layers that are at least this part of the widest gap apart.
WIDE = 0.9

#: Distances up to this (Å) tell which stackings are the same, by sums weighted over this (Å). From
#: a layer to the second next, across a quintuple layer and two gaps, it is some 12 Å.
FAR, WIDTH = 15.0, 5.0

#: Sideways steps of a period, in units of its plane's basis: above the middles of what is below.
STEPS = (
    (1 / 3, 1 / 3),
    (2 / 3, 2 / 3),
    (1 / 3, 2 / 3),
    (2 / 3, 1 / 3),
    (0, 1 / 2),
    (1 / 2, 0),
    (1 / 2, 1 / 2),
)

#: Bases of a plane's lattice in terms of a reduced one; its rotations are among them.
_MATRICES = np.array(list(itertools.product((-1, 0, 1), repeat=4))).reshape(-1, 2, 2)
BASES = _MATRICES[np.rint(np.linalg.det(_MATRICES)) == 1]


@dataclass(frozen=True)
class Period:
    """One period of a crystal along an axis, whole layers.

    Attributes
    ----------
    plane : array (2, 2)
        Reduced basis of the lattice across the axis, Å.
    up : array (3,)
        From this period to the next, Å; z is the height.
    positions : array (n, 3)
        Of the atoms from the lowest one, Å.
    species
        Of the atoms.
    """

    plane: FloatArray
    up: FloatArray
    positions: FloatArray
    species: tuple[str, ...]

    def laid_on(self, plane: FloatArray, basis: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Positions and `up` when a basis of the plane is strained to another, volume kept."""
        change = np.eye(3)
        change[:2, :2] = np.linalg.solve(basis, plane)
        change[2, 2] = 1.0 / np.linalg.det(change[:2, :2])
        return self.positions @ change, self.up @ change


def periods(structure: Structure) -> list[Period]:
    """The periods along the vectors of a cell, cut where layers are far apart."""
    found: list[Period] = []
    matrix = structure.lattice.matrix
    for axis in range(3):
        a, b = (matrix[k] for k in range(3) if k != axis)
        # Lagrange's reduction.
        while True:
            a, b = sorted((a, b), key=lambda v: float(v @ v))
            times = round(float(a @ b / (a @ a)))
            if times == 0:
                break
            b = b - times * a
        if np.cross(a, b) @ matrix[axis] < 0:
            b = -b
        x, z = a / np.linalg.norm(a), np.cross(a, b) / np.linalg.norm(np.cross(a, b))
        frame = np.array([x, np.cross(z, x), z]).T
        plane, up = (np.array([a, b]) @ frame)[:, :2], matrix[axis] @ frame
        positions = structure.cart_coords @ frame
        positions -= np.floor(positions[:, 2] / up[2])[:, None] * up
        order = np.argsort(positions[:, 2], kind="stable")
        positions = positions[order]
        gaps = np.append(positions[1:, 2], positions[0, 2] + up[2]) - positions[:, 2]
        for gap in np.flatnonzero(gaps > WIDE * gaps.max()):
            from_here = np.roll(positions + np.outer(np.arange(len(order)) <= gap, up), -gap - 1, 0)
            species = tuple(structure[int(i)].specie.symbol for i in np.roll(order, -gap - 1))
            found.append(Period(plane, up, from_here - from_here[0], species))
    return found


def grown_together(a: Period, b: Period) -> Iterator[Structure]:
    """A period of each in one cell, in all ways in which the lattices of their planes fit.

    Each period begins where the next one of the crystal below it would.
    """
    share = len(a.species) / (len(a.species) + len(b.species))
    bases = BASES @ b.plane
    strains = np.linalg.svd(np.linalg.inv(a.plane) @ bases, compute_uv=False)
    for basis in bases[np.abs(np.log(strains)).max(1) <= STRAIN]:
        x, y = basis[0] / np.linalg.norm(basis[0])
        plane = share * a.plane + (1 - share) * basis @ np.array([[x, -y], [y, x]])
        lower, to_b = a.laid_on(plane, a.plane)
        upper, to_a = b.laid_on(plane, basis)
        yield Structure(
            [[*plane[0], 0.0], [*plane[1], 0.0], to_b + to_a],
            a.species + b.species,
            np.vstack([lower, to_b + upper]),
            coords_are_cartesian=True,
        )


def restacked(a: Period) -> Iterator[Structure]:
    """The same period, each a step farther beside the one below than in the crystal."""
    for step in STEPS:
        matrix = np.zeros((3, 3))
        matrix[:2, :2], matrix[2] = a.plane, a.up
        matrix[2, :2] += step @ a.plane
        yield Structure(matrix, a.species, a.positions, coords_are_cartesian=True)


def distances_of(structure: Structure) -> tuple[str | float, ...]:
    """Formula, and for each pair of species two sums over the distances of its atoms, rounded.

    Equal for cells that differ in their basis, origin, orientation or handedness alone, and for no
    others whose layers lie within `FAR` of the second next ones.
    """
    first, second, _, distances = structure.get_neighbor_list(FAR)
    species, kinds = np.unique(structure.atomic_numbers, return_inverse=True)
    a, b = kinds[first], kinds[second]
    pair = np.maximum(a, b) * len(species) + np.minimum(a, b)
    weights = np.exp(-((distances / WIDTH) ** 2)) / len(structure)
    sums = [np.bincount(pair, w) for w in (weights, weights * distances)]
    return structure.composition.formula, *(round(float(x), 4) for x in np.concatenate(sums))


def stackings(
    crystals: Sequence[Structure], distances: Sequence[float], max_sites: int
) -> Iterator[tuple[tuple[int, ...], Iterator[Structure]]]:
    """Indices of one or two crystals and the stackings of these: the lowest crystals first.

    What comes may have atoms that are too near to each other. Stackings are made as they are asked
    for; of those with the same `distances_of` only the first comes.

    Parameters
    ----------
    crystals
        Reduced primitive cells.
    distances
        Of the crystals to the convex hull, eV/atom.
    max_sites
        Most atoms of a stacking.
    """
    usable = [i for i, c in enumerate(crystals) if not is_degenerate(c)]
    sizes = {i: len(crystals[i]) for i in usable}
    cut = {i: periods(crystals[i]) for i in usable}
    came: set[tuple[str | float, ...]] = set()

    def once(structure: Structure) -> bool:
        told = distances_of(structure)
        if told in came:
            return False
        came.add(told)
        return True

    def mean_distance(parts: tuple[int, ...]) -> float:
        return sum(sizes[i] * distances[i] for i in parts) / sum(sizes[i] for i in parts)

    pairs = itertools.combinations_with_replacement(usable, 2)
    for parts in sorted([*((i,) for i in usable), *pairs], key=mean_distance):
        if sum(sizes[i] for i in parts) > max_sites:
            continue
        ways = restacked if len(parts) == 1 else grown_together
        made = itertools.starmap(ways, itertools.product(*(cut[i] for i in parts)))
        yield parts, filter(once, itertools.chain.from_iterable(made))
