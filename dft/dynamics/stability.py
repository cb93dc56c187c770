"""Whether a relaxed crystal is stable beyond its energy: phonons, and the elastic tensor."""

from __future__ import annotations

import warnings

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.optimize import BFGS
from pymatgen.core import Structure
from pymatgen.io.ase import AseAtomsAdaptor

from ccdcgan.dft.dynamics.document import Stability
from ccdcgan.dft.dynamics.elasticity import elasticity_of
from ccdcgan.dft.dynamics.phonons import TooLargeError, followed, phonons_of
from ccdcgan.dft.relaxation.key import elements_of
from ccdcgan.dft.relaxation.relaxer import Relaxer
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.dft.structures.moments import is_magnetic, moments_of, with_moments
from ccdcgan.dft.structures.symmetry import FloatArray, symmetrised

#: Largest force, eV/Å, of a crystal that is asked for its forces of displacements, and most steps
#: to it.
FMAX, STEPS = 0.001, 500

#: Tolerance of the symmetry that a crystal relaxed to `FMAX` has, Å.
TOLERANCE = 0.02


def finer(settings: RelaxationSettings) -> RelaxationSettings:
    """The settings with which a crystal is relaxed before its forces of displacements count."""
    return settings.model_copy(
        update={
            "fmax": min(settings.fmax, FMAX),
            "max_steps": STEPS,
            "refine": None,
            "second_opinion": False,
        }
    )


def stability_of(relaxer: Relaxer, structure: Structure) -> Stability:
    """Phonons and elastic constants of a crystal: a task of `in_workers`.

    Parameters
    ----------
    relaxer
        With the settings of `finer`.
    structure
        A relaxed crystal.
    """
    result = relaxer(structure)
    found = Stability(
        level_of_theory=relaxer.settings.level_of_theory(elements_of(structure)),
        structure=result.structure,
        energy_per_atom=result.energy_per_atom,
    )
    if not result.converged:
        found.problem = f"not relaxed to {relaxer.settings.fmax:g} eV/Å: {result.reason}"
        return found
    cell = symmetrised(result.structure, TOLERANCE) or result.structure
    cell = found.structure = cell.get_reduced_structure("niggli")
    with warnings.catch_warnings():
        # Of phonopy's and pymatgen's own calls of what will have other names.
        warnings.simplefilter("ignore")
        _add_elasticity(found, relaxer, cell)
        try:
            _add_phonons(found, relaxer, cell)
        except TooLargeError as error:
            found.problem = f"no phonons: {error}"
    return found


def given_up(settings: RelaxationSettings, structure: Structure, reason: str) -> Stability:
    """What is known of a crystal that its process did not survive."""
    return Stability(
        level_of_theory=settings.level_of_theory(elements_of(structure)),
        structure=structure,
        problem=reason,
    )


def _add_phonons(found: Stability, relaxer: Relaxer, cell: Structure) -> None:
    calculators: list[Calculator] = []

    def forces(atoms: Atoms) -> FloatArray:
        # One for all displacements; k-points and moments of a DFT code are of the supercell.
        if not calculators:
            calculators.append(relaxer.engine.calculator(AseAtomsAdaptor.get_structure(atoms)))
        atoms.set_initial_magnetic_moments(None)
        atoms.calc = calculators[0]
        return np.asarray(atoms.get_forces())

    moments = moments_of(cell) if is_magnetic(cell) else None
    if moments is not None:
        # What a calculation leaves of symmetry is not quite equal.
        moments = np.round(np.array(moments), 1).tolist()
    phonons = phonons_of(with_moments(cell, moments), forces)
    found.lowest_frequency_thz = phonons.lowest
    found.wave_vector, found.supercell = list(phonons.wave_vector), list(phonons.supercell)
    found.dynamically_stable = phonons.is_stable
    found.followed = None if phonons.is_stable else followed(phonons)


def _add_elasticity(found: Stability, relaxer: Relaxer, cell: Structure) -> None:
    def relaxed_stress(strained: Structure) -> FloatArray:
        atoms = relaxer.atoms(strained)
        with BFGS(atoms, logfile=None) as optimizer:
            optimizer.run(fmax=FMAX, steps=STEPS)
        return np.asarray(atoms.get_stress())

    elasticity = elasticity_of(cell, relaxed_stress)
    found.elastic_tensor_gpa = np.round(elasticity.tensor, 3).tolist()
    found.born_stable = elasticity.is_stable
    # Of what no stress holds in shape, averages mean nothing.
    if elasticity.is_stable:
        found.bulk_modulus_gpa = elasticity.bulk_modulus
        found.shear_modulus_gpa = elasticity.shear_modulus
