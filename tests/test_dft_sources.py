"""Prototype sources: what they read, what they report, what they refuse."""

import gzip
import itertools
import json
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import DummySpecies, Lattice, Structure

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.crystal import Skipped
from ccdcgan.dft.structures.sources import (
    AflowSource,
    FilesSource,
    Filters,
    MaterialsProjectSource,
    Prototype,
    RandomSource,
    collect,
    decorations,
    primitive_cell,
    random_crystals,
    read_structures,
)

A = 5.64
POSCAR = f"""rocksalt
1.0
{A} 0 0
0 {A} 0
0 0 {A}
Na Cl
4 4
Direct
0 0 0
0 .5 .5
.5 0 .5
.5 .5 0
.5 .5 .5
.5 0 0
0 .5 0
0 0 .5
"""
CIF = f"""data_rocksalt
_cell_length_a {A}
_cell_length_b {A}
_cell_length_c {A}
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'F m -3 m'
_symmetry_Int_Tables_number 225
loop_
_symmetry_equiv_pos_as_xyz
x,y,z
x,y+1/2,z+1/2
x+1/2,y,z+1/2
x+1/2,y+1/2,z
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Na1 Na 0 0 0 1
Cl1 Cl 0.5 0.5 0.5 1
"""
DISORDERED = CIF.replace("Na1 Na 0 0 0 1", "Na1 Na 0 0 0 0.5\nK1 K 0 0 0 0.5")
EXTXYZ = f"""2
Lattice="0 {A / 2} {A / 2} {A / 2} 0 {A / 2} {A / 2} {A / 2} 0" Properties=species:S:1:pos:R:3
Na 0 0 0
Cl {A / 2} {A / 2} {A / 2}
2
Properties=species:S:1:pos:R:3
Na 0 0 0
Cl {A / 2} {A / 2} {A / 2}
"""


def rocksalt() -> Structure:
    """The primitive cell that all files above describe, written down by hand."""
    h = A / 2
    return Structure([[0, h, h], [h, 0, h], [h, h, 0]], ["Na", "Cl"], [[0, 0, 0], [0.5] * 3])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as users have it: every format, good and bad."""
    crystal = rocksalt().as_dict()
    for name, text in {
        "good.cif": CIF,
        "broken.cif": CIF[:200],
        "disordered.cif": DISORDERED,
        "frames.extxyz": EXTXYZ,
        "one.vasp": POSCAR,
        "run1/POSCAR": POSCAR,
        "run2/POSCAR": POSCAR,
        "empty.vasp": "",
        "notes.txt": "not a structure file: left alone",
        "single.json": json.dumps(crystal),
        "list.json": json.dumps([crystal, {"structure": crystal, "energy": -1.0}, {"a": 1}, 7]),
    }.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    with gzip.open(tmp_path / "packed.json.gz", "wt", encoding="utf-8") as stream:
        json.dump([{"structure": crystal}, crystal], stream)
    return tmp_path


def test_aflow_counts() -> None:
    """176 binaries among 288 entries, each under a name of its own."""
    total = 0
    for n in range(1, 8):
        items = list(AflowSource().load(n, 20, 0))
        assert all(isinstance(p, Prototype) and len(p.structure.composition) == n for p in items)
        assert len({p.id for p in items}) == len(items)
        total += len(items)
        if n == 2:
            assert len(items) == 176
    assert total == 288


def test_aflow_ignores_seed() -> None:
    first, second = (list(AflowSource().load(3, 20, seed)) for seed in (0, 1))
    assert [p.id for p in first] == [p.id for p in second]


def perovskite() -> Structure:
    """Three orbits: 1, 1 and 3 atoms."""
    sites = [[0, 0, 0], [0.5] * 3, [0.5, 0.5, 0]]
    return Structure.from_spacegroup("Pm-3m", Lattice.cubic(4), ["Ca", "Ti", "O"], sites)


def decorated(structure: Structure, n: int, max_sites: int = 20) -> list[Prototype]:
    found = list(decorations(Prototype("x", structure), n, max_sites))
    assert all(isinstance(p, Prototype) for p in found)
    return [p for p in found if isinstance(p, Prototype)]


@pytest.mark.parametrize(
    ("structure", "counts"),
    [
        # Stirling numbers of the second kind, by orbits and elements.
        (rocksalt(), {1: 1, 2: 1, 3: 0}),
        (rocksalt() * (2, 1, 1), {1: 1, 2: 1, 3: 0}),
        (perovskite(), {1: 1, 2: 3, 3: 1, 4: 0}),
        # No symmetry at all: each atom is an orbit.
        (
            Structure(
                Lattice.from_parameters(4.1, 4.7, 6.3, 81, 97, 104),
                ["Na", "Cl", "Na", "Cl", "Na"],
                np.random.default_rng(4).random((5, 3)),
            ),
            {1: 1, 2: 15, 3: 25, 4: 10, 5: 1},
        ),
    ],
    ids=["rocksalt", "supercell", "perovskite", "triclinic"],
)
def test_decorations_are_all_ways(structure: Structure, counts: dict[int, int]) -> None:
    cell = primitive_cell(structure)
    for n, count in counts.items():
        found = decorated(structure, n)
        assert len(found) == count
        assert len({p.id for p in found}) == count
        for prototype in found:
            assert prototype.id.startswith("x~")
            own = prototype.structure
            assert own.is_ordered and len(own) == len(cell) and len(own.composition) == n
            np.testing.assert_allclose(own.lattice.matrix, cell.lattice.matrix)
            np.testing.assert_allclose(own.frac_coords, cell.frac_coords)


def test_decorations_of_a_perovskite() -> None:
    """Which orbits are alike: each way once, and none twice by an exchange of elements."""
    cell = primitive_cell(perovskite())
    groups = [
        [i for i, site in enumerate(cell) if site.specie.symbol == e] for e in ("Ca", "Ti", "O")
    ]
    assert [len(g) for g in groups] == [1, 1, 3]
    ways = set()
    for prototype in decorated(perovskite(), 2):
        symbols = [site.specie.symbol for site in prototype.structure]
        kinds = [{symbols[i] for i in group} for group in groups]
        assert all(len(kind) == 1 for kind in kinds), "an orbit holds two elements"
        pairs = itertools.combinations(range(3), 2)
        ways.add(tuple((i, j) for i, j in pairs if kinds[i] == kinds[j]))
    assert ways == {((0, 1),), ((0, 2),), ((1, 2),)}


def test_what_is_not_decorated() -> None:
    assert len(decorated(perovskite(), 2, max_sites=5)) == 3
    assert decorated(perovskite(), 2, max_sites=4) == []
    # The primitive cell counts.
    assert len(decorated(rocksalt() * (3, 3, 3), 2, max_sites=2)) == 1
    many = Structure(
        Lattice.from_parameters(4.1, 4.7, 6.3, 81, 97, 104),
        ["Na", "Cl"] * 3 + ["Na"],
        np.random.default_rng(5).random((7, 3)),
    )
    assert len(decorated(Structure.from_sites(many.sites[:6]), 2)) == 31
    assert decorated(many, 2) == []
    flat = Structure([[4, 0, 0], [0, 4, 0], [4, 4, 1e-4]], ["Cs", "Cl"], [[0, 0, 0], [0.5] * 3])
    assert decorated(flat, 2) == []


def test_aflow_decorated() -> None:
    """All plain ones as they are, and beside them those of any number of elements."""
    plain = {p.id: p.structure for p in AflowSource().load(2, 8, 0) if isinstance(p, Prototype)}
    items = list(AflowSource(decorated=True).load(2, 8, 0))
    found = {p.id: p.structure for p in items if isinstance(p, Prototype)}
    assert len(found) == len([p for p in items if isinstance(p, Prototype)])
    assert {name: found[name] for name in plain} == plain
    added = {name: s for name, s in found.items() if name not in plain}
    assert len(added) > len(plain)
    assert all("~" in name for name in added) and not any("~" in name for name in plain)
    for structure in added.values():
        assert structure.is_ordered and len(structure.composition) == 2 and len(structure) <= 8
    # The ternary perovskite gives three, the unary face-centred cubic none, as it has one site.
    names = Counter(name.split("~")[0] for name in added)
    assert names["aflow:AB3C_cP5_221_a_c_b"] == 3
    assert names["aflow:AB_cF8_225_a_b"] == 1
    assert names["aflow:A_cF4_225_a"] == 0
    fewer = list(AflowSource(decorated=True, designated=True).load(2, 4, 0))
    assert 0 < len(fewer) < len(items)
    assert {p.id for p in fewer} <= {p.id for p in items}


def test_folder(folder: Path) -> None:
    items = list(read_structures(folder))
    good = {p.id: p.structure for p in items if isinstance(p, Prototype)}
    bad = {p.id: p.reason for p in items if isinstance(p, Skipped)}
    assert set(good) == {
        "file:disordered.cif",
        "file:frames.extxyz#0",
        "file:good.cif",
        "file:list.json#0",
        "file:list.json#1",
        "file:one.vasp",
        "file:packed.json.gz#0",
        "file:packed.json.gz#1",
        "file:run1/POSCAR",
        "file:run2/POSCAR",
        "file:single.json",
    }
    assert set(bad) == {
        "file:broken.cif",
        "file:empty.vasp",
        "file:frames.extxyz#1",
        "file:list.json#2",
        "file:list.json#3",
    }
    assert bad["file:empty.vasp"] == "empty file"
    assert bad["file:frames.extxyz#1"] == "no cell"
    assert bad["file:list.json#2"] == bad["file:list.json#3"] == "not a structure of a known layout"
    assert all(reason and "\n" not in reason for reason in bad.values())
    matcher = StructureMatcher(scale=False)
    for name, structure in good.items():
        if name != "file:disordered.cif":
            assert matcher.fit(structure, rocksalt()), name


def test_folder_collected(folder: Path) -> None:
    kept, rejected, skipped = collect([FilesSource(path=folder)], Filters(), 2, 0)
    assert len(kept) == 10
    assert rejected == Counter({"disordered": 1})
    assert len(skipped) == 5
    for prototype in kept:
        assert len(prototype.structure) == 2
        assert prototype.structure.volume == pytest.approx(A**3 / 4, rel=1e-4)


@pytest.mark.parametrize("name", ["good.cif", "one.vasp", "list.json", "packed.json.gz"])
def test_single_file(folder: Path, name: str) -> None:
    ids = [p.id for p in read_structures(folder / name) if isinstance(p, Prototype)]
    assert ids
    assert all(i.startswith(f"file:{name}") for i in ids)


def test_nothing_readable(tmp_path: Path) -> None:
    (tmp_path / "broken.cif").write_text(CIF[:200])
    (tmp_path / "empty.vasp").write_text("")
    with pytest.raises(UserError) as caught:
        list(read_structures(tmp_path))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "broken.cif" in str(caught.value)


def test_no_structure_file(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(UserError, match="holds no structure file"):
        list(read_structures(tmp_path))


def test_missing_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist") as caught:
        collect([FilesSource(path=tmp_path / "nowhere")], Filters(), 2, 0)
    assert "\n" not in str(caught.value)


def test_rejections_counted(tmp_path: Path) -> None:
    """One crystal for each reason; the supercell counts by its primitive cell and is kept."""
    cscl = Structure(Lattice.cubic(4), ["Cs", "Cl"], [[0, 0, 0], [0.5] * 3])
    rng = np.random.default_rng(0)
    crystals = [
        cscl,
        cscl * (3, 3, 2),
        Structure(Lattice.cubic(4), [{"Cs": 0.5, "K": 0.5}, "Cl"], [[0, 0, 0], [0.5] * 3]),
        Structure(Lattice.cubic(3), ["Po"], [[0, 0, 0]]),
        Structure(Lattice.cubic(4), [DummySpecies("X"), "Cl"], [[0, 0, 0], [0.5] * 3]),
        Structure(Lattice.cubic(9), ["Cs"] * 11 + ["Cl"] * 10, rng.random((21, 3))),
        Structure(Lattice.tetragonal(4, 10.1), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.4]]),
        Structure([[4, 0, 0], [0, 4, 0], [4, 4, 1e-4]], ["Cs", "Cl"], [[0, 0, 0], [0.5] * 3]),
    ]
    path = tmp_path / "all.json"
    path.write_text(json.dumps([c.as_dict() for c in crystals]))
    kept, rejected, skipped = collect([FilesSource(path=path)], Filters(), 2, 0)
    assert [p.id for p in kept] == ["file:all.json#0", "file:all.json#1"]
    assert [len(p.structure) for p in kept] == [2, 2]
    assert skipped == [
        Skipped("file:all.json#4", "no element 'X'"),
        Skipped("file:all.json#7", "lattice vector shorter than 0.5 Å"),
    ]
    assert rejected == Counter(
        {
            "disordered": 1,
            "number of elements": 1,
            "too many sites": 1,
            "lattice vector too long": 1,
        }
    )


def test_primitive_cell_is_bare() -> None:
    charged = Structure.from_spacegroup(
        "Fm-3m",
        Lattice.cubic(A),
        ["Na+", "Cl-"],
        [[0, 0, 0], [0.5] * 3],
        site_properties={"magmom": [1.0, 2.0]},
    )
    cell = primitive_cell(charged)
    assert len(cell) == 2
    assert {str(s) for s in cell.species} == {"Na", "Cl"}
    assert not cell.site_properties
    assert StructureMatcher(scale=False).fit(cell, rocksalt())


def test_random_is_seeded(pyxtal: None) -> None:
    def draw(seed: int, count: int = 3) -> list[dict[str, Any]]:
        items = RandomSource(count=count).load(2, 8, seed)
        return [p.structure.as_dict() | {"id": p.id} for p in items if isinstance(p, Prototype)]

    first = draw(7)
    assert first
    assert draw(7) == first
    assert draw(7, count=2) == first[:2]
    assert draw(8) != first


def test_random_crystals_pass_the_filters(pyxtal: None) -> None:
    """At most `max_sites` atoms in the primitive cell, all elements there, centred groups too."""
    cells = set()
    for item in random_crystals(["Bi", "Se"], 12, 2, seed=1):
        assert isinstance(item, Prototype)
        cell = primitive_cell(item.structure)
        assert cell.composition.as_dict() == {"Bi": 1, "Se": 1}
        cells.add(len(item.structure) // len(cell))
    # PyXtal gives the conventional cell: 2, 3 or 4 primitive ones of a centred lattice.
    assert cells > {1}, "no space group with a centred lattice was drawn"


def test_random_without_pyxtal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyxtal", None)
    with pytest.raises(UserError, match=r"ccdcgan\[random\]"):
        list(RandomSource(count=1).load(2, 8, 0))


KEY = "0123456789abcdefKEY"
RECORDED = Path(__file__).parent / "data" / "mp_summary.json"


class FakeMaterialsProject:
    """``mp_api.client`` that answers with the recorded documents and keeps what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.keys: list[Any] = []
        self.queries: list[dict[str, Any]] = []
        self.error: Exception | None = None
        fake = self

        class MPRester:
            def __init__(self, api_key: str | None = None) -> None:
                fake.keys.append(api_key)
                summary = SimpleNamespace(search=fake.search)
                self.materials = SimpleNamespace(summary=summary)

            def __enter__(self) -> "MPRester":
                return self

            def __exit__(self, *args: object) -> None:
                pass

        client = ModuleType("mp_api.client")
        client.MPRester = MPRester  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "mp_api", ModuleType("mp_api"))
        monkeypatch.setitem(sys.modules, "mp_api.client", client)

    def search(self, **query: Any) -> list[SimpleNamespace]:
        self.queries.append(query)
        if self.error:
            raise self.error
        return [
            SimpleNamespace(
                material_id=d["material_id"], structure=Structure.from_dict(d["structure"])
            )
            for d in json.loads(RECORDED.read_text())["data"]
        ]


@pytest.fixture
def materials_project(monkeypatch: pytest.MonkeyPatch) -> FakeMaterialsProject:
    monkeypatch.setenv("MP_API_KEY", KEY)
    return FakeMaterialsProject(monkeypatch)


def test_materials_project(materials_project: FakeMaterialsProject) -> None:
    source = MaterialsProjectSource()
    kept, rejected, skipped = collect([source], Filters(max_sites=12), 2, 0)
    assert materials_project.keys == [KEY]
    assert materials_project.queries == [
        {
            "num_elements": 2,
            "num_sites": (1, 12),
            "deprecated": False,
            "include_gnome": False,
            "fields": ["material_id", "structure"],
        }
    ]
    assert [p.id for p in kept] == ["mp:mp-22862", "mp:mp-10695"]
    assert [p.structure.composition.reduced_formula for p in kept] == ["NaCl", "ZnS"]
    assert rejected == Counter({"lattice vector too long": 1})
    assert not skipped
    assert KEY not in repr(source) + source.model_dump_json() + repr(kept)


def test_materials_project_without_key(
    materials_project: FakeMaterialsProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in (None, ""):
        if value is None:
            monkeypatch.delenv("MP_API_KEY")
        else:
            monkeypatch.setenv("MP_API_KEY", value)
        with pytest.raises(UserError, match="MP_API_KEY"):
            list(MaterialsProjectSource().load(2, 20, 0))
    assert not materials_project.keys


def test_materials_project_error_hides_the_key(materials_project: FakeMaterialsProject) -> None:
    materials_project.error = RuntimeError(f"bad request\nheaders: X-API-KEY={KEY}")
    with pytest.raises(UserError) as caught:
        list(MaterialsProjectSource().load(2, 20, 0))
    assert "bad request" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert KEY not in str(caught.value) + repr(caught.value)


def test_materials_project_without_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MP_API_KEY", KEY)
    monkeypatch.setitem(sys.modules, "mp_api.client", None)
    with pytest.raises(UserError, match=r"ccdcgan\[mp\]") as caught:
        list(MaterialsProjectSource().load(2, 20, 0))
    assert KEY not in str(caught.value)
