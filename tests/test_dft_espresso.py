"""pw.x as an engine: its input, its errors, pseudopotentials, and real runs where it is there."""

import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.units import GPa, Ry
from pydantic import ValidationError
from pymatgen.core import Lattice, Structure
from pymatgen.io.vasp.inputs import Kpoints
from scipy.spatial.transform import Rotation

from ccdcgan.dft.engines.espresso import (
    EspressoEngine,
    is_pbe,
    kpoints,
    read_upf_header,
)
from ccdcgan.dft.engines.gpaw import GpawEngine
from ccdcgan.dft.engines.gth_upf import MESH, main, projector, read_gth, write_upf
from ccdcgan.dft.engines.pwx import PwxError, ScfNotConvergedError
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.relaxation.failure import MachineError
from ccdcgan.dft.relaxation.key import content_key
from ccdcgan.dft.relaxation.relaxer import Relaxer
from ccdcgan.dft.relaxation.settings import RelaxationSettings

# An invented element's entry in CP2K's format, and one of another functional.
GTH = """\
# a comment
Bi GTH-PADE-q5 GTH-LDA-q5 GTH-PADE GTH-LDA
    2    3
     0.6    0
    0
Bi GTH-PBE-q15
    2    3   10
     0.5    0
    0
Bi GTH-PBE-q5 GTH-PBE
    2    3
     0.60    2     8.0    -0.5   # local
    2
     0.58    2     0.6     2.2
                           -5.2
     0.77    1     0.2
Se GTH-PBE-q6
    2    4
     0.51    0
    1
     0.43    1     6.5
"""


def rocksalt(a: float = 6.0) -> Structure:
    h = a / 2
    return Structure([[0, h, h], [h, 0, h], [h, h, 0]], ["Bi", "Se"], [[0, 0, 0], [0.5] * 3])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pseudopotentials of the entries above."""
    source = tmp_path / "GTH_POTENTIALS"
    source.write_text(GTH)
    write_upf(tmp_path / "pseudo", source=source)
    return tmp_path / "pseudo"


@pytest.fixture
def fake(tmp_path: Path) -> Any:
    """Make an executable that stands in for pw.x."""

    def make(script: str) -> str:
        path = tmp_path / "bin" / "pw.x"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    return make


# k-points


@pytest.mark.parametrize("length", [40, 25, 3])
@pytest.mark.parametrize(
    "lattice",
    [
        Lattice.cubic(5.0),
        Lattice.hexagonal(4.4, 5.0),
        Lattice.rhombohedral(4.7, 57.0),
        Lattice.from_parameters(3.1, 7.3, 45.0, 80, 95, 111),
        rocksalt().lattice,
    ],
)
def test_kpoints_are_those_of_pymatgen(lattice: Lattice, length: float) -> None:
    structure = Structure(lattice, ["Bi"], [[0, 0, 0]])
    grid = Kpoints.automatic_density_by_lengths(structure, [length] * 3, force_gamma=True)
    assert kpoints(structure, length) == tuple(grid.kpts[0])


# Level of theory


def test_level_of_theory(folder: Path) -> None:
    engine = EspressoEngine(pseudo_dir=folder)
    level = engine.level_of_theory()
    assert (level.engine, level.package) == ("Quantum ESPRESSO", "pw.x")
    assert level.scale == "PBE, uncorrected"
    assert re.fullmatch(r"[0-9a-f]{16}", level.checkpoint)
    assert set(level.pseudopotentials) == {"Bi", "Se"}
    assert re.fullmatch(r"Bi\.gth-pbe-q5\.upf [0-9a-f]{8}", level.pseudopotentials["Bi"])
    assert set(engine.level_of_theory(["Se"]).pseudopotentials) == {"Se"}

    same = EspressoEngine(
        pseudo_dir=folder, command="mpirun pw.x", pseudopotentials={"Bi": "Bi.gth-pbe-q5.upf"}
    )
    assert same.level_of_theory() == level
    changes: list[dict[str, Any]] = [
        {"cutoff": 400},
        {"density_factor": 8},
        {"kpoints_length": 30},
        {"smearing": "fermi-dirac"},
        {"width": 0.1},
        {"spin": True},
        {"conv_thr": 1e-6},
        {"extra": {"system": {"nbnd": 20}}},
    ]
    hashes = {
        EspressoEngine.model_validate({"pseudo_dir": folder, **change}).level_of_theory().checkpoint
        for change in changes
    }
    assert len(hashes | {level.checkpoint}) == len(changes) + 1
    other = EspressoEngine(pseudo_dir=folder, extra={"system": {"input_dft": "pbesol"}})
    assert other.level_of_theory().scale == "PBE, uncorrected, input_dft=pbesol"


def test_folder_from_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPRESSO_PSEUDO", str(folder))
    assert EspressoEngine().level_of_theory().pseudopotentials.keys() == {"Bi", "Se"}


# What a user is told


def complaint(engine: EspressoEngine | GpawEngine, *elements: str) -> str:
    with pytest.raises(UserError) as caught:
        engine.check(elements or ["Bi", "Se"])
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_complaints(
    folder: Path, tmp_path: Path, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ESPRESSO_PSEUDO", raising=False)
    command = fake("")
    engine = EspressoEngine(command=command, pseudo_dir=folder, cutoff=700)
    engine.check(["Bi", "Se"])

    missing = str(tmp_path / "no" / "pw.x")
    for wrong in (missing, f"env {missing} -nk 2", "no-such-mpirun -np 2 pw.x"):
        text = complaint(engine.model_copy(update={"command": wrong}))
        assert wrong.removeprefix("env ").split(" -")[0] in text and "set command" in text
    assert "set pseudo_dir or ESPRESSO_PSEUDO" in complaint(EspressoEngine(command=command))
    nowhere = EspressoEngine(command=command, pseudo_dir=tmp_path / "nowhere")
    assert "nowhere, is not there: set" in complaint(nowhere)
    assert "no pseudopotential of Te" in complaint(engine, "Bi", "Te")
    assert "asks for a cutoff of 667 eV" in complaint(engine.model_copy(update={"cutoff": 300.0}))
    named = engine.model_copy(update={"pseudopotentials": {"Bi": "absent.upf"}})
    assert "pseudopotential of Bi" in complaint(named) and "absent.upf" in complaint(named)

    text = (folder / "Bi.gth-pbe-q5.upf").read_text()
    second = folder / "bi_pbe_v1.uspp.F.UPF"
    second.write_text(text.replace('pseudo_type="NC"', 'pseudo_type="US"'))
    assert "several pseudopotentials of Bi" in complaint(engine)
    assert "choose one in pseudopotentials" in complaint(engine)
    chosen = engine.model_copy(update={"pseudopotentials": {"Bi": second.name}})
    assert "set density_factor to 8" in complaint(chosen)
    chosen.model_copy(update={"density_factor": 8.0}).check(["Bi", "Se"])
    second.write_text(text.replace('functional="PBE"', 'functional="SLA PW PSX PSC"'))
    assert "is for SLA PW PSX PSC functional: choose one made with PBE" in complaint(chosen)
    second.write_text("nothing")
    assert "is for an unknown functional" in complaint(chosen)


def test_no_other_namelist() -> None:
    with pytest.raises(ValidationError, match="extra.phonon"):
        EspressoEngine.model_validate({"extra": {"phonon": {"tr2_ph": 1e-12}}})


@pytest.mark.parametrize(
    ("functional", "pbe"),
    [
        ("PBE", True),
        ("pbe", True),
        (" SLA  PW   PBX  PBC", True),
        ("sla+pw+pbx+pbc", True),
        ("SLA PW PBE PBE PBE", True),
        ("PBESOL", False),
        ("SLA PW PSX PSC", False),
        ("PZ", False),
        ("", False),
    ],
)
def test_names_of_pbe(functional: str, pbe: bool) -> None:
    assert is_pbe(functional) is pbe


def test_header_of_the_first_format(tmp_path: Path) -> None:
    path = tmp_path / "Bi.UPF"
    path.write_text(
        "<PP_HEADER>\n   0      Version Number\n  Bi      Element\n"
        "   US                  Ultrasoft pseudopotential\n    T     Nonlinear Core Correction\n"
        " SLA  PW   PBE  PBE     PBE  Exchange-Correlation functional\n</PP_HEADER>\n"
    )
    functional, soft, cutoff = read_upf_header(path)
    assert is_pbe(functional) and soft and cutoff == 0


# What becomes of a failed run

READPP = "echo ' %%%%'; echo '     Error in routine readpp (1):'; echo '     no such file'; exit 1"
SAYS = {
    "echo '     convergence NOT achieved after  30 iterations: stopping'; exit 2": (
        ScfNotConvergedError,
        "no self-consistency in 30 cycles",
    ),
    READPP: (PwxError, "readpp: no such file"),
    "echo '     Maximum CPU time exceeded'": (
        PwxError,
        "pw.x ended with: Maximum CPU time exceeded",
    ),
    "exit 3": (PwxError, "pw.x ended with: no output"),
}


@pytest.mark.parametrize("script", SAYS)
def test_failed_run(script: str, folder: Path, fake: Any) -> None:
    error, text = SAYS[script]
    engine = EspressoEngine(command=fake(script), pseudo_dir=folder, kpoints_length=5)
    atoms = Atoms(rocksalt().to_ase_atoms())
    atoms.calc = engine.calculator(rocksalt())
    with pytest.raises(error, match=re.escape(text)):
        atoms.get_potential_energy()
    work = atoms.calc.directory
    assert work.is_dir()
    del atoms
    assert not work.exists()

    result = Relaxer(RelaxationSettings(engine=engine))(rocksalt())
    assert result.energy_per_atom is None
    assert error.__name__ in str(result.reason)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'forrtl: No space left on device' >&2; exit 1", "disk of"),
        ("echo 'slurmstepd: error: Detected 1 oom_kill event' >&2; exit 137", "memory of"),
        (
            "echo 'pw.x: error while loading shared libraries: libfftw3.so.3' >&2; exit 127",
            "modules",
        ),
    ],
)
def test_a_fault_of_the_machine_is_no_failed_structure(
    script: str, words: str, folder: Path, fake: Any
) -> None:
    engine = EspressoEngine(command=fake(script), pseudo_dir=folder, kpoints_length=5)
    with pytest.raises(MachineError, match=words) as caught:
        Relaxer(RelaxationSettings(engine=engine))(rocksalt())
    assert "\n" not in str(caught.value)


def test_input_of_a_spin_polarised_run(folder: Path, fake: Any) -> None:
    engine = EspressoEngine(
        command=fake("exit 1"),
        pseudo_dir=folder,
        spin=True,
        extra={"electrons": {"mixing_beta": 0.25}, "system": {"degauss": 0.01}},
    )
    atoms = rocksalt().to_ase_atoms()
    atoms.calc = engine.calculator(rocksalt())
    with pytest.raises(PwxError):
        atoms.get_potential_energy()
    text = (atoms.calc.directory / "espresso.pwi").read_text()
    written = dict(re.findall(r"(\S+)\s*=\s*(\S+)", text))
    assert written["nspin"] == "2"
    assert written["starting_magnetization(1)"] == written["starting_magnetization(2)"] == "0.2"
    assert (written["mixing_beta"], written["degauss"]) == ("0.25", "0.01")
    assert float(written["ecutwfc"]) == pytest.approx(500 / Ry)
    assert "10 10 10  0 0 0" in text


def test_moments_are_where_a_spin_polarised_run_starts(folder: Path, fake: Any) -> None:
    engine = EspressoEngine(command=fake("exit 1"), pseudo_dir=folder, spin=True)
    crystal = rocksalt().copy(site_properties={"magmom": [3.0, -90.0]})
    atoms = crystal.to_ase_atoms()
    atoms.calc = engine.calculator(crystal)
    with pytest.raises(PwxError):
        atoms.get_potential_energy()
    text = (atoms.calc.directory / "espresso.pwi").read_text()
    # Of 5 valence electrons of bismuth; more than all of selenium's are not to be had.
    assert re.findall(r"starting_magnetization\(\d\)\s*=\s*(\S+)", text) == ["0.6", "-1.0"]
    settings, plain = RelaxationSettings(engine=engine), rocksalt()
    level = engine.level_of_theory(["Bi", "Se"])
    keys = {content_key(s, level, settings) for s in (crystal, plain)}
    assert len(keys) == 2


@pytest.mark.skipif(not shutil.which("setpriv"), reason="needs setpriv of util-linux")
def test_pwx_ends_with_its_parent(folder: Path, fake: Any, tmp_path: Path) -> None:
    command = fake(
        f"echo $$ > {tmp_path}/pid.part; mv {tmp_path}/pid.part {tmp_path}/pid; sleep 60"
    )
    code = (
        "import sys\n"
        "from pymatgen.core import Structure\n"
        "from ccdcgan.dft.engines.espresso import EspressoEngine\n"
        "s = Structure([[5, 0, 0], [0, 5, 0], [0, 0, 5]], ['Bi'], [[0, 0, 0]])\n"
        "a = s.to_ase_atoms()\n"
        "a.calc = EspressoEngine(command=sys.argv[1], pseudo_dir=sys.argv[2]).calculator(s)\n"
        "a.get_potential_energy()\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", code, command, str(folder)], env=environment)
    try:
        end = time.monotonic() + 60
        while not (tmp_path / "pid").exists() and time.monotonic() < end:
            time.sleep(0.05)
        pid = int((tmp_path / "pid").read_text())
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    end = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()


# Pseudopotentials from CP2K's data


def test_default_of_each_element(tmp_path: Path) -> None:
    source = tmp_path / "GTH_POTENTIALS"
    source.write_text(GTH)
    found = read_gth(source)
    assert {element: gth.name for element, gth in found.items()} == {
        "Bi": "GTH-PBE-q5",
        "Se": "GTH-PBE-q6",
    }
    bismuth = found["Bi"]
    assert (bismuth.valence, bismuth.r_loc, bismuth.coefficients) == (5, 0.6, (8.0, -0.5))
    assert [radius for radius, _ in bismuth.channels] == [0.58, 0.77]
    np.testing.assert_array_equal(bismuth.channels[0][1], [[0.6, 2.2], [2.2, -5.2]])


def test_local_part_in_reciprocal_space(tmp_path: Path) -> None:
    """Against its Fourier transform in closed form (Goedecker et al. 1996, equation 5)."""
    source = tmp_path / "GTH_POTENTIALS"
    source.write_text(GTH)
    gth = read_gth(source)["Bi"]
    r = np.maximum(MESH, 1e-9)
    for g in (0.7, 2.0, 4.0):
        # The Coulomb tail beyond the mesh, with its transform -4πZ/g², is taken off and put back.
        short = gth.local() + gth.valence / r
        numeric = 4 * np.pi * np.trapezoid(r * short * np.sin(g * r), r) / g
        numeric -= 4 * np.pi * gth.valence / g**2
        x = g * gth.r_loc
        c1, c2 = gth.coefficients
        closed = math.exp(-(x**2) / 2) * (
            -4 * np.pi * gth.valence / g**2
            + (2 * np.pi) ** 1.5 * gth.r_loc**3 * (c1 + c2 * (3 - x**2))
        )
        assert numeric == pytest.approx(closed, abs=1e-3)


@pytest.mark.parametrize("angular", [0, 1, 2, 3])
@pytest.mark.parametrize("i", [1, 2, 3])
def test_projectors_are_normalised(angular: int, i: int) -> None:
    p = projector(0.6, angular, i)
    assert np.trapezoid(p**2 * MESH**2, MESH) == pytest.approx(1, abs=1e-6)


def test_complaints_of_the_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CP2K_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["gth_upf", str(tmp_path / "out")])
    assert main() == 2
    assert "sudo apt-get install cp2k-data" in capsys.readouterr().err
    (tmp_path / "GTH_POTENTIALS").write_text(GTH)
    assert main() == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "Bi.gth-pbe-q5.upf",
        "Se.gth-pbe-q6.upf",
    }
    with pytest.raises(UserError, match="no GTH-PBE pseudopotential of Te"):
        write_upf(tmp_path / "out", ["Bi", "Te"])
    (tmp_path / "GTH_POTENTIALS").write_text(GTH.replace("8.0", "eight"))
    with pytest.raises(UserError, match="Bi GTH-PBE-q5 that cannot be read"):
        write_upf(tmp_path / "out")
    (tmp_path / "GTH_POTENTIALS").write_text("H GTH-PADE-q1\n 1\n 0.2 0\n 0\n")
    with pytest.raises(UserError, match="no GTH-PBE pseudopotentials"):
        write_upf(tmp_path / "out")


# Real runs


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> EspressoEngine:
    if not shutil.which("pw.x"):
        pytest.skip("needs pw.x: apt-get install quantum-espresso")
    folder = tmp_path_factory.mktemp("pseudo")
    try:
        write_upf(folder, ["Bi", "Se"])
    except UserError as error:
        pytest.skip(str(error))
    return EspressoEngine(pseudo_dir=folder, cutoff=700, kpoints_length=8)


def test_one_point_against_an_input_by_hand(real: EspressoEngine, tmp_path: Path) -> None:
    (tmp_path / "in").write_text(f"""\
&control
  calculation='scf', outdir='{tmp_path}', pseudo_dir='{real.pseudo_dir}'
  tprnfor=.true., tstress=.true.
/
&system
  ibrav=2, A=6.0, nat=2, ntyp=2, ecutwfc={700 / 13.605693}
  occupations='smearing', smearing='gauss', degauss={0.05 / 13.605693}
/
&electrons
  conv_thr=1e-10
/
ATOMIC_SPECIES
Bi 1 Bi.gth-pbe-q5.upf
Se 1 Se.gth-pbe-q6.upf
ATOMIC_POSITIONS alat
Bi 0 0 0
Se 0.5 0 0
K_POINTS automatic
2 2 2 0 0 0
""")
    with (tmp_path / "in").open() as given:
        run = subprocess.run(["pw.x"], stdin=given, capture_output=True, text=True, check=True)
    energy = re.search(r"^!\s+total energy\s+=\s+(\S+) Ry", run.stdout, re.MULTILINE)
    pressure = re.search(r"P=\s*(\S+)", run.stdout)
    assert energy and pressure

    real.check(["Bi", "Se"])
    atoms = rocksalt().to_ase_atoms()
    atoms.calc = real.calculator(rocksalt())
    assert atoms.get_potential_energy() == pytest.approx(float(energy[1]) * Ry, abs=1e-4)
    assert -atoms.get_stress()[:3].mean() == pytest.approx(float(pressure[1]) * 0.1 * GPa, abs=1e-4)
    assert np.abs(atoms.get_forces()).max() < 1e-3


def test_in_any_orientation(real: EspressoEngine) -> None:
    """pw.x sees the threefold axis, and forces and stress come back in the given axes."""
    rhombohedral = Structure(
        Lattice.rhombohedral(4.746, 57.23), ["Bi"] * 2, [[0.24] * 3, [-0.24] * 3]
    )
    engine = real.model_copy(update={"cutoff": 200})
    turn = Rotation.from_rotvec([0.3, -0.8, 0.5]).as_matrix()
    seen = []
    for rotation in (np.eye(3), turn):
        structure = Structure(
            rhombohedral.lattice.matrix @ rotation.T,
            rhombohedral.species,
            rhombohedral.frac_coords,
        )
        atoms = structure.to_ase_atoms()
        atoms.calc = engine.calculator(structure)
        energy = atoms.get_potential_energy()
        forces = atoms.get_forces() @ rotation
        stress = rotation.T @ atoms.get_stress(voigt=False) @ rotation
        seen.append((energy, forces, stress))
        output = (atoms.calc.directory / "espresso.pwo").read_text()
        assert "12 Sym. Ops., with inversion, found" in output
        # Along the axis, which is the sum of the three vectors.
        axis = rhombohedral.lattice.matrix.sum(0)
        assert np.linalg.norm(forces) > 0.1
        assert np.abs(np.cross(forces, axis)).max() < 0.01
    for one, other in zip(*seen, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_relaxed_cell(real: EspressoEngine) -> None:
    settings = RelaxationSettings(
        engine=real, optimizer="BFGS", fmax=0.05, max_steps=10, energy_range=(-1e5, 0)
    )
    result = Relaxer(settings)(rocksalt(5.9))
    assert result.converged, result.reason
    relaxed = result.structure
    assert relaxed.get_space_group_info()[0] == "Fm-3m"
    assert result.energy_per_atom is not None

    # At the minimum, energies of cells to both sides lie higher.
    energies = []
    for factor in (0.97, 1.03):
        strained = relaxed.copy()
        strained.scale_lattice(relaxed.volume * factor)
        atoms = strained.to_ase_atoms()
        atoms.calc = real.calculator(relaxed)
        energies.append(atoms.get_potential_energy() / 2)
    assert min(energies) > result.energy_per_atom


def test_error_of_pwx_itself(real: EspressoEngine) -> None:
    engine = real.model_copy(update={"extra": {"system": {"nbnd": 2}}})
    atoms = rocksalt().to_ase_atoms()
    atoms.calc = engine.calculator(rocksalt())
    with pytest.raises(PwxError, match="setup|electrons"):
        atoms.get_potential_energy()
    engine = real.model_copy(update={"extra": {"electrons": {"electron_maxstep": 2}}})
    atoms.calc = engine.calculator(rocksalt())
    with pytest.raises(ScfNotConvergedError, match="in 2 cycles"):
        atoms.get_potential_energy()


# GPAW


def test_gpaw_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gpaw", None)
    assert "ccdcgan[gpaw]" in complaint(GpawEngine())


def test_gpaw() -> None:
    pytest.importorskip("gpaw")
    engine = GpawEngine(cutoff=200, kpoints_length=8)
    level = engine.level_of_theory(["Se"])
    assert level.engine == "GPAW" and "Se.PBE" in level.pseudopotentials["Se"]
    atoms = rocksalt().to_ase_atoms()
    atoms.calc = engine.calculator(rocksalt())
    # GPAW counts from its atoms: a cohesive energy.
    assert -8 < atoms.get_potential_energy() / 2 < -2
    assert np.isfinite(atoms.get_stress()).all()
