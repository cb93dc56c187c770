"""Collinear orders of the moments of a crystal, in its own cell and in cells of twice its size.

Ground states are often among the most symmetric ones (Horton et al., npj Comput. Mater. 5, 64
(2019)), whose enumeration by pymatgen needs enumlib, a program that pip does not install. In small
cells all orders can be looked at instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import spglib
from numpy.typing import NDArray
from pymatgen.core import Structure

from ccdcgan.dft.structures.moments import with_moments
from ccdcgan.dft.structures.sources import primitive_cell
from ccdcgan.dft.structures.symmetry import grouped
from ccdcgan.dft.structures.validity import is_degenerate

#: Most magnetic atoms of a cell whose orders are looked at: 2^15 of them.
MOST_MAGNETIC = 16

#: Tolerance of symmetry, Å, as for space groups.
SYMPREC = 0.1

#: Cells of once and twice the size, as multiples of the primitive vectors in rows (Hermite's normal
#: form).
CELLS: tuple[NDArray[np.int64], ...] = (
    np.eye(3, dtype=int),
    *(np.array([[1, 0, i], [0, 1, j], [0, 0, 2]]) for i in (0, 1) for j in (0, 1)),
    *(np.array([[1, i, 0], [0, 2, 0], [0, 0, 1]]) for i in (0, 1)),
    np.diag([2, 1, 1]),
)

Ints = NDArray[np.int64]


class Order(NamedTuple):
    """An order of a crystal's moments.

    Attributes
    ----------
    cell, moments
        A cell that holds it, and the moments of its sites, μB.
    is_balanced
        Whether they add up to none.
    symmetry
        Operations, for each primitive cell, that leave it as it is or turn all moments.
    """

    cell: Structure
    moments: list[float]
    is_balanced: bool
    symmetry: float


def magnetic_orders(
    structure: Structure, moments: Mapping[str, float], most: int
) -> list[Structure]:
    """Orders of a crystal in which some moments are up and some down, each once.

    Antiferromagnets, whose moments add up to none, and ferrimagnets in which equivalent atoms have
    equal moments; the most symmetric first, in the smaller cell. Cells of more than `MOST_MAGNETIC`
    magnetic atoms are left out.

    Parameters
    ----------
    structure
        Without moments.
    moments
        Of the atoms of magnetic elements, μB.
    most
        Orders, at most.
    """
    cell = primitive_cell(structure)
    if most < 1 or is_degenerate(cell):
        return []
    symmetry = _symmetry(cell)
    found = [
        order
        for multiples in _distinct(CELLS, symmetry["rotations"])
        for order in _orders(cell, multiples, moments)
    ]
    found.sort(key=lambda o: (-o.symmetry, not o.is_balanced, len(o.cell)))
    return [with_moments(o.cell, o.moments).get_reduced_structure() for o in found[:most]]


def _symmetry(cell: Structure) -> Any:
    """Rotations, translations and equivalent atoms; of a cell without symmetry its own."""
    plain: Any = (cell.lattice.matrix, cell.frac_coords, cell.atomic_numbers)
    try:
        found = spglib.get_symmetry(plain, symprec=SYMPREC)
    except Exception:  # noqa: BLE001  some versions raise where others return None
        found = None
    identity = {"rotations": np.eye(3, dtype=int)[None], "translations": np.zeros((1, 3))}
    return found or {**identity, "equivalent_atoms": np.arange(len(cell))}


def _distinct(cells: tuple[Ints, ...], rotations: Ints) -> Iterator[Ints]:
    """Of cells that a rotation of the crystal turns into each other, the first.

    G. L. W. Hart and R. W. Forcade, Phys. Rev. B 77, 224115 (2008).
    """
    kept: list[Ints] = []
    for cell in cells:
        turned = cell @ rotations.transpose(0, 2, 1)
        alike = (c for c in kept if np.linalg.det(c) > np.linalg.det(cell) - 0.5)
        if not any(_are_whole(turned @ np.linalg.inv(other)).any() for other in alike):
            kept.append(cell)
            yield cell


def _are_whole(matrices: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray((np.abs(matrices - np.rint(matrices)) < 1e-6).all(axis=(1, 2)))


def _orders(cell: Structure, multiples: Ints, moments: Mapping[str, float]) -> Iterator[Order]:
    """The orders of one cell that are of no smaller one."""
    whole = cell.make_supercell(multiples, in_place=False, to_unit_cell=True)
    sizes = np.array([moments.get(site.specie.symbol, 0.0) for site in whole])
    magnetic = np.flatnonzero(sizes)
    count = len(magnetic)
    if not 2 <= count <= MOST_MAGNETIC:
        return
    symmetry = _symmetry(whole)
    moves = _permutations(whole, symmetry)
    # As places among the magnetic atoms.
    moves = np.searchsorted(magnetic, moves[:, magnetic])
    shifts = moves[(symmetry["rotations"] == np.eye(3, dtype=int)).all(axis=(1, 2))]
    # The first one is up: an order and that of all moments turned are the same.
    down = np.arange(1, 2 ** (count - 1))[:, None] << 1 >> np.arange(count) & 1
    signs = 1 - 2 * down
    is_balanced = np.abs(signs @ sizes[magnetic]) < 1e-6
    orbits = grouped(symmetry["equivalent_atoms"][magnetic].tolist())
    is_uniform = np.all([np.ptp(signs[:, o], axis=1) == 0 for o in orbits], axis=0)
    signs = signs[is_balanced | is_uniform]
    is_balanced = is_balanced[is_balanced | is_uniform]
    codes = _codes(signs)
    images = np.array([_codes(signs[:, move]) for move in moves])
    periods = sum((signs[:, shift] == signs).all(axis=1).astype(int) for shift in shifts)
    # Not of a smaller cell, nor another image of one that is met, too.
    for number in np.flatnonzero((periods == 1) & (images.min(axis=0) == codes)):
        of_sites = np.zeros(len(whole))
        of_sites[magnetic] = signs[number] * sizes[magnetic]
        kept = int((images[:, number] == codes[number]).sum())
        symmetric = kept * len(cell) / len(whole)
        yield Order(whole, of_sites.tolist(), bool(is_balanced[number]), symmetric)


def _codes(signs: Ints) -> Ints:
    """A number for each row of signs, the same for a row with all of them turned."""
    turned = signs * signs[:, :1]
    codes: Ints = (turned < 0) @ (1 << np.arange(signs.shape[1]))
    return codes


def _permutations(cell: Structure, symmetry: Any) -> Ints:
    """Which site each operation brings each site to, shape (operations, sites)."""
    rotations, translations = symmetry["rotations"], symmetry["translations"]
    moved = cell.frac_coords @ rotations.transpose(0, 2, 1) + translations[:, None]
    found = []
    for places in moved:
        distances = cell.lattice.get_all_distances(places, cell.frac_coords)
        # Atoms of another element are none that it can be brought to.
        distances[np.not_equal.outer(cell.atomic_numbers, cell.atomic_numbers)] = np.inf
        found.append(distances.argmin(axis=1))
    return np.array(found)
