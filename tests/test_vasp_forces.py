"""Phonons and elastic constants by VASP, beside ASE's of the potential that its stand-in has."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pymatgen.core
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from jobflow import run_locally
from potcars import write_potcars
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor
from vasp_stand_in import pair_potential

from ccdcgan.dft import queue_time
from ccdcgan.dft.dynamics import phonons, stability
from ccdcgan.dft.dynamics.document import Stability
from ccdcgan.dft.engines.base import LevelOfTheory
from ccdcgan.dft.engines.potentials import SevenNetEngine
from ccdcgan.dft.engines.vasp.forces import ByVasp, NoForcesError
from ccdcgan.dft.engines.vasp.settings import VaspEngine
from ccdcgan.dft.queue_time import OutOfTimeError
from ccdcgan.dft.relaxation.document import Relaxation
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.dft.structures.moments import moments_of, with_moments
from ccdcgan.dft.structures.symmetry import FloatArray
from ccdcgan.launchers.workdir import embedded_store
from ccdcgan.workflows.campaign import parse_campaign
from ccdcgan.workflows.documents import Origin, Phase
from ccdcgan.workflows.stability import StabilityMaker

pytestmark = [
    pytest.mark.filterwarnings("ignore::pymatgen.io.vasp.sets.BadInputSetWarning"),
    pytest.mark.filterwarnings("ignore::pymatgen.io.vasp.inputs.UnknownPotcarWarning"),
]

#: Atoms move within a strained cell: the force constants of both differ.
CELL = Structure(
    Lattice.hexagonal(4.3, 6.6),
    ["Se", "Bi", "Bi", "Se"],
    [[1 / 3, 2 / 3, 0.25], [0, 0, 0], [0, 0, 0.5], [2 / 3, 1 / 3, 0.75]],
)


class Pairs(Calculator):
    """The stand-in's potential for ASE."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces", "stress"]

    def calculate(self, atoms: Any = None, properties: Any = None, changes: Any = None) -> None:
        super().calculate(atoms, properties or ["energy"], changes or ["positions"])
        energy, forces, stress = pair_potential(atoms.numbers, atoms.cell.array, atoms.positions)
        voigt = stress[(0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)]
        self.results = {"energy": energy, "forces": forces, "stress": voigt}


class ByAse:
    """A route of ASE alone."""

    settings = RelaxationSettings()

    def relax(self, structure: Structure) -> Relaxation:
        atoms = self._atoms(structure)
        converged = BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-4, steps=500)
        level = LevelOfTheory(engine="e", package="p", checkpoint="0" * 16, scale="s")
        found = Structure(atoms.cell.array, structure.species, atoms.get_scaled_positions())
        return Relaxation(
            key="k", level_of_theory=level, structure=found, converged=bool(converged)
        )

    def relaxed_stress(self, structure: Structure) -> FloatArray:
        atoms = self._atoms(structure)
        BFGS(atoms, logfile=None).run(fmax=1e-5, steps=500)
        return np.asarray(atoms.get_stress())

    def forces(self, atoms: Atoms) -> FloatArray:
        atoms.calc = Pairs()
        return np.asarray(atoms.get_forces())

    @staticmethod
    def _atoms(structure: Structure) -> Atoms:
        atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
        atoms.calc = Pairs()
        return atoms


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = str(write_potcars(tmp_path / "psp", ["Bi", "Se"]))
    monkeypatch.setitem(pymatgen.core.SETTINGS, "PMG_VASP_PSP_DIR", folder)
    monkeypatch.setenv("PMG_VASP_PSP_DIR", folder)
    stand_in = f"{sys.executable} {Path(__file__).with_name('vasp_stand_in.py')}"
    monkeypatch.setenv("ATOMATE2_VASP_CMD", stand_in)
    monkeypatch.setenv("CCDCGAN_CALCULATIONS", str(tmp_path / "calculations"))
    monkeypatch.setenv("VASP_STAND_IN_LOG", str(tmp_path / "log"))
    # Of 12 Å, supercells have hundreds of atoms.
    monkeypatch.setattr(phonons, "LENGTH", 6.0)
    return tmp_path


def test_vasp_gives_what_ase_does_and_goes_on_where_it_stopped(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pymatgen.io.vasp import Incar

    expected = stability._stability(ByAse(), CELL)
    # What a potential does first is for structures that are not relaxed.
    engine = VaspEngine(polling=0.1, buffer=0.0, soc=True, pre_relax=SevenNetEngine())
    settings = stability.finer(RelaxationSettings(engine=engine))
    found = stability.stability_by_vasp(settings, CELL)
    assert found.problem is None and found.supercell == expected.supercell
    assert found.lowest_frequency_thz == pytest.approx(expected.lowest_frequency_thz, rel=0.005)
    assert found.dynamically_stable is expected.dynamically_stable is False
    assert np.allclose(found.elastic_tensor_gpa, expected.elastic_tensor_gpa, rtol=0.01, atol=0.3)
    assert found.born_stable and found.bulk_modulus_gpa == pytest.approx(
        expected.bulk_modulus_gpa, rel=0.005
    )
    assert found.followed is not None and found.level_of_theory.engine == "VASP"
    assert "SOC" not in found.level_of_theory.scale

    runs = log(machine)
    incars = [Incar.from_file(Path(run["cwd"]) / "INCAR") for run in runs]
    kinds = Counter((i["NSW"] > 0, i.get("ISIF") if i["NSW"] else None) for i in incars)
    # Two relaxations, of which the second has the basis of its own cell; twelve strains and none;
    # the supercell and its displacements.
    assert kinds == {(True, 3): 2, (True, 2): 13, (False, None): len(runs) - 15}
    assert {(i["EDIFF"], i["ISMEAR"]) for i in incars} == {(1e-8, 0)}
    assert len({run["start"] for run in runs[2:]}) == len(runs) - 2, "each geometry once"

    # As a kill leaves it that comes before the last geometry.
    shutil.rmtree(Path(runs[-1]["cwd"]).parent)
    assert stability.stability_by_vasp(settings, CELL) == found
    assert len(log(machine)) == len(runs) + 1


def log(machine: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (machine / "log").read_text().splitlines()]


def test_displacements_start_from_the_moments_of_the_crystal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cell = Structure(
        Lattice.tetragonal(3.0, 4.2),
        ["Fe", "Fe"],
        [[0, 0, 0], [0.5, 0.5, 0.5]],
        site_properties={"magmom": [[0.0, 0.0, 1.98], [0.0, 0.0, -2.01]]},
    )
    given: list[Structure] = []

    class Forces(ByAse):
        def forces(self, atoms: Atoms) -> FloatArray:
            given.append(AseAtomsAdaptor.get_structure(atoms))
            return super().forces(atoms)

    monkeypatch.setattr(phonons, "LENGTH", 6.0)
    level = LevelOfTheory(engine="e", package="p", checkpoint="0" * 16, scale="s")
    found = Stability(level_of_theory=level, structure=cell)
    stability._add_phonons(found, Forces(), cell)
    assert found.lowest_frequency_thz is not None
    for supercell in given:
        moments = moments_of(supercell) or []
        # Each atom has that of the sublattice that it is nearest to.
        heights = np.round(supercell.cart_coords[:, 2] / 2.1).astype(int) % 2
        assert moments == [-2.0 if h else 2.0 for h in heights]
    given.clear()
    stability._add_phonons(found, Forces(), with_moments(cell, None))
    assert all(moments_of(s) is None for s in given)


def test_what_vasp_cannot_compute_is_said(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = machine / "faults.json"
    faults.write_text(json.dumps({"*": {"fault": "segfault", "times": None}}))
    monkeypatch.setenv("VASP_STAND_IN_FAULTS", str(faults))
    engine = VaspEngine(polling=0.1, buffer=0.0, ladder=({},))
    found = ByVasp(stability.finer(RelaxationSettings(engine=engine)))
    atoms = AseAtomsAdaptor.get_atoms(CELL, msonable=False)
    with pytest.raises(NoForcesError, match="a cell of 4 atoms: failed in 1 ways"):
        found.forces(atoms)


def test_a_job_without_time_goes_on_in_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign = parse_campaign({"relaxation": {"engine": {"name": "vasp"}}}, "a file")
    level = campaign.relaxation.level_of_theory()
    place = {"formation_energy_per_atom": 0.0, "e_above_hull": 0.0, "label": "on the hull"}
    phases = [
        Phase(
            **place,
            id=key,
            structure=CELL,
            formula="BiSe",
            spacegroup="P1 (1)",
            energy_per_atom=0.0,
            converged=True,
            distinct=True,
            origin=Origin(kind="generated", id=key),
            level_of_theory=level,
        )
        for key in ("a", "b")
    ]
    times: list[str] = []

    def examine(settings: RelaxationSettings, structure: Structure) -> Stability:
        times.append("ran")
        if len(times) == 2:
            raise OutOfTimeError
        return Stability(level_of_theory=level, structure=structure, lowest_frequency_thz=1.0)

    monkeypatch.setattr(stability, "stability_by_vasp", examine)
    monkeypatch.setattr(queue_time, "sleep", lambda _: None)
    job = StabilityMaker().make(phases, campaign)
    run_locally(job, store=embedded_store(tmp_path), log=False, ensure_success=True)
    store = embedded_store(tmp_path)
    store.connect()
    found = store.get_output(job.uuid, which="last", load=True)
    # The second crystal was asked for twice, the first one once.
    assert [c["id"] for c in found["crystals"]] == ["a", "b"] and len(times) == 3
