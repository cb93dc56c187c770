"""What the Wyckoff generator learns from: AFLOW's compounds, and a campaign's crystals."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import numpy as np
from pymatgen.core import Structure

from ccdcgan.dft.structures.crystal import Skipped
from ccdcgan.dft.structures.sources import AflowSource, primitive_cell
from ccdcgan.models.wyckoff.training import WyckoffModel, fitted

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
) -> list[Structure]:
    """AFLOW's compounds, in primitive cells.

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
            found.append(structure)
    return found


def pretrained(structures: Sequence[Structure], seed: int, epochs: int = EPOCHS) -> WyckoffModel:
    """A model that has learnt from compounds of many chemistries, in primitive cells."""
    return fitted(WyckoffModel.untrained(seed), structures, np.ones(len(structures)), epochs, seed)


def adapted(
    model: WyckoffModel,
    structures: Sequence[Structure],
    e_above_hull: Sequence[float],
    seed: int,
    epochs: int = EPOCHS,
) -> WyckoffModel:
    """The model after a campaign's crystals, those near the hull first (eV/atom)."""
    weights = np.exp(-np.maximum(e_above_hull, 0.0) / SCALE)
    return fitted(model, [primitive_cell(s) for s in structures], weights, epochs, seed)
