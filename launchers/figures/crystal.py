"""A crystal as balls and the edges of its cell."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from ase.data import atomic_numbers, covalent_radii
from ase.data.colors import jmol_colors
from numpy.typing import NDArray
from pymatgen.core import Structure

_CORNERS = np.array(list(itertools.product((0, 1), repeat=3)))


class Ball(NamedTuple):
    """An atom.

    Attributes
    ----------
    place : array (3,)
        Å.
    radius
        Covalent radius, Å.
    rgb
        Each from 0 to 1.
    """

    symbol: str
    place: NDArray[np.float64]
    radius: float
    rgb: tuple[float, ...]


def balls(structure: Structure) -> list[Ball]:
    """Atoms of the cell; those on faces, edges and corners on each of them."""
    found = []
    for site in structure:
        symbol = site.specie.symbol
        number = atomic_numbers[symbol]
        inside = np.mod(site.frac_coords, 1.0)
        inside[inside > 0.99] = 0.0
        for image in inside + _CORNERS:
            if (image <= 1.01).all():
                place = image @ structure.lattice.matrix
                rgb = tuple(float(part) for part in jmol_colors[number])
                found.append(Ball(symbol, place, float(covalent_radii[number]), rgb))
    return found


def edges(structure: Structure) -> list[NDArray[np.float64]]:
    """The twelve edges of the cell, (2, 3) each, Å."""
    return [
        np.array([a, b]) @ structure.lattice.matrix
        for a, b in itertools.combinations(_CORNERS, 2)
        if abs(a - b).sum() == 1
    ]
