"""The commands for a cluster from the outside: the command line, and what is stored."""

import json
import os
import shlex
import socket
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_jobs
from fireworks import Firework, FWAction, FWorker
from jobflow import Flow, Job
from jobflow.managers.fireworks import flow_to_workflow
from monty.json import MontyDecoder, jsanitize
from pymatgen.core import Structure
from services import Database, give_up_soon, wait_until
from test_campaign import command

from ccdcgan.dft import queue_time
from ccdcgan.dft.engines.vasp import side_by_side
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.queue_time import OutOfTimeError
from ccdcgan.launchers.cluster import launchpad
from ccdcgan.launchers.cluster.files import write_files
from ccdcgan.launchers.cluster.moved import MOVED
from ccdcgan.launchers.cluster.queue_jobs import write_script
from ccdcgan.launchers.cluster.recovery import TRIES, mend
from ccdcgan.launchers.cluster.settings import CLASSES, Cluster, load_cluster
from ccdcgan.launchers.cluster.status import counts_pipeline
from ccdcgan.launchers.workdir import embedded_store
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.documents import Candidate, Claim, Origin, RelaxationDocument
from ccdcgan.workflows.storage.stores import RESULTS, Relaxations

PYTHON_PATH = str(Path(__file__).parent)

#: Settings in ``my_fireworks.yaml`` that a test changes, as {"workers.dft.queue.type": "SLURM"}.
Changes = dict[str, Any]


class Here:
    """A cluster of one test: its settings, its database, and the command line."""

    def __init__(self, folder: Path, database: Database, monkeypatch, capsys) -> None:
        self.folder, self.root = folder, folder / "shared"
        self.handle, self.uri = database.handle, database.uri
        self.config = folder / "my_fireworks.yaml"
        self._monkeypatch, self._capsys = monkeypatch, capsys
        self._flows: dict[int, Flow] = {}
        part = {"database": database.name}
        queue = {"queue": "main", "walltime": "00:10:00"}
        worker = {"queue": queue, "idle": 0, "environment": {"PYTHONPATH": PYTHON_PATH}}
        self.settings: dict[str, Any] = {
            "folder": str(self.root),
            "launchpad": dict(part),
            "stores": {name: dict(part) for name in ("documents", "blobs", "results")},
            "heartbeat": 15,
            "trusted": ["toy_jobs"],
            "workers": {name: json.loads(json.dumps(worker)) for name in CLASSES},
        }
        self.change({})
        monkeypatch.setenv("CCDCGAN_MONGODB_URI", database.uri)
        monkeypatch.setenv("FW_CONFIG_FILE", str(self.cluster.config / "FW_config.yaml"))
        monkeypatch.setenv("PYTHONPATH", PYTHON_PATH)
        give_up_soon(monkeypatch, 200)
        monkeypatch.chdir(folder)

    def change(self, changes: Changes) -> None:
        """Write the settings, some of them changed; None takes one away."""
        for path, value in changes.items():
            *above, last = path.split(".")
            section = self.settings
            for key in above:
                section = section[key]
            section[last] = value
            if value is None:
                del section[last]
        self.config.write_text(json.dumps(self.settings))

    @property
    def cluster(self) -> Cluster:
        return load_cluster(self.config)

    @property
    def pad(self) -> launchpad.Pad:
        return launchpad.connect(self.cluster)

    def command(self, *arguments: object) -> tuple[int, str]:
        return command(self._monkeypatch, self._capsys, *map(str, arguments))

    def complaint(self, *arguments: object) -> str:
        """What a command says to a mistake: one line."""
        code, said = self.command(*arguments)
        assert code == 2, said
        assert len(said.strip().splitlines()) == 1, said
        return said

    def watch_for(self, seconds: float) -> None:
        """As if launchers had looked at silent jobs for so long."""
        for launch in self.handle.launches.find({"doubt": {"$exists": True}}):
            since = datetime.fromisoformat(launch["doubt"]["since"]) - timedelta(seconds=seconds)
            change = {"$set": {"doubt.since": since.isoformat()}}
            self.handle.launches.update_one({"_id": launch["_id"]}, change)

    def submit(self, flow: Flow, name: str = "toys", seed: int = 0) -> str:
        """Put a flow on the LaunchPad as if it were that of a campaign."""
        from ccdcgan.launchers.cluster.submit import submit
        from ccdcgan.workflows.flow import InverseDesignMaker

        # Campaign and flow go together through it all, so that threads may do so at once.
        campaign = Campaign(seed=seed)
        self._flows[id(campaign)] = flow
        self._monkeypatch.setattr(InverseDesignMaker, "make", lambda _, c: self._flows[id(c)])
        return submit(campaign, name, self.cluster).campaign

    def run(self, *words: object, source: bool = False) -> "subprocess.CompletedProcess[str]":
        """A program of this Python's, in a shell that has read environment.sh or not."""
        line = shlex.join(map(str, words))
        if source:
            line = f". {shlex.quote(str(self.root))}/config/environment.sh; {line}"
        return subprocess.run(
            ["bash", "-c", line],
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def begin(self, seconds_ago: float = 0.0) -> tuple[Firework, int]:
        """Take the next light job as a worker does whose last sign of life is so long ago."""
        firework, launch = self.pad.checkout_fw(self.fworker, "/calculations/1", host="node7")
        moment = (datetime.now(UTC) - timedelta(seconds=seconds_ago)).isoformat()
        self.handle.launches.update_one(
            {"launch_id": launch}, {"$set": {"state_history.0.updated_on": moment}}
        )
        return firework, launch

    def finish(self, firework: Firework, launch: int) -> None:
        """Run a job that was taken, and tell the LaunchPad."""
        self.pad.complete_launch(launch, self.action(firework), "COMPLETED")

    def action(self, firework: Firework) -> FWAction:
        """What a job leads to, run here."""
        found = firework.tasks[0].run_task(firework.spec)
        # What jobflow tells.
        self._capsys.readouterr()
        return found

    @property
    def fworker(self) -> FWorker:
        return FWorker("light", query={"spec._fworker": "light"})

    def worker(self, name: str = "light") -> str:
        """Run what a class has to do in a process of its own, and return what it says."""
        config = self.cluster.config
        self.command("cluster", "write", config)
        done = self.run("ccdcgan", "worker", config / name, "--idle", 0)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def states(self, query: dict[str, Any] | None = None) -> dict[str, str]:
        """States of jobs by name and number, once those in the workflows are seen to agree."""
        jobs = list(self.handle.fireworks.find(query or {}, {"fw_id": 1, "state": 1, "name": 1}))
        known: dict[str, str] = {}
        for workflow in self.handle.workflows.find({}, {"fw_states": 1}):
            known |= workflow["fw_states"]
        for one in jobs:
            assert known[str(one["fw_id"])] == one["state"]
        return {f"{one['name']} {one['fw_id']}": one["state"] for one in jobs}

    def counts(self, query: dict[str, Any] | None = None) -> Counter[str]:
        return Counter(self.states(query).values())


@pytest.fixture
def here(tmp_path, database, monkeypatch, capsys) -> Here:
    return Here(tmp_path, database, monkeypatch, capsys)


CAMPAIGN = "system: Bi-Se\nconfirm: {count: 2, relaxation: {fmax: 0.05}}\n"

#: Every command that looks into the database.
COMMANDS = (
    ("submit", "campaign.yaml"),
    ("launch",),
    ("status",),
    ("status", "campaign.yaml"),
    ("retry",),
    ("pause", "campaign.yaml"),
    ("resume", "campaign.yaml"),
    ("cancel", "campaign.yaml"),
    ("fetch", "campaign.yaml"),
)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        (None, "set CCDCGAN_MONGODB_URI to the address"),
        ("http://me:secret@host/", "is not the address of a MongoDB"),
        ("mongodb://me:secret@word@host/", "is not the address of a MongoDB"),
        ("mongodb://me:secret@host:port/", "is not the address of a MongoDB"),
        ("mongodb://me:secret/word@host/", "password %2F for /, %3A for :"),
        ("mongodb+srv://me:secret@a.nowhere.invalid/", "no name server knows the host"),
        ("mongodb://me:secret@h/?tls=true&tlsCAFile=no.pem", "names the file no.pem, which cannot"),
        ("mongodb://me:secret@h/?tls=true&tlsCAFile={file}", "certificate"),
        ("mongodb://me:secret@{host}/?authSource=admin", "rejects the user or the password"),
        ("mongodb://me:secret@127.0.0.1:1/", "cannot reach the database: 127.0.0.1:1"),
    ],
)
def test_addresses_that_lead_nowhere(here, monkeypatch, uri, words):
    (here.folder / "campaign.yaml").write_text(CAMPAIGN)
    if uri is None:
        monkeypatch.delenv("CCDCGAN_MONGODB_URI")
    else:
        host = here.uri.removeprefix("mongodb://").strip("/")
        address = uri.replace("{host}", host).replace("{file}", str(here.config))
        monkeypatch.setenv("CCDCGAN_MONGODB_URI", address)
    for arguments in COMMANDS:
        said = here.complaint(*arguments)
        assert words in said and "CCDCGAN_MONGODB_URI" in said
        assert "secret" not in said
    assert not here.handle.list_collection_names()


def test_stores_that_lead_nowhere(here, monkeypatch):
    (here.folder / "campaign.yaml").write_text(CAMPAIGN)
    monkeypatch.setenv("ELSEWHERE", "mongodb://me:secret@127.0.0.1:1/")
    for store in ("documents", "blobs", "results"):
        here.change({f"stores.{store}": {"uri_from_environment": "ELSEWHERE"}})
        said = here.complaint("submit", "campaign.yaml")
        assert "cannot reach the database: 127.0.0.1:1" in said and "ELSEWHERE" in said
        assert not here.handle.list_collection_names()
        here.change({f"stores.{store}": None})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"foldr": "x"}, ["'foldr'", "did you mean 'folder'"]),
        ({"launchpad.databse": "x"}, ["launchpad.databse", "did you mean 'database'"]),
        ({"stores.blobs.colection": "x"}, ["stores.blobs.colection", "'collection'"]),
        ({"workers.dft.job": 3}, ["workers.dft.job", "did you mean 'jobs'"]),
        ({"workers.cpu": {}}, ["workers.cpu", "'dft', 'gpu' or 'light'"]),
        ({"workers.gpu": None}, ["workers.gpu is missing"]),
        ({"workers.gpu.queue": None}, ["workers.gpu.queue is missing"]),
        ({"workers.dft.queue.partition": "x"}, ["'partition'", "queue", "account", "walltime"]),
        ({"workers.dft.queue.type": "SLRUM"}, ["workers.dft.queue", "'SLURM', 'PBS'"]),
        ({"workers.dft.queue.template": "no.txt"}, ["workers.dft.queue", "no.txt"]),
        ({"workers.dft.jobs": 0}, ["workers.dft.jobs", "greater than or equal to 1"]),
        ({"heartbeat": 0}, ["heartbeat", "greater than 0"]),
    ],
)
def test_mistakes_in_my_fireworks_yaml(here, changes, words):
    here.change(changes)
    for arguments in (("status",), ("launch",), ("cluster", "write", "files")):
        said = here.complaint(*arguments)
        assert "my_fireworks.yaml" in said
        assert all(word in said for word in words), said
    assert not here.handle.list_collection_names() and not (here.folder / "files").exists()


def test_databases_of_others_are_left_alone(here):
    from fireworks import Firework, LaunchPad, ScriptTask

    (here.folder / "campaign.yaml").write_text(CAMPAIGN)
    theirs = LaunchPad(host=here.uri, name=here.handle.name, uri_mode=True, strm_lvl="ERROR")
    theirs.reset("", require_password=False)
    theirs.add_wf(Firework([ScriptTask.from_str("true")]))
    before = sorted(here.handle.list_collection_names())
    for arguments in COMMANDS:
        said = here.complaint(*arguments)
        assert "belongs to another project" in said and "launchpad.database" in said
    assert sorted(here.handle.list_collection_names()) == before


def test_databases_of_another_version_are_left_alone(here):
    (here.folder / "campaign.yaml").write_text(CAMPAIGN)
    mark = {"_id": "ccdcgan", "schema_version": 99, "version": "9.9"}
    here.handle.ccdcgan.insert_one(mark)
    for arguments in COMMANDS:
        said = here.complaint(*arguments)
        assert "ccdcgan 9.9" in said and "99" in said
    assert here.handle.list_collection_names() == ["ccdcgan"]


def test_jobs_of_modules_that_have_moved_run(here):
    """A campaign submitted before the move goes on; versions before it then stay away."""
    (here.folder / "campaign.yaml").write_text(CAMPAIGN)
    assert here.command("submit", "campaign.yaml")[0] == 0
    back = {(new, name): old for (old, name), new in MOVED.items()}

    def old(value: Any) -> Any:
        if isinstance(value, list):
            return [old(part) for part in value]
        if not isinstance(value, dict):
            return value
        name = str(value.get("@class") or value.get("@callable")).split(".")[0]
        module = value.get("@module")
        changed = {"@module": back.get((module, name), module)} if module else {}
        return {key: old(part) for key, part in value.items()} | changed

    for stored in list(here.handle.fireworks.find()):
        here.handle.fireworks.replace_one({"_id": stored["_id"]}, old(stored))
    here.handle.ccdcgan.update_one({}, {"$set": {"schema_version": 1}})
    found = list(here.handle.fireworks.find())
    fw_ids, text = [stored["fw_id"] for stored in found], json.dumps(found, default=str)
    assert "workflows.inverse_design" in text and "workflows.flow" not in text
    pad = here.pad
    jobs = [MontyDecoder().process_decoded(pad.get_fw_by_id(i).tasks[0]["job"]) for i in fw_ids]
    assert {type(job) for job in jobs} == {Job} and all(callable(job.function) for job in jobs)
    # What begins now is for today's version alone.
    here.submit(toy_jobs.toys(toy_jobs.total(1, 2)), "more")
    assert here.handle.ccdcgan.find_one()["schema_version"] == 2


def test_missing_files(here):
    said = here.complaint("submit", "none.yaml")
    assert "cannot read none.yaml" in said
    (here.folder / "campaign.yaml").write_text("sytem: Bi-Se")
    assert "did you mean 'system'" in here.complaint("submit", "campaign.yaml")
    (here.folder / "campaign.yaml").write_text("system: Bi-Po")
    assert "has not learnt Po" in here.complaint("submit", "campaign.yaml")
    (here.folder / "campaign.yaml").write_text(CAMPAIGN)
    here.config.unlink()
    for arguments in (*COMMANDS, ("cluster", "write", "files")):
        said = here.complaint(*arguments)
        assert "my_fireworks.yaml" in said and "--config" in said
    assert "ccdcgan cluster write" in here.complaint("worker", "files/light")
    assert not here.handle.list_collection_names()


def test_fireworks_is_not_there(here, monkeypatch):
    (here.folder / "campaign.yaml").write_text(CAMPAIGN)
    monkeypatch.setattr("ccdcgan.launchers.cluster.settings.find_spec", lambda _: None)
    for arguments in COMMANDS:
        assert "pip install 'ccdcgan[cluster]'" in here.complaint(*arguments)


def test_a_campaign_is_submitted_once(here):
    path = here.folder / "mine.yaml"
    path.write_text(CAMPAIGN)
    code, said = here.command("submit", path)
    assert code == 0 and "submitted mine as" in said
    first = here.handle.campaigns.find_one()
    assert first["_id"] in said and "7 jobs" in said
    said = here.complaint("submit", path)
    assert first["submitted_at"] in said and first["submitted_by"] in said
    assert f"ccdcgan status {first['_id']}" in said and "--again" in said
    assert here.handle.fireworks.count_documents({}) == 7
    code, said = here.command("submit", path, "--again")
    assert code == 0 and f"as {first['_id']}-2," in said
    assert here.handle.fireworks.count_documents({}) == 14
    for word in ("nobody", "none.yaml", "other.yaml"):
        (here.folder / "other.yaml").write_text("system: Bi-Te")
        for name in ("status", "pause", "resume", "cancel", "fetch"):
            here.complaint(name, word)
    assert "no campaign 'nobody' was submitted" in here.complaint("retry", "--campaign", "nobody")
    several = here.complaint("pause", "mine")
    assert "several campaigns" in several and f"{first['_id']}, {first['_id']}-2" in several
    # Its file means the latest run of it; its number may be cut short.
    assert here.command("pause", path)[1] == "7 jobs paused\n"
    assert here.counts({"spec.campaign": first["_id"]}) == {"READY": 1, "WAITING": 6}
    assert here.counts({"spec.campaign": f"{first['_id']}-2"}) == {"PAUSED": 7}
    assert "several campaigns" in here.complaint("status", first["_id"][:6])
    assert "not done" in here.complaint("fetch", first["_id"])


def test_a_prediction_is_submitted_as_any_campaign(here):
    written = ("predict", "NaCl", "--budget", 100, "--to-file")
    assert here.command(*written, "nacl.yaml", "--pressure", 20)[0] == 0
    code, said = here.command("submit", "nacl.yaml")
    assert code == 0 and "submitted nacl as" in said
    stored = here.handle.campaigns.find_one()
    # 50 prototypes, and 20 a round.
    assert (stored["system"], stored["rounds"]) == ("Na-Cl", 3)
    assert stored["settings"]["search"]["compositions"] == ["NaCl"]
    assert stored["settings"]["relaxation"]["pressure"] == 20
    # Nothing of one pressure is taken at another.
    assert here.command(*written, "other.yaml", "--pressure", 10)[0] == 0
    code, said = here.command("submit", "other.yaml")
    assert code == 0 and "has relaxed" not in said


def test_a_space_group_that_fits_nothing_is_not_submitted(here, pyxtal):
    search = "search: {spacegroups: [Ia-3d]}\nloop: {screening: {max_sites: 4}}\n"
    (here.folder / "mine.yaml").write_text(f"system: Bi-Se\n{search}")
    assert "no cell of Bi-Se up to 4 atoms" in here.complaint("submit", "mine.yaml")
    assert not here.handle.campaigns.find_one()


def test_more_of_a_submitted_campaign_takes_what_that_has_relaxed(here):
    path = here.folder / "mine.yaml"
    path.write_text(CAMPAIGN)
    assert "has relaxed" not in here.command("submit", path)[1]
    first = here.handle.campaigns.find_one()["_id"]
    here.handle.campaigns.insert_one({"_id": "old", "system": "Bi-Se", "settings": {"sytem": 1}})
    path.write_text(CAMPAIGN + "workers: 1\n")
    assert "was submitted on" in here.complaint("submit", path)
    path.write_text(CAMPAIGN + "database: {max_candidates: 33}\n")
    code, said = here.command("submit", path)
    assert code == 0 and f"which take what {first} has relaxed" in said
    assert f"{first} still has 7 jobs" in said and f"ccdcgan cancel {first}" in said
    path.write_text(CAMPAIGN + "thresholds: {stable: 0.01}\n")
    code, said = here.command("submit", path)
    assert code == 0 and "has relaxed" not in said


def test_more_of_what_an_earlier_version_has_submitted_goes_on_with_its_engine(here):
    path = here.folder / "mine.yaml"
    path.write_text("system: Bi-Se\nrelaxation: {engine: {name: sevennet}, optimizer: FIRE}\n")
    assert here.command("submit", path)[0] == 0
    first = here.handle.campaigns.find_one()["_id"]
    here.handle.fireworks.update_many({}, {"$set": {"state": "COMPLETED"}})
    # As a file of 0.1, which left the engine to us.
    path.write_text("system: Bi-Se\nloop: {rounds: 7}\n")
    code, said = here.command("submit", path)
    assert code == 0 and f"which take what {first} has relaxed" in said
    assert "still has" not in said
    newest = here.handle.campaigns.find_one({"rounds": 7})
    assert newest["settings"]["relaxation"]["engine"] == {"name": "sevennet"}, "7net-0 alone"
    # What people call otherwise is another campaign.
    path = path.with_name("other.yaml")
    path.write_text("system: Bi-Se\nloop: {rounds: 8}\n")
    code, said = here.command("submit", path)
    assert code == 0 and "has relaxed" not in said


def test_of_many_submissions_at_once_one_succeeds(here):
    def submit(_: int) -> str:
        try:
            return here.submit(toy_jobs.tree(2, 2))
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(submit, range(4)))
    assert sum("was submitted on" in text for text in said) == 3
    assert here.counts() == {"READY": 2, "WAITING": 2}


def test_a_submission_that_was_killed_is_taken_over(here, monkeypatch):
    from ccdcgan.launchers.cluster import submit

    monkeypatch.setattr(submit, "UNFINISHED", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(launchpad.Pad, "add_wf", lambda *_: sys.exit(137))
        with pytest.raises(SystemExit):
            here.submit(toy_jobs.tree(4, 2))
    assert here.handle.campaigns.count_documents({"submitted": False}) == 1
    assert here.submit(toy_jobs.tree(4, 2)) == here.handle.campaigns.find_one()["_id"]
    assert here.counts() == {"READY": 4, "WAITING": 3}


def test_mistakes_in_jobs(here):
    for text in ("gpu=many", "cpu=1", "gpu", "gpu=-1"):
        said = here.complaint("launch", "--jobs", text)
        assert f"--jobs {text}: write CLASS=NUMBER" in said and "dft, gpu, light" in said
    assert not here.handle.list_collection_names()


# The queue ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("queue", "words"),
    [
        ({"queue": "closed"}, "Required partition not available"),
        ({"queue": "short", "walltime": "01:00:00"}, "Requested time limit is invalid"),
        ({"queue": "none"}, "invalid partition specified: none"),
    ],
)
def test_a_queue_that_rejects_jobs(here, slurm, queue, words):
    here.change({"workers.light.queue": queue})
    here.submit(toy_jobs.tree(2, 2))
    said = here.complaint("launch")
    assert "the queue rejects" in said and words in said
    assert not here.handle.queue_jobs.count_documents({})


def test_a_machine_without_a_queue(here, monkeypatch, tmp_path):
    here.submit(toy_jobs.tree(2, 2))
    monkeypatch.setenv("PATH", str(tmp_path))
    said = here.complaint("launch")
    assert "there is no 'scontrol' on this machine" in said


def test_launch_stops_when_no_worker_starts(here, slurm):
    here.change({"workers.light.before": ["echo no such licence >&2", "exit 3"]})
    here.submit(toy_jobs.tree(2, 2))
    code, said = here.command("launch", "--poll", "0.1")
    *told, last = said.strip().splitlines()
    assert code == 2 and [line.split()[0] for line in told] == ["light:"] * 3
    assert "3 queue jobs of class light ended before a worker started" in last
    assert "no such licence" in last and str(here.root / "launches" / "light") in last
    assert not slurm.run("squeue", "-h").stdout


# Routing -----------------------------------------------------------------------------------------


def test_every_job_knows_class_campaign_and_stage(here):
    path = here.folder / "mine.yaml"
    path.write_text(CAMPAIGN)
    here.command("submit", path)
    run = here.handle.campaigns.find_one()["_id"]
    found = []
    for firework in here.handle.fireworks.find():
        spec = firework["spec"]
        found.append((spec["stage"], firework["name"], spec["_fworker"]))
        assert spec["campaign"] == run
        # Else jobs would go on after a parent that failed.
        assert "_allow_fizzled_parents" not in spec
    assert sorted(found) == [
        ("autoencoder", "autoencoder", "gpu"),
        ("conclusion", "conclude", "light"),
        ("confirmation", "propose_confirmation", "light"),
        ("confirmation", "relax structures", "dft"),
        ("database", "relax structures", "dft"),
        ("prototypes", "propose structures", "light"),
        ("rounds", "round", "light"),
    ]


class ByHand:
    """Runs jobs of a submitted campaign by hand, on outputs that are invented."""

    def __init__(self, here: Here) -> None:
        self.store = embedded_store(here.folder / "store")
        self.store.connect()
        self.campaign = Campaign()
        level = self.campaign.relaxation.engine.level_of_theory()
        self.candidates, self.entries = [], []
        results = Relaxations(self.store.additional_stores[RESULTS])
        for number, species in enumerate((["Bi"], ["Se"], ["Bi", "Se"], ["Se", "Bi"], ["Bi"])):
            crystal = Structure(
                np.eye(3) * (3 + number), species, [[0, 0, 0], [0.5, 0.5, 0.5]][: len(species)]
            )
            origin = Origin(kind="prototype", id=str(number))
            self.candidates.append(Candidate(origin=origin, structure=crystal.as_dict()))
            self.entries.append(Claim(key=str(number), origin=origin))
            results.put(
                RelaxationDocument(
                    key=str(number),
                    structure=crystal.as_dict(),
                    energy_per_atom=-3.5 - 0.1 * len(species),
                    converged=True,
                    campaign="x",
                    origin=origin,
                    initial_structure=crystal.as_dict(),
                    level_of_theory=level,
                )
            )

    def output(self, job: Job, output: Any) -> None:
        plain = jsanitize(output, strict=True)
        self.store.update({"uuid": job.uuid, "index": job.index, "output": plain})

    def born(self, job: Job) -> list[tuple[dict[str, Any], Job]]:
        """Specs and jobs that a job is replaced by."""
        response = job.run(self.store)
        fireworks = flow_to_workflow(response.replace).fws
        # As they come out of the database.
        return [
            (f.spec, Firework.from_dict(f.to_db_dict() | {"launches": []}).tasks[0]["job"])
            for f in fireworks
        ]


def jobs_of(here: Here) -> dict[str, Job]:
    """Jobs on the LaunchPad by their stage."""
    numbers = here.handle.fireworks.distinct("fw_id")
    fireworks = [here.pad.get_fw_by_id(number) for number in numbers]
    return {f.spec["stage"]: f.tasks[0]["job"] for f in fireworks}


def test_jobs_that_are_born_later_have_a_class_too(here):
    """By jobflow alone they would have their parent's, and its own store_inputs none."""
    path = here.folder / "mine.yaml"
    path.write_text("system: Bi-Se\n")
    here.command("submit", path)
    run = here.handle.campaigns.find_one()["_id"]
    jobs, by_hand = jobs_of(here), ByHand(here)

    by_hand.output(jobs["prototypes"], {"candidates": by_hand.candidates})
    jobs["database"].function.__self__.batch_size = 2
    batches = by_hand.born(jobs["database"])
    assert Counter((job.name, spec["_fworker"]) for spec, job in batches) == {
        ("relax structures", "dft"): 3,
        ("merge_entries", "light"): 1,
        ("store_inputs", "light"): 1,
    }
    assert {spec["stage"] for spec, _ in batches} == {"database"}

    by_hand.output(jobs["database"], {"entries": by_hand.entries, "seconds": 1.0})
    by_hand.output(jobs["autoencoder"], {"match_fraction": 1.0, "held_out": 1, "seconds": 1.0})
    born, following = [], jobs["rounds"]
    for number in (1, 2):
        new = by_hand.born(following)
        born += new
        here_now = {spec["stage"]: job for spec, job in new if job.name != "store_inputs"}
        assert list(here_now) == [
            f"round {number}: {part}" for part in ("constraint", "gan", "generate", "relax", "end")
        ]
        for part, output in {
            "constraint": {"properties": {}, "seconds": 1.0},
            "gan": {"history": {}, "seconds": 1.0},
            "generate": {
                "candidates": by_hand.candidates,
                "funnel": {},
                "latent": None,
                "seconds": 1.0,
            },
        }.items():
            by_hand.output(here_now[f"round {number}: {part}"], output)
        relax = here_now[f"round {number}: relax"]
        relax.function.__self__.batch_size = 2
        born += by_hand.born(relax)
        by_hand.output(relax, {"entries": [], "seconds": 1.0})
        following = here_now[f"round {number}: end"]
    for spec, job in [*batches, *born]:
        kind = {"relax structures": "dft", "round": "light", "merge_entries": "light"}.get(job.name)
        kind = kind or ("light" if job.name == "store_inputs" else "gpu")
        assert spec["_fworker"] == kind, job.name
        assert spec["campaign"] == run and spec["stage"]
        assert "_allow_fizzled_parents" not in spec
    assert len(born) == 22


def test_a_relaxation_that_goes_on_in_a_new_job_keeps_its_class(here, monkeypatch):
    path = here.folder / "mine.yaml"
    path.write_text("relaxation: {engine: {name: vasp}}\n")
    said = here.complaint("submit", path)
    assert "queue time of 10 min" in said and "engine.buffer" in said
    path.write_text("relaxation: {engine: {name: vasp, buffer: 60}}\n")
    here.command("submit", path)
    job, by_hand = jobs_of(here)["database"], ByHand(here)

    def out_of_time(*_: Any) -> None:
        raise OutOfTimeError

    monkeypatch.setattr(side_by_side, "relax_by_vasp", out_of_time)
    monkeypatch.setattr(queue_time, "sleep", lambda _: None)
    by_hand.output(jobs_of(here)["prototypes"], {"candidates": by_hand.candidates[:1]})
    ((spec, again),) = by_hand.born(job)
    assert (again.uuid, again.index) == (job.uuid, job.index + 1)
    assert spec["_fworker"] == "dft" and spec["stage"] == "database" and spec["campaign"]


# What is stored ----------------------------------------------------------------------------------


def test_addresses_are_in_no_document_and_in_private_files_only(here, monkeypatch):
    monkeypatch.setenv("CCDCGAN_MONGODB_URI", f"{here.uri}?appname=secretmarker")
    failing = toy_jobs.total_once_mended(str(here.folder / "no"), "out of memory")
    here.submit(toy_jobs.toys(*toy_jobs.staged("toys", toy_jobs.spread(1, 2), failing)))
    assert "6 jobs were run" in here.worker()
    assert here.counts() == {"COMPLETED": 5, "FIZZLED": 1}
    here.command("status", "toys")
    here.command("retry")
    for collection in here.handle.list_collection_names():
        for document in here.handle[collection].find():
            assert "secretmarker" not in str(document), collection
    holders = {
        path
        for path in here.root.rglob("*")
        if path.is_file() and "secretmarker" in path.read_text()
    }
    config = here.cluster.config
    assert {path.relative_to(config).as_posix() for path in holders} == {
        "jobflow.yaml",
        "my_launchpad.yaml",
        *(f"{name}/my_launchpad.yaml" for name in CLASSES),
    }
    assert {path.stat().st_mode & 0o777 for path in holders} == {0o600}
    # Also those that others could read at first.
    for path in holders:
        path.chmod(0o644)
    here.command("cluster", "write", config)
    assert {path.stat().st_mode & 0o777 for path in holders} == {0o600}


# Status ------------------------------------------------------------------------------------------


def table(text: str) -> dict[str, dict[str, str]]:
    """Cells of a printed table, by first column and heading."""
    rows = [
        [cell.strip() for cell in line.replace("┃", "│").strip().strip("│").split("│")]
        for line in text.splitlines()
        if line.startswith(("┃", "│"))
    ]
    head, *body = rows
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in body}


def test_status_counts_every_job(here):
    failing = toy_jobs.total_once_mended(str(here.folder / "no"), "out of\n memory [12 GB]")
    first = here.submit(toy_jobs.toys(*toy_jobs.staged("fails", failing)), "first")
    second = here.submit(toy_jobs.tree(12, 4), "second", seed=1)
    here.worker()
    third = here.submit(toy_jobs.tree(12, 4), "third", seed=2)
    here.begin()
    lost, _ = here.begin(seconds_ago=100)
    here.begin()
    words = {"WAITING": "waiting", "READY": "queued", "RUNNING": "running", "COMPLETED": "done"}
    words["FIZZLED"] = "failed"
    jobs = list(here.handle.fireworks.find())
    code, overview = here.command("status")
    head, *rows = [line.split() for line in overview.splitlines()]
    assert code == 0 and {row[0] for row in rows} == {first, second, third}
    for run, name in ((first, "first"), (second, "second"), (third, "third")):
        expected: dict[str, Counter[str]] = {}
        for one in jobs:
            if one["spec"]["campaign"] == run:
                word = "lost" if one["fw_id"] == lost.fw_id else words[one["state"]]
                expected.setdefault(one["spec"]["stage"], Counter())[word] += 1
        for told in (run, run[:7], name):
            code, said = here.command("status", told)
            found = {
                stage: {column: int(cell) for column, cell in cells.items() if cell}
                for stage, cells in table(said).items()
            }
            assert code == 0 and found == expected
        # The overview knows no lost jobs, and leaves out what is nought.
        total = sum((Counter(c) for c in expected.values()), Counter())
        total["running"] += total.pop("lost", 0)
        row = next(row for row in rows if row[0] == run)
        assert row[1:3] == [name, "Bi-Se"]
        assert [int(n) for n in row[4:]] == [total[c] for c in head[4:] if total[c]]
    folder = here.handle.launches.find_one({"state": "FIZZLED"})["launch_dir"]
    where = f"({socket.gethostname()}:{folder})"
    line = f"failed: fails: RuntimeError: out of memory [12 GB] {where}"
    # A structure that failed is told of beside the job; an older document has no class.
    origin = {"kind": "prototype", "id": "x"}
    for n, more in enumerate([{}, {}, {"failure": "stopped", "reason": "3 runs in 9 h"}]):
        document = {"key": str(n), "campaign": first, "converged": False, "origin": origin}
        here.handle.relaxations.insert_one(document | {"reason": f"force is 0.{n} eV/Å"} | more)
    told = here.command("status", "first")[1].splitlines()
    assert line in told and "4 failed: 2 crystal, 1 stopped, 1 machine (ccdcgan" in " ".join(told)
    assert "2 crystal: force is # eV/Å" in told and "1 stopped: # runs in # h" in told


def test_status_reads_indexes(here):
    here.submit(toy_jobs.tree(12, 4))
    run = here.submit(toy_jobs.tree(12, 4), seed=1)
    pipeline = counts_pipeline(run)
    explain = {"aggregate": "fireworks", "pipeline": pipeline, "cursor": {}}
    plan = here.handle.command("explain", explain, verbosity="executionStats")
    text = str(plan)
    assert "IXSCAN" in text and "COLLSCAN" not in text
    assert "'totalDocsExamined': 32" not in text


# Running again -----------------------------------------------------------------------------------


def test_failed_jobs_run_again(here, monkeypatch):
    mended = here.folder / "mended"
    quota, licence = (
        toy_jobs.total_once_mended(str(mended), reason)
        for reason in ("Disk quota exceeded", "no licence")
    )
    end = toy_jobs.total(quota.output, licence.output)
    run = here.submit(toy_jobs.toys(*toy_jobs.staged("toys", quota, licence, end)))
    here.submit(toy_jobs.tree(2, 2), "other", seed=1)
    said = here.worker()
    assert "6 jobs were run" in said and said.count("RUNNING fw_id") == 6
    assert here.counts() == {"FIZZLED": 2, "WAITING": 1, "COMPLETED": 4}
    nothing = (0, "nothing to run again\n")
    assert here.command("retry", "--lost") == nothing
    assert here.command("retry", "--only", "no such reason") == nothing
    assert here.command("retry", "--campaign", "other") == nothing
    again = (0, "1 failed job runs again\n")
    assert here.command("retry", "--campaign", run[:8], "--only", "disk quota") == again
    assert here.counts({"spec.campaign": run}) == {"READY": 1, "FIZZLED": 1, "WAITING": 1}
    assert here.command("retry", "--only", "disk quota") == nothing
    with monkeypatch.context() as patch:
        patch.setenv("LOGNAME", "somebody-else")
        assert here.command("retry", "--failed") == nothing
    assert here.command("retry", "--failed", "--others") == again
    assert here.command("retry") == nothing
    mended.touch()
    assert "3 jobs were run" in here.worker()
    assert here.counts() == {"COMPLETED": 7}
    # The other campaign was left alone.
    assert here.handle.launches.count_documents({}) == 4 + 2 + 3


def test_lost_jobs_run_again(here):
    here.submit(toy_jobs.tree(6, 3))
    alive, _ = here.begin()
    lost, _ = here.begin(seconds_ago=100)
    # Killed between the end of its run and telling the workflow.
    done, launch = here.begin(seconds_ago=100)
    ended = {"state": "COMPLETED", "action": here.action(done).to_dict()}
    here.handle.launches.update_one({"launch_id": launch}, {"$set": ended})
    # One that lives, at that moment.
    ending, launch = here.begin()
    here.handle.launches.update_one({"launch_id": launch}, {"$set": ended})
    # Killed between taking a job and noting its run.
    taken = here.pad._get_a_fw_to_run(here.fworker.query)
    moment = datetime.now(UTC) - timedelta(seconds=100)
    here.handle.fireworks.update_one({"fw_id": taken.fw_id}, {"$set": {"updated_on": moment}})
    here.begin(seconds_ago=100)

    assert here.command("retry", "--failed") == (0, "nothing to run again\n")
    code, said = here.command("retry")
    assert code == 0 and sorted(said.splitlines()) == [
        "1 job state that lagged behind its run was set right",
        "1 lost job runs again",
        "2 jobs give no sign of life: lost only if that stays so; ask again in 60 s with ccdcgan "
        "retry",
    ]
    here.watch_for(70)
    assert here.command("retry") == (0, "2 lost jobs run again\n")
    states = {f["fw_id"]: f["state"] for f in here.handle.fireworks.find()}
    assert states[alive.fw_id] == states[ending.fw_id] == "RUNNING"
    assert states[done.fw_id] == "COMPLETED"
    assert states[lost.fw_id] == states[taken.fw_id] == "READY"
    assert here.counts() == {"RUNNING": 2, "COMPLETED": 1, "READY": 3, "WAITING": 3}
    assert here.command("retry") == (0, "nothing to run again\n")


def test_what_is_lost_again_and_again_waits_for_a_person(here):
    here.submit(toy_jobs.toys(*toy_jobs.staged("toys", toy_jobs.total(1))))
    pad, settings = here.pad, here.cluster
    for _ in range(TRIES - 1):
        here.begin(seconds_ago=100)
        assert not mend(pad, settings, {}, by_hand=False).lost
        here.watch_for(70)
        assert mend(pad, settings, {}, by_hand=False).lost
    here.begin(seconds_ago=100)
    assert not mend(pad, settings, {}, by_hand=False).given_up
    here.watch_for(70)
    for _ in range(2):
        done = mend(pad, settings, {}, by_hand=False)
        assert done.given_up and not done.lost
    assert here.command("status", "toys")[1].splitlines()[-1].startswith("failed: toys: lost")
    assert here.command("retry")[1] == "1 lost job runs again\n"
    assert here.counts() == {"READY": 1}


def test_failures_of_its_own_are_no_losses(here):
    failing = toy_jobs.total_once_mended("/nowhere", "no licence")
    here.submit(toy_jobs.toys(*toy_jobs.staged("toys", failing)))
    for _ in range(TRIES - 1):
        here.worker()
        assert here.command("retry") == (0, "1 failed job runs again\n")
    here.begin(seconds_ago=100)
    mend(here.pad, here.cluster, {}, by_hand=False)
    here.watch_for(70)
    done = mend(here.pad, here.cluster, {}, by_hand=False)
    assert done.lost and not done.given_up and here.counts() == {"READY": 1}


def test_what_is_no_campaign_hides_none(here):
    """Somebody else has written it among them."""
    run = here.submit(toy_jobs.tree(1, 1), "mine")
    here.handle.campaigns.insert_many([{"_id": "junk"}, {"_id": "junk2", "name": "mine"}])
    code, said = here.command("status")
    assert code == 0 and run in said and "junk" not in said
    for name in ("mine", run[:6]):
        assert "mine" in here.command("status", name)[1]
    assert "no campaign 'junk' was submitted" in here.complaint("status", "junk")


def test_keys_in_the_environment_of_workers_are_their_owners(here):
    """`my_fireworks.yaml` may be, too."""
    here.change({"workers.light.environment": {"MP_API_KEY": "secretkey"}})
    write_files(here.cluster, here.cluster.config)
    worker = here.cluster.workers["light"]
    write_script("x", "x", worker, "light", here.cluster.config, here.root / "launches" / "1")
    files = [path for path in here.root.rglob("*") if path.is_file()]
    holders = {path.name: path for path in files if "secretkey" in path.read_text()}
    assert set(holders) == {"my_qadapter.yaml", "FW_submit.script"}
    assert {path.stat().st_mode & 0o777 for path in holders.values()} == {0o600}


def test_after_an_absence_of_the_database_nothing_is_lost_before_it_is_silent_again(here):
    here.submit(toy_jobs.tree(2, 2))
    alive, launch = here.begin(seconds_ago=1000)
    dead, _ = here.begin(seconds_ago=1000)
    pad, settings = here.pad, here.cluster
    assert not mend(pad, settings, {}, by_hand=False).lost
    here.watch_for(50)
    assert not mend(pad, settings, {}, by_hand=False).lost
    # A person who does not know better meanwhile.
    code, said = here.command("retry")
    assert code == 0 and "2 jobs give no sign of life: lost only if that stays so" in said
    here.pad.ping_launch(launch)
    here.watch_for(20)
    assert mend(pad, settings, {}, by_hand=False).lost == [dead.fw_id]
    assert here.counts() == {"RUNNING": 1, "READY": 1, "WAITING": 2}
    assert here.handle.fireworks.find_one({"state": "RUNNING"})["fw_id"] == alive.fw_id


def test_a_living_job_by_a_slow_clock_is_lost_for_nobody(here):
    here.submit(toy_jobs.tree(1, 1))
    _, launch = here.begin()
    for beat in range(5):
        moment = datetime.now(UTC) - timedelta(seconds=150 - beat)
        change = {"$set": {"state_history.0.updated_on": moment.isoformat()}}
        here.handle.launches.update_one({"launch_id": launch}, change)
        code, said = here.command("retry")
        assert code == 0 and "1 job gives no sign of life" in said
        assert not mend(here.pad, here.cluster, {}, by_hand=False).lost
        # Both look, and between two beats less than it takes to be lost.
        here.watch_for(50)
    assert here.counts()["RUNNING"] == 1


def test_jobs_that_cannot_be_read_block_no_others(here):
    """A module that is missing on a machine: the root of one branch, the child in another."""
    broken, good, parent = (toy_jobs.total(number) for number in range(3))
    last, child = toy_jobs.total(broken.output), toy_jobs.total(parent.output)
    here.submit(toy_jobs.toys(*toy_jobs.staged("toys", broken, last, good, parent, child)))
    jobs = here.handle.fireworks

    def module(name: str) -> None:
        for uuid in (broken.uuid, child.uuid):
            path = "spec._tasks.0.job.function.@module"
            jobs.update_one({"spec._tasks.0.job.uuid": uuid}, {"$set": {path: name}})

    def states() -> list[str]:
        found = {f["spec"]["_tasks"][0]["job"]["uuid"]: f["state"] for f in jobs.find()}
        return [found[job.uuid] for job in (broken, last, good, parent, child)]

    original = jobs.find_one()["spec"]["_tasks"][0]["job"]["function"]["@module"]
    module("ccdcgan.no_such_module")
    assert "jobs were run" in here.worker()
    assert states() == ["FIZZLED", "WAITING", "COMPLETED", "FIZZLED", "WAITING"]
    told = here.command("status", "toys")[1].splitlines()[-2:]
    reason = "ModuleNotFoundError: No module named 'ccdcgan.no_such_module'"
    assert all(line.startswith(f"failed: toys: {reason}") for line in told)
    # What can be read runs again; the other is named, and stays as it was.
    number = jobs.find_one({"spec._tasks.0.job.uuid": broken.uuid})["fw_id"]
    code, said = here.command("retry")
    assert code == 0
    assert said == f"1 failed job runs again\njob {number} cannot run again: {reason}\n"
    assert states() == ["FIZZLED", "WAITING", "COMPLETED", "READY", "WAITING"]
    assert reason in here.command("status", "toys")[1]
    assert here.command("pause", "toys") == (0, "3 jobs paused\n")
    assert here.command("resume", "toys") == (0, "3 jobs resumed\n")
    module(original)
    assert here.command("retry") == (0, "1 failed job runs again\n")
    assert "4 jobs were run" in here.worker()
    assert states() == ["COMPLETED"] * 5


def test_jobs_without_a_workflow_are_removed_when_they_are_old(here):
    run = here.submit(toy_jobs.tree(2, 2))
    jobs = here.handle.fireworks
    here.submit(toy_jobs.tree(2, 2), "broken off", seed=1)
    here.handle.workflows.delete_one({"metadata.campaign": {"$ne": run}})
    orphans = {"spec.campaign": {"$ne": run}}
    nothing = (0, "nothing to run again\n")
    # They may be about to get one.
    assert here.command("retry") == nothing
    long_ago = {"$set": {"created_on": "2026-01-01T00:00:00.000000+00:00"}}
    jobs.update_many({}, long_ago)
    # One was taken and failed, as it has no workflow to tell.
    jobs.update_one(orphans, {"$set": {"state": "FIZZLED"}})
    assert here.command("retry") == (0, "4 jobs without a workflow were removed\n")
    assert here.command("retry") == nothing
    assert here.counts() == {"READY": 2, "WAITING": 2}
    # Of a workflow that is being written, even old ones are left alone.
    here.handle.workflows.update_one({}, {"$set": {"locked": True}, "$pull": {"nodes": 1}})
    assert here.command("retry") == nothing
    assert jobs.count_documents({}) == 4


@pytest.fixture
def locked(here) -> Here:
    """A workflow that a killed worker has left locked."""
    here.submit(toy_jobs.tree(3, 3))
    here.begin(seconds_ago=100)
    here.handle.workflows.update_one({}, {"$set": {"locked": True}})
    here.change({"heartbeat": 0.25})
    return here


def test_a_lock_that_was_left_behind_stops_no_command(locked):
    """In processes of their own, as FireWorks reads its settings once."""
    begin = (
        "from ccdcgan.launchers.cli import app; from ccdcgan.launchers.cluster import files; "
        "files.LOCKED = 1.0; app.main()"
    )
    mend(locked.pad, locked.cluster, {})
    locked.watch_for(1)
    for arguments, said in {
        ("retry",): "1 lost job runs again\n",
        ("pause", "toys"): "5 jobs paused\n",
    }.items():
        locked.handle.workflows.update_one({}, {"$set": {"locked": True}})
        done = locked.run("python", "-c", begin, *arguments)
        assert (done.returncode, done.stdout) == (0, said)
    assert locked.counts() == {"PAUSED": 5}
    locked.command("resume", "toys")
    locked.handle.workflows.update_one({}, {"$set": {"locked": True}})
    config = locked.root / "config" / "FW_config.yaml"
    write_files(locked.cluster, config.parent)
    config.write_text(config.read_text().replace("SECS: 60.0", "SECS: 1.0"))
    done = locked.run("ccdcgan", "worker", config.parent / "light", "--idle", 0)
    assert "5 jobs were run" in done.stdout
    assert locked.counts() == {"COMPLETED": 5}


# Pause, resume, cancel ---------------------------------------------------------------------------


def test_pause_resume_cancel(here):
    run = here.submit(toy_jobs.tree(24, 5))
    other = here.submit(toy_jobs.tree(3, 3), "other", seed=1)
    mine, theirs = {"spec.campaign": run}, {"spec.campaign": other}
    for _ in range(5):
        here.finish(*here.begin())
    running, launch = here.begin()
    before, untouched = here.states(mine), here.states(theirs)
    assert Counter(before.values()) == {"COMPLETED": 5, "RUNNING": 1, "READY": 19, "WAITING": 5}

    assert here.command("pause", "toys") == (0, "24 jobs paused\n")
    assert here.counts(mine) == {"COMPLETED": 5, "RUNNING": 1, "PAUSED": 24}
    assert here.command("pause", "toys") == (0, "0 jobs paused\n")
    assert here.states(theirs) == untouched
    # What runs ends as usual; the other campaign goes on.
    here.finish(running, launch)
    assert "5 jobs were run" in here.worker()
    assert here.counts(mine) == {"COMPLETED": 6, "PAUSED": 24}
    assert here.counts(theirs) == {"COMPLETED": 5}

    assert here.command("resume", "toys") == (0, "24 jobs resumed\n")
    done = f"{running.name} {running.fw_id}"
    changed = {name: state for name, state in here.states(mine).items() if before[name] != state}
    # The sum of the first five leaves was ready, or would be.
    assert changed.pop(done) == "COMPLETED"
    assert not changed
    assert here.command("resume", "toys") == (0, "0 jobs resumed\n")

    here.command("pause", "toys")
    assert here.command("cancel", "toys") == (0, "24 jobs cancelled\n")
    for word in ("cancel", "pause", "resume"):
        assert here.command(word, "toys")[1].startswith("0 jobs")
    assert "0 jobs were run" in here.worker()
    assert here.counts(mine) == {"COMPLETED": 6, "DEFUSED": 24}
    assert here.command("retry") == (0, "nothing to run again\n")


@pytest.mark.parametrize(("how", "state"), [("pause", "PAUSED"), ("cancel", "DEFUSED")])
def test_what_is_born_or_runs_again_in_a_held_campaign_waits(here, how, state):
    failing = toy_jobs.total_once_mended("/nowhere", "no licence")
    spread = toy_jobs.spread(1, 2, 3)
    here.submit(toy_jobs.toys(*toy_jobs.staged("toys", spread, toy_jobs.total(spread.output))))
    here.submit(toy_jobs.toys(*toy_jobs.staged("toys", failing, toy_jobs.total(1))), "b", seed=1)
    parent, launch = here.begin()
    here.begin(seconds_ago=100)
    here.begin(seconds_ago=100)
    for name in ("toys", "b"):
        here.command(how, name)
    here.finish(parent, launch)
    here.command("retry")
    here.watch_for(70)
    here.command("retry")
    assert here.counts() == {"COMPLETED": 1, state: 8}
    for name in ("toys", "b"):
        here.command("resume", name)
    if how == "pause":
        assert here.counts() == {"COMPLETED": 1, "READY": 5, "WAITING": 3}
    else:
        assert here.counts() == {"COMPLETED": 1, state: 8}
    here.submit(toy_jobs.tree(2, 2), "c", seed=2)
    assert here.counts()["READY"] == 2 + (5 if how == "pause" else 0)


# FireWorks' own commands -------------------------------------------------------------------------


def test_commands_of_fireworks_read_the_files(here):
    here.submit(toy_jobs.tree(2, 2))
    config = here.root / "config"
    here.command("cluster", "write", config)
    for options in (("-c", config), ("-l", config / "my_launchpad.yaml")):
        done = here.run("lpad", *options, "get_fws", "-d", "count", source=True)
        assert done.stdout.splitlines()[-1] == "4"
    done = here.run("rlaunch", "-c", config / "dft", "singleshot", source=True)
    assert "No FireWorks are ready to run" in done.stdout
    assert here.counts() == {"READY": 2, "WAITING": 2}
    here.run("rlaunch", "-c", config / "light", "singleshot", source=True)
    assert here.counts() == {"COMPLETED": 1, "READY": 1, "WAITING": 2}
    assert here.handle.outputs.find_one()["output"] == 0


def test_qlaunch_puts_a_worker_into_the_queue(here, slurm):
    here.submit(toy_jobs.tree(2, 2))
    config = here.root / "config"
    here.command("cluster", "write", config)
    done = here.run("qlaunch", "-c", config / "light", "singleshot", source=True)
    ended = {"state": "COMPLETED"}
    wait_until(lambda: here.handle.fireworks.count_documents(ended) == 4, done.stdout)
    (job,) = here.handle.queue_jobs.find()
    assert job["class"] == "light" and job["host"]


def test_launch_ends_when_nothing_is_left_to_run(here, slurm):
    failing = toy_jobs.total_once_mended(str(here.folder / "mended"), "no licence")
    here.submit(toy_jobs.toys(*toy_jobs.staged("toys", failing, toy_jobs.spread(1, 2))))
    code, said = here.command("launch", "--poll", "0.5", "--jobs", "light=1")
    assert code == 1 and "1 job has failed" in said.splitlines()[-1]
    assert here.counts() == {"COMPLETED": 5, "FIZZLED": 1}
    (here.folder / "mended").touch()
    here.command("retry")
    code, said = here.command("launch", "--poll", "0.5", "--jobs", "light=1")
    assert code == 0 and said.splitlines()[-1] == "nothing is left to run"
    assert here.counts() == {"COMPLETED": 6}
    assert {job["state"] for job in here.handle.queue_jobs.find()} == {"ended"}
