"""Magnetic moments: another start, another key; kept on the way, and at the end."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import ase.io
import pytest
from potcars import write_potcars
from pymatgen.core import Lattice, Species, Structure
from pymatgen.io.cif import CifWriter

from ccdcgan.dft.engines.potentials import SevenNetEngine
from ccdcgan.dft.engines.vasp.relax import relax_by_vasp
from ccdcgan.dft.engines.vasp.settings import VaspEngine
from ccdcgan.dft.relaxation.document import Relaxation
from ccdcgan.dft.relaxation.key import content_key
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.dft.structures.crystal import Crystal
from ccdcgan.dft.structures.decoding import decode_structure
from ccdcgan.dft.structures.moments import moments_of, with_moments
from ccdcgan.dft.structures.reader import read
from ccdcgan.dft.structures.references import FileReferences, load_references
from ccdcgan.dft.structures.sources import FilesSource, Filters, collect
from ccdcgan.dft.structures.substitution import candidates
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.documents import Claim, Origin, RelaxationDocument
from ccdcgan.workflows.knowledge import Knowledge

pytestmark = [
    pytest.mark.filterwarnings("ignore::pymatgen.io.vasp.sets.BadInputSetWarning"),
    pytest.mark.filterwarnings("ignore::pymatgen.io.vasp.inputs.UnknownPotcarWarning"),
]

PLAIN = Structure(
    Lattice.tetragonal(3.9, 5.5),
    ["Se", "Fe", "Se", "Fe"],
    [[0.5, 0.5, 0], [0, 0, 0], [0, 0, 0.5], [0.5, 0.5, 0.5]],
)
FM = with_moments(PLAIN, [0.0, 4.0, 0.0, 4.0])
AFM = with_moments(PLAIN, [0.0, 4.0, 0.0, -4.0])


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with VASP's stand-in and POTCARs."""
    import pymatgen.core

    folder = write_potcars(tmp_path / "psp", ["Fe", "Se"])
    monkeypatch.setitem(pymatgen.core.SETTINGS, "PMG_VASP_PSP_DIR", str(folder))
    stand_in = f"{sys.executable} {Path(__file__).with_name('vasp_stand_in.py')}"
    monkeypatch.setenv("ATOMATE2_VASP_CMD", stand_in)
    monkeypatch.setenv("PMG_VASP_PSP_DIR", str(folder))
    monkeypatch.setenv("CCDCGAN_CALCULATIONS", str(tmp_path / "calculations"))
    monkeypatch.setenv("VASP_STAND_IN_FAULTS", str(tmp_path / "faults.json"))
    return tmp_path


def settings(**engine: Any) -> RelaxationSettings:
    return RelaxationSettings(
        engine=VaspEngine(**{"polling": 0.1, "buffer": 0.0, "stages": ("relax",)} | engine)
    )


def key(structure: Structure, chosen: RelaxationSettings) -> str:
    return content_key(structure, chosen.engine.level_of_theory(), chosen)


def relax(structure: Structure, **engine: Any) -> tuple[Relaxation, list[list[float]]]:
    """The result, and the MAGMOM of each of its runs."""
    from pymatgen.io.vasp import Incar

    result, last = relax_by_vasp(structure, settings(**engine))
    assert last is not None, result.reason
    runs = sorted(f for f in last.parent.iterdir() if f.is_dir())
    return result, [Incar.from_file(run / "INCAR").get("MAGMOM") for run in runs]


# --------------------------------------------------------------------------------- content keys


def test_structures_without_moments_keep_their_keys() -> None:
    iron = Structure(
        Lattice.cubic(4.0), ["Fe", "O", "Fe"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.02, 0.51, 0.5]]
    )
    first = RelaxationSettings(engine=VaspEngine(stages=("relax",)))
    second = RelaxationSettings(
        engine=VaspEngine(stages=("relax", "static"), pre_relax=SevenNetEngine())
    )
    # Made before moments were part of a key.
    assert key(iron, first) == "5684bedea32b81fb31a6c5ae23a87011"
    assert key(iron, second) == "a828d2c0ae2725c51e6bc863727e717f"


def test_other_moments_are_another_key() -> None:
    chosen = settings()
    keys = {key(s, chosen) for s in (PLAIN, FM, AFM, with_moments(PLAIN, [0.0] * 4))}
    assert len(keys) == 4
    turned = with_moments(AFM, [0.0, -4.0, 0.0, 4.0])
    spins = ["Se2-", Species("Fe", 2, spin=4), "Se2-", Species("Fe", 2, spin=-4)]
    named = Structure(PLAIN.lattice, spins, PLAIN.frac_coords)
    moved = Structure.from_sites([AFM[i] for i in (3, 1, 2, 0)])
    noise = with_moments(AFM, [0.001, 3.999, 0.0, -4.0])
    again = decode_structure(json.loads(json.dumps(AFM.as_dict())))
    for same in (turned, named, moved, noise, again):
        assert key(same, chosen) == key(AFM, chosen)
    vectors = with_moments(PLAIN, [[0, 0, 0], [4, 0, 0], [0, 0, 0], [0, 4, 0]])
    assert key(vectors, chosen) not in keys


def test_who_knows_no_moments_has_one_key() -> None:
    for engine in (SevenNetEngine(), VaspEngine(incar={"ISPIN": 1})):
        chosen = RelaxationSettings(engine=engine)
        assert len({key(s, chosen) for s in (PLAIN, FM, AFM)}) == 1


# ---------------------------------------------------------------------------------------- runs


def test_moments_are_kept_over_restarts_and_stages(machine: Path) -> None:
    undisturbed, runs = relax(AFM, stages=["relax", "relax", "static"])
    # The files of VASP hold selenium last.
    assert runs == [[4, -4, 0, 0], [2, -2, 0, 0], [2, -2, 0, 0]]
    assert moments_of(decode_structure(undisturbed.structure)) == [2.0, -2.0, 0.0, 0.0]
    folder = machine / "calculations" / undisturbed.key
    first = json.loads((folder / "calculation.json").read_text())[:1]
    for later in (*folder.glob("02-*"), *folder.glob("03-*")):
        shutil.rmtree(later)
    # As a kill leaves it.
    (folder / "calculation.json").write_text(json.dumps([{**first[0], "outcome": "running"}]))
    result, runs = relax(AFM, stages=["relax", "relax", "static"])
    assert runs[1:] == [[2, -2, 0, 0]] * 3
    assert result.attempts == 4
    assert result.energy_per_atom == pytest.approx(undisturbed.energy_per_atom, abs=1e-4)


def test_a_run_that_failed_gives_no_moments(machine: Path) -> None:
    (machine / "faults.json").write_text(json.dumps({"*": {"fault": "segfault", "times": 1}}))
    _, runs = relax(AFM, stages=["relax"])
    assert runs == [[4, -4, 0, 0]] * 2


def test_each_order_has_its_energy_and_the_lower_one_counts() -> None:
    incar = {"MAGMOM": {"Fe": 3.0}}
    results = [relax(s, incar=incar)[0] for s in (FM, AFM)]
    high, low = (r.energy_per_atom for r in results)
    assert high is not None and low is not None and high - low == pytest.approx(0.02)
    elements = [
        relax(Structure(Lattice.cubic(a), [e], [[0, 0, 0]]), incar=incar)[0]
        for e, a in (("Fe", 3.0), ("Se", 2.8))
    ]
    documents, entries = {}, []
    for kind, result in zip(["element"] * 2 + ["reference"] * 2, elements + results, strict=True):
        claim = Claim(key=result.key, origin=Origin(kind=kind, id=result.key))
        entries.append(claim)
        documents[result.key] = RelaxationDocument(
            **result.model_dump(),
            origin=claim.origin,
            campaign="c",
            initial_structure=result.structure,
        )
    campaign = Campaign(system="Fe-Se", relaxation=settings())
    for order in (entries, entries[::-1]):
        known = Knowledge(campaign, documents, order)
        phases = {p.id: p for p in known.phases}
        assert [phases[r.key].distinct for r in results] == [False, True]
        (sample,) = known.samples
        assert sample.key == results[1].key and sample.starts.keys() == {r.key for r in results}


def test_without_spin_there_are_no_moments() -> None:
    result, runs = relax(AFM, incar={"ISPIN": 1})
    assert runs == [None]
    assert moments_of(decode_structure(result.structure)) is None


# ------------------------------------------------------------------------------------ proposals


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "orders"
    folder.mkdir()
    for name, structure in (("fm", FM), ("afm", AFM), ("again", AFM), ("plain", PLAIN)):
        (folder / f"{name}.json").write_text(json.dumps(structure.as_dict()))
    return folder


@pytest.mark.parametrize("axes", [1, 3])
def test_moments_of_files_are_read(tmp_path: Path, axes: int) -> None:
    moments = [0.0, 4.0, 0.0, -4.0] if axes == 1 else [[0.0, 0.0, m] for m in (0, 4, 0, -4)]
    atoms = PLAIN.to_ase_atoms()
    atoms.set_initial_magnetic_moments(moments)
    (tmp_path / "files").mkdir()
    ase.io.write(tmp_path / "files" / "a.extxyz", atoms)
    structure = with_moments(PLAIN, moments)
    if axes == 3:
        (tmp_path / "files" / "a.mcif").write_text(str(CifWriter(structure, write_magmoms=True)))
    for crystal in read(tmp_path / "files"):
        assert isinstance(crystal, Crystal)
        assert key(crystal.structure, settings()) == key(structure, settings())


def test_references_and_prototypes_of_the_system_keep_their_moments(files: Path) -> None:
    found, _ = load_references([FileReferences(path=files)], ["Fe", "Se"], magnetic=True)
    prototypes, _, _ = collect([FilesSource(path=files)], Filters(), 2, 0, magnetic=True)
    kept, _ = candidates(prototypes, ["Fe", "Se"])
    for structures in (found, kept):
        # FM has the smaller cell that the crystal has, AFM has not. Exchanged, it is itself.
        assert sorted(len(p.structure) for p in structures) == [2, 2, 4]
        moments = [moments_of(p.structure) for p in structures]
        assert sorted(str(sorted(m)) for m in moments if m) == [
            "[-4.0, 0.0, 0.0, 4.0]",
            "[0.0, 4.0]",
        ]
    assert all(moments_of(p.structure) is None for p in kept if p.id.endswith(">SeFe"))
    plain, _ = load_references([FileReferences(path=files)], ["Fe", "Se"])
    assert len(plain) == 1 and moments_of(plain[0].structure) is None
