"""What a decoded crystal must be before it is judged and relaxed."""

from __future__ import annotations

from dataclasses import dataclass

from pymatgen.core import Structure

from ccdcgan.dft.structures.validity import disordered, fault, too_close
from ccdcgan.models.representation.voxels import FloatArray
from ccdcgan.workflows.sections import Screening, SearchSettings


@dataclass(frozen=True)
class Limits:
    """Sensible sizes, distances and volumes.

    Attributes
    ----------
    max_sites
        Most atoms in the cell.
    min_distance
        Shortest distance, Å.
    volume_range
        Å³ per atom.
    min_sites
        Fewest atoms in the cell.
    formulas
        Reduced formulas that are searched for; none for all.
    """

    max_sites: int
    min_distance: float
    volume_range: tuple[float, float]
    min_sites: int = 1
    formulas: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls, screening: Screening, known: FloatArray, search: SearchSettings | None = None
    ) -> Limits:
        """Those of a screening; where it leaves one open, it follows from known crystals.

        Parameters
        ----------
        known : array (3,)
            Of the `extremes` of known crystals.
        search
            What is searched for; by default everything.
        """
        search = search or SearchSettings()
        shortest, small, large = map(float, known)
        return cls(
            screening.max_sites,
            screening.min_distance or 0.8 * shortest,
            screening.volume_range or (0.6 * small, 1.2 * large),
            search.min_sites,
            frozenset(search.compositions),
        )

    def problem(self, structure: Structure) -> str | None:
        """Why a crystal does not keep to them, or None."""
        if reason := disordered(structure) or fault(structure):
            return reason
        if len(structure) > self.max_sites:
            return f"more than {self.max_sites} atoms"
        if len(structure) < self.min_sites:
            return f"fewer than {self.min_sites} atoms"
        if self.formulas and structure.composition.reduced_formula not in self.formulas:
            return "of no composition that is searched for"
        low, high = self.volume_range
        volume = structure.volume / len(structure)
        if not low <= volume <= high:
            return f"not {low:.1f} to {high:.1f} Å³ per atom"
        return too_close(structure, self.min_distance)

    def allow(self, structure: Structure) -> bool:
        """Whether a crystal keeps to them."""
        return self.problem(structure) is None
