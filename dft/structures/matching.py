"""Which crystals are the same: one StructureMatcher for the whole project."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pymatgen.core import Structure

from ccdcgan.dft.structures.shapes import Cell, Shape, may_match
from ccdcgan.dft.structures.validity import is_degenerate

if TYPE_CHECKING:
    from pymatgen.analysis.structure_matcher import StructureMatcher

#: By which structures count as the same (paper, Methods): fractional length, site, angle (°).
TOLERANCES: dict[str, Any] = {"ltol": 0.2, "stol": 0.3, "angle_tol": 5.0}

#: Wider ones, for crystals that are about the same: those by which generative models are said to
#: reconstruct crystals (Xie et al., CDVAE, ICLR 2022, arXiv:2110.06197).
LOOSE_TOLERANCES: dict[str, Any] = {"ltol": 0.3, "stol": 0.5, "angle_tol": 10.0}

#: Those of near copies: lattices as far apart, and sites nearer. By 0.5, SiC's polytypes match each
#: other; a layer that is shifted to its next place moves its atoms by 0.39 and more.
COPY_TOLERANCES: dict[str, Any] = {**LOOSE_TOLERANCES, "stol": 0.2}


class _Known:
    """A structure to be matched: decoded and reduced when a fit needs it."""

    def __init__(self, structure: Callable[[], Structure], shape: Shape, number: int) -> None:
        self._structure, self.shape, self.number = structure, shape, number

    @cached_property
    def cell(self) -> Cell:
        return Cell.of(self.shape)

    @cached_property
    def reduced(self) -> Structure:
        return _reduced(self._structure())


class SeenStructures:
    """The structures met so far, asked by composition.

    A question costs a fit for each known structure that `may_match`.

    Parameters
    ----------
    structures
        Those that are known from the beginning.
    tolerances
        Of the matcher: ``ltol``, ``stol`` and ``angle_tol``.
    """

    def __init__(
        self,
        structures: Iterable[Structure] = (),
        tolerances: Mapping[str, Any] = TOLERANCES,
    ) -> None:
        self._tolerances = tolerances
        self._matcher = _matcher(**tolerances, primitive_cell=False)
        self._known: defaultdict[str, list[_Known]] = defaultdict(list)
        self._count = 0
        for structure in structures:
            self.add(structure)

    def copy(self) -> SeenStructures:
        """The same structures; what either learns from now on, the other does not."""
        other = SeenStructures(tolerances=self._tolerances)
        other._known.update({species: list(known) for species, known in self._known.items()})
        other._count = self._count
        return other

    def add(self, structure: Structure) -> None:
        """Add a structure, be it known or not."""
        self._add(self._asked(structure))

    def add_later(self, structure: Callable[[], Structure], shape: Shape | None) -> None:
        """Add a structure whose `shape_of` is known; it is asked for when a fit needs it."""
        self._add(None if shape is None else _Known(structure, shape, self._count))

    def _add(self, known: _Known | None) -> None:
        if known is not None:
            self._known[known.shape.species].append(known)
        self._count += 1

    def _asked(self, structure: Structure, shape: Shape | None = None) -> _Known | None:
        """A structure that would have the next number; None where it is degenerate."""
        if shape is not None:
            return _Known(lambda: structure, shape, self._count)
        if is_degenerate(structure):
            return None
        reduced = _reduced(structure)
        known = _Known(lambda: structure, Shape.of(reduced), self._count)
        known.reduced = reduced
        return known

    def __contains__(self, structure: Structure) -> bool:
        return self.find(structure) is not None

    def find(self, structure: Structure) -> int | None:
        """Number of the first structure that was added and matches, from 0; None if none does."""
        asked = self._asked(structure)
        return None if asked is None else self._find(asked)

    def _find(self, asked: _Known) -> int | None:
        known = self._known.get(asked.shape.species, [])
        for index in may_match(asked.cell, [k.cell for k in known], self._tolerances):
            other = known[index]
            if self._matcher.fit(asked.reduced, other.reduced, skip_structure_reduction=True):
                return other.number
        return None

    def add_if_new(self, structure: Structure) -> bool:
        """Add a structure unless it is known; True if it was new."""
        count = self._count
        return self.number(structure) == count

    def number(
        self,
        structure: Structure,
        shape: Shape | None = None,
        otherwise: Callable[[], int | None] = lambda: None,
    ) -> int:
        """Number of the first structure that matches, as `find`; one that is new is added.

        Parameters
        ----------
        shape
            What `shape_of` has said of it: then it is not reduced before a fit needs it.
        otherwise
            Gives the number of a structure that counts as the same although it does not match.
        """
        asked = self._asked(structure, shape)
        found = None if asked is None else self._find(asked)
        if found is None:
            found = otherwise()
        if found is not None:
            return found
        self._add(asked)
        return self._count - 1


def _matcher(**options: Any) -> StructureMatcher:
    # Takes a second to import, with SciPy's optimizers, which a campaign file need not wait for.
    from pymatgen.analysis.structure_matcher import StructureMatcher

    return StructureMatcher(**options)


def shape_of(structure: Structure) -> Shape | None:
    """Shape of a structure's reduced cell; None of a degenerate one, which nothing matches."""
    return None if is_degenerate(structure) else Shape.of(_reduced(structure))


def _reduced(structure: Structure) -> Structure:
    try:
        return structure.get_primitive_structure().get_reduced_structure()
    except Exception:  # noqa: BLE001  degenerate cells stay as they are
        return structure


def smallest(structure: Structure) -> Structure:
    """The cell that pymatgen's StructureMatcher compares: Niggli-reduced first, then primitive.

    Of a crystal that is almost one of a smaller cell, the other order may not find that one.
    """
    try:
        return structure.get_reduced_structure().get_primitive_structure()
    except Exception:  # noqa: BLE001  degenerate cells stay as they are
        return structure


def distinct(
    structures: Sequence[Structure], tolerances: Mapping[str, Any] = TOLERANCES
) -> list[int]:
    """Indices of the first of each group of matching structures."""
    seen = SeenStructures(tolerances=tolerances)
    return [i for i, structure in enumerate(structures) if seen.add_if_new(structure)]


def is_near_copy(a: Structure, b: Structure) -> bool:
    """Whether two crystals match within `COPY_TOLERANCES`, also where one has a larger cell.

    A small displacement makes a cell of more atoms of a crystal, which no longer reduces to its
    smallest: then `is_same` finds two crystals.
    """
    if is_degenerate(a) or is_degenerate(b):
        return False
    try:
        return bool(_matcher(**COPY_TOLERANCES, attempt_supercell=True).fit(a, b))
    except Exception:  # noqa: BLE001  what cannot be reduced cannot be matched
        return False


def displacement(
    a: Structure, b: Structure, tolerances: Mapping[str, Any] = TOLERANCES
) -> float | None:
    """Root mean square of the displacements (Å) between a crystal and what became of it.

    None where the two do not match. The matcher aligns the cells and scales them to one volume.
    """
    if is_degenerate(a) or is_degenerate(b):
        return None
    try:
        found = _matcher(**tolerances, primitive_cell=False).get_rms_dist(a, b)
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
    as_they_are = _matcher(**tolerances, primitive_cell=False)
    try:
        if _matcher(**tolerances).fit(a, b):
            return True
        return len(a) == len(b) and bool(as_they_are.fit(a, b))
    except Exception:  # noqa: BLE001  what cannot be reduced cannot be matched
        return False
