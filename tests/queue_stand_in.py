#!/usr/bin/env python
"""Stand-in for the commands of Slurm, OpenPBS and Grid Engine: what they say, without a cluster.

Started as ``queue_stand_in.py COMMAND ARGUMENTS``. What it says was taken from Slurm 22.05, from
Son of Grid Engine 8.1.9, and from the source of OpenPBS 23.

Environment
-----------
QUEUE_STAND_IN
    Folder of one queue: ``queue.json``, as `Queue` writes it, and what its commands keep there.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

COMMANDS = {
    "SLURM": ("sbatch", "squeue", "scontrol", "sacct"),
    "PBS": ("qsub", "qstat", "qselect"),
    "SGE": ("qsub", "qstat", "qconf"),
}

#: How the scripts of each kind name queue and job.
DIRECTIVES = {
    "SLURM": (r"^#SBATCH --partition=(\S+)", r"^#SBATCH --job-name=(\S+)"),
    "PBS": (r"^#PBS -q (\S+)", r"^#PBS -N (\S+)"),
    "SGE": (r"^#\$ -q (\S+)", r"^#\$ -N (\S+)"),
}

#: What each says of a queue that there is not, and its exit status.
UNKNOWN_QUEUE = {
    "SLURM": (
        "sbatch: error: invalid partition specified: {}\n"
        "sbatch: error: Batch job submission failed: Invalid partition name specified",
        1,
    ),
    "PBS": ("qsub: Unknown queue", 170),
    "SGE": (
        'Unable to run job: Job was rejected because job requests unknown queue "{}"\nExiting.',
        1,
    ),
}

#: Variable with the number of a job.
NUMBER = {"SLURM": "SLURM_JOB_ID", "PBS": "PBS_JOBID", "SGE": "JOB_ID"}

Jobs = dict[str, dict[str, Any]]


class Queue:
    """A queue of one kind, for a test to set up, to disturb and to look at.

    Parameters
    ----------
    folder
        Its own; its commands are below ``bin``.
    runs
        Whether its jobs run; else they stay in the queue until they are ended.
    """

    def __init__(self, folder: Path, kind: str = "SLURM", name: str = "one", runs: bool = False):
        self.folder, self.kind = folder, kind
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        settings = {"kind": kind, "name": name, "runs": runs}
        (folder / "queue.json").write_text(json.dumps(settings))
        (folder / "jobs.json").write_text("{}")
        (folder / "faults.json").write_text("{}")
        program = shlex.join([sys.executable, "-IS", __file__])
        for command in COMMANDS[kind]:
            path = self.bin / command
            path.write_text(
                f'#!/bin/sh\nexport QUEUE_STAND_IN={folder}\nexec {program} {command} "$@"\n'
            )
            path.chmod(0o755)

    def faults(self, command: str, *faults: dict[str, Any] | None) -> None:
        """Disturb the next calls of a command: None leaves one alone.

        Of a fault ``says`` is an error, ``empty`` an answer of nothing, ``hangs`` a time in s, and
        ``taken`` a job that is taken all the same.
        """
        with _changed(self.folder / "faults.json") as known:
            known[command] = list(faults)

    @property
    def jobs(self) -> Jobs:
        with _changed(self.folder / "jobs.json") as jobs:
            return {number: job for number, job in jobs.items() if _alive(job)}

    def add(self, name: str, user: str | None = None) -> str:
        """Put somebody's job into the queue; its number."""
        with _changed(self.folder / "jobs.json") as jobs:
            return _add(jobs, name, user or getpass.getuser())

    def tell(self, number: str, **values: str) -> None:
        """Let lists have another ``state``, in the queue's own words, or ``name`` of a job."""
        with _changed(self.folder / "jobs.json") as jobs:
            jobs[number].update(values)

    def end(self, *numbers: str, known: bool = True) -> None:
        """End jobs; the queue may know of them for a while."""
        with _changed(self.folder / "jobs.json") as jobs:
            for number in numbers:
                jobs[number]["over"] = True
                if not known:
                    del jobs[number]


def _add(jobs: Jobs, name: str, user: str) -> str:
    number = str(1 + max((int(n) for n in jobs), default=100))
    jobs[number] = {"name": name, "user": user, "over": False}
    return number


def _alive(job: dict[str, Any]) -> bool:
    if job["over"] or "pid" not in job:
        return not job["over"]
    try:
        # The script's shell is nobody's child any more.
        state = Path(f"/proc/{job['pid']}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


@contextmanager
def _changed(path: Path) -> Iterator[dict[str, Any]]:
    """What a file holds, to be changed by one process at a time."""
    with path.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        values = json.loads(file.read() or "{}")
        yield values
        file.seek(0)
        file.truncate()
        file.write(json.dumps(values))


def complain(text: str, code: int = 1) -> NoReturn:
    """As a program that is not in UTF-8 does."""
    sys.stderr.buffer.write(f"{text}\n".encode("latin-1"))
    sys.exit(code)


class Command:
    """One call of a command."""

    def __init__(self, folder: Path, name: str, arguments: list[str]) -> None:
        self.folder, self.name, self.arguments = folder, name, arguments
        settings = json.loads((folder / "queue.json").read_text())
        self.kind, self.queue, self.runs = settings["kind"], settings["name"], settings["runs"]
        with _changed(folder / "faults.json") as faults:
            coming = faults.get(name) or [None]
            self.fault: dict[str, Any] = coming.pop(0) or {}

    def run(self) -> None:
        time.sleep(self.fault.get("hangs", 0))
        if self.fault.get("taken"):
            self.submit()
        if "says" in self.fault:
            complain(self.fault["says"])
        if self.fault.get("empty"):
            return
        if self.name in {"sbatch", "qsub"}:
            number = self.submit()
            said = {
                "SLURM": f"Submitted batch job {number}",
                "PBS": f"{number}.{self.queue}",
                "SGE": f'Your job {number} ("x") has been submitted',
            }
            print(said[self.kind])
        else:
            with _changed(self.folder / "jobs.json") as jobs:
                getattr(self, f"{self.name}_{self.kind.lower()}")(jobs)

    def option(self, name: str) -> str | None:
        given = self.arguments
        return given[given.index(name) + 1] if name in given[:-1] else None

    def mine(self, jobs: Jobs) -> Jobs:
        user = self.option("-u")
        return {n: job for n, job in jobs.items() if job["user"] == user and _alive(job)}

    def submit(self) -> str:
        script = Path(self.arguments[-1]).absolute()
        text = script.read_text()
        queue, name = (re.search(p, text, re.MULTILINE) for p in DIRECTIVES[self.kind])
        if queue and queue[1] != "main":
            said, code = UNKNOWN_QUEUE[self.kind]
            complain(said.format(queue[1]), code)
        with _changed(self.folder / "jobs.json") as jobs:
            number = _add(jobs, name[1] if name else "none", getpass.getuser())
            if self.runs:
                jobs[number]["pid"] = self.begin(script, number)
        return number

    def begin(self, script: Path, number: str) -> int:
        told = f"{number}.{self.queue}" if self.kind == "PBS" else number
        with (script.parent / "FW_job.out").open("w") as out:
            return subprocess.Popen(
                ["bash", script],
                cwd=script.parent,
                env={**os.environ, NUMBER[self.kind]: told},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=(script.parent / "FW_job.error").open("w"),
                start_new_session=True,
            ).pid

    def squeue_slurm(self, jobs: Jobs) -> None:
        shape = self.option("-o") or ""
        for number, job in self.mine(jobs).items():
            state, _, reason = job.get("state", "RUNNING None").partition(" ")
            fields = {"%i": number, "%j": job["name"], "%T": state, "%r": reason}
            print(re.sub(r"%\w", lambda field, known=fields: known[field[0]], shape))

    def scontrol_slurm(self, jobs: Jobs) -> None:
        if self.arguments[:2] == ["show", "config"]:
            print(
                "Configuration data as of 2026-11-30T12:00:00\n"
                f"ClusterName             = {self.queue}"
            )
            print("SlurmctldHost[0]        = head(10.0.0.1)")
            return
        number = self.arguments[-1]
        if number not in jobs:
            complain("slurm_load_jobs error: Invalid job id specified")
        state = "RUNNING" if _alive(jobs[number]) else "COMPLETED"
        print(
            f"JobId={number} JobName={jobs[number]['name']} UserId=me(1) "
            f"JobState={state} Reason=None"
        )

    def sacct_slurm(self, jobs: Jobs) -> None:
        complain("Slurm accounting storage is disabled")

    def qstat_pbs(self, jobs: Jobs) -> None:
        if "-B" in self.arguments:
            print(
                f"Server: {self.queue}\n    server_state = Active\n    total_jobs = {len(jobs)}\n"
            )
            return
        if number := self.option("-f"):
            if number not in jobs:
                complain(f"qstat: Unknown Job Id {number}.{self.queue}", 153)
            if not _alive(jobs[number]):
                complain(
                    f"qstat: {number}.{self.queue} Job has finished, use -x or -H to obtain "
                    "historical job information",
                    35,
                )
            print(f"Job Id: {number}.{self.queue}\n    Job_Name = {jobs[number]['name']}")
            print(f"    Job_Owner = {jobs[number]['user']}@here")
            print("    job_state = R\n    queue = main\n")
            return
        print(f"\n{self.queue}: ")
        print(" " * 60 + "Req'd  Req'd   Elap")
        print("Job ID          Username Queue    Jobname    SessID NDS TSK Memory Time  S Time")
        print("--------------- -------- -------- ---------- ------ --- --- ------ ----- - -----")
        for number, job in self.mine(jobs).items():
            short = job["name"] if len(job["name"]) <= 10 else f"{job['name'][:9]}*"
            print(
                f"{number + '.' + self.queue:<15} {job['user'][:8]:<8} main     {short:<10}   4242"
                f"   1   1    --  00:10 {job.get('state', 'R 00:00')}"
            )

    def qselect_pbs(self, jobs: Jobs) -> None:
        for number, job in self.mine(jobs).items():
            if job["name"] == self.option("-N"):
                print(f"{number}.{self.queue}")

    def qstat_sge(self, jobs: Jobs) -> None:
        if number := self.option("-j"):
            if number not in jobs or not _alive(jobs[number]):
                complain(f"Following jobs do not exist: \n{number}")
            print(f"{'=' * 62}\njob_number:                 {number}")
            print(f"job_name:                   {jobs[number]['name']}")
            return
        print(
            "<?xml version='1.0'?>\n<job_info  xmlns:xsd=\"http://here/qstat.xsd\">\n  <queue_info>"
        )
        for number, job in self.mine(jobs).items():
            print(
                f'    <job_list state="running">\n      <JB_job_number>{number}</JB_job_number>\n'
                f"      <JAT_prio>0.50000</JAT_prio>\n      <JB_name>{job['name']}</JB_name>\n"
                f"      <JB_owner>{job['user']}</JB_owner>\n"
                f"      <state>{job.get('state', 'Rr')}</state>\n"
                "      <queue_name>main@here</queue_name>\n      <slots>1</slots>\n    </job_list>"
            )
        print("  </queue_info>\n  <job_info>\n  </job_info>\n</job_info>")

    def qconf_sge(self, jobs: Jobs) -> None:
        print(self.queue)


if __name__ == "__main__":
    Command(Path(os.environ["QUEUE_STAND_IN"]), sys.argv[1], sys.argv[2:]).run()
