"""Jobs on the LaunchPad that have failed or were lost, run again; and their states in bulk."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from math import ceil
from typing import Any

from fireworks.core.launchpad import WFLock
from pymongo import UpdateMany
from pymongo.errors import PyMongoError

from ccdcgan.launchers.cluster.failed_jobs import (
    LOST,
    Launch,
    age,
    doubted,
    failures,
    lost_jobs,
    message_of,
    reason_of,
)
from ccdcgan.launchers.cluster.launchpad import CAMPAIGNS, PROGRESS, Pad, Query, now
from ccdcgan.launchers.cluster.reservations import reserved_in_vain
from ccdcgan.launchers.cluster.settings import MISSED_HEARTBEATS, Cluster
from ccdcgan.launchers.wording import counted
from ccdcgan.workflows.storage.spool import REFUSED, Spool

#: Runs of a job that end without its fault (lost, or stopped by the queue) before nobody but a
#: person runs it again: it may be what kills its workers.
TRIES = 5

#: Timeout of a job without its workflow, which is written after it, s.
YOUNG = 600.0


@dataclass
class Mended:
    """What was done."""

    lost: list[int] = field(default_factory=list)
    refreshed: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    orphans: list[int] = field(default_factory=list)
    delivered: int = 0
    given_up: list[int] = field(default_factory=list)
    #: Silent ones, and the seconds until they count as lost.
    doubtful: dict[int, float] = field(default_factory=dict)
    unreadable: dict[int, str] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """What to tell people."""
        for number, one, more in (
            (
                self.delivered,
                "result that was on disk is in the database",
                "results that were on disk are in the database",
            ),
            (len(self.lost), "lost job runs again", "lost jobs run again"),
            (len(self.failed), "failed job runs again", "failed jobs run again"),
            (
                len(self.refreshed),
                "job state that lagged behind its run was set right",
                "job states that lagged behind their runs were set right",
            ),
            (
                len(self.orphans),
                "job without a workflow was removed",
                "jobs without a workflow were removed",
            ),
            (
                len(self.given_up),
                f"job was lost {TRIES} times: look at it, then ccdcgan retry",
                f"jobs were lost {TRIES} times: look at them, then ccdcgan retry",
            ),
        ):
            if number:
                yield counted(number, one, more)
        if self.doubtful:
            silent = counted(len(self.doubtful), "job gives", "jobs give")
            seconds = ceil(max(self.doubtful.values()))
            yield (
                f"{silent} no sign of life: lost only if that stays so; ask again in {seconds} s "
                "with ccdcgan retry"
            )
        for fw_id, reason in self.unreadable.items():
            yield f"job {fw_id} cannot run again: {reason}"


def mend(
    pad: Pad,
    cluster: Cluster,
    query: Query,
    *,
    lost: bool = True,
    failed: bool = False,
    only: str | None = None,
    by_hand: bool = True,
    stores: dict[str, Any] | None = None,
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
    stores
        Kept by who calls again and again: those that deliveries have opened.
    """
    mender = _Mender(pad, query, by_hand)
    done = mender.done
    done.delivered = _deliver(cluster, {} if stores is None else stores)
    done.orphans = _remove_orphans(pad, query)
    if lost:
        mender.mend_lost(cluster)
    if failed:
        mender.mend_failed((only or "").lower())
    return done


def _deliver(cluster: Cluster, stores: dict[str, Any]) -> int:
    """Bring what waits on disk into the database; how many results."""
    spool = Spool(cluster.root / "spool")
    waiting = spool.waiting()
    if not waiting:
        return 0
    if not stores:
        for name, store in cluster.job_store().additional_stores.items():
            store.connect()
            stores[name] = store
    spool.deliver(stores)
    # Those that were refused have another name now.
    return sum(not (p.exists() or p.with_suffix(REFUSED).exists()) for p in waiting)


@dataclass
class _Mender:
    """Runs jobs again, and notes what was done."""

    pad: Pad
    query: Query
    by_hand: bool
    done: Mended = field(default_factory=Mended)

    def attempt(self, action: Callable[[Pad, int], object], fw_id: int) -> bool:
        """Whether something could be done with a job; one that is broken stops no other."""
        try:
            return action(self.pad, fw_id) is not False
        except PyMongoError:
            raise
        except Exception:  # noqa: BLE001  many kinds on a job that cannot be read
            self.done.unreadable[fw_id] = message_of(traceback.format_exc())
            return False

    def mend_lost(self, cluster: Cluster) -> None:
        """Jobs whose worker is gone."""
        pad, done, lost_after = self.pad, self.done, cluster.lost_after
        gone, stale = lost_jobs(pad, self.query, lost_after)
        # After an absence of the database, or by another clock, all have been silent for long: what
        # is lost stays so while somebody looks.
        watched = doubted(pad, self.query, lost_after / MISSED_HEARTBEATS)
        left = {fw_id: lost_after - watched.get(fw_id, 0.0) for fw_id in gone}
        gone = [fw_id for fw_id in gone if left[fw_id] <= 0]
        if self.by_hand:
            done.doubtful = {fw_id: seconds for fw_id, seconds in left.items() if seconds > 0}
        # Their workers died between noting the end of a run and telling the workflow.
        done.refreshed = [fw_id for fw_id in stale if self.attempt(Pad._refresh_wf, fw_id)]
        # And those between taking a job and noting its run.
        taken = _taken(pad, self.query, lost_after)
        done.lost = [fw_id for fw_id in taken if self.attempt(Pad._refresh_wf, fw_id)]
        for fw_id, launch_id in reserved_in_vain(pad, cluster, self.query):
            if self.attempt(partial(_give_back, launch_id=launch_id), fw_id):
                done.lost.append(fw_id)
        for fw_id in gone:
            self.attempt(_note_lost, fw_id)
        # A first failure may have been noted and not told to the workflow.
        noted = [f.fw_id for f in failures(pad, self.query) if _is_lost(f.reason)]
        for fw_id in dict.fromkeys([*gone, *noted]):
            if not self.by_hand and _times_lost(pad, fw_id) >= TRIES:
                done.given_up.append(fw_id)
            elif self.attempt(_run_again, fw_id):
                done.lost.append(fw_id)

    def mend_failed(self, text: str) -> None:
        """Jobs that failed, of those whose reason contains a text in lower case."""
        self.done.failed = [
            f.fw_id
            for f in failures(self.pad, self.query)
            if text in f.reason.lower() and self.attempt(_run_again, f.fw_id)
        ]


def _give_back(pad: Pad, fw_id: int, launch_id: int) -> None:
    pad.cancel_reservation(launch_id)


def _note_lost(pad: Pad, fw_id: int) -> None:
    firework = pad.fireworks.find_one({"fw_id": fw_id}, {"launches": 1})
    if firework and firework["launches"]:
        pad.mark_fizzled(firework["launches"][-1])


def _taken(pad: Pad, query: Query, lost_after: float) -> list[int]:
    """Jobs that somebody has taken long ago without noting a run."""
    found = pad.fireworks.find({**query, "state": "RESERVED", "launches": []})
    return [f["fw_id"] for f in found if age(f["updated_on"]) > lost_after]


def _times_lost(pad: Pad, fw_id: int) -> int:
    """Runs of a job that have ended without a fault of its own."""
    fields = {"launches": 1, "archived_launches": 1}
    firework = pad.fireworks.find_one({"fw_id": fw_id}, fields) or {}
    numbers = [n for field in fields for n in firework.get(field) or []]
    query = {"launch_id": {"$in": numbers}, "state": "FIZZLED"}
    ended = [Launch.of(launch) for launch in pad.launches.find(query, list(Launch.FIELDS))]
    return sum(_is_lost(reason_of({}, launch)) for launch in ended)


def _is_lost(reason: str) -> bool:
    return reason == LOST or "(SIGTERM)" in reason


def _run_again(pad: Pad, fw_id: int) -> bool:
    """Rerun a failed job, unless somebody else has done so."""
    found = pad.fireworks.find_one({"fw_id": fw_id, "state": "FIZZLED"}, {"_id": 1})
    if not found or not pad.workflows.find_one({"nodes": fw_id}, {"_id": 1}):
        return False
    pad.rerun_fw(fw_id)
    pad.db[PROGRESS].delete_one({"_id": fw_id})
    pad.fireworks.update_one({"fw_id": fw_id}, {"$unset": {"spec._exception_details": ""}})
    return True


def _remove_orphans(pad: Pad, query: Query) -> list[int]:
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
            # Only now: a job that has just ended may have added others.
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
    """Note the state of jobs that a campaign adds from now on; what was cancelled stays so."""
    query = {"_id": campaign, "held": {"$ne": "DEFUSED"}}
    if state == "WAITING":
        pad.db[CAMPAIGNS].update_one(query, {"$unset": {"held": ""}})
    else:
        pad.db[CAMPAIGNS].update_one(query, {"$set": {"held": state}})
