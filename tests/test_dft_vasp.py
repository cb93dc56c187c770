"""The VASP engine with the stand-in: level of theory, inputs, and runs that break off or fail."""

import fcntl
import json
import os
import shutil
import signal
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from potcars import write_potcars
from pydantic import ValidationError
from pymatgen.core import Lattice, Structure
from vasp_stand_in import DISPERSION, pair_potential

from ccdcgan.dft.engines.base import same_level
from ccdcgan.dft.engines.potentials import SevenNetEngine
from ccdcgan.dft.engines.vasp.calculation import Calculation
from ccdcgan.dft.engines.vasp.files import geometries, own_words
from ccdcgan.dft.engines.vasp.inputs import write_inputs
from ccdcgan.dft.engines.vasp.record import read_record
from ccdcgan.dft.engines.vasp.relax import relax_by_vasp
from ccdcgan.dft.engines.vasp.settings import VaspEngine
from ccdcgan.dft.engines.vasp.tags import DECISIVE, INCAR, LADDER, decisive
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.queue_time import OutOfTimeError
from ccdcgan.dft.relaxation.failure import MachineError, machine_fault
from ccdcgan.dft.relaxation.key import content_key
from ccdcgan.dft.relaxation.relaxer import calculations_folder
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.dft.structures.moments import with_moments
from ccdcgan.workflows.campaign import parse_campaign
from ccdcgan.workflows.documents import Candidate, Origin, RelaxationDocument

pytestmark = [
    pytest.mark.filterwarnings("ignore::pymatgen.io.vasp.sets.BadInputSetWarning"),
    pytest.mark.filterwarnings("ignore::pymatgen.io.vasp.inputs.UnknownPotcarWarning"),
    pytest.mark.filterwarnings("ignore::pymatgen.io.vasp.outputs.UnconvergedVASPWarning"),
]

STAND_IN = f"{sys.executable} {Path(__file__).with_name('vasp_stand_in.py')}"
BISE = Structure(Lattice.orthorhombic(3.9, 3.8, 4.1), ["Bi", "Se"], [[0, 0, 0], [0.53, 0.49, 0.5]])
FEO = Structure(
    Lattice.cubic(4.0), ["Fe", "O", "Fe"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.02, 0.51, 0.5]]
)


#: Index of a stage of each kind.
STAGES = {"relax": 0, "static": -1}


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A machine with VASP's stand-in and POTCARs."""
    import pymatgen.core

    folder = write_potcars(tmp_path / "psp", ["Bi", "Se", "Fe", "O"])
    monkeypatch.setitem(pymatgen.core.SETTINGS, "PMG_VASP_PSP_DIR", str(folder))
    monkeypatch.setenv("PMG_VASP_PSP_DIR", str(folder))
    monkeypatch.setenv("ATOMATE2_VASP_CMD", STAND_IN)
    monkeypatch.setenv("CCDCGAN_CALCULATIONS", str(tmp_path / "calculations"))
    monkeypatch.setenv("VASP_STAND_IN_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("VASP_STAND_IN_FAULTS", str(tmp_path / "faults.json"))
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    return tmp_path


@pytest.fixture
def faults(machine):
    return lambda told: (machine / "faults.json").write_text(json.dumps({"*": told}))


@pytest.fixture
def wrapper(machine, monkeypatch):
    """A VASP that does something before it starts."""

    def write(script):
        (machine / "vasp_std").write_text(f"#!/bin/sh\n{script}\nexec {STAND_IN}\n")
        (machine / "vasp_std").chmod(0o755)
        monkeypatch.setenv("ATOMATE2_VASP_CMD", str(machine / "vasp_std"))

    return write


@pytest.fixture
def log(machine):
    return lambda: [json.loads(line) for line in (machine / "log").read_text().splitlines()]


@pytest.fixture
def record(machine):
    def read(*path):
        (file,) = (machine / "calculations").glob("*/calculation.json")
        return json.loads(file.read_text())

    return read


def settings(max_steps=200, fmax=0.03, **engine):
    engine = VaspEngine(**{"polling": 0.1, "buffer": 0.0, "stages": ("relax",)} | engine)
    return RelaxationSettings(engine=engine, max_steps=max_steps, fmax=fmax)


def relax(structure=BISE, **chosen):
    return relax_by_vasp(structure, settings(**chosen))


def one_line(reason):
    return "\n" not in reason and "0x" not in reason and len(reason) < 300


# ------------------------------------------------------------------------------ level of theory


def test_all_compositions_have_the_level_that_was_asked():
    asked = settings().engine.level_of_theory()
    levels = [relax(s)[0].level_of_theory for s in (BISE, FEO)]
    for level in levels:
        assert level.model_copy(update={"pseudopotentials": {}}) == asked
    assert asked.scale == "PBE, uncorrected"
    assert levels[0].pseudopotentials["Bi"].startswith("PAW_PBE Bi 01Jan2026 stand-in ")
    merged = same_level(levels)
    assert sorted(merged.pseudopotentials) == ["Bi", "Fe", "O", "Se"]
    other = levels[0].model_copy(update={"pseudopotentials": {"Bi": "PAW_PBE Bi_d"}})
    with pytest.raises(UserError, match="one pseudopotential of Bi"):
        same_level([levels[0], other])


@pytest.mark.parametrize(
    "other",
    [
        {"incar": {"ENCUT": 400}},
        {"incar": {"LASPH": False}},
        {"incar": {"METAGGA": "SCAN"}},
        {"incar": {"SIGMA": 0.2}},
        {"kpoints_length": 30},
        {"functional": "PBE_54"},
        {"potcars": {"Bi": "Bi_d"}},
        {"stages": ("relax", "static")},
    ],
)
def test_what_decides_energies_is_another_level(other):
    plain, changed = VaspEngine(), VaspEngine(**other)
    assert plain.level_of_theory() != changed.level_of_theory()
    with pytest.raises(UserError, match="one level of theory"):
        same_level([plain.level_of_theory(), changed.level_of_theory()])


def test_levels_with_words_that_begin_alike():
    scan, scanl = (VaspEngine(incar={"METAGGA": name}) for name in ("SCAN", "SCANL"))
    assert scan.level_of_theory() != scanl.level_of_theory()


def test_what_does_not_decide_energies_is_the_same_level():
    technical = VaspEngine(incar={"kpar": 2, "ALGO": "Normal", "encut": 500}, attempts=3)
    assert technical.level_of_theory() == VaspEngine().level_of_theory()


@pytest.mark.parametrize("stage", ["relax", "static"])
@pytest.mark.parametrize("incar", [{}, {"LASPH": False, "ENCUT": 400, "PREC": "Normal"}])
def test_level_names_what_is_written(tmp_path, stage, incar):
    from pymatgen.io.vasp import Incar

    engine = VaspEngine(incar=incar)
    write_inputs(engine, FEO, STAGES[stage], {}, tmp_path)
    written = Incar.from_file(tmp_path / "INCAR")
    assert decisive(written) == decisive({**INCAR, **incar})
    assert not {"LDAUU", "LDAUL"} & set(written)


def test_u_by_the_scheme_of_the_materials_project(tmp_path, machine):
    """Oxides and fluorides get its U, their metals none; the level is one, the POTCARs its own."""
    from pymatgen.io.vasp import Incar, Potcar
    from pymatgen.io.vasp.sets import MPRelaxSet

    write_potcars(machine / "psp", ["Fe_pv", "O"])
    engine = VaspEngine(hubbard_u="mp2020")
    iron = Structure(Lattice.cubic(2.87), ["Fe", "Fe"], [[0, 0, 0], [0.5] * 3])
    for structure in (FEO, iron):
        folder = tmp_path / structure.composition.reduced_formula
        folder.mkdir()
        write_inputs(engine, structure, 0, {}, folder)
        incar, theirs = (
            Incar.from_file(folder / "INCAR"),
            MPRelaxSet(structure.get_sorted_structure()).incar,
        )
        for tag in ("LDAU", "LDAUU", "LDAUJ", "LDAUL", "LDAUTYPE", "ENCUT"):
            assert (incar.get(tag) or None) == theirs.get(tag), tag
    assert "LDAUU" not in incar
    assert [p.symbol for p in Potcar.from_file(tmp_path / "Fe2O" / "POTCAR")] == ["Fe_pv", "O"]
    engine.check(["Fe", "O"])
    with pytest.raises(UserError, match="belongs to the POTCAR Fe_pv of Fe"):
        VaspEngine(hubbard_u="mp2020", potcars={"Fe": "Fe"}).check(["Fe", "O"])
    level = engine.level_of_theory()
    assert level.scale == "PBE with the Materials Project's U, uncorrected"
    assert level != VaspEngine(incar={"ENCUT": 520}).level_of_theory()
    assert engine.mixes_scales and not VaspEngine().mixes_scales


def test_energies_with_u_are_corrected_on_the_hull():
    engine = {"name": "vasp", "hubbard_u": "mp2020"}
    oxides = parse_campaign({"system": "Fe-O", "relaxation": {"engine": engine}}, "file")
    assert oxides.corrections is not None
    alloys = parse_campaign({"system": "Fe-Al", "relaxation": {"engine": engine}}, "file")
    assert alloys.corrections is None
    plain = parse_campaign({"system": "Fe-O", "relaxation": {"engine": {"name": "vasp"}}}, "file")
    assert plain.corrections is None


def test_one_u_in_all_structures(tmp_path):
    """A U of the user's own holds in the metal, too: one level."""
    from pymatgen.io.vasp import Incar

    engine = VaspEngine(incar={"LDAU": True, "LDAUU": {"Fe": 4}, "LDAUL": {"Fe": 2}})
    iron = Structure(Lattice.cubic(2.87), ["Fe", "Fe"], [[0, 0, 0], [0.5] * 3])
    for structure, expected in ((iron, [4]), (FEO, [4, 0]), (BISE, None)):
        write_inputs(engine, structure, 0, {}, tmp_path)
        written = Incar.from_file(tmp_path / "INCAR")
        assert written.get("LDAUU") == expected
        assert bool(written.get("LDAU")) == bool(expected), "alone it gives U to all elements"
    other = VaspEngine(incar={"LDAU": True, "LDAUU": {"Fe": 5}, "LDAUL": {"Fe": 2}})
    assert engine.level_of_theory() != other.level_of_theory()


@pytest.mark.parametrize(
    ("incar", "words"),
    [
        ({"KSPACING": 0.2}, "KSPACING follows from engine.kpoints_length"),
        ({"EDIFFG": -0.01}, "EDIFFG follows from relaxation.fmax"),
        ({"PSTRESS": 200}, "PSTRESS follows from relaxation.pressure"),
        ({"ISIF": 2}, "ISIF: a relaxation relaxes cell and positions"),
        ({"IBRION": 0}, "IBRION: only 1, 2 and 3"),
        ({"ENCUTT": 600}, "ENCUTT is no tag of VASP; did you mean ENCUT"),
        ({"ALGOO": "All"}, "did you mean ALGO"),
    ],
)
def test_tags_that_cannot_work(incar, words):
    data = {"system": "Bi-Se", "relaxation": {"engine": {"name": "vasp", "incar": incar}}}
    with pytest.raises(UserError, match=words) as caught:
        parse_campaign(data, "file")
    assert "\n" not in str(caught.value)


def test_tags_that_are_new_to_us_are_vasps_affair():
    assert VaspEngine(incar={"ML_LMLFF": False}).tags == {"ML_LMLFF": False}


def test_spin_orbit_needs_another_program():
    with pytest.raises(UserError, match="need vasp_ncl"):
        VaspEngine(incar={"LSORBIT": True}).check(["Bi", "Se"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"incar": {"LDAU": True}}, "add LDAUU: {Fe: 4.0}"),
        ({"incar": {"LDAU": True, "LDAUU": [4, 0]}}, "LDAUU: give one number for each element"),
        ({"incar": {"LDAU": True, "LDAUU": {"O": {"Fe": 4}}}}, "two levels of theory"),
        ({"incar": {"LDAU": True, "LDAUU": {"Fe": float("nan")}}}, "one number for each"),
        ({"hubbard_u": "mp2020", "incar": {"LDAUU": {"Fe": 4}}}, "sets LDAUU: leave one"),
        ({"hubbard_u": "mp2020", "incar": {"ENCUT": 400}}, "ENCUT of at least 520 eV"),
        ({"hubbard_u": "mp2020", "incar": {"METAGGA": "R2SCAN"}}, "fitted to PBE"),
        ({"hubbard_u": "mp2020", "functional": "PBE_54"}, "the PBE set of POTCARs"),
    ],
)
def test_u_that_would_mix_levels(settings, words):
    data = {"system": "Fe-O", "relaxation": {"engine": {"name": "vasp", **settings}}}
    with pytest.raises(UserError, match=words) as caught:
        parse_campaign(data, "file")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("sed -i 's/^ENCUT.*/ENCUT = 400/' INCAR", "ran with ENCUT 400.0 instead of 500.0"),
        (r"sed -i '4s/.*/2 2 2/' KPOINTS", "ran with KPOINTS (2, 2, 2) instead of (11, 11, 10)"),
    ],
)
def test_a_run_at_another_level_is_no_result(wrapper, script, words):
    wrapper(script)
    result, _ = relax()
    assert not result.converged and result.reason == words
    assert result.attempts == 1, "the same would come again"
    assert words.removeprefix("ran with ") in result.level_of_theory.scale
    assert result.level_of_theory.checkpoint != VaspEngine().level_of_theory().checkpoint


def test_prec_is_known_when_vasp_cuts_it(wrapper):
    wrapper("sed -i 's/^PREC.*/PREC = accura/' INCAR")
    assert relax()[0].converged


# ---------------------------------------------------------------------------------------- inputs


def test_inputs_are_the_papers(tmp_path):
    from pymatgen.io.vasp import Incar, Kpoints, Potcar

    _, folder = relax(fmax=0.02, max_steps=77)
    incar = Incar.from_file(folder / "INCAR")
    wanted = {"ENCUT": 500, "ISIF": 3, "EDIFFG": -0.02, "NSW": 77, "IBRION": 2}
    assert {tag: incar[tag] for tag in wanted} == wanted
    assert incar["GGA"].upper() == "PE"
    grid = Kpoints.from_file(folder / "KPOINTS")
    reference = Kpoints.automatic_density_by_lengths(BISE, [40] * 3, force_gamma=True)
    assert (grid.style.name, grid.kpts) == ("Gamma", reference.kpts) == ("Gamma", [(11, 11, 10)])
    assert [p.symbol for p in Potcar.from_file(folder / "POTCAR")] == ["Bi", "Se"]


def test_any_tag_can_be_overridden(tmp_path):
    from pymatgen.io.vasp import Incar

    _, folder = relax(incar={"encut": 320, "ismear": 1, "SIGMA": 0.2, "LDAU": None})
    incar = Incar.from_file(folder / "INCAR")
    assert (incar["ENCUT"], incar["ISMEAR"], incar["SIGMA"]) == (320, 1, 0.2)


def test_potcars_of_choice(machine, monkeypatch):
    from pymatgen.io.vasp import Potcar

    write_potcars(machine / "psp", ["Bi_d"])
    result, folder = relax(potcars={"Bi": "Bi_d"})
    assert "PAW_PBE Bi_d" in result.level_of_theory.pseudopotentials["Bi"]
    assert [p.symbol for p in Potcar.from_file(folder / "POTCAR")] == ["Bi_d", "Se"]


def test_sites_in_any_order_get_one_potcar_an_element(tmp_path):
    write_inputs(VaspEngine(), FEO, 0, {}, tmp_path)
    assert (tmp_path / "POTCAR").read_text().count("TITEL") == 2


def test_stages(log, record):
    from pymatgen.io.vasp import Incar

    result, folder = relax(stages=("relax", "relax", "static"))
    assert result.converged and folder.name == "03-static"
    assert [a["folder"] for a in record()] == ["01-relax", "02-relax", "03-static"]
    incar = Incar.from_file(folder / "INCAR")
    assert incar["NSW"] == 0 and "EDIFFG" not in incar
    runs = log()
    assert runs[0]["start"] != runs[1]["start"] == runs[2]["start"]
    assert result.energy_per_atom == pytest.approx(runs[0]["energy_last"] / 2, abs=1e-4)
    assert result.steps == sum(run["steps"] for run in runs)
    assert not [*folder.parent.glob("*/WAVECAR"), *folder.parent.glob("*/CHGCAR")]


def test_what_is_asked_is_two_relaxations_and_a_static_run():
    assert VaspEngine().stages == ("relax", "relax", "static")


def test_a_static_run_finds_that_the_cell_had_another_basis(faults):
    true, _ = relax(BISE, fmax=0.005, stages=("relax", "static"), max_stress=2.0)
    faults("pulay")
    crystal = BISE.copy().apply_strain(0.02, inplace=True)
    result, _ = relax(crystal, fmax=0.005, stages=("relax", "static"), max_stress=2.0)
    runs = read_record(Path(result.folder))
    assert [a.outcome for a in runs[-2:]] == ["done"] * 2
    found = next(i for i, a in enumerate(runs) if a.folder.endswith("static"))
    for attempt in runs[found - 1 : found + 1]:
        assert attempt.outcome == "failed" and attempt.reason.startswith("largest stress is")
    assert runs[found + 1].folder.endswith("relax")
    assert result.converged and result.max_stress * 1602 < 2.0
    assert result.energy_per_atom == pytest.approx(true.energy_per_atom, abs=1e-4)


@pytest.mark.parametrize("done", [1, 2, 3])
def test_an_interruption_does_not_change_the_energy(done):
    stages = ("relax", "relax", "static")
    true, folder = relax(stages=stages)
    # As a kill has it, while a stage is run.
    runs = json.loads((folder.parent / "calculation.json").read_text())
    for run in runs[done:]:
        shutil.rmtree(folder.parent / run["folder"])
    runs[done - 1]["outcome"] = "running"
    (folder.parent / "calculation.json").write_text(json.dumps(runs[:done]))
    again, _ = relax(stages=stages)
    assert again.converged and again.attempts == 4
    assert again.energy_per_atom == pytest.approx(true.energy_per_atom, abs=1e-4)


def test_files_that_were_packed_are_read(log):
    import gzip

    before, folder = relax()
    for name in ("vasprun.xml", "OUTCAR", "POTCAR", "CONTCAR", "INCAR"):
        packed = folder / f"{name}.gz"
        packed.write_bytes(gzip.compress((folder / name).read_bytes()))
        (folder / name).unlink()
    after, _ = relax()
    assert len(log()) == 1 and after.energy_per_atom == before.energy_per_atom
    assert len(after.frames) == len(before.frames)


@pytest.mark.parametrize("gone", ["vasprun.xml", "POTCAR"])
def test_files_that_are_gone(log, gone):
    """Without a stored result the last geometry is computed once more."""
    _, folder = relax()
    (folder / gone).unlink()
    after, _ = relax()
    first, second = log()
    assert after.converged and second["energy_first"] <= first["energy_last"] + 1e-3


def test_a_record_that_is_cut(log):
    _, folder = relax()
    (folder.parent / "calculation.json").write_text('[{"folder": "01-re')
    assert relax()[0].converged
    first, second = log()
    assert second["energy_first"] <= first["energy_last"] + 1e-3


def test_waves_are_kept_if_asked_for():
    _, folder = relax(stages=("relax", "relax", "static"), keep_waves=True)
    # They travel: they are large, and kept once.
    assert [p.parent.name for p in folder.parent.glob("*/WAVECAR")] == ["03-static"]


@pytest.mark.parametrize("version", ["5.4.4", "6.4.2"])
def test_frames_fit_together(log, monkeypatch, version):
    """Forces and stresses of neighbouring frames say by how much the energy falls."""
    monkeypatch.setenv("VASP_STAND_IN_VERSION", version)
    result, _ = relax(
        compressed := BISE.copy().apply_strain(-0.05, inplace=True), stages=("relax", "static")
    )
    frames = result.frames
    assert frames[-1].energy / 2 == pytest.approx(result.energy_per_atom, abs=1e-4)
    cells = [np.array(f.cell) for f in frames]
    np.testing.assert_allclose(cells[0], compressed.lattice.matrix, atol=1e-4)
    falls = np.diff([f.energy for f in frames])
    for (a, b), cell, after, fall in zip(pairwise(frames), cells, cells[1:], falls, strict=False):
        strain = np.linalg.solve(cell, after) - np.eye(3)
        moved = np.array(b.positions) - np.array(a.positions) @ (np.eye(3) + strain)
        work = 0.0
        for frame, box in ((a, cell), (b, after)):
            xx, yy, zz, yz, xz, xy = frame.stress
            stress = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
            work += np.linalg.det(box) * (stress * strain).sum() / 2
            work -= (np.array(frame.forces) * moved).sum() / 2
        assert fall == pytest.approx(work, rel=0.2, abs=0.005)


def test_pre_relaxation(log):
    pre = SevenNetEngine()
    asked = settings(pre_relax=pre, fmax=0.3, max_stress=50)
    # As a power cut may leave it: as if there were none.
    cut = calculations_folder() / content_key(BISE, asked.engine.level_of_theory(), asked)
    cut.mkdir(parents=True)
    (cut / "pre_relaxed.json").touch()
    result, folder = relax(pre_relax=pre, fmax=0.3, max_stress=50)
    assert folder.parent == cut
    stored = Structure.from_dict(json.loads((folder.parent / "pre_relaxed.json").read_text()))
    assert log()[0]["volume"] == pytest.approx(stored.volume) != pytest.approx(BISE.volume)
    # Another way to a minimum, but the same level of theory.
    plain = settings(fmax=0.3)
    assert result.converged and result.key != content_key(
        BISE, plain.engine.level_of_theory(), plain
    )
    assert settings(pre_relax=pre).engine.level_of_theory() == plain.engine.level_of_theory()


# -------------------------------------------------------------------- runs that stop or are killed


def test_a_run_stopped_by_walltime_goes_on_in_the_next(faults, log, record):
    # Four of the steps that it needs fit into a run, with room for a busy machine.
    faults({"fault": "slow", "seconds": 1.0})
    result, _ = relax(walltime=6 / 3600, buffer=1)
    outcomes = [a["outcome"] for a in record()]
    assert len(outcomes) > 1 and outcomes == ["stopped"] * (len(outcomes) - 1) + ["done"]
    runs = log()
    assert len(runs) == len({run["start"] for run in runs}) == result.attempts
    for before, after in pairwise(runs):
        assert after["energy_first"] < before["energy_first"]
    assert result.converged and result.steps == sum(run["steps"] for run in runs)


def test_a_job_whose_queue_time_ends(machine, faults, monkeypatch, record, log):
    from ccdcgan.launchers.workdir import embedded_store
    from ccdcgan.workflows.campaign import Campaign
    from ccdcgan.workflows.relax import RelaxMaker

    faults({"fault": "slow", "seconds": 2.0})
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time() + 14)))
    with pytest.raises(OutOfTimeError):
        relax(buffer=4)
    assert [a["outcome"] for a in record()] == ["stopped"]
    campaign = Campaign(relaxation=settings(buffer=4)).model_dump(mode="json")
    origin = {"kind": "prototype", "id": "a"}
    job = RelaxMaker().make([{"origin": origin, "structure": BISE.as_dict()}], campaign)
    store = embedded_store(machine)
    store.connect()
    waited: list[float] = []
    monkeypatch.setattr("ccdcgan.dft.queue_time.sleep", waited.append)
    response = job.run(store)
    assert response.replace is not None and response.output is None
    assert waited == [10.0]
    assert len(log()) == 1, "nothing was begun"
    monkeypatch.delenv("SLURM_JOB_END_TIME")
    (machine / "faults.json").unlink()
    (again,) = response.replace.jobs
    output = again.run(store).output
    (task,) = output["tasks"].values()
    assert task["state"] == "successful" and len(output["entries"]) == 1
    assert len({run["start"] for run in log()}) == 2


def test_a_job_with_the_end_of_another_one_is_run(machine, monkeypatch):
    """It would else wait and begin again, for ever."""
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time() - 86400)))
    assert relax(buffer=300.0)[0].converged


def rewrite(folder, **values):
    """Change the last run on record."""
    attempts = json.loads((folder / "calculation.json").read_text())
    attempts[-1].update(values)
    (folder / "calculation.json").write_text(json.dumps(attempts))


def test_a_killed_calculation_goes_on(log, record):
    _, folder = relax()
    rewrite(folder.parent, outcome="running", steps=0)
    after, _ = relax()
    first, second = record()
    assert (first["outcome"], first["reason"]) == ("stopped", "killed") and first["steps"] > 1
    runs = log()
    assert after.converged and runs[1]["energy_first"] <= runs[0]["energy_last"] + 1e-3
    assert after.steps == first["steps"] + second["steps"] == sum(run["steps"] for run in runs)


def test_a_finished_calculation_is_not_run_again(log):
    before, folder = relax()
    after, again = relax()
    assert len(log()) == 1 and again == folder
    assert after.model_dump() == before.model_dump()


def test_ctrl_c_ends_vasp_and_is_no_failure(machine, faults, record):
    import psutil

    def interrupt(*_):
        raise KeyboardInterrupt

    def press_when_it_runs():
        while not list(machine.glob("calculations/*/01-relax/OUTCAR")):
            time.sleep(0.05)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGALRM)

    faults("hang")
    # Other tests of this process may have left a resource tracker.
    there = set(psutil.Process().children())
    before = signal.signal(signal.SIGALRM, interrupt)
    threading.Thread(target=press_when_it_runs, daemon=True).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            relax()
    finally:
        signal.signal(signal.SIGALRM, before)
    (attempt,) = record()
    assert (attempt["outcome"], attempt["reason"]) == ("stopped", "interrupted")
    left = set(psutil.Process().children()) - there
    assert not psutil.wait_procs(left, timeout=10)[1]
    assert relax()[0].converged


@pytest.mark.parametrize(
    ("reason", "gives_up"), [("killed", True), ("interrupted", False), ("largest force", True)]
)
def test_queue_time_shorter_than_an_ionic_step(log, reason, gives_up):
    _, folder = relax()
    stopped = {"stage": 0, "rung": 0, "outcome": "stopped", "reason": reason, "steps": 0}
    attempts = [{"folder": f"{i:02d}-relax", **stopped} for i in (1, 2, 3)]
    (folder.parent / "calculation.json").write_text(json.dumps(attempts))
    result, _ = relax()
    assert result.converged != gives_up and len(log()) == 2 - gives_up
    if gives_up:
        assert result.reason.startswith("no ionic step fits into the queue time")


def test_two_processes_on_one_calculation(machine, monkeypatch, log):
    """The second waits, and finds what the first has computed."""
    monkeypatch.setattr("ccdcgan.dft.engines.vasp.relax.PAUSE", 0.05)
    first = relax()[0]
    with (machine / "calculations" / first.key / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = []
        waiting = threading.Thread(target=lambda: found.append(relax()[0]))
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive() and not found
        fcntl.flock(lock, fcntl.LOCK_UN)
        waiting.join(30)
    assert found[0].energy_per_atom == first.energy_per_atom and len(log()) == 1


def test_waiting_ends_before_the_queue_does(machine, monkeypatch):
    key = relax()[0].key
    monkeypatch.setattr("ccdcgan.dft.engines.vasp.relax.PAUSE", 0.05)
    monkeypatch.setenv("CCDCGAN_END_TIME", str(int(time.time() + 5)))
    with (machine / "calculations" / key / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(OutOfTimeError):
            relax(buffer=10)


def test_a_ladder_of_the_users_own(faults, record):
    faults({"fault": "eddrmm", "times": None})
    result, _ = relax(ladder=[{}, {"algo": "Normal"}])
    assert [a["incar"] for a in record()] == [{}, {"ALGO": "Normal"}]
    assert result.reason.startswith("failed in 2 ways")
    with pytest.raises(ValidationError, match="ENCUT would change the energy"):
        VaspEngine(ladder=[{"ENCUT": 300}])


def test_forces_that_vasp_takes_for_small(wrapper, record):
    """VASP stops at its own accuracy; ours is asked for with a tighter one."""
    from pymatgen.io.vasp import Incar

    wrapper("sed -i 's/^EDIFFG = -0.03.*/EDIFFG = -0.2/' INCAR")
    result, folder = relax()
    assert result.converged and record()[0]["reason"].startswith("largest force is")
    assert Incar.from_file(folder / "INCAR")["EDIFFG"] == pytest.approx(-0.015)


@pytest.mark.parametrize(
    "damage", ["", "empty CONTCAR", "no CONTCAR", "cut", "empty both", "empty both and cut"]
)
def test_geometries(tmp_path, damage):
    from pymatgen.io.vasp import Poscar, Vasprun, Xdatcar

    folder = shutil.copytree(relax()[1], tmp_path / "copy")
    contcar = Poscar.from_file(folder / "CONTCAR").structure
    wanted = contcar
    if damage == "cut":
        (folder / "CONTCAR").write_text((folder / "CONTCAR").read_text()[:300])
    elif damage == "no CONTCAR":
        (folder / "CONTCAR").unlink()
    elif damage:
        (folder / "CONTCAR").write_text("")
    if damage in ("empty CONTCAR", "no CONTCAR", "cut"):
        wanted = Xdatcar(folder / "XDATCAR").structures[-1]
    if damage.startswith("empty both"):
        (folder / "XDATCAR").write_text("")
        wanted = Vasprun(folder / "vasprun.xml", parse_dos=False).structures[-1]
    if damage.endswith("and cut"):
        text = (folder / "vasprun.xml").read_text()
        (folder / "vasprun.xml").write_text(text[: len(text) // 3])
        wanted = Poscar.from_file(folder / "POSCAR").structure
    assert next(geometries(folder)).lattice == wanted.lattice
    assert list(geometries(tmp_path)) == []


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_geometry_that_is_cut_within_its_last_number(end):
    """A file that was not flushed, of a run that is done, or was killed."""
    from pymatgen.io.vasp import Poscar, Vasprun

    _, folder = relax(stages=("relax", "static"))
    calculation = Calculation(folder.parent, BISE, settings(stages=("relax", "static")))
    for attempt in calculation.attempts:
        path = calculation.path(attempt)
        judged = Vasprun(path / "vasprun.xml", parse_dos=False, parse_eigen=False).final_structure
        digits = Poscar.from_file(path / "CONTCAR", check_for_potcar=False).structure
        assert next(geometries(path, is_done=True)) == digits, "which vasprun.xml has not all of"
        text = (path / "CONTCAR").read_text().rstrip()
        (path / "CONTCAR").write_text(text[: text.rindex(".") + 2] + end)
        if not end:
            left = next(geometries(path))
            np.testing.assert_allclose(left.frac_coords, judged.frac_coords, atol=1e-6)
    np.testing.assert_allclose(calculation.geometry().frac_coords, judged.frac_coords, atol=1e-6)


@pytest.mark.parametrize(
    "left",
    [
        Structure(BISE.lattice, ["Bi", "Bi"], BISE.frac_coords),
        Structure(BISE.lattice, ["Bi", "Se"], [[0, 0, 0], [0.1, 0.1, 0.1]]),
        Structure(Lattice.cubic(20), ["Bi", "Se"], BISE.frac_coords),
    ],
)
def test_a_geometry_that_no_crystal_can_have_is_passed_over(left):
    from pymatgen.io.vasp import Poscar

    _, folder = relax()
    calculation = Calculation(folder.parent, BISE, settings())
    volume = calculation.geometry().volume
    assert volume != pytest.approx(BISE.volume)
    Poscar(left).write_file(folder / "CONTCAR")
    assert calculation.geometry().volume == pytest.approx(volume), "XDATCAR's last one"
    for name in ("XDATCAR", "vasprun.xml"):
        (folder / name).unlink()
    assert with_moments(calculation.geometry(), None) == BISE


# ------------------------------------------------------------------------------- whose fault it is

FULL = "echo 'forrtl: No space left on device' >&2; exit 1"
KILLED = "echo 'slurmstepd: error: Detected 1 oom_kill event in StepId=7.0' >&2; exit 137"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (FULL, "disk of .*No space left on device.*free space"),
        ("echo 'write: Disk quota exceeded' >&2; exit 1", "disk of"),
        (KILLED, "memory of .*oom_kill.*more memory"),
        (
            "echo 'srun: error: Unable to create step for job 7: Job/step invalid' >&2; exit 1",
            "queue",
        ),
        (
            "echo 'vasp_std: error while loading shared libraries: libmkl.so' >&2; exit 127",
            "modules",
        ),
        ("touch OUTCAR; exit 1", "start of VASP of"),
    ],
)
def test_a_fault_of_the_machine_blames_no_crystal(wrapper, log, record, script, words):
    """It is said in one line, costs no step of the ladder, and is gone when it is mended."""
    first = BISE.copy().apply_strain(0.02, inplace=False)
    for _ in range(2):
        wrapper(script)
        with pytest.raises(MachineError, match=words) as caught:
            relax(first)
        assert one_line(str(caught.value).replace("/", "")[:200]) and "\n" not in str(caught.value)
    assert {a["outcome"] for a in record()} <= {"stopped"}
    wrapper("")
    result, _ = relax(first)
    assert result.converged and [a["rung"] for a in record()][-1] == 0
    assert len(log()) == 1


CHATTER = [
    "[node7:$$] PMIX ERROR: ERROR in file gds_ds12_lock_pthread.c at line 168",
    "ibv_exp_query_device: invalid comp_mask !!! (comp_mask = 0x$$)",
]


@pytest.mark.parametrize("stream", ["", ">&2"])
@pytest.mark.parametrize("line", CHATTER)
def test_what_mpi_says_at_each_start_is_no_fault(wrapper, faults, record, line, stream):
    """VASP itself breaks off later, by the crystal."""
    wrapper(f"echo '{line.replace('$$', '2211')}' {stream}")
    faults({"fault": "segfault", "times": None})
    result, _ = relax(ladder=({}, {"ALGO": "Normal"}))
    assert result.failure == "crystal" and "SIGSEGV" in result.reason
    assert [(a["outcome"], a["fault"]) for a in record()] == [("failed", None)] * 2


@pytest.mark.parametrize("fault", ["network", "oom"])
def test_what_the_machine_says_after_that_is_one(wrapper, faults, record, fault):
    wrapper("; ".join(f"echo '{line}' >&2" for line in CHATTER))
    faults({"fault": fault, "times": 1})
    with pytest.raises(MachineError, match=r"Transport retry count|oom-kill"):
        relax()
    # Before an electronic step they may be what has ended it.
    wrapper(f"echo '{CHATTER[0]}' >&2; exit 1")
    with pytest.raises(MachineError, match="PMIX ERROR"):
        relax()
    assert {a["outcome"] for a in record()} == {"stopped"}


def test_a_disk_that_fills_on_the_way(wrapper, log, record):
    """What was relaxed before is not relaxed again."""
    _, folder = relax()
    attempts = json.loads((folder.parent / "calculation.json").read_text())
    attempts[-1].update(outcome="running", reason=None)
    (folder.parent / "calculation.json").write_text(json.dumps(attempts))
    wrapper(FULL)
    with pytest.raises(MachineError):
        relax()
    wrapper("")
    assert relax()[0].converged
    before, after = log()
    assert after["energy_first"] <= before["energy_last"] + 1e-3


def test_memory_is_the_crystals_fault_where_others_pass(wrapper, machine):
    wrapper(KILLED)
    with pytest.raises(MachineError):
        relax(FEO)
    with pytest.raises(MachineError):
        relax(FEO)
    wrapper("")
    assert relax(BISE)[0].converged
    wrapper(KILLED)
    result, _ = relax(FEO)
    assert not result.converged and "it needs more memory" in result.reason
    assert "oom_kill" in result.reason


def test_runs_that_were_stopped_on_their_way_do_not_count(faults, record):
    faults({"fault": "slow", "seconds": 1.0})
    result, _ = relax(walltime=5 / 3600, buffer=1, attempts=2)
    assert result.converged and len(record()) > 2


def test_numbers_as_vasp_writes_them(wrapper):
    wrapper("sed -i 's/^AEXX.*/AEXX = 0.33333333/' INCAR")
    assert relax(incar={"LHFCALC": True, "AEXX": 0.3333333333})[0].converged
    wrapper("sed -i 's/^AEXX.*/AEXX = 0.25/' INCAR")
    result, _ = relax(FEO, incar={"LHFCALC": True, "AEXX": 0.3333333333})
    assert "AEXX 0.25 instead of" in result.reason


def test_a_grid_of_another_kind_is_another_level(wrapper):
    wrapper("sed -i '3s/.*/Monkhorst-Pack/' KPOINTS")
    result, _ = relax(kpoints_length=15)
    assert "KPOINTS Monkhorst" in result.reason
    assert relax(FEO, kpoints_length=10)[0].converged, "of odd divisions it is the same"


MESSAGES = {
    "disk": [
        "cp: error writing 'WAVECAR': No space left on device",
        "OSError: [Errno 122] Disk quota exceeded",
        "forrtl: Disc quota exceeded",
    ],
    "file system": [
        "ls: cannot access '/scratch': Stale file handle",
        "[Errno 30] Read-only file system",
    ],
    "memory": [
        "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=1.batch",
        "forrtl: severe (41): insufficient virtual memory",
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "[Errno 12] Cannot allocate memory",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
        "/bin/sh: line 1:  4242 Killed                  vasp_std",
    ],
    "queue": [
        "srun: error: Unable to create step for job 12: More processors requested than permitted",
        "slurmstepd: error: *** JOB 12 ON n01 CANCELLED AT 2026-01-01 DUE TO NODE FAILURE ***",
        "sbatch: error: Batch job submission failed: Invalid account",
        "srun: error: Task launch for StepId=12.0 failed on node n01: Communication failure",
        "srun: error: Unable to contact slurm controller (connect failure)",
        "slurmstepd: error: *** STEP 12.0 ON n01 CANCELLED AT 2026-01-01 DUE TO PREEMPTION ***",
    ],
    "network of the nodes": [
        "[n01:1] UCX  ERROR Failed to allocate memory pool",
        "An ORTE has lost communication",
        "ssh: connect to host n02 port 22: Connection refused",
    ],
    "installation": [
        "vasp_std: error while loading shared libraries: libmpi.so.40: cannot open it",
        "bash: vasp_std: command not found",
        "[proxy:0:0@n01] HYDU_create_process: execvp error on file vasp_std (No such file)",
        "pw.x: symbol lookup error: pw.x: undefined symbol: mpi_init_",
        "There are not enough slots available in the system to satisfy the 64 slots",
        "srun\", but OMPI was not built with SLURM's PMI support and therefore cannot execute.",
        "PMI2_Job_GetId returned 14",
    ],
    "licence": ["License checkout failed: FLEXlm error -5"],
    "accelerator": [
        "CUDA error: no CUDA-capable device is detected",
        "CUDA error: no kernel image is available for execution on the device",
        "RuntimeError: Found no NVIDIA driver on your system.",
    ],
}


@pytest.mark.parametrize(("what", "line"), [(w, m) for w, ms in MESSAGES.items() for m in ms])
def test_messages_of_machines(what, line):
    fault = machine_fault(None, f"running on 4 cores\n{line}\n")
    assert fault is not None and (fault.what, fault.words) == (what, " ".join(line.split()))


@pytest.mark.parametrize(
    "line",
    [
        "ZBRENT: fatal error in bracketing",
        "Error EDDDAV: Call to ZHEGV failed. Returncode =   7   1   8",
        "internal error in subroutine PRICEL (probably precision problem)",
        "LAPACK: Routine ZPOTRF failed!    8   1  0",
        "VERY BAD NEWS! internal error in subroutine SGRCON",
        "forrtl: severe (174): SIGSEGV, segmentation fault occurred",
        "convergence NOT achieved after 100 iterations: stopping",
        "Error in routine cdiaghg (12):  S matrix not positive definite",
        "The old and the new charge density differ",
        "    total memory used by VASP MPI-rank0    30000. kBytes",
    ],
)
def test_messages_of_crystals(line):
    assert machine_fault(None, f"running on 4 cores\n{line}\n") is None


def test_vasps_own_words(tmp_path):
    banner = "|  EEEEEEE  RRRRRR   RRRRRR   OOOOOOO  RRRRRR  |"
    box = "|     internal error in: mkpoints_full.F  at line: 1050   |\n|     increase SYMPREC  |"
    (tmp_path / "vasp.out").write_text(f" running 4 mpi-ranks\n{banner}\n{box}\n -----\n")
    assert (
        own_words(tmp_path) == "internal error in: mkpoints_full.F at line: 1050 increase SYMPREC"
    )
    (tmp_path / "vasp.out").write_text(" running 4 mpi-ranks\n DAV:   1  -0.1E+01\n")
    assert own_words(tmp_path) is None


# -------------------------------------------------------------------------------- runs that fail


@pytest.mark.parametrize(
    ("fault", "chosen"),
    [
        ("brmix", {}),
        ("edddav", {}),
        ("subspacematrix", {}),
        ("hang", {"frozen_after": 0.0005}),
        ("ionic_steps", {"max_steps": 8}),
        ("kill", {}),
    ],
)
def test_no_ionic_step_is_lost(faults, log, fault, chosen):
    faults(fault)
    start = BISE * (1, 1, 2)
    start.perturb(0.05, seed=0)
    result, _ = relax(start, **chosen)
    runs = log()
    assert result.converged and len(runs) > 1 and len({run["start"] for run in runs}) == len(runs)
    for before, after in pairwise(runs):
        assert after["energy_first"] < before["energy_first"]
    assert result.steps == sum(run["steps"] for run in runs)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("subspacematrix", "custodian could not repair: subspacematrix"),
        ("segfault", "VASP broke off: forrtl: severe (174): SIGSEGV, segmentation fault occurred"),
        ("truncated_vasprun", "VASP broke off: its output is not complete"),
        ("eddrmm", "custodian gave up after eddrmm"),
    ],
)
def test_the_ladder_and_its_end(faults, record, machine, fault, words):
    from pymatgen.io.vasp import Incar

    faults({"fault": fault, "times": None})
    result, folder = relax()
    assert folder is None and not result.converged and result.energy_per_atom is None
    assert result.reason.startswith("failed in 4 ways: ") and words in result.reason
    assert one_line(result.reason)
    attempts = record()
    assert [a["incar"] for a in attempts] == list(LADDER)
    assert all(a["outcome"] == "failed" and words in a["reason"] for a in attempts)
    for attempt in attempts:
        (path,) = machine.glob(f"calculations/*/{attempt['folder']}/INCAR.orig")
        incar = Incar.from_file(path)
        assert all(incar[tag] == value for tag, value in attempt["incar"].items())


def test_no_more_runs_than_asked(faults, log):
    faults({"fault": "segfault", "times": None})
    result, _ = relax(attempts=2)
    assert result.reason.startswith("not converged in 2 runs: VASP broke off") and len(log()) == 2


def test_forces_are_looked_at_by_ourselves(wrapper):
    # VASP says that it has reached the required accuracy: another one than ours.
    wrapper("sed -i 's/^EDIFFG.*/EDIFFG = -5/' INCAR")
    result, folder = relax()
    assert "reached required accuracy" in (folder / "vasp.out").read_text()
    assert not result.converged and "largest force is" in result.reason
    assert result.max_force > 0.03 and one_line(result.reason)


def test_a_run_told_to_stop_has_not_converged_by_that():
    _, folder = relax()
    outcar = (folder / "OUTCAR").read_text().replace("reached required accuracy", "soft stop")
    (folder / "OUTCAR").write_text(outcar)
    result, _ = relax()
    assert not result.converged and result.max_force < 0.03
    assert result.reason == "VASP did not reach the required accuracy"


def test_stress_is_looked_at_by_ourselves():
    result, _ = relax(max_stress=0.01)
    assert not result.converged and "largest stress is" in result.reason
    assert result.max_force < 0.03


# ------------------------------------------------------------------------------- input and machine


@pytest.mark.parametrize(
    ("environment", "chosen", "words"),
    [
        ({"ATOMATE2_VASP_CMD": "vasp_of_nobody"}, {}, "set ATOMATE2_VASP_CMD"),
        ({"ATOMATE2_VASP_CMD": "mpi_of_nobody -np 2 ls"}, {}, "'mpi_of_nobody' of the VASP"),
        ({"ATOMATE2_VASP_CMD": "env vasp_std '"}, {}, "open quote"),
        ({"ATOMATE2_VASP_CMD": "nice vasp_of_nobody"}, {}, "'vasp_of_nobody' of the VASP"),
        ({"PMG_VASP_PSP_DIR": ""}, {}, "set PMG_VASP_PSP_DIR"),
        ({"PMG_VASP_PSP_DIR": "/nowhere"}, {}, "/nowhere, which is no folder"),
        ({}, {"potcars": {"Bi": "Bi_x"}}, "no PBE POTCAR 'Bi_x' for Bi in .*engine.potcars"),
        ({}, {"functional": "PBE_54"}, "no PBE_54 POTCAR 'Bi'"),
    ],
)
def test_what_is_missing_is_named(monkeypatch, environment, chosen, words):
    import pymatgen.core

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
        if name.startswith("PMG"):
            monkeypatch.setitem(pymatgen.core.SETTINGS, name, value)
    with pytest.raises(UserError, match=words) as caught:
        relax(**chosen)
    assert one_line(str(caught.value))


@pytest.mark.parametrize("command", ["env vasp_inside", "sh -c 'module load vasp; vasp_std'"])
def test_vasp_in_a_container_or_a_shell_is_left_to_it(monkeypatch, command):
    monkeypatch.setenv("ATOMATE2_VASP_CMD", command)
    VaspEngine().check(["Bi", "Se"])


def test_package_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "atomate2.vasp.run", None)
    with pytest.raises(UserError, match=r"pip install 'ccdcgan\[vasp\]'"):
        VaspEngine().check(["Bi"])


@pytest.mark.parametrize(("tag", "instead"), [("EDIFFG", "fmax"), ("nsw", "max_steps")])
def test_tags_that_follow_from_the_campaign(tag, instead):
    with pytest.raises(ValidationError, match=f"relaxation.{instead}: set that instead"):
        VaspEngine(incar={tag: 1})


def test_vasp_that_does_not_start_fails_no_structure(wrapper, record):
    wrapper("echo 'error while loading libmkl_core.so' >&2; exit 127")
    with pytest.raises(UserError, match="VASP does not start: .*libmkl_core.so") as caught:
        relax()
    assert one_line(str(caught.value)) and record() == []
    wrapper("")
    result, _ = relax()
    assert result.converged and result.attempts == 1


def test_a_structure_that_no_crystal_can_be_is_not_run(machine):
    crushed = Structure(Lattice.cubic(2.0), ["Bi", "Se"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    result, folder = relax(crushed)
    assert result.reason == "volume per atom out of range" and folder is None
    assert not (machine / "calculations").exists() and not (machine / "log").exists()


def test_decisive_tags_are_asked_for_or_vasps_defaults():
    assert set(INCAR) & set(DECISIVE) >= {"GGA", "ENCUT", "PREC", "ISPIN", "LASPH", "LDAU"}


# ------------------------------------------------------------------------------------- dispersion


@pytest.mark.parametrize(
    ("incar", "parameters"),
    [
        ({}, {}),
        ({"GGA": "PS"}, {}),
        ({"METAGGA": "R2SCAN"}, {"VDW_S8": 0.78981345, "VDW_A1": 0.49484, "VDW_A2": 5.73083694}),
        ({"METAGGA": "r2scan", "VDW_A1": 0.5}, {"VDW_S8": 0.78981345, "VDW_A1": 0.5}),
    ],
)
def test_dispersion_is_written(tmp_path, incar, parameters):
    from pymatgen.io.vasp import Incar

    engine = VaspEngine(incar=incar, dispersion="d3bj")
    for stage in ("relax", "static"):
        write_inputs(engine, BISE, STAGES[stage], {}, tmp_path / stage)
        written = Incar.from_file(tmp_path / stage / "INCAR")
        assert written["IVDW"] == 12
        for tag, value in parameters.items():
            assert written[tag] == pytest.approx(value, abs=1e-5)
        assert parameters or not {"VDW_S8", "VDW_A1", "VDW_A2"} & set(written)
    functional = "r2SCAN" if "METAGGA" in incar else {"PS": "PBEsol"}.get(incar.get("GGA"), "PBE")
    assert engine.level_of_theory().dispersion == f"D3(BJ) of {functional}"


@pytest.mark.parametrize("version", ["5.4.4", "6.4.2"])
@pytest.mark.parametrize("pressure", [0.0, 5.0])
def test_dispersion_is_in_energies_and_frames(monkeypatch, version, pressure):
    """Beside pV, with which VASP adds it to the ionic step alone."""
    monkeypatch.setenv("VASP_STAND_IN_VERSION", version)
    both = [
        settings(**chosen).model_copy(update={"pressure": pressure})
        for chosen in ({}, {"dispersion": "d3bj"})
    ]
    plain, result = (relax_by_vasp(BISE, s)[0] for s in both)
    assert plain.converged and result.converged
    assert result.energy_per_atom - plain.energy_per_atom == pytest.approx(DISPERSION, abs=1e-6)
    candidate = Candidate(origin=Origin(kind="generated", id="x"), structure=BISE)
    for found, part in ((plain, 0.0), (result, DISPERSION)):
        assert RelaxationDocument.of(found, candidate, "x").has_own_frames
        lattice = found.structure.lattice.matrix
        numbers = np.array(found.structure.atomic_numbers)
        energy, *_ = pair_potential(numbers, lattice, found.structure.cart_coords)
        assert found.frames[-1].energy == pytest.approx(energy + 2 * part, abs=1e-4)


def test_a_run_with_dispersion(tmp_path):
    from pymatgen.io.vasp import Incar

    result, folder = relax(dispersion="d3bj")
    assert Incar.from_file(folder / "INCAR")["IVDW"] == 12
    assert result.converged, result.reason
    assert result.level_of_theory.dispersion == "D3(BJ) of PBE"
    with pytest.raises(UserError, match="one level of theory"):
        same_level([result.level_of_theory, VaspEngine().level_of_theory()])


@pytest.mark.parametrize(
    ("incar", "words"),
    [
        ({"ivdw": 11}, "engine.dispersion sets IVDW: leave one of the two out"),
        ({"LHFCALC": True}, "parameters for PBE, PBEsol and r2SCAN alone"),
        ({"METAGGA": "SCAN"}, "parameters for PBE, PBEsol and r2SCAN alone"),
        ({"GGA": "RP"}, "parameters for PBE, PBEsol and r2SCAN alone"),
    ],
)
def test_dispersion_that_has_no_parameters(incar, words):
    with pytest.raises(ValidationError, match=words):
        VaspEngine(incar=incar, dispersion="d3bj")
