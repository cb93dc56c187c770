"""What the Wyckoff generator learns from: AFLOW's compounds, and a campaign's crystals."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import numpy as np
from pymatgen.core import Structure

from ccdcgan.dft.structures.crystal import Skipped
from ccdcgan.dft.structures.sources import AflowSource, primitive_cell
from ccdcgan.models.wyckoff.placement import Placement, placement_of
from ccdcgan.models.wyckoff.training import Scorers, fitted

#: Most atoms of a primitive cell that is learnt from.
MOST_ATOMS = 24

#: Passes over AFLOW's compounds, and over a campaign's crystals.
EPOCHS = 20

#: Crystals of a campaign weigh exp(-E_hull / scale), eV/atom.
SCALE = 0.3


def family_of(name: str) -> str:
    """The family of a prototype's id: its AFLOW label without the number of a variant."""
    label = re.split(r"[~>]", name.partition(":")[2])[0]
    return re.sub(r"(?<=[a-z0-9])-\d+$", "", label)


def compounds(
    families: Collection[str] = (), formulas: Collection[str] = (), types: Collection[str] = ()
) -> list[Placement]:
    """Placements of AFLOW's compounds.

    Parameters
    ----------
    families, formulas, types
        Families of prototypes, reduced and anonymous formulas that are left out.
    """
    found = []
    for n_elements in (2, 3, 4):
        for item in AflowSource().load(n_elements, MOST_ATOMS, 0):
            if isinstance(item, Skipped) or family_of(item.id) in families:
                continue
            structure = primitive_cell(item.structure)
            composition = structure.composition
            if (
                len(structure) > MOST_ATOMS
                or composition.reduced_formula in formulas
                or composition.anonymized_formula in types
            ):
                continue
            placement = placement_of(structure)
            if placement is not None:
                found.append(placement)
    return found


def pretrained(placements: Sequence[Placement], seed: int, epochs: int = EPOCHS) -> Scorers:
    """Scorers that have learnt from compounds of many chemistries."""
    return fitted(Scorers.untrained(seed), placements, np.ones(len(placements)), epochs, seed)


def adapted(
    scorers: Scorers,
    structures: Sequence[Structure],
    e_above_hull: Sequence[float],
    seed: int,
    epochs: int = EPOCHS,
) -> Scorers:
    """The scorers after a campaign's crystals, those near the hull first (eV/atom)."""
    placements, weights = [], []
    for structure, above in zip(structures, e_above_hull, strict=True):
        placement = placement_of(primitive_cell(structure))
        if placement is not None:
            placements.append(placement)
            weights.append(np.exp(-max(above, 0.0) / SCALE))
    if not placements:
        return scorers
    return fitted(scorers, placements, np.array(weights) / np.mean(weights), epochs, seed)
