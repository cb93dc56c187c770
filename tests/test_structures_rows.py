"""Files in which something is missing, twice, or of another kind: read rightly, or told."""

import json
from pathlib import Path
from typing import Any

import ase.io
import ase.io.jsonio
import numpy as np
import pytest
from ase import Atoms
from ase.geometry import cellpar_to_cell
from crystals import CSCL
from monty.json import MontyEncoder
from pymatgen.core import Structure
from pymatgen.electronic_structure.core import Magmom

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.crystal import Crystal, Passed, Skipped
from ccdcgan.dft.structures.moments import moments_of, order_of, with_moments
from ccdcgan.dft.structures.reader import read

S = CSCL.as_dict()
CIF = CSCL.to(fmt="cif")


def read_all(name: str, content: Any, folder: Path) -> list[Crystal | Skipped | Passed]:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / name).write_text(text)
    return list(read(folder / name))


def crystal(name: str, content: Any, folder: Path) -> Crystal:
    (found,) = read_all(name, content, folder)
    assert isinstance(found, Crystal)
    return found


def refusal(name: str, content: Any, folder: Path) -> str:
    with pytest.raises(UserError) as raised:
        read_all(name, content, folder)
    assert len(str(raised.value).splitlines()) == 1
    return str(raised.value)


def frame(header: str, *atoms: str) -> str:
    lattice = 'Lattice="3.6 0 0 0 3.6 0 0 0 3.6"'
    return "\n".join([str(len(atoms)), f"{lattice} {header}", *atoms]) + "\n"


@pytest.mark.parametrize(
    ("header", "atom", "words"),
    [
        ("Properties=species:S:1:pos_frac:R:3", "Bi 0 0 0", "no pos, only species, pos_frac"),
        ("Properties=element:S:1:pos:R:3", "Bi 0 0 0", "no species, only element, pos"),
        ("Properties=species:S:1:pos:R:2", "Bi 0 0", "its pos has 2 columns, not 3"),
        ("", "83 0 0 0", "no element '83'"),
        ("", "Bi1 0 0 0", "no element 'Bi1'"),
        ("", "X 0 0 0", "no element 'X'"),
        ("", "Bi 0 0", "its Properties are of 4 columns, its lines have 3"),
        ("energy=-7.5 energy=-9", "Bi 0 0 0", "its header has energy twice"),
    ],
)
def test_headers_that_do_not_fit(header: str, atom: str, words: str, tmp_path: Path) -> None:
    assert words in refusal("a.extxyz", frame(header, atom), tmp_path)


def test_isotopes_and_small_letters_alike(tmp_path: Path) -> None:
    """Deuterium is hydrogen in every format."""
    (tmp_path / "a.extxyz").write_text(frame("note='a=1 a=2'", "D 0 0 0", "bi 1.8 1.8 1.8"))
    text = "x\n1\n3.6 0 0\n0 3.6 0\n0 0 3.6\nD bi\n1 1\nDirect\n0 0 0\n.5 .5 .5\n"
    (tmp_path / "b.vasp").write_text(text)
    first, second = read(tmp_path)
    assert isinstance(first, Crystal) and isinstance(second, Crystal)
    assert first.structure.composition == second.structure.composition
    assert first.structure.composition.reduced_formula == "BiH"


def test_names_that_stand_twice(tmp_path: Path) -> None:
    s = json.dumps(S)
    items = read_all("a.json", f'{{"A": {s}, "B": {s}, "A": {s}}}', tmp_path)
    assert [type(i) for i in items] == [Skipped, Crystal]
    assert items[0] == Skipped("a.json#A", "stands twice")
    twice = f'{{"energy": -7, "structure": {s}, "energy": -9}}'
    assert "'energy' stands twice" in refusal("a.json", twice, tmp_path)
    inner = s.replace('"a":', '"matrix": 1, "a":', 1)
    assert "'matrix' stands twice" in refusal("a.json", inner, tmp_path)
    lines = read_all("a.jsonl", f"{s}\n{twice}\n{s}\n", tmp_path)
    assert [type(i) for i in lines] == [Crystal, Skipped, Crystal]
    table = f'energy,cif,energy\n-7,"{CIF}",-9\n'.replace("'", '""')
    assert "column 'energy' stands twice" in refusal("a.csv", table, tmp_path)


@pytest.mark.parametrize("header", ["cif,energy", " Cif, energy", "cif;energy", "CIF\tenergy"])
def test_tables_as_people_write_them(header: str, tmp_path: Path) -> None:
    mark = next(c for c in ",;\t" if c in header)
    found = crystal("a.csv", f'{header}\n"{CIF}"{mark}-7.5\n', tmp_path)
    assert found.numbers["energy_per_atom"] == -3.75


def test_two_structures_in_one_text(tmp_path: Path) -> None:
    assert "2 structures in one text" in refusal("a.csv", f'cif\n"{CIF}{CIF}"\n', tmp_path)
    assert "a row without structure" in refusal("a.csv", "cif,x\n,1\n", tmp_path)


@pytest.mark.parametrize("given", ["-7.5", " -7.5 ", "\u22127.5", -7.5])
def test_numbers_as_text(given: object, tmp_path: Path) -> None:
    found = crystal("a.json", [{"structure": S, "energy": given}], tmp_path)
    assert found.numbers["energy_per_atom"] == -3.75 and found.warning is None


@pytest.mark.parametrize("given", ["-7,5", "-7.5 eV", "-7_5", [1], {"value": -7.5}, True])
def test_energies_that_are_no_numbers_are_told(given: object, tmp_path: Path) -> None:
    found = crystal("a.json", [{"structure": S, "energy": given}], tmp_path)
    assert not found.numbers and "its energy is" in str(found.warning)


@pytest.mark.parametrize(
    "name", ["converged", "is_converged", "Converged", "converged_ionic", "_x_converged"]
)
def test_names_of_whether_it_converged(name: str, tmp_path: Path) -> None:
    assert not crystal("a.json", [{"structure": S, name: False}], tmp_path).converged
    assert crystal("a.json", [{"structure": S, name: True}], tmp_path).converged


def test_a_final_structure_that_is_lacking(tmp_path: Path) -> None:
    row = {"initial_structure": S, "final_structure": None, "energy": -7.5}
    assert "a row without final structure" in refusal("a.json", [row], tmp_path)
    assert crystal("a.json", [{"initial_structure": S}], tmp_path).structure == CSCL


OPTIMADE = {
    "lattice_vectors": np.diag([3.6, 3.6, 3.6]).tolist(),
    "cartesian_site_positions": [[0, 0, 0]],
    "species_at_sites": ["Bi"],
}
PBC = [True, True, False]
ATOMS = {"numbers": [83], "positions": [[0, 0, 0]], "cell": [3.6, 3.6, 3.6]}


@pytest.mark.parametrize(
    "data",
    [
        {**S, "lattice": {**S["lattice"], "pbc": PBC}},
        {"structure": {**S, "lattice": {**S["lattice"], "pbc": PBC}}},
        {**OPTIMADE, "dimension_types": [1, 1, 0]},
        {**ATOMS, "pbc": PBC},
    ],
)
def test_slabs_are_told_of(data: dict[str, Any], tmp_path: Path) -> None:
    found = crystal("a.json", data, tmp_path)
    assert found.warning == "not periodic in all directions: read as if it were"
    assert all(found.structure.lattice.pbc)


def test_atoms_of_ase(tmp_path: Path) -> None:
    """Six numbers are a cell with a along x; a formula's order is that of the atoms."""
    parameters = [4.7, 5.1, 6.2, 57.0, 71.0, 83.0]
    atoms = Atoms("BiSe2", cell=cellpar_to_cell(parameters), pbc=True)
    atoms.set_scaled_positions([[0.1, 0.2, 0.3], [0.5, 0.6, 0.1], [0.9, 0.4, 0.7]])
    places = {"positions": atoms.positions.tolist()}
    scaled = {"scaled_positions": atoms.get_scaled_positions().tolist()}
    for part in (places, scaled):
        row = {"symbols": "BiSe2", "cell": parameters, **part}
        found = crystal("a.json", row, tmp_path).structure
        assert [s.specie.symbol for s in found] == ["Bi", "Se", "Se"]
        np.testing.assert_allclose(found.frac_coords, atoms.get_scaled_positions(), atol=1e-10)
    row = {"symbols": "Bi999999Se", "cell": parameters, **places}
    assert "no formula" in refusal("a.json", row, tmp_path)
    for moments in ([1.0, -2.0, 0.5], [[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 0.5]]):
        magnet = atoms.copy()
        magnet.set_initial_magnetic_moments(moments)
        text = ase.io.jsonio.encode(magnet.todict())
        assert moments_of(crystal("a.json", text, tmp_path).structure) == moments


def test_moments_along_another_axis(tmp_path: Path) -> None:
    """As pymatgen itself turns them."""
    for moment, axis in ((2.0, [1, 0, 0]), ([0.0, 1.0, 2.0], [1, 1, 0]), (2.0, [0, 0, -1])):
        own = Magmom(moment, saxis=axis)
        structure = CSCL.copy(site_properties={"magmom": [own, own]})
        text = json.dumps(structure.as_dict(), cls=MontyEncoder)
        for read_as in (structure, crystal("a.json", text, tmp_path).structure):
            given = moments_of(read_as)
            assert given is not None
            np.testing.assert_allclose(given, [own.global_moment] * 2, atol=1e-12)
    plain = CSCL.copy(site_properties={"magmom": [Magmom(2.0), Magmom(-2.0)]})
    text = json.dumps(plain.as_dict(), cls=MontyEncoder)
    found = moments_of(crystal("a.json", text, tmp_path).structure)
    np.testing.assert_allclose(np.array(found), [[0, 0, 2], [0, 0, -2]])


def test_the_order_of_moments_is_that_of_a_larger_cell() -> None:
    canted = with_moments(CSCL, [[0.06, 0.0, 3.0], [-0.06, 0.0, 3.0]])
    assert order_of(canted) == "ferromagnetic"
    assert order_of(canted.make_supercell([2, 2, 1], in_place=False)) == "ferromagnetic"
    crossed = with_moments(CSCL, [[0.0, 0.0, 3.0], [3.0, 0.0, 0.0]])
    for cell in (crossed, crossed.make_supercell([3, 3, 1], in_place=False)):
        assert order_of(cell) == "noncollinear"


def test_dummy_atoms_are_refused(tmp_path: Path) -> None:
    dummy = json.loads(json.dumps(S).replace('"Bi"', '"X"'))
    dummy["sites"][0]["species"][0]["oxidation_state"] = 0
    items = read_all("a.json", [{"structure": dummy}, {"structure": S}], tmp_path)
    assert [type(i) for i in items] == [Skipped, Crystal]
    assert "no element 'X" in str(items[0])


def test_picometres_are_no_angstroms(tmp_path: Path) -> None:
    large = Structure(CSCL.lattice.matrix * 100, CSCL.species, CSCL.frac_coords)
    assert "more than 1000 Å³ per atom" in refusal("a.json", large.as_dict(), tmp_path)


FOREIGN = {
    "vasprun.xml": ('<?xml version="1.0"?>\n<modeling>\n', "XML, as vasprun.xml"),
    "a.res": ("TITL x\nCELL 1.54 3 3 3 90 90 90\nLATT -1\n", "a .res file"),
    "a.pdb": ("CRYST1    3.6 3.6 3.6\nATOM  1\n", "a .pdb file"),
    "a.xsf": ("# x\nCRYSTAL\nPRIMVEC\n3 0 0\n", "an .xsf file"),
    "a.gen": ("2 F\nBi Se\n1 1 0 0 0\n", "a .gen file"),
    "pw.in": ("&control\n/\n&system\n/\n", "an input of Quantum ESPRESSO"),
    "OUTCAR": (" vasp.6.4.2 20Jul23\n x\n", "an OUTCAR"),
    "a.cif": ("version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "b.cif": ("<!DOCTYPE html>\n<html>", "a page of a web site"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_files_of_other_kinds_are_named(name: str, tmp_path: Path) -> None:
    text, words = FOREIGN[name]
    assert words in refusal(name, text, tmp_path)
    assert crystal("POSCAR", CSCL.to(fmt="poscar").replace("Bi1 Se1", "TITLE &system"), tmp_path)


def test_folders_with_links_and_copies(tmp_path: Path) -> None:
    folder, other = tmp_path / "folder", tmp_path / "other"
    (folder / "run").mkdir(parents=True)
    other.mkdir()
    poscar = CSCL.to(fmt="poscar")
    good = ["POSCAR", "run/contcar.1", "run/POSCAR_Bi", "mp-1_POSCAR", "a.vasp", "POSCAR.gz.2"]
    for name in good:
        (folder / name).write_text(poscar)
    for name in ("POSCAR-notes.txt", "readPOSCAR.py", "POSCAR.bak", "POSCAR~", "~$d.cif"):
        (folder / name).write_text("x\n")
    (other / "b.cif").write_text(CIF)
    (folder / "link").symlink_to(other)
    (folder / "again").symlink_to(other)
    (folder / "run" / "loop").symlink_to(folder)
    (folder / "gone.cif").symlink_to(tmp_path / "nothing")
    items = list(read(folder))
    found = {i.id for i in items if isinstance(i, Crystal)}
    assert found == {*good, "again/b.cif"}
    assert [i for i in items if isinstance(i, Skipped)] == [
        Skipped("gone.cif", "a link to what is not there")
    ]
    passed = {i.id: i.reason for i in items if isinstance(i, Passed)}
    assert passed["link"] == passed["run/loop"] == "a link to a folder that is read already"
    assert len(passed) == 7
