"""Which crystals are the same: one StructureMatcher for the whole project."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure

from ccdcgan.dft.structures.validity import is_degenerate

#: By which structures count as the same (paper, Methods): fractional length, site, angle (°).
TOLERANCES: dict[str, Any] = {"ltol": 0.2, "stol": 0.3, "angle_tol": 5.0}

#: Wider ones, for crystals that are about the same: those by which generative models are said to
#: reconstruct crystals (Xie et al., CDVAE, ICLR 2022, arXiv:2110.06197).
WIDER: dict[str, Any] = {"ltol": 0.3, "stol": 0.5, "angle_tol": 10.0}

#: Cells of one volume whose sorted reduced lengths differ by a larger factor (its logarithm) do
#: not match: the matcher allows a fifth of each length and a few degrees.
LENGTH_RATIO = float(np.log(1.45))


class Shape(NamedTuple):
    """A reduced cell in numbers.

    Attributes
    ----------
    sites
        Atoms.
    lengths
        Sorted lengths in units of the edge of a cube of its volume.
    """

    sites: int
    lengths: tuple[float, float, float]


@dataclass
class _Known:
    """A structure that was added; it is reduced when a fit needs it."""

    structure: Structure
    shape: Shape
    number: int
    is_reduced: bool = True

    def reduced(self) -> Structure:
        if not self.is_reduced:
            self.structure, self.is_reduced = _reduced(self.structure), True
        return self.structure


class SeenStructures:
    """The structures met so far, asked by composition.

    Cells are reduced once; a question then costs one fit for each known structure of the same
    formula and of about the same cell.
    """

    def __init__(self, structures: Iterable[Structure] = ()) -> None:
        self._matcher = StructureMatcher(**TOLERANCES, primitive_cell=False)
        self._known: defaultdict[str, list[_Known]] = defaultdict(list)
        self._count = 0
        for structure in structures:
            self.add(structure)

    def copy(self) -> SeenStructures:
        """The same structures; what either learns from now on, the other does not."""
        other = SeenStructures()
        other._known.update({formula: list(known) for formula, known in self._known.items()})
        other._count = self._count
        return other

    def add(self, structure: Structure, shape: Shape | None = None) -> None:
        """Add a structure, be it known or not.

        Parameters
        ----------
        shape
            What `shape_of` has said of it: then it is not reduced before a fit needs it.
        """
        if is_degenerate(structure):
            self._count += 1
        elif shape is None:
            self._add(_reduced(structure))
        else:
            self._append(structure, shape, is_reduced=False)

    def _add(self, reduced: Structure) -> None:
        self._append(reduced, _shape(reduced), is_reduced=True)

    def _append(self, structure: Structure, shape: Shape, is_reduced: bool) -> None:
        known = self._known[structure.composition.reduced_formula]
        known.append(_Known(structure, shape, self._count, is_reduced))
        self._count += 1

    def __contains__(self, structure: Structure) -> bool:
        return self.find(structure) is not None

    def find(self, structure: Structure) -> int | None:
        """Number of the first structure that was added and matches, from 0; None if none does."""
        return None if is_degenerate(structure) else self._find(_reduced(structure))

    def _find(self, reduced: Structure) -> int | None:
        shape = _shape(reduced)
        return next(
            (
                known.number
                for known in self._known.get(reduced.composition.reduced_formula, [])
                if known.shape.sites == shape.sites
                and np.abs(np.log(np.divide(known.shape.lengths, shape.lengths))).max()
                < LENGTH_RATIO
                and self._matcher.fit(reduced, known.reduced(), skip_structure_reduction=True)
            ),
            None,
        )

    def add_if_new(self, structure: Structure) -> bool:
        """Add a structure unless it is known; True if it was new."""
        count = self._count
        return self.number(structure) == count

    def number(self, structure: Structure) -> int:
        """Number of the first structure that matches, as `find`; one that is new is added."""
        new = self._count
        if is_degenerate(structure):
            self._count += 1
            return new
        reduced = _reduced(structure)
        found = self._find(reduced)
        if found is not None:
            return found
        self._add(reduced)
        return new


def shape_of(structure: Structure) -> Shape | None:
    """Shape of a structure's reduced cell; None of a degenerate one, which nothing matches."""
    return None if is_degenerate(structure) else _shape(_reduced(structure))


def _reduced(structure: Structure) -> Structure:
    try:
        return structure.get_primitive_structure().get_reduced_structure()
    except Exception:  # noqa: BLE001  degenerate cells stay as they are
        return structure


def _shape(reduced: Structure) -> Shape:
    a, b, c = sorted(reduced.lattice.abc)
    edge = reduced.volume ** (1 / 3)
    return Shape(len(reduced), (a / edge, b / edge, c / edge))


def distinct(structures: Sequence[Structure]) -> list[int]:
    """Indices of the first of each group of matching structures."""
    seen = SeenStructures()
    return [i for i, structure in enumerate(structures) if seen.add_if_new(structure)]


def displacement(
    a: Structure, b: Structure, tolerances: Mapping[str, Any] = TOLERANCES
) -> float | None:
    """Root mean square of the displacements (Å) between a crystal and what became of it.

    None where the two do not match. The matcher aligns the cells and scales them to one volume.
    """
    if is_degenerate(a) or is_degenerate(b):
        return None
    try:
        found = StructureMatcher(**tolerances, primitive_cell=False).get_rms_dist(a, b)
    except Exception:  # noqa: BLE001  what cannot be reduced cannot be matched
        return None
    # The matcher counts in units of the edge of a cube of the volume of one atom.
    edge = (a.volume * b.volume) ** (1 / 6) / len(a) ** (1 / 3)
    return None if found is None else float(found[0]) * float(edge)


def is_same(a: Structure, b: Structure, tolerances: Mapping[str, Any] = TOLERANCES) -> bool:
    """Whether two crystals match, by default within the paper's tolerances.

    What cannot be matched is never the same.

    Cells of as many atoms are also compared as they are: where a crystal is almost one of a
    smaller cell, a small difference decides which of the two the reduction finds.
    """
    if is_degenerate(a) or is_degenerate(b):
        return False
    as_they_are = StructureMatcher(**tolerances, primitive_cell=False)
    try:
        if StructureMatcher(**tolerances).fit(a, b):
            return True
        return len(a) == len(b) and bool(as_they_are.fit(a, b))
    except Exception:  # noqa: BLE001  what cannot be reduced cannot be matched
        return False
