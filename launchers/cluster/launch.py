"""``ccdcgan launch``: keeps a chosen number of queue jobs alive for each class of worker."""

from __future__ import annotations

import getpass
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from time import sleep, time
from uuid import uuid4

from fireworks.user_objects.queue_adapters.common_adapter import CommonAdapter
from pymongo.errors import DuplicateKeyError, PyMongoError
from ruamel.yaml import YAML

from ccdcgan.dft.errors import UserError
from ccdcgan.launchers.cluster.files import write_files
from ccdcgan.launchers.cluster.launchpad import LEASES, QUEUE_JOBS, Pad, can_run, connect, now
from ccdcgan.launchers.cluster.queue import write_special_classes
from ccdcgan.launchers.cluster.recovery import mend
from ccdcgan.launchers.cluster.settings import Cluster
from ccdcgan.workflows.storage.spool import is_away

#: Queue jobs of a class in a row whose end before their worker starts ends the launcher.
FAILED_STARTS = 3

#: Lease of a launcher, s: one that needs longer for a round is replaced by another.
LEASE = 120.0


class QueueAwayError(UserError):
    """The queue does not tell which jobs it has."""


#: Most jobs that were refused and are named.
TOLD = 5


def launch(
    cluster: Cluster,
    numbers: Mapping[str, int],
    say: Callable[[str], None],
    poll: float = 10.0,
    once: bool = False,
) -> bool:
    """Submit queue jobs until no job is left that can run.

    Parameters
    ----------
    numbers
        Most queue jobs of each class that is to be launched.
    say
        Told what happens, line by line.
    poll
        Seconds between two looks at queue and LaunchPad.
    once
        Look only once.

    Returns
    -------
    Whether nothing has failed.

    Raises
    ------
    UserError
        The queue rejects a job, or its jobs end before their workers start.
    """
    pad = connect(cluster)
    config = cluster.root / "config"
    write_files(cluster, config)
    owner = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
    idle, last, looks = 0, set[str](), 0
    while True:
        lines: list[str] = []
        try:
            live = _look(pad, cluster, config, numbers, owner, lines.append)
        except PyMongoError as error:
            if once or not is_away(error):
                raise
            lines.append("the database is away: waiting for it")
            live = True
        except QueueAwayError as error:
            # From the beginning it is a mistake in the settings, later it may be maintenance.
            if once or not looks:
                raise
            lines.append(f"{error}: waiting for it")
            live = True
        finally:
            # What was said the last time is not news.
            for line in lines:
                if line not in last:
                    say(line)
            last = set(lines)
        looks += 1
        if once:
            return True
        # Between two states of a workflow there is an instant without a live job.
        idle = 0 if live else idle + 1
        if idle > 2:
            break
        sleep(poll if live else min(poll, 1.0))
    return _tell_end(pad, say)


def _tell_end(pad: Pad, say: Callable[[str], None]) -> bool:
    """Say what is left where no job can run; whether nothing has failed."""
    failed = pad.fireworks.count_documents({"state": "FIZZLED"})
    paused = pad.fireworks.count_documents({"state": "PAUSED"})
    if paused:
        say(f"{paused} jobs are paused: ccdcgan resume lets them run")
    refused = {"state": "READY", "refused": {"$exists": True}}
    for job in pad.fireworks.find(refused, {"fw_id": 1, "refused": 1}).limit(TOLD):
        say(f"job {job['fw_id']} is not trusted: {job['refused']['reason']}: see docs/security.md")
    if failed:
        say(f"{failed} jobs have failed: see ccdcgan status, then ccdcgan retry --failed")
    elif not paused:
        say("nothing is left to run")
    return not failed


def _look(
    pad: Pad,
    cluster: Cluster,
    config: Path,
    numbers: Mapping[str, int],
    owner: str,
    say: Callable[[str], None],
) -> bool:
    """Mend what was lost, submit what is wanted; whether any job can still run."""
    for line in mend(pad, cluster, {}, by_hand=False).lines():
        say(line)
    for name, number in numbers.items():
        with _lease(pad, name, owner) as ours:
            if not ours:
                continue
            _fill(pad, cluster, config, name, number, say)
            # Jobs that ask more of the queue than others of their class.
            for special in write_special_classes(pad, cluster, config, name, say):
                _fill(pad, cluster, config, special, number, say)
    return pad.fireworks.find_one(can_run(pad), {"_id": 1}) is not None


def _fill(
    pad: Pad,
    cluster: Cluster,
    config: Path,
    name: str,
    number: int,
    say: Callable[[str], None],
) -> None:
    """Submit as many queue jobs of a class as there is work for."""
    adapter = adapter_of(config / name)
    alive = _alive(pad, adapter, name)
    # With its class, so that the index is used.
    query = {"spec._fworker": name, **can_run(pad)}
    work = pad.fireworks.count_documents(query, limit=number)
    for _ in range(min(number, work) - alive):
        folder = cluster.root / "launches" / name / datetime.now().strftime("%Y%m%d-%H%M%S-%f")
        folder.mkdir(parents=True)
        job_id = submit_to_queue(adapter, folder)
        pad.db[QUEUE_JOBS].update_one(
            {"_id": job_id},
            {
                "$set": {"class": name, "folder": str(folder), "submitted_at": now()},
                # Its worker may already have signed in.
                "$setOnInsert": {"state": "queued"},
            },
            upsert=True,
        )
        say(f"{name}: queue job {job_id} in {folder}")


def _alive(pad: Pad, adapter: CommonAdapter, name: str) -> int:
    """Queue jobs of a class that wait or run; those that are gone are noted.

    Raises
    ------
    UserError
        The last ones ended before their workers started.
    """
    jobs = pad.db[QUEUE_JOBS]
    query = {"class": name, "state": {"$in": ["queued", "running"]}}
    ours = {d["_id"]: d for d in jobs.find(query)}
    there = in_queue(adapter)
    for job_id, job in ours.items():
        if job_id not in there:
            # The worker may have signed out since.
            state = "ended" if job["state"] == "running" else "stillborn"
            jobs.update_one({"_id": job_id, "state": job["state"]}, {"$set": {"state": state}})
    last = list(jobs.find({"class": name}).sort("submitted_at", -1).limit(FAILED_STARTS))
    if len(last) == FAILED_STARTS and all(job["state"] == "stillborn" for job in last):
        # Told once; the next try counts from anew.
        jobs.update_many({"class": name, "state": "stillborn"}, {"$set": {"state": "ended"}})
        raise UserError(
            f"{FAILED_STARTS} queue jobs of class {name} ended before a worker started: "
            f"{last_words(Path(last[0]['folder']))}"
        )
    return sum(job_id in there for job_id in ours)


def last_words(folder: Path) -> str:
    """The last line that a queue job wrote into its folder, for a person to see what is wrong."""
    for path in sorted(folder.glob("*.err*")) + sorted(folder.glob("*.out")):
        lines = path.read_text(errors="replace").strip().splitlines()
        if lines:
            return f"{lines[-1].strip()[:300]} ({path})"
    return f"see {folder}"


@contextmanager
def _lease(pad: Pad, name: str, owner: str) -> Iterator[bool]:
    """Whether this launcher may submit now: of several, one at a time."""
    leases = pad.db[LEASES]
    try:
        leases.update_one(
            {"_id": name, "$or": [{"until": {"$lt": time()}}, {"owner": owner}]},
            {"$set": {"owner": owner, "until": time() + LEASE}},
            upsert=True,
        )
    except DuplicateKeyError:
        yield False
        return
    try:
        yield True
    finally:
        leases.update_one({"_id": name, "owner": owner}, {"$set": {"until": 0.0}})


def adapter_of(folder: Path) -> CommonAdapter:
    """The queue of a class."""
    settings = YAML(typ="safe").load((folder / "my_qadapter.yaml").read_text())
    return CommonAdapter.from_dict(settings)


def submit_to_queue(adapter: CommonAdapter, folder: Path) -> str:
    """Submit one queue job and return its number.

    FireWorks' own function logs what the queue says and returns nothing.
    """
    script = folder / "FW_submit.script"
    script.write_text(adapter.get_script_str(str(folder)))
    command = adapter.q_commands[adapter.q_type]["submit_cmd"]
    # LSF reads its directives from the standard input only.
    by_input = adapter.q_type == "LoadSharingFacility"
    ended = _run(
        [command] if by_input else [command, script.name],
        folder,
        script.read_text() if by_input else None,
    )
    if ended.returncode:
        said = " ".join((ended.stderr or ended.stdout).split())[:300]
        raise UserError(f"the queue rejects the job of {script}: {said}")
    try:
        return str(adapter._parse_jobid(ended.stdout))
    except RuntimeError:
        said = " ".join(ended.stdout.split())[:200]
        raise UserError(f"{command} gave no number of a job, but: {said}") from None


def in_queue(adapter: CommonAdapter) -> dict[str, str]:
    """Our jobs that wait or run, by number, with what the queue says of each."""
    kind = adapter.q_type
    command = [adapter.q_commands[kind]["status_cmd"]]
    command += ["-u", getpass.getuser()]
    if kind == "SLURM":
        command += ["-h", "-o", "%i %T %r"]
    ended = _run(command, None, None)
    if ended.returncode:
        said = " ".join((ended.stderr or ended.stdout).split())[:300]
        raise QueueAwayError(f"the queue does not answer: {' '.join(command)} says {said}")
    found = re.findall(r"^\s*(\d+)(.*)", ended.stdout, re.MULTILINE)
    return {number: " ".join(rest.split()) for number, rest in found}


def _run(
    command: list[str], folder: Path | None, text: str | None
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            cwd=folder,
            input=text,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    except FileNotFoundError:
        raise UserError(
            f"there is no {command[0]!r} on this machine: launch on a node of the cluster, "
            "or change the queue's type in my_fireworks.yaml"
        ) from None
    except subprocess.TimeoutExpired:
        raise UserError(f"the queue does not answer within two minutes: {command[0]}") from None
