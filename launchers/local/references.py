"""What an evaluation compares crystals with: those that a campaign knows, or those of files."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, Field
from pymatgen.core import Structure

from ccdcgan.dft.engines.base import LevelOfTheory
from ccdcgan.dft.structures.hull import Hull
from ccdcgan.dft.structures.references import KnownCrystal, ReferenceFiles, joining
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.documents import Origin, RelaxationDocument
from ccdcgan.workflows.trust import hull_members, is_too_deep


class ReferenceSet(BaseModel):
    """What a reference set is, in words and numbers."""

    name: str
    crystals: int = Field(description="Those that a new crystal must not match.")
    skipped: dict[str, str] = Field({}, description="What cannot be compared, and why.")
    energies: int = Field(description="Energies that the hull is made of.")
    own: int = Field(description="How many of these are those of the campaign.")
    hull: str = Field(description="What the campaign's own are of.")
    level_of_theory: LevelOfTheory = Field(description="Of the hull.")
    refused: str | None = Field(None, description="Energies that do not join the hull, and why.")


@dataclass(frozen=True)
class References:
    """A reference set to compare crystals with.

    Attributes
    ----------
    about
        What it is.
    ids, structures
        Its crystals.
    hull
        What distances are measured from.
    """

    about: ReferenceSet
    ids: list[str]
    structures: list[Structure]
    hull: Hull


def references_of(
    campaign: Campaign,
    name: str,
    known: Sequence[tuple[Origin, RelaxationDocument]],
    untrusted: Container[str],
    files: ReferenceFiles | None,
) -> References:
    """The reference set of an evaluation.

    Parameters
    ----------
    name, known
        Relaxations of the campaign that are known, and what they are called.
    untrusted
        Content keys of those that cannot be believed.
    files
        Crystals that take their place. Energies among these of the campaign's level of theory join
        the hull; the others are refused.
    """
    members = hull_members([d for _, d in known], untrusted)
    energies = [(d.structure, d.energy_per_atom or 0.0, d.level_of_theory) for d in members]
    hull = Hull.of(energies, campaign.elements, campaign.corrections)
    about = ReferenceSet(
        name=name,
        crystals=0,
        energies=len(energies),
        own=len(energies),
        hull=name,
        level_of_theory=hull.level,
    )
    if files is None:
        converged = [(origin.id, d.structure) for origin, d in known if d.converged]
        about.crystals = len(converged)
        return References(about, [i for i, _ in converged], [s for _, s in converged], hull)
    raw = hull.level.model_copy(update={"corrections": None})
    own, about.refused = joining(files.crystals, raw, campaign.elements)
    joined = [
        (crystal.structure, crystal.energy_per_atom or 0.0, raw)
        for crystal in own
        if not _is_too_deep(crystal, hull)
    ]
    if deep := len(own) - len(joined):
        about.refused = "; ".join(
            line for line in (about.refused, f"references too low to be believed: {deep}") if line
        )
    if joined:
        hull = Hull.of([*energies, *joined], campaign.elements, campaign.corrections)
    about.name, about.crystals = files.name, len(files.crystals)
    about.skipped = {s.id: s.reason for s in files.skipped}
    about.energies = len(energies) + len(joined)
    crystals = files.crystals
    return References(about, [c.id for c in crystals], [c.structure for c in crystals], hull)


def _is_too_deep(crystal: KnownCrystal, hull: Hull) -> bool:
    """Whether an energy is a potential's false minimum, which is never part of a hull."""
    composition = crystal.structure.composition
    if hull.level.pressure:
        # The pV of a reaction may be as large as its energy.
        return False
    place = hull.place(crystal.structure, crystal.energy_per_atom or 0.0)
    return not composition.is_element and is_too_deep(composition, place.formation_energy)
