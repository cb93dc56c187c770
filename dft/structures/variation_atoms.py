"""Variation operators of evolutionary structure prediction that move, add or exchange atoms.

Oganov and Glass, J. Chem. Phys. 124, 244704 (2006); of variable composition: Lyakhov, Oganov and
Valle, Comput. Phys. Commun. 181, 1623 (2010). Children have neither volumes nor distances of real
crystals, and no site properties. None stands for a parent of which an operator makes nothing new.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Lattice, Structure

FloatArray = NDArray[np.float64]

#: Part of the cell, at least, that each of two parents gives.
LEAST_SHARE = 0.25

#: Smallest and largest standard deviation of the elements of a random strain.
STRAINS = (0.05, 0.25)

#: Smallest and largest standard deviation of random displacements, Å: crystals that differ by less
#: than some 0.9 Å count as the same.
DISPLACEMENTS = (0.3, 1.5)

#: How often the origin of a cut is drawn along the other two lattice vectors, too; else parts of
#: parents keep the symmetry elements that they have in common.
SIDEWAYS = 0.5

#: Random points of which an atom takes the one farthest from all others.
POINTS = 10

#: Cells, with the nearest by rounding, in which a neighbour may lie: (27, 3).
IMAGES = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), -1).reshape(-1, 3)


def heredity(
    one: Structure,
    other: Structure,
    max_atoms: int,
    rng: np.random.Generator,
    counts: Sequence[Mapping[str, int]] | None = None,
) -> Structure | None:
    """Cut and splice: a slab of one parent and the rest of the other, in a cell between theirs.

    Each parent is cut across a lattice vector of its own, from an origin of its own. Both are
    repeated until they have about as many atoms as each other, or more, as drawn.

    Parameters
    ----------
    max_atoms
        Most atoms of a repeated parent; the child may have some more.
    counts
        Numbers of atoms that are allowed. The child gets the nearest of them: surplus atoms are
        left out at random, missing ones taken from what the cuts have left over.
    """
    larger = max(len(one), len(other))
    size = int(np.exp(rng.uniform(np.log(larger), np.log(max(larger, max_atoms + 1)))))
    halves = [_cut(_enlarged(p, size), rng) for p in (one, other)]
    share = float(rng.uniform(LEAST_SHARE, 1.0 - LEAST_SHARE))
    (lengths, angles), (other_lengths, other_angles) = (half[0] for half in halves)
    lattice = Lattice.from_parameters(
        *(share * lengths + (1 - share) * other_lengths),
        *(share * angles + (1 - share) * other_angles),
    )
    coords = np.concatenate([half[1] for half in halves])
    symbols = [symbol for half in halves for symbol in half[2]]
    of_one = np.arange(len(symbols)) < len(halves[0][2])
    taken = (coords[:, 2] < share) == of_one
    if counts is not None and not _fitted(taken, symbols, counts, rng):
        return None
    chosen = np.flatnonzero(taken)
    if not len(chosen):
        return None
    return Structure(lattice, [symbols[i] for i in chosen], coords[chosen])


def permutation(parent: Structure, rng: np.random.Generator) -> Structure | None:
    """Some atoms of two elements with their places exchanged."""
    symbols = symbols_of(parent)
    kinds = sorted(set(symbols))
    # Two atoms exchanged are the inverted crystal.
    if len(kinds) < 2 or len(symbols) == 2:
        return None
    pair = [kinds[i] for i in rng.choice(len(kinds), 2, replace=False)]
    places = [np.flatnonzero([s == kind for s in symbols]) for kind in pair]
    number = int(rng.integers(1, min(map(len, places)) + 1))
    for kind, own in zip(reversed(pair), places, strict=True):
        for i in rng.choice(own, number, replace=False):
            symbols[i] = kind
    return Structure(parent.lattice, symbols, parent.frac_coords)


def strain(parent: Structure, rng: np.random.Generator) -> Structure | None:
    """The crystal under a random strain that keeps its volume."""
    matrix = strained(parent.lattice.matrix, rng)
    return Structure(matrix, symbols_of(parent), parent.frac_coords)


def rattle(parent: Structure, rng: np.random.Generator) -> Structure | None:
    """The crystal with every atom displaced at random."""
    if len(parent) == 1:
        return None
    moves = rng.normal(0.0, rng.uniform(*DISPLACEMENTS), (len(parent), 3))
    coords = parent.frac_coords + moves @ np.linalg.inv(parent.lattice.matrix)
    return Structure(parent.lattice, symbols_of(parent), coords, to_unit_cell=True)


def transmutation(
    parent: Structure, elements: Sequence[str], rng: np.random.Generator
) -> Structure | None:
    """The crystal with one atom of another element."""
    atom = int(rng.integers(len(parent)))
    return with_element(parent, [atom], elements, rng)


def insertion(
    parent: Structure, elements: Sequence[str], rng: np.random.Generator
) -> Structure | None:
    """The crystal with one atom more, in a void."""
    points = rng.random((POINTS, 3))
    distances = nearest(parent.lattice.matrix, points, parent.frac_coords)
    point = points[int(distances.argmax())]
    symbol = elements[int(rng.integers(len(elements)))]
    return Structure(
        parent.lattice, [*symbols_of(parent), symbol], np.vstack([parent.frac_coords, point])
    )


def removal(parent: Structure, rng: np.random.Generator) -> Structure | None:
    """The crystal without one of its atoms."""
    return without(parent, [int(rng.integers(len(parent)))])


def symbols_of(structure: Structure) -> list[str]:
    """Element of each site."""
    return [site.specie.symbol for site in structure]


def strained(matrix: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Lattice vectors under a random symmetric strain, of the same volume."""
    normal = rng.normal(0.0, rng.uniform(*STRAINS), (3, 3))
    change = np.eye(3) + (normal + normal.T) / 2
    # A determinant of zero makes a cell that is none, not an error.
    change /= np.cbrt(max(abs(np.linalg.det(change)), 1e-6))
    return np.asarray(matrix @ change)


def with_element(
    structure: Structure, atoms: Sequence[int], elements: Sequence[str], rng: np.random.Generator
) -> Structure | None:
    """The structure with atoms of one element changed to another."""
    symbols = symbols_of(structure)
    others = [element for element in elements if element != symbols[atoms[0]]]
    if not others:
        return None
    element = others[int(rng.integers(len(others)))]
    for i in atoms:
        symbols[i] = element
    return Structure(structure.lattice, symbols, structure.frac_coords)


def without(structure: Structure, atoms: Sequence[int]) -> Structure | None:
    """The structure without some of its atoms; None where none is left."""
    kept = [i for i in range(len(structure)) if i not in set(atoms)]
    if not kept:
        return None
    symbols = symbols_of(structure)
    return Structure(structure.lattice, [symbols[i] for i in kept], structure.frac_coords[kept])


def repeated(structure: Structure, axis: int, times: int) -> Structure:
    """The cell several times along a lattice vector, one copy of all atoms after the other."""
    matrix = structure.lattice.matrix.copy()
    matrix[axis] *= times
    coords = np.tile(structure.frac_coords, (times, 1))
    coords[:, axis] = (coords[:, axis] + np.repeat(np.arange(times), len(structure))) / times
    return Structure(matrix, symbols_of(structure) * times, coords)


def nearest(matrix: FloatArray, points: FloatArray, coords: FloatArray) -> FloatArray:
    """Distance (Å) from each point to the nearest atom, in a reduced cell."""
    off = points[:, None] - coords
    off -= np.rint(off)
    vectors = (off[:, :, None] + IMAGES) @ matrix
    return np.asarray(np.linalg.norm(vectors, axis=-1).min((1, 2)))


def _enlarged(structure: Structure, atoms: int) -> Structure:
    """The cell, doubled along its shortest vector as long as it has no more atoms than asked."""
    while 2 * len(structure) <= atoms:
        structure = repeated(structure, int(np.argmin(structure.lattice.abc)), 2)
    return structure


def _cut(
    parent: Structure, rng: np.random.Generator
) -> tuple[tuple[FloatArray, FloatArray], FloatArray, list[str]]:
    """Lengths and angles, coordinates and elements, axes and origin drawn at random."""
    axes = rng.permutation(3)
    origin = rng.random(3)
    if rng.random() > SIDEWAYS:
        origin[:2] = 0.0
    coords = np.mod(parent.frac_coords[:, axes] + origin, 1.0)
    lengths, angles = np.array(parent.lattice.abc), np.array(parent.lattice.angles)
    return (lengths[axes], angles[axes]), coords, symbols_of(parent)


def _fitted(
    taken: NDArray[np.bool_],
    symbols: Sequence[str],
    counts: Sequence[Mapping[str, int]],
    rng: np.random.Generator,
) -> bool:
    """Take atoms or leave them, until their numbers are the nearest allowed; whether they are."""
    own = Counter(symbol for symbol, is_taken in zip(symbols, taken, strict=True) if is_taken)
    kinds = sorted({*symbols, *(s for c in counts for s in c)})
    wanted = min(counts, key=lambda c: sum(abs(own[k] - c.get(k, 0)) for k in kinds))
    for kind in kinds:
        surplus = own[kind] - wanted.get(kind, 0)
        is_kind = np.array([symbol == kind for symbol in symbols])
        pool = np.flatnonzero(is_kind & (taken == (surplus > 0)))
        if len(pool) < abs(surplus):
            return False
        changed = rng.choice(pool, abs(surplus), replace=False)
        taken[changed] = ~taken[changed]
    return True
