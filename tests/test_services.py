"""The services that other tests rely on."""

import contextlib
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from services import Database, MongoServer, Slurm, wait_until


def sbatch(*options: str | Path, script: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["sbatch", "--parsable", *map(str, options)],
        input=f"#!/bin/bash\n{script}\n",
        capture_output=True,
        text=True,
        check=False,
    )


def queue() -> list[str]:
    command = ["squeue", "--noheader", "--format=%i"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def lives(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def test_acknowledged_writes_survive_a_kill(
    stoppable_server: MongoServer, database: Database
) -> None:
    database.handle.crystals.insert_many([{"_id": i} for i in range(10)])
    database.handle.crystals.insert_one({"_id": 10})
    stoppable_server.kill()
    stoppable_server.start()
    assert database.handle.crystals.count_documents({}) == 11


def test_a_database_is_fresh_and_dropped_afterwards(mongo_server: MongoServer) -> None:
    with mongo_server.database() as one, mongo_server.database() as other:
        one.handle.crystals.insert_one({})
        assert one.name in one.handle.client.list_database_names()
        assert not other.handle.list_collection_names()
        client = other.handle.client
        one.handle.client.drop_database(one.name)
        assert one.name not in client.list_database_names()


def test_a_job_runs(slurm: Slurm, tmp_path: Path) -> None:
    output = tmp_path / "output"
    job = sbatch("--output", output, script="echo one\nsleep 1\necho two").stdout.strip()
    assert queue() == [job]
    wait_until(lambda: not queue(), "end of the job", 30)
    assert output.read_text() == "one\ntwo\n"


@pytest.mark.parametrize(
    ("partition", "message"),
    [("short", "Requested time limit is invalid"), ("closed", "Required partition not available")],
)
def test_a_job_is_rejected(slurm: Slurm, partition: str, message: str) -> None:
    done = sbatch("--partition", partition, "--time=60", script="true")
    assert done.returncode != 0
    assert message in done.stderr
    assert not queue()


def test_clear_ends_whatever_jobs_began(slurm: Slurm, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    # One that leaves its job, one that heeds no signal that it may ignore, one that waits.
    script = f"trap '' TERM\nsetsid -f sh -c 'echo $$ >> {pids}; sleep 99'\necho $$ >> {pids}\n"
    sbatch("--output=/dev/null", script=f"{script}sleep 99\n")
    sbatch("--output=/dev/null", "--begin=now+1hour", script="true")
    wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2, "both", 30)
    began = time.monotonic()
    slurm.clear()
    assert time.monotonic() - began < 5
    assert not queue()
    wait_until(lambda: not any(lives(int(pid)) for pid in pids.read_text().split()), "end", 5)
