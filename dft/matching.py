"""Which crystals are the same: one StructureMatcher for the whole project."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure

#: The paper's tolerances: fractional length, site and angle (degrees).
TOLERANCES: dict[str, Any] = {"ltol": 0.2, "stol": 0.3, "angle_tol": 5.0}


def matcher() -> StructureMatcher:
    """The matcher by which structures count as the same (paper, Methods)."""
    return StructureMatcher(**TOLERANCES)


class SeenStructures:
    """The structures met so far, asked by composition.

    Cells are reduced once, when they are added; a question then costs one fit for each known
    structure of the same formula.
    """

    def __init__(self, structures: Iterable[Structure] = ()) -> None:
        self._matcher = StructureMatcher(**TOLERANCES, primitive_cell=False)
        self._known: defaultdict[str, list[Structure]] = defaultdict(list)
        for structure in structures:
            self.add(structure)

    def add(self, structure: Structure) -> None:
        if is_degenerate(structure):
            return
        reduced = _reduced(structure)
        self._known[reduced.composition.reduced_formula].append(reduced)

    def __contains__(self, structure: Structure) -> bool:
        if is_degenerate(structure):
            return False
        reduced = _reduced(structure)
        known = self._known.get(reduced.composition.reduced_formula, [])
        return any(
            len(other) == len(reduced)
            and self._matcher.fit(reduced, other, skip_structure_reduction=True)
            for other in known
        )

    def add_if_new(self, structure: Structure) -> bool:
        """Add a structure unless it is known; True if it was new."""
        if structure in self:
            return False
        self.add(structure)
        return True


def is_degenerate(structure: Structure) -> bool:
    """Whether a cell is not finite or so flat that reducing and matching it would never end."""
    matrix = structure.lattice.matrix
    if not (np.isfinite(matrix).all() and np.isfinite(structure.frac_coords).all()):
        return True
    areas = np.linalg.norm(np.cross(matrix, np.roll(matrix, 1, axis=0)), axis=1)
    lengths = np.linalg.norm(matrix, axis=1)
    return bool(abs(np.linalg.det(matrix)) <= 0.01 * lengths.max() * areas.max())


def _reduced(structure: Structure) -> Structure:
    try:
        return structure.get_primitive_structure().get_reduced_structure()
    except Exception:  # noqa: BLE001  degenerate cells stay as they are
        return structure


def distinct(structures: Sequence[Structure]) -> list[int]:
    """Indices of the first of each group of matching structures."""
    seen = SeenStructures()
    return [i for i, structure in enumerate(structures) if seen.add_if_new(structure)]


def is_same(a: Structure, b: Structure) -> bool:
    """Whether two crystals match within the paper's tolerances; False if one cannot be matched."""
    if is_degenerate(a) or is_degenerate(b):
        return False
    try:
        return bool(matcher().fit(a, b))
    except Exception:  # noqa: BLE001
        return False
