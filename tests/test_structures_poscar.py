"""POSCAR: what VASP reads is read as VASP does, lines that contradict each other are refused."""

from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.vasp import Poscar

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.crystal import Crystal
from ccdcgan.dft.structures.reader import read

POSCAR = """BiSe
1.0
3.6 0 0
0 3.6 0
0 0 3.6
Bi Se
1 1
Direct
0 0 0
0.5 0.5 0.25
"""


def structure(text: str, folder: Path) -> Structure:
    (folder / "POSCAR").write_text(text)
    (found,) = read(folder / "POSCAR")
    assert isinstance(found, Crystal)
    return found.structure


def test_what_pymatgen_writes(tmp_path: Path) -> None:
    """With flags, velocities, the blocks of molecular dynamics, and the volume for a scale.

    By that pymatgen itself multiplies Cartesian coordinates.
    """
    rng = np.random.default_rng(5)
    for number in range(30):
        n = int(rng.integers(2, 6))
        lattice = Lattice.from_parameters(*rng.uniform(3, 7, 3), *rng.uniform(65, 115, 3))
        own = Structure(lattice, rng.choice(["Bi", "Se", "O"], n), rng.random((n, 3)))
        vectors = rng.random((n, 3)).tolist()
        poscar = Poscar(
            own.get_sorted_structure(),
            selective_dynamics=(rng.random((n, 3)) > 0.5).tolist() if number % 2 else None,
            velocities=vectors if number % 3 else None,
            predictor_corrector=rng.random((n, 3, 3)).tolist() if number % 3 == 2 else None,
            predictor_corrector_preamble="1\n 0.5\n 0.1 0.2 0.3 0.4" if number % 3 == 2 else None,
        )
        text = poscar.get_str(direct=bool(number % 5), significant_figures=10)
        if number % 4 == 1:
            lines = text.split("\n")
            text = "\n".join([lines[0], f"{-own.volume}", *lines[2:]])
        reference = own.get_sorted_structure()
        found = structure(text, tmp_path)
        assert found.species == reference.species
        np.testing.assert_allclose(found.lattice.matrix, reference.lattice.matrix, atol=1e-8)
        np.testing.assert_allclose(found.frac_coords, reference.frac_coords, atol=1e-8)


@pytest.mark.parametrize(
    ("old", "new"),
    [("Bi Se", "BI SE"), ("Bi Se", "bi se"), ("Bi Se", "Bi_d/3f SE_GW"), ("1 1\n", "1 1 ! n\n"),
     ("Direct", "Direct ! mode"), ("Direct", "Fractional"), ("1.0\n", "1.0D0 # scale\n"),
     ("0 0 0\n", "0 0 0 Bi\n"), ("0 0 0\n", "0 0 0 T F F\n"), ("0.25\n", "0.25\n\nnotes\n"),
     ("Bi Se\n1 1", "Bi\nSe\n1\n1"), ("Bi Se\n1 1", "Bi O Se\n1 0 1")],
)  # fmt: skip
def test_what_vasp_reads(old: str, new: str, tmp_path: Path) -> None:
    assert structure(POSCAR.replace(old, new), tmp_path) == structure(POSCAR, tmp_path)


def test_three_scaling_factors(tmp_path: Path) -> None:
    """They are those of x, y and z, of the lattice and of Cartesian coordinates."""
    text = POSCAR.replace("1.0\n", "1 2 3\n").replace("3.6 0 0", "3.6 0.5 0")
    found = structure(text.replace("Direct", "Cartesian"), tmp_path)
    np.testing.assert_allclose(found.lattice.matrix, [[3.6, 1, 0], [0, 7.2, 0], [0, 0, 10.8]])
    np.testing.assert_allclose(found.cart_coords[1], [0.5, 1.0, 0.75])


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("Bi Se", "Bi Se O", "3 elements, but 2 numbers of atoms"),
        ("1 1\n", "1 1 1\n", "says 3 atoms, has 2 lines of coordinates"),
        ("1 1\n", "1 2\n", "says 3 atoms, has 2 lines of coordinates"),
        ("0.25\n", "0.25\n0.1 0.2 0.3\n", "says 2 atoms, has more lines of coordinates"),
        ("0.25\n", "0.25\n" + POSCAR, "more than one structure: give each a file of its own"),
        ("0.25\n", "0.25\n\n" + POSCAR, "more than one structure"),
        ("Direct", "Direct configuration=     1", "an XDATCAR with many structures"),
        ("Direct\n", "", "no line Direct or Cartesian"),
        ("0 0 0\n", "\n0 0 0\n", "says 2 atoms, has 0 lines of coordinates"),
        ("0 0 0\n", "0 0 0 Se\n", "atom 0 is Bi by the line of elements, Se by its own"),
        ("1 1\n", "1.0 1.0\n", "line 7 should have the numbers of atoms: '1.0 1.0'"),
        ("1 1\n", "-1 1\n", "line 7 should have the numbers of atoms: '-1 1'"),
        ("Bi Se", "Bi Xx", "no element 'Xx'"),
        ("0 0 0\n", "0 x 0\n", "'x', which is no number"),
        ("1.0\n", "0\n", "a scaling factor that is not above 0"),
        ("1.0\n", "1 1\n", "lines 2 to 5 are no scale and lattice"),
    ],
)
def test_lines_that_contradict_each_other(old: str, new: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "POSCAR").write_text(POSCAR.replace(old, new, 1))
    with pytest.raises(UserError) as refusal:
        list(read(tmp_path / "POSCAR"))
    assert words in str(refusal.value) and len(str(refusal.value).splitlines()) == 1
