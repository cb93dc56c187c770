"""Placements: a crystal's space group, and which Wyckoff positions its elements take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import spglib
from pymatgen.core import Structure

from ccdcgan.models.wyckoff.positions import space_groups

#: Distance in Å within which atoms are equivalent.
TOLERANCE = 0.1


@dataclass(frozen=True)
class Placement:
    """What of a crystal is not continuous.

    Attributes
    ----------
    group
        Number of the space group.
    sites
        Indices of Wyckoff positions by element, ascending; one with free coordinates may repeat.
    """

    group: int
    sites: Mapping[str, tuple[int, ...]]

    def __hash__(self) -> int:
        return hash((self.group, *sorted(self.sites.items())))

    @property
    def atoms(self) -> dict[str, int]:
        """Atoms of each element in a primitive cell."""
        positions = space_groups()[self.group - 1].positions
        return {e: sum(positions[i].multiplicity for i in taken) for e, taken in self.sites.items()}

    @property
    def freedom(self) -> int:
        """Free coordinates."""
        positions = space_groups()[self.group - 1].positions
        return sum(positions[i].freedom for taken in self.sites.values() for i in taken)


def cell_of(structure: Structure) -> tuple[Any, Any, list[int]]:
    """Lattice, coordinates and atomic numbers, as spglib takes them."""
    numbers = [site.specie.Z for site in structure]
    return structure.lattice.matrix, structure.frac_coords, numbers


def placement_of(structure: Structure, tolerance: float = TOLERANCE) -> Placement | None:
    """The placement of a crystal; None where spglib finds no symmetry."""
    try:
        found = spglib.get_symmetry_dataset(cell_of(structure), symprec=tolerance)
    except Exception:  # noqa: BLE001  spglib has its own kinds for cells that are none
        return None
    if found is None:
        return None
    letters = [p.letter for p in space_groups()[found.number - 1].positions]
    sites: dict[str, list[int]] = {}
    for first in np.unique(found.crystallographic_orbits):
        element = structure[int(first)].specie.symbol
        sites.setdefault(element, []).append(letters.index(found.wyckoffs[first]))
    return Placement(int(found.number), {e: tuple(sorted(i)) for e, i in sites.items()})
