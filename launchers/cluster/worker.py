"""``ccdcgan worker``: takes the jobs of one class, one after the other, in one process."""

from __future__ import annotations

import getpass
import logging
import os
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from threading import Event
from time import monotonic, sleep, time
from types import FrameType
from typing import Any
from uuid import uuid4

import jobflow
import pymongo
from fireworks import FWorker
from fireworks.core.rocket_launcher import launch_rocket
from fireworks.utilities.fw_utilities import create_datestamp_dir
from maggma.stores import MemoryStore
from pymongo.errors import PyMongoError

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.queue_time import seconds_left
from ccdcgan.dft.variables import variables
from ccdcgan.launchers.cluster.database import address_in, server_of
from ccdcgan.launchers.cluster.files import JOBSTORE
from ccdcgan.launchers.cluster.folder import claim
from ccdcgan.launchers.cluster.launchpad import (
    CAMPAIGNS,
    PROGRESS,
    QUEUE_JOBS,
    Pad,
    RetryingCollection,
    now,
    this_hour,
)
from ccdcgan.workflows import progress
from ccdcgan.workflows.storage.spool import Spool

logger = logging.getLogger("ccdcgan")

#: A worker takes no job in the last seconds of its queue time.
LAST_CALL = 60.0

#: Interval between two writes of a job's progress, s.
EVERY = 2.0

#: How reports of relaxations begin.
RELAXATIONS = ("database", "relaxations", "confirmation")

#: Where queues say which job a process belongs to.
JOB_ID_VARIABLES = ("SLURM_JOB_ID", "PBS_JOBID", "JOB_ID", "LSB_JOBID")


#: Reason of jobs whose worker was ended by the queue or by somebody.
STOPPED = "stopped by the queue or by hand (SIGTERM)"


class StoppedError(BaseException):
    """SIGTERM: the queue or somebody ends the worker."""


def work(folder: Path, idle: float) -> int:
    """Run jobs of a class until none has come for a while, or the queue's time is nearly over.

    Parameters
    ----------
    folder
        That of the class, as `files.write_files` makes it.
    idle
        Seconds to wait for more work.

    Returns
    -------
    Number of jobs that were run.
    """
    pad = Pad.from_folder(folder, variables().patience)
    if spool := variables().spool:
        claim(spool.parent, pad.db, server_of(str(pad.host)))
    worker = FWorker.from_file(str(folder / "my_fworker.yaml"))
    store: Any = jobflow.SETTINGS.JOB_STORE
    if isinstance(store.docs_store, MemoryStore):
        raise UserError(f"no JobStore in {folder.parent}: make it with ccdcgan cluster write")
    with address_in(f"uri in {folder.parent / JOBSTORE}"):
        store.connect()
    store.docs_store._coll = RetryingCollection(store.docs_store._coll, variables().patience)
    Spool().deliver(store.additional_stores)
    stopping = Event()

    def stop(number: int, frame: FrameType | None) -> None:
        if not stopping.is_set():
            stopping.set()
            raise StoppedError(STOPPED)

    signal.signal(signal.SIGTERM, stop)
    progress.listen(ProgressWriter(pad))
    home, done = Path.cwd(), 0
    signed = _sign_in(pad, worker.name)
    try:
        last = monotonic()
        # FireWorks catches the exception in a running job, and notes it as the job's failure.
        while not stopping.is_set() and ((left := seconds_left()) is None or left > LAST_CALL):
            if pad.run_exists(worker):
                create = create_datestamp_dir(str(home), logger, prefix="launcher_")
                os.chdir(create)
                try:
                    done += bool(launch_rocket(pad, worker, strm_lvl="INFO"))
                except RuntimeError as error:
                    # FireWorks cannot make sense of a job's workflow: others may be sound.
                    logger.error("a job could not be taken: %s", str(error).strip()[-300:])
                    sleep(1.0)
                os.chdir(home)
                last = monotonic()
            elif monotonic() - last > idle:
                break
            else:
                sleep(min(1.0, idle + 0.01))
    except StoppedError:
        logger.warning("stopped after %d jobs", done)
    finally:
        _sign_out(pad, signed)
    return done


def _sign_in(pad: Pad, name: str) -> str | None:
    """Note for the launcher that the queue job has started; under which name."""
    number = next((os.environ[v] for v in JOB_ID_VARIABLES if v in os.environ), None)
    known = variables().queue_job
    if number is None and known is None:
        return None
    values = {"class": name, "state": "running", "host": socket.gethostname(), "started_at": now()}
    if number is not None:
        values["number"] = number.split(".")[0]
    if known is None:
        # Of qlaunch, or of a launcher of an earlier version: the launcher sees whose it is.
        values["user"] = getpass.getuser()
    jobs = RetryingCollection(pad.db[QUEUE_JOBS], variables().patience)
    signed = known or uuid4().hex[:12]
    # Earlier versions have noted their queue jobs by number.
    if known is None and jobs.find_one({"_id": values["number"]}, {"_id": 1}):
        signed = values["number"]
    jobs.update_one({"_id": signed}, {"$set": values}, upsert=True)
    return signed


def _sign_out(pad: Pad, signed: str | None) -> None:
    if signed is None:
        return
    try:
        with pymongo.timeout(5):
            pad.db[QUEUE_JOBS].update_one(
                {"_id": signed}, {"$set": {"state": "ended", "ended_at": now()}}
            )
    except PyMongoError:
        # The launcher sees in the queue that it is gone.
        logger.warning("the database is away: not signed out")


class ProgressWriter:
    """Writes how far the running job is; what the database does not take is not missed."""

    def __init__(self, pad: Pad) -> None:
        self._collection = pad.db[PROGRESS]
        self._campaigns = pad.db[CAMPAIGNS]
        self._told = 0
        self._next = 0.0
        self._job: Any = None
        self._since: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        job = jobflow.CURRENT_JOB.job
        metadata: Mapping[str, Any] = getattr(job, "metadata", {})
        if "fw_id" not in metadata:
            return
        if self._job != (job.uuid, stage):
            self._job = (job.uuid, stage)
            self._since = {"started": time(), "first": done}
            self._told = done
        elif monotonic() < self._next and done < total:
            return
        self._next = monotonic() + EVERY
        values = {
            "campaign": metadata.get("campaign"),
            "stage": metadata.get("stage"),
            "doing": stage,
            "done": done,
            "total": total,
            "updated": time(),
            **self._since,
        }
        try:
            with pymongo.timeout(2):
                self._collection.update_one(
                    {"_id": metadata["fw_id"]}, {"$set": values}, upsert=True
                )
                if done > self._told and stage.startswith(RELAXATIONS):
                    # Counted as they come: to count the documents takes the longer the more.
                    counts = dict.fromkeys(
                        ("relaxed.total", f"relaxed.{this_hour()}"), done - self._told
                    )
                    self._campaigns.update_one({"_id": metadata.get("campaign")}, {"$inc": counts})
                    self._told = done
        except PyMongoError:
            # Long enough not to slow the computation down.
            self._next = monotonic() + 60.0
