"""Variation operators that keep symmetry: they move, add or exchange orbits of equivalent atoms.

Known crystals are mostly symmetric, and a search among symmetric ones is short: Lyakhov, Oganov,
Stokes and Zhu, Comput. Phys. Commun. 184, 1172 (2013). A parent's space group is that within 0.01
Å; the child, a primitive cell of the parent but for superlattices, has all its operations.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

from ccdcgan.dft.structures.symmetry import Symmetry, symmetry_of
from ccdcgan.dft.structures.variation_atoms import (
    DISPLACEMENTS,
    nearest,
    repeated,
    strained,
    symbols_of,
    with_element,
    without,
)

FloatArray = NDArray[np.float64]

#: Displacements (Å) and strains that are less than this leave a crystal as it is.
LEAST_CHANGE = 0.005

#: Distance within which the images of a point become one special position, in edges of the cube of
#: one atom; drawn between these.
MERGED = (0.4, 1.2)

#: Distance of a new orbit from all atoms, at least, in the same edges: half of that of neighbours.
ROOM = 0.4

#: Random points that are tried for an orbit, and special positions among which the widest is taken.
ATTEMPTS, POSITIONS = 40, 4

#: Images of a point that are nearer to each other than this, in fractional coordinates, are one.
_SAME = 1e-4


def symmetric_rattle(parent: Structure, rng: np.random.Generator) -> Structure | None:
    """The crystal with its atoms displaced along the free parameters of their Wyckoff positions."""
    found = symmetry_of(parent)
    own = None if found is None else found.averaged(found.structure.frac_coords)
    if found is None or own is None:
        return None
    matrix = found.structure.lattice.matrix
    to_fractional = np.linalg.inv(matrix)
    moved = found.averaged(own + rng.normal(size=own.shape) @ to_fractional)
    size = rng.uniform(*DISPLACEMENTS)
    if moved is None:
        return None
    moves = (moved - own) @ matrix
    # Along a polar axis the whole crystal is free to move, which changes nothing.
    moves -= moves.mean(0)
    length = np.sqrt((moves**2).sum(1).mean())
    if length < LEAST_CHANGE:
        return None
    return _plain(found.snapped(coords=own + size / length * moves @ to_fractional))


def symmetric_strain(parent: Structure, rng: np.random.Generator) -> Structure | None:
    """The crystal under a random strain that keeps its volume and its crystal system."""
    found = symmetry_of(parent)
    if found is None:
        return None
    own = found.conforming(found.structure.lattice.matrix)
    matrix = found.conforming(strained(own, rng))
    matrix *= np.cbrt(np.linalg.det(own) / np.linalg.det(matrix))
    if np.abs(np.linalg.solve(own, matrix) - np.eye(3)).max() < LEAST_CHANGE:
        return None
    return _plain(found.snapped(matrix=matrix))


def orbit_permutation(parent: Structure, rng: np.random.Generator) -> Structure | None:
    """The crystal with the elements of two orbits exchanged."""
    cell, orbits = _cell_and_orbits(parent)
    # Two atoms exchanged are the inverted crystal.
    if cell is None or len(cell) == 2:
        return None
    symbols = symbols_of(cell)
    pairs = [(a, b) for a in orbits for b in orbits if symbols[a[0]] < symbols[b[0]]]
    if not pairs:
        return None
    a, b = pairs[int(rng.integers(len(pairs)))]
    kinds = symbols[a[0]], symbols[b[0]]
    for atoms, kind in ((a, kinds[1]), (b, kinds[0])):
        for i in atoms:
            symbols[i] = kind
    return Structure(cell.lattice, symbols, cell.frac_coords)


def orbit_transmutation(
    parent: Structure, elements: Sequence[str], rng: np.random.Generator
) -> Structure | None:
    """The crystal with an orbit of another element."""
    cell, orbits = _cell_and_orbits(parent)
    if cell is None:
        return None
    return with_element(cell, orbits[int(rng.integers(len(orbits)))], elements, rng)


def orbit_removal(parent: Structure, rng: np.random.Generator) -> Structure | None:
    """The crystal without one of its orbits."""
    cell, orbits = _cell_and_orbits(parent)
    return None if cell is None else without(cell, orbits[int(rng.integers(len(orbits)))])


def orbit_insertion(
    parent: Structure, elements: Sequence[str], max_atoms: int, rng: np.random.Generator
) -> Structure | None:
    """The crystal with an orbit more, of at most as many atoms as it has, in voids.

    Images of a random point that are near to each other are merged into a special position, as
    random symmetric crystals are made (Fredericks et al., Comput. Phys. Commun. 261, 107810
    (2021)).
    """
    found = symmetry_of(parent)
    cell = None if found is None else _plain(found.snapped())
    if found is None or cell is None:
        return None
    most = min(max_atoms - len(cell), len(cell))
    matrix = cell.lattice.matrix
    edge = (cell.volume / len(cell)) ** (1 / 3)
    best, widest, number = None, ROOM * edge, 0
    for _ in range(ATTEMPTS if most > 0 else 0):
        point, radius = rng.random(3), edge * rng.uniform(*MERGED)
        orbit = special_position(found, matrix, point, radius)
        if orbit is None or len(orbit) > most:
            continue
        width = float(nearest(matrix, orbit[:1], cell.frac_coords)[0])
        if width > widest:
            best, widest = orbit, width
        number += width > ROOM * edge
        if number == POSITIONS:
            break
    if best is None:
        return None
    symbol = elements[int(rng.integers(len(elements)))]
    return Structure(
        cell.lattice,
        symbols_of(cell) + [symbol] * len(best),
        np.vstack([cell.frac_coords, best]),
        to_unit_cell=True,
    )


def superlattice(
    parent: Structure, elements: Sequence[str], max_atoms: int, rng: np.random.Generator
) -> Structure | None:
    """The crystal doubled or tripled along a lattice vector, orbits of some copies changed.

    Ordered alloys and stackings are such.
    """
    cell, orbits = _cell_and_orbits(parent)
    times = [n for n in (2, 3) if cell is not None and n * len(cell) <= max_atoms]
    if cell is None or not times:
        return None
    number = times[int(rng.integers(len(times)))]
    child = repeated(cell, int(rng.integers(3)), number)
    changed = rng.choice(len(orbits), int(rng.integers(1, len(orbits) + 1)), replace=False)
    for orbit in changed:
        # Of all copies they would be a change of the small cell.
        copies = rng.choice(number, int(rng.integers(1, number)), replace=False)
        atoms = [int(copy) * len(cell) + i for copy in copies for i in orbits[int(orbit)]]
        made = with_element(child, atoms, elements, rng)
        if made is None:
            return None
        child = made
    return child


def special_position(
    found: Symmetry, matrix: FloatArray, point: FloatArray, radius: float
) -> FloatArray | None:
    """Fractional coordinates of an orbit near to a point, its atoms at least a distance apart.

    Parameters
    ----------
    matrix : array (3, 3)
        Lattice vectors of the symmetric cell.
    radius
        Least distance in Å.

    Returns
    -------
    array (n, 3)
        None where the images of the point do not come to rest so far from each other.
    """
    for _ in range(6):
        off = found.rotations @ point + found.translations - point
        off -= np.rint(off)
        near = np.linalg.norm(off @ matrix, axis=1) < radius
        if np.abs(off[near]).max() < _SAME**2:
            break
        point = point + off[near].mean(0)
    else:
        return None
    images = point + off
    between = images[:, None] - images
    first = (np.abs(between - np.rint(between)).max(-1) < _SAME).argmax(1)
    return np.asarray(images[np.unique(first)])


def _cell_and_orbits(parent: Structure) -> tuple[Structure | None, list[list[int]]]:
    """The symmetric primitive cell and its orbits; None where spglib finds no symmetry."""
    found = symmetry_of(parent)
    return (None, []) if found is None else (_plain(found.snapped()), found.orbits)


def _plain(structure: Structure | None) -> Structure | None:
    """The structure without oxidation states and site properties."""
    if structure is None:
        return None
    return Structure(structure.lattice, symbols_of(structure), structure.frac_coords)
