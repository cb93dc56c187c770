"""Approximate symmetry: space groups within a tolerance, and crystals snapped to them.

Positions and lattice are averaged over all operations, so that a snapped crystal is the symmetric
one nearest to what was given: spglib (Togo, Shinohara and Tanaka, Sci. Technol. Adv. Mater. Methods
4, 2384822 (2024)) finds the space group, and refines one atom of each orbit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import spglib
from numpy.typing import NDArray
from pymatgen.core import Structure

from ccdcgan.dft.structures.moments import moments_of
from ccdcgan.dft.structures.validity import is_degenerate, too_close

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int_]

#: Distances in Å by which atoms may miss their symmetric places, the strictest first.
TOLERANCES = (0.1, 0.2, 0.3, 0.5)

#: The same for the symmetry that a crystal has as it is.
AS_IT_IS = 0.01

#: Most atoms of a cell that is snapped: every atom is compared with every other by each operation.
MOST_SNAPPED = 200

#: Fractional coordinates that differ by less are equal: the noise of the arithmetic.
_NOISE = 1e-6


@dataclass(frozen=True)
class Symmetry:
    """A space group, and what its operations do in a primitive cell.

    Attributes
    ----------
    number
        Of the space group in the International Tables.
    structure
        Primitive cell of the crystal, each atom the mean of those that are its translations.
    rotations : array (m, 3, 3)
        Of the fractional coordinates, one for each operation of the point group.
    translations : array (m, 3)
        To each rotation.
    images : array (m, n)
        Atom on which each operation lays each atom.
    cells : array (m, n, 3)
        Lattice vectors by which it lies beside that atom.
    """

    number: int
    structure: Structure
    rotations: IntArray
    translations: FloatArray
    images: IntArray
    cells: FloatArray

    @cached_property
    def orbits(self) -> list[list[int]]:
        """Indices of equivalent atoms of the primitive cell."""
        return grouped(self.images.min(0).tolist())

    @property
    def is_identity(self) -> bool:
        """Whether there is no operation but translations."""
        return len(self.rotations) == 1

    def averaged(self, coords: FloatArray) -> FloatArray | None:
        """Fractional coordinates near to those of the structure, made symmetric.

        None where the operations do not make a group on these atoms.
        """
        order = np.argsort(self.images, axis=1)[..., None]
        mean = np.take_along_axis(self._moved(coords), order, 1).mean(0)
        off = self._moved(mean) - mean[self.images]
        return mean if np.abs(off).max() < _NOISE else None

    def _moved(self, coords: FloatArray) -> FloatArray:
        moved = np.einsum("mij,nj->mni", self.rotations, coords)
        return np.asarray(moved + self.translations[:, None] - self.cells)

    def conforming(self, matrix: FloatArray) -> FloatArray:
        """Lattice vectors with the metric of the crystal system, not turned."""
        w = self.rotations
        metric = np.mean(np.swapaxes(w, 1, 2) @ (matrix @ matrix.T) @ w, axis=0)
        inverse = np.linalg.inv(matrix)
        squares, axes = np.linalg.eigh(inverse @ metric @ inverse.T)
        return np.asarray(matrix @ (axes * np.sqrt(squares)) @ axes.T)

    def snapped(
        self, matrix: FloatArray | None = None, coords: FloatArray | None = None
    ) -> Structure | None:
        """The primitive cell with the whole symmetry, or None where that is no crystal.

        Parameters
        ----------
        matrix, coords
            Lattice vectors and fractional coordinates in place of those of the structure.
        """
        own = self.structure
        symmetric = self.averaged(own.frac_coords if coords is None else coords)
        if symmetric is None:
            return None
        made = Structure(
            self.conforming(own.lattice.matrix if matrix is None else matrix),
            own.species_and_occu,
            symmetric,
            to_unit_cell=True,
            site_properties=own.site_properties or None,
        )
        return None if is_degenerate(made) or too_close(made) else made


def symmetry_of(structure: Structure, tolerance: float = AS_IT_IS) -> Symmetry | None:
    """Space group of a structure within a tolerance (Å), or None where spglib finds none.

    Magnetic moments and oxidation states tell atoms of one element apart.
    """
    if len(structure) > MOST_SNAPPED or is_degenerate(structure):
        return None
    kinds = _kinds(structure)
    found = _dataset(structure, kinds, tolerance)
    return None if found is None else _symmetry(structure, kinds, found)


def space_group_number(structure: Structure, tolerance: float = AS_IT_IS) -> int:
    """Number of a structure's space group within a tolerance (Å); 1 where spglib finds none."""
    found = None if is_degenerate(structure) else _dataset(structure, _kinds(structure), tolerance)
    return 1 if found is None else int(found.number)


def symmetrised(structure: Structure, tolerance: float) -> Structure | None:
    """Primitive cell of a structure, snapped to its symmetry within a tolerance (Å).

    None where there is no operation but the translations of the cell, and where the snapped cell is
    no crystal. Magnetic moments stay; they and oxidation states tell atoms apart.
    """
    found = symmetry_of(structure, tolerance)
    if found is None or (found.is_identity and len(found.structure) == len(structure)):
        return None
    return found.snapped()


def ladder(structure: Structure) -> list[Structure]:
    """Snapped versions of a structure of higher symmetry than its own, each space group once.

    Those of the lowest of the `TOLERANCES` come first. A smaller primitive cell is higher symmetry,
    too.
    """
    if len(structure) > MOST_SNAPPED or is_degenerate(structure):
        return []
    kinds = _kinds(structure)
    own = _dataset(structure, kinds, AS_IT_IS)
    lowest = 1.0 / len(structure) if own is None else _order(own)
    rungs: dict[tuple[int, float], Structure] = {}
    for tolerance in TOLERANCES:
        found = _dataset(structure, kinds, tolerance)
        if found is None:
            continue
        group = (int(found.number), _order(found))
        if group[1] <= lowest or group in rungs:
            continue
        near = _symmetry(structure, kinds, found)
        made = None if near is None else near.snapped()
        if made is not None:
            rungs[group] = made
    return list(rungs.values())


def orbits(structure: Structure, tolerance: float = AS_IT_IS) -> list[list[int]]:
    """Indices of equivalent atoms, by orbits; each atom alone where spglib finds no symmetry."""
    found = None
    if not is_degenerate(structure):
        found = _dataset(structure, _kinds(structure), tolerance)
    every = range(len(structure)) if found is None else found.crystallographic_orbits.tolist()
    return grouped(every)


def grouped(labels: Sequence[int]) -> list[list[int]]:
    """Indices of equal labels, in the order in which they first occur."""
    groups: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        groups.setdefault(label, []).append(index)
    return list(groups.values())


def _kinds(structure: Structure) -> IntArray:
    """A number for each site, equal for those that symmetry may exchange."""
    names = [site.species_string for site in structure]
    moments = moments_of(structure)
    if moments is not None:
        # Without -0.0, which has another text.
        names = [f"{n} {np.round(m, 1) + 0.0}" for n, m in zip(names, moments, strict=True)]
    return np.asarray(np.unique(names, return_inverse=True)[1], int)


def _dataset(structure: Structure, kinds: IntArray, tolerance: float) -> Any:
    """What spglib finds, or None."""
    cell: Any = (structure.lattice.matrix, structure.frac_coords, kinds + 1)
    try:
        return spglib.get_symmetry_dataset(cell, symprec=tolerance)
    except Exception:  # noqa: BLE001  some versions raise where others return None
        return None


def _order(found: Any) -> float:
    """Operations of a dataset's space group for each atom: more in a supergroup."""
    database: Any = spglib.get_symmetry_from_database(found.hall_number)
    return len(database["rotations"]) / len(found.std_types)


def _symmetry(structure: Structure, kinds: IntArray, found: Any) -> Symmetry | None:
    """What a dataset's operations do in a primitive cell; None where they are no group there."""
    # Rows are the vectors of the cell in terms of the primitive ones.
    matrix = structure.lattice.matrix
    to_primitive = np.rint(matrix @ np.linalg.inv(found.primitive_lattice))
    _, first, of = np.unique(found.mapping_to_primitive, return_index=True, return_inverse=True)
    times = round(abs(np.linalg.det(to_primitive)))
    if times == 0 or len(first) * times != len(of) or (kinds != kinds[first][of]).any():
        return None
    every = structure.frac_coords @ to_primitive
    off = every - every[first][of]
    coords = every[first].copy()
    np.add.at(coords, of, (off - np.rint(off)) / times)
    species, moments = structure.species_and_occu, moments_of(structure)
    primitive = Structure(
        np.linalg.inv(to_primitive) @ matrix,
        [species[i] for i in first],
        coords,
        site_properties=None if moments is None else {"magmom": [moments[i] for i in first]},
    )
    rotations, translations = _operations(found, to_primitive)
    placed = _placed(primitive, kinds[first], rotations, translations)
    if placed is None:
        return None
    return Symmetry(int(found.number), primitive, rotations, translations, *placed)


def _operations(found: Any, to_primitive: FloatArray) -> tuple[IntArray, FloatArray]:
    """Operations of a dataset's space group in the primitive cell, a translation to each rotation.

    They are those of the International Tables, exact, where those that spglib has found in the
    crystal are only near to a group; and they are all, also where the given cell has none of them.
    """
    database: Any = spglib.get_symmetry_from_database(found.hall_number)
    # Vectors of the conventional cell in terms of those of the primitive one, in columns.
    q = np.rint(to_primitive.T @ np.linalg.inv(found.transformation_matrix))
    inverse = np.linalg.inv(q)
    rotations = np.rint(q @ database["rotations"] @ inverse).astype(int)
    shift = found.origin_shift
    translations = (database["rotations"] @ shift + database["translations"] - shift) @ q.T
    _, first = np.unique(rotations.reshape(-1, 9), axis=0, return_index=True)
    first.sort()
    return rotations[first], np.asarray(translations[first])


def _placed(
    primitive: Structure, kinds: IntArray, rotations: IntArray, translations: FloatArray
) -> tuple[IntArray, FloatArray] | None:
    """Images of all atoms and the cells in which they lie; None where two have the same."""
    coords = primitive.frac_coords
    moved = np.einsum("mij,nj->mni", rotations, coords) + translations[:, None]
    off = moved[:, :, None] - coords
    off -= np.rint(off)
    squares = ((off @ primitive.lattice.matrix) ** 2).sum(-1)
    images = np.where(kinds[:, None] == kinds, squares, np.inf).argmin(-1)
    if (np.sort(images, axis=1) != np.arange(len(coords))).any():
        return None
    return images, np.rint(moved - coords[images])
