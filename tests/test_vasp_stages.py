"""Stages with INCAR tags of their own, and the program of VASP that each needs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

# It reads its settings when it is imported.
import atomate2  # noqa: F401
import numpy as np
import pytest
from potcars import write_potcars
from pydantic import ValidationError
from pymatgen.core import Lattice, Structure
from vasp_stand_in import coupling, read_incar

from ccdcgan.dft.engines.base import same_level
from ccdcgan.dft.engines.vasp.relax import relax_by_vasp
from ccdcgan.dft.engines.vasp.settings import VaspEngine
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.relaxation.document import Relaxation
from ccdcgan.dft.relaxation.key import content_key
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.dft.structures.decoding import decode_structure
from ccdcgan.dft.structures.moments import moments_of, order_of

pytestmark = [
    pytest.mark.filterwarnings("ignore::pymatgen.io.vasp.sets.BadInputSetWarning"),
    pytest.mark.filterwarnings("ignore::pymatgen.io.vasp.inputs.UnknownPotcarWarning"),
]

STAND_IN = f"{sys.executable} {Path(__file__).with_name('vasp_stand_in.py')}"
BISE = Structure(Lattice.orthorhombic(3.9, 3.8, 4.1), ["Bi", "Se"], [[0, 0, 0], [0.53, 0.49, 0.5]])
IRON = Structure(Lattice.cubic(2.8), ["Fe"] * 2, [[0, 0, 0], [0.5] * 3])
R2SCAN = {"METAGGA": "R2SCAN", "ALGO": "All"}


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with three programs of VASP, each of which notes that it ran."""
    import pymatgen.core

    folder = str(write_potcars(tmp_path / "psp", ["Bi", "Se"]))
    monkeypatch.setitem(pymatgen.core.SETTINGS, "PMG_VASP_PSP_DIR", folder)
    monkeypatch.setenv("PMG_VASP_PSP_DIR", folder)
    monkeypatch.setenv("CCDCGAN_CALCULATIONS", str(tmp_path / "calculations"))
    for name, variable in (("std", ""), ("gam", "_GAMMA"), ("ncl", "_NCL")):
        program = tmp_path / f"vasp_{name}"
        program.write_text(
            f"#!/bin/sh\n[ -s WAVECAR ] && waves=waves\n"
            f"echo {name} $waves >> {tmp_path}/ran\nexec {STAND_IN} {name}\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv(f"ATOMATE2_VASP{variable}_CMD", str(program))
    return tmp_path


def engine(*stages: Any, **chosen: Any) -> VaspEngine:
    return VaspEngine(**{"polling": 0.1, "buffer": 0.0, "stages": stages} | chosen)


def static(**incar: Any) -> dict[str, Any]:
    return {"kind": "static", "incar": incar}


def relax(*stages: Any, **chosen: Any) -> Relaxation:
    settings = RelaxationSettings(engine=engine(*stages, **chosen))
    return relax_by_vasp(BISE, settings)[0]


def test_the_level_is_that_of_the_last_stage() -> None:
    plain = engine("relax", "static").level_of_theory()
    level = engine("relax", static(**R2SCAN)).level_of_theory()
    assert level.scale == "PBE+METAGGA, uncorrected" and plain.scale == "PBE, uncorrected"
    whole = engine("relax", "static", incar=R2SCAN).level_of_theory()
    assert len({level.checkpoint, plain.checkpoint, whole.checkpoint}) == 3, "other geometries"
    dispersed = engine("relax", static(**R2SCAN), dispersion="d3bj")
    assert "r2SCAN" in str(dispersed.level_of_theory())
    assert dispersed.of_stage(1).tags["VDW_A1"] and "VDW_A1" not in dispersed.of_stage(0).tags


def test_technical_tags_of_a_stage_are_not_in_the_key() -> None:
    def key(*stages: Any) -> str:
        settings = RelaxationSettings(engine=engine(*stages))
        return content_key(BISE, settings.engine.level_of_theory(), settings)

    assert key("relax", static(ALGO="All", kpar=4)) == key("relax", "static")
    both = {key("relax", static(LHFCALC=True, ALGO=a)) for a in ("All", "Damped")}
    assert len(both) == 1 and key("relax", "static") not in both


def test_a_stage_runs_with_its_own_tags(machine: Path) -> None:
    from pymatgen.io.vasp import Incar

    result = relax("relax", static(**R2SCAN))
    first, last = (
        Incar.from_file(Path(result.folder or "") / run / "INCAR")
        for run in ("01-relax", "02-static")
    )
    assert "METAGGA" not in first and last["METAGGA"].upper() == "R2SCAN"
    assert result.converged
    assert (
        result.level_of_theory.checkpoint
        == engine("relax", static(**R2SCAN)).level({}, {}).checkpoint
    )
    assert (machine / "ran").read_text() == "std\nstd waves\n"
    # Geometries on the way are those of the energy's level; of technical tags, all are.
    assert len(result.frames) == 1
    assert len(relax("relax", static(ALGO="All")).frames) > 1


def test_a_stage_with_spin_begins_without_the_waves_of_one_that_has_none(machine: Path) -> None:
    """A magnet would stay without moments, and higher."""
    write_potcars(machine / "psp", ["Fe"])
    settings = [
        RelaxationSettings(engine=engine(*stages), fmax=0.05, max_steps=200)
        for stages in (({"kind": "relax", "incar": {"ISPIN": 1}}, "static"), ("relax", "static"))
    ]
    paired, plain = (relax_by_vasp(IRON, s)[0] for s in settings)
    assert (machine / "ran").read_text() == "std\nstd\nstd\nstd waves\n"
    assert paired.converged and plain.converged
    assert moments_of(paired.structure) == moments_of(plain.structure) == [2.0, 2.0]
    assert paired.energy_per_atom == pytest.approx(plain.energy_per_atom, abs=1e-4)


def test_each_stage_has_its_program(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spins = relax("relax", static(LSORBIT=True))
    assert spins.converged
    assert (machine / "ran").read_text() == "std\nncl\n", "each has wavefunctions of its own"
    (machine / "ran").unlink()
    assert relax("relax", kpoints_length=1.0).converged
    assert (machine / "ran").read_text().split()[0] == "gam"
    monkeypatch.delenv("ATOMATE2_VASP_GAMMA_CMD")
    (machine / "ran").unlink()
    assert relax("relax", kpoints_length=1.5).converged
    assert (machine / "ran").read_text().split()[0] == "std"


def test_spin_orbit_coupling_is_in_the_last_stage(machine: Path) -> None:
    from pymatgen.io.vasp import Incar, Outcar

    plain, coupled = relax("relax", "static"), relax("relax", "static", soc=True)
    assert plain.converged and coupled.converged
    assert (machine / "ran").read_text() == "std\nstd waves\nstd\nncl\n"
    first, last = (Path(coupled.folder or "") / run / "INCAR" for run in ("01-relax", "02-static"))
    assert "LSORBIT" not in Incar.from_file(first)
    incar = read_incar(last.read_text())
    # Two numbers a site would be another input: nothing here has moments, in three directions.
    assert incar["MAGMOM"] == [0.0] * 6 and incar["SAXIS"] == [0, 0, 1]
    assert incar["LSORBIT"] is True and incar["ISPIN"] == 1 and incar["ISYM"] == -1
    assert Outcar(last.with_name("OUTCAR")).noncollinear
    change = coupling(np.array([83, 34])) / 2
    assert coupled.energy_per_atom == pytest.approx((plain.energy_per_atom or 0.0) + change)
    levels = plain.level_of_theory, coupled.level_of_theory
    assert [level.scale for level in levels] == ["PBE, uncorrected", "PBE+SOC, uncorrected"]
    with pytest.raises(UserError, match="one level of theory only"):
        same_level(levels)
    assert not coupled.frames or len(coupled.frames) == 1, "the relaxation's are of another level"


def test_coupling_leaves_what_has_none_as_it_was() -> None:
    assert "soc" not in engine("relax", "static").model_dump(mode="json")
    levels = [engine("relax", "static", **c).level_of_theory() for c in ({}, {"soc": False})]
    assert levels[0] == levels[1]


def test_moments_are_kept_into_spin_orbit_coupling(machine: Path) -> None:
    from pymatgen.io.vasp import Incar

    write_potcars(machine / "psp", ["Fe", "O"])
    cell = Structure(
        Lattice.tetragonal(3.0, 4.3),
        ["Fe", "Fe", "O", "O"],
        [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0, 0, 0.5]],
        site_properties={"magmom": [4.0, -4.0, 0.0, 0.0]},
    )
    settings = RelaxationSettings(engine=engine("relax", "static", soc=True))
    result = relax_by_vasp(cell, settings)[0]
    assert result.converged
    last = Incar.from_file(Path(result.folder or "") / "02-static" / "INCAR")["MAGMOM"]
    assert np.allclose([list(m) for m in last], [[0, 0, 2], [0, 0, -2], [0, 0, 0], [0, 0, 0]])
    assert moments_of(decode_structure(result.structure)) == [list(m) for m in last]
    assert order_of(decode_structure(result.structure)) == "antiferromagnetic"


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("NCL", None, ["vasp_ncl", "ATOMATE2_VASP_NCL_CMD"]),
        ("NCL", "srun no-such-vasp_ncl", ["ATOMATE2_VASP_NCL_CMD"]),
        ("GAMMA", "no-such-vasp_gam", ["no-such-vasp_gam", "ATOMATE2_VASP_GAMMA_CMD"]),
    ],
)
def test_check_finds_the_program_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str | None, words: list[str]
) -> None:
    name = f"ATOMATE2_VASP_{variable}_CMD"
    monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    for chosen in (engine("relax", static(LSORBIT=True)), engine("relax", "static", soc=True)):
        with pytest.raises(UserError) as caught:
            chosen.check(["Bi", "Se"])
        assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("stage", "chosen", "words"),
    [
        (static(NSW=3), {}, "NSW"),
        (static(METAGA="SCAN"), {}, "METAGGA"),
        (static(LHFCALC=True), {"dispersion": "d3bj"}, "dispersion"),
        (static(LHFCALC=True), {"hubbard_u": "mp2020"}, "hubbard_u"),
        ({"kind": "dance", "incar": {"ENCUT": 600}}, {}, "relax"),
        ({"kind": "static", "incar": {}}, {}, "incar"),
        ({"kind": "static", "tags": {}}, {}, "tags"),
    ],
)
def test_a_stage_that_cannot_work_is_refused(stage: Any, chosen: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        engine("relax", stage, **chosen)


def test_stages_without_tags_are_stored_as_before() -> None:
    plain = engine("relax", "static")
    assert json.loads(plain.model_dump_json())["stages"] == ["relax", "static"]
    own = engine("relax", static(encut=600))
    again = VaspEngine.model_validate_json(own.model_dump_json())
    assert again == own and again.of_stage(1).incar == {"ENCUT": 600}


def test_a_task_document_is_made_once() -> None:
    from ccdcgan.workflows.relax import task_of

    result = relax("relax", "static")
    run = Path(result.folder or "") / "02-static"
    task = task_of(run)
    assert task is not None
    assert task["output"]["energy_per_atom"] == pytest.approx(result.energy_per_atom)
    # Whoever tries the campaign's failed structures again is not kept waiting for this one.
    (run / "vasprun.xml").unlink()
    assert task_of(run) == task
    run.with_name("02-static.task.json.gz").write_bytes(b"cut")
    assert task_of(run) is None
