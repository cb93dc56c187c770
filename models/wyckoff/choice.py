"""Which crystals of a composition to keep where nothing has been learnt of their energies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase.data import covalent_radii
from pymatgen.analysis.ewald import EwaldSummation
from pymatgen.core import Composition, Structure

#: Difference of Pauling's electronegativities from which point charges tell crystals apart.
IONIC = 0.9

#: Edge of the cube in which neighbours are looked for, in units of that of an atom's volume.
REACH = 2.0


def best_of(crystals: Sequence[Structure], count: int) -> list[int]:
    """Indices of the crystals, all of one formula and density, that are likely the lowest.

    Salts by the energy of point charges, others by the shortest distance in units of the summed
    covalent radii, which dense packings make long.
    """
    if len(crystals) <= count:
        return list(range(len(crystals)))
    charges = _charges(crystals[0].composition)
    scores = [_coulomb(c, charges) if charges else -_gap(c) for c in crystals]
    return sorted(np.argsort(scores, kind="stable")[:count].tolist())


def _charges(composition: Composition) -> dict[str, float] | None:
    """The usual oxidation states, if those of the elements balance and it is a salt."""
    electronegativities = [e.X for e in composition.elements]
    if max(electronegativities) - min(electronegativities) < IONIC:
        return None
    guesses = composition.reduced_composition.oxi_state_guesses()
    return dict(guesses[0]) if guesses else None


def _coulomb(structure: Structure, charges: dict[str, float]) -> float:
    """Energy of point charges, eV/atom."""
    charged = structure.copy()
    charged.add_oxidation_state_by_element(charges)
    return float(EwaldSummation(charged).total_energy) / len(structure)


def _gap(structure: Structure) -> float:
    """Shortest distance between atoms in units of their summed covalent radii."""
    reach = REACH * (structure.volume / len(structure)) ** (1 / 3)
    first, second, _, distances = structure.get_neighbor_list(reach)
    radii = covalent_radii[list(structure.atomic_numbers)]
    return float(np.min(distances / (radii[first] + radii[second]), initial=np.inf))
