"""Phonons and elastic constants, beside ASE's and what is known of simple potentials."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from ase.phonons import Phonons as AsePhonons
from ase.stress import full_3x3_to_voigt_6_stress
from ase.units import GPa, _e, _hplanck
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor

from ccdcgan.dft.dynamics.elasticity import elasticity_of
from ccdcgan.dft.dynamics.phonons import TooLargeError, followed, phonons_of, supercell_of
from ccdcgan.dft.dynamics.spectrum import spectrum_of
from ccdcgan.dft.structures.symmetry import FloatArray

#: THz to eV.
PLANCK = 1e12 * _hplanck / _e


def relaxed(atoms: Atoms) -> Atoms:
    atoms.calc = EMT()
    BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-5)
    return atoms


def structure_of(atoms: Atoms) -> Structure:
    return Structure(atoms.cell.array, atoms.get_chemical_symbols(), atoms.get_scaled_positions())


def forces(atoms: Atoms) -> FloatArray:
    atoms.calc = EMT()
    return np.asarray(atoms.get_forces())


def stress(structure: Structure) -> FloatArray:
    atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
    atoms.calc = EMT()
    BFGS(atoms, logfile=None).run(fmax=1e-5)
    return np.asarray(atoms.get_stress())


@pytest.fixture(scope="module")
def copper() -> Atoms:
    return relaxed(bulk("Cu"))


def test_frequencies_are_those_of_ase(copper: Atoms, tmp_path) -> None:
    found = phonons_of(structure_of(copper), forces)
    assert found.is_stable and found.lowest == pytest.approx(0.0, abs=0.01)
    # One displacement is all that an fcc crystal needs.
    assert found.displacements == 1 and found.atoms == np.prod(found.supercell)
    point = [0.5, 0.5, 0.0]
    found.phonopy.run_qpoints([point])
    own = np.sort(found.phonopy.get_qpoints_dict()["frequencies"][0])
    ase = AsePhonons(copper, EMT(), supercell=found.supercell, delta=0.02, name=tmp_path / "ph")
    ase.run()
    ase.read(acoustic=True)
    # ASE's q-points are fractions of the same reciprocal vectors.
    energies = ase.band_structure(np.array([point]))[0]
    assert own == pytest.approx(np.sort(energies) / PLANCK, rel=0.01)


def test_the_spectrum_is_that_of_the_frequencies(copper: Atoms) -> None:
    found = phonons_of(structure_of(copper), forces)
    spectrum = spectrum_of(found)
    assert spectrum is not None
    bands = np.array(spectrum.bands)
    assert bands.shape == (3, len(spectrum.distances))
    assert [name for _, name in spectrum.ticks][:2] == ["G", "X"]
    assert np.abs(bands[:, 0]).max() < 0.02 and bands.min() > -0.1
    # Known of X in fcc: two transverse modes of one frequency below the longitudinal one.
    found.phonopy.run_qpoints([[0.5, 0.5, 0.0]])
    own = np.sort(found.phonopy.get_qpoints_dict()["frequencies"][0])
    at = spectrum.distances.index(spectrum.ticks[1][0])
    assert np.sort(bands[:, at]) == pytest.approx(own, abs=2e-3)
    assert own[0] == pytest.approx(own[1], abs=1e-3) and own[2] > own[1]
    # Every mode of the primitive cell once.
    assert np.trapezoid(spectrum.density, spectrum.frequencies) == pytest.approx(3, rel=0.05)


def test_what_is_not_stable_is_followed_to_something_lower() -> None:
    # Body-centred copper falls to a close packing.
    cell = relaxed(bulk("Cu", "bcc", a=2.8, cubic=True))
    found = phonons_of(structure_of(cell), forces)
    assert not found.is_stable and found.lowest < -0.5
    moved = followed(found)
    assert moved is not None
    atoms = relaxed(AseAtomsAdaptor.get_atoms(moved, msonable=False))
    gained = cell.get_potential_energy() / len(cell) - atoms.get_potential_energy() / len(atoms)
    fcc = relaxed(bulk("Cu")).get_potential_energy()
    assert gained > 0.005
    assert atoms.get_potential_energy() / len(atoms) == pytest.approx(fcc, abs=0.005)


def test_elastic_constants_are_those_of_strains_by_hand(copper: Atoms) -> None:
    found = elasticity_of(structure_of(copper), stress)
    cell = bulk("Cu", a=copper.cell.lengths()[0] * np.sqrt(2), cubic=True)

    def by_hand(strain: FloatArray) -> FloatArray:
        pulled = []
        for sign in (1, -1):
            atoms = cell.copy()
            atoms.calc = EMT()
            atoms.set_cell(atoms.cell @ (np.eye(3) + sign * strain), scale_atoms=True)
            pulled.append(atoms.get_stress())
        return np.asarray(pulled[0] - pulled[1]) / (2 * strain.max() * GPa)

    along, across = np.zeros((3, 3)), np.zeros((3, 3))
    along[0, 0] = 1e-3
    across[1, 2] = across[2, 1] = 1e-3
    c11, c12 = by_hand(along)[:2]
    c44 = by_hand(across)[3] / 2
    assert found.tensor[0, 0] == pytest.approx(c11, rel=0.02)
    assert found.tensor[0, 1] == pytest.approx(c12, rel=0.02)
    assert found.tensor[3, 3] == pytest.approx(c44, rel=0.02)
    assert found.bulk_modulus == pytest.approx((c11 + 2 * c12) / 3, rel=0.02)
    assert found.is_stable and found.shear_modulus > 0


def test_born_criteria_fail_where_a_strain_gains_energy() -> None:
    # Body-centred copper is a maximum along Bain's path.
    found = elasticity_of(structure_of(relaxed(bulk("Cu", "bcc", a=2.8))), stress)
    assert not found.is_stable
    assert found.tensor[0, 0] < found.tensor[0, 1]


@pytest.mark.parametrize("height", [4.02, 4.07, 4.3])
@pytest.mark.parametrize("c44", [50.0, -15.0])
def test_a_tensor_has_the_symmetry_of_the_crystal_not_of_one_near_it(height, c44) -> None:
    # An exact law of a tetragonal perovskite whose cell is nearly cubic.
    law = np.diag([200.0, 200.0, 60.0, c44, c44, 80.0])
    law[0, 1] = law[1, 0] = 90.0
    law[:2, 2] = law[2, :2] = 70.0
    sites = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    cell = Structure(Lattice.tetragonal(4.0, height), ["Ba", "Ti", "O", "O", "O"], sites)

    def exact(strained: Structure) -> FloatArray:
        gradient = np.linalg.solve(cell.lattice.matrix, strained.lattice.matrix).T
        strain = (gradient.T @ gradient - np.eye(3)) / 2
        strain = strain * [[1, 2, 2], [2, 1, 2], [2, 2, 1]]
        return np.asarray(law @ full_3x3_to_voigt_6_stress(strain) * GPa)

    found = elasticity_of(cell, exact)
    # ASE's order is Voigt's, and the cell has IEEE's axes.
    assert found.tensor == pytest.approx(law, abs=1.0)
    assert found.is_stable == (c44 > 0)


def test_a_supercell_that_is_too_large_is_named(copper: Atoms) -> None:
    cell = structure_of(copper)
    size = supercell_of(cell)
    heights = np.array(size) / np.linalg.norm(np.linalg.inv(cell.lattice.matrix), axis=0)
    assert (heights >= 12.0).all() and (heights < 12.0 + 2.1).all()
    with pytest.raises(TooLargeError, match=f"its supercell has {np.prod(size)} atoms"):
        phonons_of(cell, forces, most=10)
