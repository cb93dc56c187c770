"""Queues on bad days: two users, two clusters, refusals, silence, lists that are not true."""

import getpass
import json
import os
import shlex
import signal
import socket
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import test_cluster
import toy_jobs
from queue_stand_in import Queue
from services import wait_until
from test_cluster import Here

from ccdcgan.launchers.cluster import launch, queue_jobs, scheduler
from ccdcgan.launchers.cluster.recovery import Mended, mend
from ccdcgan.launchers.cluster.scheduler import scheduler_of
from ccdcgan.launchers.cluster.settings import Queue as Settings
from ccdcgan.launchers.cluster.walltime import unclear_walltimes, walltime_seconds
from ccdcgan.launchers.cluster.worker import _sign_in
from ccdcgan.workflows.campaign import Campaign

here = test_cluster.here

KINDS = ("SLURM", "PBS", "SGE")


class Site:
    """A cluster with a queue that is a stand-in."""

    def __init__(self, here: Here, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.here, self._folder, self._monkeypatch = here, folder, monkeypatch
        self._path = os.environ["PATH"]

    def queue(self, kind: str = "SLURM", name: str = "one", runs: bool = False) -> Queue:
        """Another queue, whose commands are found from now on."""
        made = Queue(self._folder / f"queue-{name}", kind, name, runs)
        for worker in self.here.settings["workers"].values():
            worker["queue"] = {"type": kind, "queue": "main", "walltime": "00:10:00"}
        self.here.change({})
        self.use(made)
        return made

    def use(self, queue: Queue) -> None:
        self.used = queue
        self._monkeypatch.setenv("PATH", f"{queue.bin}:{self._path}")

    def look(self, *options: object) -> list[str]:
        """What one look of a launcher says."""
        code, said = self.here.command("launch", "--once", "--jobs", "light=2", *options)
        assert code == 0, said
        return said.splitlines()

    def meanwhile(self, *actions: Callable[[], object]) -> None:
        """Do something before each of the next looks, and mend nothing."""
        todo = list(actions)

        def before(*_: object, **__: object) -> Mended:
            if todo:
                todo.pop(0)()
            return Mended()

        self._monkeypatch.setattr(launch, "mend", before)

    def documents(self) -> list[dict[str, Any]]:
        return list(self.here.handle.queue_jobs.find().sort("submitted_at", 1))


@pytest.fixture
def site(here, tmp_path, monkeypatch) -> Site:
    return Site(here, tmp_path, monkeypatch)


def looks_of(site, number):
    """Looks of one launcher of so many light queue jobs, at two light jobs that wait."""
    site.here.submit(toy_jobs.tree(2, 2))
    made = launch._Launcher(site.here.pad, site.here.cluster, {"light": number})
    launch.write_files(site.here.cluster, site.here.cluster.config)

    def look() -> list[str]:
        said: list[str] = []
        assert made.look(said.append)
        return said

    return look


@pytest.fixture
def launcher(site, monkeypatch):
    site.queue()
    return looks_of(site, 2)


@pytest.mark.parametrize("kind", ["PBS", "SGE"])
def test_jobs_run_through_every_kind_of_queue(site, kind):
    queue = site.queue(kind, runs=True)
    site.here.submit(toy_jobs.tree(2, 2))
    code, said = site.here.command("launch", "--poll", "0.2", "--jobs", "light=1")
    assert code == 0 and said.splitlines()[-1] == "nothing is left to run"
    assert site.here.counts() == {"COMPLETED": 4}
    job = site.documents()[0]
    assert job["name"] == f"ccdcgan-light-{job['_id']}" and job["host"] == socket.gethostname()
    assert said.splitlines()[0] == f"light: queue job {job['number']} in {job['folder']}"
    script = (Path(job["folder"]) / "FW_submit.script").read_text()
    assert f"export CCDCGAN_QUEUE_JOB={job['_id']}" in script
    wait_until(lambda: not queue.jobs, "empty queue")


@pytest.mark.parametrize("kind", KINDS)
def test_what_queues_say_of_their_jobs(site, kind):
    queue = site.queue(kind)
    mine, theirs = queue.add("ccdcgan-light-0123456789ab"), queue.add("x", user="somebody")
    asked = scheduler_of(Settings(type=kind))
    listed = asked.jobs()
    assert list(listed) == [mine]
    assert asked.named("ccdcgan-light-0123456789ab", listed) == mine
    assert asked.named("ccdcgan-light", listed) is None
    assert asked.is_over(mine) is False and asked.is_over("99") is None
    queue.end(mine)
    assert not asked.jobs() and theirs in queue.jobs
    # Grid Engine forgets what has ended.
    assert asked.is_over(mine) is (None if kind == "SGE" else True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_queue_that_does_not_exist_is_told_at_once(site, kind):
    queue = site.queue(kind)
    site.here.change({"workers.light.queue.queue": "nosuch"})
    site.here.submit(toy_jobs.tree(2, 2))
    said = site.here.complaint("launch", "--poll", "0.1")
    assert "class light: the queue rejects the job" in said
    assert "nosuch" in said or "Unknown queue" in said
    assert not site.documents() and not queue.jobs
    assert not list((site.here.root / "launches" / "light").iterdir())


@pytest.mark.parametrize(
    ("kind", "words", "meaning"),
    [
        ("SLURM", "Invalid account or account/partition combination specified", "wrong"),
        ("SLURM", "Invalid qos specification", "wrong"),
        ("SLURM", "Requested node configuration is not available", "wrong"),
        ("SLURM", "QOSMaxWallDurationPerJobLimit\nJob violates accounting/QOS policy", "wrong"),
        ("SLURM", "QOSMaxSubmitJobPerUserLimit\nJob violates accounting/QOS policy", "full"),
        ("SLURM", "AssocMaxSubmitJobLimit\nJob violates accounting/QOS policy", "full"),
        ("SLURM", "Socket timed out on send/recv operation", "away"),
        ("SLURM", "Unable to contact slurm controller (connect failure)", "away"),
        ("SLURM", "Slurm temporarily unable to accept job, sleeping and retrying", "away"),
        ("SLURM", "Please name your project", "unknown"),
        ("SLURM", "Please name your project, and try again", "unknown"),
        ("SLURM", "QOSGrpSubmitJobsLimit\nJob violates accounting/QOS policy", "full"),
        ("SLURM", "AssocGrpSubmitJobsLimit\nJob violates accounting/QOS policy", "full"),
        ("SLURM", "MaxSubmitJobsPerAccount\nJob violates accounting/QOS policy", "full"),
        ("SLURM", "QOSMaxNodePerJobLimit\nJob violates accounting/QOS policy", "wrong"),
        ("SLURM", "AssocGrpCPUMinutesLimit\nJob violates accounting/QOS policy", "wrong"),
        ("SLURM", "Batch job submission failed: Invalid user id", "away"),
        ("SLURM", "Batch job submission failed: Protocol authentication error", "away"),
        ("PBS", "qsub: Unknown queue", "wrong"),
        ("PBS", "qsub: Invalid Account", "wrong"),
        ("PBS", "qsub: Job violates queue and/or server resource limits", "wrong"),
        ("PBS", "qsub: Illegal attribute or resource value Resource_List.foo", "wrong"),
        ("PBS", "qsub: would exceed queue main's per-user limit", "full"),
        ("PBS", "qsub: Maximum number of jobs already in queue", "full"),
        ("PBS", "qsub: cannot connect to server pbs01 (errno=111)", "away"),
        (
            "PBS",
            "pbs_iff: cannot read reply from pbs_server\nNo Permission.\n"
            "qsub: cannot connect to server head (errno=15007) Unauthorized Request",
            "away",
        ),
        ("PBS", "qsub: Unauthorized Request", "wrong"),
        ("PBS", "qsub: Invalid credential", "away"),
        ("SGE", 'job rejected: the requested project "x" does not exist', "wrong"),
        ("SGE", 'unknown resource "foo"', "wrong"),
        ("SGE", "job rejected: only 3 jobs are allowed per user (current job count: 3)", "full"),
        ("SGE", "commlib error: got select error (Connection refused)", "away"),
        (
            "SGE",
            'commlib error: access denied (client IP resolved to host name "")\n'
            'Unable to run job: unable to contact qmaster using port 6444 on host "qm".',
            "away",
        ),
        ("SGE", "Unable to run job: access denied", "wrong"),
    ],
)
def test_refusals_that_last_and_that_pass(kind, words, meaning):
    assert scheduler_of(Settings(type=kind)).kind_of(f"x: error: {words}") == meaning


H, D = 3600, 86400


@pytest.mark.parametrize(
    ("kind", "walltimes"),
    [
        ("SLURM", {"90": 90 * 60, 90: 90 * 60, "24:30": 24 * 60 + 30, "24:00:00": 24 * H}),
        ("SLURM", {"1-12": 36 * H, "1-12:30": 36.5 * H, "1-00:00:10": D + 10, "90:00:00": 90 * H}),
        ("SLURM", {"UNLIMITED": None, "infinite": None, "0": None, 0: None}),
        ("PBS", {"90": 90, "90:00": 90 * 60, "1:30:00": 1.5 * H, "1:00:00:00": D}),
        ("SGE", {"90": 90, "4:0:0": 4 * H, "24::": 24 * H, "1::1": H + 1, ":30:": 30 * 60}),
        ("LoadSharingFacility", {"90": 90 * 60, "24:00": 24 * H}),
        ("Cobalt", {"90": 90 * 60, "01:30:00": 1.5 * H}),
        ("MOAB", {"90": 90, "1:00:00:00": D}),
    ],
)
def test_walltimes_are_those_of_the_queue(here, kind, walltimes):
    for text, seconds in walltimes.items():
        queue = Settings(type=kind, walltime=text)
        assert walltime_seconds(queue) == seconds, text
        worker = here.cluster.workers["dft"].model_copy(update={"queue": queue})
        cluster = here.cluster.model_copy(update={"workers": {"dft": worker}})
        assert not list(unclear_walltimes(cluster))


def test_a_walltime_that_is_not_understood_is_told(site):
    """No worker would know its end."""
    site.queue("PBS")
    site.here.change({"workers.light.queue.walltime": "1-12"})
    told = (
        "light queue: walltime '1-12' is none of PBS's (s, m:s, h:m:s, d:h:m:s): "
        "its workers do not know when they end"
    )
    (site.here.folder / "campaign.yaml").write_text("system: Bi-Se\n")
    assert told in site.here.command("submit", "campaign.yaml")[1]
    assert told in site.look()
    said = site.here.command("check", "campaign.yaml", "--config", site.here.config)[1]
    assert told in " ".join(said.split())


def test_each_sees_the_queue_jobs_of_his_own_cluster(site):
    one = site.queue(name="one")
    site.here.submit(toy_jobs.tree(8, 2))
    assert len(site.look()) == 2 and len(one.jobs) == 2
    # The same numbers in another cluster are other jobs.
    other = site.queue(name="other")
    assert len(site.look()) == 2 and list(other.jobs) == list(one.jobs)
    for queue in (one, other, one, other):
        site.use(queue)
        assert site.look() == []
    assert {d["state"] for d in site.documents()} == {"queued"}
    assert {d["cluster"] for d in site.documents()} == {"one@head", "other@head"}
    one.end(*one.jobs)
    assert site.look() == [] and {d["state"] for d in site.documents()} == {"queued"}


def test_each_sees_his_own_queue_jobs(site, monkeypatch):
    queue = site.queue()
    site.here.submit(toy_jobs.tree(8, 2))
    for user in ("ann", "bob"):
        monkeypatch.setenv("LOGNAME", user)
        assert len(site.look()) == 2
    for user in ("ann", "bob", "ann", "bob"):
        monkeypatch.setenv("LOGNAME", user)
        assert site.look() == []
    assert {d["user"] for d in site.documents()} == {"ann", "bob"}
    assert len(queue.jobs) == 4 and {d["state"] for d in site.documents()} == {"queued"}


def test_each_has_files_for_his_own_workers(site, monkeypatch):
    """What holds the database's address only its owner may read."""
    site.queue()
    site.here.submit(toy_jobs.tree(8, 2))
    files = {}
    for user in ("ann", "bob"):
        monkeypatch.setenv("LOGNAME", user)
        site.look()
        config = site.here.root / "config" / user
        assert site.here.cluster.config == config
        files |= {path: path.stat().st_ino for path in config.rglob("*")}
    assert files == {path: path.stat().st_ino for path in files}
    scripts = [Path(d["folder"]) / "FW_submit.script" for d in site.documents()]
    for user in ("ann", "bob"):
        own = [
            s for s in scripts if f"worker {site.here.root}/config/{user}/light" in s.read_text()
        ]
        assert len(own) == 2
    monkeypatch.setenv("LOGNAME", "../../etc")
    assert site.here.cluster.config.parent == site.here.root / "config"


def test_queue_jobs_of_earlier_versions_count(site, monkeypatch):
    """They were known by their bare number; another's are nobody's to end."""
    queue = site.queue()
    site.here.submit(toy_jobs.tree(8, 2))
    mine, theirs = queue.add("ccdcgan-light"), "4711"
    for number in (mine, theirs):
        document = {"_id": number, "class": "light", "state": "queued", "folder": "x"}
        site.here.handle.queue_jobs.insert_one(document)
    assert len(site.look()) == 1
    assert len(queue.jobs) == 2
    monkeypatch.setenv("SLURM_JOB_ID", mine)
    assert _sign_in(site.here.pad, "light") == mine
    assert site.look() == []
    queue.end(mine)
    assert len(site.look()) == 1
    states = {d["_id"]: d["state"] for d in site.documents()}
    assert states[mine] == "ended" and states[theirs] == "queued"


def test_a_folder_belongs_to_one_database(site, mongo_server):
    site.queue()
    site.here.submit(toy_jobs.tree(2, 2))
    site.look()
    files = {p: p.read_bytes() for p in site.here.root.rglob("*") if p.is_file()}
    own = site.here.handle.name
    (site.here.folder / "campaign.yaml").write_text(test_cluster.CAMPAIGN)
    with mongo_server.database() as second:
        parts = ("launchpad", "stores.documents", "stores.blobs", "stores.results")
        site.here.change({f"{part}.database": second.name for part in parts})
        commands = [("launch",), ("submit", "campaign.yaml"), ("retry",), ("pause", "toys")]
        for arguments in commands:
            said = site.here.complaint(*arguments)
            assert f"{site.here.root} belongs to database {own!r} of 127.0.0.1" in said
            assert f"not to {second.name!r} of 127.0.0.1" in said
        assert not second.handle.list_collection_names()
        # A worker would bring what waits in the folder into the wrong database.
        site.here.command("cluster", "write", site.here.folder / "files")
        done = site.here.run("ccdcgan", "worker", site.here.folder / "files" / "light", "--idle", 0)
        assert done.returncode == 2 and "belongs to database" in done.stdout
        assert len(done.stdout.splitlines()) == 1
    assert {p: p.read_bytes() for p in site.here.root.rglob("*") if p.is_file()} == files


def test_a_refusal_that_passes(launcher, site, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(launch, "monotonic", lambda: clock[0])
    limit = {"says": "sbatch: error: QOSMaxSubmitJobPerUserLimit"}
    site.used.faults("sbatch", *[limit] * 6)
    told = "class light: the queue rejects the job: sbatch: error: QOSMaxSubmitJobPerUserLimit: "
    for seconds in (30, 60, 120, 240, 480, 600):
        assert launcher() == [f"{told}trying again in {seconds} s"]
        clock[0] += seconds - 1
        assert launcher() == [] and not site.documents()
        clock[0] += 2
    assert len(launcher()) == 2 and len(site.used.jobs) == 2


def test_refusals_in_unknown_words_end_a_launcher_that_never_got_a_job_in(site, monkeypatch):
    monkeypatch.setattr(launch, "WAIT", 0.01)
    queue = site.queue()
    site.here.submit(toy_jobs.tree(2, 2))
    strange = {"says": "sbatch: error: Bitte das Projekt angeben: für Gäste gibt es nichts"}
    queue.faults("sbatch", *[strange] * 20)
    monkeypatch.setattr(queue_jobs, "UNCLEAR", 0.0)
    code, said = site.here.command("launch", "--poll", "0.1")
    assert code == 2 and len(said.splitlines()) == launch.REFUSALS
    # In Latin-1, and no traceback.
    assert "f\N{REPLACEMENT CHARACTER}r G\N{REPLACEMENT CHARACTER}ste gibt es nichts" in said
    assert not queue.jobs


def test_a_job_that_was_taken_without_a_word_is_found_by_its_name(site, monkeypatch):
    monkeypatch.setattr(launch, "WAIT", 0.0)
    queue = site.queue()
    site.here.submit(toy_jobs.tree(2, 2))
    lost = {"taken": True, "says": "sbatch: error: Socket timed out on send/recv operation"}
    queue.faults("sbatch", lost)
    (said,) = site.look()
    assert said.endswith("Socket timed out on send/recv operation: trying again in 0 s")
    (known,) = site.documents()
    assert known["state"] == "sent" and known["number"] is None
    assert len(site.look()) == 1
    assert {d["number"] for d in site.documents()} == set(queue.jobs) and len(queue.jobs) == 2


def test_a_job_that_was_not_taken_is_forgotten(site, monkeypatch):
    monkeypatch.setattr(queue_jobs, "UNCLEAR", 0.0)
    queue = site.queue()
    site.here.submit(toy_jobs.tree(2, 2))
    queue.faults("sbatch", {"says": "sbatch: error: Socket timed out on send/recv operation"})
    site.look()
    assert len(site.look()) == 2
    assert {d["number"] for d in site.documents()} == set(queue.jobs) and len(queue.jobs) == 2
    assert len(list((site.here.root / "launches" / "light").iterdir())) == 2


@pytest.mark.parametrize(
    "named",
    [
        "elsewhere",
        "launches/light/../../elsewhere",
        "launches/light/link",
        "launches",
        "launches/light",
        "a\0b",
    ],
)
def test_no_folder_but_its_own_goes_with_a_queue_job(launcher, site, named):
    """Others may write into the database."""
    root = site.here.root
    (root / "launches" / "light").mkdir(parents=True)
    precious = root / "elsewhere" / "thesis.tex"
    precious.parent.mkdir()
    precious.write_text("years")
    (root / "launches" / "light" / "link").symlink_to(precious.parent)
    own = {"user": getpass.getuser(), "cluster": "one@head", "class": "light"}
    lost = {"_id": "x", "state": "sent", "settles": 0.0, "folder": str(root / named), **own}
    site.here.handle.queue_jobs.insert_one(lost)
    launcher()
    assert not site.here.handle.queue_jobs.find_one({"_id": "x"})
    assert precious.read_text() == "years" and (root / "launches" / "light" / "link").is_symlink()


def test_what_is_no_queue_job_stops_no_launcher(launcher, site):
    """Others may write into the database."""
    own = {"user": getpass.getuser(), "cluster": "one@head", "class": "light"}
    junk = [{"_id": "a", "state": "queued", "settles": "soon"}, {"_id": "b"}, {"_id": "c"}]
    site.here.handle.queue_jobs.insert_many([{**own, **job} for job in junk])
    assert len(launcher()) == 2 and launcher() == []


def test_a_queue_that_hangs_is_waited_for(site, monkeypatch):
    monkeypatch.setattr(scheduler, "TIMEOUT", 1.0)
    queue = site.queue(runs=True)
    site.here.submit(toy_jobs.tree(2, 2))
    queue.faults("squeue", {"hangs": 5}, {"hangs": 5})
    code, said = site.here.command("launch", "--poll", "0.1", "--jobs", "light=1")
    first, *_, last = said.splitlines()
    assert first == "the queue does not answer: squeue timed out after 1 s: waiting for it"
    assert code == 0 and last == "nothing is left to run"


def test_a_list_that_is_empty_once_is_not_believed(launcher, site):
    queue = site.used
    assert len(launcher()) == 2
    before = site.documents()
    for _ in range(3):
        queue.faults("squeue", {"empty": True})
        assert launcher() == []
        assert launcher() == []
    # Slurm may also have forgotten a job, when it is asked for it.
    queue.faults("squeue", {"empty": True})
    unknown = {"says": "slurm_load_jobs error: Invalid job id specified"}
    queue.faults("scontrol", *[unknown] * 2)
    assert launcher() == [] and launcher() == []
    assert [d | {"missed": False, "named": False} for d in site.documents()] == before
    assert len(queue.jobs) == 2
    # What is gone twice is gone.
    (gone, _) = queue.jobs
    queue.end(gone, known=False)
    assert launcher() == [] and len(launcher()) == 1
    assert [d["state"] for d in site.documents()] == ["stillborn", "queued", "queued"]


@pytest.mark.parametrize(
    ("kind", "state", "word"),
    [
        ("SLURM", "PENDING launch failed requeued held", "PENDING launch failed requeued held"),
        ("SLURM", "PENDING JobHeldAdmin", "PENDING JobHeldAdmin"),
        ("SLURM", "PENDING Resources", None),
        ("SLURM", "PENDING QOSMaxJobsPerUserLimit", None),
        ("PBS", "H   -- ", "H"),
        ("PBS", "Q   -- ", None),
        ("SGE", "Eqw", "Eqw"),
        ("SGE", "hqw", "hqw"),
        ("SGE", "qw", None),
    ],
)
def test_a_queue_job_that_never_starts_is_told_once(site, kind, state, word):
    queue = site.queue(kind)
    look = looks_of(site, 1)
    assert len(look()) == 1
    (number,) = queue.jobs
    queue.tell(number, state=state)
    told = look()
    assert len(told) == (word is not None)
    if word is not None:
        begin, _, remedies = told[0].partition(": queue job ")
        assert begin == "light" and remedies.startswith(f"{number} does not start ({word}): ")
        assert f"qdel {number}" in remedies or f"scancel {number}" in remedies
    assert look() == [] and list(queue.jobs) == [number]


@pytest.mark.parametrize("kind", ["SLURM", "SGE"])
def test_a_number_that_is_given_again_is_another_job(site, kind):
    queue = site.queue(kind)
    site.here.submit(toy_jobs.tree(4, 2))
    assert len(site.look()) == 2 and site.look() == []
    again, other = queue.jobs
    queue.tell(again, name="mine-of-another-project")
    assert len(site.look()) == 1 and site.look() == []
    states = {d["number"]: d["state"] for d in site.documents()}
    assert len(states) == 3 and states[again] == "stillborn" and states[other] == "queued"


def test_a_site_that_names_jobs_itself(site):
    """As by SBATCH_JOB_NAME: what never had its name is no other job for that."""
    queue = site.queue()
    site.here.submit(toy_jobs.tree(4, 2))
    assert len(site.look()) == 2
    for number in queue.jobs:
        queue.tell(number, name="site")
    assert site.look() == site.look() == [] and len(queue.jobs) == 2
    assert {d["state"] for d in site.documents()} == {"queued"}


def test_work_of_others_needs_no_queue_job(site):
    """What runs elsewhere is not submitted for again and again."""
    queue = site.queue()
    site.here.submit(toy_jobs.tree(1, 1))
    site.here.begin()
    assert site.look() == [] and not queue.jobs


def test_reservations_of_queue_jobs_that_are_gone(site):
    queue = site.queue()
    site.here.submit(toy_jobs.tree(4, 2))
    pad = site.here.pad

    def reserve(number: str | None, seconds_ago: float = 100, host: str | None = None) -> int:
        job, launch_id = pad.reserve_fw(site.here.fworker, "/x", host=host)
        if number is not None:
            pad.set_reservation_id(launch_id, number)
        moment = (datetime.now(UTC) - timedelta(seconds=seconds_ago)).isoformat()
        change = {"$set": {"state_history.0.updated_on": moment}}
        site.here.handle.launches.update_one({"launch_id": launch_id}, change)
        return int(job.fw_id)

    waits = reserve(queue.add("toys"))
    gone, broken_off = reserve("4711"), reserve(None)
    elsewhere = reserve("4712", host="node7.of.another.cluster")
    # Reserved jobs have queue jobs of their own.
    queue.faults("squeue", *[{"says": "squeue: error: Unable to contact slurm controller"}] * 2)
    assert mend(pad, site.here.cluster, {}, by_hand=False).lost == [broken_off]
    assert mend(pad, site.here.cluster, {}, by_hand=False).lost == [gone]
    assert not mend(pad, site.here.cluster, {}, by_hand=False).lost
    states = {f["fw_id"]: f["state"] for f in site.here.handle.fireworks.find()}
    assert [states[n] for n in (gone, broken_off)] == ["READY"] * 2
    assert [states[n] for n in (waits, elsewhere)] == ["RESERVED"] * 2
    assert len(site.look()) == 2 and site.look() == []


def test_a_launcher_that_was_killed_while_it_submitted(site):
    queue = site.queue()
    site.here.submit(toy_jobs.tree(2, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queue_jobs.QueueJobs, "_note_number", lambda *_: sys.exit(137))
        assert site.here.command("launch", "--once", "--jobs", "light=2")[0] == 137
    assert len(queue.jobs) == 1 and len(site.look()) == 1
    assert {d["number"] for d in site.documents()} == set(queue.jobs) and len(queue.jobs) == 2


def test_memory_stays_where_it_is(site, monkeypatch):
    """Also with results on disk that never get into the database."""
    site.queue()
    site.here.submit(toy_jobs.tree(1, 1))
    site.here.begin()
    spool = site.here.root / "spool"
    spool.mkdir(parents=True)
    kept = {"store": "of another version", "document": {"key": "x"}}
    (spool / "results-x.json").write_text(json.dumps(kept))
    made = launch._Launcher(site.here.pad, site.here.cluster, {"light": 1})
    monkeypatch.setattr(launch._Launcher, "_fill", lambda *_: None)

    def look(times: int) -> None:
        for _ in range(times):
            made.look(lambda _: None)

    process = psutil.Process()
    look(20)
    threads, memory = process.num_threads(), process.memory_info().rss
    look(100)
    assert process.num_threads() <= threads + 2
    assert process.memory_info().rss < memory + 8e6


def test_campaigns_of_others_are_left_alone(site, monkeypatch):
    monkeypatch.setenv("LOGNAME", "ann")
    run = site.here.submit(toy_jobs.tree(2, 2), "mine")
    before = site.here.states()
    monkeypatch.setenv("LOGNAME", "bob")
    retry = ("retry", "--campaign", "mine")
    for words in (
        ("pause", "mine"),
        ("resume", "mine"),
        ("cancel", "mine"),
        retry,
        (*retry, "--structures", "--config", site.here.config),
    ):
        said = site.here.complaint(*words)
        assert f"{run} was submitted by ann@" in said and "--others" in said
    assert site.here.states() == before and not site.here.handle.campaigns.find_one({"held": 1})
    assert "mine" in site.here.command("status", "mine")[1]
    assert site.here.command("pause", "mine", "--others") == (0, "4 jobs paused\n")
    monkeypatch.setenv("LOGNAME", "ann")
    assert site.here.command("resume", "mine") == (0, "4 jobs resumed\n")


def test_phases_are_asked_for_by_name_digest_or_run(site):
    handle, config = site.here.handle, site.here.config
    runs = [("aaa111", "aaa111", "mine"), ("aaa111-2", "aaa111", "mine"), ("bbb222", "bbb222", "b")]
    for run, digest, name in runs:
        handle.campaigns.insert_one({"_id": run, "digest": digest, "name": name})
    # One that never was on the LaunchPad: brought in from a folder.
    level = Campaign().relaxation.engine.level_of_theory().model_dump(mode="json")
    for digest in ("aaa111", "bbb222", "ccc333"):
        phase = {"uid": digest, "id": digest, "campaign": digest, "formula": "BiSe"}
        handle.phases.insert_one(phase | {"energy_per_atom": -4.0, "level_of_theory": level})
    for text, digests in {
        "mine": ["aaa111"],
        "aaa111-2": ["aaa111"],
        "aaa": ["aaa111"],
        "b": ["bbb222"],
        "ccc333": ["ccc333"],
        "nobody": [],
    }.items():
        options = ("--config", config, "--campaign", text, "--format", "json")
        _, said = site.here.command("query", *options)
        assert [d["campaign"] for d in json.loads(said[said.index("[") :])] == digests, said


# Word ---------------------------------------------------------------------------------------------


@pytest.fixture
def letters(tmp_path):
    """A command that files what it is told."""
    program = tmp_path / "tell me"
    program.write_text(
        f"#!/bin/sh\n{{ env | grep ^CCDCGAN_ | sort; cat; }} > {tmp_path}/$1-$CCDCGAN_EVENT\n"
    )
    program.chmod(0o755)

    def letter(event: str) -> list[str]:
        return (tmp_path / f"x-{event}").read_text().splitlines()

    letter.command = shlex.join([str(program), "x"])  # type: ignore[attr-defined]
    return letter


def test_word_is_sent_of_the_first_failure_and_of_the_end(site, letters):
    site.queue()
    failing = [toy_jobs.total_once_mended("/none", f"no licence {n}") for n in range(2)]
    site.here.submit(toy_jobs.toys(*toy_jobs.staged("s", *failing, toy_jobs.total(1))), "mine")
    taken = sorted((site.here.begin() for _ in range(3)), key=lambda job: str(job[0].name))
    site.meanwhile(
        lambda: site.here.pad.mark_fizzled(taken[1][1]),
        lambda: site.here.pad.mark_fizzled(taken[2][1]),
        lambda: site.here.finish(*taken[0]),
    )
    run = ["launch", "--poll", "0.1", "--notify"]
    code, said = site.here.command(*run, letters.command)
    assert code == 1 and "2 jobs have failed" in said
    first, end = letters("failure"), letters("end")
    assert "CCDCGAN_CAMPAIGNS=mine" in first and "CCDCGAN_EVENT=failure" in first
    assert first[-1].endswith("has failed: s: lost: its worker gave no sign of life")
    assert "CCDCGAN_FAILED=1" in first and "CCDCGAN_RUNNING=2" in first
    assert {"CCDCGAN_CAMPAIGNS=mine", "CCDCGAN_DONE=1", "CCDCGAN_FAILED=2"} <= set(end)
    assert "2 jobs have failed" in end[-1]
    # Failures of before are no news.
    (site.here.folder / "x-failure").unlink()
    site.meanwhile()
    assert site.here.command(*run, letters.command)[0] == 1
    assert not (site.here.folder / "x-failure").exists()


def test_word_is_sent_of_a_campaign_with_an_odd_name(site, letters):
    """As somebody else may have written it into the database."""
    site.queue()
    run = site.here.submit(toy_jobs.tree(1, 1))
    site.here.handle.campaigns.update_one({"_id": run}, {"$set": {"name": "odd\0name"}})
    _, number = site.here.begin()
    site.meanwhile(lambda: site.here.pad.mark_fizzled(number))
    code, said = site.here.command("launch", "--poll", "0.1", "--notify", letters.command)
    assert code == 1 and "the notification" not in said
    assert "CCDCGAN_CAMPAIGNS=odd name" in letters("failure")


def test_word_is_sent_of_a_stop(site, letters):
    site.queue()
    site.here.change({"workers.light.queue.queue": "nosuch"})
    site.here.submit(toy_jobs.tree(2, 2), "mine")
    code, said = site.here.command("launch", "--notify", letters.command)
    assert code == 2 and "nosuch" in said
    told = letters("stop")
    assert "invalid partition specified: nosuch" in told[-1] and "CCDCGAN_READY=2" in told


@pytest.mark.parametrize("command", ["no-such-program x", "", "'open"])
def test_a_notification_that_does_not_exist(site, command):
    queue = site.queue()
    site.here.submit(toy_jobs.tree(2, 2))
    said = site.here.complaint("launch", "--notify", command)
    assert f"--notify {command!r}: " in said
    assert not queue.jobs and not (site.here.root / "config").exists()


@pytest.mark.parametrize("command", ["false", "sh -c 'kill -9 $$'"])
def test_a_notification_that_fails_stops_nothing(site, command):
    site.queue()
    code, said = site.here.command("launch", "--poll", "0.1", "--notify", command)
    assert code == 0 and "the notification of end failed" in said
    assert "nothing is left to run" in said


def test_word_is_sent_of_a_stop_from_outside(site, letters):
    site.queue()
    site.here.submit(toy_jobs.tree(1, 1))
    site.meanwhile(lambda: os.kill(os.getpid(), signal.SIGTERM))
    code, _ = site.here.command("launch", "--notify", letters.command)
    assert code == 128 + signal.SIGTERM and letters("stop")[-1] == "stopped from outside"
    # Nobody has to wait for its leases.
    assert {d["until"] for d in site.here.handle.leases.find()} <= {0.0}
