"""Queue jobs of launchers: noted under a name before they are submitted, and found again by it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from time import time
from typing import Any, Literal
from uuid import uuid4

from fireworks.user_objects.queue_adapters.common_adapter import CommonAdapter
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import lies_in, write_atomically
from ccdcgan.launchers.cluster.files import adapter_settings
from ccdcgan.launchers.cluster.launchpad import QUEUE_JOBS, Pad, now
from ccdcgan.launchers.cluster.scheduler import TIMEOUT, QueueJob, RefusedError, Scheduler
from ccdcgan.launchers.cluster.settings import Worker

#: Queue jobs of a class in a row whose end before their worker starts ends the launcher.
FAILED_STARTS = 3

#: Time in which a queue lists a job that it has taken without saying so, s.
UNCLEAR = 20.0

State = Literal["sent", "queued", "running", "ended", "stillborn"]


class QueueJobDocument(BaseModel):
    """A queue job of a launcher; those of earlier versions have their number as ``_id``."""

    model_config = ConfigDict(populate_by_name=True)

    id: str = Field(alias="_id")
    worker: str = Field(alias="class", description="Class of its worker.")
    state: State = Field(description="sent: nobody has told its number as yet.")
    number: str | None = Field(None, description="In the queue.")
    name: str = Field("", description="In the queue, of this job alone.")
    user: str = ""
    cluster: str = Field("", description="Whose queue it is.")
    folder: str = ""
    submitted_at: str = ""
    settles: float = Field(
        0.0, description="When one without a number counts as never taken, s since 1970."
    )
    missed: bool = Field(False, description="The queue did not list it the last time.")
    named: bool = Field(
        True, description="The queue has listed it under its name, which not every site leaves."
    )

    @classmethod
    def whole(cls, documents: Iterable[Mapping[str, Any]]) -> Iterator[QueueJobDocument]:
        """Of stored documents those of queue jobs."""
        for document in documents:
            with contextlib.suppress(ValidationError):
                yield cls.model_validate(document)


class QueueJobs:
    """The queue jobs of one user in one queue; those of others are not seen.

    Parameters
    ----------
    user, cluster
        Whose they are, and of which queue: numbers mean nothing elsewhere.
    launches
        Folder in which each gets its own, below one for its class.
    """

    def __init__(
        self, pad: Pad, scheduler: Scheduler, user: str, cluster: str, launches: Path
    ) -> None:
        self.scheduler, self._launches = scheduler, launches
        self._jobs = pad.db[QUEUE_JOBS]
        self._own = {"user": user, "cluster": cluster}
        self.owner = f"{user} {cluster}"

    def alive(self, name: str, listed: Mapping[str, QueueJob]) -> list[QueueJobDocument]:
        """Those of a class that wait or run; what has ended is noted.

        Parameters
        ----------
        listed
            What the queue lists.

        Raises
        ------
        UserError
            The last ones ended before their workers started.
        """
        self._adopt(name, listed)
        query = {**self._own, "class": name, "state": {"$in": ["sent", "queued", "running"]}}
        found = list(QueueJobDocument.whole(self._jobs.find(query)))
        # Of two documents of one job, one is of a worker of an earlier version.
        alive = {job.number or job.id: job for job in found if self._is_alive(job, listed)}
        self._require_starts(name)
        return list(alive.values())

    def submit(self, name: str, worker: Worker, config: Path) -> QueueJobDocument:
        """Submit a job of a class.

        Parameters
        ----------
        config
            Folder with the files of classes.

        Raises
        ------
        RefusedError
            It was not taken, as far as the queue tells.
        """
        identity = uuid4().hex[:12]
        job = QueueJobDocument(
            id=identity,
            worker=name,
            state="sent",
            name=f"{job_name(name)}-{identity}",
            folder=str(self._launches / name / datetime.now().strftime("%Y%m%d-%H%M%S-%f")),
            submitted_at=now(),
            settles=time() + 2 * TIMEOUT,
            named=False,
            **self._own,
        )
        self._jobs.insert_one(job.model_dump(by_alias=True))
        try:
            script = write_script(job.name, identity, worker, name, config, Path(job.folder))
            number = self.scheduler.submit(script)
        except RefusedError as error:
            if error.kind in {"wrong", "full"}:
                self._forget(job)
            else:
                self._jobs.update_one({"_id": identity}, {"$set": {"settles": time() + UNCLEAR}})
            raise
        except (UserError, OSError):
            self._forget(job)
            raise
        self._note_number(job, number)
        return job.model_copy(update={"number": number})

    def _adopt(self, name: str, listed: Mapping[str, QueueJob]) -> None:
        """Take for ours what workers of qlaunch or of earlier versions have noted, if it is."""
        query = {"class": name, "cluster": {"$exists": False}}
        for document in self._jobs.find({**query, "state": {"$in": ["queued", "running"]}}):
            number = str(document.get("number", document["_id"]))
            title = job_name(name)
            titles = {None, title, f"{title}-{document['_id']}"}
            if number in listed and listed[number].name in titles:
                self._jobs.update_one(
                    {"_id": document["_id"]}, {"$set": {**self._own, "number": number}}
                )

    def _is_alive(self, job: QueueJobDocument, listed: Mapping[str, QueueJob]) -> bool:
        if job.number is None:
            return self._is_found(job, listed)
        known = listed.get(job.number)
        named = known is not None and known.name == job.name
        # Queues give their numbers again.
        another = known is not None and bool(known.name and job.name) and job.named and not named
        if known is not None and not another:
            if job.missed or (named and not job.named):
                self._set(job, missed=False, named=named or job.named)
            return True
        # A list may be wrong once: the job is asked for, and the list is asked again.
        over = another or self.scheduler.is_over(job.number)
        if over or (over is None and job.missed):
            # The worker may have signed out since.
            state: State = "ended" if job.state == "running" else "stillborn"
            self._jobs.update_one({"_id": job.id, "state": job.state}, {"$set": {"state": state}})
            return False
        self._set(job, missed=True, named=job.named)
        return True

    def _is_found(self, job: QueueJobDocument, listed: Mapping[str, QueueJob]) -> bool:
        """Whether the queue has, or may yet show, a job that it took without telling its number."""
        number = self.scheduler.named(job.name, listed)
        if number is not None:
            self._note_number(job, number)
        elif time() > job.settles:
            self._forget(job)
            return False
        return True

    def _note_number(self, job: QueueJobDocument, number: str) -> None:
        # Another launcher may have forgotten it, and its worker may already have signed in.
        known = job.model_dump(by_alias=True, exclude={"id", "state", "number"})
        self._jobs.update_one({"_id": job.id}, {"$set": {**known, "number": number}}, upsert=True)
        self._jobs.update_one(
            {"_id": job.id, "state": {"$in": ["sent", None]}}, {"$set": {"state": "queued"}}
        )

    def _set(self, job: QueueJobDocument, *, missed: bool, named: bool) -> None:
        self._jobs.update_one({"_id": job.id}, {"$set": {"missed": missed, "named": named}})

    def _forget(self, job: QueueJobDocument) -> None:
        """Nothing is left of a job that was not taken, unless its worker has signed in."""
        if self._jobs.delete_one({"_id": job.id, "state": "sent"}).deleted_count:
            folder = Path(job.folder)
            # The database names it, in which others may write, too.
            if lies_in(folder, self._launches / job.worker):
                shutil.rmtree(folder, ignore_errors=True)

    def _require_starts(self, name: str) -> None:
        query = {**self._own, "class": name}
        last = list(self._jobs.find(query).sort("submitted_at", -1).limit(FAILED_STARTS))
        if len(last) < FAILED_STARTS or any(job.get("state") != "stillborn" for job in last):
            return
        # Told once; the next try counts from anew.
        self._jobs.update_many({**query, "state": "stillborn"}, {"$set": {"state": "ended"}})
        raise UserError(
            f"{FAILED_STARTS} queue jobs of class {name} ended before a worker started: "
            f"{last_words(Path(str(last[0].get('folder'))))}"
        )


def job_name(name: str) -> str:
    """Name in the queue of jobs of a class; ours have their own besides."""
    return f"ccdcgan-{name}"


def write_script(
    title: str, identity: str, worker: Worker, name: str, config: Path, folder: Path
) -> Path:
    """Write the script of a queue job into a folder of its own.

    Parameters
    ----------
    title, identity
        Its name in the queue, and under which its worker signs in.
    name, config
        Class of the worker, and the folder with the files of classes.
    """
    folder.mkdir(parents=True)
    settings = adapter_settings(worker, name, config, identity)
    script = folder / "FW_submit.script"
    adapter = CommonAdapter.from_dict({**settings, "job_name": title})
    write_atomically(script, adapter.get_script_str(str(folder)), private=True)
    return script


def last_words(folder: Path) -> str:
    """The last line that a queue job wrote into its folder, for a person to see what is wrong."""
    for path in sorted(folder.glob("*.err*")) + sorted(folder.glob("*.out")):
        lines = path.read_text(errors="replace").strip().splitlines()
        if lines:
            return f"{lines[-1].strip()[:300]} ({path})"
    return f"see {folder}"
