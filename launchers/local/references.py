"""What an evaluation compares crystals with: those that a campaign knows, or those of files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, Field
from pymatgen.core import Structure

from ccdcgan.dft.engines.base import LevelOfTheory, same_level
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.hull import Hull
from ccdcgan.dft.structures.references import KnownCrystal, ReferenceFiles
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.documents import Origin, RelaxationDocument
from ccdcgan.workflows.trust import hull_members, is_too_deep

#: A crystal with its energy, eV/atom, as the engine gives it.
Energy = tuple[Structure, float, LevelOfTheory]


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
    about = ReferenceSet(name=name, crystals=0, energies=len(energies), level_of_theory=hull.level)
    if files is None:
        converged = [(origin.id, d.structure) for origin, d in known if d.converged]
        about.crystals = len(converged)
        return References(about, [i for i, _ in converged], [s for _, s in converged], hull)
    joining, about.refused = _joining(files.crystals, hull, campaign)
    if joining:
        hull = Hull.of([*energies, *joining], campaign.elements, campaign.corrections)
    about.name, about.crystals = files.name, len(files.crystals)
    about.skipped = {s.id: s.reason for s in files.skipped}
    about.energies = len(energies) + len(joining)
    crystals = files.crystals
    return References(about, [c.id for c in crystals], [c.structure for c in crystals], hull)


def _joining(
    crystals: Sequence[KnownCrystal], hull: Hull, campaign: Campaign
) -> tuple[list[Energy], str | None]:
    """What joins a hull, and why the rest of the energies does not."""
    system, corrections = set(campaign.elements), campaign.corrections
    found: list[Energy] = []
    refused: Counter[str] = Counter()
    for crystal in crystals:
        composition, energy = crystal.structure.composition, crystal.energy_per_atom
        if energy is None or not {e.symbol for e in composition} <= system:
            continue
        if crystal.level is None:
            refused["of a level of theory that is not named"] += 1
        elif not _is_level(crystal.level, hull.level):
            refused[f"of {crystal.level}"] += 1
        else:
            if crystal.level.corrections is not None and corrections is not None:
                energy -= corrections.per_atom(crystal.structure)
            place = hull.place(crystal.structure, energy)
            if not composition.is_element and is_too_deep(composition, place.formation_energy):
                refused["beyond chemistry"] += 1
                continue
            raw = crystal.level.model_copy(update={"corrections": None})
            found.append((crystal.structure, energy, raw))
    if not refused:
        return found, None
    reasons = ", ".join(f"{n} {reason}" for reason, n in refused.most_common(3))
    more = f", and {len(refused) - 3} more levels" if len(refused) > 3 else ""
    return found, (
        f"energies of {refused.total()} crystals do not join the hull of {hull.level}: "
        f"{reasons}{more}; the crystals count as known all the same"
    )


def _is_level(level: LevelOfTheory, of_hull: LevelOfTheory) -> bool:
    """Whether energies of a level are those of a hull, before or after its corrections."""
    if level.corrections not in (None, of_hull.corrections):
        return False
    try:
        same_level([of_hull, level.model_copy(update={"corrections": of_hull.corrections})])
    except UserError:
        return False
    return True
