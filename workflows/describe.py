"""What a report tells beside phases and counts, worked out at the end of a campaign."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib import metadata

import numpy as np

from ccdcgan.dft.structures.kinship import Relatives
from ccdcgan.dft.structures.matching import displacement
from ccdcgan.models.energy.goals import FORMATION_ENERGY
from ccdcgan.models.representation.voxels import FloatArray
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.documents import Phase, RelaxationDocument
from ccdcgan.workflows.insight import LatentMap, Parity, Provenance, Relative
from ccdcgan.workflows.outputs import ConstraintFigures

#: Packages on which numbers depend, beside those that the level of theory names.
PACKAGES = ("ccdcgan", "pymatgen", "spglib", "ase", "numpy", "keras", "tensorflow", "torch")

#: Best crystals whose relatives are looked for.
MOST = 100


def parities(phases: Sequence[Phase], errors: ConstraintFigures) -> list[Parity]:
    """What the models of the last round said of what they had not seen, beside what is true.

    Parameters
    ----------
    phases
        Those that were generated have what was predicted of them before their relaxation.
    errors
        Of the constraint and the potential, on what was held out.
    """
    generated = [
        (p.formation_energy_per_atom, p.origin.predicted_formation_energy)
        for p in phases
        if p.converged
        and p.formation_energy_per_atom is not None
        and p.origin.predicted_formation_energy is not None
    ]
    potential = errors.potential.parity if errors.potential else ()
    found = {
        "constraint: crystals held out": errors.properties[FORMATION_ENERGY].parity,
        "constraint and potential: generated crystals, before they were relaxed": generated,
        "potential: energies of geometries held out": list(potential),
    }
    return [Parity(title=title, pairs=pairs) for title, pairs in found.items() if pairs]


def latent_map(ids: Sequence[str], rows: FloatArray) -> LatentMap | None:
    """Vectors (n, size) on their two principal components; None of fewer than three."""
    if len(rows) < 3 or rows.shape[1] < 2:
        return None
    centred = rows - rows.mean(0)
    left, scales, axes = np.linalg.svd(centred, full_matrices=False)
    # An axis has no direction of its own: the largest of its components points up.
    signs = np.sign(axes[np.arange(2), np.abs(axes[:2]).argmax(1)])
    x, y = (left[:, :2] * scales[:2] * signs).T.round(4)
    first, second = (scales[:2] ** 2 / max(float((scales**2).sum()), 1e-12)).round(4)
    points = list(zip(x.tolist(), y.tolist(), strict=True))
    return LatentMap(ids=list(ids), points=points, explained=(float(first), float(second)))


def describe_best(
    best: Sequence[Phase], phases: Sequence[Phase], documents: Mapping[str, RelaxationDocument]
) -> None:
    """Give the best crystals their displacement, and the known crystal that they are most alike.

    Parameters
    ----------
    best
        New crystals, nearest to the hull first; the first `MOST` are described.
    phases, documents
        All phases, and the relaxations by content key.
    """
    best = best[:MOST]
    patterns = {p.structure.composition.anonymized_formula for p in best}
    known = [p for p in phases if p.origin.kind != "generated" and p.converged]
    alike = [p for p in known if p.structure.composition.anonymized_formula in patterns]
    relatives = Relatives(p.structure for p in alike)
    for phase in best:
        phase.displacement = displacement(
            documents[phase.id].initial_structure, documents[phase.id].structure
        )
        kinship, number = relatives.of(phase.structure)
        phase.relative = Relative(kinship=kinship, among=len(known))
        if number is not None:
            phase.relative.formula = alike[number].formula
            phase.relative.origin = f"{alike[number].origin.kind} {alike[number].origin.id}"


def provenance_of(campaign: Campaign) -> Provenance:
    """What made the results of a campaign."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return Provenance(
        campaign=campaign.model_dump(mode="json"),
        digest=campaign.digest(),
        versions=versions,
    )
