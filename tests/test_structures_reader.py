"""The one reader: every format round-trips, each bad structure is named, the rest is read."""

import bz2
import gzip
import io
import json
import lzma
import resource
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import ase.db
import ase.io
import ase.io.jsonio
import numpy as np
import pandas as pd
import pytest
from crystals import BISMUTH, CSCL, FLUORITE, NIAS, ROCKSALT, ZINCBLENDE
from pymatgen.core import Lattice, Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry
from pymatgen.io.cif import CifWriter

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures import archives
from ccdcgan.dft.structures.crystal import Crystal, Passed, Skipped
from ccdcgan.dft.structures.matching import is_same
from ccdcgan.dft.structures.reader import read
from ccdcgan.launchers.results.export import export

CRYSTALS = [ROCKSALT, ZINCBLENDE, CSCL, NIAS, FLUORITE, BISMUTH]
ENERGIES = [-3.5 - 0.1 * i for i in range(len(CRYSTALS))]


def sorted_out(path: Path) -> tuple[list[Crystal], list[Skipped], list[Passed]]:
    items = list(read(path))
    return (
        [i for i in items if isinstance(i, Crystal)],
        [i for i in items if isinstance(i, Skipped)],
        [i for i in items if isinstance(i, Passed)],
    )


def frames(energies: bool = True) -> list[ase.Atoms]:
    found = []
    for structure, energy in zip(CRYSTALS, ENERGIES, strict=True):
        atoms = structure.to_ase_atoms(msonable=False)
        if energies:
            atoms.info["energy"] = energy * len(atoms)
        found.append(atoms)
    return found


def rows() -> list[dict[str, Any]]:
    return [
        {"structure": s.as_dict(), "energy_per_atom": e, "name": f"n{i}"}
        for i, (s, e) in enumerate(zip(CRYSTALS, ENERGIES, strict=True))
    ]


def phases() -> list[dict[str, Any]]:
    """Documents as the store of phases has them."""
    level = {"engine": "e", "package": "p", "checkpoint": "c", "scale": "s"}
    return [
        {
            **row,
            "id": f"{i:032x}",
            "uid": f"u:{i}",
            "formula": s.composition.reduced_formula,
            "formation_energy_per_atom": e + 3,
            "e_above_hull": 0.1 * i,
            "converged": i != 2,
            "level_of_theory": level,
        }
        for i, (row, s, e) in enumerate(zip(rows(), CRYSTALS, ENERGIES, strict=True))
    ]


def cif_rows() -> list[dict[str, Any]]:
    return [
        {"material_id": i, "cif": str(CifWriter(s)), "energy_per_atom": e}
        for i, (s, e) in enumerate(zip(CRYSTALS, ENERGIES, strict=True))
    ]


def write_ase_db(path: Path) -> None:
    with ase.db.connect(path, type="json") as database:
        for atoms in frames():
            database.write(
                atoms, key_value_pairs={"energy_per_atom": atoms.info["energy"] / len(atoms)}
            )


def entries() -> list[dict[str, Any]]:
    return [
        ComputedStructureEntry(s, e * len(s) + 1.0, correction=-1.0).as_dict()
        for s, e in zip(CRYSTALS, ENERGIES, strict=True)
    ]


def nested() -> dict[str, Any]:
    """As MPtrj has it: frames by name in materials by name."""
    first, *others = rows()
    return {"mp-1": {"f0": first}, "mp-2": {str(i): r for i, r in enumerate(others)}}


#: Files with all crystals and their energies, by name.
WRITERS: dict[str, Callable[[Path], object]] = {
    "rows.json": lambda p: p.write_text(json.dumps(rows())),
    "indented.json": lambda p: p.write_text(json.dumps(rows(), indent=1)),
    "dict.json": lambda p: p.write_text(json.dumps({f"mp-{i}": r for i, r in enumerate(rows())})),
    "nested.json": lambda p: p.write_text(json.dumps(nested())),
    "wrapped.json": lambda p: p.write_text(json.dumps({"version": 1, "structures": rows()})),
    "lines.jsonl": lambda p: p.write_text("\n".join(map(json.dumps, rows())) + "\n"),
    "lines-by-content.json": lambda p: p.write_text("\n".join(map(json.dumps, rows())) + "\n"),
    "entries.json": lambda p: p.write_text(json.dumps(entries())),
    "frames.extxyz": lambda p: ase.io.write(p, frames(), format="extxyz"),
    "ase.json": write_ase_db,
    "records.json": lambda p: pd.DataFrame(rows()).to_json(p, orient="records"),
    "columns.json": lambda p: pd.DataFrame(rows()).to_json(p),
    "index.json": lambda p: pd.DataFrame(rows()).to_json(p, orient="index"),
    "split.json": lambda p: pd.DataFrame(rows()).to_json(p, orient="split"),
    "table.json": lambda p: pd.DataFrame(cif_rows()).to_json(p, orient="table"),
    "records.jsonl": lambda p: pd.DataFrame(rows()).to_json(p, orient="records", lines=True),
    "cif.csv": lambda p: pd.DataFrame(cif_rows()).to_csv(p),
    "cif.parquet": lambda p: pd.DataFrame(cif_rows()).to_parquet(p),
    "packed.json.gz": lambda p: p.write_bytes(gzip.compress(json.dumps(rows()).encode())),
    "packed.jsonl.xz": lambda p: p.write_bytes(
        lzma.compress("\n".join(map(json.dumps, rows())).encode())
    ),
    "packed.extxyz.bz2": lambda p: p.write_bytes(bz2.compress(extxyz().encode())),
    "export.json": lambda p: export(phases(), p),
    "export.jsonl": lambda p: export(phases(), p),
    "export.zip": lambda p: export(phases(), p),
    "export.extxyz": lambda p: export(phases(), p),
    "export.parquet": lambda p: export(phases(), p),
    "phases.json.gz": lambda p: p.write_bytes(gzip.compress(json.dumps(phases()).encode())),
}


def extxyz() -> str:
    stream = io.StringIO()
    ase.io.write(stream, frames(), format="extxyz")
    return stream.getvalue()


@pytest.mark.parametrize("name", WRITERS)
def test_crystals_and_energies_come_back(name: str, tmp_path: Path) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    WRITERS[name](tmp_path / name)
    found, bad, _ = sorted_out(tmp_path / name)
    assert not bad and len(found) == len(CRYSTALS)
    assert len({c.id for c in found}) == len(found)
    for crystal, structure, energy in zip(found, CRYSTALS, ENERGIES, strict=True):
        assert is_same(crystal.structure, structure), name
        assert crystal.structure.volume / len(crystal.structure) == pytest.approx(
            structure.volume / len(structure), rel=1e-5
        )
        assert crystal.numbers["energy_per_atom"] == pytest.approx(energy, abs=1e-6)
    if "export" in name or "phases" in name:
        for i, crystal in enumerate(found):
            assert crystal.converged == (i != 2)
            assert crystal.numbers["e_above_hull"] == pytest.approx(0.1 * i)
            assert crystal.level is not None and json.loads(crystal.level)["checkpoint"] == "c"


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.cif", lambda s: str(CifWriter(s))),
        ("symmetric.cif", lambda s: str(CifWriter(s, symprec=0.01))),
        ("a.vasp", lambda s: s.to(fmt="poscar")),
        ("POSCAR", lambda s: s.to(fmt="poscar")),
        ("run/CONTCAR_1", lambda s: s.to(fmt="poscar")),
        ("a.json", lambda s: json.dumps(s.as_dict())),
        ("atoms.json", lambda s: ase.io.jsonio.encode(s.to_ase_atoms(msonable=False).todict())),
        ("encoded.json", lambda s: ase.io.jsonio.encode(s.to_ase_atoms(msonable=False))),
    ],
)
def test_single_structures_packed_and_in_archives(
    name: str, write: Callable[[Structure], str], tmp_path: Path
) -> None:
    """Each format by itself, packed, with a mark or CRLF, in a folder and in a ZIP file."""
    structure = NIAS.copy().translate_sites([1], [0.01, 0.02, 0])
    content = write(structure).encode()
    variants = {
        name: content,
        f"gz/{name}.gz": gzip.compress(content),
        f"xz/{name}.xz": lzma.compress(content),
        f"mark/{name}": b"\xef\xbb\xbf" + content,
        f"crlf/{name}": content.replace(b"\n", b"\r\n"),
        f"wide/{name}": content.decode().encode("utf-16"),
    }
    folder = tmp_path / "folder"
    with zipfile.ZipFile(tmp_path / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for variant, packed in variants.items():
            (folder / variant).parent.mkdir(parents=True, exist_ok=True)
            (folder / variant).write_bytes(packed)
            archive.writestr(variant, packed)
            assert [type(i) for i in read(folder / variant)] == [Crystal], variant
    both = [sorted_out(folder), sorted_out(tmp_path / "all.zip")]
    assert both[0] == both[1]
    found, bad, _ = both[0]
    assert not bad and len(found) == len(variants)
    assert all(is_same(c.structure, structure) for c in found)


def test_latin_1(tmp_path: Path) -> None:
    text = "Würfel, 3 Å\n" + CSCL.to(fmt="poscar").split("\n", 1)[1]
    (tmp_path / "a.vasp").write_bytes(text.encode("latin-1"))
    assert sorted_out(tmp_path / "a.vasp")[0][0].structure.formula == "Bi1 Se1"


MCIF = """data_5yOhtAoR
_space_group.magn_name_BNS  "P 4/m' b' m' "
_space_group.magn_number_BNS 127.395
_cell_length_a 7.1316
_cell_length_b 7.1316
_cell_length_c 4.0505
_cell_angle_alpha 90.00
_cell_angle_beta 90.00
_cell_angle_gamma 90.00
loop_
_space_group_symop_magn_operation.id
_space_group_symop_magn_operation.xyz
1 x,y,z,+1
2 -x,-y,z,+1
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Gd1 Gd 0.31746 0.81746 0.00000 1
B1 B 0.00000 0.00000 0.20290 1
loop_
_atom_site_moment_label
_atom_site_moment_crystalaxis_x
_atom_site_moment_crystalaxis_y
_atom_site_moment_crystalaxis_z
Gd1 5.05 5.05 0.0
"""


def test_magnetic_cif(tmp_path: Path) -> None:
    (tmp_path / "a.mcif").write_text(MCIF)
    endless = "_space_group_magn.transform_BNS_Pp_abc '9**9**9**9,b,c;0,0,0'\nloop_\n_space"
    (tmp_path / "b.mcif").write_text(MCIF.replace("loop_\n_space", endless, 1))
    found, bad, _ = sorted_out(tmp_path)
    assert [c.structure.composition.reduced_formula for c in found] == ["Gd2B"]
    assert [b.id for b in bad] == ["b.mcif"]


# --- bad ones among good ones -------------------------------------------------------------------


def cif(structure: Structure = CSCL) -> str:
    return str(CifWriter(structure))


def test_all_blocks_of_a_cif_file(tmp_path: Path) -> None:
    """Blocks without atoms do not count; a bad one does not cost the others."""
    bad = cif(FLUORITE).replace("_atom_site_fract_x", "_atom_site_nothing")
    notes = "data_global\n_publ_section_title\n;\ndata_ in a text\nis no block\n;\n"
    (tmp_path / "a.cif").write_text(notes + "".join(map(cif, CRYSTALS[:2])) + bad + cif(NIAS))
    found, refused, _ = sorted_out(tmp_path / "a.cif")
    assert [c.id for c in found] == ["a.cif#0", "a.cif#1", "a.cif#3"]
    assert refused == [Skipped("a.cif#2", "_atom_site_fract_x is missing")]


CUT = extxyz().split("\n")


def frame(count: int, atoms: str, cell: str = "4 0 0 0 4 0 0 0 4") -> str:
    return f'{count}\nLattice="{cell}" Properties=species:S:1:pos:R:3\n{atoms}\n'


BAD_FRAMES = {
    "singular": (frame(2, "Bi 0 0 0\nSe 1 1 1", "1 0 0 1 0 0 0 0 1"), "without volume"),
    "no cell": ("2\nProperties=species:S:1:pos:R:3\nBi 0 0 0\nSe 1 1 1\n", "no cell"),
    "plain xyz": ("2\na molecule\nBi 0 0 0\nSe 1 1 1\n", "no cell"),
    "too few atoms": (frame(4, "Bi 0 0 0"), "says 4 atoms, has 1"),
    "too many atoms": (frame(1, "Bi 0 0 0\nSe 2 2 2"), "says 1 atoms, has 2"),
    "no element": (frame(1, "Qq 0 0 0"), "no element 'Qq'"),
    "nan": (frame(1, "Bi nan 0 0"), "not finite"),
    "nan cell": (frame(1, "Bi 0 0 0", "nan 0 0 0 4 0 0 0 4"), "not finite"),
    "text": ("hello\n", "no number of atoms"),
    "crushed": (frame(1, "Bi 0 0 0", "0.001 0 0 0 4 0 0 0 4"), "shorter than"),
    "huge": (frame(99999999, "Bi 0 0 0"), "says 99999999"),
    "no number": (frame(1, "Bi x 0 0"), "'x'"),
    "no comment": ("1\n\nBi 0 0 0\n", "no cell"),
}


@pytest.mark.parametrize("kind", BAD_FRAMES)
@pytest.mark.parametrize("place", [0, 3, 6])
def test_a_bad_frame_costs_no_good_one(kind: str, place: int, tmp_path: Path) -> None:
    text, words = BAD_FRAMES[kind]
    parts = []
    for atoms in frames():
        stream = io.StringIO()
        ase.io.write(stream, atoms, format="extxyz")
        parts.append(stream.getvalue())
    (tmp_path / "a.xyz").write_text("".join([*parts[:place], text, *parts[place:]]))
    found, bad, _ = sorted_out(tmp_path / "a.xyz")
    assert len(found) == 6 and len(bad) == 1
    assert bad[0].id == f"a.xyz#{place}" and words in bad[0].reason


def test_a_killed_writer_s_last_frame(tmp_path: Path) -> None:
    (tmp_path / "a.extxyz").write_text("\n".join(CUT[:-3]))
    found, bad, _ = sorted_out(tmp_path / "a.extxyz")
    assert len(found) == 5 and "has" in bad[0].reason
    (tmp_path / "a.json").write_text(json.dumps(rows())[:-200])
    found, bad, _ = sorted_out(tmp_path / "a.json")
    assert len(found) == 5 and bad[0].id == "a.json#5" and "broken JSON" in bad[0].reason
    lines = [json.dumps(r) for r in rows()]
    lines[2] = lines[2][:-9]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    found, bad, _ = sorted_out(tmp_path / "a.jsonl")
    assert len(found) == 5 and bad[0].id == "a.jsonl#2"


P1 = """data_x
_cell_length_a 3.6
_cell_length_b 3.6
_cell_length_c 3.6
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_chemical_formula_sum '{formula}'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
{sites}
"""


@pytest.mark.parametrize(
    ("sites", "words"),
    [
        ("Bi1 Bi 0 0 0 1\nBi2 Bi 0 0 0 1", "atoms in one place: occupancies sum to 2"),
        ("Bi1 Bi ? 0 0 1", "'?'"),
        ("Bi1 Qq 0 0 0 1", "no element 'Qq'"),
    ],
)
def test_the_parser_s_own_reason(sites: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.cif").write_text(P1.format(formula="Bi", sites=sites))
    (tmp_path / "b.cif").write_text(cif())
    found, bad, _ = sorted_out(tmp_path)
    assert len(found) == 1 and words in bad[0].reason
    with pytest.raises(UserError, match="no structure in .* can be read: a.cif: "):
        sorted_out(tmp_path / "a.cif")


def test_large_cells(tmp_path: Path) -> None:
    """Many atoms without symmetry are read; many with the largest group would take minutes."""
    rng = np.random.default_rng(1)
    places = "\n".join(
        f"Bi{i} Bi {x:.4f} {y:.4f} {z:.4f} 1" for i, (x, y, z) in enumerate(rng.random((300, 3)))
    )
    text = P1.format(formula="Bi", sites=places).replace("3.6", "30")
    (tmp_path / "a.cif").write_text(text)
    assert len(sorted_out(tmp_path / "a.cif")[0][0].structure) == 300
    group = "_symmetry_space_group_name_H-M 'F m -3 m'\nloop_"
    (tmp_path / "a.cif").write_text(text.replace("loop_", group))
    with pytest.raises(UserError, match="300 rows of atoms and 192 symmetry operations"):
        sorted_out(tmp_path / "a.cif")


def test_a_formula_that_differs_is_a_warning(tmp_path: Path) -> None:
    sites = "Bi1 Bi 0 0 0 1\nSe1 Se .5 .5 .5 1"
    for formula, warning in (
        ("Bi2 Se3", "its formula is Bi2 Se3, its sites are BiSe"),
        ("Bi Se", None),
        ("Bi4 Se4", None),
        ("?", None),
    ):
        (tmp_path / "a.cif").write_text(P1.format(formula=formula, sites=sites))
        assert sorted_out(tmp_path / "a.cif")[0][0].warning == warning


VASP4 = "BiSe\n1.0\n3.6 0 0\n0 3.6 0\n0 0 3.6\n1 1\ndirect\n0 0 0{a}\n.5 .5 .5{b}\n"


def test_poscar_without_symbols(tmp_path: Path) -> None:
    (tmp_path / "POSCAR").write_text(VASP4.format(a="", b=""))
    with pytest.raises(UserError, match="no element symbols: VASP 4 format"):
        sorted_out(tmp_path / "POSCAR")
    (tmp_path / "POSCAR").write_text(VASP4.format(a=" Bi", b=" Se"))
    assert sorted_out(tmp_path)[0][0].structure.formula == "Bi1 Se1"
    (tmp_path / "POSCAR").write_text(VASP4.replace("1 1", "Bi Se\n1 999999999"))
    with pytest.raises(UserError, match="more than 5000 atoms"):
        sorted_out(tmp_path / "POSCAR")


def test_what_is_no_structure_does_not_count(tmp_path: Path) -> None:
    folder = tmp_path / "gen"
    for name, text in {
        "a.cif": cif(),
        "metrics.json": '{"loss": [1, 2], "by": {"x": [[1]]}}',
        "list.json": "[1, 2, 3]",
        "table.csv": "file,x\nnone.cif,1\n",
        "._a.cif": "x",
        ".hidden/b.cif": cif(),
        "__MACOSX/c.cif": "x",
        "README.md": "x",
        "weights.pt": "x",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    with zipfile.ZipFile(tmp_path / "gen.zip", "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder))
    for path in (folder, tmp_path / "gen.zip"):
        found, bad, passed = sorted_out(path)
        assert [c.id for c in found] == ["a.cif"] and not bad
        assert len(passed) == 8 and all(p.reason for p in passed)
    (folder / "a.cif").unlink()
    with pytest.raises(UserError, match="holds no structure file"):
        sorted_out(folder)
    with pytest.raises(UserError, match="metrics.json: JSON without structures"):
        sorted_out(folder / "metrics.json")


def test_bad_items_of_lists(tmp_path: Path) -> None:
    short = {"structure": {"lattice": {"matrix": [[1]]}, "sites": [1]}}
    data = [{"a": 1}, *rows()[:2], 7, None, short, {"structure": None, "status": "failed"}]
    data += [{"structure": None}, {"converged": "False"}, [rows()[0]]]
    (tmp_path / "a.json").write_text(json.dumps(data))
    found, bad, _ = sorted_out(tmp_path / "a.json")
    assert [c.id for c in found] == ["a.json#1", "a.json#2", "a.json#9#0"]
    assert {b.id: b.reason for b in bad} == {
        "a.json#0": "not a structure of a known layout",
        "a.json#3": "not a structure of a known layout",
        "a.json#4": "not a structure of a known layout",
        "a.json#5": "the lattice is not of 3 × 3 numbers",
        "a.json#6": "did not converge",
        "a.json#7": "a row without structure",
        "a.json#8": "did not converge",
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, True), ("True", True), (1, True), (False, False), ("False", False), ("no", False),
     (0, False), (None, False)],
)  # fmt: skip
def test_converged_has_a_type(value: object, expected: bool, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{**rows()[0], "converged": value}]))
    assert [c.converged for c in sorted_out(tmp_path / "a.json")[0]] == [expected]


# --- what would fill memory, time or disk ---------------------------------------------------------


def zip_of(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def lying(content: bytes) -> bytes:
    """A ZIP file whose headers say that its member has ten bytes."""
    size = int.to_bytes(50_000_000, 4, "little")
    return content.replace(size, int.to_bytes(10, 4, "little"))


ZEROS = bytes(50_000_000)
BOMBS: dict[str, Callable[[], bytes]] = {
    "a.cif.gz": lambda: gzip.compress(ZEROS),
    "a.json.xz": lambda: lzma.compress(ZEROS),
    "a.extxyz.bz2": lambda: bz2.compress(ZEROS),
    "a.zip": lambda: zip_of({"a.cif": ZEROS}),
    "lying.zip": lambda: lying(zip_of({"a.cif": ZEROS})),
    "inner.zip": lambda: zip_of({"a.cif.gz": gzip.compress(ZEROS), "b.zip": b"PK"}),
    "deep.json": lambda: b"[" * 1_000_000,
    "deeper.json": lambda: b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "wide.json": lambda: b"[" + b"[]," * 12_000_000 + b"[]]",
    "digits.json": lambda: b"[" + b"9" * 1_000_000 + b"]",
    "quotes.cif": lambda: b"data_x\n_atom_site_label\n" + b"'a" * 500_000,
    "atoms.cif": lambda: P1.format(
        formula="Bi", sites="\n".join(f"Bi{i} Bi 0.{i:05d} 0 0 1" for i in range(20000))
    ).encode(),
    "atoms.extxyz": lambda: b'20000\nLattice="9 0 0 0 9 0 0 0 9" Properties=species:S:1:pos:R:3\n'
    + b"Bi 0 0 0\n" * 20000,
    "lines.json": lambda: b"7\n" * 3_000_000,
    "frames.xyz": lambda: b"1\n\n" * 50_000,
    "binary.cif": lambda: bytes(range(256)) * 1000,
}  # fmt: skip


READ_ALL = """
import json, sys
from pathlib import Path
from time import perf_counter
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.reader import read
for path in sorted(Path(sys.argv[1]).iterdir()):
    start = perf_counter()
    try:
        said = f"read {sum(1 for _ in read(path))} of {path}"
    except UserError as error:
        said = str(error)
    print(json.dumps([path.name, said, perf_counter() - start]), flush=True)
"""


def test_whatever_it_is_it_is_refused_soon(tmp_path: Path) -> None:
    """In a process of at most a gigabyte; ten seconds each."""
    for name, make in BOMBS.items():
        (tmp_path / name).write_bytes(make())
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=160,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (10**9, 10**9)),
    )
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-2000:]
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert {name for name, _, _ in results} == set(BOMBS)
    for name, said, seconds in results:
        assert seconds < 10, (name, seconds)
        assert len(said.splitlines()) == 1 and "/" + name in said and len(said) < 600
        assert "MemoryError" not in said and not said.startswith("read"), said
    # Nothing is unpacked onto the disk.
    assert {p.name for p in tmp_path.iterdir()} == set(BOMBS)


def test_limits_are_named_and_can_be_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "\n".join(json.dumps({**r, "note": "x" * 600_000}) for r in rows())
    (tmp_path / "a.jsonl").write_text(text)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "a.zip").write_bytes(zip_of({"a.jsonl": text.encode()}))
    for name in ("a.jsonl", "a.jsonl.gz", "a.zip"):
        monkeypatch.setenv(archives.VARIABLE, "1")
        with pytest.raises(UserError, match="more than 1 MB: if you trust it, set CCDCGAN_MAX_UNP"):
            sorted_out(tmp_path / name)
        monkeypatch.delenv(archives.VARIABLE)
        assert len(sorted_out(tmp_path / name)[0]) == 6
    monkeypatch.setenv(archives.VARIABLE, "many")
    with pytest.raises(UserError, match="give a number of megabytes"):
        sorted_out(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.zip", b"no archive", "cannot read"),
        ("a.zip", zip_of({"a.cif": b"x"})[:-30], "cannot read"),
        ("a.tar.gz", b"x", "unpack it"),
        ("a.cif.gz", b"data_", "it is not packed as .gz says"),
        ("a.cif.gz", gzip.compress(b"data_" * 1000)[:-12], "cannot be unpacked"),
        ("a.cif", b"", "empty file"),
        ("a.json", b" \n", "empty file"),
        ("a.cif", zip_of({"a.cif": b"x"}), "a name that ends in .zip"),
        ("a.db", b"SQLite format 3\0", "ase convert"),
        ("a.pkl", b"\x80\x04", "a pickle can run commands"),
        ("a.txt", b"hello\n", "not POSCAR"),
        ("a.parquet", b"PAR1xxxx", "a.parquet"),
        ("a.json", b"NaN", "holds no structure"),
    ],
    # Packed files have a time in them: another name in each process of the tests.
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_it_is_and_what_to_do(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as refusal:
        sorted_out(tmp_path / name)
    assert words in str(refusal.value) and name in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1


def test_a_thousand_with_fifty_bad_ones(tmp_path: Path) -> None:
    """Ten kinds of bad files, five each, among good ones of the same suffixes: a tenth of it."""
    bad = [
        ("cif", P1.format(formula="Bi", sites="Bi1 Bi ? 0 0 1")),
        ("cif", P1.format(formula="Bi", sites="Bi1 Bi 0 0 0 1\nBi2 Bi 0 0 0 1")),
        ("cif", "data_x\n"),
        ("cif", ""),
        ("vasp", VASP4.format(a="", b="")),
        ("extxyz", BAD_FRAMES["singular"][0]),
        ("extxyz", BAD_FRAMES["nan"][0]),
        ("json", "{"),
        ("json", json.dumps({"lattice": 1, "sites": []})),
        ("cif", P1.replace("3.6", "0.001", 1).format(formula="Bi", sites="Bi1 Bi 0 0 0 1")),
    ]
    for i in range(95):
        (tmp_path / f"{i:04d}.cif").write_text(cif(CRYSTALS[i % 6]))
    for i, (suffix, text) in enumerate(bad):
        (tmp_path / f"bad{i}.{suffix}").write_text(text)
    start = perf_counter()
    found, refused, _ = sorted_out(tmp_path)
    assert perf_counter() - start < 20
    assert len(found) == 95 and len(refused) == 10
    assert len({r.reason for r in refused}) == 10


def test_random_crystals_round_trip(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        n = int(rng.integers(1, 7))
        lattice = Lattice.from_parameters(*rng.uniform(3, 7, 3), *rng.uniform(65, 115, 3))
        species = rng.choice(["Bi", "Se", "O", "Cs"], n).tolist()
        structure = Structure(lattice, species, rng.random((n, 3)))
        (tmp_path / "a.cif").write_text(str(CifWriter(structure, significant_figures=12)))
        (tmp_path / "b.vasp").write_text(structure.to(fmt="poscar"))
        (tmp_path / "c.json").write_text(json.dumps(structure.as_dict()))
        ase.io.write(tmp_path / "d.extxyz", structure.to_ase_atoms(msonable=False))
        for crystal in sorted_out(tmp_path)[0]:
            own = crystal.structure
            assert own.composition == structure.composition
            np.testing.assert_allclose(own.lattice.abc, structure.lattice.abc, atol=1e-6)
            distances = [np.sort(s.distance_matrix.ravel()) for s in (own, structure)]
            np.testing.assert_allclose(*distances, atol=1e-5)


def test_a_header_of_more_columns_than_there_are(tmp_path: Path) -> None:
    """ASE would make room for all of them: 24 GB here."""
    path = tmp_path / "a.extxyz"
    good = '1\nLattice="3 0 0 0 3 0 0 0 3" Properties=species:S:1:pos:R:3\nBi 0 0 0\n'
    path.write_text(good + good.replace("pos:R:3", "pos:R:399999999") + good)
    found = list(read(path))
    assert [isinstance(item, Crystal) for item in found] == [True, False, True]
    assert "its Properties are of 400000000 columns, its lines have 4" in str(found[1])
