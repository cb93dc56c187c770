"""``ccdcgan check`` of a cluster: each part that is away, and real jobs through a real Slurm."""

import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore
from potcars import write_potcars
from pymongo import MongoClient
from services import free_port, give_up_soon, wait_until
from test_campaign import command

from ccdcgan.dft.errors import UserError
from ccdcgan.launchers.check import check
from ccdcgan.launchers.check.workers import inspect_worker
from ccdcgan.launchers.cluster.launchpad import connect, prepare
from ccdcgan.launchers.cluster.settings import CLASSES, load_cluster
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.jobs import worker_class
from ccdcgan.workflows.storage.stores import DATA, PHASES, RESULTS

PASSWORD = "hunter2/secret"
VARIABLE = "CCDCGAN_MONGODB_URI"


@pytest.fixture
def place(database, tmp_path, monkeypatch, capsys):
    """A cluster's file in a folder of its own, and what check says of it, line by line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(VARIABLE, database.uri)
    # What cannot be reached is to be told at once.
    give_up_soon(monkeypatch, 1000)
    monkeypatch.setattr("ccdcgan.launchers.check.workers.POLL", 0.5)
    # Comparing candidates takes seconds, and is tested in test_outlook.py.
    monkeypatch.setattr("ccdcgan.launchers.check.outlook.COMPARED", 0)
    config = tmp_path / "cluster.yaml"

    def write(workers=None, **settings):
        named = {"database": database.name}
        content = {
            "folder": str(tmp_path / "shared"),
            "launchpad": named,
            "stores": dict.fromkeys(("documents", "blobs", "results"), named),
            "workers": {name: {"queue": {}, **(workers or {}).get(name, {})} for name in CLASSES},
            **settings,
        }
        config.write_text(json.dumps(content))

    def lines(*arguments):
        code, said = command(monkeypatch, capsys, "check", "--config", str(config), *arguments)
        assert PASSWORD not in said and quote(PASSWORD, safe="") not in said
        found = [tuple(line.split("  ", 1)) for line in said.splitlines()]
        assert code == (2 if any(state == "missing" for state, _ in found) else 0), said
        return found

    write()
    return SimpleNamespace(
        write=write, lines=lines, config=config, shared=tmp_path / "shared", db=database.handle
    )


def line(lines, *words):
    """The one line with these words: its state and itself."""
    found = [(state, text) for state, text in lines if all(word in text for word in words)]
    assert len(found) == 1, "\n".join(text for _, text in lines)
    return found[0]


def test_a_new_database_is_left_as_it_was(place):
    lines = place.lines()
    state, text = line(lines, "can be written")
    assert state == "ok" and "LaunchPad, documents, blobs, results" in text
    assert line(lines, "LaunchPad '")[0] == "ok"
    assert "ccdcgan submit makes it" in line(lines, "LaunchPad '")[1]
    assert line(lines, "relaxation by sevennet")[0] == "ok"
    state, text = line(lines, "jobflow", "fireworks", "pymatgen", "tensorflow")
    assert state == "ok" and "ccdcgan 0." in text
    state, text = line(lines, str(place.shared))
    assert state == "ok" and "can be made" in text
    assert place.db.list_collection_names() == [] and not place.shared.exists()


def test_indexes_that_are_missing(place):
    cluster = load_cluster(place.config)
    prepare(connect(cluster), cluster)
    assert line(place.lines(), "indexes: all")[0] == "ok"
    place.db["relaxations"].drop_indexes()
    state, text = line(place.lines(), "indexes are missing")
    assert state == "missing" and "4 of " in text and "relaxations (key)" in text


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (None, ["set CCDCGAN_MONGODB_URI"]),
        ("mongodb://u:{password}@127.0.0.1:{closed}/", ["cannot reach the database"]),
        ("mongodb://u:{password}@{host}/?authSource=admin", ["rejects the user or the password"]),
        ("https://u:{password}@{host}/", ["is not the address of a MongoDB"]),
        ("mongodb://u:{raw}@{host}/", ["is not the address of a MongoDB"]),
    ],
)
def test_a_database_that_is_away(place, database, monkeypatch, address, words):
    if address is None:
        monkeypatch.delenv(VARIABLE)
    else:
        with MongoClient(database.uri) as client:
            client.admin.command("ping")
            host = "{}:{}".format(*client.address)
        password = quote(PASSWORD, safe="")
        uri = address.format(password=password, raw=PASSWORD, host=host, closed=free_port())
        monkeypatch.setenv(VARIABLE, uri)
    lines = place.lines()
    state, text = line(lines, *words)
    assert state == "missing" and VARIABLE in text
    assert line(lines, "LaunchPad and indexes: not tested: the database is away")[0] == "note"
    # What does not depend on it is tested all the same.
    assert line(lines, str(place.shared))[0] == "ok"
    assert len([text for _, text in lines if "queue: " in text or "on this machine" in text]) == 3
    assert line(lines, "relaxation by sevennet")[0] == "ok"
    assert line(place.lines("--submit"), "workers: not tested: the database is away")[0] == "note"


def test_each_database_is_looked_at(place, monkeypatch):
    named = {"database": "elsewhere", "uri_from_environment": "RESULTS_URI"}
    place.write(stores={"results": named})
    monkeypatch.setenv("RESULTS_URI", f"mongodb://u:{quote(PASSWORD, safe='')}@127.0.0.1:1/")
    lines = place.lines()
    assert line(lines, "cannot reach the database", "RESULTS_URI")[0] == "missing"
    assert line(lines, VARIABLE, "MongoDB", "LaunchPad")[0] == "ok"
    assert line(lines, "LaunchPad '")[0] == "ok"


@pytest.mark.parametrize(
    ("collection", "document", "words"),
    [
        ("fireworks", {"fw_id": 1}, ["belongs to another project", "launchpad.database"]),
        (
            "ccdcgan",
            {"_id": "ccdcgan", "schema_version": -1, "version": "0.0.9"},
            ["made by ccdcgan 0.0.9", "launchpad.database"],
        ),
    ],
)
def test_a_launchpad_that_is_not_ours(place, collection, document, words):
    place.db[collection].insert_one(document)
    lines = place.lines("--submit")
    assert line(lines, *words)[0] == "missing"
    assert line(lines, "workers: not tested: the LaunchPad is not ours")[0] == "note"
    assert place.db.list_collection_names() == [collection]


def test_a_folder_that_cannot_be_used(place, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    place.write(folder=str(tmp_path / "file" / "shared"))
    lines = place.lines("--submit")
    state, text = line(lines, "cannot write in")
    assert state == "missing" and "choose another folder" in text
    assert line(lines, "workers: not tested: the folder cannot be used")[0] == "note"
    usage = SimpleNamespace(total=9e12, used=9e12, free=1.2e9)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"only 1\.2 GB are free"):
        check.folder_finding(tmp_path)
    monkeypatch.setattr("fcntl.flock", lambda file, how: None)
    with pytest.raises(UserError, match="cannot be locked"):
        check.folder_finding(tmp_path)


def test_settings_of_fireworks_that_override_ours(place, tmp_path):
    path = tmp_path / "home" / ".fireworks" / "FW_config.yaml"
    path.parent.mkdir(parents=True)
    path.touch()
    state, text = line(place.lines(), "FireWorks reads")
    assert state == "missing" and str(path) in text


def test_a_file_or_a_package_that_is_wrong(place, tmp_path, monkeypatch):
    place.write(heartbeet=3)
    lines = place.lines()
    assert "did you mean 'heartbeat'" in line(lines, "heartbeet")[1]
    assert line(lines, "relaxation by sevennet")[0] == "ok"
    place.write()
    monkeypatch.setattr(check, "installed_version", lambda package: None)
    campaign = tmp_path / "campaign.yaml"
    campaign.write_text("confirm: {relaxation: {engine: {name: gpaw}}}")
    lines = place.lines(str(campaign))
    assert line(lines, "pip install 'ccdcgan[cluster]'")[0] == "missing"
    assert line(lines, "engine gpaw needs gpaw")[0] == "missing"


def test_a_queue_that_is_away(place, monkeypatch, tmp_path):
    place.write({"dft": {"queue": {"type": "LoadLeveler"}}})
    assert "no 'llsubmit'" in line(place.lines(), "dft queue")[1]
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in (("sbatch", "exit 0"), ("squeue", "echo Unable to contact >&2; exit 1")):
        (commands / name).write_text(f"#!/bin/sh\n{text}\n")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(commands), prepend=":")
    lines = place.lines()
    assert "says Unable to contact" in line(lines, "light queue")[1]


def test_submit_needs_a_cluster(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, said = command(monkeypatch, capsys, "check", "--submit")
    assert code == 2 and "--config" in said
    (tmp_path / "mine.yaml").write_text("workers: {}")
    code, said = command(monkeypatch, capsys, "check", "--config", str(tmp_path / "mine.yaml"))
    assert code == 2 and "mine.yaml: workers.dft is missing" in said.replace("Value error, ", "")


def test_jobs_through_three_classes(place, slurm, tmp_path, monkeypatch):
    program = tmp_path / "vasp_std"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    potcars = write_potcars(tmp_path / "potcars", ["Bi", "Se"])
    # VASP is where it is to run, not where check is.
    monkeypatch.setenv("ATOMATE2_VASP_CMD", "no-such-vasp")
    environment = {"ATOMATE2_VASP_CMD": str(program), "PMG_VASP_PSP_DIR": str(potcars)}
    place.write({"dft": {"environment": environment}, "gpu": {"queue": {"queue": "short"}}})
    campaign = tmp_path / "campaign.yaml"
    campaign.write_text("relaxation: {engine: {name: vasp}}")
    lines = place.lines(str(campaign), "--submit", "--timeout", "120")
    assert line(lines, "no-such-vasp")[0] == "note"
    assert line(lines, "are submitted; waiting up to 120 s")[0] == "ok"
    state, text = line(lines, "dft worker on", "began after")
    assert state == "ok" and "relaxation by vasp of Bi, Se" in text
    assert line(lines, "light worker on", "began after")[0] == "ok"
    assert line(lines, "gpu worker on", "began after")[0] == "ok"
    # Nothing is left of it.
    for name in ("fireworks", "workflows", "launches", "outputs", "queue_jobs"):
        assert place.db[name].count_documents({}) == 0, name
    assert list((place.shared / "launches").iterdir()) == []
    assert line(place.lines(), "indexes: all")[0] == "ok"


def test_jobs_that_do_not_come_back(place, slurm):
    place.write(
        {
            "dft": {"queue": {"queue": "closed"}},
            "gpu": {"before": ["echo no module cuda >&2", "exit 3"]},
            "light": {"before": ["sleep 600"]},
        }
    )
    try:
        lines = place.lines("--submit", "--timeout", "10")
        number = subprocess.run(["squeue", "-h", "-o", "%i"], capture_output=True, text=True).stdout
    finally:
        slurm.clear()
    state, text = line(lines, "dft worker")
    assert state == "missing" and "Required partition not available" in text
    state, text = line(lines, "gpu worker")
    assert state == "missing" and "ended before it took its job: no module cuda" in text
    assert Path(text.split("(")[-1].rstrip(")")).is_file()
    state, text = line(lines, "light worker")
    assert state == "missing" and "within 10 s" in text and "RUNNING" in text
    assert f"queue job {number.strip()}, which was not cancelled" in text
    assert place.db["workflows"].count_documents({}) == 0
    wait_until(lambda: place.db["fireworks"].count_documents({}) == 0, "empty LaunchPad", 5)


def test_where_no_queue_takes_a_job_nothing_stays(place, slurm):
    place.write({name: {"queue": {"queue": "closed"}} for name in ("dft", "gpu", "light")})
    lines = place.lines("--submit")
    for name in ("dft", "gpu", "light"):
        assert line(lines, f"{name} worker", "Required partition not available")[0] == "missing"
    assert list((place.shared / "launches").iterdir()) == []
    assert place.db["workflows"].count_documents({}) == 0


def test_what_a_worker_lacks_is_told_by_its_job(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("CCDCGAN_CALCULATIONS", str(tmp_path))
    monkeypatch.setenv("CCDCGAN_SPOOL", str(file / "spool"))
    campaign = Campaign.model_validate({"system": "Bi-Po"}).model_dump(mode="json")
    job = inspect_worker("dft", campaign)
    job.config = worker_class("dft")
    stores = {name: MemoryStore() for name in (RESULTS, DATA, PHASES)}
    seen = run_locally(job, store=JobStore(MemoryStore(), additional_stores=stores), log=False)
    output = seen[job.uuid][1].output
    assert output["cpus"] >= 1 and output["versions"]["jobflow"]
    folder, engine = output["findings"]
    assert folder["state"] == engine["state"] == "missing"
    assert "cannot write in" in folder["text"] and "has not learnt Po" in engine["text"]
