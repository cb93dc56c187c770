"""What the words of an evaluation mean."""

from __future__ import annotations

from ccdcgan.dft.engines.base import LevelOfTheory
from ccdcgan.dft.structures.matching import TOLERANCES
from ccdcgan.launchers.local.references import ReferenceSet
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.evaluation import LEMAT_TOLERANCES, METASTABLE
from ccdcgan.workflows.screening import Limits


def described(references: ReferenceSet) -> str:
    """A reference set in words: what it is, and what its hull is made of."""
    sources = f"{references.own} of {references.hull}"
    if added := references.energies - references.own:
        sources += f" and {added} of {references.name}"
    return (
        f"{references.name}, {references.crystals} crystals; hull of {sources}, "
        f"{references.level_of_theory}"
    )


def definitions_of(
    campaign: Campaign,
    limits: Limits,
    level: LevelOfTheory,
    known: str,
    references: ReferenceSet,
) -> dict[str, str]:
    """Definitions by word.

    Parameters
    ----------
    known
        What the crystals are called that do not count as new.
    """
    tolerances = TOLERANCES
    low, high = limits.volume_range
    tight = ", ".join(f"{name} {value}" for name, value in LEMAT_TOLERANCES.items())
    loose = ", ".join(f"{name} {value}" for name, value in tolerances.items())
    return {
        "decoded": "can be read as a crystal",
        "valid": f"holds all of {'-'.join(campaign.elements)} and nothing else, at most "
        f"{limits.max_sites} atoms, distances of at least {limits.min_distance:.2f} Å, "
        f"{low:.1f} to {high:.1f} Å³ per atom",
        "converged": f"forces and stress below {campaign.relaxation.fmax} eV/Å within "
        f"{campaign.relaxation.max_steps} steps",
        "level of theory": str(level),
        "unique": "converged, and matches none of the set before it (StructureMatcher: ltol "
        f"{tolerances['ltol']}, stol {tolerances['stol']}, angle {tolerances['angle_tol']}°)",
        "new": f"unique, and matches nothing in {known}",
        "E_hull": "new, of negative formation energy, and at most so far (eV/atom) above the hull "
        "of the campaign's phases; below it counts as 0",
        "displacement": "root mean square of the atoms' displacements on relaxation, Å, cells "
        "scaled to one volume, over all that stay the same crystal; and the mean of theirs",
        "reference set": f"{described(references)}; a crystal that is judged is no part of its "
        "hull",
        "S.U.N., LeMat-GenBench": "at most 0 above the hull, unique among these and new; of the "
        f"valid that were relaxed. As theirs: order, thresholds, StructureMatcher ({tight}) and "
        "shares. Not as theirs: their known crystals and hulls are LeMat-Bulk's, their energies "
        "the mean of three potentials, each on its own hull, at the geometry as given, their "
        "valid asks for charge balance; here it is the reference set, and crystals are relaxed by "
        "the campaign's engine. Their other way to match, by BAWL fingerprints, is not offered",
        "MetaSUN, LeMat-GenBench": f"the same above 0 and up to {METASTABLE:g} eV/atom: what is "
        "S.U.N. is not counted again",
        "S.U.N., MatterGen": f"at most {METASTABLE:g} eV/atom above the hull, the first of equal "
        "crystals in the whole set, and new; of all sampled, without those beyond --limit. As "
        "theirs: threshold, hull without the crystal itself, StructureMatcher for ordered crystals "
        f"({loose}), shares. Not as theirs: their reference is the Materials Project and "
        "Alexandria, energies corrected, and crystals whose elements may take each other's places "
        "match as disordered; here they match as ordered ones alone",
        "copy": f"matches a crystal of the reference set ({loose}); relaxed, or as given where it "
        "did not converge or was not relaxed",
        "substitution": "no copy, and matches one once elements are exchanged for others, each "
        "for one",
        "interval": "Wilson, 95%",
    }
