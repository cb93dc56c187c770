"""What a decoded crystal must be before it is judged and relaxed."""

from __future__ import annotations

from dataclasses import dataclass

from pymatgen.core import Structure

from ccdcgan.dft.structures.validity import shortest_distance
from ccdcgan.models.voxels import FloatArray
from ccdcgan.workflows.campaign import Screening


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
    """

    max_sites: int
    min_distance: float
    volume_range: tuple[float, float]

    @classmethod
    def of(cls, screening: Screening, known: FloatArray) -> Limits:
        """Those of a screening; where it leaves one open, it follows from known crystals.

        Parameters
        ----------
        known : array (3,)
            Of the `extremes` of known crystals.
        """
        shortest, small, large = map(float, known)
        return cls(
            screening.max_sites,
            screening.min_distance or 0.8 * shortest,
            screening.volume_range or (0.6 * small, 1.2 * large),
        )

    def allow(self, structure: Structure) -> bool:
        """Whether a crystal keeps to them."""
        low, high = self.volume_range
        return (
            len(structure) <= self.max_sites
            and low <= structure.volume / len(structure) <= high
            and shortest_distance(structure.to_ase_atoms()) >= self.min_distance
        )
