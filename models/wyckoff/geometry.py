"""Cells and free coordinates of known crystals, from which those of a placement are drawn."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import spglib
from numpy.typing import NDArray
from pymatgen.core import Lattice, Structure

from ccdcgan.dft.structures.spacegroups import settings_of
from ccdcgan.models.representation.voxels import FloatArray
from ccdcgan.models.wyckoff.placement import TOLERANCE, Placement, cell_of
from ccdcgan.models.wyckoff.positions import Position, SpaceGroup, space_groups

#: Standard deviations by which what is taken from a known crystal is changed: of the logarithms of
#: the lengths' ratios, and of free coordinates.
SHAPE_JITTER, JITTER = 0.05, 0.03

#: Distance by which atoms may miss their position, as a fraction of the cell.
MISS = 0.05

#: Vectors of a primitive lattice by which an atom and the one of the tables may differ, (125, 3).
SHIFTS = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3, indexing="ij"), -1).reshape(-1, 3)


@dataclass(frozen=True)
class Geometry:
    """What of a crystal is continuous, but for its volume.

    Attributes
    ----------
    group
        Number of the space group.
    shape : array (6,)
        Lengths and angles (degrees) of the conventional cell of volume 1.
    positions : array (k,)
        Indices of the occupied Wyckoff positions.
    free : array (k, 3)
        x, y, z of each.
    """

    group: int
    shape: FloatArray
    positions: NDArray[np.int_]
    free: FloatArray


def geometry_of(structure: Structure, tolerance: float = TOLERANCE) -> Geometry | None:
    """The geometry of a crystal; None where spglib finds no symmetry, or another than the tables'.

    Parameters
    ----------
    tolerance
        Distance in Å within which atoms are equivalent.
    """
    cell = cell_of(structure)
    try:
        plain: Any = spglib.get_symmetry_dataset(cell, symprec=tolerance)
        group = int(plain.number)
        found: Any = spglib.get_symmetry_dataset(cell, symprec=tolerance, hall_number=_hall(group))
    except Exception:  # noqa: BLE001  spglib has its own kinds for cells that are none
        return None
    if found is None or found.number != group:
        return None
    here = space_groups()[group - 1]
    letters = [p.letter for p in here.positions]
    coords = structure.frac_coords @ found.transformation_matrix.T + found.origin_shift
    matrix = np.linalg.inv(found.transformation_matrix).T @ structure.lattice.matrix
    matrix = matrix / abs(np.linalg.det(matrix)) ** (1 / 3)
    positions, free = [], []
    for first in np.unique(found.crystallographic_orbits):
        index = letters.index(found.wyckoffs[first])
        atoms = coords[found.crystallographic_orbits == first]
        place = _free(here, here.positions[index], atoms)
        if place is None:
            return None
        positions.append(index)
        free.append(place)
    shape = np.array(Lattice(matrix).parameters)
    return Geometry(group, shape, np.array(positions), np.array(free) % 1.0)


def _free(group: SpaceGroup, position: Position, atoms: FloatArray) -> FloatArray | None:
    """Free coordinates (3,) with which a position's first atom is one of these (n, 3)."""
    rotation, translation = position.rotations[0], position.translations[0]
    away = atoms[:, None] - translation + SHIFTS @ group.primitive
    places = away @ np.linalg.pinv(rotation).T
    missed = np.abs(places @ rotation.T - away).max(-1)
    best = np.unravel_index(int(missed.argmin()), missed.shape)
    return np.asarray(places[best]) if missed[best] < MISS else None


@cache
def _hall(group: int) -> int:
    """Number of spglib's setting in which the operations of a group are those of the tables."""
    here = space_groups()[group - 1]
    general, inverse = here.positions[-1], np.linalg.inv(here.primitive)

    def names(rotations: Any, translations: FloatArray) -> set[tuple[int, ...]]:
        places = np.round((translations @ inverse) % 1.0 * 24).astype(int) % 24
        turns = np.round(rotations).astype(int).reshape(len(rotations), 9)
        return {(*map(int, r), *map(int, t)) for r, t in zip(turns, places, strict=True)}

    own = names(general.rotations, general.translations)
    for hall in settings_of(group):
        operations: Any = spglib.get_symmetry_from_database(hall)
        if names(operations["rotations"], operations["translations"]) == own:
            return hall
    return 0


class Geometries:
    """Geometries of known crystals by space group.

    Parameters
    ----------
    known
        Of the crystals.
    """

    def __init__(self, known: Sequence[Geometry] = ()) -> None:
        self._known = tuple(known)
        self._of_group: defaultdict[int, list[Geometry]] = defaultdict(list)
        for geometry in known:
            self._of_group[geometry.group].append(geometry)

    def draw(
        self, placement: Placement, count: int, rng: np.random.Generator
    ) -> tuple[FloatArray, FloatArray] | None:
        """Shapes (count, 6) and free coordinates (count, sites, 3) near those of known crystals.

        A known crystal of the group is the likelier taken the more atoms it has on the same
        positions. What it does not have is anywhere. None without a known crystal of the group.
        """
        known = self._of_group.get(placement.group)
        if not known:
            return None
        positions = space_groups()[placement.group - 1].positions
        wanted = np.array([i for taken in placement.sites.values() for i in taken])
        atoms = np.array([p.multiplicity for p in positions])
        share = np.array([_shared(wanted, g.positions, atoms) for g in known])
        odds = (share + 0.05) ** 2
        shapes, places = np.empty((count, 6)), rng.random((count, len(wanted), 3))
        for n, choice in enumerate(rng.choice(len(known), count, p=odds / odds.sum())):
            one = known[choice]
            shapes[n] = one.shape
            left = rng.permutation(len(one.positions)).tolist()
            for site in rng.permutation(len(wanted)):
                match = next((k for k in left if one.positions[k] == wanted[site]), None)
                if match is not None:
                    left.remove(match)
                    places[n, site] = one.free[match] + JITTER * rng.standard_normal(3)
        shapes[:, :3] *= np.exp(SHAPE_JITTER * rng.standard_normal((count, 3)))
        return shapes, places

    def with_crystals(self, structures: Sequence[Structure]) -> Geometries:
        """These, and those of more crystals."""
        found = [g for s in structures if (g := geometry_of(s)) is not None]
        return Geometries([*self._known, *found])

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The geometries as arrays, for `from_arrays`."""
        known = self._known
        positions = [np.zeros(0, int), *(g.positions for g in known)]
        return {
            "group": np.array([g.group for g in known], np.uint8),
            "count": np.array([len(g.positions) for g in known], np.uint8),
            "shape": np.array([g.shape for g in known], np.float32).reshape(-1, 6),
            "positions": np.concatenate(positions).astype(np.uint8),
            "free": np.concatenate([np.zeros((0, 3)), *(g.free for g in known)]).astype(np.float32),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Geometries:
        """The geometries that `arrays` has made."""
        ends = np.cumsum(arrays["count"], dtype=int)
        rows = zip(
            arrays["group"],
            arrays["shape"].astype(float),
            np.split(arrays["positions"].astype(int), ends)[:-1],
            np.split(arrays["free"].astype(float), ends)[:-1],
            strict=True,
        )
        return cls([Geometry(int(group), *row) for group, *row in rows])


def _shared(wanted: NDArray[np.int_], there: NDArray[np.int_], atoms: NDArray[np.int_]) -> float:
    """Part of the atoms that stand on positions that both have."""
    both = Counter(wanted.tolist()) & Counter(there.tolist())
    most = max(int(atoms[wanted].sum()), int(atoms[there].sum()))
    return sum(int(atoms[i]) * n for i, n in both.items()) / most
