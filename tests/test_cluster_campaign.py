"""A campaign of two rounds on a real Slurm and a real database, disturbed again and again.

Single faults, each in a campaign of its own, are those of the drill (`test_drill`).
"""

import getpass
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from services import Slurm, wait_until
from small_campaign import ccdcgan, of_rounds, results, start

SETTINGS = """
folder: {root}
launchpad: {{database: {name}}}
stores:
  documents: {{database: {name}}}
  blobs: {{database: {name}}}
  results: {{database: {name}}}
heartbeat: 5
workers:
  dft: {{idle: 90, queue: {{queue: main, walltime: "01:00:00", cpus_per_task: 2}}}}
  gpu: {{idle: 90, queue: {{queue: main, walltime: "01:00:00"}}}}
  light: {{idle: 90, queue: {{queue: main, walltime: "01:00:00"}}}}
"""

MINUTES = 60

#: In two processes: their number is no part of the campaign.
ROUNDS = 2
CAMPAIGN = of_rounds(ROUNDS)

pytestmark = pytest.mark.long


class Campaign:
    """The campaign on the cluster, from the outside: command line, database and queue."""

    def __init__(self, folder: Path, database) -> None:
        self.folder, self.handle = folder, database.handle
        self.root = folder / "cluster"
        self.config = folder / "my_fireworks.yaml"
        self.config.write_text(SETTINGS.format(root=self.root, name=database.name))
        self.file = folder / "small.yaml"
        self.file.write_text(CAMPAIGN.replace("workers: 1", "workers: 2"))
        self.launchers: list[subprocess.Popen[str]] = []

    def run(self, *arguments: object) -> tuple[int, str]:
        process = ccdcgan(*arguments, "--config", self.config, cwd=self.folder)
        output, _ = process.communicate(timeout=10 * MINUTES)
        return process.returncode, output

    def launch(self) -> None:
        arguments = ["launch", "--poll", "2", "--config", self.config]
        self.launchers.append(ccdcgan(*arguments, cwd=self.folder))

    def progress(self, doing: str) -> int:
        """How far the newest job is that does something of this name; -1 if there is none."""
        found = list(self.handle.progress.find({"doing": doing}))
        return max((d["done"] for d in found), default=-1)

    def wait_until(self, reached: Callable[[], bool], what: str) -> None:
        def condition() -> bool:
            for launcher in self.launchers:
                if launcher.poll() not in (None, 0):
                    pytest.fail(launcher.communicate()[0])
            return reached()

        wait_until(condition, what, seconds=5 * MINUTES)

    def wait_for(self, doing: str, done: int = 0) -> None:
        self.wait_until(lambda: self.progress(doing) >= done, f"{done} of {doing}")

    def wait_for_relaxations(self, number: int) -> None:
        relaxations = self.handle.relaxations
        self.wait_until(lambda: relaxations.count_documents({}) >= number, f"{number} relaxations")

    def worker(self, name: str) -> psutil.Process:
        """The process that works for a class."""
        mine = str(self.root / "config" / getpass.getuser() / name)
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if "worker" in words and mine in words:
                return process
        raise AssertionError(f"no worker of class {name}")

    def queue_job(self, name: str) -> str:
        query = {"class": name, "state": "running"}
        found = self.handle.queue_jobs.find(query).sort("submitted_at", -1)
        return str(next(iter(found))["number"])

    @property
    def spooled(self) -> list[Path]:
        return sorted((self.root / "spool").glob("results-*.json"))


def undisturbed(folder: Path) -> Path:
    """Folder of the same campaign, run on this machine."""
    folder.parent.mkdir()
    process = start(folder, CAMPAIGN)
    output, _ = process.communicate(timeout=30 * MINUTES)
    assert process.returncode == 0, output
    return folder


@pytest.fixture
def campaign(tmp_path, database, mongo_server, slurm: Slurm, monkeypatch):
    monkeypatch.setenv("CCDCGAN_MONGODB_URI", database.uri)
    made = Campaign(tmp_path, database)
    yield made
    for launcher in made.launchers:
        if launcher.poll() is None:
            launcher.kill()
            launcher.communicate()
    slurm.clear()


def test_disturbed_campaign_ends_with_the_phases_of_the_local_run(
    campaign, stoppable_server, slurm, tmp_path
):
    code, said = campaign.run("submit", campaign.file)
    assert code == 0, said
    code, said = campaign.run("submit", campaign.file)
    assert code == 2 and "was submitted" in said and "--again" in said
    # Two launchers at once share the work.
    campaign.launch()
    campaign.launch()

    # A worker is killed in the middle of a relaxation batch: found by its silence.
    campaign.wait_for_relaxations(4)
    worker = campaign.worker("dft")
    worker.kill()
    worker.wait()

    # The database stops while structures are relaxed: their results wait on disk.
    relaxed_before = campaign.handle.relaxations.count_documents({})
    campaign.wait_for_relaxations(relaxed_before + 1)
    stoppable_server.stop()
    wait_until(lambda: len(campaign.spooled) >= 3, "results on disk", seconds=MINUTES)
    time.sleep(15)
    in_spool = [path.stem.removeprefix("results-") for path in campaign.spooled]
    stoppable_server.start()
    relaxations = campaign.handle.relaxations

    # The scheduler cancels the queue job of a training.
    campaign.wait_for("GAN, round 1", 50)
    done = {d["key"] for d in relaxations.find({}, {"key": 1})}
    assert set(in_spool) <= done and not campaign.spooled
    assert len(done) > relaxed_before
    subprocess.run(["scancel", campaign.queue_job("gpu")], check=True)

    # A worker is killed while it generates.
    campaign.wait_for("sampling, round 1")
    campaign.worker("gpu").send_signal(signal.SIGKILL)

    # One is killed in a training: another goes on from its checkpoint.
    campaign.wait_for("GAN, round 2", 100)
    campaign.worker("gpu").send_signal(signal.SIGKILL)

    for launcher in campaign.launchers:
        output, _ = launcher.communicate(timeout=15 * MINUTES)
        assert launcher.returncode == 0, output
    jobs = campaign.handle.fireworks
    assert jobs.count_documents({}) == jobs.count_documents({"state": "COMPLETED"})
    again = [len(f["archived_launches"]) for f in jobs.find({}, {"archived_launches": 1})]
    # Each was killed or cancelled; the outage broke nothing off.
    assert sum(again) >= 2 + ROUNDS and max(again) <= 2

    code, said = campaign.run("fetch", campaign.file, "--workdir", campaign.folder / "results")
    assert code == 0, said
    summary, phases = results(campaign.folder / "results")
    expected_summary, expected_phases = results(undisturbed(tmp_path / "undisturbed" / "run"))
    assert phases == expected_phases
    for one in (summary, expected_summary):
        one.pop("wall_seconds")
    assert summary == expected_summary

    keys = [d["key"] for d in relaxations.find({}, {"key": 1})]
    assert len(keys) == len(set(keys)) >= len(phases)
    assert campaign.handle.phases.count_documents({}) == len(phases)
    assert {d["spec"]["_fworker"] for d in jobs.find({}, {"spec._fworker": 1})} == {
        "dft",
        "gpu",
        "light",
    }
    queue_jobs = campaign.handle.queue_jobs
    assert queue_jobs.count_documents({"state": "stillborn"}) == 0
    code, said = campaign.run("retry")
    assert code == 0 and "nothing to run again" in said
