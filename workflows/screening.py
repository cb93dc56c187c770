"""What a decoded crystal must be before it is judged and relaxed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pymatgen.core import Structure

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.spacegroups import (
    all_counts,
    fits,
    groups_of,
    in_groups,
    named,
    number_of,
    require_pyxtal,
)
from ccdcgan.dft.structures.symmetry import ladder
from ccdcgan.dft.structures.validity import disordered, fault, too_close
from ccdcgan.models.representation.voxels import FloatArray
from ccdcgan.workflows.campaign import Campaign
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
    groups
        Numbers of the space groups that are searched for; none for all.
    """

    max_sites: int
    min_distance: float
    volume_range: tuple[float, float]
    min_sites: int = 1
    formulas: frozenset[str] = frozenset()
    groups: frozenset[int] = frozenset()

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
            search.groups,
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
        if reason := too_close(structure, self.min_distance):
            return reason
        if not in_groups(structure, self.groups):
            return "of no space group that is searched for"
        return None

    def version(self, structure: Structure) -> Structure | None:
        """The structure if it keeps to them, else the nearest of its symmetric versions, or None.

        Versions count only where space groups are searched for.
        """
        if not self.groups:
            return structure if self.allow(structure) else None
        if replace(self, groups=frozenset()).problem(structure) is not None:
            return None
        return next((s for s in (structure, *ladder(structure)) if self.allow(s)), None)

    def allow(self, structure: Structure) -> bool:
        """Whether a crystal keeps to them."""
        return self.problem(structure) is None


def require_fitting_groups(campaign: Campaign) -> None:
    """Look whether each space group, and one of each crystal system, fits what is searched for.

    Raises
    ------
    UserError
        One does not, or PyXtal, which knows, is not there.
    """
    search, most = campaign.search, campaign.loop.screening.max_sites
    if not search.groups:
        return
    require_pyxtal()
    number = len(campaign.elements)
    cells = campaign.searched() or list(all_counts(number, search.min_sites, most))
    asked: dict[str, Sequence[int]] = {named(n): [n] for n in map(number_of, search.spacegroups)}
    asked |= {f"any {system} one": groups_of(system) for system in search.crystal_systems}
    what = " or ".join(search.compositions) or "-".join(campaign.elements)
    for name, groups in asked.items():
        if not any(fits(group, cell) for group in groups for cell in cells):
            raise UserError(
                f"search: no cell of {what} up to {most} atoms can have space group {name}, whose "
                "sites take other numbers of atoms: ask for another, or raise "
                "loop.screening.max_sites"
            )
