"""Jobs on the LaunchPad that have failed or were lost: found, and why."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ccdcgan.launchers.cluster.launchpad import Pad, Query, now
from ccdcgan.launchers.cluster.settings import Cluster

#: Reason of a job whose worker gave no sign of life.
LOST = "lost: its worker gave no sign of life"


@dataclass(frozen=True)
class Failure:
    """A job that failed, and where to look."""

    fw_id: int
    campaign: str | None
    stage: str
    reason: str
    folder: str | None
    host: str | None
    at: str


@dataclass(frozen=True)
class Launch:
    """A run of a job.

    Attributes
    ----------
    state
        As FireWorks names it.
    folder, host
        Where it runs or ran.
    seen
        Its last sign of life while it ran, if there was one.
    trace
        The traceback that it has ended with.
    doubt
        Since when somebody sees no sign of life after the last one.
    """

    number: int
    state: str
    folder: str | None
    host: str | None
    seen: str | datetime | None
    trace: str | None
    doubt: str | None

    #: What of FireWorks' document it is made of.
    FIELDS = (
        *("launch_id", "state", "launch_dir", "host", "state_history", "doubt"),
        "action.stored_data._exception",
    )

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Launch:
        """FireWorks' document of a launch."""
        times = [
            h.get("updated_on") or h["created_on"]
            for h in stored["state_history"]
            if h["state"] in {"RUNNING", "RESERVED"}
        ]
        action = stored.get("action") or {}
        exception = (action.get("stored_data") or {}).get("_exception") or {}
        doubt = stored.get("doubt") or {}
        seen = times[-1] if times else None
        return cls(
            number=stored["launch_id"],
            state=stored["state"],
            folder=stored.get("launch_dir"),
            host=stored.get("host"),
            seen=seen,
            trace=exception.get("_stacktrace"),
            doubt=doubt.get("since") if doubt.get("seen") == str(seen) else None,
        )

    @property
    def silent(self) -> float:
        """Seconds since its last sign of life."""
        return 0.0 if self.seen is None else age(self.seen)


def asked_for(pad: Pad, cluster: Cluster, query: Query) -> list[str]:
    """Content keys of the structures that finished jobs have asked for, whoever asked first.

    Parameters
    ----------
    query
        Which jobs, as FireWorks stores them.
    """
    uuids = [
        task["job"]["uuid"]
        for job in pad.fireworks.find({**query, "state": "COMPLETED"}, {"spec._tasks.job.uuid": 1})
        for task in job["spec"]["_tasks"]
        if "job" in task
    ]
    wanted = {"uuid": {"$in": uuids}, "output.entries": {"$exists": True}}
    with cluster.store_of("documents") as store:
        outputs = [document["output"] for document in store.query(wanted, ["output.entries.key"])]
    return sorted({entry["key"] for output in outputs for entry in output["entries"]})


def last_launches(pad: Pad, jobs: Iterable[Mapping[str, Any]]) -> dict[int, Launch]:
    """The last launch of each of FireWorks' jobs, by the job's number."""
    last = {job["launches"][-1]: job["fw_id"] for job in jobs if job.get("launches")}
    found = pad.launches.find({"launch_id": {"$in": list(last)}}, list(Launch.FIELDS))
    return {last[launch["launch_id"]]: Launch.of(launch) for launch in found}


def age(moment: str | datetime) -> float:
    """Seconds since a time as FireWorks writes it, in one way or the other."""
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (datetime.now(UTC) - moment).total_seconds()


def reason_of(job: Mapping[str, Any], launch: Launch | None) -> str:
    """Why one of FireWorks' jobs failed, in one line."""
    said = (job.get("spec") or {}).get("_exception_details") or {}
    trace = (launch.trace if launch else None) or said.get("_stacktrace")
    if launch is not None and trace is None:
        return LOST
    return message_of(str(trace or "")) or "no reason was recorded"


def message_of(trace: str) -> str:
    """What a traceback ends with, in one line."""
    lines = trace.splitlines()
    frames = [number for number, line in enumerate(lines) if line.startswith('  File "')]
    message = lines[frames[-1] + 1 :] if frames else lines
    # Code is indented; of what follows, the message may have several lines.
    while message and message[0][:1] in {"", " "}:
        message = message[1:]
    text = " ".join(" ".join(message).split())
    # The class of our own errors tells a user nothing.
    return re.sub(r"^ccdcgan\.[\w.]*(UserError|StoppedError): ", "", text)[:300]


def lost_jobs(pad: Pad, query: Query, lost_after: float) -> tuple[list[int], list[int]]:
    """Running jobs without a sign of life for so long, s, and such whose run is over."""
    running = pad.fireworks.find({**query, "state": "RUNNING"}, {"fw_id": 1, "launches": 1})
    lost: list[int] = []
    stale: list[int] = []
    for fw_id, launch in last_launches(pad, running).items():
        # A worker that has just ended a run is about to tell the workflow.
        if launch.silent > lost_after:
            (lost if launch.state == "RUNNING" else stale).append(fw_id)
    return lost, stale


def doubted(pad: Pad, query: Query, least: float) -> dict[int, float]:
    """Running jobs without a sign of life for some time, and the seconds since that was noted.

    Those that nobody has noted are noted now. While the database is away nobody gives signs, and
    clocks differ: only what somebody has watched is known.

    Parameters
    ----------
    least
        Seconds without a sign.
    """
    running = pad.fireworks.find({**query, "state": "RUNNING"}, {"fw_id": 1, "launches": 1})
    found = {}
    for fw_id, launch in last_launches(pad, running).items():
        if launch.doubt is not None:
            found[fw_id] = age(launch.doubt)
        elif launch.state == "RUNNING" and launch.silent > least:
            doubt = {"seen": str(launch.seen), "since": now()}
            pad.launches.update_one({"launch_id": launch.number}, {"$set": {"doubt": doubt}})
            found[fw_id] = 0.0
    return found


def failures(pad: Pad, query: Query, limit: int = 0) -> list[Failure]:
    """Failed jobs, newest first."""
    fields = [
        *("fw_id", "launches", "updated_on", "name"),
        *("spec.campaign", "spec.stage", "spec._exception_details"),
    ]
    failed = pad.fireworks.find({**query, "state": "FIZZLED"}, fields)
    found = list(failed.sort("updated_on", -1).limit(limit))
    launches = last_launches(pad, found)
    return [_failure(job, launches.get(job["fw_id"])) for job in found]


def _failure(job: Mapping[str, Any], launch: Launch | None) -> Failure:
    spec = job.get("spec") or {}
    return Failure(
        fw_id=job["fw_id"],
        campaign=spec.get("campaign"),
        stage=spec.get("stage") or job.get("name") or "",
        reason=reason_of(job, launch),
        folder=launch.folder if launch else None,
        host=launch.host if launch else None,
        at=str(job.get("updated_on")),
    )
