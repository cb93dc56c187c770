"""Which crystals of a composition to keep where nothing has been learnt of their energies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from ase.data import covalent_radii
from numpy.typing import NDArray
from pymatgen.analysis.ewald import EwaldSummation
from pymatgen.core import Composition, Structure

from ccdcgan.dft.systems import electronegativity_range
from ccdcgan.models.wyckoff.drawing import gap

#: Difference of Pauling's electronegativities from which point charges tell crystals apart.
IONIC = 0.9


def best_of(crystals: Sequence[Structure], count: int) -> list[int]:
    """Indices of the crystals, all of one formula and density, that are likely the lowest.

    Salts by the energy of point charges at contact, others by the shortest distance in units of the
    summed covalent radii, which dense packings make long.
    """
    if len(crystals) <= count:
        return list(range(len(crystals)))
    charges = _charges(crystals[0].composition)
    scores = [_coulomb(c, charges) if charges else -_gap(c) for c in crystals]
    return sorted(np.argsort(scores, kind="stable")[:count].tolist())


def _charges(composition: Composition) -> dict[str, float] | None:
    """The usual oxidation states, if those of the elements balance and it is a salt."""
    if electronegativity_range(composition) < IONIC:
        return None
    guesses = composition.reduced_composition.oxi_state_guesses()
    return dict(guesses[0]) if guesses else None


def _coulomb(structure: Structure, charges: Mapping[str, float]) -> float:
    """Energy of point charges, eV/atom, in the cell in which the nearest unlike ones touch.

    At one density it would be the lower the nearer unlike ions are: that of zincblende for all.
    """
    charged = structure.copy()
    charged.add_oxidation_state_by_element(dict(charges))
    energy = float(EwaldSummation(charged).total_energy) / len(structure)
    own = np.array([charges[s.specie.symbol] for s in structure])
    return energy * _gap(structure, np.outer(own, own) < 0)


def _gap(structure: Structure, pairs: NDArray[np.bool_] | None = None) -> float:
    radii = covalent_radii[list(structure.atomic_numbers)]
    return gap(structure.lattice.matrix, structure.frac_coords, radii, pairs)
