"""Jobs on the LaunchPad that have failed or were lost: found, named and run again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from fireworks.core.launchpad import WFLock

from ccdcgan.launchers.cluster import Cluster
from ccdcgan.launchers.launchpad import PROGRESS, Pad, now
from ccdcgan.workflows.spool import Spool

#: Reason of a job whose worker gave no sign of life.
LOST = "lost: its worker gave no sign of life"

#: Runs of a job that end without its fault (lost, or stopped by the queue) before nobody but a
#: person runs it again: it may be what kills its workers.
TRIES = 5


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


@dataclass
class Mended:
    """What was done."""

    lost: list[int] = field(default_factory=list)
    refreshed: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    orphans: list[int] = field(default_factory=list)
    delivered: int = 0
    given_up: list[int] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """What to tell people."""
        for what, number in (
            ("results that were on disk are in the database", self.delivered),
            ("lost jobs run again", len(self.lost)),
            ("failed jobs run again", len(self.failed)),
            ("jobs got the state that their runs had", len(self.refreshed)),
            ("jobs without a workflow were removed", len(self.orphans)),
            (f"jobs were lost {TRIES} times: look at them, then ccdcgan retry", len(self.given_up)),
        ):
            if number:
                yield f"{number} {what}"


def last_launches(pad: Pad, fireworks: Sequence[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """The last launch of each job, by the job's number."""
    last = {fw["launches"][-1]: fw["fw_id"] for fw in fireworks if fw.get("launches")}
    fields = {
        "launch_id": 1,
        "state": 1,
        "launch_dir": 1,
        "host": 1,
        "state_history": 1,
        "time_end": 1,
        "action.stored_data._exception": 1,
    }
    found = pad.launches.find({"launch_id": {"$in": list(last)}}, fields)
    return {last[launch["launch_id"]]: launch for launch in found}


def seconds_since(launch: dict[str, Any]) -> float:
    """Seconds since the last sign of life of a running launch."""
    times = [
        h.get("updated_on") or h["created_on"]
        for h in launch["state_history"]
        if h["state"] in {"RUNNING", "RESERVED"}
    ]
    if not times:
        return 0.0
    last = times[-1]
    moment = datetime.fromisoformat(last) if isinstance(last, str) else last
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (datetime.now(UTC) - moment).total_seconds()


def reason_of(firework: dict[str, Any], launch: dict[str, Any] | None) -> str:
    """Why a job failed, in one line."""
    said = (firework.get("spec") or {}).get("_exception_details") or {}
    trace = said.get("_stacktrace")
    if launch is not None:
        action = launch.get("action") or {}
        exception = (action.get("stored_data") or {}).get("_exception") or {}
        trace = exception.get("_stacktrace") or trace
        if trace is None:
            return LOST
    lines = [line.strip() for line in str(trace or "").splitlines() if line.strip()]
    if not lines:
        return "no reason was recorded"
    # The class of our own errors tells a user nothing.
    line = re.sub(r"^ccdcgan\.[\w.]*(UserError|StoppedError): ", "", lines[-1])
    return line[:300]


def running(pad: Pad, query: dict[str, Any]) -> list[dict[str, Any]]:
    """Jobs that are marked as running."""
    fields = {"fw_id": 1, "launches": 1, "spec.campaign": 1, "spec.stage": 1, "spec._fworker": 1}
    return list(pad.fireworks.find({**query, "state": "RUNNING"}, fields))


def lost_jobs(pad: Pad, query: dict[str, Any], lost_after: float) -> tuple[list[int], list[int]]:
    """Running jobs without a sign of life, and those whose run is over without their knowing."""
    jobs = running(pad, query)
    launches = last_launches(pad, jobs)
    lost, stale = [], []
    for fw_id, launch in launches.items():
        if launch["state"] != "RUNNING":
            stale.append(fw_id)
        elif seconds_since(launch) > lost_after:
            lost.append(fw_id)
    return lost, stale


def failures(pad: Pad, query: dict[str, Any], limit: int = 0) -> list[Failure]:
    """Failed jobs, newest first."""
    fields = {
        "fw_id": 1,
        "launches": 1,
        "updated_on": 1,
        "name": 1,
        "spec.campaign": 1,
        "spec.stage": 1,
        "spec._exception_details": 1,
    }
    found = list(
        pad.fireworks.find({**query, "state": "FIZZLED"}, fields)
        .sort("updated_on", -1)
        .limit(limit)
    )
    launches = last_launches(pad, found)
    result = []
    for fw in found:
        launch = launches.get(fw["fw_id"])
        spec = fw.get("spec") or {}
        result.append(
            Failure(
                fw_id=fw["fw_id"],
                campaign=spec.get("campaign"),
                stage=spec.get("stage") or fw.get("name") or "",
                reason=reason_of(fw, launch),
                folder=launch["launch_dir"] if launch else None,
                host=launch["host"] if launch else None,
                at=str(fw.get("updated_on")),
            )
        )
    return result


def mend(
    pad: Pad,
    cluster: Cluster,
    query: dict[str, Any],
    *,
    lost: bool = True,
    failed: bool = False,
    only: str | None = None,
    by_hand: bool = True,
) -> Mended:
    """Bring to life again what can run again; done twice, it does nothing the second time.

    Parameters
    ----------
    query
        Which jobs, such as ``{"spec.campaign": name}``.
    lost, failed
        What to run again: jobs whose worker is gone, and jobs that failed.
    only
        Of the failed, those whose reason contains this text.
    by_hand
        A person asks: also what was lost many times.
    """
    done = Mended()
    spool = Spool(cluster.root / "spool")
    waiting = len(spool.waiting())
    if waiting:
        stores = cluster.job_store().additional_stores
        for store in stores.values():
            store.connect()
        spool.deliver(stores)
        done.delivered = waiting - len(spool.waiting())
    if lost:
        gone, stale = lost_jobs(pad, query, cluster.lost_after)
        for fw_id in stale:
            # Its worker died between noting the end of the run and telling the workflow.
            pad._refresh_wf(fw_id)
            done.refreshed.append(fw_id)
        for fw_id in gone:
            _note_lost(pad, fw_id)
        # A first failure may have been noted and not told to the workflow.
        again = gone + [
            f.fw_id for f in failures(pad, query) if f.reason == LOST or "(SIGTERM)" in f.reason
        ]
        for fw_id in dict.fromkeys(again):
            if not by_hand and _times_lost(pad, fw_id) >= TRIES:
                done.given_up.append(fw_id)
            elif _run_again(pad, fw_id):
                done.lost.append(fw_id)
        done.orphans = _remove_orphans(pad, query)
    if failed:
        for failure in failures(pad, query):
            matches = only is None or only.lower() in failure.reason.lower()
            if matches and _run_again(pad, failure.fw_id):
                done.failed.append(failure.fw_id)
    return done


def _note_lost(pad: Pad, fw_id: int) -> None:
    firework = pad.fireworks.find_one({"fw_id": fw_id}, {"launches": 1})
    if firework and firework["launches"]:
        pad.mark_fizzled(firework["launches"][-1])


def _times_lost(pad: Pad, fw_id: int) -> int:
    firework = pad.fireworks.find_one({"fw_id": fw_id}, {"launches": 1, "archived_launches": 1})
    if firework is None:
        return 0
    return len(firework["launches"]) + len(firework.get("archived_launches") or [])


def _run_again(pad: Pad, fw_id: int) -> bool:
    """Rerun a failed job, unless somebody else has done so."""
    if not pad.fireworks.find_one({"fw_id": fw_id, "state": "FIZZLED"}, {"_id": 1}):
        return False
    pad.db[PROGRESS].delete_one({"_id": fw_id})
    pad.fireworks.update_one({"fw_id": fw_id}, {"$unset": {"spec._exception_details": ""}})
    pad.rerun_fw(fw_id)
    return True


def _remove_orphans(pad: Pad, query: dict[str, Any]) -> list[int]:
    """Jobs that a worker wrote just before it was killed, and that no workflow knows."""
    ready = [f["fw_id"] for f in pad.fireworks.find({**query, "state": "READY"}, {"fw_id": 1})]
    known: set[int] = set()
    for workflow in pad.workflows.find({"nodes": {"$in": ready}}, {"nodes": 1}):
        known.update(workflow["nodes"])
    orphans = [fw_id for fw_id in ready if fw_id not in known]
    pad.fireworks.delete_many({"fw_id": {"$in": orphans}})
    return orphans


def change_states(pad: Pad, campaign: str, before: Iterable[str], after: str) -> int:
    """Give all jobs of a campaign that are in some states another one, in bulk.

    FireWorks' own commands rewrite the whole workflow for each job.

    Parameters
    ----------
    after
        ``PAUSED``, ``DEFUSED``, or ``WAITING``: those whose parents are done are ready then.

    Returns
    -------
    Number of jobs that were changed.
    """
    changed = 0
    for workflow in pad.workflows.find({"metadata.campaign": campaign}, {"nodes": 1}):
        query = {"fw_id": {"$in": workflow["nodes"]}, "state": {"$in": list(before)}}
        with WFLock(pad, workflow["nodes"][0]):
            ids = [f["fw_id"] for f in pad.fireworks.find(query, {"fw_id": 1})]
            if not ids:
                continue
            pad.fireworks.update_many(
                {**query, "fw_id": {"$in": ids}}, {"$set": {"state": after, "updated_on": now()}}
            )
            lazy = pad.get_wf_by_fw_id_lzyfw(ids[0])
            updated: set[int] = set()
            for fw_id in ids:
                lazy.fw_states[fw_id] = after
                updated |= set(lazy.refresh(fw_id, updated))
            pad._update_wf(lazy, updated | set(ids))
            changed += len(ids)
    return changed
