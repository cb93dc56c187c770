"""``ccdcgan launch``: keeps a chosen number of queue jobs alive for each class of worker."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic, sleep, time
from typing import Any
from uuid import uuid4

from pymongo.errors import DuplicateKeyError, PyMongoError

from ccdcgan.dft.errors import UserError
from ccdcgan.launchers.cluster.files import write_files
from ccdcgan.launchers.cluster.folder import claim_folder
from ccdcgan.launchers.cluster.launchpad import LEASES, Pad, can_run, connect
from ccdcgan.launchers.cluster.notify import Notifier
from ccdcgan.launchers.cluster.queue import special_classes
from ccdcgan.launchers.cluster.queue_jobs import QueueJobs
from ccdcgan.launchers.cluster.recovery import mend
from ccdcgan.launchers.cluster.scheduler import (
    QueueAwayError,
    QueueHangsError,
    QueueJob,
    RefusedError,
    scheduler_of,
)
from ccdcgan.launchers.cluster.settings import Cluster, Worker
from ccdcgan.launchers.cluster.walltime import unclear_walltimes
from ccdcgan.launchers.wording import counted
from ccdcgan.workflows.storage.spool import is_away

#: Lease of a launcher, s: one that needs longer for a round is replaced by another.
LEASE = 120.0

#: Waits after a refusal of the queue, s: the first, and the longest of those that follow, each
#: twice as long as the one before.
WAIT, LONGEST_WAIT = 30.0, 600.0

#: Refusals in a row, in words that are not known, that end the launcher if the queue has never
#: taken a job of the class.
REFUSALS = 4

#: Looks at a LaunchPad without a job that can run, before the one at which the launcher ends.
LAST_LOOKS = 2

#: Most jobs that were refused and are named.
TOLD = 5


def launch(
    cluster: Cluster,
    numbers: Mapping[str, int],
    say: Callable[[str], None],
    poll: float = 10.0,
    once: bool = False,
    notify: Sequence[str] = (),
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
    notify
        Command that is told of the end, of a stop and of the first failure; see `Notifier`.

    Returns
    -------
    Whether nothing has failed.

    Raises
    ------
    UserError
        The queue rejects a job for good, or its jobs end before their workers start.
    """
    for line in unclear_walltimes(cluster):
        say(line)
    notifier = Notifier(notify, say)
    pad = connect(cluster)
    claim_folder(cluster)
    write_files(cluster, cluster.config)
    launcher = _Launcher(pad, cluster, numbers)
    with notifier.watching(pad):
        _look_until_done(launcher, say, poll, once, notifier)
        if once:
            return True
        sound = _tell_end(pad, notifier.say)
    return sound


def _look_until_done(
    launcher: _Launcher,
    say: Callable[[str], None],
    poll: float,
    once: bool,
    notifier: Notifier,
) -> None:
    idle, last, looks = 0, set[str](), 0
    while idle <= LAST_LOOKS:
        lines: list[str] = []
        try:
            live = launcher.look(lines.append)
            notifier.look()
        except PyMongoError as error:
            if once or not is_away(error):
                raise
            lines.append("the database is away: waiting for it")
            live = True
        except QueueAwayError as error:
            # From the beginning it is a mistake in the settings, later it may be maintenance.
            if once or not (looks or isinstance(error, QueueHangsError)):
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
            return
        # Between two states of a workflow there is an instant without a live job.
        idle = 0 if live else idle + 1
        sleep(poll if live else min(poll, 1.0))


def _tell_end(pad: Pad, say: Callable[[str], None]) -> bool:
    """Say what is left where no job can run; whether nothing has failed."""
    failed = pad.fireworks.count_documents({"state": "FIZZLED"})
    paused = pad.fireworks.count_documents({"state": "PAUSED"})
    if paused:
        say(f"{counted(paused, 'job is', 'jobs are')} paused: ccdcgan resume lets them run")
    refused = {"state": "READY", "refused": {"$exists": True}}
    for job in pad.fireworks.find(refused, {"fw_id": 1, "refused": 1}).limit(TOLD):
        say(f"job {job['fw_id']} is not trusted: {job['refused']['reason']}: see docs/security.md")
    if failed:
        jobs = counted(failed, "job has", "jobs have")
        say(f"{jobs} failed: see ccdcgan status, then ccdcgan retry --failed")
    elif not paused:
        say("nothing is left to run")
    return not failed


@dataclass
class _Wait:
    """What follows a refusal of the queue.

    Attributes
    ----------
    until
        When the next try is due, monotonic, s.
    seconds
        Length of this wait.
    unknown
        Refusals so far in words that are not known.
    """

    until: float
    seconds: float
    unknown: int


@dataclass
class _Launcher:
    """Looks at queue and LaunchPad, and submits what is wanted."""

    pad: Pad
    cluster: Cluster
    numbers: Mapping[str, int]
    owner: str = field(
        default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
    )
    queues: dict[str, QueueJobs] = field(default_factory=dict)
    listed: dict[str, dict[str, QueueJob]] = field(default_factory=dict)
    waits: dict[str, _Wait] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    held: set[str] = field(default_factory=set)
    stores: dict[str, Any] = field(default_factory=dict)

    def look(self, say: Callable[[str], None]) -> bool:
        """Mend what was lost, submit what is wanted; whether any job can still run."""
        self.listed.clear()
        done = mend(self.pad, self.cluster, {}, by_hand=False, stores=self.stores)
        for line in done.lines():
            say(line)
        workers: dict[str, Worker] = {str(n): w for n, w in self.cluster.workers.items()}
        config = self.cluster.config
        for name, number in self.numbers.items():
            with _lease(self.pad, self._lease_of(workers[name], name), self.owner) as ours:
                if not ours:
                    continue
                self._fill(name, workers[name], number, say)
                # Jobs that ask more of the queue than others of their class.
                for special, worker in special_classes(self.pad, self.cluster, config, name, say):
                    self._fill(special, worker, number, say)
        return self.pad.fireworks.find_one(can_run(self.pad), {"_id": 1}) is not None

    def _lease_of(self, worker: Worker, name: str) -> str:
        return f"{name} {self._queue(worker).owner}"

    def _queue(self, worker: Worker) -> QueueJobs:
        """Our jobs in the queue of a class."""
        kind = worker.queue.type
        if kind not in self.queues:
            scheduler = scheduler_of(worker.queue)
            user = getpass.getuser()
            self.queues[kind] = QueueJobs(
                self.pad, scheduler, user, scheduler.cluster(), self.cluster.root / "launches"
            )
        return self.queues[kind]

    def _fill(self, name: str, worker: Worker, number: int, say: Callable[[str], None]) -> None:
        """Submit as many queue jobs of a class as there is work for."""
        queue = self._queue(worker)
        if worker.queue.type not in self.listed:
            self.listed[worker.queue.type] = queue.scheduler.jobs()
        listed = self.listed[worker.queue.type]
        alive = queue.alive(name, listed)
        for job in alive:
            known = listed.get(job.number or "")
            obstacle = known and queue.scheduler.obstacle(str(job.number), known)
            if obstacle and job.id not in self.held:
                self.held.add(job.id)
                say(f"{name}: {obstacle}")
        if name in self.waits and monotonic() < self.waits[name].until:
            return
        busy = sum(job.state == "running" for job in alive)
        for _ in range(min(number, self._work(name, number, busy)) - len(alive)):
            try:
                job = queue.submit(name, worker, self.cluster.config)
            except RefusedError as error:
                self._wait(name, error, say)
                return
            self.waits.pop(name, None)
            self.taken.add(name)
            say(f"{name}: queue job {job.number} in {job.folder}")

    def _work(self, name: str, number: int, busy: int) -> int:
        """Jobs of a class that wait, and those that our busy workers run; up to a number."""
        # With their class, so that the index is used.
        query = {**can_run(self.pad), "spec._fworker": name}
        # What somebody else's worker runs, or qlaunch has reserved, needs none of ours.
        states = [{"state": "RUNNING"}, {"state": "RESERVED", "launches": []}]
        count = self.pad.fireworks.count_documents
        running = count({**query, "$or": states}, limit=busy) if busy else 0
        return int(count({**query, "state": "READY"}, limit=number)) + int(running)

    def _wait(self, name: str, error: RefusedError, say: Callable[[str], None]) -> None:
        """Let some time pass after a refusal that may be over then.

        Raises
        ------
        UserError
            It will not.
        """
        before = self.waits.get(name, _Wait(0.0, WAIT / 2, 0))
        unknown = before.unknown + (error.kind == "unknown")
        wrong = unknown >= REFUSALS and name not in self.taken
        if error.kind == "wrong" or wrong:
            raise UserError(f"class {name}: {error}")
        seconds = min(2 * before.seconds, LONGEST_WAIT)
        self.waits[name] = _Wait(monotonic() + seconds, seconds, unknown)
        say(f"class {name}: {error}: trying again in {seconds:g} s")


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
