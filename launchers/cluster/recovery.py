"""Jobs on the LaunchPad that have failed or were lost: found, named and run again."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from fireworks.core.launchpad import WFLock
from pymongo import UpdateMany
from pymongo.errors import PyMongoError

from ccdcgan.launchers.cluster.launchpad import CAMPAIGNS, PROGRESS, Pad, now
from ccdcgan.launchers.cluster.settings import Cluster
from ccdcgan.workflows.storage.spool import Spool

#: Reason of a job whose worker gave no sign of life.
LOST = "lost: its worker gave no sign of life"

#: Runs of a job that end without its fault (lost, or stopped by the queue) before nobody but a
#: person runs it again: it may be what kills its workers.
TRIES = 5

#: Seconds that a job may be without its workflow, which is written after it.
YOUNG = 600.0


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
    unreadable: dict[int, str] = field(default_factory=dict)

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
        for fw_id, reason in self.unreadable.items():
            yield f"job {fw_id} cannot run again: {reason}"


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
    return _age(times[-1]) if times else 0.0


def _age(moment: str | datetime) -> float:
    """Seconds since a time as FireWorks writes it, in one way or the other."""
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
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
    return _message(str(trace or "")) or "no reason was recorded"


def _message(trace: str) -> str:
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

    def attempt(action: Callable[[int], object], fw_id: int) -> bool:
        """Whether something could be done with a job; one that is broken stops no other."""
        try:
            return action(fw_id) is not False
        except PyMongoError:
            raise
        except Exception:  # noqa: BLE001  many kinds on a job that cannot be read
            done.unreadable[fw_id] = _message(traceback.format_exc())
            return False

    spool = Spool(cluster.root / "spool")
    waiting = len(spool.waiting())
    if waiting:
        stores = cluster.job_store().additional_stores
        for store in stores.values():
            store.connect()
        spool.deliver(stores)
        done.delivered = waiting - len(spool.waiting())
    done.orphans = _remove_orphans(pad, query)
    if lost:
        gone, stale = lost_jobs(pad, query, cluster.lost_after)
        # Their workers died between noting the end of a run and telling the workflow.
        done.refreshed = [fw_id for fw_id in stale if attempt(pad._refresh_wf, fw_id)]
        # And those between taking a job and noting its run.
        taken = _taken(pad, query, cluster.lost_after)
        done.lost = [fw_id for fw_id in taken if attempt(pad._refresh_wf, fw_id)]
        for fw_id in gone:
            attempt(partial(_note_lost, pad), fw_id)
        # A first failure may have been noted and not told to the workflow.
        again = gone + [
            f.fw_id for f in failures(pad, query) if f.reason == LOST or "(SIGTERM)" in f.reason
        ]
        for fw_id in dict.fromkeys(again):
            if not by_hand and _times_lost(pad, fw_id) >= TRIES:
                done.given_up.append(fw_id)
            elif attempt(partial(_run_again, pad), fw_id):
                done.lost.append(fw_id)
    if failed:
        for failure in failures(pad, query):
            matches = only is None or only.lower() in failure.reason.lower()
            if matches and attempt(partial(_run_again, pad), failure.fw_id):
                done.failed.append(failure.fw_id)
    return done


def _note_lost(pad: Pad, fw_id: int) -> None:
    firework = pad.fireworks.find_one({"fw_id": fw_id}, {"launches": 1})
    if firework and firework["launches"]:
        pad.mark_fizzled(firework["launches"][-1])


def _taken(pad: Pad, query: dict[str, Any], lost_after: float) -> list[int]:
    """Jobs that somebody has taken long ago without noting a run."""
    found = pad.fireworks.find({**query, "state": "RESERVED", "launches": []})
    return [f["fw_id"] for f in found if _age(f["updated_on"]) > lost_after]


def _times_lost(pad: Pad, fw_id: int) -> int:
    firework = pad.fireworks.find_one({"fw_id": fw_id}, {"launches": 1, "archived_launches": 1})
    if firework is None:
        return 0
    return len(firework["launches"]) + len(firework.get("archived_launches") or [])


def _run_again(pad: Pad, fw_id: int) -> bool:
    """Rerun a failed job, unless somebody else has done so."""
    found = pad.fireworks.find_one({"fw_id": fw_id, "state": "FIZZLED"}, {"_id": 1})
    if not found or not pad.workflows.find_one({"nodes": fw_id}, {"_id": 1}):
        return False
    pad.rerun_fw(fw_id)
    pad.db[PROGRESS].delete_one({"_id": fw_id})
    pad.fireworks.update_one({"fw_id": fw_id}, {"$unset": {"spec._exception_details": ""}})
    return True


def _remove_orphans(pad: Pad, query: dict[str, Any]) -> list[int]:
    """Jobs that somebody wrote just before being killed, and that no workflow knows."""
    # Jobs are written before their workflow, which is locked meanwhile if it is there already.
    busy = pad.workflows.distinct("metadata.campaign", {"locked": True})
    limit = (datetime.now(UTC) - timedelta(seconds=YOUNG)).isoformat()
    old = {
        "state": {"$in": ["READY", "WAITING", "FIZZLED"]},
        "created_on": {"$lt": limit},
        "spec.campaign": {"$nin": busy},
    }
    jobs = {f["fw_id"] for f in pad.fireworks.find({"$and": [query, old]}, {"fw_id": 1})}
    for workflow in pad.workflows.find({"nodes": {"$in": list(jobs)}}, {"nodes": 1}):
        jobs.difference_update(workflow["nodes"])
    pad.fireworks.delete_many({"$and": [{"fw_id": {"$in": list(jobs)}}, old]})
    return sorted(jobs)


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
    _hold(pad, campaign, after)
    changed = 0
    for workflow in pad.workflows.find({"metadata.campaign": campaign}, {"nodes": 1}):
        node = workflow["nodes"][0]
        with WFLock(pad, node):
            # Only now: a job that has just ended may have given birth to others.
            lazy = pad.get_wf_by_fw_id_lzyfw(node)
            parents, states = lazy.links.parent_links, lazy.fw_states
            those = {"spec.campaign": campaign, "state": {"$in": list(before)}}
            ready = [
                f["fw_id"]
                for f in pad.fireworks.find(those, {"fw_id": 1})
                if after == "WAITING"
                and all(states[parent] == "COMPLETED" for parent in parents.get(f["fw_id"], []))
            ]
            writes = [
                UpdateMany(query, {"$set": {"state": state, "updated_on": now()}})
                for query, state in (
                    *(({"fw_id": fw_id, "state": those["state"]}, "READY") for fw_id in ready),
                    (those, after),
                )
            ]
            changed += pad.fireworks.bulk_write(writes).modified_count
            # As they are: a worker may have taken some of them meanwhile.
            for job in pad.fireworks.find({"spec.campaign": campaign}, {"fw_id": 1, "state": 1}):
                if job["fw_id"] in states:
                    states[job["fw_id"]] = job["state"]
            document = lazy.to_db_dict()
            pad.workflows.update_one(
                {"nodes": node}, {"$set": {key: document[key] for key in ("state", "fw_states")}}
            )
    return changed


def _hold(pad: Pad, campaign: str, state: str) -> None:
    """Note in which state a campaign's jobs are born from now on; what was cancelled stays so."""
    query = {"_id": campaign, "held": {"$ne": "DEFUSED"}}
    if state == "WAITING":
        pad.db[CAMPAIGNS].update_one(query, {"$unset": {"held": ""}})
    else:
        pad.db[CAMPAIGNS].update_one(query, {"$set": {"held": state}})
