"""Relaxations of other folders are taken by content key, and unfinished ones go on."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from command import status_of
from jobflow import run_locally
from potcars import write_potcars
from pymatgen.core import Lattice, Structure
from ruamel.yaml import YAML
from test_vasp_campaign import DRIVER, crystal

from ccdcgan.launchers.cluster.settings import Cluster
from ccdcgan.launchers.results.reuse import reuse, reuse_on_cluster
from ccdcgan.launchers.workdir import CALCULATIONS, CAMPAIGN_FILE, embedded_store
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.relax import RelaxMaker
from ccdcgan.workflows.storage.stores import RESULTS

SETTINGS = {
    "system": "Bi-Se",
    "relaxation": {
        "engine": {"name": "vasp", "polling": 0.1, "stages": ["relax"]},
        "fmax": 0.01,
        "max_steps": 60,
    },
}
CRYSTALS = {
    "BiSe": crystal("BiSe"),
    # Refused at once: a result without an energy.
    "Se": Structure(Lattice.cubic(9.0), ["Se"], [[0, 0, 0]]),
    "BiSe2": crystal("BiSe2"),
}


CANDIDATES = [
    {"origin": {"kind": "prototype", "id": name}, "structure": c.as_dict()}
    for name, c in CRYSTALS.items()
]
CAMPAIGN = Campaign.model_validate(SETTINGS)


def relaxations(folder: Path):
    store = embedded_store(folder).additional_stores[RESULTS]
    store.connect()
    return store


def documents(folder: Path) -> dict[str, dict]:
    found = relaxations(folder).query({}, {"_id": 0})
    return {d["origin"]["id"]: d for d in found}


class World:
    """A folder in which one relaxation is done, one refused, and one broken off."""

    def __init__(self, root: Path) -> None:
        self.root, self.old = root, root / "old"
        self.old.mkdir()
        with (self.old / CAMPAIGN_FILE).open("w") as stream:
            YAML().dump(CAMPAIGN.model_dump(mode="json"), stream)
        faults = {"BiSe2": "kill_parent"}
        (root / "faults.json").write_text(json.dumps(faults))
        self.environment = os.environ | {
            "PMG_VASP_PSP_DIR": str(write_potcars(root / "psp", ["Bi", "Se"])),
            "ATOMATE2_VASP_CMD": f"{sys.executable} {Path(__file__).with_name('vasp_stand_in.py')}",
            "VASP_STAND_IN_LOG": str(root / "log"),
            "VASP_STAND_IN_FAULTS": str(root / "faults.json"),
        }
        for name in ("SLURM_JOB_END_TIME", "CCDCGAN_END_TIME", "CCDCGAN_CONFIG"):
            self.environment.pop(name, None)
        plain = CAMPAIGN.model_dump(mode="json")
        told = {"candidates": CANDIDATES, "campaign": plain}
        (self.old / "told.json").write_text(json.dumps(told))
        command = [sys.executable, "-c", DRIVER, str(self.old)]
        environment = {**self.environment, "CCDCGAN_CALCULATIONS": str(self.old / CALCULATIONS)}
        run = subprocess.run(command, env=environment, capture_output=True)
        assert run.returncode == -signal.SIGKILL
        assert set(documents(self.old)) == {"BiSe", "Se"}
        self.files = self.listed()

    def listed(self) -> list[tuple[str, int]]:
        """Files with their times; sqlite mends its own when it opens those of a killed run."""
        files = (p for p in self.old.rglob("*") if p.is_file() and "sqlite" not in p.name)
        return sorted((str(p), p.stat().st_mtime_ns) for p in files)

    def runs(self) -> Counter[str]:
        lines = (self.root / "log").read_text().splitlines()
        return Counter(json.loads(line)["formula"] for line in lines)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("reuse"))


@pytest.fixture
def ccdcgan(world, monkeypatch, capsys):
    """``ccdcgan`` in this process: status and what it says. A run ends where its jobs begin."""
    import pymatgen.core

    from ccdcgan.launchers.local import run as local

    def stopped(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(local, "run_locally", stopped)
    monkeypatch.setattr(local, "require_ready", lambda campaign, folder: None)
    monkeypatch.setitem(pymatgen.core.SETTINGS, "PMG_VASP_PSP_DIR", str(world.root / "psp"))

    def run(*arguments):
        return status_of(monkeypatch, *arguments), capsys.readouterr().err

    return run


@pytest.fixture
def relax(world, monkeypatch):
    """The relaxations of a campaign's folder, which a process of their own began elsewhere."""
    for name in ("ATOMATE2_VASP_CMD", "VASP_STAND_IN_LOG", "VASP_STAND_IN_FAULTS"):
        monkeypatch.setenv(name, world.environment[name])
    monkeypatch.delenv("CCDCGAN_END_TIME", raising=False)
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)

    def run(folder: Path) -> None:
        monkeypatch.setenv("CCDCGAN_CALCULATIONS", str(folder / CALCULATIONS))
        job = RelaxMaker().make(CANDIDATES, CAMPAIGN.model_dump(mode="json"))
        store = embedded_store(folder)
        run_locally(job, store=store, log=False, root_dir=folder, ensure_success=True)

    return run


def campaign_file(path: Path, **changes) -> Path:
    with path.open("w") as stream:
        YAML().dump({**SETTINGS, **changes}, stream)
    return path


def test_nothing_is_computed_again(world, ccdcgan, relax, tmp_path):
    """And what was unfinished goes on."""
    file = campaign_file(tmp_path / "wider.yaml", seed=5)
    status, said = ccdcgan("run", file, "--workdir", tmp_path / "new", "--reuse", world.old)
    assert status == 130 and "stopped; the same command goes on" in said
    assert f"took 2 of 2 from {world.old}; 1 unfinished go on here" in said
    assert world.listed() == world.files
    before = world.runs()
    assert documents(tmp_path / "new") == documents(world.old)
    relax(tmp_path / "new")
    assert world.runs() - before == Counter({"BiSe2": 1})
    lines = [json.loads(x) for x in (world.root / "log").read_text().splitlines()]
    first, second = (line for line in lines if line["formula"] == "BiSe2")
    assert second["energy_first"] <= first["energy_last"] + 1e-6
    assert documents(tmp_path / "new")["BiSe2"]["converged"]
    _, said = ccdcgan("run", file, "--workdir", tmp_path / "new", "--reuse", world.old)
    assert f"took 0 of 2 from {world.old}: 2 are here already" in said
    assert "unfinished" not in said


def test_calculations_alone_go_on_in_an_empty_folder(world, ccdcgan, relax, tmp_path):
    shutil.copytree(world.old / CALCULATIONS, tmp_path / "new" / CALCULATIONS)
    status, _ = ccdcgan("run", campaign_file(tmp_path / "c.yaml"), "--workdir", tmp_path / "new")
    before = world.runs()
    assert status == 130
    relax(tmp_path / "new")
    assert world.runs() - before == Counter({"BiSe2": 1})
    new, old = documents(tmp_path / "new")["BiSe"], documents(world.old)["BiSe"]
    assert new["energy_per_atom"] == old["energy_per_atom"] and new["key"] == old["key"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"system": "Bi-Te"}, "took 0 of 2 from {}: other elements"),
        (
            {"relaxation": {"engine": {"name": "vasp", "incar": {"ENCUT": 400}}}},
            "took 0 of 2 from {}: another level of theory",
        ),
        (
            {"relaxation": {**SETTINGS["relaxation"], "fmax": 0.02}},
            "took 0 of 2 from {}: other settings of the relaxation",
        ),
    ],
)
def test_what_is_of_another_kind_is_left_and_said(world, ccdcgan, tmp_path, changes, words):
    file = campaign_file(tmp_path / "c.yaml", **changes)
    _, said = ccdcgan("run", file, "--workdir", tmp_path / "new", "--reuse", world.old)
    assert words.format(world.old) in said and "unfinished" not in said
    assert not (tmp_path / "new" / CALCULATIONS).exists()
    assert documents(tmp_path / "new") == {}


def test_technical_settings_make_no_other_campaign(world, ccdcgan, tmp_path):
    """The same folder goes on, with all that it has."""
    (tmp_path / "run").mkdir()
    shutil.copy(world.old / CAMPAIGN_FILE, tmp_path / "run")
    technical = {
        "polling": 1.0,
        "attempts": 3,
        "walltime": 2.0,
        "buffer": 60.0,
        "frozen_after": 1.0,
        "keep_waves": True,
        "ladder": [{"ALGO": "All"}, {"SYMPREC": 1e-8}],
        "incar": {"KPAR": 2, "NCORE": 4, "ALGO": "Normal"},
    }
    own = SETTINGS["relaxation"]
    for changed in ({name: value} for name, value in technical.items()):
        engine = {**own["engine"], **changed}
        changes = {
            "relaxation": {**own, "engine": engine},
            "database": {"filters": {"max_sites": 30}, "max_candidates": 200},
        }
        file = campaign_file(tmp_path / "c.yaml", **changes)
        status, said = ccdcgan("run", file, "--workdir", tmp_path / "run")
        assert status == 130, (changed, said)
    engine = {**own["engine"], "incar": {"ENCUT": 400, "KPAR": 2}}
    file = campaign_file(tmp_path / "c.yaml", relaxation={**own, "engine": engine})
    status, said = ccdcgan("run", file, "--workdir", tmp_path / "run")
    assert status == 2 and "holds another campaign (relaxation.engine.incar.ENCUT" in said


def test_no_campaign_no_folder(world, ccdcgan, tmp_path):
    (tmp_path / "empty").mkdir()
    file = campaign_file(tmp_path / "c.yaml")
    for other in (tmp_path / "empty", tmp_path / "nowhere"):
        status, said = ccdcgan("run", file, "--workdir", tmp_path / "new", "--reuse", other)
        assert status == 2 and f"{other} holds no campaign" in said
        assert not (tmp_path / "new").exists() and not any((tmp_path / "empty").iterdir())
    status, said = ccdcgan("run", file, "--workdir", world.old, "--reuse", world.old)
    assert status == 2 and "is the campaign's own folder" in said


def test_documents_with_a_fault_are_left_out(world, tmp_path):
    """They may have been written by anybody: none is copied unread."""
    shutil.copytree(world.old, tmp_path / "old")
    good = documents(tmp_path / "old")["BiSe"]
    other = crystal("Bi3Se").as_dict()
    bad = [
        {**good, "key": "0" * 32},
        {**good, "key": "1" * 32, "initial_structure": {"@module": "os", "@class": "system"}},
        {**good, "key": "2" * 32, "initial_structure": other, "structure": other},
        {"key": "3" * 32},
    ]
    relaxations(tmp_path / "old")._collection.insert_many(bad)
    retried = {"$set": {"retry": True}}
    relaxations(tmp_path / "old")._collection.update_many({"converged": False}, retried)
    (tmp_path / "new").mkdir()
    store = relaxations(tmp_path / "new")
    found = reuse(tmp_path / "old", CAMPAIGN, store, tmp_path / "calc")
    assert (found.taken, found.total, found.unfinished) == (1, 6, 1)
    assert found.left_out == {
        "damaged": 2,
        "other settings of the relaxation": 2,
        "to be tried again": 1,
    }
    assert [d["key"] for d in store.query()] == [good["key"]]


def test_links_of_another_are_not_taken(world, tmp_path):
    """What runs here would write where they lead."""
    shutil.copytree(world.old, tmp_path / "old")
    (unfinished,) = (
        p
        for p in (tmp_path / "old" / CALCULATIONS).iterdir()
        if p.name not in {d["key"] for d in documents(world.old).values()}
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "INCAR").write_text("ISPIN = 1")
    (unfinished / "02-relax").symlink_to(tmp_path / "mine")
    (unfinished / "01-relax" / "INCAR.orig").unlink(missing_ok=True)
    (unfinished / "01-relax" / "INCAR.orig").symlink_to(tmp_path / "mine" / "INCAR")
    os.mkfifo(unfinished / "01-relax" / "pipe")
    (unfinished.parent / ("b" * 32)).symlink_to(tmp_path / "mine")
    (tmp_path / "new").mkdir()
    store = relaxations(tmp_path / "new")
    assert reuse(tmp_path / "old", CAMPAIGN, store, tmp_path / "calc").unfinished == 1
    assert [p.name for p in (tmp_path / "calc").iterdir()] == [unfinished.name]
    taken = list((tmp_path / "calc").rglob("*"))
    assert all(p.is_dir() or p.is_file() for p in taken) and not any(map(Path.is_symlink, taken))
    assert (tmp_path / "calc" / unfinished.name / "01-relax" / "INCAR").is_file()
    assert not {"02-relax", "INCAR.orig", "pipe"} & {p.name for p in taken}


def test_a_result_takes_the_place_of_a_failure(world, tmp_path):
    (tmp_path / "new").mkdir()
    store = relaxations(tmp_path / "new")
    good = documents(world.old)["BiSe"]
    store.update(
        [{**good, "converged": False, "energy_per_atom": None, "reason": "failed"}], key="key"
    )
    campaign = CAMPAIGN
    found = reuse(world.old, campaign, store, tmp_path / "calc")
    assert found.taken == 2 and documents(tmp_path / "new")["BiSe"]["converged"]


def test_a_folder_that_may_not_be_written(world, monkeypatch, tmp_path):
    """As a colleague's: root may, wherever the tests run as root."""
    access = os.access

    def denied(path: str | Path, mode: int) -> bool:
        return not Path(path).is_relative_to(world.old) and access(path, mode)

    monkeypatch.setattr(os, "access", denied)
    (tmp_path / "new").mkdir()
    store = relaxations(tmp_path / "new")
    found = reuse(world.old, CAMPAIGN, store, tmp_path / "calc")
    assert (found.taken, found.unfinished) == (2, 1) and world.listed() == world.files


def test_into_a_database(world, database, monkeypatch, tmp_path):
    monkeypatch.setenv("CCDCGAN_MONGODB_URI", database.uri)
    place = {"database": database.name}
    cluster = Cluster.model_validate(
        {
            "folder": str(tmp_path / "cluster"),
            "launchpad": place,
            "stores": dict.fromkeys(("documents", "blobs", "results"), place),
            "workers": {name: {"queue": {}} for name in ("dft", "gpu", "light")},
        }
    )
    campaign = CAMPAIGN
    first, second = (list(reuse_on_cluster([world.old], campaign, cluster)) for _ in range(2))
    assert (first[0].taken, first[0].unfinished) == (2, 1)
    assert (second[0].taken, second[0].there, second[0].unfinished) == (0, 2, 0)
    assert database.handle["relaxations"].count_documents({}) == 2
    assert len(list((tmp_path / "cluster" / CALCULATIONS).iterdir())) == 1
