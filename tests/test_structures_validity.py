"""What can be a crystal: one judge, quick whatever it is given."""

from time import perf_counter

import numpy as np
import pytest
from ase import Atoms
from crystals import ANTIFLUORITE, BISMUTH, CSCL, FLUORITE, NIAS, ROCKSALT, ZINCBLENDE
from pymatgen.core import Lattice, Structure

from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.dft.structures.elements import end_members
from ccdcgan.dft.structures.validity import (
    coincident,
    fault,
    neighbours,
    too_close,
)
from ccdcgan.models.representation.default import problem
from ccdcgan.workflows.screening import Limits

GOOD = [ROCKSALT, ZINCBLENDE, CSCL, NIAS, FLUORITE, ANTIFLUORITE, BISMUTH]
LIMITS = Limits(20, 2.0, (10.0, 100.0))


def cell(*matrix: object, coords: object = (0.5, 0.5, 0.5)) -> Structure:
    return Structure(Lattice(np.array(matrix, float)), ["Bi", "Se"], [[0, 0, 0], coords])


INF, NAN = float("inf"), float("nan")
BAD = {
    "nan cell": (cell([NAN, 0, 0], [0, 4, 0], [0, 0, 4]), "not finite"),
    "infinite cell": (cell([INF, 0, 0], [0, 4, 0], [0, 0, 4]), "not finite"),
    "nan coordinate": (cell([4, 0, 0], [0, 4, 0], [0, 0, 4], coords=[NAN, 0, 0]), "not finite"),
    "infinite coordinate": (cell([4, 0, 0], [0, 4, 0], [0, 0, 4], coords=[0, INF, 0]), "finite"),
    "near the largest number": (cell([1e308, 0, 0], [0, 1e308, 0], [0, 0, 4]), "not finite"),
    "no volume": (cell([0, 0, 0], [0, 0, 0], [0, 0, 0]), "shorter than 0.5"),
    "thin": (cell([1e-6, 0, 0], [0, 4e7, 0], [0, 0, 1.5]), "shorter than 0.5"),
    "crushed": (cell([1e-3, 0, 0], [0, 4, 0], [0, 0, 4]), "shorter than 0.5"),
    "crushed along a sum": (cell([4, 0, 0], [-4, 0.3, 0], [0, 0, 4]), "shorter than 0.5"),
    "huge": (cell([2e4, 0, 0], [0, 2e4, 0], [0, 0, 2e4]), "longer than 500"),
    "flat": (cell([4, 0, 0], [0, 4, 0], [2, 2, 1e-2]), "flat cell"),
    "dense": (cell([0.6, 0, 0], [0, 0.6, 0], [0, 0, 0.6]), "Å³ per atom"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_no_crystal_can_be_is_refused_at_once_everywhere(name: str) -> None:
    structure, words = BAD[name]
    start = perf_counter()
    atoms = Atoms("BiSe", structure.cart_coords, cell=structure.lattice.matrix, pbc=True)
    assert words in str(fault(structure))
    assert words in str(LIMITS.problem(structure)) and not LIMITS.allow(structure)
    assert words in str(problem(structure, ["Bi", "Se"], 20))
    assert RelaxationSettings().gate(structure) and RelaxationSettings().gate(atoms)
    assert perf_counter() - start < 0.5


def test_images_count_as_neighbours() -> None:
    """One atom in a cell of 0.7 Å is 0.7 Å from itself."""
    alone = Structure(Lattice.orthorhombic(0.7, 7, 7), ["Bi"], [[0, 0, 0]])
    assert fault(alone) is None and min(neighbours(alone)[2]) == pytest.approx(0.7)
    assert too_close(alone, 1.0) and not too_close(alone, 0.6)
    assert problem(alone.make_supercell([2, 1, 1]), ["Bi", "Se"], 20) is None
    skewed = Structure(Lattice([[5, 0, 0], [10.4, 0.2, 0], [0, 0, 5]]), ["Bi"], [[0, 0, 0]])
    assert too_close(skewed)


def test_no_good_crystal_has_a_fault() -> None:
    for structure in GOOD:
        assert fault(structure) is None and too_close(structure) is None
        assert coincident(structure) is None and LIMITS.problem(structure) is None
        for scale in (1e-2, 1e-1):  # a prototype may be in other units
            scaled = structure.copy()
            scaled.scale_lattice(structure.volume / (structure.lattice.a * scale) ** 3)
            assert fault(scaled) or coincident(scaled) is None
    for member in end_members(["H", "O", "C", "Cs"], 8):
        assert fault(member.structure) is None and too_close(member.structure) is None, member.id


def test_atoms_in_one_place() -> None:
    twice = Structure(Lattice.cubic(4), ["Bi", "Bi", "Se"], [[0, 0, 0], [0, 1, 0], [0.5] * 3])
    assert coincident(twice) == "two atoms in one place"
    assert LIMITS.problem(twice) == "atoms closer than 2 Å"


def test_one_neighbour_list_for_atoms_and_structures() -> None:
    for structure in GOOD:
        moved = structure.copy().translate_sites([0], [2, -3, 1], to_unit_cell=False)
        of_atoms = neighbours(moved.to_ase_atoms(), 4.0)
        of_structure = neighbours(moved, 4.0)
        assert len(of_atoms[0]) == len(of_structure[0])
        np.testing.assert_allclose(np.sort(of_atoms[2]), np.sort(of_structure[2]), atol=1e-9)


def test_reasons_of_the_limits() -> None:
    many = ROCKSALT.copy().make_supercell([3, 3, 3])
    mixed = Structure(Lattice.cubic(4), [{"Bi": 0.5, "Se": 0.5}], [[0, 0, 0]])
    wide = Structure(Lattice.cubic(9), ["Bi", "Se"], [[0, 0, 0], [0.5] * 3])
    near = Structure(Lattice.cubic(4), ["Bi", "Se"], [[0, 0, 0], [0.3, 0, 0]])
    reasons = [LIMITS.problem(s) for s in (many, mixed, wide, near)]
    assert reasons == [
        "more than 20 atoms",
        "disordered",
        "not 10.0 to 100.0 Å³ per atom",
        "atoms closer than 2 Å",
    ]
