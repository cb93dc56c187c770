"""CIF: space groups by whatever name, numbers as they stand, and no guess where they lack."""

import gzip
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.core.operations import SymmOp
from pymatgen.symmetry.groups import SYMM_DATA, SpaceGroup

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.crystal import Crystal
from ccdcgan.dft.structures.matching import is_same
from ccdcgan.dft.structures.moments import moments_of
from ccdcgan.dft.structures.reader import read
from ccdcgan.dft.structures.spacegroups import operations, settings_of

ROCKSALT = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
)

CELL = """data_x
_cell_length_a 5.64
_cell_length_b 5.64
_cell_length_c 5.64
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
"""

ATOMS = """loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
"""

ROWS = "Na1 Na 0 0 0 1\nCl1 Cl 0.5 0.5 0.5 1\n"


def cif(group: str = "_symmetry_space_group_name_H-M 'F m -3 m'", rows: str = ROWS) -> str:
    return f"{CELL}{group}\n{ATOMS}{rows}"


def crystal(text: str, folder: Path) -> Crystal:
    (folder / "a.cif").write_text(text)
    (found,) = read(folder / "a.cif")
    assert isinstance(found, Crystal)
    return found


def refusal(text: str, folder: Path) -> str:
    (folder / "a.cif").write_text(text)
    with pytest.raises(UserError) as raised:
        list(read(folder / "a.cif"))
    assert len(str(raised.value).splitlines()) == 1
    return str(raised.value).partition("a.cif: ")[2]


@pytest.mark.parametrize(
    "group",
    [
        *(
            f"_symmetry_space_group_name_H-M {name}"
            for name in (
                *("'F m -3 m'", "Fm-3m", "'Fm-3m:1'", "'F m 3 m'", "Fm3m", "Fm_3m", "F m -3 m"),
                *("\u2018F m -3 m\u2019", "'F m \u22123 m'", "'F 4/m -3 2/m'", "'f M -3 M'"),
            )
        ),
        "_space_group_name_H-M_alt 'F m -3 m'",
        "_space_group.name_H-M_alt 'F m -3 m'",
        "_space_group_name_Hall '-F 4 2 3'",
        "_symmetry_Int_Tables_number 225",
        "_space_group_IT_number 225\n_symmetry_space_group_name_H-M ?",
    ],
)
def test_a_space_group_by_all_its_names(group: str, tmp_path: Path) -> None:
    found = crystal(cif(group), tmp_path)
    assert len(found.structure) == 8 and is_same(found.structure, ROCKSALT)
    assert found.warning is None


def test_operations_are_those_of_pymatgen() -> None:
    """For each symbol that it knows, in the setting that it takes."""
    for symbol in SYMM_DATA["space_group_encoding"]:
        known = [(o.rotation_matrix, o.translation_vector) for o in SpaceGroup(symbol).symmetry_ops]
        texts, rotations = operations(settings_of(symbol)[0])
        shifts = [SymmOp.from_xyz_str(text).translation_vector for text in texts]
        own = zip(rotations, shifts, strict=True)
        as_set = [
            {(*np.round(r).astype(int).ravel(), *np.round(t * 24).astype(int) % 24) for r, t in ops}
            for ops in (known, own)
        ]
        if symbol != "Ccca":  # pymatgen has its other origin here, and not in Ccce.
            assert as_set[0] == as_set[1], symbol


def test_origins_and_axes(tmp_path: Path) -> None:
    """Diamond in both origins of F d -3 m, rock salt in both cells of R -3 m."""
    diamond = Structure.from_spacegroup("Fd-3m", Lattice.cubic(3.57), ["C"], [[0, 0, 0]])
    for name, place in (
        ("F d -3 m :1", 0),
        ("F d -3 m S", 0),
        ("F d -3 m Z", 0.125),
        ("Fd-3m:2", 0.125),
    ):
        text = cif(f"_symmetry_space_group_name_H-M '{name}'", f"C1 C {place} {place} {place} 1\n")
        found = crystal(text.replace("5.64", "3.57"), tmp_path)
        assert len(found.structure) == 8 and is_same(found.structure, diamond), name
        assert found.warning is None
    text = cif("_symmetry_space_group_name_H-M 'F d -3 m'", "C1 C 0 0 0 1\n")
    assert "has two origins: read with choice 1" in str(crystal(text, tmp_path).warning)
    # The primitive cell of a face-centred one has angles of 60 degrees.
    edge = 5.64 / np.sqrt(2)
    for name in ("R -3 m", "R -3 m :R", "R-3mR"):
        text = cif(f"_symmetry_space_group_name_H-M '{name}'").replace("5.64", f"{edge:.10f}")
        found = crystal(text.replace(" 90", " 60"), tmp_path)
        assert len(found.structure) == 2 and is_same(found.structure, ROCKSALT)
    for name in ("R -3 m", "R -3 m :H", "R -3 m H", "R-3mH"):
        text = cif(f"_symmetry_space_group_name_H-M '{name}'").replace("5.64", f"{edge:.10f}")
        text = text.replace(f"c {edge:.10f}", f"c {5.64 * np.sqrt(3):.10f}")
        text = text.replace("0.5 0.5 0.5", "0 0 0.5").replace("gamma 90", "gamma 120")
        found = crystal(text, tmp_path)
        assert len(found.structure) == 6 and is_same(found.structure, ROCKSALT)


P1 = "_symmetry_space_group_name_H-M 'P 1'"
LIST = "loop_\n_symmetry_equiv_pos_as_xyz\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (cif("_symmetry_space_group_name_H-M 'unknown'"), "'unknown' is not known: give the sym"),
        (cif("_symmetry_Int_Tables_number 999"), "its space group '999' is not known"),
        (cif("_symmetry_space_group_name_H-M ?"), "its space group is '?'"),
        (cif("_symmetry_Int_Tables_number 194"), "cell does not have the symmetry of its space"),
        (cif().replace("gamma 90", "gamma 120"), "does not have the symmetry"),
        (cif().replace("c 5.64", "c 6.64"), "does not have the symmetry"),
        (cif() + LIST + "'x,y,z'\n'-y,x-y,z'\n'-x+y,-x,z'\n", "are not those of its space group"),
        (cif("") + LIST + "'x,y,z'\n'-y,x-y,z'\n'-x+y,-x,z'\n", "symmetry of its operations"),
        (cif() + LIST + "'x,y,z'\n", "its 1 symmetry operations are not those"),
        (cif("") + LIST + "'x,y,z'\n'x,y'\n", "no symmetry operation: 'x,y'"),
        (cif("") + LIST + "'x,y,z'\n'y,z,x'\n", "are no group"),
        (cif() + "_symmetry_Int_Tables_number 1\n", "contradict each other: 'F m -3 m' and '1'"),
        (cif(rows="Na1 Na . 0 0 1\n"), "_atom_site_fract_x is '.'"),
        (cif(rows="Na1 Na 0 0 0.5e400 1\n"), "'0.5e400', which is no number"),
        (cif(rows="Na1 Na 0 0 1_0 1\n"), "'1_0', which is no number"),
        (cif(rows="Na1 Na 0 0 0,5 1\n"), "'0,5', which is no number"),
        (cif(rows="Na1 Na 0 0 0 ?\n"), "_atom_site_occupancy is '?'"),
        (cif(rows="Na1 Na 0 0 0 -1\n"), "occupancy -1 is not from 0 to 1"),
        (cif(rows="Na1 Na 0 0 0\nCl1 Cl 0.5 0.5 0.5 1\n"), "has 11 values for 6 columns"),
        (cif(rows=""), "no atoms"),
        (cif(rows="Na1 Vac 0 0 0 1\n"), "no element 'Vac'"),
        (cif(rows="Na1 OH 0 0 0 1\n"), "no element 'OH'"),
        (cif(rows="SITE1 ? 0 0 0 1\n"), "no element in the label 'SITE1'"),
        (cif(rows="M2 ? 0 0 0 1\n"), "no element in the label 'M2'"),
        (cif().replace("a 5.64", "a -5.64"), "a length of the cell is not above 0"),
        (cif().replace("gamma 90", "gamma -60"), "no cell has such angles"),
        (cif().replace("gamma 90", "gamma 0"), "no cell has such angles"),
        (cif().replace("_cell_angle_gamma 90\n", ""), "_cell_angle_gamma is missing"),
        (cif() + "_cell_length_a 9.99\n", "_cell_length_a stands twice"),
        (cif() + ATOMS + "Br1 Br 0.2 0.2 0.2 1\n", "_atom_site_label stands twice"),
        (cif().replace("fract", "Cartn"), "only Cartesian coordinates are there"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_rightly(text: str, words: str, tmp_path: Path) -> None:
    assert words in refusal(text, tmp_path)


def test_numbers_and_words_as_cif_has_them(tmp_path: Path) -> None:
    rows = "Na1 Na 0 0 0 .\nCl1 Cl1- \u22120.1 0.2(3) +.3 1\n"
    plain = crystal(cif(P1, rows), tmp_path).structure
    np.testing.assert_allclose(plain.frac_coords, [[0, 0, 0], [0.9, 0.2, 0.3]])
    assert plain.is_ordered and plain.composition.reduced_formula == "NaCl"
    text = cif(P1, rows)
    for old, new in (
        ("data_x", "DATA_x"),
        ("loop_", "LOOP_"),
        ("_atom_site_fract", "_Atom_Site_Fract"),
        ("_atom_site_", "_atom_site."),
        ("_cell_", "_cell."),
        ("_cell_l", "_CELL_L"),
        (" Na ", " NA "),
    ):
        assert crystal(text.replace(old, new), tmp_path).structure == plain
    note = ";\nhello\ndata_ y\nloop_\n;\n"
    assert (
        crystal(text.replace("data_x\n", f"data_x\n_publ_text\n{note}"), tmp_path).structure
        == plain
    )
    # An empty text is a value, too.
    labelled = text.replace("_occupancy\n", "_occupancy\n_atom_site_note\n")
    assert (
        crystal(
            labelled.replace(" .\n", " . ''\n").replace("3 1\n", "3 1 ''\n"), tmp_path
        ).structure
        == plain
    )


@pytest.mark.parametrize(
    ("label", "formula", "element"),
    [("Na1", "?", "Na"), ("CA1", "?", "Ca"), ("CA1", "C", "C"), ("CA1", "Ca", "Ca"),
     ("OW1", "?", "O"), ("NA", "'H4 N2'", "N")],
)  # fmt: skip
def test_elements_of_labels(label: str, formula: str, element: str, tmp_path: Path) -> None:
    text = cif(f"{P1}\n_chemical_formula_sum {formula}", f"{label} ? 0 0 0 1\n")
    assert crystal(text, tmp_path).structure[0].specie.symbol == element


def test_shares_of_a_site_as_the_pauling_file_has_them(tmp_path: Path) -> None:
    """The parser of pymatgen takes an operation away with the row."""
    rows = "Nb,Zr '0.8Nb + 0.2Zr' 0 0 0 1\nO1 O 0.5 0.5 0.5 1\n"
    found = crystal(cif(rows=rows), tmp_path).structure
    assert found.composition.as_dict() == pytest.approx({"Nb": 3.2, "Zr": 0.8, "O": 4})


def test_formula_units_count_atoms(tmp_path: Path) -> None:
    for units, formula, group, warning in (
        (4, "'Na Cl'", "'F m -3 m'", None),
        (4, "'Na4 Cl4'", "'F m -3 m'", None),
        (4, "'Na Cl'", "'P m -3 m'", "its 4 formula units Na Cl are 8 atoms, its sites 2"),
    ):
        lines = f"_symmetry_space_group_name_H-M {group}\n_chemical_formula_sum {formula}\n"
        found = crystal(cif(f"{lines}_cell_formula_units_Z {units}"), tmp_path)
        assert found.warning == warning


def test_moments_without_a_magnetic_group(tmp_path: Path) -> None:
    moments = "loop_\n" + "".join(f"_atom_site_moment_{n}\n" for n in (
        "label", "crystalaxis_x", "crystalaxis_y", "crystalaxis_z"
    ))  # fmt: skip
    found = crystal(cif(P1) + moments + "Na1 0 0 2.5\n", tmp_path)
    assert moments_of(found.structure) == [[0, 0, 2.5], [0, 0, 0]]
    found = crystal(cif() + moments + "Na1 0 0 2.5\n", tmp_path)
    assert moments_of(found.structure) is None and "moments are left out" in str(found.warning)


def test_a_subgroup_beside_all_atoms(tmp_path: Path) -> None:
    """As of programs that write every atom and keep the name: both make the same crystal."""
    rows = "".join(
        f"{s.specie}{i} {s.specie} {' '.join(map(str, s.frac_coords))} 1\n"
        for i, s in enumerate(ROCKSALT)
    )
    found = crystal(cif(rows=rows) + LIST + "'x,y,z'\n", tmp_path)
    assert len(found.structure) == 8 and is_same(found.structure, ROCKSALT)
    assert "are not those of its space group" in refusal(
        cif(rows=rows.split("\n", 1)[1]) + LIST + "'x,y,z'\n", tmp_path
    )


def test_many_lines_without_anything(tmp_path: Path) -> None:
    """Spaces that a pattern could take for the begin of a name again and again."""
    (tmp_path / "a.cif.gz").write_bytes(gzip.compress(b"\n" * 300_000))
    (tmp_path / "b.cif.gz").write_bytes(gzip.compress(b"data_x\n" + b" \n" * 300_000))
    start = perf_counter()
    for name in "ab":
        with pytest.raises(UserError):
            list(read(tmp_path / f"{name}.cif.gz"))
    assert perf_counter() - start < 5
