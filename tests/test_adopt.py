"""Runs of VASP on a disk or in a database become results; VASP's stand-in has made them."""

import gzip
import os
import shutil
import sys
from pathlib import Path

import pymatgen.core
import pytest
from command import status_of
from jobflow import run_locally
from potcars import write_potcars
from pymatgen.core import Structure
from ruamel.yaml import YAML
from test_vasp_campaign import crystal

from ccdcgan.dft.engines.vasp.relax import relax_by_vasp
from ccdcgan.dft.engines.vasp.settings import VaspEngine
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.launchers.workdir import embedded_store
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.documents import Claim
from ccdcgan.workflows.knowledge import Knowledge
from ccdcgan.workflows.propose import ProposeMaker
from ccdcgan.workflows.relax import RelaxMaker
from ccdcgan.workflows.storage.stores import RESULTS, Relaxations

pytestmark = [
    pytest.mark.filterwarnings("ignore::pymatgen.io.vasp.sets.BadInputSetWarning"),
    pytest.mark.filterwarnings("ignore::pymatgen.io.vasp.inputs.UnknownPotcarWarning"),
    pytest.mark.filterwarnings("ignore::pymatgen.io.vasp.outputs.UnconvergedVASPWarning"),
]

RELAXATION = {
    "engine": {"name": "vasp", "polling": 0.1, "stages": ["relax"]},
    "fmax": 0.01,
    "max_steps": 60,
}
CAMPAIGN = Campaign.model_validate({"system": "Bi-Se", "relaxation": RELAXATION})

#: Runs of the group's: what of, and what is not as the campaign asks.
RUNS = {
    "a/BiSe": ("BiSe", {}),
    "a/Bi": ("Bi", {}),
    "b/deep/Se": ("Se", {}),
    "cutoff": ("BiSe2", {"incar": {"ENCUT": 400}}),
    "kpoints": ("BiSe2", {"kpoints_length": 20.0}),
    "other-tag": ("BiSe2", {"incar": {"GGA_COMPAT": False}}),
    "tellurium": ("Te", {}),
    "static": ("BiSe2", {"stages": ["static"]}),
    "coarse": ("BiSe2", {}),
}


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """A group's folder of runs, each made of what relax_by_vasp leaves."""
    root = tmp_path_factory.mktemp("group")
    stand_in = Path(__file__).with_name("vasp_stand_in.py")
    with pytest.MonkeyPatch.context() as patch:
        psp = str(write_potcars(root / "psp", ["Bi", "Se", "Te"]))
        patch.setenv("PMG_VASP_PSP_DIR", psp)
        patch.setitem(pymatgen.core.SETTINGS, "PMG_VASP_PSP_DIR", psp)
        patch.setenv("ATOMATE2_VASP_CMD", f"{sys.executable} {stand_in}")
        patch.setenv("CCDCGAN_CALCULATIONS", str(root / "calculations"))
        for name in ("VASP_STAND_IN_FAULTS", "SLURM_JOB_END_TIME", "CCDCGAN_END_TIME"):
            patch.delenv(name, raising=False)
        for number, (name, (formula, changed)) in enumerate(RUNS.items()):
            patch.setenv("VASP_STAND_IN_VERSION", ("6.4.2", "5.4.4")[number % 2])
            engine = VaspEngine.model_validate({**RELAXATION["engine"], **changed})
            fmax = 0.5 if name == "coarse" else 0.01
            settings = RelaxationSettings(engine=engine, fmax=fmax, max_steps=60)
            relax_by_vasp(crystal(formula), settings)
            (calculation,) = (root / "calculations").iterdir()
            first = sorted(calculation.glob("0*"))[0]
            (root / "runs" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(first, root / "runs" / name)
            shutil.rmtree(calculation)
        start = Structure.from_file(root / "runs" / "a" / "BiSe" / "CONTCAR")
        engine = VaspEngine.model_validate({**RELAXATION["engine"], "stages": ["static"]})
        _, last = relax_by_vasp(start, RelaxationSettings(engine=engine, fmax=0.01))
        shutil.move(last, root / "runs" / "static-of-relaxed")
    # As atomate2 leaves them.
    packed = root / "runs" / "a" / "Bi"
    for file in packed.iterdir():
        with gzip.open(f"{file}.gz", "wb") as stream:
            stream.write(file.read_bytes())
        file.unlink()
    cut = shutil.copytree(root / "runs" / "a" / "BiSe", root / "runs" / "cut") / "vasprun.xml"
    cut.write_text(cut.read_text()[:2000])
    shutil.copytree(root / "runs" / "a" / "BiSe", root / "runs" / "no-potcar")
    (root / "runs" / "no-potcar" / "POTCAR").unlink()
    other = shutil.copytree(root / "runs" / "a" / "BiSe", root / "runs" / "potcar") / "POTCAR"
    other.write_text(other.read_text().replace("0.20000000E+01", "0.30000000E+01"))
    return root


@pytest.fixture
def ccdcgan(group, monkeypatch, capsys, tmp_path):
    """The command line in this process: status, output and errors. VASP would fail."""
    psp = str(group / "psp")
    monkeypatch.setenv("PMG_VASP_PSP_DIR", psp)
    monkeypatch.setitem(pymatgen.core.SETTINGS, "PMG_VASP_PSP_DIR", psp)
    monkeypatch.setenv("ATOMATE2_VASP_CMD", "false")
    monkeypatch.setenv("CCDCGAN_CALCULATIONS", str(tmp_path / "calculations"))
    monkeypatch.delenv("CCDCGAN_CONFIG", raising=False)
    file = tmp_path / "campaign.yaml"
    with file.open("w") as stream:
        YAML().dump({"system": "Bi-Se", "relaxation": RELAXATION}, stream)

    def run(*arguments, workdir="run"):
        place = ["--workdir", tmp_path / workdir] if workdir else []
        words = [*arguments, *place, "--campaign", file]
        status = status_of(monkeypatch, "adopt", *words)
        said = capsys.readouterr()
        return status, said.out.splitlines(), said.err

    return run


def relaxations(folder: Path):
    store = embedded_store(folder).additional_stores[RESULTS]
    store.connect()
    return store


def files(folder: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_good_runs_become_results_and_others_are_left_out(group, ccdcgan, tmp_path):
    runs, before = group / "runs", files(group)
    status, said, _ = ccdcgan(runs, "--dry-run")
    assert status == 0 and f"would adopt: {runs}/a/Bi" in said and not (tmp_path / "run").exists()
    status, said, _ = ccdcgan(runs)
    assert status == 0 and files(group) == before
    assert [line for line in said if line.startswith("adopted: ")] == [
        f"adopted: {runs}/{name}" for name in ("a/Bi", "a/BiSe", "b/deep/Se")
    ]
    left = dict(
        line.removeprefix("left out: ").split(": ", 1) for line in said if "left " in line[:5]
    )
    level = "another level of theory: "
    assert {Path(k).relative_to(runs).as_posix(): v for k, v in left.items()} == {
        "cut": "vasprun.xml is cut or cannot be read",
        "cutoff": f"{level}ENCUT 400.0 instead of 500.0",
        "kpoints": left[f"{runs}/kpoints"],
        "no-potcar": "POTCAR is missing",
        "other-tag": f"{level}GGA_COMPAT None instead of 1.0",
        "potcar": left[f"{runs}/potcar"],
        "coarse": left[f"{runs}/coarse"],
        "static": f"{level}a static run, where the campaign's energies are those of a relaxation",
        "static-of-relaxed": left[f"{runs}/static"],
        "tellurium": "it holds Te, which is not of Bi-Se",
    }
    assert left[f"{runs}/kpoints"].startswith(f"{level}KPOINTS (")
    assert left[f"{runs}/potcar"].startswith(f"{level}POTCAR of Bi PAW_PBE Bi 01Jan2026")
    assert left[f"{runs}/coarse"].startswith("largest force is ")
    assert said[-1] == "adopted 3 of 13 runs; 0 are results already, 10 left out"
    documents = list(relaxations(tmp_path / "run").query())
    assert {d["origin"]["kind"] for d in documents} == {"adopted"} and len(documents) == 3
    bismuth = next(d for d in documents if d["origin"]["id"].endswith("/a/Bi"))
    assert bismuth["converged"] and bismuth["frames"] and bismuth["max_force"] <= 0.01
    assert bismuth["level_of_theory"]["pseudopotentials"]["Bi"].startswith("PAW_PBE Bi 01Jan2026")
    again, said, _ = ccdcgan(runs / "a", runs / "b")
    assert again == 0 and said == ["adopted 0 of 3 runs; 3 are results already, 0 left out"]
    assert list(relaxations(tmp_path / "run").query()) == documents


def test_adopted_runs_are_on_the_hull_and_not_computed_again(group, ccdcgan, tmp_path):
    ccdcgan(group / "runs" / "a", group / "runs" / "b")
    crystal("BiSe2").to(str(tmp_path / "BiSe2.vasp"), fmt="poscar")
    sources = [{"source": "files", "path": str(tmp_path / "BiSe2.vasp")}]
    plain = CAMPAIGN.model_dump(mode="json") | {
        "database": {"sources": sources, "element_sites": 3}
    }
    folder = tmp_path / "run"

    def output(job):
        store = embedded_store(folder)
        run_locally(job, store=store, log=False, root_dir=tmp_path, ensure_success=True)
        return store.get_output(job.uuid, which="last", load=True)

    proposed = output(ProposeMaker().make(plain))["candidates"]
    mine = [c for c in proposed if c["origin"]["kind"] == "adopted"]
    assert [Path(c["origin"]["id"]).name for c in mine] == ["Bi", "BiSe", "Se"]
    # A structure that comes from elsewhere is known by its content key.
    twin = {"origin": {"kind": "prototype", "id": "x"}, "structure": crystal("BiSe").as_dict()}
    entries = output(RelaxMaker().make([*mine, twin], plain))["entries"]
    assert len(entries) == 3
    campaign = Campaign.model_validate(plain)
    claims = [Claim.model_validate(e) for e in entries]
    documents = Relaxations(relaxations(folder)).get([e.key for e in claims])
    phases = Knowledge(campaign, documents, claims).phases
    assert {p.formula for p in phases if p.e_above_hull is not None} == {"Bi", "BiSe", "Se"}
    left_out = plain | {"database": {"sources": sources, "without": ["BiSe"]}}
    proposed = output(ProposeMaker().make(left_out))["candidates"]
    mine = [c["origin"]["id"] for c in proposed if c["origin"]["kind"] == "adopted"]
    assert [Path(name).name for name in mine] == ["Bi", "Se"]


def test_task_documents_are_as_their_folders(group, ccdcgan, tmp_path, database, monkeypatch):
    from atomate2.vasp.jobs.base import get_vasp_task_document

    for name in ("a/BiSe", "b/deep/Se", "cutoff", "tellurium"):
        task = get_vasp_task_document(group / "runs" / name).model_dump(mode="json")
        # Bare, as atomate's, or as the output of a job of jobflow.
        database.handle["tasks"].insert_one({"uuid": name, "output": task} if "/" in name else task)
    damaged = {"chemsys": "Bi-Se", "dir_name": "damaged", "calcs_reversed": [{"input": {}}]}
    database.handle["tasks"].insert_one(damaged)
    monkeypatch.setenv("CCDCGAN_TASKS_URI", database.uri)
    status, said, _ = ccdcgan("--tasks", f"{database.name}.tasks")
    assert status == 0 and sum(line.startswith("adopted: ") for line in said) == 2
    assert any("/cutoff: another level of theory: ENCUT 400.0" in line for line in said)
    assert any(line.startswith("left out: damaged: the document lacks") for line in said)
    tasks = {d["key"]: d for d in relaxations(tmp_path / "run").query()}
    assert ccdcgan(group / "runs" / "a", group / "runs" / "b", workdir="other")[0] == 0
    folders = {d["key"]: d for d in relaxations(tmp_path / "other").query()}
    assert tasks.keys() < folders.keys()
    for key, task in tasks.items():
        assert task["level_of_theory"] == folders[key]["level_of_theory"]
        for name in ("energy_per_atom", "max_force", "max_stress", "steps"):
            assert task[name] == pytest.approx(folders[key][name]), name


def test_where_stages_end_with_a_static_run(group, ccdcgan, tmp_path):
    """Its own forces and stress are judged: no relaxation of ours was before it."""
    engine = {**RELAXATION["engine"], "stages": ["relax", "static"]}
    told = {"system": "Bi-Se", "relaxation": {**RELAXATION, "engine": engine}}
    with (tmp_path / "campaign.yaml").open("w") as stream:
        YAML().dump(told, stream)
    status, said, _ = ccdcgan(group / "runs" / "a" / "BiSe")
    assert status == 1 and "a relaxation, where the campaign's energies" in said[0]
    status, said, _ = ccdcgan(group / "runs" / "static")
    assert status == 1 and "static: largest force is " in said[0]
    status, said, _ = ccdcgan(group / "runs" / "static-of-relaxed")
    assert status == 0 and said[-1].startswith("adopted 1 of 1 runs")


def test_into_a_database(group, ccdcgan, tmp_path, database, monkeypatch):
    monkeypatch.setenv("CCDCGAN_MONGODB_URI", database.uri)
    place = {"database": database.name}
    cluster = {
        "folder": str(tmp_path / "cluster"),
        "launchpad": place,
        "stores": dict.fromkeys(("documents", "blobs", "results"), place),
        "workers": {name: {"queue": {"type": "SLURM"}} for name in ("dft", "gpu", "light")},
    }
    with (tmp_path / "cluster.yaml").open("w") as stream:
        YAML().dump(cluster, stream)
    told = ("--config", tmp_path / "cluster.yaml")
    assert ccdcgan(group / "runs" / "a", *told, workdir=None)[0] == 0
    status, said, _ = ccdcgan(group / "runs" / "a", *told, workdir=None)
    assert status == 0 and said == ["adopted 0 of 2 runs; 2 are results already, 0 left out"]
    kinds = [d["origin"]["kind"] for d in database.handle["relaxations"].find()]
    assert kinds == ["adopted"] * 2


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ([], 2, "name folders with runs of VASP"),
        (["{}/nowhere"], 2, "is no folder"),
        (["{}/psp"], 1, "no run of VASP is in it"),
        (["{}/runs/cutoff"], 1, "another level of theory"),
        (["--tasks", "mongodb://user:secret@host/a.b"], 2, "CCDCGAN_TASKS_URI"),
        (["--tasks", "atomate2"], 2, "write DATABASE.COLLECTION"),
    ],
)
def test_bad_input_is_one_line(group, ccdcgan, tmp_path, arguments, status, words):
    got, said, error = ccdcgan(*(a.format(group) for a in arguments))
    assert got == status and words in "".join(said) + error
    assert not (tmp_path / "run" / "store").exists() or not list(
        relaxations(tmp_path / "run").query()
    )


def test_a_campaign_of_another_engine(group, ccdcgan, tmp_path, monkeypatch):
    (tmp_path / "campaign.yaml").write_text("{system: Bi-Se}")
    status, _, said = ccdcgan(group / "runs")
    assert status == 2 and "only one whose relaxation.engine is vasp" in said
    assert not (tmp_path / "run").exists()
    assert "CCDCGAN_CONFIG" not in os.environ
