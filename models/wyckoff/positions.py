"""Wyckoff positions of the space groups (International Tables A), as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from ccdcgan.dft.structures.spacegroups import short_symbol
from ccdcgan.models.representation.voxels import FloatArray

#: Rows are vectors of a primitive cell in those of the conventional one, by the lattice's letter.
PRIMITIVE = {
    "P": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "A": [[1, 0, 0], [0, 0.5, 0.5], [0, -0.5, 0.5]],
    "C": [[0.5, 0.5, 0], [-0.5, 0.5, 0], [0, 0, 1]],
    "I": [[-0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.5, 0.5, -0.5]],
    "F": [[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]],
    "R": [[2 / 3, 1 / 3, 1 / 3], [-1 / 3, 1 / 3, 1 / 3], [-1 / 3, -2 / 3, 1 / 3]],
}


@dataclass(frozen=True)
class Position:
    """A Wyckoff position.

    Attributes
    ----------
    letter
        In the International Tables.
    multiplicity
        Atoms in a primitive cell.
    freedom
        Free coordinates.
    symmetry
        Point group of a site, in the order of the axes.
    rotations, translations : array (multiplicity, 3, 3), (multiplicity, 3)
        Coordinates in the conventional cell are `rotations` @ (x, y, z) + `translations`.
    """

    letter: str
    multiplicity: int
    freedom: int
    symmetry: str
    rotations: FloatArray
    translations: FloatArray

    def coordinates(self, free: FloatArray) -> FloatArray:
        """Atoms (..., multiplicity, 3) in the conventional cell for x, y, z (..., 3)."""
        return np.asarray(np.einsum("mij,...j->...mi", self.rotations, free) + self.translations)


@dataclass(frozen=True)
class SpaceGroup:
    """A space group with its Wyckoff positions, the most special first.

    Attributes
    ----------
    number, symbol
        In the International Tables; the symbol's first letter is that of the lattice.
    """

    number: int
    symbol: str
    positions: tuple[Position, ...]

    @property
    def primitive(self) -> FloatArray:
        """Vectors of a primitive cell in those of the conventional one, as rows."""
        return np.array(PRIMITIVE[self.symbol[0]], float)

    @property
    def order(self) -> int:
        """Operations of the point group: the multiplicity of the general position."""
        return self.positions[-1].multiplicity


@cache
def space_groups() -> tuple[SpaceGroup, ...]:
    """All space groups, number n at n - 1."""
    stored = resources.files("ccdcgan.models").joinpath("weights", "wyckoff.npz")
    with stored.open("rb") as file, np.load(file, allow_pickle=False) as data:
        table = dict(data)
    last = np.cumsum(table["multiplicity"], dtype=int)
    rotations, translations = table["rotations"] / 2.0, table["translations"] / 24.0
    of_group: list[list[Position]] = [[] for _ in range(230)]
    for i, end in enumerate(last):
        m = int(table["multiplicity"][i])
        of_group[int(table["group"][i]) - 1].append(
            Position(
                str(table["letter"][i]),
                m,
                int(table["freedom"][i]),
                str(table["symmetry"][i]),
                rotations[end - m : end],
                translations[end - m : end],
            )
        )
    return tuple(
        SpaceGroup(number, short_symbol(number), tuple(found))
        for number, found in enumerate(of_group, 1)
    )


def reachable(
    group: SpaceGroup, atoms: int, first: int, taken: frozenset[int]
) -> NDArray[np.bool_]:
    """Which positions from `first` on can be next, so that `atoms` atoms find places.

    Parameters
    ----------
    atoms
        Atoms of an element that are left, in a primitive cell.
    first
        Positions are taken in their order, one with free coordinates as often as wanted.
    taken
        Positions without free coordinates that are occupied.
    """
    count = len(group.positions)
    can = np.zeros((count + 1, atoms + 1), bool)
    can[:, 0] = True
    here = np.zeros(count, bool)
    for i in range(count - 1, -1, -1):
        position = group.positions[i]
        m = position.multiplicity
        can[i] = can[i + 1]
        if m > atoms or (not position.freedom and i in taken):
            continue
        again = i if position.freedom else i + 1
        for left in range(m, atoms + 1):
            can[i, left] |= can[again, left - m]
        here[i] = i >= first and can[again, atoms - m]
    return here
