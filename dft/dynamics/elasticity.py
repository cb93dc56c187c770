"""Elastic tensor of a relaxed crystal by finite strains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from ase.stress import voigt_6_to_full_3x3_stress
from ase.units import GPa
from pymatgen.analysis.elasticity import ElasticTensor, Strain, Stress
from pymatgen.core import Structure

from ccdcgan.dft.structures.symmetry import AS_IT_IS, FloatArray

#: Strains along each of the six axes of Voigt's notation.
STRAINS = (-0.005, 0.005)


@dataclass(frozen=True)
class Elasticity:
    """Elastic constants of a crystal.

    Attributes
    ----------
    tensor : array (6, 6)
        In Voigt's notation, GPa, with the symmetry of the crystal, in IEEE's axes.
    bulk_modulus, shear_modulus : float
        Averages of Voigt, Reuss and Hill, GPa; without meaning where the crystal is not stable.
    """

    tensor: FloatArray
    bulk_modulus: float
    shear_modulus: float

    @property
    def is_stable(self) -> bool:
        """Whether every strain costs energy (Born's criteria).

        F. Mouhat and F.-X. Coudert, Phys. Rev. B 90, 224104 (2014).
        """
        return bool(np.linalg.eigvalsh(self.tensor).min() > 0)


def elasticity_of(
    structure: Structure, relaxed_stress: Callable[[Structure], FloatArray]
) -> Elasticity:
    """Elastic constants of a relaxed crystal.

    Parameters
    ----------
    structure
        Relaxed in cell and positions.
    relaxed_stress
        Stress (6,) in ASE's order, eV/Å³, of a cell once its positions are relaxed within it.
    """
    strains, stresses = [], []
    for strain in _strains():
        strained = strain.get_deformation_matrix().apply_to_structure(structure)
        strains.append(strain)
        stress = voigt_6_to_full_3x3_stress(relaxed_stress(strained))
        stresses.append(Stress(stress / GPa))
    rest = Stress(voigt_6_to_full_3x3_stress(relaxed_stress(structure)) / GPa)
    measured = ElasticTensor.from_independent_strains(strains, stresses, eq_stress=rest)
    # Within 0.1 Å, pymatgen's default, a nearly cubic crystal would get a cubic tensor.
    symmetric = measured.voigt_symmetrized.fit_to_structure(structure, AS_IT_IS)
    tensor = ElasticTensor(symmetric).convert_to_ieee(structure, initial_fit=False)
    return Elasticity(np.asarray(tensor.voigt), float(tensor.k_vrh), float(tensor.g_vrh))


def _strains() -> Iterator[Strain]:
    for axes in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)):
        for amount in STRAINS:
            yield Strain.from_index_amount(axes, amount)
