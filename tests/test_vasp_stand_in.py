"""The stand-in for VASP, alone and through custodian and atomate2."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from ase.stress import full_3x3_to_voigt_6_stress
from potcars import write_potcars
from pymatgen.core import Lattice, Structure
from vasp_stand_in import pair_potential

pytestmark = [
    pytest.mark.filterwarnings("ignore::pymatgen.io.vasp.sets.BadInputSetWarning"),
    pytest.mark.filterwarnings("ignore::pymatgen.io.vasp.inputs.UnknownPotcarWarning"),
    pytest.mark.filterwarnings("ignore::pymatgen.io.vasp.outputs.UnconvergedVASPWarning"),
]

SCRIPT = Path(__file__).with_name("vasp_stand_in.py")
COMMAND = [sys.executable, str(SCRIPT)]
INCAR = {
    "ALGO": "Fast",
    "EDIFF": 1e-5,
    "EDIFFG": -0.01,
    "IBRION": 2,
    "ISIF": 3,
    "ISMEAR": 0,
    "ISPIN": 2,
    "LREAL": "Auto",
    "LWAVE": False,
    "MAGMOM": [0.6, 0.6],
    "NELM": 20,
    "NSW": 40,
    "SIGMA": 0.05,
}


class PairCalculator(Calculator):
    implemented_properties = ("energy", "free_energy", "forces", "stress")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        energy, forces, stress = pair_potential(
            atoms.numbers, np.array(atoms.cell), atoms.positions
        )
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "forces": forces,
            "stress": full_3x3_to_voigt_6_stress(stress),
        }


@pytest.fixture(autouse=True)
def _psp(tmp_path_factory, monkeypatch):
    import pymatgen.core

    folder = write_potcars(tmp_path_factory.mktemp("psp"), ["Bi", "Se"])
    monkeypatch.setitem(pymatgen.core.SETTINGS, "PMG_VASP_PSP_DIR", str(folder))
    for name in ("LOG", "FAULTS", "WORKER"):
        monkeypatch.delenv(f"VASP_STAND_IN_{name}", raising=False)


@pytest.fixture
def bise():
    return Structure(
        Lattice.orthorhombic(3.9, 3.8, 4.1), ["Bi", "Se"], [[0, 0, 0], [0.53, 0.49, 0.5]]
    )


@pytest.fixture
def folder(tmp_path, bise):
    write_inputs(tmp_path / "job", bise)
    return tmp_path / "job"


@pytest.fixture
def log(tmp_path, monkeypatch):
    monkeypatch.setenv("VASP_STAND_IN_LOG", str(tmp_path / "log"))
    return lambda: [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]


@pytest.fixture
def faults(tmp_path, monkeypatch):
    monkeypatch.setenv("VASP_STAND_IN_FAULTS", str(tmp_path / "faults.json"))
    return lambda told: (tmp_path / "faults.json").write_text(json.dumps(told))


def write_inputs(folder, structure, **incar):
    from pymatgen.io.vasp.inputs import Incar, Kpoints, Poscar, Potcar, VaspInput

    poscar = Poscar(structure)
    VaspInput(
        Incar(INCAR | incar),
        Kpoints.gamma_automatic((3, 3, 3)),
        poscar,
        Potcar(poscar.site_symbols),
    ).write_input(folder)


def stand_in(folder, **kwargs):
    return subprocess.run(COMMAND, cwd=folder, capture_output=True, text=True, **kwargs)


def vasprun(folder, name="vasprun.xml"):
    from pymatgen.io.vasp.outputs import Vasprun

    return Vasprun(folder / name)


def custodian(folder, monkeypatch, handlers=None, **kwargs):
    """Corrections, as (handlers, errors), of a job under atomate2's handlers and validators."""
    from atomate2.vasp.run import DEFAULT_HANDLERS, run_vasp

    monkeypatch.chdir(folder)
    run_vasp(
        vasp_cmd=" ".join(COMMAND),
        vasp_gamma_cmd=" ".join(COMMAND),
        # Fresh ones: atomate2's count errors over all jobs of a process.
        handlers=handlers or [type(handler)() for handler in DEFAULT_HANDLERS],
        custodian_kwargs={"polling_time_step": 0.2, "monitor_freq": 5},
        **kwargs,
    )
    runs = json.loads((folder / "custodian.json").read_text())
    return [(c["handler"]["@class"], c["errors"]) for run in runs for c in run["corrections"]]


def test_forces_and_stress_are_the_gradients_of_the_energy():
    atoms = Atoms(
        "Bi2Se2O",
        cell=[[5, 0.3, 0], [-0.4, 4.5, 0.2], [0, 0.5, 6]],
        scaled_positions=np.random.default_rng(1).random((5, 3)),
        pbc=True,
    )
    atoms.calc = PairCalculator()
    assert atoms.get_forces() == pytest.approx(calculate_numerical_forces(atoms), abs=1e-4)
    assert atoms.get_stress() == pytest.approx(calculate_numerical_stress(atoms), abs=1e-4)


def test_pymatgen_reads_a_relaxation_that_ends_where_ase_ends(tmp_path, bise, log):
    from pymatgen.io.vasp.inputs import Kpoints, Poscar
    from pymatgen.io.vasp.outputs import Chgcar, Oszicar, Outcar, Xdatcar

    start = bise * (2, 1, 1)
    start.perturb(0.05, seed=0)
    write_inputs(tmp_path / "job", start, EDIFFG=-0.001, MAGMOM=[0.6] * 4)
    run = stand_in(tmp_path / "job")
    assert run.returncode == 0 and "reached required accuracy" in run.stdout and not run.stderr
    folder = tmp_path / "job"
    atoms = start.to_ase_atoms(msonable=False)
    atoms.calc = PairCalculator()
    assert BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-3, steps=200)

    read = vasprun(folder)
    assert read.converged and read.vasp_version.startswith("6")
    assert read.final_energy == pytest.approx(atoms.get_potential_energy(), abs=1e-5)
    assert np.linalg.norm(read.ionic_steps[-1]["forces"], axis=1).max() < 1e-3
    assert np.abs(read.ionic_steps[-1]["stress"]).max() < 0.1
    contcar = Poscar.from_file(folder / "CONTCAR").structure
    assert contcar.volume == pytest.approx(read.final_structure.volume)
    assert contcar.volume == pytest.approx(atoms.get_volume(), rel=2e-3)
    outcar, oszicar = Outcar(folder / "OUTCAR"), Oszicar(folder / "OSZICAR")
    assert outcar.final_energy == pytest.approx(read.final_energy)
    assert outcar.nelect == 22 and not outcar.is_stopped
    assert oszicar.final_energy == pytest.approx(read.final_energy)
    steps = len(read.ionic_steps)
    assert steps == len(oszicar.ionic_steps) == len(Xdatcar(folder / "XDATCAR").structures)
    assert len(outcar.drift) == steps and read.eigenvalue_band_properties[0] == 1.0
    assert Chgcar.from_file(folder / "CHGCAR").data["total"].sum() > 0
    assert Kpoints.from_file(folder / "IBZKPT").num_kpts == len(read.actual_kpoints)
    (row,) = log()
    assert row["formula"] == "BiSe" and row["steps"] == steps and row["fault"] is None
    assert row["volume"] == pytest.approx(start.volume)
    assert row["energy_last"] == pytest.approx(read.final_energy) and row["converged"]


def test_fixed_cell_static_and_too_few_steps(tmp_path, bise):
    write_inputs(tmp_path / "fixed", bise, ISIF=2)
    write_inputs(tmp_path / "static", bise, NSW=0, IBRION=-1, LORBIT=11)
    write_inputs(tmp_path / "short", bise, NSW=2)
    for name in ("fixed", "static", "short"):
        assert stand_in(tmp_path / name).returncode == 0
    fixed, static, short = (vasprun(tmp_path / name) for name in ("fixed", "static", "short"))
    assert fixed.converged and fixed.final_structure.lattice == bise.lattice
    assert fixed.final_energy < fixed.ionic_steps[0]["e_0_energy"]
    assert static.converged and len(static.ionic_steps) == 1
    assert static.final_energy == pytest.approx(fixed.ionic_steps[0]["e_0_energy"])
    assert len(short.ionic_steps) == 2 and not short.converged_ionic and short.converged_electronic
    # CONTCAR is one step ahead, so that going on from it repeats nothing.
    contcar = Structure.from_file(tmp_path / "short" / "CONTCAR")
    assert contcar.volume != pytest.approx(short.ionic_steps[-1]["structure"].volume, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("INCAR", None, None, "INCAR is missing"),
        ("POTCAR", None, None, "POTCAR is missing"),
        ("POTCAR", "VRHFIN =Se", "VRHFIN =Te", "POTCAR is for"),
        ("INCAR", "NSW = 40", "NSW = many", "Error reading item 'NSW'"),
        ("INCAR", "ENCUT", "", "Error reading item 'ENCUT'"),
        ("INCAR", "IBRION = 2", "IBRION = 0", "Error reading item 'IBRION'"),
        ("POSCAR", "Bi Se", "Bi Xx", "POSCAR cannot be read"),
        ("POSCAR", "direct", "Selective dynamics\ndirect", "selective dynamics"),
        ("KPOINTS", "Gamma", "Line", "line mode"),
    ],
)
def test_wrong_input_is_refused(folder, name, old, new, message):
    path = folder / name
    if old is None:
        path.unlink()
    elif old == "ENCUT":
        path.write_text(path.read_text() + "ENCUT = -5\n")
    else:
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
    run = stand_in(folder)
    assert run.returncode == 1 and not (folder / "vasprun.xml").exists()
    assert message in run.stderr and len(run.stderr.splitlines()) == 1


def test_stopcar(folder):
    from pymatgen.io.vasp.outputs import Outcar

    stopcar = folder / "STOPCAR"
    stopcar.write_text("LSTOP = .TRUE.\n")
    assert stand_in(folder).returncode == 0 and not stopcar.exists()
    read = vasprun(folder)
    assert len(read.ionic_steps) == 1 and len(read.ionic_steps[0]["electronic_steps"]) > 1
    assert Outcar(folder / "OUTCAR").is_stopped
    stopcar.write_text("LABORT = .TRUE.\n")
    stopcar.chmod(0o400)
    assert stand_in(folder).returncode == 0 and stopcar.exists()
    read = vasprun(folder)
    assert len(read.ionic_steps) == 1 and len(read.ionic_steps[0]["electronic_steps"]) == 1


def test_atomate2_gets_successful_task_documents(tmp_path, monkeypatch, bise, log):
    from atomate2.vasp.flows.core import DoubleRelaxMaker
    from atomate2.vasp.jobs.core import RelaxMaker, StaticMaker
    from atomate2.vasp.sets.core import RelaxSetGenerator, StaticSetGenerator
    from jobflow import Flow, run_locally

    monkeypatch.chdir(tmp_path)
    run_kwargs = {
        "vasp_cmd": " ".join(COMMAND),
        "vasp_gamma_cmd": " ".join(COMMAND),
        "custodian_kwargs": {"polling_time_step": 0.2, "monitor_freq": 5},
    }
    potcars = {"user_potcar_functional": "PBE", "user_potcar_settings": {"Bi": "Bi", "Se": "Se"}}
    relax = RelaxMaker(input_set_generator=RelaxSetGenerator(**potcars), run_vasp_kwargs=run_kwargs)
    double = DoubleRelaxMaker.from_relax_maker(relax).make(bise)
    static = StaticMaker(
        input_set_generator=StaticSetGenerator(**potcars), run_vasp_kwargs=run_kwargs
    ).make(double.output.structure, prev_dir=double.output.dir_name)
    done = run_locally(Flow([double, static]), create_folders=True, ensure_success=True, log=False)
    documents = [response[1].output for response in done.values()]
    assert [str(d.task_type.value) for d in documents] == [
        "Structure Optimization",
        "Structure Optimization",
        "Static",
    ]
    assert all(d.state.value == "successful" for d in documents)
    assert all(d.custodian[0].corrections == [] for d in documents)
    assert documents[1].output.energy == pytest.approx(documents[2].output.energy)
    assert documents[2].output.bandgap == 1.0
    assert [row["steps"] > 1 for row in log()] == [True, False, False]


@pytest.mark.parametrize(
    ("fault", "handler", "tags"),
    [
        ("zbrent", "VaspErrorHandler", {"EDIFF": 1e-6, "NELMIN": 8}),
        ("edddav", "VaspErrorHandler", {"ALGO": "All"}),
        ("brmix", "VaspErrorHandler", {"ISTART": 1, "IMIX": 1}),
        ("subspacematrix", "VaspErrorHandler", {"LREAL": False}),
        ("eddrmm", "VaspErrorHandler", {"ALGO": "Normal"}),
        ("pricel", "VaspErrorHandler", {"SYMPREC": 1e-8, "ISYM": 0}),
        ("unconverged_scf", "UnconvergedErrorHandler", {"ALGO": "Normal"}),
        ("ionic_steps", "UnconvergedErrorHandler", {"IBRION": 1}),
    ],
)
def test_custodian_repairs(folder, monkeypatch, log, faults, fault, handler, tags):
    from pymatgen.io.vasp.inputs import Incar

    faults({"Se5Bi5": fault})
    corrections = custodian(folder, monkeypatch)
    assert {name for name, _ in corrections} == {handler}, corrections
    runs = log()
    # Running brmix again with ISTART = 1 alone is custodian's first attempt.
    assert [row["fault"] for row in runs] == [fault] * (2 if fault == "brmix" else 1) + [None]
    assert len(corrections) == len(runs) - 1
    read = vasprun(folder)
    assert read.converged
    incar = Incar.from_file(folder / "INCAR")
    assert {tag: incar.get(tag) for tag in tags} == tags
    goes_on = fault in ("zbrent", "edddav", "eddrmm", "ionic_steps")
    assert (runs[-1]["start"] != runs[0]["start"]) == goes_on
    if fault == "ionic_steps":
        assert runs[0]["steps"] == 40 and runs[1]["energy_first"] < runs[0]["energy_first"]


def test_custodian_gives_up_on_what_persists(folder, monkeypatch, log, faults):
    from custodian.custodian import CustodianError

    faults({"*": {"fault": "eddrmm", "times": None}})
    with pytest.raises(CustodianError):
        custodian(folder, monkeypatch, max_errors=2)
    assert [row["fault"] for row in log()] == ["eddrmm"] * 2


@pytest.mark.parametrize(
    ("fault", "status"),
    [("kill", -9), ("segfault", -11), ("empty_contcar", 1), ("truncated_vasprun", 0)],
)
def test_crashes_hit_once(folder, log, faults, fault, status):
    faults({"Bi1 Se1": fault, "*": "hang"})
    run = stand_in(folder)
    assert run.returncode == status
    assert ("forrtl" in run.stderr) == (fault == "segfault")
    assert ((folder / "CONTCAR").stat().st_size == 0) == (fault == "empty_contcar")
    with pytest.raises(SyntaxError):  # lxml's error for XML that ends too early
        vasprun(folder)
    assert stand_in(folder).returncode == 0 and vasprun(folder).converged
    assert [row["fault"] for row in log()] == [fault, None]


def test_crashes_fail_under_custodian(folder, monkeypatch, faults):
    from custodian.custodian import ValidationError

    faults({"BiSe": {"fault": "segfault", "times": 1}})
    with pytest.raises(ValidationError):
        custodian(folder, monkeypatch)
    assert custodian(folder, monkeypatch) == [] and vasprun(folder).converged


def test_walltime_handler_stops_a_slow_run(folder, monkeypatch, log, faults):
    from custodian.vasp.handlers import WalltimeHandler

    monkeypatch.delenv("CUSTODIAN_WALLTIME_START", raising=False)
    faults({"*": {"fault": "slow", "seconds": 1.5}})
    handler = WalltimeHandler(wall_time=10, buffer_time=9)
    monkeypatch.delenv("CUSTODIAN_WALLTIME_START")  # it would shorten all later jobs
    # It tells at each look, until the run has ended.
    corrections = custodian(folder, monkeypatch, [handler])
    assert set(map(str, corrections)) == {"('WalltimeHandler', ['Walltime reached'])"}
    (row,) = log()
    assert row["fault"] == "slow" and 1 <= row["steps"] <= 3 and not row["converged"]
    assert not (folder / "STOPCAR").exists()


def test_frozen_job_handler_ends_a_hanging_run(folder, monkeypatch, log, faults):
    from custodian.vasp.handlers import FrozenJobErrorHandler

    faults({"*": "hang"})
    corrections = custodian(folder, monkeypatch, [FrozenJobErrorHandler(timeout=1)])
    assert corrections == [("FrozenJobErrorHandler", ["Frozen job"])]
    assert [row["fault"] for row in log()] == ["hang", None]
    assert vasprun(folder).converged


def test_kill_parent(folder, monkeypatch, faults):
    faults({"*": {"fault": "kill_parent", "times": 2}})
    code = f"import subprocess; subprocess.run({COMMAND!r}, start_new_session=True)"
    parent = [sys.executable, "-c", code]
    quiet = {"stdout": subprocess.DEVNULL, "cwd": folder}
    assert subprocess.run(parent, **quiet).returncode == -signal.SIGKILL
    with subprocess.Popen(["sleep", "60"]) as worker:
        monkeypatch.setenv("VASP_STAND_IN_WORKER", str(worker.pid))
        assert subprocess.run(parent, **quiet).returncode == 0
        assert worker.wait(5) == -signal.SIGKILL
    assert stand_in(folder).returncode == 0


def test_parallel_runs_share_one_count(tmp_path, bise, log, faults):
    faults({"*": {"fault": "empty_contcar", "times": 2}})
    runs = []
    for i in range(4):
        write_inputs(tmp_path / str(i), bise)
        runs.append(subprocess.Popen(COMMAND, cwd=tmp_path / str(i), stdout=subprocess.DEVNULL))
    assert sorted(run.wait(30) for run in runs) == [0, 0, 1, 1]
    assert sorted(str(row["fault"]) for row in log()) == ["None"] * 2 + ["empty_contcar"] * 2


def test_script_is_executable():
    assert os.access(SCRIPT, os.X_OK)
