"""Whatever crystal it is, it round-trips; whatever file it is, it ends in crystals or refusals."""

import copy
import gzip
import io
import json
import lzma
import tempfile
import warnings
import zipfile
from pathlib import Path
from time import perf_counter
from typing import Any

import ase.io
import ase.io.jsonio
import numpy as np
import pytest
from crystals import CSCL, FLUORITE, NIAS, ROCKSALT
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter
from pymatgen.io.vasp import Poscar

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.crystal import Crystal, Passed, Skipped
from ccdcgan.dft.structures.decoding import StructureError, decode_structure
from ccdcgan.dft.structures.reader import read
from ccdcgan.dft.structures.validity import fault
from ccdcgan.launchers.results.export import export

#: Inputs of a kind in the long version.
MANY = 3000


@st.composite
def crystals(draw: st.DrawFn) -> Structure:
    """Ordered crystals with angles and lengths as crystals have them."""
    lengths = [draw(st.floats(2.0, 30.0)) for _ in range(3)]
    angles = [draw(st.floats(65.0, 115.0)) for _ in range(3)]
    count = draw(st.integers(1, 8))
    species = [draw(st.sampled_from(["H", "Bi", "Se", "O", "Cs", "U"])) for _ in range(count)]
    # Atoms apart from each other along one direction: CIF's reader takes near ones for one.
    coords = [
        [draw(st.floats(-2.0, 2.0)), draw(st.floats(-2.0, 2.0)), (i + 0.5) / count]
        for i in range(count)
    ]
    return Structure(Lattice.from_parameters(*lengths, *angles), species, coords)


def same(a: Structure, b: Structure, digits: float) -> None:
    """The same up to the choice of axes and the order of the atoms."""
    assert a.composition == b.composition
    np.testing.assert_allclose(a.lattice.parameters, b.lattice.parameters, atol=digits)
    distances = [np.sort(s.distance_matrix, axis=None) for s in (a, b)]
    np.testing.assert_allclose(*distances, atol=50 * digits)


def written(folder: Path, structure: Structure) -> None:
    """A crystal in every format."""
    atoms = structure.to_ase_atoms(msonable=False)
    atoms.info["energy_per_atom"] = -1.25
    row = {
        "structure": structure.as_dict(),
        "energy_per_atom": -1.25,
        "id": "x",
        "uid": "c:x",
        "formula": structure.composition.reduced_formula,
        "level_of_theory": {"engine": "e"},
        "converged": True,
    }
    (folder / "a.cif").write_text(str(CifWriter(structure, significant_figures=12)))
    (folder / "a.vasp").write_text(Poscar(structure).get_str(significant_figures=16))
    (folder / "a.json").write_text(json.dumps(row))
    (folder / "b.json").write_text(ase.io.jsonio.encode(atoms.todict()))
    (folder / "lines.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row))
    ase.io.write(folder / "a.extxyz", atoms, format="extxyz")
    for suffix in ("json", "jsonl", "extxyz", "parquet", "zip"):
        export([row], folder / f"export.{suffix}")


@settings(max_examples=15)
@given(crystals())
def test_crystals_round_trip_through_every_format(structure: Structure) -> None:
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(temporary)
        written(folder, structure)
        for path in sorted(folder.iterdir()):
            if fault(structure) is not None:
                continue
            items = list(read(path))
            found = [i for i in items if isinstance(i, Crystal)]
            assert len(found) == (2 if path.name == "lines.jsonl" else 1), (path.name, items)
            for crystal in found:
                # Export's CIF finds the symmetry, which may make another cell of it.
                if path.name != "export.zip":
                    same(crystal.structure, structure, 1e-5)
                if "export" in path.name or path.name == "a.json":
                    assert crystal.numbers["energy_per_atom"] == pytest.approx(-1.25)


@given(crystals())
def test_stored_structures_round_trip_exactly(structure: Structure) -> None:
    data = json.loads(json.dumps(structure.as_dict()))
    assert json.loads(json.dumps(decode_structure(data).as_dict())) == data


# --- mutations ----------------------------------------------------------------------------------


def extxyz() -> bytes:
    stream = io.StringIO()
    ase.io.write(stream, [s.to_ase_atoms(msonable=False) for s in (CSCL, NIAS)], format="extxyz")
    return stream.getvalue().encode()


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.cif", str(CifWriter(CSCL)))
        archive.writestr("b.json", json.dumps(NIAS.as_dict()))
        archive.writestr("phases.csv", "file,energy_per_atom\na.cif,-3\n")
    return stream.getvalue()


def rows() -> list[dict[str, Any]]:
    return [
        {"structure": s.as_dict(), "energy": -3.0, "converged": True} for s in (ROCKSALT, FLUORITE)
    ]


OPTIMADE = json.dumps(
    {
        "data": [
            {
                "type": "structures",
                "id": "x",
                "attributes": {
                    "lattice_vectors": CSCL.lattice.matrix.tolist(),
                    "cartesian_site_positions": CSCL.cart_coords.tolist(),
                    "species_at_sites": ["Bi", "Se"],
                    "species": [
                        {"name": n, "chemical_symbols": [n], "concentration": [1.0]}
                        for n in ("Bi", "Se")
                    ],
                },
            }
        ]
    }
)
MAGNETIC = CSCL.copy(site_properties={"magmom": [[0, 0, 1], [0, 0, 1]]})

FILES: dict[str, bytes] = {
    "a.cif": (str(CifWriter(CSCL)) + str(CifWriter(NIAS, symprec=0.01))).encode(),
    "a.mcif": str(CifWriter(MAGNETIC, write_magmoms=True)).encode(),
    "a.vasp": NIAS.to(fmt="poscar").encode(),
    "a.extxyz": extxyz(),
    "a.json": json.dumps(rows()).encode(),
    "a.jsonl": "\n".join(map(json.dumps, rows())).encode(),
    "atoms.json": ase.io.jsonio.encode(NIAS.to_ase_atoms(msonable=False).todict()).encode(),
    "optimade.json": OPTIMADE.encode(),
    "a.csv": ("cif,energy\n\"" + str(CifWriter(CSCL)) + "\",-3\n").encode(),
    "a.json.gz": gzip.compress(json.dumps(rows()).encode()),
    "a.cif.xz": lzma.compress(str(CifWriter(CSCL)).encode()),
    "a.zip": zipped(),
    "a": CSCL.to(fmt="poscar").encode(),
}  # fmt: skip

TOKENS = [b"nan", b"?", b"1e999", b"-1", b"0", b"[", b"]", b"{", b"}", b"\n", b" ", b"\0", b"\xff",
          b"data_", b"loop_", b"99999999", b"Xx", b"null", b"'", b'"', b";", b"#", b"-", b"1e-320",
          b"Lattice=", b"\n\n", b"2\n", b"@module", b"true", b"\xef\xbb\xbf"]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, content: bytes) -> bytes:
    """The content after one to four slips: cut, doubled, exchanged, typed over."""
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, max(0, len(content) - 1)))
        end = min(len(content), begin + draw(st.sampled_from([0, 1, 2, 5, 20, 200, 10**6])))
        how = draw(st.sampled_from(["cut", "double", "token", "byte", "lines", "end"]))
        part = content[begin:end]
        if how == "cut":
            content = content[:begin] + content[end:]
        elif how == "double":
            content = content[:end] + part + content[end:]
        elif how == "token":
            token = draw(st.sampled_from(TOKENS))
            content = content[:begin] + token + content[begin + draw(st.integers(0, 8)) :]
        elif how == "byte":
            content = content[:begin] + draw(st.binary(min_size=1, max_size=3)) + content[begin:]
        elif how == "lines":
            lines = content.split(b"\n")
            i, j = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
            lines[i], lines[j] = lines[j], lines[i]
            content = b"\n".join(lines)
        else:
            content = content[:begin]
    return content


def ends_well(name: str, content: bytes) -> None:
    """Reading ends soon, in crystals that can be ones and in refusals of one line."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / name
        path.write_bytes(content)
        start, said = perf_counter(), "one line"
        try:
            items = list(read(path))
        except UserError as error:
            items = []
            said = str(error)
        assert perf_counter() - start < 10 and len(said.splitlines()) == 1
        assert [p.name for p in Path(temporary).iterdir()] == [name]
    for item in items:
        if isinstance(item, Crystal):
            assert fault(item.structure) is None
            assert all(np.isfinite(v) for v in item.numbers.values())
        else:
            assert isinstance(item, (Skipped, Passed))
            assert len(item.reason.splitlines()) == 1 and item.reason


@settings(max_examples=25)
@given(st.data())
@pytest.mark.parametrize("name", FILES)
def test_mutated_files(name: str, data: st.DataObject) -> None:
    ends_well(name, data.draw(mutated(FILES[name])))


@pytest.mark.long
@settings(max_examples=MANY)
@given(st.data())
@pytest.mark.parametrize("name", FILES)
def test_many_mutated_files(name: str, data: st.DataObject) -> None:
    ends_well(name, data.draw(mutated(FILES[name])))


#: What stands in a document where something else should.
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.one_of(st.floats(), st.none()), max_size=4),
    st.just({"@module": "os", "@class": "system"}),
    st.just({}),
    st.just(10**400),
)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A stored structure in which up to three values are others, or are not there."""
    moments = NIAS.copy(site_properties={"magmom": [1.0, -1.0, 0.0, 0.0]})
    data: dict[str, Any] = copy.deepcopy(json.loads(json.dumps(moments.as_dict())))
    for _ in range(draw(st.integers(1, 3))):
        here: Any = data
        while True:
            keys = list(here) if isinstance(here, dict) else list(range(len(here)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            deeper = isinstance(here[key], (dict, list)) and here[key] and draw(st.booleans())
            if not deeper:
                if draw(st.booleans()):
                    del here[key]
                else:
                    # A copy: what is drawn is changed further on.
                    here[key] = copy.deepcopy(draw(JUNK))
                break
            here = here[key]
    return data


def decodes_or_says_why(data: dict[str, Any]) -> None:
    try:
        structure = decode_structure(data)
    except StructureError as error:
        said = str(error)
    else:
        said = "one line"
        assert np.isfinite(structure.lattice.matrix).all()
        assert np.isfinite(structure.frac_coords).all()
    assert len(said.splitlines()) == 1


@given(documents())
def test_mutated_documents(data: dict[str, Any]) -> None:
    decodes_or_says_why(data)


@pytest.mark.long
@settings(max_examples=MANY)
@given(documents())
def test_many_mutated_documents(data: dict[str, Any]) -> None:
    decodes_or_says_why(data)
