"""``ccdcgan clean``: what can go, how much, and never what a restart needs."""

import os
from pathlib import Path

import pytest
import toy_jobs
from command import status_of
from crystals import ROCKSALT
from test_cluster import Here, here  # noqa: F401  a fixture

from ccdcgan.dft.engines.base import LevelOfTheory
from ccdcgan.dft.files import locked
from ccdcgan.dft.relaxation.document import Relaxation
from ccdcgan.launchers.cluster.launchpad import now
from ccdcgan.launchers.workdir import embedded_store, open_workdir, relaxations_of
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.documents import Candidate, Origin, RelaxationDocument
from ccdcgan.workflows.storage.stores import DATA, Relaxations

LEVEL = LevelOfTheory(engine="VASP", package="vasp", checkpoint="0" * 16, scale="PBE")

#: Calculations by their key's first letter, and whether their wavefunctions may go.
CALCULATIONS = {"done": True, "failed": False, "again": False, "unfinished": False}


def document(key: str, fate: str, campaign: str) -> RelaxationDocument:
    result = Relaxation(
        key=key,
        level_of_theory=LEVEL,
        structure=ROCKSALT,
        energy_per_atom=-3.0,
        converged=fate != "failed",
        reason="no" if fate == "failed" else None,
    )
    candidate = Candidate(origin=Origin(kind="prototype", id="p"), structure=ROCKSALT)
    return RelaxationDocument.of(result, candidate, campaign)


def fill(root: Path, relaxations: Relaxations, campaign: str) -> tuple[set[Path], set[Path]]:
    """A folder with what may go and what must not."""
    goes, stays = set(), set()
    for fate, may_go in CALCULATIONS.items():
        key = (fate[0] + 32 * "0")[:32]
        run = root / "calculations" / key / "01-relax"
        run.mkdir(parents=True)
        (run.parent / ".lock").touch()
        for name in ("WAVECAR", "CHGCAR", "OUTCAR"):
            (run / name).write_text(10000 * "x")
            (goes if may_go and name != "OUTCAR" else stays).add(run / name)
        if fate != "unfinished":
            relaxations.add([document(key, fate, campaign)])
    # Others may write into a database; whose these are it does not know.
    foreign = root.parent / "thesis" / "run" / "WAVECAR"
    foreign.parent.mkdir(parents=True)
    foreign.touch()
    stays.add(foreign)
    for key in (str(foreign.parent.parent), "../../thesis"):
        relaxations.add([document(key, "done", campaign)])
    again = {"key": "a" + 31 * "0"}
    relaxations._store._collection.update_many(again, {"$set": {"retry": True}})
    (root / "checkpoints").mkdir()
    for name in ("trained", "training"):
        (root / "checkpoints" / f"{name}.npz").touch()
    goes.add(root / "checkpoints" / "trained.npz")
    stays.add(root / "checkpoints" / "training.npz")
    for name in ("old", "new"):
        (root / f".ccdcgan-{name}.tmp").touch()
    os.utime(root / ".ccdcgan-old.tmp", (0, 0))
    goes.add(root / ".ccdcgan-old.tmp")
    stays.add(root / ".ccdcgan-new.tmp")
    return goes, stays


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.delenv("CCDCGAN_CONFIG", raising=False)
        status = status_of(monkeypatch, *arguments)
        said = capsys.readouterr()
        return status, said.out + said.err

    return run


@pytest.mark.parametrize("keeps", [False, True])
def test_a_folder_loses_nothing_that_a_restart_needs(command, tmp_path: Path, keeps: bool) -> None:
    folder = tmp_path / "run"
    engine = {"name": "vasp", "keep_waves": keeps}
    campaign = Campaign(relaxation={"engine": engine})
    with open_workdir(folder, campaign):
        pass
    store = embedded_store(folder)
    goes, stays = fill(folder, Relaxations(relaxations_of(store)), campaign.digest())
    artifacts = store.additional_stores[DATA]
    artifacts.connect()
    artifacts.update([{"key": "trained", "value": 1}], key="key")
    scratch = tmp_path / "ccdcgan-pwx-1"
    scratch.mkdir()
    (scratch / "new").touch()
    os.utime(scratch, (0, 0))
    asked = ("clean", folder, *(["--waves"] if keeps else []))
    if keeps:
        assert "WAVECAR" not in command("clean", folder)[1]
    status, said = command(*asked)
    assert status == 0 and "nothing was removed; with --yes it is" in said
    assert "2 20.0 kB WAVECAR, CHGCAR and CHG of finished" in " ".join(said.split())
    assert all(path.exists() for path in goes | stays)
    lock = next(path.parent.parent for path in goes if path.name == "WAVECAR") / ".lock"
    with locked(lock, "held"):
        # Somebody has begun to use one of them meanwhile.
        status, said = command(*asked, "--yes")
        assert status == 0 and "removed; 2 stay, in use or of others" in said
        assert {path.name for path in goes if path.exists()} == {"WAVECAR", "CHGCAR"}
    assert command(*asked, "--yes")[0] == 0
    assert not any(path.exists() for path in goes)
    assert all(path.exists() for path in stays) and scratch.exists()
    assert command(*asked) == (0, "nothing to remove\n")
    with locked(folder / ".lock", "held"):
        status, said = command(*asked, "--yes")
    assert status == 2 and "is in use by a ccdcgan run" in said


def test_a_cluster_keeps_what_runs_or_has_failed(here: Here) -> None:  # noqa: F811
    here.submit(toy_jobs.tree(2, 2))
    live, over = (job["fw_id"] for job in here.handle.fireworks.find({"state": "READY"}))
    here.handle.fireworks.update_one({"fw_id": over}, {"$set": {"state": "COMPLETED"}})
    here.handle.progress.insert_many([{"_id": live}, {"_id": over}, {"_id": 4711}])
    folders = {}
    for name in ("done", "queued", "failed", "young"):
        folder = folders[name] = here.root / "launches" / "dft" / name
        (folder / "launcher_1").mkdir(parents=True)
        (folder / "launcher_1" / "FW.json").write_text("{}")
        state = "queued" if name == "queued" else "ended"
        job = {"_id": name, "state": state, "folder": str(folder), "class": "dft"}
        here.handle.queue_jobs.insert_one({**job, "submitted_at": "2020-01-01T00:00:00+00:00"})
        launch = {"launch_dir": str(folder / "launcher_1"), "launch_id": 1000 + len(folders)}
        state = "FIZZLED" if name == "failed" else "COMPLETED"
        here.handle.launches.insert_one({**launch, "state": state})
        for path in (*folder.rglob("*"), folder) if name != "young" else ():
            os.utime(path, (0, 0))
    here.handle.queue_jobs.update_one({"_id": "young"}, {"$set": {"submitted_at": now()}})
    store = here.cluster.job_store()
    goes, stays = fill(here.root, Relaxations(relaxations_of(store)), "campaign")
    code, said = here.command("clean", "--config", here.config)
    assert code == 0 and "nothing was removed" in said
    assert "1 2 bytes folders of queue jobs without a failed job" in " ".join(said.split())
    assert all(path.exists() for path in (*goes, *stays, *folders.values()))
    assert here.command("clean", "--config", here.config, "--yes")[0] == 0
    assert {path.name for path in goes if path.exists()} == {"trained.npz"}, "no such artifact here"
    assert all(path.exists() for path in stays)
    assert sorted(n for n, f in folders.items() if f.exists()) == ["failed", "queued", "young"]
    assert here.handle.queue_jobs.distinct("_id") == ["queued", "young"]
    assert here.handle.progress.distinct("_id") == [live]
