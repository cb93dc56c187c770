"""``ccdcgan status``: how far campaigns are, from indexes alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import time
from typing import Any, NamedTuple

from ccdcgan.launchers.cluster.failed_jobs import Failure, asked_for, failures, lost_jobs
from ccdcgan.launchers.cluster.launchpad import CAMPAIGNS, PROGRESS, Pad, this_hour
from ccdcgan.launchers.cluster.settings import Cluster
from ccdcgan.launchers.cluster.submission import Submission
from ccdcgan.workflows.failures import FailedStructure, FailureCounts
from ccdcgan.workflows.storage.stores import RESULTS

#: What FireWorks' states are called here.
STATES = {
    "WAITING": "waiting",
    "READY": "queued",
    "RESERVED": "queued",
    "RUNNING": "running",
    "COMPLETED": "done",
    "FIZZLED": "failed",
    "PAUSED": "paused",
    "DEFUSED": "cancelled",
}
COLUMNS = ("waiting", "queued", "running", "done", "failed", "lost", "paused", "cancelled")

#: Order of the stages, and of what a round does.
FIRST = ("prototypes", "database", "autoencoder", "rounds")
ROUND = ("constraint", "gan", "generate", "relax", "end")


@dataclass(frozen=True)
class Doing:
    """How far a running job is."""

    fw_id: int
    what: str
    done: int
    total: int
    seconds_left: float | None


@dataclass
class Status:
    """Where a campaign stands."""

    campaign: Submission
    stages: dict[str, dict[str, int]] = field(default_factory=dict)
    doing: list[Doing] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    failed: FailureCounts = field(default_factory=FailureCounts)
    relaxed: int = 0
    relaxed_an_hour: float = 0.0

    @property
    def totals(self) -> dict[str, int]:
        """Jobs by their state, over all stages."""
        return {c: sum(stage.get(c, 0) for stage in self.stages.values()) for c in COLUMNS}

    @property
    def seconds_left(self) -> float | None:
        """Until what is running now is done."""
        return max((d.seconds_left for d in self.doing if d.seconds_left is not None), default=None)


def counts_pipeline(campaign: str) -> list[Mapping[str, Any]]:
    """Jobs of a campaign by stage and state, out of the index alone."""
    return [
        {"$match": {"spec.campaign": campaign}},
        {"$project": {"_id": 0, "state": 1, "spec.stage": 1}},
        {"$group": {"_id": {"stage": "$spec.stage", "state": "$state"}, "n": {"$sum": 1}}},
    ]


def status_of(pad: Pad, cluster: Cluster, campaign: Submission, newest: int = 5) -> Status:
    """Where a campaign stands.

    Parameters
    ----------
    newest
        Failures to tell of.
    """
    query = {"spec.campaign": campaign.id}
    found = Status(campaign)
    for group in pad.fireworks.aggregate(counts_pipeline(campaign.id)):
        state = STATES.get(group["_id"]["state"])
        if state is not None:
            stage = found.stages.setdefault(group["_id"].get("stage") or "other", {})
            stage[state] = stage.get(state, 0) + group["n"]
    found.stages = dict(sorted(found.stages.items(), key=lambda item: _place(item[0])))
    if found.totals["running"]:
        lost, _ = lost_jobs(pad, query, cluster.lost_after)
        for firework in pad.fireworks.find({"fw_id": {"$in": lost}}, {"spec.stage": 1}):
            stage = found.stages[firework["spec"].get("stage") or "other"]
            stage["running"] -= 1
            stage["lost"] = stage.get("lost", 0) + 1
        found.doing = _doing(pad, campaign.id, set(lost))
    jobs = failures(pad, query) if found.totals["failed"] else []
    found.failures = jobs[:newest]
    asked = {"key": {"$in": asked_for(pad, cluster, query)}}
    found.failed = _failed(cluster, {"$or": [{"campaign": campaign.digest}, asked]}, jobs)
    found.relaxed = campaign.relaxed.get("total", 0)
    found.relaxed_an_hour = _an_hour(campaign.relaxed)
    return found


def _failed(cluster: Cluster, own: Mapping[str, object], jobs: Sequence[Failure]) -> FailureCounts:
    """Structures that a campaign has no result of, and its failed jobs as those of a machine."""
    query, fields = {"converged": False, **own}, ["key", "origin", "failure", "reason"]
    with cluster.store_of(RESULTS) as store:
        stored = [FailedStructure.of(d) for d in store.query(query, fields)]
    machines = [
        FailedStructure(kind="machine", formula=None, origin=None, reason=job.reason)
        for job in jobs
    ]
    return FailureCounts.of([*stored, *machines])


def _an_hour(relaxed: dict[str, int]) -> float:
    """Relaxations in the last sixty minutes, those of the hour before in proportion."""
    minutes = datetime.now(UTC).minute
    this, before = (relaxed.get(this_hour(ago), 0) for ago in (0, 1))
    return this + before * (60 - minutes) / 60


def _place(stage: str) -> tuple[int, int, int]:
    if stage in FIRST:
        return 0, 0, FIRST.index(stage)
    number, _, part = stage.removeprefix("round ").partition(": ")
    if number.isdigit():
        return 1, int(number), ROUND.index(part) if part in ROUND else len(ROUND)
    return 2, 0, int(stage == "conclusion")


def _doing(pad: Pad, campaign: str, lost: set[int]) -> list[Doing]:
    fields = {"fw_id": 1}
    query = {"spec.campaign": campaign, "state": "RUNNING"}
    ids = [f["fw_id"] for f in pad.fireworks.find(query, fields) if f["fw_id"] not in lost]
    result = []
    for told in pad.db[PROGRESS].find({"_id": {"$in": ids}}):
        since = told["done"] - told["first"]
        left = None
        if since > 0 and told["done"] < told["total"]:
            pace = (told["updated"] - told["started"]) / since
            left = max(0.0, pace * (told["total"] - told["done"]) - (time() - told["updated"]))
        result.append(Doing(told["_id"], told["doing"], told["done"], told["total"], left))
    return result


class Row(NamedTuple):
    """A submitted campaign, and its number of jobs by state."""

    submission: Submission
    states: dict[str, int]


def overview(pad: Pad) -> list[Row]:
    """All submitted campaigns, newest first.

    The states are read from the one document that each workflow has.
    """
    stored = pad.db[CAMPAIGNS].find({}).sort("submitted_at", -1)
    rows = {found.id: Row(found, {}) for found in Submission.whole(stored)}
    fields = {"metadata.campaign": 1, "fw_states": 1}
    for workflow in pad.workflows.find({"metadata.campaign": {"$in": list(rows)}}, fields):
        counts = rows[workflow["metadata"]["campaign"]].states
        for state in workflow["fw_states"].values():
            if state in STATES:
                counts[STATES[state]] = counts.get(STATES[state], 0) + 1
    return list(rows.values())
