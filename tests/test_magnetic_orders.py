"""Magnetic orders of a crystal: which there are, and each a result of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pymatgen.core
import pytest
from jobflow import run_locally
from potcars import write_potcars
from pymatgen.analysis.structure_matcher import SpinComparator, StructureMatcher
from pymatgen.core import Lattice, Species, Structure

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.magnetic_orders import magnetic_orders
from ccdcgan.dft.structures.moments import (
    STARTING_MOMENTS,
    along_z,
    as_species,
    moments_of,
    order_of,
    with_moments,
)
from ccdcgan.launchers.check.outlook import source_findings
from ccdcgan.launchers.workdir import embedded_store
from ccdcgan.workflows.campaign import Campaign, parse_campaign
from ccdcgan.workflows.confirm import confirmations
from ccdcgan.workflows.documents import Candidate, Claim, Origin, RelaxationDocument
from ccdcgan.workflows.knowledge import Knowledge
from ccdcgan.workflows.magnetism import in_orders, require_magnets
from ccdcgan.workflows.propose import key_of
from ccdcgan.workflows.relax import RelaxMaker
from ccdcgan.workflows.storage.stores import RESULTS, Relaxations

pytestmark = [
    pytest.mark.filterwarnings("ignore::pymatgen.io.vasp.sets.BadInputSetWarning"),
    pytest.mark.filterwarnings("ignore::pymatgen.io.vasp.inputs.UnknownPotcarWarning"),
]


def rocksalt(metal: str, a: float) -> Structure:
    return Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(a), [metal, "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )


BCC = Structure.from_spacegroup("Im-3m", Lattice.cubic(2.86), ["Fe"], [[0, 0, 0]])
PEROVSKITE = Structure(
    Lattice.cubic(3.9),
    ["Sr", "Mn", "O", "O", "O"],
    [[0.5, 0.5, 0.5], [0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]],
)
HCP = Structure.from_spacegroup(
    "P6_3/mmc", Lattice.hexagonal(2.5, 4.07), ["Co"], [[1 / 3, 2 / 3, 0.25]]
)
SPINEL = Structure.from_spacegroup(
    "Fd-3m", Lattice.cubic(8.39), ["Fe", "Fe", "O"], [[1 / 8] * 3, [0.5] * 3, [0.2549] * 3]
)
NIO = rocksalt("Ni", 4.17)


def turned(structure: Structure) -> Structure:
    """With all spins turned."""
    spins = [Species(s.specie.symbol, 0, spin=-s.specie.spin) for s in structure]
    return Structure(structure.lattice, spins, structure.frac_coords)


def antiparallel(structure: Structure, distance: float) -> tuple[int, int]:
    """Of the magnetic neighbours of a site at a distance, how many point the other way, and all."""
    moments = along_z(structure) or []
    site = int(np.flatnonzero(moments)[0])
    near = structure.get_neighbors(structure[site], distance + 0.05)
    shell = [n for n in near if moments[n.index] and abs(n.nn_distance - distance) < 0.05]
    return sum(moments[n.index] * moments[site] < 0 for n in shell), len(shell)


# ------------------------------------------------------------------------------------ which


@pytest.mark.parametrize(
    ("structure", "number"), [(NIO, 2), (BCC, 2), (PEROVSKITE, 3)], ids=["fcc", "bcc", "sc"]
)
def test_lattices_have_as_many_orders_as_binary_alloys(structure: Structure, number: int) -> None:
    # Hart and Forcade, Phys. Rev. B 77, 224115 (2008), table IV: cells of twice the size.
    found = magnetic_orders(structure, STARTING_MOMENTS, 100)
    assert len(found) == number
    for order in found:
        assert order_of(order) == "antiferromagnetic"
        assert {abs(m) for m in along_z(order) or []} <= {0.0, 5.0}
        assert order.volume / len(order) == pytest.approx(structure.volume / len(structure))
    assert magnetic_orders(structure, STARTING_MOMENTS, 1)[0] == found[0]


def test_the_orders_of_nickel_oxide_are_those_of_the_first_and_second_kind() -> None:
    shells = {
        (antiparallel(o, 4.17 / np.sqrt(2)), antiparallel(o, 4.17))
        for o in magnetic_orders(NIO, STARTING_MOMENTS, 100)
    }
    # Roth, Phys. Rev. 110, 1333 (1958): in NiO all second neighbours are antiparallel.
    assert shells == {((8, 12), (0, 6)), ((6, 12), (6, 6))}


def test_all_orders_are_there_once() -> None:
    # By pymatgen's matcher of all signs in all cells of twice the size.
    matcher = StructureMatcher(
        primitive_cell=False, scale=False, attempt_supercell=False, comparator=SpinComparator()
    )
    distinct: list[Structure] = []
    corners = [np.diag([2, 1, 1]), *(np.array([[1, i, 0], [0, 2, 0], [0, 0, 1]]) for i in (0, 1))]
    corners += [np.array([[1, 0, i], [0, 1, j], [0, 0, 2]]) for i in (0, 1) for j in (0, 1)]
    for cell in (np.eye(3, dtype=int), *corners):
        whole = HCP.make_supercell(cell, in_place=False)
        for signs in product((1.0, -1.0), repeat=len(whole)):
            if sum(signs):
                continue
            order = with_moments(whole, [5.0 * s for s in signs])
            small = order.get_primitive_structure(use_site_props=True)
            if len(small) < len(whole):
                continue
            order = as_species(order)
            if not any(matcher.fit(d, one) for d in distinct for one in (order, turned(order))):
                distinct.append(order)
    found = [as_species(o) for o in magnetic_orders(HCP, STARTING_MOMENTS, 100)]
    assert len(found) == len(distinct) == 5
    assert all(
        sum(matcher.fit(d, f) or matcher.fit(d, turned(f)) for f in found) == 1 for d in distinct
    )


def test_the_ferrimagnet_of_a_spinel_comes_first() -> None:
    first, *others = magnetic_orders(SPINEL, STARTING_MOMENTS, 10)
    assert order_of(first) == "ferrimagnetic"
    assert sorted(m for m in along_z(first) or [] if m) in (
        [-5, -5, 5, 5, 5, 5],
        [-5] * 4 + [5] * 2,
    )
    assert {order_of(o) for o in others} == {"antiferromagnetic"}


def test_what_has_no_order_or_too_many_atoms_is_left_alone() -> None:
    assert magnetic_orders(NIO, {"Mn": 5.0}, 10) == []
    many = Structure(Lattice.cubic(9.0), ["Mn"] * 17, np.random.default_rng(1).random((17, 3)))
    assert magnetic_orders(many, STARTING_MOMENTS, 10) == []
    flat = Structure([[3, 0, 0], [0, 3, 0], [3, 3, 0]], ["Fe"], [[0, 0, 0]])
    assert magnetic_orders(flat, STARTING_MOMENTS, 10) == []


@pytest.mark.parametrize(
    ("moments", "order"),
    [
        ([2.0, 2.0, 0.1, -0.2], "ferromagnetic"),
        ([2.0, -2.0, 0.0, 0.0], "antiferromagnetic"),
        ([4.0, -2.0, 0.0, 0.0], "ferrimagnetic"),
        ([0.05, 0.0, 0.0, -0.05], "nonmagnetic"),
        ([[0, 0, 2], [0, 0, -2], [0, 0, 0], [0, 0, 0]], "antiferromagnetic"),
        ([[2, 0, 0], [0, 2, 0], [0, 0, 0], [0, 0, 0]], "noncollinear"),
        (None, None),
    ],
)
def test_orders_have_names(moments: Any, order: str | None) -> None:
    cell = Structure(
        Lattice.cubic(4.2),
        ["Fe", "Fe", "O", "O"],
        [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0], [0, 0.5, 0]],
    )
    assert order_of(with_moments(cell, moments)) == order


# ---------------------------------------------------------------------------------- settings


def campaign(system: str = "Fe-Ni-O", **relaxation: Any) -> Campaign:
    engine = {"name": "vasp", "polling": 0.1, "buffer": 0.0, "stages": ["relax", "static"]}
    engine |= relaxation.pop("engine", {})
    data = {"system": system, "relaxation": {"engine": engine, **relaxation}}
    return parse_campaign(data, "a file")


def test_orders_are_more_of_the_same_campaign() -> None:
    few, many = campaign(), campaign(magnetic_orders=4)
    assert "magnetic_orders" not in few.model_dump(mode="json")["relaxation"]
    assert not few.differences(many) and few.digest() != many.digest()
    candidate = Candidate(origin=Origin(kind="prototype", id="NiO"), structure=NIO)
    same, *orders = in_orders([candidate], many.relaxation)
    assert key_of(same, many.relaxation) == key_of(candidate, few.relaxation)
    assert len({key_of(c, many.relaxation) for c in (same, *orders)}) == 3
    assert in_orders([candidate], few.relaxation) == [candidate]
    assert in_orders(orders, many.relaxation) == orders, "they have their order"
    assert [o.origin.magnetic_order for o in orders] == [f"antiferromagnetic {i}" for i in (1, 2)]


def test_moments_of_the_campaign_say_what_is_magnetic() -> None:
    chosen = campaign(engine={"incar": {"MAGMOM": {"Fe": 3.0}}}, magnetic_orders=9).relaxation
    origin = Origin(kind="prototype", id="x")
    structures = [rocksalt("Fe", 4.3), NIO]
    counts = []
    for structure in structures:
        found = in_orders([Candidate(origin=origin, structure=structure)], chosen)
        counts.append(len(found))
    assert counts == [3, 1]


@pytest.mark.parametrize(
    ("relaxation", "words"),
    [
        ({"engine": {"name": "sevennet"}, "magnetic_orders": 3}, "knows no magnetic moments"),
        (
            {"engine": {"name": "vasp", "incar": {"ISPIN": 1}}, "magnetic_orders": 3},
            "leave out ISPIN: 1",
        ),
        ({"engine": {"name": "espresso"}, "magnetic_orders": 3}, "engine.spin: true"),
        ({"engine": {"name": "vasp"}, "magnetic_orders": 0}, "magnetic_orders"),
        ({"engine": {"name": "vasp"}, "magnetic_orders": 1e9}, "magnetic_orders"),
        ({"engine": {"name": "vasp", "incar": {"MAGMOM": {"Fe": "up"}}}}, "MAGMOM: Fe: 'up'"),
        ({"engine": {"name": "vasp", "soc": True, "stages": ["relax"]}}, "end engine.stages with"),
        ({"engine": {"name": "vasp", "soc": True, "incar": {"LSORBIT": True}}}, "leave one of the"),
        (
            {
                "engine": {
                    "name": "vasp",
                    "soc": True,
                    "stages": ["relax", {"kind": "static", "incar": {"LSORBIT": False}}],
                }
            },
            "engine.soc sets LSORBIT",
        ),
    ],
)
def test_magnets_that_cannot_be_are_refused(relaxation: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_campaign({"system": "Fe-O", "relaxation": relaxation}, "a file")
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (campaign("Bi-Se", engine={"incar": {"MAGMOM": {"Fe": 5.0}}}), "MAGMOM: Fe is not of the"),
        (campaign("Bi-Se", magnetic_orders=3), "magnetic_orders: Bi-Se has no element"),
        (
            campaign("Fe-O", engine={"incar": {"MAGMOM": {"Fe": 0.0}}}, magnetic_orders=3),
            "has no element",
        ),
    ],
)
def test_moments_of_other_elements_are_said_before_anything_starts(
    asked: Campaign, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        require_magnets(asked)
    assert any(words in f.text for f in source_findings(asked) if f.state == "missing")


# -------------------------------------------------------------------------------------- runs

DRIVER = """
import json, sys
from pathlib import Path
from ccdcgan.dft.engines.vasp.relax import relax_by_vasp
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.documents import Candidate

told = json.loads(Path(sys.argv[1]).read_text())
candidate = Candidate.model_validate(told["candidate"])
relax_by_vasp(candidate.structure, Campaign.model_validate(told["campaign"]).relaxation)
"""


def magmoms(folder: Path) -> list[list[float]]:
    """MAGMOM of each run of a calculation."""
    from pymatgen.io.vasp import Incar

    return [Incar.from_file(file)["MAGMOM"] for file in sorted(folder.glob("0?-*/INCAR"))]


def test_ferro_and_antiferromagnets_are_results_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = campaign(magnetic_orders=2)
    names = {"FeO": rocksalt("Fe", 4.3), "NiO": NIO}
    candidates = [
        Candidate(
            origin=Origin(kind="prototype", id=name), structure=cell.get_primitive_structure()
        )
        for name, cell in names.items()
    ]
    wanted = in_orders(candidates, many.relaxation)
    keys = [key_of(c, many.relaxation) for c in wanted]
    # A worker is killed in the middle of an antiferromagnet.
    told = {
        "candidate": wanted[1].model_dump(mode="json"),
        "campaign": many.model_dump(mode="json"),
    }
    (tmp_path / "told.json").write_text(json.dumps(told))
    (tmp_path / "faults.json").write_text(json.dumps({keys[1]: "kill_parent"}))
    potcars = str(write_potcars(tmp_path / "psp", ["Fe", "Ni", "O"]))
    stand_in = f"{sys.executable} {Path(__file__).with_name('vasp_stand_in.py')}"
    monkeypatch.setenv("ATOMATE2_VASP_CMD", stand_in)
    monkeypatch.setenv("PMG_VASP_PSP_DIR", potcars)
    monkeypatch.setitem(pymatgen.core.SETTINGS, "PMG_VASP_PSP_DIR", potcars)
    monkeypatch.setenv("CCDCGAN_CALCULATIONS", str(tmp_path / "calculations"))
    monkeypatch.setenv("VASP_STAND_IN_FAULTS", str(tmp_path / "faults.json"))
    run = [sys.executable, "-W", "ignore", "-c", DRIVER, str(tmp_path / "told.json")]
    killed = subprocess.run(run, capture_output=True, timeout=300)
    assert killed.returncode == -9, killed.stderr.decode()[-2000:]
    store = embedded_store(tmp_path)
    job = RelaxMaker(turns=10).make(candidates, many)
    run_locally(job, store=store, log=False, root_dir=tmp_path, ensure_success=True)
    found = Relaxations(store.additional_stores[RESULTS]).get(keys)

    assert found.keys() == set(keys) and len(set(keys)) == 4
    assert all(d.converged for d in found.values())
    orders = [order_of(found[key].structure) for key in keys]
    assert orders == ["ferromagnetic", "antiferromagnetic"] * 2
    for key, start in zip(keys, wanted, strict=True):
        # The metals come first in VASP's files, and end with 2 μB in the stand-in.
        first, *later = magmoms(tmp_path / "calculations" / key)
        metals = [s for s in start.structure if s.specie.symbol != "O"]
        signs = np.sign(first[: len(metals)])
        assert np.abs(first[: len(metals)]).tolist() == [5.0] * len(metals)
        assert len(later) == (2 if key == keys[1] else 1)
        for again in later:
            assert np.allclose(again, [*(2 * signs), *[0.0] * len(metals)])
        moments = moments_of(found[key].structure) or []
        assert np.allclose(sorted(moments), sorted([*(2 * signs), *[0.0] * len(metals)]))
        assert found[key].origin.magnetic_order == start.origin.magnetic_order

    # The lower order is where the crystal is on the hull; each keeps its energy.
    energies = {key: found[key].energy_per_atom or 0.0 for key in keys}
    for symbol in ("Fe", "Ni", "O"):
        cell = Structure(Lattice.cubic(3.0), [symbol], [[0, 0, 0]])
        found[symbol] = found[keys[0]].model_copy(
            update={
                "key": symbol,
                "structure": cell,
                "initial_structure": cell,
                "energy_per_atom": 0.0,
                "origin": Origin(kind="element", id=symbol),
            }
        )
    phases = {p.id: p for p in Knowledge(many, found).phases}
    for fm, afm in (keys[:2], keys[2:]):
        higher, lower = phases[fm], phases[afm]
        assert [p.energy_per_atom for p in (higher, lower)] == [energies[fm], energies[afm]]
        assert [p.magnetic_order for p in (higher, lower)] == orders[:2]
        assert lower.e_above_hull == 0.0 and lower.label == "on the hull"
        assert higher.e_above_hull == pytest.approx(energies[fm] - energies[afm])
        assert energies[fm] > energies[afm] + 0.01
        assert [higher.distinct, lower.distinct] == [False, True]


def test_each_order_is_confirmed_against_the_crystal_that_it_comes_from() -> None:
    asked = parse_campaign(
        {"system": "Fe-O", "confirm": {"relaxation": {"engine": {"name": "vasp"}}}}, "a file"
    )

    def document(
        key: str, kind: str, cell: Structure, energy: float, order: str | None = None
    ) -> RelaxationDocument:
        name = {"kind": kind, "id": key.split("-")[0], "magnetic_order": order}
        return RelaxationDocument(
            key=key,
            level_of_theory={"engine": "E", "package": "p", "checkpoint": "1" * 16, "scale": "PBE"},
            structure=cell,
            initial_structure=cell,
            energy_per_atom=energy,
            converged=True,
            campaign="x",
            origin=Origin.model_validate(name),
        )

    feo = rocksalt("Fe", 4.3).get_primitive_structure()
    iron, oxygen = BCC, Structure(Lattice.cubic(3.0), ["O"], [[0, 0, 0]])
    ends = [document("Fe", "element", iron, 0.0), document("O", "element", oxygen, 0.0)]
    own = [*ends, document("FeO", "generated", feo, -1.0)]
    (order,) = magnetic_orders(feo, STARTING_MOMENTS, 1)
    other = [
        *ends,
        document("FeO-fm", "generated", with_moments(feo, [4.0, 0.0]), -1.0),
        document("FeO-afm", "generated", order, -1.2, "antiferromagnetic 1"),
    ]
    phases = Knowledge(asked, {d.key: d for d in own}).phases
    claims = [Claim(key=d.key, origin=d.origin) for d in other]
    found = {c.key: c for c in confirmations(phases, claims, {d.key: d for d in other}, asked)}
    fm, afm = found["FeO-fm"], found["FeO-afm"]
    assert fm.id == afm.id == "FeO" and fm.before == afm.before
    assert (fm.magnetic_order, afm.magnetic_order) == ("ferromagnetic", "antiferromagnetic")
    assert afm.after.e_above_hull == 0.0 and fm.after.e_above_hull == pytest.approx(0.2)
