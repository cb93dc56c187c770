"""Whether a relaxed crystal is stable beyond its energy: phonons, and the elastic tensor."""

from __future__ import annotations

import warnings
from typing import Protocol

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.optimize import BFGS
from pymatgen.core import Structure
from pymatgen.io.ase import AseAtomsAdaptor

from ccdcgan.dft.dynamics.document import Stability
from ccdcgan.dft.dynamics.elasticity import elasticity_of
from ccdcgan.dft.dynamics.phonons import TooLargeError, followed, phonons_of
from ccdcgan.dft.dynamics.spectrum import spectrum_of
from ccdcgan.dft.engines.vasp.forces import ByVasp, NoForcesError
from ccdcgan.dft.relaxation.document import Relaxation
from ccdcgan.dft.relaxation.key import elements_of
from ccdcgan.dft.relaxation.relaxer import Relaxer
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.dft.structures.moments import along_z, with_moments
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


class Route(Protocol):
    """What relaxes a crystal, and gives its forces and stresses."""

    settings: RelaxationSettings

    def relax(self, structure: Structure) -> Relaxation:
        """The crystal relaxed in cell and positions."""

    def relaxed_stress(self, structure: Structure) -> FloatArray:
        """Stress (6,), in ASE's order, eV/Å³, with positions relaxed in a cell that is kept."""

    def forces(self, atoms: Atoms) -> FloatArray:
        """Forces (n, 3) on atoms, eV/Å, all of them displacements of one cell."""


class ByCalculator:
    """A `Route` by an engine that ASE drives."""

    def __init__(self, relaxer: Relaxer) -> None:
        self.settings, self.relax, self._relaxer = relaxer.settings, relaxer, relaxer
        self._calculator: Calculator | None = None

    def relaxed_stress(self, structure: Structure) -> FloatArray:
        """See `Route`."""
        atoms = self._relaxer.atoms(structure)
        with BFGS(atoms, logfile=None) as optimizer:
            optimizer.run(fmax=FMAX, steps=STEPS)
        return np.asarray(atoms.get_stress())

    def forces(self, atoms: Atoms) -> FloatArray:
        """See `Route`."""
        if self._calculator is None:
            # k-points and moments of a DFT code are of the supercell.
            supercell = AseAtomsAdaptor.get_structure(atoms)
            self._calculator = self._relaxer.engine.calculator(supercell)
        atoms.set_initial_magnetic_moments(None)
        atoms.calc = self._calculator
        return np.asarray(atoms.get_forces())


def stability_of(relaxer: Relaxer, structure: Structure) -> Stability:
    """Phonons and elastic constants of a crystal: a task of `in_workers`.

    Parameters
    ----------
    relaxer
        With the settings of `finer`.
    structure
        A relaxed crystal.
    """
    return _stability(ByCalculator(relaxer), structure)


def stability_by_vasp(settings: RelaxationSettings, structure: Structure) -> Stability:
    """Phonons and elastic constants of a crystal by VASP; a further call goes on from there.

    Raises
    ------
    UserError, OutOfTimeError
        As of `relax_by_vasp`.
    """
    return _stability(ByVasp(settings), structure)


def _stability(route: Route, structure: Structure) -> Stability:
    result = route.relax(structure)
    found = Stability(
        level_of_theory=route.settings.level_of_theory(elements_of(structure)),
        structure=result.structure,
        energy_per_atom=result.energy_per_atom,
    )
    if not result.converged:
        found.problem = f"not relaxed to {route.settings.fmax:g} eV/Å: {result.reason}"
        return found
    cell = symmetrised(result.structure, TOLERANCE) or result.structure
    cell = found.structure = cell.get_reduced_structure("niggli")
    with warnings.catch_warnings():
        # Of phonopy's and pymatgen's own calls of what will have other names.
        warnings.simplefilter("ignore")
        for add, what in ((_add_elasticity, "elastic constants"), (_add_phonons, "phonons")):
            try:
                add(found, route, cell)
            except (NoForcesError, TooLargeError) as error:
                found.problem = f"no {what}: {error}"
    return found


def given_up(settings: RelaxationSettings, structure: Structure, reason: str) -> Stability:
    """What is known of a crystal that its process did not survive."""
    return Stability(
        level_of_theory=settings.level_of_theory(elements_of(structure)),
        structure=structure,
        problem=reason,
    )


def _add_phonons(found: Stability, route: Route, cell: Structure) -> None:
    moments = along_z(cell)
    if moments is not None:
        # What a calculation leaves of equal moments is not quite equal.
        moments = (np.round(moments, 1) + 0.0).tolist()
    phonons = phonons_of(with_moments(cell, moments), route.forces)
    found.lowest_frequency_thz = phonons.lowest
    found.wave_vector, found.supercell = list(phonons.wave_vector), list(phonons.supercell)
    found.dynamically_stable = phonons.is_stable
    found.spectrum = spectrum_of(phonons)
    found.followed = None if phonons.is_stable else followed(phonons)


def _add_elasticity(found: Stability, route: Route, cell: Structure) -> None:
    elasticity = elasticity_of(cell, route.relaxed_stress)
    found.elastic_tensor_gpa = np.round(elasticity.tensor, 3).tolist()
    found.born_stable = elasticity.is_stable
    # Of what no stress holds in shape, averages mean nothing.
    if elasticity.is_stable:
        found.bulk_modulus_gpa = elasticity.bulk_modulus
        found.shear_modulus_gpa = elasticity.shear_modulus
