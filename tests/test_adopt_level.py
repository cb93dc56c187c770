"""Which runs of VASP are of a campaign's level of theory, and which only look so."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pymatgen.core
import pytest
from potcars import write_potcars
from pymatgen.core import Lattice, Structure
from pymatgen.io.vasp import Poscar, Potcar
from vasp_stand_in import Minimiser, pair_potential

from ccdcgan.dft.engines.vasp.existing import ExistingRun, Library, UnsuitableError, read_folder
from ccdcgan.dft.engines.vasp.existing import judge as judged
from ccdcgan.dft.engines.vasp.files import read_run
from ccdcgan.dft.engines.vasp.inputs import write_inputs
from ccdcgan.dft.engines.vasp.settings import VaspEngine
from ccdcgan.dft.engines.vasp.task import potcar_specs, read_task
from ccdcgan.dft.engines.vasp.verdict import refused
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.launchers.results.adopt import adopt, runs_in
from ccdcgan.workflows.campaign import Campaign

pytestmark = [
    pytest.mark.filterwarnings("ignore::pymatgen.io.vasp.sets.BadInputSetWarning"),
    pytest.mark.filterwarnings("ignore::pymatgen.io.vasp.inputs.UnknownPotcarWarning"),
    pytest.mark.filterwarnings("ignore::pymatgen.io.vasp.outputs.UnconvergedVASPWarning"),
]


def minimum(start: Structure) -> Structure:
    """Where the stand-in's forces and stress are nearly none."""
    minimiser = Minimiser(np.array(start.lattice.matrix), start.cart_coords, free_cell=True)
    for _ in range(400):
        cell, positions = minimiser.geometry()
        _, *rest = pair_potential(np.array(start.atomic_numbers), cell, positions)
        push = minimiser.push(*rest)
        if np.linalg.norm(push, axis=1).max() < 1e-3:
            break
        minimiser.move(push)
    return Structure(cell, start.species, positions, coords_are_cartesian=True)


IRON = minimum(Structure(Lattice.cubic(2.87), ["Fe"] * 2, [[0, 0, 0], [0.5] * 3]))
OXIDE = minimum(
    Structure(
        Lattice.orthorhombic(8.4, 4.1, 4.1),
        ["Fe", "Fe", "O", "O"],
        [[0, 0, 0], [0.5, 0, 0], [0.25, 0.5, 0.5], [0.75, 0.5, 0.5]],
    )
)


def campaign(**engine: Any) -> Campaign:
    chosen = {"name": "vasp", **engine}
    return Campaign.model_validate(
        {"system": "Fe-O", "relaxation": {"engine": chosen, "fmax": 0.01}}
    )


PLAIN = campaign()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A machine with POTCARs."""
    root = tmp_path_factory.mktemp("machine")
    with pytest.MonkeyPatch.context() as patch:
        psp = str(write_potcars(root / "psp", ["Fe", "O", "Fe_pv"]))
        patch.setenv("PMG_VASP_PSP_DIR", psp)
        patch.setitem(pymatgen.core.SETTINGS, "PMG_VASP_PSP_DIR", psp)
        yield root


def vasp(folder: Path) -> Path:
    stand_in = Path(__file__).with_name("vasp_stand_in.py")
    with (folder / "vasp.out").open("w") as out:
        subprocess.run([sys.executable, stand_in], cwd=folder, stdout=out, check=True)
    return folder


def computed(folder: Path, structure: Structure, settings: RelaxationSettings, **tags: Any) -> Path:
    """A static run, with tags as INCAR has them in place of the campaign's."""
    folder.mkdir(parents=True)
    write_inputs(settings.engine, structure, -1, {}, folder)  # type: ignore[arg-type]
    with_tags(folder / "INCAR", tags)
    return vasp(folder)


def with_tags(incar: Path, tags: dict[str, Any]) -> None:
    lines = incar.read_text().splitlines()
    kept = [line for line in lines if line.split("=")[0].strip() not in tags]
    incar.write_text("\n".join([*kept, *(f"{t} = {v}" for t, v in tags.items())]) + "\n")


@pytest.fixture(scope="module")
def oxide(machine: Path) -> Path:
    return computed(machine / "oxide", OXIDE, PLAIN.relaxation)


@pytest.fixture
def changed(oxide: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the run on the oxide that had other tags, by its vasprun.xml."""

    def change(**tags: Any) -> Path:
        folder = tmp_path / "-".join(f"{tag}{value}" for tag, value in tags.items())
        shutil.copytree(oxide, folder)
        text = (folder / "vasprun.xml").read_text()
        head, incar, rest = re.split(r"(<incar>.*?</incar>)", text, maxsplit=1, flags=re.DOTALL)
        for tag, value in tags.items():
            kind = {str: "string", int: "int", bool: "logical"}.get(type(value), "float")
            written = {True: "T", False: "F"}.get(value, value) if kind == "logical" else value
            incar = re.sub(rf'<[iv][^>]* name="{tag}">.*?</[iv]>\n', "", incar)
            row = f'<i type="{kind}" name="{tag}">{written}</i>\n'
            incar = incar.replace("</incar>", f"{row}</incar>")
        (folder / "vasprun.xml").write_text(head + incar + rest)
        return folder

    return change


def judge(found: ExistingRun, of: Campaign = PLAIN) -> None:
    judged(found, of.relaxation, Library(of.relaxation.engine, ["Fe", "O"]))  # type: ignore[arg-type]


def reason(folder: Path, of: Campaign = PLAIN) -> str:
    """Why a run is left out; nothing if it is adopted."""
    try:
        judge(read_folder(folder), of)
    except UnsuitableError as error:
        return str(error)
    return ""


def task_of(folder: Path) -> ExistingRun:
    from atomate2.vasp.jobs.base import get_vasp_task_document

    document = get_vasp_task_document(folder).model_dump(mode="json")
    library = Library(PLAIN.relaxation.engine, ["Fe", "O"])  # type: ignore[arg-type]
    return read_task(document, library, potcar_specs(library))


def test_a_magnet_without_moments_is_another_start(machine: Path) -> None:
    """The lower one of two runs with one start is taken, whatever their names."""
    runs, settings = machine / "iron", PLAIN.relaxation
    computed(runs / "1_nonmagnetic", IRON, settings, MAGMOM="2*0.0")
    computed(runs / "2_ferromagnetic", IRON, settings)
    # It has found another solution, as VASP does with fewer k-points or another mixing.
    higher = shutil.copytree(runs / "1_nonmagnetic", runs / "1_higher") / "vasprun.xml"
    text = higher.read_text()
    higher.write_text(re.sub(r'(name="MAGMOM">)0.0 0.0', r"\g<1>5.0 5.0", text))
    assert higher.read_text() != text
    library = Library(PLAIN.relaxation.engine, ["Fe", "O"])  # type: ignore[arg-type]
    found = adopt(runs_in([runs]), PLAIN, library, None)
    assert [Path(place).name for place in found.taken] == ["2_ferromagnetic"]
    assert [Path(place).name for place in found.there] == ["1_higher"]
    ((place, why),) = found.refused
    assert Path(place).name == "1_nonmagnetic" and why.startswith(
        "another start: MAGMOM is 0 for Fe"
    )
    with pytest.raises(UnsuitableError, match="another start: MAGMOM"):
        judge(task_of(runs / "1_nonmagnetic"))
    judge(task_of(runs / "2_ferromagnetic"))
    # Where nothing is to be magnetic there is no other start.
    none = campaign(incar={"MAGMOM": {"O": 0.0}})
    assert reason(runs / "1_nonmagnetic", none) == ""


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"ICHARG": 11, "NEDOS": 3001}, "it is not self-consistent: ICHARG = 11"),
        ({"ALGO": "None"}, "it is not self-consistent: ALGO = None"),
        ({"ALGO": "Exact"}, "it is not self-consistent: ALGO = Exact"),
        ({"ALGO": "Eigenval"}, "it is not self-consistent: ALGO = Eigenval"),
        ({"IALGO": 2}, "it is not self-consistent: IALGO = 2"),
        ({"EDIFF": 0.5}, "EDIFF 0.5 instead of 1e-05"),
        ({"ISMEAR": -1, "SIGMA": 2.0}, "ISMEAR and SIGMA (-1.0, 2.0) instead of (-5.0, 0.05)"),
        ({"ISMEAR": 1, "SIGMA": 0.5}, "ISMEAR and SIGMA"),
        ({"ISMEAR": -2}, "ISMEAR and SIGMA"),
        ({"NBANDS": 5}, "NBANDS 5 instead of at least "),
        ({"NGX": 6, "NGY": 6, "NGZ": 6}, "NGX 6 instead of at least "),
        ({"NGXF": 20}, "NGXF 20 instead of at least "),
        ({"LREAL": True}, "LREAL True instead of False"),
    ],
)
def test_what_decides_an_energy_is_looked_at(
    changed: Callable[..., Path], tags: dict[str, Any], words: str
) -> None:
    assert words in reason(changed(**tags))


@pytest.mark.parametrize(
    "tags",
    [
        # atomate2's of metals and of what it does not know, the Materials Project's and VASP's own.
        {"ISMEAR": 2, "SIGMA": 0.2, "EDIFF": 1e-5, "ALGO": "Fast"},
        {"ISMEAR": 0, "SIGMA": 0.2, "EDIFF": 1e-7, "LREAL": False},
        {"ISMEAR": -5, "SIGMA": 0.05, "EDIFF": 2e-4, "ALGO": "Normal", "LREAL": "Auto"},
        {"ISMEAR": 1, "SIGMA": 0.2, "EDIFF": 1e-4, "IALGO": 48, "ICHARG": 1, "ISTART": 1},
        {"ALGO": "VeryFast", "NBANDS": 80, "NGX": 120, "NGXF": 240},
        {"ALGO": "all"},
        {"ALGO": "D"},
    ],
)
def test_runs_by_the_usual_sets_are_good(
    changed: Callable[..., Path], tags: dict[str, Any]
) -> None:
    assert reason(changed(**tags)) == ""


def test_a_campaign_with_a_smearing_of_its_own(changed: Callable[..., Path]) -> None:
    wide = campaign(stages=[{"kind": "static", "incar": {"ISMEAR": -1, "SIGMA": 0.5}}])
    assert reason(changed(ISMEAR=-1, SIGMA=0.5), wide) == ""
    assert "ISMEAR and SIGMA (-5.0, 0.05)" in reason(changed(ISMEAR=-5, SIGMA=0.05), wide)


def test_a_shifted_grid_has_other_points(machine: Path, oxide: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(oxide, tmp_path / "shifted")
    lines = (folder / "KPOINTS").read_text().splitlines()
    (folder / "KPOINTS").write_text("\n".join([*lines[:4], "0.5 0.5 0.5", ""]))
    vasp(folder)
    assert "shifted by (0.5, 0.5, 0.5) instead of Gamma" in reason(folder)
    with pytest.raises(UnsuitableError, match="shifted by"):
        judge(task_of(folder))
    judge(task_of(oxide))


def test_a_density_of_states_hides_no_energy(oxide: Path, changed: Callable[..., Path]) -> None:
    """As in FeO/dos beside FeO/static, the first by name."""
    dos = changed(ICHARG=11, NEDOS=3001)
    library = Library(PLAIN.relaxation.engine, ["Fe", "O"])  # type: ignore[arg-type]
    found = adopt(runs_in([dos, oxide]), PLAIN, library, None)
    assert found.taken == [str(oxide)] and [place for place, _ in found.refused] == [str(dos)]


def test_a_loop_that_was_told_to_stop_has_not_converged(machine: Path, tmp_path: Path) -> None:
    """By LABORT in STOPCAR, of our own runs and of others'."""
    folder, engine = tmp_path / "aborted", PLAIN.relaxation.engine
    assert isinstance(engine, VaspEngine)
    folder.mkdir()
    write_inputs(engine, OXIDE, -1, {}, folder)
    (folder / "STOPCAR").write_text("LABORT = .TRUE.\n")
    vasp(folder)
    run = read_run(folder)
    assert refused(run, engine, "static", PLAIN.relaxation) == "electrons did not converge"
    assert reason(folder) == "electrons did not converge"
    with pytest.raises(UnsuitableError, match="electrons did not converge"):
        judge(task_of(folder))
    (folder / "OUTCAR").unlink()
    assert reason(folder) == "electrons did not converge"


def test_a_run_without_outcar_is_judged_by_its_electronic_steps(
    oxide: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(oxide, tmp_path / "oxide")
    (folder / "OUTCAR").unlink()
    assert reason(folder) == ""


def test_a_potcar_that_did_not_run_is_not_believed(machine: Path, tmp_path: Path) -> None:
    soft = campaign(potcars={"Fe": "Fe_pv"})
    folder = computed(tmp_path / "soft", OXIDE, soft.relaxation)
    assert "POTCAR of Fe PAW_PBE Fe_pv" in reason(folder)
    write_inputs(PLAIN.relaxation.engine, OXIDE, -1, {}, tmp_path)  # type: ignore[arg-type]
    shutil.copy(tmp_path / "POTCAR", folder / "POTCAR")
    assert reason(folder).startswith("POTCAR is not what ran, which was PAW_PBE Fe_pv")


@pytest.mark.parametrize(
    ("asked", "ran"), [("R2SCAN", "R2SCANL"), ("SCANL", "SCAN"), ("M06L", "M06"), ("M06", "M06L")]
)
def test_functionals_whose_names_begin_alike(
    changed: Callable[..., Path], asked: str, ran: str
) -> None:
    of = campaign(stages=[{"kind": "static", "incar": {"METAGGA": asked, "ALGO": "All"}}])
    assert f"METAGGA {ran} instead of {asked}" in reason(changed(METAGGA=ran), of)
    assert reason(changed(METAGGA=asked), of) == ""
    assert reason(changed(METAGGA=asked, PREC="accura"), of) == ""


#: A campaign with a U of its own.
WITH_U = campaign(incar={"LDAU": True, "LDAUU": {"Fe": 4.0}, "LDAUL": {"Fe": 2}})


def test_u_counts_where_it_is_not_zero(machine: Path, tmp_path: Path) -> None:
    good = computed(tmp_path / "good", OXIDE, WITH_U.relaxation, LDAUL="2 -1")
    assert reason(good, WITH_U) == ""
    assert "LDAUL {'Fe': 3.0} instead of {'Fe': 2.0}" in reason(
        computed(tmp_path / "f", OXIDE, WITH_U.relaxation, LDAUL="3 -1"), WITH_U
    )
    none = computed(tmp_path / "none", OXIDE, WITH_U.relaxation, LDAUU="0 0")
    assert reason(none) == "" and "LDAU" in reason(none, WITH_U)


@pytest.mark.parametrize(
    ("potcars", "u", "words"),
    [
        (("Fe", "O", "Fe", "O"), "0 0 4 0", "U of Fe differs between its sites"),
        (("Fe_pv", "O", "Fe", "O"), "4 0 4 0", "POTCAR of Fe differs between its sites"),
        (("Fe", "O", "Fe", "O"), "4 0 4 0", ""),
    ],
)
def test_sites_of_an_element_have_one_level(
    machine: Path, tmp_path: Path, potcars: tuple[str, ...], u: str, words: str
) -> None:
    """As VASP takes them where an element stands in POSCAR twice."""
    folder = tmp_path / "apart"
    folder.mkdir()
    write_inputs(WITH_U.relaxation.engine, OXIDE, -1, {}, folder)  # type: ignore[arg-type]
    Poscar(Structure.from_sites([OXIDE[i] for i in (0, 2, 1, 3)])).write_file(folder / "POSCAR")
    Potcar(list(potcars), "PBE").write_file(folder / "POTCAR")
    tags = {"LDAUU": u, "LDAUL": "2 -1 2 -1", "LDAUJ": "4*0", "MAGMOM": "5 0.6 5 0.6"}
    with_tags(folder / "INCAR", tags)
    vasp(folder)
    said = reason(folder, WITH_U)
    assert words in said and bool(words) == bool(said)
    with pytest.raises(UnsuitableError, match=words or "LDAU"):
        judge(task_of(folder))
